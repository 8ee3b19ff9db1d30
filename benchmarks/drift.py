"""What it costs to add other documents than those the whitening was fitted on, and what rebuild gives back.

    python benchmarks/drift.py [-m MODEL]

An index is built over one corpus, another one is added, and the queries of the added one are asked: with the whitening
of the first, after rebuild, and with the raw vectors. Beside it stands the drift that info tells.
Data: RETRIEVAL_SHARED, default ../shared. Writes benchmarks/results/drift.json.
"""

from __future__ import annotations

import dataclasses
import tempfile
from collections.abc import Iterator
from pathlib import Path

import click
from remembering import Remembering
from shared_data import RETRIEVAL, write_result

from eval import RetrievalSet, evaluate_retrieval, load_retrieval
from indexes.document import Document
from retrieval import Engine, Whitening
from retrieval.corpora import read_corpus
from retrieval.encoder import load_encoder
from retrieval.whitening import DEFAULTS

PAIRS = (
    ("medquad-qa", "medquad-qa"),  # the other half of the same corpus
    ("scifact", "medquad-qa"),
    ("scifact", "cranfield"),
    ("npl-vaswani", "med"),
    ("medquad-qa", "scifact"),
    ("lcqmc-dup", "scifact"),
    ("scifact", "lcqmc-dup"),
)
DIMS = (192, 64)


def documents(name: str, half: int | None) -> Iterator[Document]:
    """The documents of a corpus, or every second one, under ids of their own."""
    for i, record in enumerate(read_corpus(RETRIEVAL / name)):
        if half is None or i % 2 == half:
            yield dataclasses.replace(record.document, doc_id=f"{name}/{record.document.doc_id}")


def judged(name: str) -> RetrievalSet:
    """The queries of a set, judged by the same ids."""
    plain = load_retrieval(RETRIEVAL / name)
    qrels = {q: {f"{name}/{doc_id}": grade for doc_id, grade in of.items()} for q, of in plain.qrels.items()}
    return dataclasses.replace(plain, qrels=qrels)


def ndcg(engine: Engine, queries: RetrievalSet) -> float:
    """100 nDCG@10."""
    return round(100 * evaluate_retrieval(engine, queries, measures=["nDCG@10"]).measures["nDCG@10"], 2)


@click.command()
@click.option("-m", "--model", default="all-MiniLM-L6-v2")
def main(model: str) -> None:
    encoder, rows = Remembering(load_encoder(model)), []
    for first, second in PAIRS:
        halves = (0, 1) if first == second else (None, None)
        queries = judged(second)
        for dim in DIMS:
            with tempfile.TemporaryDirectory() as temporary:
                index = Path(temporary) / "index"
                how = {"model": encoder, "whitening": Whitening(dim, **DEFAULTS), "index": "Flat"}
                with Engine.build(documents(first, halves[0]), index, **how) as engine:
                    engine.add(documents(second, halves[1]))
                    row = {"fitted_on": first, "then": second, "dim": dim, **(engine.info()["drift"] or {})}
                    row["as fitted"] = ndcg(engine, queries)
                    engine.rebuild()
                    row["rebuilt"] = ndcg(engine, queries)
                    engine.rebuild(whitening=None)
                    row["raw"] = ndcg(engine, queries)
            rows.append(row)
            print(row, flush=True)
    write_result("drift", {"model": model, "rows": rows})


if __name__ == "__main__":
    main()
