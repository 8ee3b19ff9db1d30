"""What is measured of a system on a corpus: a build, cold queries, warm queries. Each in processes of their own."""

from __future__ import annotations

import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from . import measures
from .corpora import Corpus, of_sentences
from .systems import BY_HAND, System, model, surroundings
from .worker import K

COLD, TURNS, FEW = 3, 5, 10
T = TypeVar("T")
CLOCK = str(Path(__file__).with_name("clock.py"))


def index_of(system: System, corpus: Corpus) -> Path:
    return corpus.folder / system.name.replace(" ", "-").replace(",", "")


def files_of(index: Path) -> list[Path]:
    return [path for path in index.rglob("*") if path.is_file()]


def timed(command: Sequence[str], folder: Path) -> tuple[float, float, str]:
    """Wall seconds and peak MiB of a process, and what it printed."""
    clocked = [sys.executable, "-I", "-S", CLOCK, str(folder / "clock.json"), *command]
    done = subprocess.run(clocked, capture_output=True, text=True, env=surroundings())
    if done.returncode:
        raise click.ClickException(f"{' '.join(command[:5])} failed:\n{done.stderr[-2000:]}")
    found = json.loads((folder / "clock.json").read_text())
    return found["s"], found["peak"] / 2**20, done.stdout


def first_use(system: System) -> dict[str, Any]:
    """Build over a few texts, so that what is only done at first (as compiling a model) is in no other time."""
    return {"first use s": build(system, of_sentences(FEW))["build s"]}


def build(system: System, corpus: Corpus) -> dict[str, Any]:
    """A whole process that makes an index of a file: time and peak memory."""
    index = index_of(system, corpus)
    shutil.rmtree(index, ignore_errors=True)
    seconds, peak, _ = timed(system.build(index, corpus.path), corpus.folder)
    return {"build s": round(seconds, 2), "peak MiB": round(peak, 1)}


def cold(systems: Sequence[System], corpus: Corpus) -> dict[str, dict[str, Any]]:
    """Whole processes that open the index and answer one query each, in turn; and what then lies on the disk."""
    seconds: dict[str, list[float]] = {system.name: [] for system in systems}
    for turn, query in enumerate(list(corpus.queries.values())[:COLD]):
        for system in rotated(systems, turn):
            took, _, printed = timed(system.query(index_of(system, corpus), query), corpus.folder)
            if not system.found(printed):
                raise click.ClickException(f"{system.name} found nothing for {query!r}")
            seconds[system.name].append(round(took, 3))
    rows = {}
    for system in systems:
        each = seconds[system.name]
        size = sum(path.stat().st_size for path in files_of(index_of(system, corpus)))
        cold = {"cold s": round(statistics.median(each), 3), "each cold query, s": each}
        rows[system.name] = cold | {"disk MiB": round(size / 2**20, 2)}
    return rows


def rotated(systems: Sequence[T], turn: int) -> list[T]:
    """Another begins in each turn, and in every second one they come backwards.

    Examples
    --------
    >>> rotated(["a", "b", "c"], 0), rotated(["a", "b", "c"], 1)
    (['a', 'b', 'c'], ['b', 'a', 'c'])
    """
    begin, order = turn % len(systems), list(systems)[:: -1 if turn % 2 else 1]
    return order[begin:] + order[:begin]


class Server:
    """A process that keeps an index open and answers lines of queries."""

    def __init__(self, system: System, corpus: Corpus) -> None:
        self._log = index_of(system, corpus).with_suffix(".log").open("w")
        self._process = subprocess.Popen(
            system.serve(index_of(system, corpus)),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=surroundings(),
        )  # fmt: skip
        self._line()

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise click.ClickException(f"a server has ended; see {self._log.name}")
        return line

    def ask(self, queries: Sequence[str]) -> dict[str, Any]:
        """Ids and milliseconds of each query."""
        assert self._process.stdin is not None
        print(json.dumps(list(queries)), file=self._process.stdin, flush=True)
        return dict(json.loads(self._line()))

    def close(self) -> None:
        self._process.communicate()
        self._log.close()


def warm(systems: Sequence[System], corpus: Corpus) -> dict[str, dict[str, Any]]:
    """All queries one by one, in a few turns in which each system has its part; and how good the answers are."""
    near = exact(corpus)
    queries = list(corpus.queries.values())
    parts = [queries[turn * len(queries) // TURNS : (turn + 1) * len(queries) // TURNS] for turn in range(TURNS)]
    servers = {system.name: Server(system, corpus) for system in systems}
    answers: dict[str, list[list[str]]] = {name: [] for name in servers}
    turns: dict[str, list[list[float]]] = {name: [] for name in servers}
    try:
        for turn, part in enumerate(parts):  # each comes after another one each time
            for name in rotated(list(servers), turn):
                found = servers[name].ask(part)
                answers[name] += found["ids"]
                turns[name].append(found["ms"])
    finally:
        for server in servers.values():
            server.close()
    rows = {}
    for name in servers:
        row = measures.times(turns[name]) | {"recall@10": round(measures.recall(answers[name], near, K), 4)}
        if corpus.qrels:
            row["nDCG@10"] = round(measures.ndcg(answers[name], list(corpus.queries), corpus.qrels), 4)
        rows[name] = row
    return rows


def exact(corpus: Corpus) -> list[measures.Nearest]:
    """The nearest by numpy, over the float32 vectors that the index made by hand holds."""
    import faiss
    from sentence_transformers import SentenceTransformer

    index = index_of(BY_HAND, corpus)
    if not index.exists():
        raise click.ClickException(f"what is exact is read from what is made by hand: first --system {BY_HAND.client}")
    flat = faiss.read_index(str(index / "index.faiss"))
    ids = json.loads((index / "documents.json").read_text())["ids"]
    encoder = SentenceTransformer(model(), device="cpu")
    queries = encoder.encode(list(corpus.queries.values()), normalize_embeddings=True)
    return measures.nearest(flat.reconstruct_n(0, flat.ntotal), queries, ids, K)
