"""`make demo`: three questions in plain words over the standard library's docstrings."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from retrieval import Engine


@pytest.mark.model
def test_the_demo_gives_good_answers(root: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "stdlib.jsonl"
    subprocess.run([sys.executable, str(root / "examples" / "stdlib_docstrings.py"), "-o", str(corpus)], check=True)
    questions = (root / "examples" / "questions.txt").read_text().splitlines()
    expected = ["threading.Timer", "difflib.unified_diff", "shutil.rmtree"]
    with Engine.build(corpus, tmp_path / "index") as engine:
        for hits, doc_id in zip(engine.search(questions, k=5), expected, strict=True):
            assert doc_id in [hit.doc_id for hit in hits]
        assert {hit.metadata["kind"] for hit in engine.search(questions[0], filter="kind = 'class'")} == {"class"}
        assert engine.info()["whitening"]["dim"] < engine.info()["model_dim"]
