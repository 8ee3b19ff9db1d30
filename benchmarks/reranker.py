"""A small cross-encoder for reranking, trained here from the pairs at hand, and what it is worth.

    python benchmarks/reranker.py train MODEL          from all-MiniLM-L6-v2, under 30 minutes on two cores
    python benchmarks/reranker.py measure MODEL        STS-B, and reranking collections that it has never seen

Training: inference (SNLI), paraphrases (MRPC), questions that ask the same (StackFAQ, with the bi-encoder's nearest
other questions as negatives) and STS-B together, then STS-B and as many of the questions again. Data: RETRIEVAL_SHARED,
default ../shared. Writes benchmarks/results/reranker.json.
"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import ir_measures
import numpy as np
from remembering import Remembering
from shared_data import RETRIEVAL, SHARED, STS, write_result

from eval import STSSet, evaluate_sts, load_retrieval, load_sts
from retrieval.console import note, say
from retrieval.corpora import read_corpus
from retrieval.encoder import load_encoder
from retrieval.moments import unit_rows
from retrieval.scorer import CrossEncoderScorer
from retrieval.train import train_cross_encoder

PAIRS = SHARED / "data" / "pairs"
MODEL = "all-MiniLM-L6-v2"
COLLECTIONS = ("med", "cranfield", "scifact", "xquad-en", "msmarco-dl19-5k", "npl-vaswani")
DEPTH, QUERIES = 50, 150


def questions(hard: int, easy: int, seed: int = 0) -> STSSet:
    """StackFAQ's pairs of questions that ask the same, 1, and for each some that do not, 0."""
    (alike,) = load_sts(PAIRS / "para-stackfaq-en-pos.tsv")
    texts = list(dict.fromkeys([*alike.sentences1, *alike.sentences2]))
    row = {text: i for i, text in enumerate(texts)}
    group = _groups([(row[a], row[b]) for a, b in zip(alike.sentences1, alike.sentences2, strict=True)], len(texts))
    vectors = unit_rows(Remembering(load_encoder(MODEL)).encode(texts, "query").vectors)
    rng = np.random.default_rng(seed)
    first, second, scores = list(alike.sentences1), list(alike.sentences2), [1.0] * len(alike)
    for text in alike.sentences1:
        nearest = np.argsort(-(vectors @ vectors[row[text]]), kind="stable")[:60]
        others = [i for i in nearest if group[i] != group[row[text]]]
        chosen = [*rng.choice(others[:20], hard, replace=False), *rng.integers(0, len(texts), easy)]
        for i in chosen:
            if group[i] != group[row[text]]:
                first.append(text)
                second.append(texts[i])
                scores.append(0.0)
    return STSSet(name="stackfaq", sentences1=tuple(first), sentences2=tuple(second), scores=np.array(scores))


def _groups(edges: list[tuple[int, int]], n: int) -> np.ndarray:
    """The connected component of each of n nodes."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    one, two = np.array(edges).T
    return np.asarray(connected_components(coo_matrix((np.ones(len(one)), (one, two)), shape=(n, n)))[1])


@click.group()
def main() -> None:
    """Train or measure."""
    say(quiet=False)


@main.command()
@click.argument("output", type=click.Path())
@click.option("--loss", default="cosent", show_default=True)
@click.option("--start", default=MODEL, show_default=True)
@click.option("--epochs", nargs=2, type=int, default=(1, 3), show_default=True)
@click.option("--lr", nargs=2, type=float, default=(1e-4, 5e-5), show_default=True)
@click.option("--seed", default=0, show_default=True)
def train(output: str, loss: str, start: str, epochs: tuple[int, int], lr: tuple[float, float], seed: int) -> None:
    """Make the cross-encoder."""
    began = time.monotonic()
    (nli,), (mrpc,) = load_sts(PAIRS / "nli-snli-en-devtest.tsv"), load_sts(PAIRS / "para-mrpc-en-train.tsv")
    (stsb,), (dev,) = (load_sts(STS / "stsb-en", split=split) for split in ("train", "dev"))
    (test,) = load_sts(STS / "stsb-en", split="test")
    nli, mrpc, stsb = (pairs.without(dev, test) for pairs in (nli, mrpc, stsb))  # SNLI shares captions with STS-B
    faq = questions(hard=1, easy=1)
    again = faq.take(np.random.default_rng(seed).choice(len(faq), len(stsb), replace=False))
    with TemporaryDirectory() as folder:
        first = Path(folder) / "first"
        train_cross_encoder(
            [nli, mrpc, faq, stsb],
            first,
            model=start,
            dev=dev,
            loss=loss,
            epochs=epochs[0],
            lr=lr[0],
            max_length=128,
            seed=seed,
        )
        train_cross_encoder(
            [stsb, again],
            output,
            model=str(first),
            dev=dev,
            loss=loss,
            epochs=epochs[1],
            lr=lr[1],
            max_length=256,
            seed=seed,
        )
    note(f"{(time.monotonic() - began) / 60:.1f} minutes")


@main.command()
@click.argument("model", type=click.Path(exists=True))
@click.option("--only", multiple=True, type=click.Choice(COLLECTIONS), default=COLLECTIONS)
def measure(model: str, only: tuple[str, ...]) -> None:
    """Spearman on STS-B test, and nDCG@10 of the bi-encoder's first 50 hits reranked."""
    scorer = CrossEncoderScorer(model)
    report = evaluate_sts(scorer, STS / "stsb-en")
    rows = [reranked(scorer, name) for name in only]
    for row in rows:
        note(str(row))
    note(report.to_text())
    score = report["stsb-en"]
    interval = [round(100 * value, 2) for value in score.interval or ()]
    write_result("reranker", {"stsb-en": round(100 * score.spearman, 2), "interval": interval, "rows": rows})


def reranked(scorer: CrossEncoderScorer, name: str) -> dict[str, object]:
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
