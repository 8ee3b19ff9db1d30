"""Writers beside writers: one writes, the others are told at once who that is; one that was killed is in nobody's way."""

from __future__ import annotations

import random
import re
import socket
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from indexes import steps
from indexes.errors import IndexLockedError
from retrieval import Document, Engine, Whitening

from .children import PATIENCE, Child, Tell
from .notes import MODEL, State, documents_of, first_state
from .result import Result


def contenders(trials: int, seed: int) -> list[Result]:
    """Four writers who all write when they may: each commit is whole, each refusal says who writes."""
    writers, commits = 4, 5
    done, refused, wrong = 0, 0, []
    for trial in range(trials):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "index"
            Engine.build([("a", "a text")], folder, model=MODEL, whitening=None).close()

            def contend(number: int, tell: Tell, folder: Path = folder) -> None:
                with Engine.open(folder, model=MODEL) as engine:
                    for commit in range(commits):
                        while True:
                            try:
                                engine.upsert([Document(doc_id=f"w{number}", text=f"text {commit} of {number}")])
                            except IndexLockedError as error:
                                tell(str(error))
                                time.sleep(0.002)
                            else:
                                break

            children = [Child(lambda tell, number=number: contend(number, tell)) for number in range(writers)]  # type: ignore[misc]
            for number, end in enumerate(child.end() for child in children):
                if not end.well:
                    wrong.append(f"trial {trial}: writer {number}: {end}")
                refused += len(end.told)
                pids = {str(child.pid) for child in children} - {str(children[number].pid)}
                unnamed = [said for said in end.told if not names_one(said, pids)]
                wrong += [f"trial {trial}: writer {number} is told: {said}" for said in unnamed[:1]]
            done += writers * commits
            with Engine.open(folder, model=MODEL) as engine:
                found = _all(engine)
            expected: State = {f"w{number}": (f"text {commits - 1} of {number}", {}) for number in range(writers)}
            if found != {"a": ("a text", {})} | expected:
                wrong.append(f"trial {trial}: the documents in the end are {found}")
    return [Result(kind=f"commits of contending writers ({refused} refusals)", number=done, violations=wrong)]


def names_one(message: str, pids: set[str]) -> bool:
    """Whether a refusal names one of these processes and this host."""
    said = re.search(r"process (\d+) on (\S+?);", message)
    return said is not None and said[1] in pids and said[2] == socket.gethostname()


WRITES: dict[str, tuple[Callable[[Engine], Any], Callable[[State], State]]] = {
    "add": (lambda engine: engine.add([("new", "a text")], fresh=True), lambda state: state | {"new": ("a text", {})}),
    "upsert": (
        lambda engine: engine.upsert([("core001", "another text")], fresh=True),
        lambda state: state | {"core001": ("another text", {})},
    ),
    "delete": (lambda engine: engine.delete(["core002"]), lambda state: _without(state, lambda i, _: i == "core002")),
    "delete by filter": (
        lambda engine: engine.delete(filter="half = 1"),
        lambda state: _without(state, lambda _, metadata: metadata.get("half") == 1),
    ),
    "compact": (lambda engine: engine.compact(), lambda state: state),
    "rebuild": (lambda engine: engine.rebuild(), lambda state: state),
}
"""What each does, and the state after it."""


def _without(state: State, gone: Callable[[str, dict[str, Any]], bool]) -> State:
    return {doc_id: one for doc_id, one in state.items() if not gone(doc_id, one[1])}


def second_writers(trials: int, seed: int) -> list[Result]:
    """A writer stands still at some step; others are refused, readers are not; killed, it is in nobody's way."""
    rng, wrong = random.Random(seed), []
    for trial in range(trials):
        name, at = rng.choice(list(WRITES)), rng.randint(1, 8)
        with tempfile.TemporaryDirectory() as made:
            try:
                found = _second_writer(Path(made), name, at, rng)
            except Exception:
                found = [traceback.format_exc()]
        wrong += [f"trial {trial} of seed {seed}, {name} stands at step {at}: {each}" for each in found]
    return [Result(kind="second writer beside one that stands still and is killed", number=trials, violations=wrong)]


def _second_writer(folder: Path, name: str, at: int, rng: random.Random) -> list[str]:
    index, flag, wrong = folder / "index", folder / "flag", []
    with Engine.build(documents_of(first_state(rng)), index, model=MODEL, whitening=Whitening(8)) as engine:
        engine.upsert([("core003", "a replaced text")])  # so that there is something to compact
        first = Child(lambda tell: _stand_still(index, name, at, flag))
        if not _comes(flag):
            first.kill()
            return [f"the first writer did not come to its step: {first.end()}"]
        before = _all(engine)  # or after, if it stands behind its commit
        for other, (write, _) in WRITES.items():
            try:
                write(engine)
            except IndexLockedError as error:
                if not names_one(str(error), {str(first.pid)}):
                    wrong.append(f"the one refused ({other}) is told: {error}, but {first.pid} writes")
            else:
                wrong.append(f"{other} is not refused")
        first.kill()
        first.end()
        write, after = WRITES[rng.choice(list(WRITES))]
        write(engine)  # raises if the one who was killed is still in the way
        if _all(engine) != after(before):
            wrong.append("the write after the kill does not give what it should")
        return wrong + [f"verify: {each.name}: {each.problem}" for each in engine.verify(deep=True) if each.problem]


def _stand_still(index: Path, name: str, at: int, flag: Path) -> None:
    """Write, but stand still at the so-many-th step, and raise a flag there."""
    left = at

    def on_step(step: str) -> None:
        nonlocal left
        left -= 1
        if not left:
            flag.touch()
            time.sleep(PATIENCE)

    steps.on_step = on_step
    with Engine.open(index, model=MODEL) as engine:
        WRITES[name][0](engine)


def _comes(flag: Path) -> bool:
    give_up = time.monotonic() + PATIENCE
    while not flag.exists() and time.monotonic() < give_up:
        time.sleep(0.005)
    return flag.exists()


def _all(engine: Engine) -> State:
    return {hit.doc_id: (hit.text, dict(hit.metadata)) for hit in engine.search("red fox", k=10_000)}
