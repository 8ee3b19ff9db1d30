"""Where the test data and the models of the benchmarks lie, and what is read from them."""

from __future__ import annotations

import gzip
import json
import os
import platform
import random
from importlib.metadata import version
from pathlib import Path
from typing import Any

import click

from retrieval.pairs import STSSet

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("RETRIEVAL_SHARED", HERE.parent.parent / "shared"))
RETRIEVAL = SHARED / "data" / "retrieval"
STS = SHARED / "data" / "sts"
SENTENCES = SHARED / "data" / "text" / "sentences-en.txt.gz"
LIBRARIES = ("sentence-retrieval", "sentence-transformers", "transformers", "torch", "faiss-cpu", "numpy", "scipy")


MODELS = Path(os.environ.get("RETRIEVAL_MODELS", "models"))


def has_model(name: str) -> bool:
    """Whether the folder that RETRIEVAL_MODELS names holds a model."""
    return (MODELS / name).is_dir()


def model_folder(name: str) -> str:
    """The folder of a model that no package of the project's own extras carries."""
    if not has_model(name):
        raise click.ClickException(f"{MODELS / name} is not there; set RETRIEVAL_MODELS to the folder that holds it")
    return str(MODELS / name)


def sentences_of(path: Path) -> list[str]:
    """The distinct sentences of a TSV file of pairs, without their scores."""
    with path.open(encoding="utf-8") as file:
        next(file)
        return list(dict.fromkeys(sentence for line in file for sentence in line.rstrip("\n").split("\t")[:2]))


def overlap(train: STSSet, held: STSSet, split: str) -> dict[str, Any]:
    """How many held-out pairs are trained on, and how many share a sentence with one that is; case and blanks aside."""

    def plain(sentence: str) -> str:
        return " ".join(sentence.lower().split())

    seen = {plain(sentence) for sentence in (*train.sentences1, *train.sentences2)}
    shared = sum(
        plain(one) in seen or plain(two) in seen for one, two in zip(held.sentences1, held.sentences2, strict=True)
    )
    row = {
        "trained on": train.name,
        "pairs": len(train),
        "held out": f"{held.name}, {split}",
        "pairs held out": len(held),
    }
    return row | {"trained on too": len(held) - len(held.without(train)), "share a sentence": shared}


def lines_of(path: Path, size: int) -> list[str]:
    """A random sample (seed 0) of the lines of a gzip file that are not empty."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return random.Random(0).sample([line.rstrip("\n") for line in file if line.strip()], size)


def earlier(name: str) -> dict[str, Any]:
    """What benchmarks/results/NAME.json holds from an earlier run; empty, if there is none."""
    path = HERE / "results" / f"{name}.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def processor() -> str:
    """What the processor computes with, for figures that differ between processors: AVX2, say, or AVX512, bfloat16."""
    import torch

    from retrieval.compiled.graph import native_precision

    widest = torch.backends.cpu.get_cpu_capability()
    return f"{widest}, bfloat16" if native_precision() == "bfloat16" else widest


def known_here(name: str) -> dict[str, Any]:
    """What benchmarks/results/NAME.json holds that was measured on a processor of this kind."""
    return dict(earlier(name).get("processors", {}).get(processor(), {}))


def write_here(name: str, found: dict[str, Any]) -> Path:
    """Renew these figures among those of this kind of processor, with the machine and the versions."""
    ours = known_here(name) | found | made_with()
    return _write(name, {"processors": earlier(name).get("processors", {}) | {processor(): ours}})


def write_result(name: str, result: dict[str, Any]) -> Path:
    """Write benchmarks/results/NAME.json with the machine and the versions."""
    return _write(name, {**result, **made_with()})


def made_with() -> dict[str, Any]:
    """The machine and the versions."""
    machine = {"machine": f"{platform.machine()}, {os.cpu_count()} cores", "python": platform.python_version()}
    return {**machine, "versions": {library: version(library) for library in LIBRARIES}}


def _write(name: str, result: dict[str, Any]) -> Path:
    path = HERE / "results" / f"{name}.json"
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n")
    print(f"written to {path.relative_to(HERE.parent)}")
    return path
