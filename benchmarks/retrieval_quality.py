"""nDCG@10 and recall@100 of whole indexes on BEIR folders: raw vectors beside the default whitening.

    python benchmarks/retrieval_quality.py [FOLDER ...] [-m MODEL]

Without folders: retrieval/scifact of the test data (RETRIEVAL_SHARED, default ../shared).
Writes benchmarks/results/retrieval_quality.json and prints it as a table.
"""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import click
import numpy as np

from eval import evaluate_retrieval
from retrieval import Engine
from retrieval.encoder import Encoded, Encoder, Role, load_encoder

HERE = Path(__file__).resolve().parent
SHARED = Path(os.environ.get("RETRIEVAL_SHARED", HERE.parent.parent / "shared"))


class Remembering:
    """An encoder that encodes each text once, however many indexes are built from it."""

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self._known: dict[tuple[str, Role], tuple[np.ndarray, bool]] = {}
        for name in ("name", "source", "dim", "max_tokens", "prompts", "fingerprint"):
            setattr(self, name, getattr(encoder, name))

    def encode(self, texts: Sequence[str], role: Role = "document") -> Encoded:
        new = [text for text in dict.fromkeys(texts) if (text, role) not in self._known]
        if new:
            vectors, truncated = self._encoder.encode(new, role)
            self._known |= {(t, role): (v, c) for t, v, c in zip(new, vectors, truncated, strict=True)}
        pairs = [self._known[text, role] for text in texts]
        return Encoded(np.array([v for v, _ in pairs]), np.array([c for _, c in pairs]))


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-m", "--model", default="all-MiniLM-L6-v2")
def main(folders: tuple[Path, ...], model: str) -> None:
    encoder = Remembering(load_encoder(model))
    rows = []
    for folder in folders or (SHARED / "data" / "retrieval" / "scifact",):
        for label, whitening in (("raw", None), ("default", "auto")):
            with tempfile.TemporaryDirectory() as temporary:
                index = Path(temporary) / "index"
                with Engine.build(
                    folder, index, model=encoder, whitening=whitening, index="Flat", progress=True
                ) as engine:
                    report, info = evaluate_retrieval(engine, folder), engine.info()
            measures = {name: round(value, 4) for name, value in report.measures.items()}
            rows.append(
                {"set": report.name, "vectors": label, "documents": info["documents"], "dim": info["dim"],
                 "whitening": info["whitening"], **measures}
            )  # fmt: skip
            print(f"{report.name:<16} {label:<8} {info['dim']:>4} {measures}", flush=True)
    versions = {
        name: version(name) for name in ("sentence-retrieval", "sentence-transformers", "torch", "faiss-cpu", "numpy")
    }
    result = {
        "model": model,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "versions": versions,
        "rows": rows,
    }
    target = HERE / "results" / "retrieval_quality.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=2) + "\n")
    print(f"written to {target.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
