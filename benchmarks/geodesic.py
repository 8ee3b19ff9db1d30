"""Ways over the neighbour graph against the cosine, on whole collections.

    python benchmarks/geodesic.py relevance [--set NAME ...]   nDCG@10 and recall: cosine, ways, diffusion, maniscope
    python benchmarks/geodesic.py far                          Spearman on the unlike half of STS sets; ranking by topic
    python benchmarks/geodesic.py rerank                       a reranker's candidates by cosine and by way
    python benchmarks/geodesic.py speed [--texts N ...]        of the indexes that building.py left in benchmarks/cache
    python benchmarks/geodesic.py plot                         docs/images/geodesic.png

The index is the default one (half of the columns, whitened, 8 bits). alpha and the number of neighbours that are shown
for a set are those that find most on the other sets. Writes benchmarks/results/geodesic.json. Data: RETRIEVAL_SHARED,
default ../shared; the Chinese sets need RETRIEVAL_MODELS.
"""

from __future__ import annotations

import random
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import ir_measures
import numpy as np
from building import CACHE
from building import SIZES as BUILT
from diffusion import Diffusion
from numpy.typing import NDArray
from remembering import Remembering
from searching import other_sentences
from shared_data import HERE, RETRIEVAL, STS, earlier, has_model, model_folder, write_result

from eval import load_retrieval, load_sts
from indexes.stored import NEIGHBOR
from retrieval import Engine
from retrieval.console import note, say
from retrieval.encoder import load_encoder
from retrieval.geodesic import NeighborGraph
from retrieval.geodesic.scoring import ENTRIES, angles_of, blend
from retrieval.moments import unit_rows
from retrieval.similarity import spearman

Float64 = NDArray[np.float64]

ENGLISH, CHINESE, DEAR = "all-MiniLM-L6-v2", "multilingual-e5-small-q4deq", "all-mpnet-base-v2"
SETS = {
    "scifact": ENGLISH, "cranfield": ENGLISH, "med": ENGLISH, "npl-vaswani": ENGLISH, "medquad-qa": ENGLISH,
    "bq-dup": CHINESE, "lcqmc-dup": CHINESE,
}  # fmt: skip
MOST_QUERIES, DEPTH, RESAMPLES = 300, 1000, 2000
NEIGHBORS, ALPHAS = (8, 16, 30), (0.9, 0.7, 0.5, 0.3, 0.0)
MEASURES = tuple(map(ir_measures.parse_measure, ("nDCG@10", "R@100", "R@1000")))
NAMES = tuple(map(str, MEASURES))


