"""Files that cannot be read or written, disks that are full, folders that are read-only, memory that does not suffice.

For every operation and every one of its file operations: what comes is success or an error of a known kind; the
index is the old state or the new one; and the same operation, done again when the fault is gone, gives the new one.
On the command line it is exit code 1 and one sentence. What is done through a memory map is left out.
"""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path

from indexes import staging
from retrieval import Engine
from retrieval.cli import main

from . import shim
from .children import End, Tell, in_child, in_fresh_process
from .kills import CHUNK, NAMES, copy, folder
from .result import Result
from .world import MODEL, Operation, State, Tally, World, again, again_here, answers, ask, goes_on, look

COMMAND_MODES = ("EIO", "full", "read EIO")


EVERY = 1_000_000
"""More than there are."""


def run(trials: int, seed: int, *, every: bool = False) -> list[Result]:
    """About so many trials of each kind; fewer if there are no more, and at every file operation if that is asked."""
    found: list[Result] = []
    for kind in (file_faults, command_faults, read_faults):
        found += in_fresh_process(kind, EVERY if every else trials, seed, preload=shim.library())
    for kind in (full_disks, read_only_folders, little_memory):
        found += in_fresh_process(kind, trials, seed)
    return found


def file_faults(trials: int, seed: int) -> list[Result]:
    """Fail the n-th file operation of every operation in every way, for every n or so many, chosen evenly."""
    return _file_faults(trials, seed, tuple(shim.MODES), _call)


def command_faults(trials: int, seed: int) -> list[Result]:
    """The same on the command line."""
    return _file_faults(trials, seed, COMMAND_MODES, _command)


Way = Callable[[Operation, Path, Tell], None]
"""Does an operation and tells what came of it: something, if it was acknowledged."""


def _call(operation: Operation, path: Path, tell: Tell) -> None:
    engine = operation.do(path, MODEL)
    tell("acknowledged")
    engine.close()


def _command(operation: Operation, path: Path, tell: Tell) -> None:
    if not operation.command:
        _call(operation, path, tell)
        return
    code, lines = command(operation.arguments(path, path.with_suffix(".jsonl")))
    if code == 0 and not lines:
        tell("acknowledged")
    elif code == 1 and len(lines) == 1 and lines[0].startswith("Error: "):
        raise OSError(lines[0])
    else:
        raise AssertionError(f"exit code {code} and on standard error: {lines}")


def command(arguments: Sequence[str]) -> tuple[int, list[str]]:
    """Exit code and standard error of the command line, in this process, which is done with its own."""
    to = os.memfd_create("stderr")
    sys.stderr.flush()
    os.dup2(to, 2)
    try:
        main(arguments)
    except SystemExit as ended:
        code = ended.code
    sys.stderr.flush()
    return int(code or 0), os.pread(to, 1 << 20, 0).decode().splitlines()


