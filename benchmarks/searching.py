"""Searching 600,000 sentences: milliseconds a query on one thread, recall against all rows, memory a document.

    python benchmarks/building.py measure --texts 600000      first: makes the index
    python benchmarks/searching.py [--index FACTORY ...]

Each structure is made by `rebuild` of that index; queries are 500 other sentences, given as vectors, one at a time.
Recall is of the ten nearest by numpy over the raw vectors, whitened. Filters leave rows by chance; of those it is said
what the structure alone finds, before raw vectors put it in order. Writes benchmarks/results/searching.json.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from building import CACHE
from shared_data import SENTENCES, earlier, write_result

from retrieval import Engine
from retrieval.console import note, say

SIZE, QUERIES, K = 600_000, 500, 10
FILTERS = {"1 %": 0.01, "10 %": 0.1, "50 %": 0.5}


def other_sentences() -> list[str]:
    """Sentences that are in no corpus."""
    with (CACHE / f"{SIZE}.txt").open(encoding="utf-8") as file:
        seen = set(file)
    with gzip.open(SENTENCES, "rt", encoding="utf-8") as file:
        others = list(dict.fromkeys(line for line in file if line.strip() and line not in seen))
    return [others[i].rstrip("\n") for i in np.random.default_rng(0).permutation(len(others))[:QUERIES]]


def nearest(engine: Engine, queries: Any, allowed: Any = None) -> list[set[int]]:
    """Positions of the ten nearest of all (allowed) rows, by numpy."""
    _, raw = engine.raw_documents()
    best, where = np.full((len(queries), K), -np.inf), np.zeros((len(queries), K), np.int64)
    for start in range(0, len(raw), 20_000):
        rows = engine._unit(np.asarray(raw[start : start + 20_000]))
        scores = np.hstack([best, queries @ rows.T])
        if allowed is not None:
            scores[:, K:][:, ~allowed[start : start + 20_000]] = -np.inf
        places = np.hstack([where, np.broadcast_to(np.arange(start, start + len(rows)), (len(queries), len(rows)))])
        order = np.argpartition(-scores, K, axis=1)[:, :K]
        best, where = np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)
    return [set(of.tolist()) for of in where]


def recall(found: list[list[Any]], truth: list[set[int]], place: dict[str, int]) -> float:
    """Of the ten nearest, in percent."""
    shares = [len({place[hit.doc_id] for hit in hits} & best) / K for hits, best in zip(found, truth, strict=True)]
    return round(100 * float(np.mean(shares)), 2)


@click.group(invoke_without_command=True)
@click.option("--index", "factories", multiple=True, default=["auto"], show_default=True)
@click.pass_context
def main(context: click.Context, factories: tuple[str, ...]) -> None:
    """Measure search structures over the same rows."""
    say(quiet=False)
    if context.invoked_subcommand is not None:
        return
    path = CACHE / str(SIZE)
    with Engine.open(path) as engine:
        asked = engine.embed(other_sentences(), "query")
        np.save(CACHE / "queries.npy", asked)
        (CACHE / "truth.json").write_text(json.dumps([sorted(of) for of in nearest(engine, asked)]))
    for factory in factories:
        with Engine.open(path) as engine:
            start = time.perf_counter()
            engine.rebuild(index=factory)
            row: dict[str, Any] = {"asked for": factory, "index": engine.info()["index"]}
            row["rebuilt in s"] = round(time.perf_counter() - start, 1)
            sizes = [file.bytes for file in engine._bundle.manifest.files if file.role == "vectors"]
            row["bytes a document"] = round(sum(sizes) / SIZE, 1)
            row["times smaller than float32 x 384"] = round(4 * 384 * SIZE / sum(sizes), 1)
        for threads in (1, 2):
            done = subprocess.run(
                [sys.executable, __file__, "one", str(path)], check=True, stdout=subprocess.PIPE, text=True,
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            )  # fmt: skip
            found = json.loads(done.stdout)
            row |= found if threads == 1 else {"queries a second, 2 threads": found["queries a second"]}
        note(str(row))
        kept = {old["index"]: old for old in earlier("searching").get("rows", [])}
        write_result("searching", {"rows": list((kept | {row["index"]: row}).values())})


def filtered(engine: Engine, asked: Any, share: float) -> dict[str, float]:
    """The structure alone behind a filter that leaves a share of the rows, by chance."""
    allowed = np.random.default_rng(1).random(SIZE) < share
    truth, index = nearest(engine, asked, allowed), engine._bundle.loaded[0].index
    times, hits = [], []
    for vector, best in zip(asked, truth, strict=True):
        start = time.perf_counter()
        _, found = index.search(vector[None], K + 8, allowed=allowed)
        times.append(1000 * (time.perf_counter() - start))
        hits.append(len(best & set(found[0].tolist())) / K)
    return {"recall in 18": round(100 * float(np.mean(hits)), 2), "p50 ms": round(float(np.median(times)), 2)}


@main.command(hidden=True)
@click.argument("path", type=Path)
def one(path: Path) -> None:
    """Recall and times in this process."""
    asked, truth = np.load(CACHE / "queries.npy"), [set(of) for of in json.loads((CACHE / "truth.json").read_text())]
    with Engine.open(path) as engine:
        ids, _ = engine.raw_documents()
        place = {doc_id: i for i, doc_id in enumerate(ids)}
        engine.search(asked[:50])
        times, found = [], []
        for vector in asked:
            start = time.perf_counter()
            found += engine.search(vector[None], K)
            times.append(1000 * (time.perf_counter() - start))
        start = time.perf_counter()
        engine.search(asked, K)
        batch = len(asked) / (time.perf_counter() - start)
        filters = {name: filtered(engine, asked[:100], share) for name, share in FILTERS.items()}
    p50, p95 = np.percentile(times, [50, 95])
    click.echo(json.dumps({
        "recall@10": recall(found, truth, place), "p50 ms": round(p50, 2), "p95 ms": round(p95, 2),
        "queries a second": round(batch), "filters": filters,
    }))  # fmt: skip


if __name__ == "__main__":
    main()