class Set:
    """A collection in an index, its queries, and all cosines."""

    def __init__(self, name: str, model: str | None = None) -> None:
        judged, model = load_retrieval(RETRIEVAL / name), model or SETS[name]
        encoder = Remembering(load_encoder(model if model == ENGLISH else model_folder(model)))
        ids = sorted(judged.queries)
        chosen = sorted(random.Random(0).sample(ids, min(MOST_QUERIES, len(ids))))
        self.queries = [judged.queries[query_id] for query_id in chosen]
        self.qrels = {query_id: dict(judged.qrels[query_id]) for query_id in chosen}
        with (
            tempfile.TemporaryDirectory() as folder,
            Engine.build(RETRIEVAL / name, Path(folder) / "i", model=encoder) as engine,
        ):
            self.ids, _ = engine.raw_documents()
            self.rows = engine._bundle.read(lambda: engine._bundle.searched_vectors()[:])
            self.asked = engine.embed(self.queries, "query")
        self.name = name
        self.cosines = (self.asked @ self.rows.T).astype(np.float64)

    def values(self, scores: Float64) -> Float64:
        """Each measure of each query, of shape (q, measures)."""
        run = {
            query_id: {self.ids[at]: float(of_query[at]) for at in np.argsort(-of_query, kind="stable")[:DEPTH]}
            for query_id, of_query in zip(self.qrels, scores, strict=True)
        }
        found = {
            (one.query_id, str(one.measure)): one.value for one in ir_measures.iter_calc(MEASURES, self.qrels, run)
        }
        return np.array([[found[query_id, name] for name in NAMES] for query_id in self.qrels])

    def ways(self, graph: NeighborGraph, entries: int = ENTRIES) -> Float64:
        """The way from each query to each document; its angle where no path leads."""
        ways = angles_of(self.cosines)
        for of_query, cosines in zip(ways, self.cosines, strict=True):
            first = np.argsort(-cosines, kind="stable")[:entries]
            reached = graph.reach(first, angles_of(cosines[first]))
            of_query[reached.positions] = reached.distances
        return ways

    def diffused(self) -> Float64:
        """Half the cosine, half what a walk comes to, both by their largest (10 starts, as the walk's authors take)."""
        walk = Diffusion(NeighborGraph.build(self.rows, 16, join="mutual"))
        scores = np.empty_like(self.cosines)
        for at, cosines in enumerate(self.cosines):
            first = np.argsort(-cosines, kind="stable")[:10]
            found = walk.scores(first, cosines[first])
            scores[at] = 0.5 * cosines / cosines.max() + 0.5 * found / found.max()
        return scores

    def maniscope(self) -> Float64:
        """As the package of that name has it: from the first hit alone, 1 - cosine as length, unreached ones 0."""
        lists = np.full((len(self.rows), 5), np.array((-1, np.inf), NEIGHBOR))
        for start in range(0, len(self.rows), 1024):
            products = self.rows[start : start + 1024] @ self.rows.T
            products[np.arange(len(products)), np.arange(start, start + len(products))] = -np.inf
            best = np.argpartition(-products, 5, axis=1)[:, :5]
            lists["row"][start : start + 1024] = best
            lists["angle"][start : start + 1024] = 1.0 - np.take_along_axis(products, best, 1)
        graph = NeighborGraph(lists)
        scores = 0.5 * self.cosines
        for of_query, cosines in zip(scores, self.cosines, strict=True):
            reached = graph.reach([int(cosines.argmax())])
            of_query[reached.positions] += 0.5 / (1.0 + reached.distances)
        return scores


def interval(differences: Float64) -> list[float]:
    """95 % of the means of queries drawn with replacement, in points."""
    rng = np.random.default_rng(0)
    means = differences[rng.integers(len(differences), size=(RESAMPLES, len(differences)))].mean(axis=1)
    return [round(100 * float(value), 2) for value in np.percentile(means, [2.5, 97.5])]


@click.group()
def main() -> None:
    """Measure."""
    say(quiet=True)


def kept(name: str, value: Any) -> None:
    """One part of the result, the others as they are."""
    write_result("geodesic", {key: old for key, old in earlier("geodesic").items() if key in PARTS} | {name: value})


PARTS = ("relevance", "far", "topics", "rerank", "speed")


@main.command()
@click.option("--set", "names", multiple=True, type=click.Choice(list(SETS)), default=list(SETS))
def relevance(names: Sequence[str]) -> None:
    """What is found of what people judged relevant."""
    found = earlier("geodesic").get("relevance", {})
    for name in names:
        if SETS[name] == CHINESE and not has_model(CHINESE):
            note(f"{name} needs {CHINESE}; left out")
            continue
        of_set = Set(name)
        cosine = of_set.values(of_set.cosines)
        rows = [{"way": "cosine", **dict(zip(NAMES, cosine.mean(axis=0).round(4).tolist(), strict=True))}]

        def row(how: dict[str, Any], scores: Float64, of_set: Set = of_set, cosine: Float64 = cosine) -> dict[str, Any]:
            more = of_set.values(scores) - cosine
            gains = {f"{measure} gain": round(100 * float(more[:, at].mean()), 2) for at, measure in enumerate(NAMES)}
            return how | gains | {f"{measure} interval": interval(more[:, at]) for at, measure in enumerate(NAMES)}

        rows += [row({"way": "diffusion"}, of_set.diffused()), row({"way": "maniscope"}, of_set.maniscope())]
        for neighbors in NEIGHBORS:
            ways = of_set.ways(NeighborGraph.build(of_set.rows, neighbors))
            for alpha in ALPHAS:
                how = {"way": "geodesic", "neighbors": neighbors, "alpha": alpha}
                rows.append(row(how, blend(of_set.cosines, ways, alpha)))
        for one in rows:
            note(f"{name} {one}")
        found[name] = {"documents": len(of_set.ids), "queries": len(of_set.queries), "rows": rows}
        kept("relevance", found)


