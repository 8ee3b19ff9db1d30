"""Ways in which files rot: each damages one file of an index folder and says which names an error may give.

A damage is made in a copy; the copies it takes other files from (an older state, another index) stay as they are.
"""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from indexes.catalogue import document_checksum

BLOCK = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Patient:
    """A file that is to be damaged.

    Parameters
    ----------
    folder : Path
        The index folder, a copy.
    name : str
        The file, relative to the folder.
    older : Path
        The same index, some commits before.
    other : Path
        An index of other documents.
    outside : Path
        An empty folder beside the index.
    """

    folder: Path
    name: str
    older: Path
    other: Path
    outside: Path

    @property
    def path(self) -> Path:
        return self.folder / self.name


Damage = Callable[[Patient, random.Random], set[str]]
"""Does it; the names of the files that are not what they were."""


def files_of(folder: Path) -> list[str]:
    """The files of an index folder that hold something, relative to it; the lock holds nothing."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.stat().st_size)
    return [path.relative_to(folder).as_posix() for path in paths if not path.name.startswith("write.lock")]


def _rewrite(change: Callable[[bytearray, random.Random], None]) -> Damage:
    """Damage that changes the bytes of a file."""

    def damage(patient: Patient, rng: random.Random) -> set[str]:
        data = bytearray(patient.path.read_bytes())
        change(data, rng)
        patient.path.write_bytes(data)
        return {patient.name}

    return damage


def _truncated(size: Callable[[int], int]) -> Damage:
    def cut(data: bytearray, rng: random.Random) -> None:
        del data[size(len(data)) :]

    return _rewrite(cut)


def _flip(data: bytearray, rng: random.Random) -> None:
    written = [position for position, byte in enumerate(data) if byte]
    anywhere = rng.random() < 0.2 or not written  # else where something is written
    position = rng.randrange(len(data)) if anywhere else rng.choice(written)
    data[position] ^= 1 << rng.randrange(8)


def _zero_block(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(0, len(data), BLOCK)
    data[start : start + BLOCK] = bytes(len(data[start : start + BLOCK]))


def _zero_all(data: bytearray, rng: random.Random) -> None:
    data[:] = bytes(len(data))


def _noise_block(data: bytearray, rng: random.Random) -> None:
    start = rng.randrange(len(data))
    data[start : start + 64] = rng.randbytes(len(data[start : start + 64]))


def _block_of_older(patient: Patient, rng: random.Random) -> set[str]:
    """A block that was not written: what stood there before is still there."""
    data, old = bytearray(patient.path.read_bytes()), _same_role(patient, patient.older).read_bytes()
    start = rng.randrange(0, min(len(data), len(old)), BLOCK)
    block = old[start : start + BLOCK]
    data[start : start + len(block)] = block
    patient.path.write_bytes(data)
    return {patient.name}


def _delete(patient: Patient, rng: random.Random) -> set[str]:
    patient.path.unlink()
    return {patient.name}


def _swap(patient: Patient, rng: random.Random) -> set[str]:
    others = [name for name in files_of(patient.folder) if name != patient.name]
    other = patient.folder / rng.choice(others)
    aside = patient.outside / "aside"
    patient.path.rename(aside)
    other.rename(patient.path)
    aside.rename(other)
    return {patient.name, other.relative_to(patient.folder).as_posix()}


def _same_role(patient: Patient, folder: Path) -> Path:
    """The file of another folder that does what this one does, or comes near to it."""
    if (folder / patient.name).is_file():
        return folder / patient.name
    names = files_of(folder)
    return folder / next((name for name in names if name.endswith(patient.path.suffix)), names[0])


def _from(where: Callable[[Patient], Path]) -> Damage:
    def replace(patient: Patient, rng: random.Random) -> set[str]:
        shutil.copyfile(_same_role(patient, where(patient)), patient.path)
        return {patient.name}

    return replace


def _grown(data: Callable[[random.Random], bytes]) -> Damage:
    def grow(old: bytearray, rng: random.Random) -> None:
        old += data(rng)

    return _rewrite(grow)


def _symlink(patient: Patient, rng: random.Random) -> set[str]:
    moved = patient.path.rename(patient.outside / "moved")
    patient.path.symlink_to(moved)
    return {patient.name}


def _folder(patient: Patient, rng: random.Random) -> set[str]:
    patient.path.unlink()
    patient.path.mkdir()
    return {patient.name}


def _fifo(patient: Patient, rng: random.Random) -> set[str]:
    patient.path.unlink()
    os.mkfifo(patient.path)
    return {patient.name}


DAMAGES: dict[str, Damage] = {
    "a flipped bit": _rewrite(_flip),
    "cut to nothing": _truncated(lambda size: 0),
    "cut to a byte": _truncated(lambda size: 1),
    "cut to its header": _truncated(lambda size: min(100, size - 1)),
    "cut in half": _truncated(lambda size: size // 2),
    "cut by a byte": _truncated(lambda size: size - 1),
    "a block of zeros": _rewrite(_zero_block),
    "all zeros": _rewrite(_zero_all),
    "64 bytes of noise": _rewrite(_noise_block),
    "a block of an older state": _block_of_older,
    "deleted": _delete,
    "swapped with another file": _swap,
    "that of an older state": _from(lambda patient: patient.older),
    "that of another index": _from(lambda patient: patient.other),
    "grown by a byte": _grown(lambda rng: rng.randbytes(1)),
    "grown by noise": _grown(lambda rng: rng.randbytes(BLOCK)),
    "grown by zeros": _grown(lambda rng: bytes(BLOCK)),
    "a link to itself elsewhere": _symlink,
    "a folder": _folder,
    "a pipe": _fifo,
}


def _stray(suffix: str, data: Callable[[Patient, random.Random], bytes]) -> Damage:
    """Damage that puts something beside the catalogue which SQLite believes to belong to it."""

    def put(patient: Patient, rng: random.Random) -> set[str]:
        path = patient.path.with_name(patient.path.name + suffix)
        path.write_bytes(data(patient, rng))
        return {patient.name}

    return put


def _log_of(where: Callable[[Patient], Path]) -> Callable[[Patient, random.Random], bytes]:
    """The write-ahead log of another catalogue, in which one document or all have lost their metadata."""

    def log(patient: Patient, rng: random.Random) -> bytes:
        copy = patient.outside / "copy.sqlite"
        shutil.copyfile(where(patient) / "catalogue.sqlite", copy)
        with closing(sqlite3.connect(copy)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            found = database.execute("SELECT row, id, text_hash FROM documents").fetchall()
            rows = [(document_checksum(row, doc_id, "{}", text), row) for row, doc_id, text in found]
            with database:
                database.executemany(
                    "UPDATE documents SET metadata = '{}', checksum = ? WHERE row = ?",
                    rows if rng.random() < 0.5 else [rng.choice(rows)],
                )
            return copy.with_name(copy.name + "-wal").read_bytes()

    return log


def _journal(patient: Patient, rng: random.Random) -> bytes:
    """The rollback journal of a transaction in an older copy, left by a kill."""
    copy = patient.outside / "copy.sqlite"
    shutil.copyfile(patient.older / "catalogue.sqlite", copy)
    with closing(sqlite3.connect(copy, isolation_level=None)) as database:
        for pragma in ("journal_mode = DELETE", "cache_size = 1", "cache_spill = 1"):
            database.execute(f"PRAGMA {pragma}")
        database.execute("BEGIN")
        database.execute("UPDATE documents SET truncated = 1 - truncated")
        return copy.with_name(copy.name + "-journal").read_bytes()


STRAYS: dict[str, Damage] = {
    "beside it a log of noise": _stray("-wal", lambda patient, rng: rng.randbytes(9000)),
    "beside it the log of a newer state": _stray("-wal", _log_of(lambda patient: patient.folder)),
    "beside it the log of an older state": _stray("-wal", _log_of(lambda patient: patient.older)),
    "beside it the log of another index": _stray("-wal", _log_of(lambda patient: patient.other)),
    "beside it a journal of noise": _stray("-journal", lambda patient, rng: rng.randbytes(9000)),
    "beside it the journal of an older state": _stray("-journal", _journal),
    "beside it shared memory of noise": _stray("-shm", lambda patient, rng: rng.randbytes(32768)),
}
"""Damages of the catalogue that leave its file as it is."""
