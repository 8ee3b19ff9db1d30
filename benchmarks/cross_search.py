"""What an expensive scorer would rank first, found under a budget of its calls: recall and nDCG@10 by method.

    RETRIEVAL_MODELS=folder python benchmarks/cross_search.py measure [--case NAME] [--cross-encoder MODEL]
    RETRIEVAL_MODELS=folder python benchmarks/cross_search.py anchors [--case NAME]
    python benchmarks/cross_search.py speed [--cross-encoder MODEL]
    python benchmarks/cross_search.py plot

Scorers: the cosine of all-mpnet-base-v2 over an index by all-MiniLM-L6-v2, and a cross-encoder that
`benchmarks/reranker.py train` made. All pairs of the test queries are scored once, to know the truth, and kept in
benchmarks/cache; an interrupted run goes on. Test queries are never anchor queries. Writes
benchmarks/results/cross_search.json and docs/images/cross-search-*.png. Data: RETRIEVAL_SHARED, default ../shared.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import ir_measures
import numpy as np
from numpy.typing import NDArray
from remembering import CACHE, Remembering
from shared_data import (
    HERE,
    RETRIEVAL,
    SENTENCES,
    SHARED,
    STS,
    earlier,
    lines_of,
    model_folder,
    sentences_of,
    write_result,
)

from eval import load_retrieval
from retrieval import Engine
from retrieval.anchor_trial import DOCUMENTS
from retrieval.compiled.scorer import load_scorer
from retrieval.console import note, say
from retrieval.corpora import read_corpus
from retrieval.cross import Basis, CrossEncoderSearch, Trace, greedy_rows
from retrieval.cross.completion import completed
from retrieval.cross.pilot import centred
from retrieval.encoder import load_encoder
from retrieval.geodesic import NeighborGraph
from retrieval.linking import NEIGHBORS
from retrieval.moments import unit_rows

MODEL, EXPENSIVE = "all-MiniLM-L6-v2", "all-mpnet-base-v2"
ANCHORS, QUERIES = 100, 100
BUDGETS = (20, 50, 100, 200, 500)
KS = (1, 10, 100)
RESAMPLES = 1000
ACROSS = 3
COLOURS = ("0.4", "0.7", "tab:orange", "tab:green", "tab:blue", "tab:red")
"""Pictures beside each other."""
SNLI = SHARED / "data" / "pairs" / "nli-snli-en-devtest.tsv"
LINES = 30_000
Float32 = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A corpus, test queries and queries to choose anchors from; judgements where there are some."""

    name: str
    texts: list[str]
    queries: list[str]
    pool: list[str]
    ids: list[str]
    qrels: list[dict[str, int]] | None = None


def sentences(name: str, texts: list[str], size: int | None = None) -> Case:
    """Sentences as documents; others of the same kind are queries and anchors."""
    order = np.random.default_rng(0).permutation(len(texts))
    queries, rest = order[:QUERIES], order[QUERIES:]
    pool, documents = rest[:2000], rest[2000:][:size]
    items = [texts[i] for i in documents]
    return Case(
        name=name, texts=items, ids=[str(i) for i in documents], queries=[texts[i] for i in queries],
        pool=[texts[i] for i in pool],
    )  # fmt: skip


def sts_sentences() -> list[str]:
    """The distinct sentences of five STS sets."""
    sets = ("stsb-en", "sts12", "sts13", "sts14", "sts15")
    paths = sorted(path for folder in sets for path in (STS / folder).glob("*.tsv"))
    return list(dict.fromkeys(text for path in paths for text in sentences_of(path)))


