"""SIGKILL at random moments, at every named step, and in the middle of encoding.

Whatever the moment: the index is what was acknowledged last or, if the call had not returned, what it was to make;
and the same call made again comes to its end. What a kill leaves in the page cache is not lost: what a power cut
loses is for `torture.powercut`.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

from indexes import staging, steps
from retrieval.encoder import Encoded, HashEncoder, Role

from .children import Child, Tell, in_child, in_fresh_process
from .result import Result
from .world import MODEL, OPERATIONS, Operation, Tally, World, again, look

CHUNK = 4
"""Documents encoded together in these trials, so that few documents are several chunks."""

LIFE = 12
"""Operations in a world, after which there is a new one."""

NAMES = ("build", *OPERATIONS)

ENCODING = ("build", "add", "upsert", "upsert --prune")
"""Operations that make vectors of texts."""


def run(trials: int, seed: int) -> list[Result]:
    """So many kills of each kind."""
    found: list[Result] = []
    for kind in (random_kills, step_kills, resumptions):
        found += in_fresh_process(kind, trials, seed)
    return found


def random_kills(trials: int, seed: int) -> list[Result]:
    """Kill at random moments, most of them inside the operation; go on from what is there."""
    staging.CHUNK = CHUNK
    chance = random.Random(seed)
    tally, inside = Tally("killed at a random moment"), Tally("... inside an operation")
    usual: dict[str, float] = {}  # seconds that an operation of this name takes, more or less
    for world_seed in count(seed):
        world = World(world_seed)
        with folder() as here:
            for number in range(LIFE):
                operation, path = world.next(), here / "index"
                label = f"world {world_seed}, operation {number} ({operation.name})"
                wrong: list[str] = []
                new = False
                while not (wrong or new) and chance.random() < 0.7:  # it may be killed again, on its way on
                    if tally.number == trials:
                        return [tally.result, inside.result]
                    takes = usual.setdefault(operation.name, 0.05)
                    delay = chance.uniform(0, 1.2) * takes
                    child = Child(_acknowledged(operation, path))
                    time.sleep(delay)
                    child.kill()
                    end = child.end()
                    usual[operation.name] += 0.2 * ((end.told[0] if end.told else max(takes, 1.1 * delay)) - takes)
                    wrong, new = look(path, operation, acknowledged=bool(end.told), settled=bool(end.told))
                    wrong += [end.error] if end.error else []
                    tally.add(f"{label}, killed after {delay:.4f} s", wrong)
                    if not end.told:
                        inside.add("", [])
                last = again(path, operation, first=not new)
                tally.violations += [f"{label}, not killed: {one}" for one in last]
                if wrong or last:
                    break  # what comes after tells nothing new
    raise AssertionError("count() ends")


def step_kills(trials: int, seed: int) -> list[Result]:
    """Kill at the named steps of every operation: at so many, chosen evenly, or at all of several worlds."""
    staging.CHUNK = CHUNK
    chance, tally, reached = random.Random(seed), Tally("killed at a named step"), set[str]()
    for world_seed in count(seed):
        if tally.number >= trials or tally.violations:
            break
        world, share = World(world_seed), -(-(trials - tally.number) // len(NAMES))
        with folder() as here:
            path, trial = here / "index", here / "trial"
            for name in NAMES:
                operation = world.next(name)
                taken = _steps_of(operation, path, trial)
                reached.update(taken)
                for number in sorted(chance.sample(range(len(taken)), min(share, len(taken)))):
                    copy(path, trial)
                    end = in_child(_killed_at(operation, trial, number))
                    wrong = [] if end.signal == signal.SIGKILL else [f"not killed: {end}"]
                    wrong += look(trial, operation, acknowledged=False)[0] + again(trial, operation)
                    tally.add(f"world {world_seed}, {name}, killed at step {number} ({taken[number]})", wrong)
                if last := again(path, operation, first=True):
                    tally.add(f"world {world_seed}, {name}, not killed", last)
                    return [tally.result]
    tally.violations += [f"no operation reached the step {name!r}" for name in steps.STEPS if name not in reached]
    return [tally.result]


def resumptions(trials: int, seed: int) -> list[Result]:
    """Kill in the middle of encoding, once or twice; what comes of it has the same bytes as if nothing had been."""
    staging.CHUNK = CHUNK
    chance, tally = random.Random(seed), Tally("killed in mid-encoding, same bytes")
    for world_seed in count(seed):
        if tally.number >= trials:
            break
        world = World(world_seed)
        with folder() as here:
            path, trial, unharmed = here / "index", here / "trial", here / "unharmed"
            for name in ENCODING:
                operation = world.next(name)
                copy(path, unharmed)
                calls = in_child(_encoding(operation, unharmed, None)).told
                copy(path, trial)
                left = len(calls)
                wrong: list[str] = []
                for _ in range(chance.randint(1, 2)):
                    at = chance.randrange(left)
                    if in_child(_encoding(operation, trial, at)).signal != signal.SIGKILL:
                        wrong.append(f"not killed at {at} of {left} chunks")
                    left -= at
                end = in_child(_encoding(operation, trial, None))
                if end.told != calls[len(calls) - left :]:
                    wrong.append(f"went on with {end.told}; expected {calls[len(calls) - left :]}")
                if not end.well or _segments(trial) != _segments(unharmed):
                    wrong.append(f"other segment files than without a kill: {end}")
                wrong += look(trial, operation, acknowledged=True, settled=True)[0]
                tally.add(f"world {world_seed}, {name}", wrong)
                shutil.rmtree(path, ignore_errors=True)
                unharmed.rename(path)
    return [tally.result]


class _Watched(HashEncoder):
    """Tells the texts of each call; kills its process when the call of a number comes."""

    def __init__(self, tell: Tell, kill_at: int | None) -> None:
        super().__init__(MODEL.dim)
        self._tell, self._left = tell, kill_at

    def encode(self, texts: Sequence[str], role: Role = "document") -> Encoded:
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left = None if self._left is None else self._left - 1
        self._tell(list(texts))
        return super().encode(texts, role)


def _acknowledged(operation: Operation, path: Path) -> Callable[[Tell], None]:
    def work(tell: Tell) -> None:
        begun = time.monotonic()
        engine = operation.do(path, MODEL)
        tell(time.monotonic() - begun)
        engine.close()

    return work


def _encoding(operation: Operation, path: Path, kill_at: int | None) -> Callable[[Tell], None]:
    return lambda tell: operation.do(path, _Watched(tell, kill_at)).close()


def _killed_at(operation: Operation, path: Path, number: int) -> Callable[[Tell], None]:
    def work(tell: Tell) -> None:
        left = number

        def on_step(name: str) -> None:
            nonlocal left
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

        steps.on_step = on_step
        operation.run(path)

    return work


def _steps_of(operation: Operation, path: Path, trial: Path) -> list[str]:
    """The names of the steps of an operation, in order."""
    copy(path, trial)

    def work(tell: Tell) -> None:
        steps.on_step = tell
        operation.run(trial)

    return in_child(work).told


def _segments(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in sorted((path / "segments").glob("*"))}


def copy(path: Path, to: Path) -> None:
    """A copy of an index, or of the path where none is yet."""
    shutil.rmtree(to, ignore_errors=True)
    if path.exists():
        shutil.copytree(path, to)


@contextmanager
def folder() -> Iterator[Path]:
    """A new folder; in memory if may be, as a kill loses nothing that was written, be it on the disk or not."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)