def _file_faults(trials: int, seed: int, modes: Sequence[str], way: Way) -> list[Result]:
    staging.CHUNK = CHUNK
    chance, world = random.Random(seed), World(seed)
    tallies = {mode: Tally(f"{way.__name__[1:]}, {mode}") for mode in modes}
    share = max(1, trials // (len(modes) * len(NAMES)))
    with folder() as here:
        path, trial = here / "index", here / "trial"
        for operation in map(world.next, NAMES):
            copy(path, trial)
            counted = _counted(partial(way, operation, trial), trial)
            for mode, tally in tallies.items():
                total = counted[mode == "read EIO"]
                for n in sorted(chance.sample(range(1, total + 1), min(share, total))):
                    copy(path, trial)
                    tally.add(
                        f"seed {seed}, {operation.name}, {n} of {total}", _faulted(operation, trial, n, mode, way)
                    )
            if wrong := again(path, operation, first=True):
                raise AssertionError(f"{operation.name} without any fault: {wrong}")
    return [tally.result for tally in tallies.values()]


def _counted(work: Callable[[Tell], None], path: Path) -> tuple[int, int]:
    """How many file operations that write, and that read, there are below a path."""

    def counting(tell: Tell) -> None:
        shim.arm(path, 0, "EIO")
        work(tell)
        tell(shim.count())

    end = in_child(counting)
    if not end.well:
        raise AssertionError(f"without any fault: {end}")
    writes, reads = end.told[-1]
    return writes, reads


def _faulted(operation: Operation, path: Path, n: int, mode: str, way: Way) -> list[str]:
    """What is wrong after a fault; every other time the same process goes on, as a server would."""
    if n % 2 and mode != "kill" and way is _call:
        end = in_child(partial(_failing_and_going_on, operation, path, n, mode))
        gone_on = end.told[0] if end.told else ["it could not"]
        wrong = unexpected(end) + [f"going on in the same process: {one}" for one in gone_on]
        return wrong + look(path, operation, acknowledged=True)[0]
    end = in_child(partial(_armed, path, n, mode, partial(way, operation, path)))
    wrong = unexpected(end, may_be_killed=mode == "kill")
    return wrong + look(path, operation, acknowledged=bool(end.told))[0] + again(path, operation)


def _armed(path: Path, n: int, mode: str, work: Callable[[Tell], None], tell: Tell) -> None:
    shim.arm(path, n, mode)
    try:
        work(tell)
    finally:
        shim.disarm()


def _failing_and_going_on(operation: Operation, path: Path, n: int, mode: str, tell: Tell) -> None:
    """An operation that fails; then what is wrong with the engine, or with the index if there was none."""
    failed: BaseException | None = None
    engine = None if operation.before is None else operation.start(path, MODEL)
    try:
        shim.arm(path, n, mode)
        operation.run(path) if engine is None else operation.change(engine)
    except BaseException as error:
        failed = error
    shim.disarm()
    tell(again_here(path, operation) if engine is None else goes_on(engine, operation))
    if failed is not None:
        raise failed


def unexpected(end: End, *, may_be_killed: bool = False) -> list[str]:
    """What no fault may do to a process: an error of an unknown kind, a crash, a halt."""
    killed_as_meant = may_be_killed and end.signal == signal.SIGKILL
    return [] if end.known and (not end.signal or killed_as_meant) else [str(end)]


def read_faults(trials: int, seed: int) -> list[Result]:
    """Fail the n-th file operation of opening and asking, and of verifying; no answer may be wrong."""
    staging.CHUNK = CHUNK
    chance, world, tallies = random.Random(seed), World(seed), []
    with folder() as here:
        path = here / "index"
        for operation in map(world.next, ("build", "add", "delete", "add", "upsert")):
            if wrong := again(path, operation, first=True):
                raise AssertionError(f"{operation.name} without any fault: {wrong}")
        for look_at in (ask, _problems):
            work = partial(_told, look_at, path, world.known())
            counted = _counted(work, path)
            for mode in COMMAND_MODES:
                total = counted[mode == "read EIO"]
                tally = Tally(f"{look_at.__name__.strip('_')}, {mode}")
                for n in sorted(chance.sample(range(1, total + 1), min(max(1, trials // 6), total))):
                    end = in_child(partial(_armed, path, n, mode, work))
                    wrong = unexpected(end)
                    if end.told and look_at is ask:  # verify may find nothing: what fails once is read again
                        wrong += end.told[0]
                    tally.add(f"seed {seed}, {n} of {total}", wrong + look(path, operation, acknowledged=True)[0])
                tallies.append(tally)
    return [tally.result for tally in tallies]


def _problems(path: Path, state: State) -> list[str]:
    with Engine.open(path, model=MODEL) as engine:
        return [check.problem for check in engine.verify(deep=True) if check.problem]


def _told(look_at: Callable[[Path, State], list[str]], path: Path, state: State, tell: Tell) -> None:
    tell(look_at(path, state))


def full_disks(trials: int, seed: int) -> list[Result]:
    """Do every operation on a disk with a few pages left, more and more until it succeeds; then make room for it."""
    tally, failed = Tally("full disk"), Tally("... that failed")
    stride = max(1, 1500 // trials)
    with folder() as here, Disk(here / "disk") as disk:
        for operation, path in _operations(seed, here):
            for pages in count(0, stride):
                ends = []
                for way in WAYS:
                    disk.hold(path)
                    disk.leave(pages)
                    ends.append(end := in_child(partial(way, operation, disk.index)))
                    disk.leave(None)
                    wrong = unexpected(end) + look(disk.index, operation, acknowledged=bool(end.told))[0]
                    wrong += again(disk.index, operation)
                    tally.add(f"seed {seed}, {operation.name} by {way.__name__[1:]}, {pages} pages left", wrong)
                failed.number += sum(not end.well for end in ends)
                if all(end.well for end in ends):
                    break
    return [tally.result, failed.result]


def read_only_folders(trials: int, seed: int) -> list[Result]:
    """Do every operation in a folder that nothing can be written to; what is there can be asked all the same.

    Then by an engine that was opened in such a folder, when it has become one that can be written to.
    """
    refused, opened = Tally("read-only folder"), Tally("opened in a read-only folder")
    with folder() as here, Disk(here / "disk") as disk:
        for world_seed in range(seed, seed + -(-trials // (2 * len(NAMES)))):
            for operation, path in _operations(world_seed, here):
                for way, with_log in zip(WAYS, (True, False), strict=True):
                    label = f"seed {world_seed}, {operation.name} by {way.__name__[1:]}, with_log={with_log}"
                    disk.hold(path, with_log=with_log)
                    disk.write_protect(True)
                    end = in_child(partial(way, operation, disk.index))
                    wrong = unexpected(end) + (["it succeeded"] if end.well and operation.name != "compact" else [])
                    if operation.before is not None:
                        asked = in_child(partial(_told, ask, disk.index, operation.before))
                        wrong += asked.told[0] if asked.well else [f"asked: {asked}"]
                        end = in_child(partial(_opened_before, disk, operation))
                        changed = unexpected(end) + (end.told[0] if end.told else [])
                        changed += look(disk.index, operation, acknowledged=bool(end.told))[0]
                        opened.add(label, changed + again(disk.index, operation))
                        disk.hold(path, with_log=with_log)
                    disk.write_protect(False)
                    wrong += look(disk.index, operation, acknowledged=False)[0] + again(disk.index, operation)
                    refused.add(label, wrong)
    return [refused.result, opened.result]


def _opened_before(disk: Disk, operation: Operation, tell: Tell) -> None:
    """Open an index where nothing can be written to, then make that possible, then try to change it."""
    engine = operation.start(disk.index, MODEL)
    disk.write_protect(False)
    operation.change(engine)
    tell(answers(engine, operation.after))


def little_memory(trials: int, seed: int) -> list[Result]:
    """Do every operation with little memory left, more and more until it succeeds; then with all there is.

    All that is imported late is imported before: what a dynamic linker does without memory is not ours.
    """
    tally, failed = Tally("little memory"), Tally("... that failed")
    growth = min(32.0, 2 ** (160 / trials))
    with folder() as here:
        for operation, path in _operations(seed, here):
            for number in count():
                room, ends, trial = int(growth**number * (1 << 14)), [], here / "trial"
                for way in WAYS:
                    copy(path, trial)
                    ends.append(end := in_child(partial(_with_little_memory, room, way, operation, trial)))
                    wrong = unexpected(end) + look(trial, operation, acknowledged=bool(end.told))[0]
                    wrong += again(trial, operation)
                    tally.add(f"seed {seed}, {operation.name} by {way.__name__[1:]}, {room} bytes left", wrong)
                failed.number += sum(not end.well for end in ends)
                if all(end.well for end in ends):
                    break
    return [tally.result, failed.result]


def _with_little_memory(room: int, way: Way, operation: Operation, path: Path, tell: Tell) -> None:
    """Fill all memory there is and give so much of it back, in pieces."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (1 << 20) + room, resource.RLIM_INFINITY))
    hoard: list[bytearray] = []
    piece = 1 << 20
    while piece >= 1 << 10:
        try:
            hoard.append(bytearray(piece))
        except MemoryError:
            piece //= 2
    while hoard and room > 0:
        room -= len(hoard.pop())
    try:
        way(operation, path, tell)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))


WAYS: tuple[Way, ...] = (_call, _command)


def _operations(seed: int, here: Path) -> Iterator[tuple[Operation, Path]]:
    """Every operation with the folder of an index to do it to, a copy of it that is."""
    staging.CHUNK = CHUNK
    world, path = World(seed), here / f"index-{seed}"
    for operation in map(world.next, NAMES):
        yield operation, path
        if wrong := again(path, operation, first=True):
            raise AssertionError(f"{operation.name} without any fault: {wrong}")


class Disk:
    """A small disk of its own (tmpfs), in a namespace of this process: it ends with it. Only root can make one.

    Parameters
    ----------
    place : Path
        Where it is mounted.
    """

    def __init__(self, place: Path) -> None:
        self._place, self.index = place, place / "index"

    def __enter__(self) -> Disk:
        self._place.mkdir()
        if _LIBC.unshare(_NEW_MOUNTS):
            raise OSError(ctypes.get_errno(), "unshare")
        _mount(None, Path("/"), None, _PRIVATE | _RECURSIVE, "")
        _mount("tmpfs", self._place, "tmpfs", 0, _ROOMY)
        return self

    def __exit__(self, *_: object) -> None:
        if _LIBC.umount2(os.fsencode(self._place), 0):
            raise OSError(ctypes.get_errno(), "umount")

    def hold(self, path: Path, *, with_log: bool = True) -> None:
        """A copy of an index, and nothing else; perhaps without SQLite's log, which is empty."""
        copy(path, self.index)
        if not with_log:
            for log in self.index.glob("catalogue.sqlite-*"):
                log.unlink()

    def leave(self, pages: int | None) -> None:
        """So many pages of 4 KiB can be written; None gives room enough."""
        found = os.statvfs(self._place)
        used = (found.f_blocks - found.f_bfree) * found.f_frsize
        size = _ROOMY if pages is None else f"size={used + max(1, 4096 * pages)}"
        _mount("tmpfs", self._place, "tmpfs", _REMOUNT, size)

    def write_protect(self, on: bool) -> None:
        """Nothing can be written; or again."""
        _mount("tmpfs", self._place, "tmpfs", _REMOUNT | (_READ_ONLY if on else 0), _ROOMY)


_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_MOUNTS, _READ_ONLY, _REMOUNT, _RECURSIVE, _PRIVATE = 0x20000, 1, 32, 1 << 14, 1 << 18
_ROOMY = "size=64m"


def _mount(source: str | None, place: Path, kind: str | None, flags: int, options: str) -> None:
    encoded = [None if word is None else word.encode() for word in (source, kind)]
    if _LIBC.mount(encoded[0], os.fsencode(place), encoded[1], ctypes.c_ulong(flags), options.encode()):
        raise OSError(ctypes.get_errno(), f"mount {place}: {os.strerror(ctypes.get_errno())}")


def why_no_disk() -> str:
    """Why `Disk` cannot be had here; empty if it can."""
    try:
        in_fresh_process(_try_disk)
    except RuntimeError:
        return "only root can mount a small disk"
    return ""


def _try_disk() -> None:
    with folder() as here, Disk(here / "disk"):
        pass