def collection(name: str) -> Case:
    """A BEIR folder: judged queries; anchors are its training queries, or else documents."""
    documents = [record.document for record in read_corpus(RETRIEVAL / name)]
    judged = load_retrieval(RETRIEVAL / name)
    ids = [query_id for query_id in judged.queries if judged.qrels.get(query_id)]
    ids = [ids[i] for i in sorted(np.random.default_rng(0).permutation(len(ids))[:QUERIES])]
    texts = [document.text for document in documents]
    if (RETRIEVAL / name / "qrels" / "train.tsv").exists():
        pool = list(load_retrieval(RETRIEVAL / name, split="train").queries.values())
    elif len(judged.queries) > 2 * QUERIES:
        pool = [text for query_id, text in judged.queries.items() if query_id not in set(ids)]
    else:
        pool = [texts[i] for i in np.random.default_rng(1).permutation(len(texts))[:2000]]
    asked = {judged.queries[query_id] for query_id in ids}
    return Case(
        name=name, texts=texts, ids=[str(document.doc_id) for document in documents],
        queries=[judged.queries[query_id] for query_id in ids],
        pool=[text for text in dict.fromkeys(pool) if text not in asked],
        qrels=[dict(judged.qrels[query_id]) for query_id in ids],
    )  # fmt: skip


def sample(case: Case, size: int) -> Case:
    """A smaller collection: every document that some test query is judged with, and others by chance."""
    wanted = {doc_id for grades in case.qrels or () for doc_id in grades}
    order = np.random.default_rng(2).permutation(len(case.ids)).tolist()
    kept = sorted(sorted(order, key=lambda row: case.ids[row] not in wanted)[:size])
    return replace(case, texts=[case.texts[i] for i in kept], ids=[case.ids[i] for i in kept])


def by_vectors(case: Case, score: Score) -> list[str]:
    """Anchors that stand for all of the pool, by their vectors."""
    vectors = unit_rows(bi_encoder().encode(case.pool, "query").vectors)
    return [case.pool[i] for i in greedy_rows(vectors, ANCHORS)]


def by_scores(case: Case, score: Score) -> list[str]:
    """Anchors as `retrieval cross` chooses them: by the scores of 200 candidates with 256 documents."""
    some = np.random.default_rng(0).permutation(len(case.texts))[:DOCUMENTS]
    candidates = case.pool[: 2 * ANCHORS]
    order = greedy_rows(centred(score(candidates, [case.texts[i] for i in some])), ANCHORS)
    return [candidates[i] for i in order]


def by_chance(case: Case, score: Score) -> list[str]:
    """The pool is in an order of chance."""
    return case.pool[:ANCHORS]


Score = Callable[[Sequence[str], Sequence[str]], Float32]
"""Scores of all pairs of q queries and n texts, of shape (q, n)."""

CHOICES = {"greedy by scores": by_scores, "greedy by vectors": by_vectors, "by chance": by_chance}


def bi_encoder() -> Remembering:
    return Remembering(load_encoder(MODEL))


def by_expensive_cosine(queries: Sequence[str], texts: Sequence[str]) -> Float32:
    """Scores of all pairs, (q, n)."""
    encoder = Remembering(load_encoder(model_folder(EXPENSIVE)))
    asked, rows = encoder.encode(queries, "query").vectors, encoder.encode(texts).vectors
    return np.asarray(unit_rows(asked) @ unit_rows(rows).T)


def by_cross_encoder(model: str) -> Callable[[Sequence[str], Sequence[str]], Float32]:
    """Scores of all pairs, (q, n), a query at a time, kept as they come."""
    scorer = load_scorer(model)
    CACHE.mkdir(exist_ok=True)

    def scores(queries: Sequence[str], texts: Sequence[str]) -> Float32:
        mark = hashlib.sha256(repr((scorer.fingerprint, queries, texts)).encode()).hexdigest()[:16]
        path = CACHE / f"pairs-{mark}.npy"
        shape = (len(queries), len(texts))
        if path.exists():
            kept = np.lib.format.open_memmap(path, mode="r+")
        else:
            kept = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=shape)
            kept[:] = np.nan
        for row, query in enumerate(queries):
            if np.isnan(kept[row]).any():
                kept[row] = scorer(query, texts)
                kept.flush()
                note(f"{row + 1} of {len(queries)} queries")
        return np.array(kept)

    return scores


