# make demo | test | lint | bench | torture | peers     each does its own set-up in a virtual environment
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test lint bench torture peers clean

$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[cpu,fast,offline,parquet,plot,test,train,zstd]'
	touch $@

demo: $(STAMP)
	@rm -rf demo && mkdir demo
	$(BIN)/python examples/stdlib_docstrings.py -o demo/stdlib.jsonl
	$(BIN)/retrieval build demo/stdlib.jsonl -o demo/index
	@$(BIN)/retrieval query demo/index -i examples/questions.txt -k 5 --quiet

test: $(STAMP)
	$(BIN)/python -m pytest

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python benchmarks/retrieval_quality.py
	$(BIN)/python benchmarks/whitening_sts.py
	$(BIN)/python benchmarks/drift.py
	$(BIN)/python benchmarks/tables.py

torture: $(STAMP)
	$(BIN)/python benchmarks/torture.py
	$(BIN)/python benchmarks/tables.py

peers: $(STAMP)
	PYTHONPATH=benchmarks $(BIN)/python -m peers measure
	PYTHONPATH=benchmarks $(BIN)/python -m peers plot
	$(BIN)/python benchmarks/tables.py

clean:
	rm -rf $(VENV) demo build dist *.egg-info
