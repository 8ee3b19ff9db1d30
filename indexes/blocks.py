"""A large file of rows, of which only what is read is held against its checksum.

The sums of a file are the SHA-256 of each of its blocks of 16 KiB (the last may be shorter), one after the other.
"""

from __future__ import annotations

import hashlib
import os
import weakref
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from .errors import ENCODE_AGAIN, RESTORE, IndexCorruptError
from .files import map_array

Int64 = NDArray[np.int64]

BLOCK = 1 << 14
"""Bytes that are believed together: some rows of raw vectors."""

SIZE = hashlib.sha256().digest_size


def sums_of(path: Path, sha256: str) -> bytes:
    """The sums of a file.

    Raises
    ------
    IndexCorruptError
        If its SHA-256 (hex) is another one.
    """
    whole, sums = hashlib.sha256(), bytearray()
    with path.open("rb") as file:
        for block in iter(partial(file.read, BLOCK), b""):
            whole.update(block)
            sums += hashlib.sha256(block).digest()
    if whole.hexdigest() != sha256:
        raise IndexCorruptError(f"{path} is not what was committed (its SHA-256 differs); {ENCODE_AGAIN}")
    return bytes(sums)


class CheckedRows:
    """An array on the disk, of shape (n, d), whose rows are verified when they are read.

    Parameters
    ----------
    path : Path
        A .npy file; it is held open, and not mapped into memory: what the disk cannot read is an OSError.
    shape, dtype
        Of the array.
    sums : bytes
        See `sums_of`.

    Raises
    ------
    IndexCorruptError
        If the file is of another length than its sums tell, or no such array; when rows are read, if a block of theirs
        is not what was committed.
    """

    def __init__(self, path: Path, shape: tuple[int, int], dtype: Any, sums: bytes) -> None:
        self._path, self._sums = path, sums
        size = path.stat().st_size
        if not size or len(sums) != SIZE * -(-size // BLOCK):
            raise IndexCorruptError(f"the checksums of {path} are those of a file of another length; {RESTORE}")
        self._file = os.open(path, os.O_RDONLY)
        weakref.finalize(self, os.close, self._file)
        self._good = np.zeros(len(sums) // SIZE, np.bool_)
        self._verify(0)  # the header, which is evaluated
        whole = cast("np.memmap[Any, Any]", map_array(path, shape, dtype))
        self.shape, self.dtype = whole.shape, whole.dtype
        self._start, self._stride = whole.offset, shape[1] * whole.itemsize

    def __len__(self) -> int:
        return int(self.shape[0])

    def __getitem__(self, places: Int64) -> NDArray[Any]:
        """The rows at some positions, of shape (m, d)."""
        starts = self._start + places * self._stride
        # one byte of each block that a row reaches into
        within = np.minimum(np.arange(0, self._stride + BLOCK, BLOCK), self._stride - 1)
        blocks = np.unique((starts[:, None] + within) // BLOCK)
        for number in blocks[~self._good[blocks]].tolist():
            self._verify(number)
        rows = b"".join([os.pread(self._file, self._stride, start) for start in starts.tolist()])
        return np.frombuffer(rows, self.dtype).reshape(len(places), *self.shape[1:])

    def _verify(self, number: int) -> None:
        block = os.pread(self._file, BLOCK, number * BLOCK)
        if hashlib.sha256(block).digest() != self._sums[number * SIZE : (number + 1) * SIZE]:
            raise IndexCorruptError(
                f"{self._path} is not what was committed (its SHA-256 differs from byte {number * BLOCK:,} on); "
                f"{ENCODE_AGAIN}"
            )
        self._good[number] = True