CASES: dict[str, tuple[str, Callable[[], Case]]] = {
    "sts": ("cosine", lambda: sentences("sts", sts_sentences())),
    "snli": ("cosine", lambda: sentences("snli", sentences_of(SNLI))),
    "definitions": (
        "cosine",
        lambda: sentences("definitions", list(dict.fromkeys(lines_of(SENTENCES, LINES)))),
    ),
    "scifact": ("cosine", lambda: collection("scifact")),
    "npl-vaswani": ("cosine", lambda: collection("npl-vaswani")),
    "medquad-qa": ("cosine", lambda: collection("medquad-qa")),
    "sts-5k": ("cross-encoder", lambda: sentences("sts-5k", sts_sentences(), 5000)),
    "npl-5k": ("cross-encoder", lambda: sample(collection("npl-vaswani"), 5000)),
    "snli-5k": ("cross-encoder", lambda: sentences("snli-5k", sentences_of(SNLI), 5000)),
}


def searches(vectors: Float32, asked: Float32, anchors: Float32, anchor_vectors: Float32) -> Iterator[tuple[str, Any]]:
    """The methods: arguments of the search, and the queries' vectors if they are used."""
    yield "plain", ({"vectors": vectors, "method": "plain"}, asked)
    yield "GAR", ({"vectors": vectors, "method": "graph", "graph": NeighborGraph.build(vectors, NEIGHBORS)}, asked)
    yield "ANNCUR", ({"vectors": None, "anchors": anchors, "method": "anchors"}, None)
    yield "ADACUR", ({"vectors": None, "anchors": anchors}, None)
    yield "AXN", ({"vectors": vectors}, asked)
    yield "both", ({"vectors": vectors, "anchors": anchors, "anchor_vectors": anchor_vectors}, asked)


def embedded(case: Case, anchors: Sequence[str]) -> tuple[Float32, Float32, Float32]:
    """Rows of the documents, the test queries and the anchors, whitened as an index of the documents is."""
    with tempfile.TemporaryDirectory() as folder:
        corpus = list(zip(map(str, range(len(case.texts))), case.texts, strict=True))
        with Engine.build(corpus, Path(folder) / "index", model=bi_encoder()) as engine:
            return engine.embed(case.texts), engine.embed(case.queries, "query"), engine.embed(anchors, "query")


def measured(case: Case, truth: Float32, queries: Sequence[str], anchors: Float32) -> list[dict[str, Any]]:
    """Every method at every budget."""
    vectors, asked, asked_by_anchors = embedded(case, queries)
    rows = []
    everything = [np.argsort(-scores, kind="stable") for scores in truth]
    exact = [
        {case.ids[i]: float(scores[i]) for i in best[:100]} for scores, best in zip(truth, everything, strict=True)
    ]
    first = [{case.ids[i]: float(s[i]) for i in np.argsort(-s)[:100]} for s in asked @ vectors.T]
    for name, run in (("bi-encoder alone", first), ("every pair scored", exact)):
        calls = len(case.texts) if name.startswith("every") else 0
        rows.append({"method": name, "budget": calls, "nDCG@10": ndcg(case, run)})
    for method, (how, with_query) in searches(vectors, asked, anchors.T, asked_by_anchors):
        for budget in BUDGETS:
            search = CrossEncoderSearch(scorer=partial(looked_up, truth), budget=budget, **how)
            traces = search.trace(range(len(case.queries)), with_query)
            row: dict[str, Any] = {"method": method, "budget": budget}
            for k in KS:
                shares = np.array([recall(trace, best, k) for trace, best in zip(traces, everything, strict=True)])
                row[f"recall@{k}"] = round(100 * float(shares.mean()), 1)
                row[f"interval@{k}"] = interval(shares)
            found = [{case.ids[one.row]: one.score for one in trace.found} for trace in traces]
            row["nDCG@10"] = ndcg(case, found)
            fallen = [trace.fallbacks / max(1, trace.rounds - 1) for trace in traces]
            row["fallbacks"] = round(100 * float(np.mean(fallen)), 1)
            rows.append(row)
            note(f"{case.name} {row}")
    return rows


def looked_up(truth: Float32, query: int, items: Sequence[int]) -> Float32:
    """A scorer that knows all scores."""
    return truth[query][list(items)]


