"""Vectors of several segments, read as one array that never lies in memory as a whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Int64 = NDArray[np.int64]
Vectors = NDArray[Any]
Role = Literal["raw", "scores", "neighbors"]
"""What is kept of each row beside the search structure."""
Rows = Any  # what is indexed by positions like an array of shape (m, d): an array, a memory map, decoded rows


NEIGHBOR = np.dtype([("row", "<i4"), ("angle", "<f4")])
"""A row near another one, -1 where there is no further one, and the angle between them in radians; NaN where nobody has
looked yet."""


def blank(n: int, width: int, dtype: Any) -> NDArray[Any]:
    """What stands for rows that were not scored, or not linked, yet: NaN, of shape (n, width), in no memory."""
    return np.broadcast_to(np.array((-1, np.nan) if dtype == NEIGHBOR else np.nan, dtype), (n, width))


class StoredVectors:
    """The chosen rows of some (memory-mapped) arrays, one after the other, of shape (n, d).

    Slices and arrays of positions give copies of the rows asked for; nothing else is read.

    Parameters
    ----------
    parts : sequence of (vectors, positions, rows)
        Vectors of shape (m, d); the positions (ascending, int64) that count, None for all; and the index's
        row number of each of those.
    dim : int
    dtype : numpy dtype

    Attributes
    ----------
    rows : ndarray of shape (n,), int64
        The index's row numbers.

    Examples
    --------
    >>> a, b = np.zeros((2, 1)), np.array([[5.0], [6.0], [7.0]])
    >>> both = StoredVectors([(a, None, np.array([0, 1])), (b, np.array([0, 2]), np.array([2, 4]))], 1, a.dtype)
    >>> both.shape, both[1:4].ravel().tolist(), both[np.array([3, 0])].ravel().tolist(), both.rows.tolist()
    ((4, 1), [0.0, 5.0, 7.0], [7.0, 0.0], [0, 1, 2, 4])
    """

    def __init__(self, parts: Sequence[tuple[Rows, Int64 | None, Int64]], dim: int, dtype: Any) -> None:
        self._parts = list(parts)
        self.rows: Int64 = np.concatenate([np.empty(0, np.int64), *(rows for _, _, rows in parts)])
        sizes = [len(vectors) if positions is None else len(positions) for vectors, positions, _ in self._parts]
        self._starts = np.cumsum([0, *sizes])
        self.shape, self.dtype = (int(self._starts[-1]), dim), np.dtype(dtype)

    @classmethod
    def of(cls, vectors: Vectors, rows: Int64) -> StoredVectors:
        """All of one array."""
        return cls([(vectors, None, rows)], vectors.shape[1], vectors.dtype)

    def __add__(self, other: StoredVectors) -> StoredVectors:
        return StoredVectors([*self._parts, *other._parts], self.shape[1], self.dtype)

    def __len__(self) -> int:
        return self.shape[0]

    def of_rows(self, rows: Int64) -> Vectors:
        """The vectors of some of `rows`, in this order."""
        return self[np.searchsorted(self.rows, rows)]

    def whole(self) -> Vectors:
        """All of them in one array; memory-mapped where it is one part without deletions."""
        if len(self._parts) == 1 and self._parts[0][1] is None:
            only: Vectors = self._parts[0][0]
            return only
        return self[:]

    def __getitem__(self, key: slice | Int64) -> Vectors:
        wanted = np.arange(*key.indices(len(self))) if isinstance(key, slice) else np.asarray(key)
        out = np.empty((len(wanted), self.shape[1]), self.dtype)
        part_of = np.searchsorted(self._starts, wanted, side="right") - 1
        for number in np.unique(part_of):
            vectors, positions, _ = self._parts[number]
            here = part_of == number
            places = wanted[here] - self._starts[number]
            out[here] = vectors[places if positions is None else positions[places]]
        return out