@main.command()
def far() -> None:
    """Pairs that people call unlike; and documents by topic."""
    encoder = Remembering(load_encoder(ENGLISH))
    rows = []
    for name in ("sts12", "sts13", "sts14", "sts15", "stsb-en"):
        pairs = load_sts(STS / name, split="test")[0]
        texts = list(dict.fromkeys([*pairs.sentences1, *pairs.sentences2]))
        place = {text: at for at, text in enumerate(texts)}
        vectors = unit_rows(encoder.encode(texts).vectors)
        one, other = ([place[text] for text in side] for side in (pairs.sentences1, pairs.sentences2))
        cosines = np.einsum("nd,nd->n", vectors[one].astype(np.float64), vectors[other])
        graph = NeighborGraph.build(vectors, 16)
        ways = angles_of(cosines)
        for start in sorted(set(one)):
            reached = np.full(len(texts), np.inf)
            found = graph.reach([start])
            reached[found.positions] = found.distances
            for at in np.flatnonzero(np.array(one) == start):
                if np.isfinite(reached[other[at]]):
                    ways[at] = reached[other[at]]
        labels = np.asarray(pairs.scores, np.float64)
        unlike = labels <= np.median(labels)
        scores = {f"alpha {alpha:g}": blend(cosines, ways, alpha) for alpha in (1.0, 0.5, 0.0)}
        rows.append({
            "set": name, "sentences": len(texts), "pairs": len(labels), "unlike": int(unlike.sum()),
            **{f"{how}, unlike": round(100 * spearman(s[unlike], labels[unlike]), 2) for how, s in scores.items()},
            **{f"{how}, all": round(100 * spearman(s, labels), 2) for how, s in scores.items()},
        })  # fmt: skip
        note(str(rows[-1]))
    kept("far", rows)
    kept("topics", [topic(name) for name in ("med", "cranfield", "npl-vaswani")])


