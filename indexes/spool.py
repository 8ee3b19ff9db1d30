"""Raw vectors on their way into an index: written piece after piece, each durable before the next.

    FOLDER/raw.npy          the vectors;  truncated.bin  a byte each: whether its text was longer than the model reads
    FOLDER/progress.json    what is being made, how many rows of raw.npy are good, and their SHA-256

Leaves out whose vectors they are (`indexes.staging`).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .files import FileEntry, sha256_of, sync_folder, write_durably, write_header
from .steps import step

Bool = NDArray[np.bool_]
Vectors = NDArray[np.floating[Any]]


class Spool:
    """An array on disk that grows by rows until it has all of them.

    Parameters
    ----------
    folder : Path

    Attributes
    ----------
    encoded : int
        Rows that are there, the first ones.
    dim : int
    dtype : numpy dtype
    """

    def __init__(self, folder: Path) -> None:
        self._raw, self._flags, self._note = folder / "raw.npy", folder / "truncated.bin", folder / "progress.json"
        self._folder, self._plan = folder, dict[str, Any]()
        self.encoded, self.dim, self.dtype = 0, 0, np.dtype(np.float16)

    def find(self, count: int, dim: int, dtype: str, plan: Mapping[str, Any]) -> int:
        """Look for the rows of an interrupted run of the same plan; `encoded` says how many are good.

        Returns
        -------
        int
            Rows of another plan that `begin` would throw away, if that plan gives them the same ``first_row``; those of
            a plan whose rows were given away since can never be gone on with.
        """
        self.dim, self.dtype, self._count = dim, np.dtype(dtype), count
        self._plan = json.loads(json.dumps({"dim": dim, "dtype": dtype, **plan}))  # as it is read back: no tuples
        with (self._folder / "header.tmp").open("wb") as file:
            write_header(file, (count, dim), dtype)
            self._offset = file.tell()
        try:
            note = dict(json.loads(self._note.read_text()))
            encoded, sums = int(note.pop("encoded")), note.pop("sha256")
            if note != self._plan:
                return waiting(self._folder, self._plan["first_row"])
            self._sums = (_sum_of(self._raw, self._position(encoded)), _sum_of(self._flags, encoded))
        except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
            return 0
        if 0 <= encoded <= count and sums == [made.hexdigest() for made in self._sums]:
            self.encoded = encoded
        return 0

    def begin(self) -> None:
        """Make room behind the rows that `find` found good, or for all of them."""
        if self.encoded:
            os.truncate(self._raw, self._position(self.encoded))
            return
        # subtle: first of all, or the note of one plan would vouch for the vectors of the next
        self._note.unlink(missing_ok=True)
        sync_folder(self._folder)
        (self._folder / "header.tmp").replace(self._raw)
        self._sums = (_sum_of(self._raw, self._offset), hashlib.sha256())

    @property
    def has_vectors(self) -> bool:
        """Whether there are rows, of this run or an interrupted one, that would be lost with the folder."""
        return self.encoded > 0 or self._note.exists()

    def _position(self, row: int) -> int:
        return self._offset + row * self.dim * self.dtype.itemsize

    def append(self, rows: Vectors, flags: Bool) -> None:
        """Add rows (m, dim) of this dtype and their flags (m,), durably."""
        _write_at(self._raw, self._position(self.encoded), rows.tobytes())
        _write_at(self._flags, self.encoded, flags.tobytes())
        step("vectors written")
        self._sums[0].update(rows.tobytes())
        self._sums[1].update(flags.tobytes())
        self.encoded += len(rows)
        note = self._plan | {"encoded": self.encoded, "sha256": [made.hexdigest() for made in self._sums]}
        write_durably(self._note, json.dumps(note).encode())
        step("chunk noted")

    def vectors(self) -> Vectors:
        """The rows so far, memory-mapped, of shape (encoded, dim)."""
        if not self.encoded:
            return np.empty((0, self.dim), self.dtype)
        return np.memmap(self._raw, self.dtype, "r", self._offset, (self.encoded, self.dim))

    def flags(self) -> Bool:
        """The flags so far, of shape (encoded,), bool."""
        # not np.fromfile, which takes a disk that cannot be read for the end of the file
        return np.frombuffer(self._flags.read_bytes() if self.encoded else b"", np.bool_, self.encoded)

    def at(self, positions: NDArray[np.int64]) -> tuple[Vectors, Bool]:
        """Rows and flags that were written before, by position."""
        if not len(positions):
            return np.empty((0, self.dim), self.dtype), np.empty(0, np.bool_)
        flags = np.memmap(self._flags, np.bool_, "r", shape=(self.encoded,))
        return self.vectors()[positions], np.array(flags[positions])

    def publish(self, path: Path) -> FileEntry:
        """Give the finished array a second name; the first one stays as long as the folder."""
        path.unlink(missing_ok=True)
        try:
            os.link(self._raw, path)
        except OSError:  # a file system without hard links
            shutil.copyfile(self._raw, path)
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        return FileEntry(name=path.name, role="raw", bytes=path.stat().st_size, sha256=sha256_of(path))


def waiting(folder: Path, first_row: int) -> int:
    """How many vectors a folder holds of a run that has not ended, if its rows, from `first_row` on, are still free."""
    try:
        note = json.loads((folder / "progress.json").read_text())
        return int(note["encoded"]) if note.get("first_row", 0) == first_row else 0
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return 0


def _sum_of(path: Path, size: int) -> hashlib._Hash:
    """SHA-256 of the first bytes of a file, to be continued."""
    made = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (piece := file.read(min(size, 1 << 20))):
            made.update(piece)
            size -= len(piece)
    if size:
        raise ValueError(f"{path} is {size} bytes short")
    return made


def _write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(offset)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
