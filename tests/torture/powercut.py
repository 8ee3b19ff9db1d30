"""Power cuts: every disk that there may be when the power goes after the i-th file operation.

Of what was not fsynced, any part may be there: of a file any of the blocks written since its last fsync, of a folder
its changes up to any one since its last fsync. What was fsynced is there. A folder made of that must open as the last
acknowledged state, or as the one that was being made. That is harder than most file systems are; SQLite promises as
much of its own files.

`shim.record` sees the operations. SQLite's -shm files are left out of the images: they are memory, not data.
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import count
from pathlib import Path

from indexes import staging

from . import shim
from .children import Tell, in_child, in_fresh_process
from .kills import CHUNK, NAMES, folder
from .result import Result
from .world import MODEL, Operation, Tally, World, again, look

Change = tuple[str, int, bytes]
"""Of a file: "write", offset, data; or "truncate", size, nothing."""


@dataclass(eq=False, slots=True)
class File:
    """What of a file is safe, and what has been done to it since."""

    safe: bytes = b""
    since: list[Change] = field(default_factory=list)

    def sync(self) -> None:
        """All that was done is safe."""
        self.safe, self.since = self.content(lambda _: True, 1 << 30), []

    def content(self, survives: Callable[[Change], bool], block: int) -> bytes:
        """The bytes that are there if of what is not safe those blocks survive."""
        made = bytearray(self.safe)
        for kind, offset, data in self.since:
            for change in [(kind, offset, data)] if kind == "truncate" else _blocks(offset, data, block):
                if survives(change):
                    _, at, piece = change
                    end = at + len(piece)
                    if kind == "truncate":
                        del made[at:]
                    made.extend(bytes(max(0, end - len(made))))
                    made[at:end] = piece
        return bytes(made)


@dataclass(eq=False, slots=True)
class Folder:
    """Which names in a folder are safe, and what has been done to them since: name and what it is now, or None."""

    safe: dict[str, File | Folder] = field(default_factory=dict)
    since: list[dict[str, File | Folder | None]] = field(default_factory=list)

    def sync(self) -> None:
        """All that was done is safe."""
        self.safe, self.since = self.names(len(self.since)), []

    def names(self, survivors: int) -> dict[str, File | Folder]:
        """What is there if the first so many changes survive."""
        made: dict[str, File | Folder | None] = dict(self.safe)
        for change in self.since[:survivors]:
            made |= change
        return {name: one for name, one in made.items() if one is not None}


class Disk:
    """The files below a folder as a disk has them, while recorded operations are done to it.

    Parameters
    ----------
    root : Path
        All that lies in it now is taken to be safe.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._by_inode = root, dict[int, File | Folder]()
        self._top = Folder()
        self._by_inode[root.stat().st_ino] = self._top
        for path in sorted(root.rglob("*")):
            made = self._by_inode.setdefault(
                path.stat().st_ino, Folder() if path.is_dir() else File(safe=path.read_bytes())
            )
            self._at(path.parent).safe[path.name] = made

    def do(self, one: shim.Recorded) -> None:
        """Do an operation."""
        if one.kind in "WTS":
            found = self._by_inode[one.inode]
            if one.kind == "S":
                found.sync()
            elif isinstance(found, File):
                change = ("write", one.offset, one.first) if one.kind == "W" else ("truncate", one.offset, b"")
                found.since.append(change)
            return
        path = Path(os.fsdecode(one.first))
        here = self._at(path.parent)
        if one.kind in "CD":
            self._by_inode[one.inode] = made = File() if one.kind == "C" else Folder()
            here.since.append({path.name: made})
        elif one.kind == "U":
            here.since.append({path.name: None})
        else:
            to = Path(os.fsdecode(one.second))
            moved = here.names(len(here.since))[path.name]
            if one.kind == "L":
                self._at(to.parent).since.append({to.name: moved})
            else:
                assert to.parent == path.parent, f"{path} was renamed to {to}: another folder"
                here.since.append({path.name: None, to.name: moved})

    def _at(self, path: Path) -> Folder:
        here: File | Folder = self._top
        for part in path.relative_to(self._root).parts:
            assert isinstance(here, Folder)
            here = here.names(len(here.since))[part]
        assert isinstance(here, Folder)
        return here

    def image(self, to: Path, chance: random.Random, share: float) -> str:
        """Write what may be there if the power goes now, and say by a hash what it is.

        Parameters
        ----------
        share : float
            Of the changes that are not safe, how many survive: 0 none, 1 all.
        """
        written, digest = dict[File, Path](), hashlib.sha256()
        block = chance.choice((512, 4096))

        def survivors(n: int) -> int:
            return int(share * n) if share in (0, 1) else chance.randint(0, n)

        def write(there: Folder, path: Path) -> None:
            path.mkdir()
            for name, one in sorted(there.names(survivors(len(there.since))).items()):
                digest.update(str(path / name).encode())
                if isinstance(one, Folder):
                    write(one, path / name)
                elif one in written:
                    (path / name).hardlink_to(written[one])
                elif not name.endswith("-shm"):
                    data = one.content(lambda _: share == 1 or chance.random() < share, block)
                    (path / name).write_bytes(data)
                    written[one] = path / name
                    digest.update(hashlib.sha256(data).digest())

        shutil.rmtree(to, ignore_errors=True)
        write(self._top, to)
        return digest.hexdigest()