def topic(name: str) -> dict[str, Any]:
    """Half of what is relevant to a query is the topic; how the other half is ranked among all others, AP and R@100."""
    of_set = Set(name)
    place = {doc_id: at for at, doc_id in enumerate(of_set.ids)}
    graph, rng = NeighborGraph.build(of_set.rows, 16), np.random.default_rng(0)
    values: dict[str, list[tuple[float, float]]] = {}
    for judged in of_set.qrels.values():
        relevant = rng.permutation([place[doc_id] for doc_id, grade in judged.items() if grade > 0 and doc_id in place])
        if len(relevant) < 6:
            continue
        given, wanted = relevant[: len(relevant) // 2], relevant[len(relevant) // 2 :]
        centre = unit_rows(of_set.rows[given].mean(axis=0, keepdims=True))[0]
        for how, points in (("nearest", of_set.rows[given]), ("centre", centre[None])):
            products = (points @ of_set.rows.T).astype(np.float64)
            cosines = products.max(axis=0)
            lengths = np.full(graph.n, np.inf)
            for of_point in products:
                first = np.argsort(-of_point, kind="stable")[:ENTRIES]
                lengths[first] = np.minimum(lengths[first], angles_of(of_point[first]))
            starts = np.flatnonzero(np.isfinite(lengths))
            reached, ways = graph.reach(starts, lengths[starts]), angles_of(cosines)
            ways[reached.positions] = reached.distances
            for kind, scores in (("cosine", cosines), ("way", -ways)):
                order = np.argsort(-scores, kind="stable")
                ranks = np.flatnonzero(np.isin(order[~np.isin(order, given)], wanted))
                precision = float(np.mean((np.arange(len(ranks)) + 1) / (ranks + 1)))
                values.setdefault(f"{kind} to the {how}", []).append((precision, float((ranks < 100).mean())))
    row: dict[str, Any] = {"set": name, "topics": len(next(iter(values.values())))}
    for how, pairs in values.items():
        row |= {f"{how}: AP": round(100 * statistics.mean(ap for ap, _ in pairs), 2)}
        row |= {f"{how}: R@100": round(100 * statistics.mean(share for _, share in pairs), 2)}
    note(str(row))
    return row


@main.command()
def rerank() -> None:
    """nDCG@10 of as many candidates by cosine and by way, in the order of a dearer model's cosine."""
    rows = []
    for name in ("scifact", "cranfield", "med"):
        of_set, dear = Set(name), Set(name, DEAR)
        scores = dear.cosines
        by_way = blend(of_set.cosines, of_set.ways(NeighborGraph.build(of_set.rows, 16)), 0.5)
        for calls in (50, 100, 200):
            row: dict[str, Any] = {"set": name, "calls": calls}
            for how, first in (("cosine", of_set.cosines), ("way", by_way)):
                kth = -np.partition(-first, calls - 1, axis=1)[:, calls - 1 : calls]
                values = of_set.values(np.where(first >= kth, scores, -2.0)).mean(axis=0)
                row[f"nDCG@10 by {how}"] = round(100 * float(values[0]), 2)
                exact = np.argsort(-scores, axis=1)[:, :10]
                row[f"first 10 found by {how}"] = round(
                    100 * float(np.take_along_axis(first >= kth, exact, 1).mean()), 1
                )
            note(str(row))
            rows.append(row)
    kept("rerank", rows)


@contextmanager
def timed(times: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    times.append(1000 * (time.perf_counter() - start))


@main.command()
@click.option("--texts", "sizes", type=int, multiple=True, default=BUILT, show_default=True)
@click.option("--queries", default=200, show_default=True)
def speed(sizes: Sequence[int], queries: int) -> None:
    """Seconds for the graph, its memory, and milliseconds of a query over the plain search."""
    rows = {row["documents"]: row for row in earlier("geodesic").get("speed", [])}
    for size in sizes:
        if not (CACHE / str(size)).is_dir():
            note(f"no index of {size:,} sentences: python benchmarks/building.py measure --texts {size}")
            continue
        with Engine.open(CACHE / str(size)) as engine:
            start = time.perf_counter()
            engine.build_graph(fresh=True)
            made = time.perf_counter() - start
            start = time.perf_counter()
            graph, _ = engine._bundle.read(engine._geodesic.graph)
            row: dict[str, Any] = {
                "documents": len(engine), "index": engine.info()["index"], "made in, s": round(made, 1),
                "read in, s": round(time.perf_counter() - start, 2),
                "bytes a document, disk": 16 * NEIGHBOR.itemsize, "memory": round(graph.nbytes / graph.n),
                "links a document": round(2 * graph.links / graph.n, 1),
            }  # fmt: skip
            asked = engine.embed(other_sentences()[:queries], "query")
            engine.search(asked[:5], geodesic=0.5)
            for k in (10, 100):
                plain: list[float] = []
                along: list[float] = []
                for vector in asked[:, None]:
                    with timed(plain):
                        engine.search(vector, k)
                    with timed(along):
                        engine.search(vector, k, geodesic=0.5)
                row[f"plain p50, k={k}"] = round(statistics.median(plain), 2)
                row[f"over it p50, k={k}"] = round(statistics.median(np.array(along) - plain), 2)
                row[f"over it p95, k={k}"] = round(float(np.percentile(np.array(along) - plain, 95)), 2)
            engine.drop_graph()
        note(str(row))
        rows[row["documents"]] = row
        kept("speed", [rows[n] for n in sorted(rows)])


@main.command()
def plot() -> None:
    """Recall over that of the cosine, by alpha; nDCG@10 is the cosine's, for the first hits are."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    found = earlier("geodesic")["relevance"]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8))
    for axis, measure in zip(axes, NAMES[1:], strict=True):
        for name, of_set in found.items():
            rows = [row for row in of_set["rows"] if row["way"] == "geodesic" and row["neighbors"] == 16]
            alphas = [1.0, *(row["alpha"] for row in rows)]
            axis.plot(alphas, [0.0, *(row[f"{measure} gain"] for row in rows)], "o-", markersize=3, label=name)
        axis.axhline(0, color="0.4", linewidth=0.8)
        axis.set_xlabel("alpha (1 is the cosine)")
        axis.set_title(f"{measure}, points over the cosine", fontsize=9)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(HERE.parent / "docs" / "images" / "geodesic.png", dpi=130)


if __name__ == "__main__":
    main()
