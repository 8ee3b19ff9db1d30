"""An index of several segments, and everything that can be asked of it, in a child that may crash or hang."""

from __future__ import annotations

import faulthandler
import hashlib
import os
import random
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from indexes.errors import RetrievalError
from retrieval import Document, Engine, Hit, Whitening

from .children import End, Tell, in_child

Answers = dict[str, tuple[str, Any]]
"""For each question: "answer" and what it is, "refused" and the message, or "raised" and the unknown error."""

WORDS = ("fox", "whale", "red", "blue", "sea", "night", "train", "bread", "glass", "river", "stone", "paper", "cloud")
QUERIES = ("red fox", "night train by the sea", "stone", "paper cloud")
FILTERS = (
    None,
    "kind = 'b'",
    "kind != 'b' AND year < 1950",
    {"tags": {"$in": ["red", "new"]}},
    "place.city = 'Paris'",
    "price > 2.5 OR NOT tags = 'old'",
    "kind IS NULL",
)
MEMORY = 1 << 30
"""Bytes of address space that a child may take for an index of some kilobytes."""

PATIENCE = 40
"""Seconds after which a child says where it hangs and ends."""


FACTORIES = {"Flat": "Flat", "HNSW": "HNSW8,Flat", "IVF": "IVF4,SQ8"}
"""What is damaged, by the name of its structure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """An index to be damaged, what it answers, and where damage takes other files from."""

    name: str
    index: Path
    older: Path
    other: Path
    expected: Answers


def make_scene(folder: Path, name: str, factory: str) -> Scene:
    """An index of several segments, some documents of which are deleted; the state before; another index."""
    folder.mkdir()
    index, older, other = (folder / each for each in ("index", "older", "other"))
    build = partial(Engine.build, model="hash:16", whitening=Whitening(dim=8), index=factory)
    documents = corpus(135, seed=1)
    with build(documents[:80], index) as engine:
        shutil.copytree(index, older)
        engine.add(documents[80:110])
        engine.upsert([*documents[110:120], Document(doc_id="d011", text="a new stone", metadata={"kind": "b"})])
        engine.delete([str(one.doc_id) for one in documents[5:120:10]])
        engine.add(documents[120:])  # takes the segment before it in, whose rows have gaps now
    build(corpus(80, seed=2), other).close()
    shutil.copytree(index, folder / "asked")  # SQLite leaves files beside what is read
    ending, answers, noise = questioned(folder / "asked")
    if not ending.well or any(kind != "answer" for kind, _ in answers.values()) or answers["verify"][1]:
        raise AssertionError(f"the undamaged index {name} does not answer: {ending}, {answers}, {noise}")
    return Scene(name=name, index=index, older=older, other=other, expected=answers)


def corpus(n: int, seed: int) -> list[Document]:
    """Documents with metadata of every kind, some of them without."""
    rng = random.Random(seed)
    return [
        Document(
            doc_id=f"d{i:03}",
            text=" ".join(rng.choices(WORDS, k=rng.randint(2, 8))),
            metadata={}
            if i % 9 == 0
            else {
                "kind": rng.choice("abc"),
                "year": rng.randint(1900, 2000),
                "price": rng.randint(0, 50) / 10,
                "tags": rng.sample(["red", "old", "new"], rng.randint(0, 2)),
                "place": {"city": rng.choice(["Paris", "Rome", "東京"])},
            },
        )
        for i in range(n)
    ]


def questions(engine: Engine) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Everything that is asked of an open index."""

    def hits(filter: Any, exact: bool) -> list[list[Hit]]:
        return engine.search(QUERIES, k=7, filter=filter, exact=exact)

    for filter in FILTERS:
        for exact in (False, True):
            yield f"search {filter!r} exact={exact}", partial(hits, filter, exact)
    ids = [f"d{i:03}" for i in range(135) if i % 10 != 5 or i >= 120]
    for some in (ids[:40], ids[40:80], ids[80:]):
        yield f"get {some[0]} ...", partial(engine.get, some)
    yield "raw vectors", lambda: _digest(*engine.raw_documents())
    yield "number of documents", lambda: (len(engine), engine.info()["truncated"])
    yield "verify", lambda: [(check.name, check.problem) for check in engine.verify(deep=True) if check.problem]


def _digest(ids: list[str], vectors: Any) -> tuple[list[str], tuple[int, ...], str]:
    return ids, vectors.shape, hashlib.sha256(vectors.tobytes()).hexdigest()


def ask(folder: Path) -> Answers:
    """Open an index and ask it all questions, those after an error, too."""
    answers: Answers = {}

    def put(question: str, ask_it: Callable[[], Any]) -> Any:
        try:
            answer = ask_it()
        except RetrievalError as error:
            answers[question] = ("refused", f"{type(error).__name__}: {error}")
        except Exception as error:
            answers[question] = ("raised", f"{type(error).__name__}: {error}")
        else:
            return answer

    if (engine := put("open", partial(Engine.open, folder))) is not None:
        for question, ask_it in questions(engine):
            if (answer := put(question, ask_it)) is not None:
                answers[question] = ("answer", answer)
        engine.close()
    return answers


def questioned(folder: Path) -> tuple[End, Answers, str]:
    """How a child that asks an index all questions ends, what it has heard, and what it wrote to standard error."""
    with tempfile.TemporaryFile() as noise:

        def work(tell: Tell) -> None:
            os.dup2(noise.fileno(), 2)
            faulthandler.enable()
            faulthandler.dump_traceback_later(PATIENCE, exit=True)
            now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, resource.RLIM_INFINITY))
            tell(ask(folder))

        end = in_child(work)
        noise.seek(0)
        said = noise.read().decode(errors="replace")
    return end, end.told[0] if end.told else {}, said