def recall(trace: Trace, best: NDArray[np.int64], k: int) -> float:
    """Share of the scorer's first k that was scored."""
    return len({one.row for one in trace.found} & set(best[:k].tolist())) / k


def interval(shares: NDArray[np.float64]) -> list[float]:
    """95 % of the mean over queries drawn with replacement, x 100."""
    rng = np.random.default_rng(0)
    means = shares[rng.integers(len(shares), size=(RESAMPLES, len(shares)))].mean(axis=1)
    return [round(100 * float(value), 1) for value in np.percentile(means, [2.5, 97.5])]


def ndcg(case: Case, runs: list[dict[str, float]]) -> float | None:
    """nDCG@10 x 100, by ir_measures."""
    if case.qrels is None:
        return None
    qrels = {str(i): grades for i, grades in enumerate(case.qrels)}
    run = {str(i): scores for i, scores in enumerate(runs)}
    return round(100 * float(ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10]), 2)


@click.group()
def main() -> None:
    """Measure or plot."""
    say(quiet=False)


@main.command()
@click.option("--case", "names", multiple=True, type=click.Choice(list(CASES)), default=list(CASES))
@click.option("--cross-encoder", type=click.Path(exists=True), help="Needed for the cases with one.")
def measure(names: tuple[str, ...], cross_encoder: str | None) -> None:
    """Every method at every budget, on each case."""
    for name in names:
        kind, make = CASES[name]
        if kind == "cross-encoder" and cross_encoder is None:
            note(f"{name} needs --cross-encoder MODEL; left out")
            continue
        case = make()
        score = by_expensive_cosine if kind == "cosine" else by_cross_encoder(str(cross_encoder))
        anchors = by_scores(case, score)
        both = score([*case.queries, *anchors], case.texts)
        truth, known = both[: len(case.queries)], both[len(case.queries) :]
        kept = earlier("cross_search").get("cases", {})
        kept[name] = {
            "scorer": f"cosine of {EXPENSIVE}" if kind == "cosine" else "cross-encoder",
            "documents": len(case.texts), "queries": len(case.queries), "anchors": len(anchors),
            "calls for the anchors": len(anchors) * len(case.texts),
            "rows": measured(case, truth, anchors, known),
        }  # fmt: skip
        write_result("cross_search", earlier("cross_search") | {"cases": kept})


@main.command()
@click.option("--case", "names", multiple=True, type=click.Choice(list(CASES)), default=["sts", "snli", "definitions"])
def anchors(names: tuple[str, ...]) -> None:
    """What the choice of anchors, their number, and the number of documents scored with them come to."""
    for name in names:
        case = CASES[name][1]()
        truth = by_expensive_cosine(case.queries, case.texts)
        best = [np.argsort(-scores, kind="stable") for scores in truth]
        rows: list[dict[str, Any]] = []
        for choice, choose in CHOICES.items():
            chosen = choose(case, by_expensive_cosine)
            known = by_expensive_cosine(chosen, case.texts).T
            vectors, asked, asked_by_anchors = embedded(case, chosen)
            sizes = [(count, len(known)) for count in (25, 50, 100)]
            if choice == "greedy by scores":
                sizes += [(100, scored) for scored in (500, 2000, 8000)]
            for count, scored in sizes:
                seen = known[:, :count].copy()
                seen[np.random.default_rng(0).permutation(len(known))[scored:]] = np.nan
                basis = Basis(vectors, completed(seen, vectors), asked_by_anchors[:count])
                row: dict[str, Any] = {"choice": choice, "anchors": count, "scored": scored, "calls": count * scored}
                for k, budget in ((10, 100), (100, 200)):
                    search = CrossEncoderSearch(basis, partial(looked_up, truth), budget=budget)
                    traces = search.trace(range(len(truth)), asked)
                    shares = np.array([recall(trace, first, k) for trace, first in zip(traces, best, strict=True)])
                    row |= {f"recall@{k}": round(100 * float(shares.mean()), 1), f"interval@{k}": interval(shares)}
                rows.append(row)
                note(f"{name} {row}")
        kept = earlier("cross_search").get("anchors", {})
        write_result("cross_search", earlier("cross_search") | {"anchors": kept | {name: rows}})


