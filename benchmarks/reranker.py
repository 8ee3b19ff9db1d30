"""A small cross-encoder for reranking, trained here from the pairs at hand, and what it is worth.

    python benchmarks/reranker.py train MODEL          from all-MiniLM-L6-v2, under 30 minutes on two cores
    python benchmarks/reranker.py measure MODEL        STS-B, and reranking collections that it has never seen
    python benchmarks/reranker.py overlap              sentences of STS-B's dev and test pairs among those trained on

A bi-encoder comes first: the start trained on STS-B. What it says of many pairs that nobody graded (sentences of STS-B,
SNLI, MRPC and StackFAQ, near and far) is what the cross-encoder learns first, together with the start's own order of
answers to medical questions (MedQuAD) and which answer is right; then people's grades of STS-B, and those answers
again. Data: RETRIEVAL_SHARED, default ../shared. Writes benchmarks/results/reranker.json.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import ir_measures
import numpy as np
from remembering import Remembering
from shared_data import RETRIEVAL, SHARED, STS, earlier, overlap, write_result

from eval import STSSet, evaluate_sts, load_retrieval, load_sts
from retrieval.compiled.scorer import load_scorer
from retrieval.console import note, say
from retrieval.corpora import read_corpus
from retrieval.encoder import load_encoder
from retrieval.moments import unit_rows
from retrieval.scorer import PairScorer
from retrieval.train import train_cross_encoder, train_encoder

PAIRS = SHARED / "data" / "pairs"
MODEL = "all-MiniLM-L6-v2"
COLLECTIONS = ("med", "cranfield", "scifact", "xquad-en", "msmarco-dl19-5k", "npl-vaswani")
DEPTH, QUERIES = 50, 150


def silver(teacher: str, gold: STSSet, others: list[STSSet], held: set[str], size: int, seed: int) -> STSSet:
    """Pairs of sentences, near and far, graded by a bi-encoder."""
    rng = np.random.default_rng(seed)
    core = _sentences([gold], held)
    more = _sentences(others, held)
    more = [more[i] for i in rng.permutation(len(more))[: 2 * len(core)]]
    texts = core + more
    vectors = unit_rows(load_encoder(teacher).encode(texts, "query").vectors)
    first, second, scores = [], [], []
    for row in rng.permutation(len(texts))[: size // 4]:
        cosines = vectors @ vectors[row]
        order = np.argsort(-cosines, kind="stable")[1:]
        for low, high in ((0, 3), (3, 30), (30, 300), (300, len(order))):
            other = order[rng.integers(low, high)]
            first.append(texts[row])
            second.append(texts[other])
            scores.append(float(cosines[other]))
    return STSSet(name="silver", sentences1=tuple(first), sentences2=tuple(second), scores=np.array(scores).round(4))


def answers(size: int, words: int, seed: int) -> STSSet:
    """Questions and beginnings of answers: 1 for the right one, else the start's own cosine."""
    rng = np.random.default_rng(seed)
    judged = load_retrieval(RETRIEVAL / "medquad-qa")
    asked = [query_id for query_id in judged.queries if judged.qrels.get(query_id)]
    asked = [asked[i] for i in rng.permutation(len(asked))[: size // 4]]
    right = {query_id: max(judged.qrels[query_id], key=judged.qrels[query_id].__getitem__) for query_id in asked}
    wanted = set(right.values())
    texts = {
        str(record.document.doc_id): " ".join(record.document.text.split()[:words])
        for record in read_corpus(RETRIEVAL / "medquad-qa")
        if record.document.doc_id in wanted
    }
    encoder, ids = load_encoder(MODEL), list(texts)
    corpus = unit_rows(encoder.encode(list(texts.values())).vectors)
    vectors = unit_rows(encoder.encode([judged.queries[query_id] for query_id in asked], "query").vectors)
    first, second, scores = [], [], []
    for query_id, vector in zip(asked, vectors, strict=True):
        cosines = corpus @ vector
        order = [i for i in np.argsort(-cosines, kind="stable") if ids[i] != right[query_id]]
        for doc in (None, *(order[rng.integers(low, high)] for low, high in ((0, 5), (5, 40), (40, len(order))))):
            first.append(judged.queries[query_id])
            second.append(texts[right[query_id] if doc is None else ids[doc]])
            scores.append(1.0 if doc is None else min(0.95, float(cosines[doc])))
    return STSSet(name="medquad", sentences1=tuple(first), sentences2=tuple(second), scores=np.array(scores).round(4))


def _sentences(sets: list[STSSet], held: set[str]) -> list[str]:
    distinct = dict.fromkeys(text for pairs in sets for text in (*pairs.sentences1, *pairs.sentences2))
    return [text for text in distinct if text not in held]


def graded_pairs() -> tuple[STSSet, STSSet, STSSet]:
    """STS-B: the pairs that are trained on, dev and test. Their pairs are not trained on, but some sentences are."""
    (train,), (dev,), (test,) = (load_sts(STS / "stsb-en", split=split) for split in ("train", "dev", "test"))
    return train.without(dev, test), dev, test


@click.group()
def main() -> None:
    """Train, measure, or look at the data."""
    say(quiet=False)


@main.command()
@click.argument("output", type=click.Path())
@click.option("--pairs", default=16_000, show_default=True, help="Graded by the bi-encoder.")
@click.option("--answers", "n_answers", default=6_000, show_default=True)
@click.option("--words", default=80, show_default=True, help="Of an answer.")
@click.option("--seed", default=0, show_default=True)
def train(output: str, pairs: int, n_answers: int, words: int, seed: int) -> None:
    """Make the cross-encoder."""
    began = time.monotonic()
    stsb, dev, test = graded_pairs()
    names = ("nli-snli-en-devtest", "para-mrpc-en-train", "para-stackfaq-en-pos")
    others = [load_sts(PAIRS / f"{name}.tsv")[0] for name in names]
    held = {text for some in (dev, test) for text in (*some.sentences1, *some.sentences2)}
    how: dict[str, Any] = {"dev": dev, "loss": "cosent", "max_length": 160, "seed": seed}
    with TemporaryDirectory() as folder:
        teacher, first = Path(folder) / "teacher", Path(folder) / "first"
        train_encoder(stsb, teacher, model=MODEL, dev=dev, epochs=1, lr=5e-5, seed=seed)
        graded = silver(str(teacher), stsb, others, held, pairs, seed)
        medical = answers(n_answers, words, seed)
        train_cross_encoder([graded, medical], first, model=MODEL, epochs=1, lr=1e-4, **how)
        again = medical.take(np.arange(len(medical) // 4))
        train_cross_encoder([stsb, again], output, model=str(first), epochs=2, lr=4e-5, **how)
    minutes = round((time.monotonic() - began) / 60, 1)
    note(f"{minutes} minutes")
    write_result("reranker", earlier("reranker") | {"minutes": minutes})


@main.command("overlap")
def write_overlap() -> None:
    """Count what dev and test pairs share with those that are trained on."""
    train, dev, test = graded_pairs()
    rows = [overlap(train, held, split) for held, split in ((dev, "dev"), (test, "test"))]
    write_result("reranker", earlier("reranker") | {"overlap": rows})


@main.command()
@click.argument("model", type=click.Path(exists=True))
@click.option("--only", multiple=True, type=click.Choice(COLLECTIONS), default=COLLECTIONS)
def measure(model: str, only: tuple[str, ...]) -> None:
    """Spearman on STS-B test, and nDCG@10 of the bi-encoder's first 50 hits reranked."""
    scorer = load_scorer(model)
    report = evaluate_sts(scorer, STS / "stsb-en")
    rows = [reranked(scorer, name) for name in only]
    for row in rows:
        note(str(row))
    note(report.to_text())
    score = report["stsb-en"]
    interval = [round(100 * value, 2) for value in score.interval or ()]
    found = {"stsb-en": round(100 * score.spearman, 2), "interval": interval, "rows": rows}
    write_result("reranker", earlier("reranker") | found)


def reranked(scorer: PairScorer, name: str) -> dict[str, object]:
    """One collection: the bi-encoder, the cross-encoder over its hits, and both together."""
    encoder = Remembering(load_encoder(MODEL))
    documents = [record.document for record in read_corpus(RETRIEVAL / name)]
    judged = load_retrieval(RETRIEVAL / name)
    ids = list(judged.queries)
    ids = [ids[i] for i in sorted(np.random.default_rng(0).choice(len(ids), min(QUERIES, len(ids)), replace=False))]
    corpus = unit_rows(encoder.encode([document.text for document in documents]).vectors)
    asked = unit_rows(encoder.encode([judged.queries[i] for i in ids], "query").vectors)
    runs: dict[str, dict[str, dict[str, float]]] = {"bi-encoder": {}, "cross-encoder": {}, "sum": {}}
    for query_id, vector in zip(ids, asked, strict=True):
        cosines = corpus @ vector
        rows = np.argsort(-cosines, kind="stable")[:DEPTH]
        logits = scorer(judged.queries[query_id], [documents[i].text for i in rows])
        both = standard(cosines[rows]) + standard(logits)
        for kind, values in (("bi-encoder", cosines[rows]), ("cross-encoder", logits), ("sum", both)):
            runs[kind][query_id] = {str(documents[i].doc_id): float(v) for i, v in zip(rows, values, strict=True)}
    qrels = {query_id: judged.qrels[query_id] for query_id in ids}
    scores = {kind: ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run) for kind, run in runs.items()}
    return {"set": name, "queries": len(ids)} | {
        kind: round(100 * value[ir_measures.nDCG @ 10], 2) for kind, value in scores.items()
    }


def standard(values: np.ndarray) -> np.ndarray:
    """Mean 0, deviation 1."""
    return np.asarray((values - values.mean()) / (values.std() + 1e-12))


if __name__ == "__main__":
    main()