def run(trials: int, seed: int) -> list[Result]:
    """So many images of disks; all of the operations of a world, and of several worlds if they are not enough."""
    found: list[Result] = in_fresh_process(power_cuts, trials, seed, preload=shim.library())
    return found


def power_cuts(trials: int, seed: int) -> list[Result]:
    """Cut the power after file operations of a world, chosen evenly; each time some disks that there may be."""
    staging.CHUNK = CHUNK
    tally, chance = Tally("power cut"), random.Random(seed)
    for world_seed in count(seed):
        if tally.number >= trials:
            break
        world = World(world_seed)
        operations = [world.next(name) for name in NAMES]
        with folder() as here:
            (root := here / "disk").mkdir()
            disk = Disk(root)
            done = in_child(partial(_recorded, operations, root, here / "log"))
            if not done.well:
                raise AssertionError(f"world {world_seed} without a power cut: {done}")
            recorded = list(shim.read_record(here / "log"))
            wanted = -(-(trials - tally.number) // len(SHARES))
            cuts = set(chance.sample(range(len(recorded)), min(wanted, len(recorded))))
            seen: set[tuple[str, int, bool]] = set()
            current, acknowledged = 0, False
            for number, one in enumerate(recorded):
                if one.kind == "M":
                    word, at = one.first.decode().split()
                    current, acknowledged = int(at), word == "acknowledged"
                else:
                    disk.do(one)
                if number not in cuts:
                    continue
                operation = operations[current]
                for share in SHARES:
                    image = here / "image"
                    made = (disk.image(image, chance, share), current, acknowledged)
                    if made in seen:
                        continue
                    seen.add(made)
                    wrong = look(image / "index", operation, acknowledged=acknowledged)[0]
                    wrong += again(image / "index", operation)
                    when = "after" if acknowledged else "in"
                    label = f"world {world_seed}, operation {number} of the disk ({when} {operation.name})"
                    tally.add(f"{label}, {share:.0%} of what was not safe survives", wrong)
    return [tally.result]


SHARES = (0.0, 1.0, 0.5, 0.5, 0.9, 0.1)
"""Of what is not safe, how much survives, in the images of one moment."""


def _recorded(operations: list[Operation], root: Path, log: Path, tell: Tell) -> None:
    shim.record(root, log)
    for number, operation in enumerate(operations):
        shim.mark(f"begun {number}")
        engine = operation.do(root / "index", MODEL)
        shim.mark(f"acknowledged {number}")
        engine.close()


def _blocks(offset: int, data: bytes, size: int) -> Iterator[Change]:
    """A write, cut where blocks of the disk begin."""
    start = 0
    while start < len(data):
        end = min(len(data), start + size - (offset + start) % size)
        yield "write", offset + start, data[start:end]
        start = end