@main.command()
@click.option("--cross-encoder", type=click.Path(exists=True), help="Whose time for 100 short pairs stands beside.")
@click.option("--queries", default=30, show_default=True)
def speed(cross_encoder: str | None, queries: int) -> None:
    """Milliseconds a query, one query at a time, of all that is not the scorer: 100 calls in 5 rounds."""
    rows = [cost(n, queries) for n in (10_000, 100_000, 1_000_000)]
    found: dict[str, Any] = {"rows": rows}
    if cross_encoder is not None:
        scorer, texts = load_scorer(cross_encoder), sts_sentences()[:100]
        times = []
        for _ in range(15):
            began = time.perf_counter()
            scorer(texts[0], texts)
            times.append(1000 * (time.perf_counter() - began))
        found["100 short pairs by the cross-encoder, ms"] = round(float(np.median(times)), 1)
        note(str(found))
    write_result("cross_search", earlier("cross_search") | {"speed": found})


def cost(n: int, queries: int) -> dict[str, Any]:
    """Of searches over n clustered vectors."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(n // 100, 192)).astype(np.float32)
    vectors = unit_rows(centres[rng.integers(len(centres), size=n)] + rng.normal(size=(n, 192)).astype(np.float32))
    began = time.perf_counter()
    search = CrossEncoderSearch(vectors, lambda query, items: vectors[items] @ query)
    made, times = time.perf_counter() - began, []
    for row in rng.integers(n, size=queries):
        wish = vectors[row] + 0.05 * rng.normal(size=192).astype(np.float32)
        began = time.perf_counter()
        (trace,) = search.trace([wish], vectors[row : row + 1])
        times.append(1000 * (time.perf_counter() - began))
        assert trace.calls == 100
    middle, late = (round(float(value), 1) for value in np.percentile(times, [50, 95]))
    found = {"documents": n, "made in s": round(made, 1), "p50": middle, "p95": late}
    note(str(found))
    return found


@main.command()
def plot() -> None:
    """Recall against the budget, a picture for each k."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    cases = earlier("cross_search")["cases"]
    for k in KS[1:]:
        down = -(-len(cases) // ACROSS)
        figure, grid = plt.subplots(down, ACROSS, figsize=(3.4 * ACROSS, 3.2 * down), sharey=True, squeeze=False)
        axes = grid.ravel()
        for axis in axes[len(cases) :]:
            axis.set_axis_off()
        for axis, (name, case) in zip(axes, cases.items(), strict=False):
            methods = dict.fromkeys(row["method"] for row in case["rows"] if f"recall@{k}" in row)
            for method, colour in zip(methods, COLOURS, strict=True):
                rows = [row for row in case["rows"] if row["method"] == method]
                budgets = [row["budget"] for row in rows]
                axis.plot(budgets, [row[f"recall@{k}"] for row in rows], "o-", color=colour, label=method, markersize=3)
                low, high = zip(*(row[f"interval@{k}"] for row in rows), strict=True)
                axis.fill_between(budgets, low, high, color=colour, alpha=0.12, linewidth=0)
            axis.set_xscale("log")
            axis.set_xticks(BUDGETS, [str(budget) for budget in BUDGETS])
            axis.minorticks_off()
            axis.set_ylim(0, 102)
            axis.grid(alpha=0.3)
            axis.set_title(f"{name}: {case['documents']:,} documents\n{case['scorer']}", fontsize=9)
            axis.set_xlabel("calls a query")
        for row in grid:
            row[0].set_ylabel(f"of the scorer's first {k}, found (%)")
        axes[0].legend(fontsize=8, loc="lower right")
        figure.tight_layout()
        figure.savefig(HERE.parent / "docs" / "images" / f"cross-search-{k}.png", dpi=130)
        plt.close(figure)


if __name__ == "__main__":
    main()
