"""Commits in the middle of a read: between any two steps of a reader a writer may change everything."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import indexes.files
import indexes.seal
from indexes.manifest import Manifest
from retrieval import Engine, Whitening

from .children import Child, Tell
from .notes import CORE, MODEL, Notes, State, documents_of, first_state, new_documents
from .reader import QUESTIONS, Reader
from .result import Result

STEPS = (
    (indexes.files, "sha256_of"),
    (indexes.seal, "sha256_of"),
    (Manifest, "from_json"),
    (type(MODEL), "encode"),
)
"""What a reader does one after the other: a writer meddles before or after each."""

Write = Callable[[Engine], Any]


def _writes(state: State, rng: random.Random) -> dict[str, tuple[State, Write]]:
    """What a writer may do in the middle of a read: the state after it, and how."""
    new = new_documents(1, rng)
    gone = [doc_id for doc_id in state if doc_id.startswith("s0-")][::3]
    left = {doc_id: one for doc_id, one in state.items() if doc_id not in gone}

    def rebuild(engine: Engine, times: int = 1) -> None:
        for _ in range(times):
            engine.rebuild(whitening=Whitening(rng.randint(3, 10), beta=rng.random(), gamma=1.0))

    def delete_and_compact(engine: Engine) -> None:
        engine.delete(gone)
        engine.compact()

    return {
        "upserts": (state | new, lambda engine: engine.upsert(documents_of(new))),
        "deletes": (left, lambda engine: engine.delete(gone)),
        "deletes and compacts": (left, delete_and_compact),
        "rebuilds": (state, rebuild),
        "rebuilds twice": (state, lambda engine: rebuild(engine, times=2)),
    }


@contextmanager
def _in_the_middle(at: int, do: Callable[[], None]) -> Iterator[list[int]]:
    """Do something once, at the so-many-th moment before or after a step of a reader; counts these moments."""
    passed, busy = [0], False

    def moment() -> None:
        nonlocal busy
        if not busy:
            busy = True
            if passed[0] == at:
                do()
            passed[0] += 1
            busy = False

    def around(step: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **more: Any) -> Any:
            moment()
            result = step(*arguments, **more)
            moment()
            return result

        return wrapped

    with ExitStack() as stack:
        for owner, name in STEPS:
            stack.enter_context(patch.object(owner, name, around(getattr(owner, name))))
        # the reader's transaction is open, so the log cannot be emptied; waiting for that would not help
        stack.enter_context(patch("indexes.writer.empty_log", lambda database: False))
        yield passed


def meddled(trials: int, seed: int) -> list[Result]:
    """Every question with every write at every moment, in a random order."""
    rng = random.Random(seed)
    wrong: dict[str, list[str]] = {name: [] for name in QUESTIONS}
    counts = dict.fromkeys(QUESTIONS, 0)
    moments = dict.fromkeys(QUESTIONS, 30)
    for trial in range(trials):
        question = rng.choice(list(QUESTIONS))
        at = rng.randrange(moments[question])
        with tempfile.TemporaryDirectory() as name:
            write, passed, problems = _meddle(Path(name), question, at, rng)
        moments[question] = min(moments[question], max(passed, 1))
        counts[question] += passed > at
        case = f"trial {trial} of seed {seed}: a writer {write} at moment {at} of {question}"
        wrong[question] += [f"{case}: {each}" for each in problems]
    return [
        Result(kind=f"commit in the middle of a read, {question}", number=counts[question], violations=wrong[question])
        for question in QUESTIONS
    ]


def _meddle(folder: Path, question: str, at: int, rng: random.Random) -> tuple[str, int, list[str]]:
    """The write, the number of moments there were, and what is wrong."""
    index, notes = folder / "index", Notes(folder / "notes")
    first, more = first_state(rng), new_documents(0, rng)
    state = first | more
    with Engine.build(documents_of(first), index, model=MODEL, whitening=Whitening(8)) as engine:
        engine.upsert(documents_of(more))
        notes.may_come(state)
        notes.has_come()
        write, (after, do) = rng.choice(list(_writes(state, rng).items()))
        reader = Reader(index, folder / "notes", rng.randrange(1000))
        if question != "open" and rng.random() < 0.5:
            engine.rebuild(whitening=Whitening(6))  # so that the reader has something to load

        def commit() -> None:
            notes.may_come(after)
            do(engine)

        with _in_the_middle(at, commit) as passed:
            reader.ask(question)
        reader.ask("all documents")
        reader.close()
    return write, passed[0], reader.violations


def kept_maps(trials: int, seed: int) -> Result:
    """Raw vectors that a reader holds stay what they are when the file below them is rewritten and removed."""
    rng, wrong = random.Random(seed), []
    for trial in range(trials):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "index"
            state = first_state(rng) | new_documents(1, rng)
            with Engine.build(documents_of(state), folder, model=MODEL, whitening=Whitening(8)) as engine:
                ids, vectors = engine.raw_documents()
                if not isinstance(vectors, np.memmap):
                    wrong.append(f"trial {trial}: raw_documents gives a {type(vectors).__name__}, no memory map")

                def work(tell: Tell, folder: Path = folder) -> None:
                    with Engine.open(folder, model=MODEL) as writer:
                        writer.delete([f"core{i:03}" for i in range(1, CORE, 2)])
                        writer.compact()
                        writer.rebuild(whitening=Whitening(4))

                end = Child(work).end()
                if not end.well:
                    wrong.append(f"trial {trial}: {end}")
                if Path(str(vectors.filename)).exists():  # type: ignore[attr-defined]
                    wrong.append(f"trial {trial}: the file of the old state is still there")
                if not np.array_equal(
                    vectors, MODEL.encode([state[each][0] for each in ids]).vectors.astype(np.float16)
                ):
                    wrong.append(f"trial {trial}: the vectors that were held are others now")
                if {hit.doc_id for hit in engine.search("red fox", k=10_000)} != set(state) - {
                    f"core{i:03}" for i in range(1, CORE, 2)
                }:
                    wrong.append(f"trial {trial}: the reader does not see the newest state")
    return Result(kind="raw vectors held across a compaction", number=trials, violations=wrong)
