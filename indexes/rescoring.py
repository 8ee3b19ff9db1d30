"""Scores by the raw vectors themselves, of the few rows that codes have found.

Of a file of raw vectors that has sums (`indexes.blocks`), as much is verified as is read. One without them, of a
segment that was written before there were any (format version 4), is read whole when its first row is, once in a
process. That takes some seconds for a gigabyte, which is why there is a limit for those (`WHOLE`): beyond it the codes
alone decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import IndexCorruptError
from .files import FileEntry
from .loaded import DECIMALS, LoadedSegment
from .manifest import Segment
from .stored import Rows

Int64 = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
Unit = Callable[[Floats], NDArray[np.float32]]
"""Makes the unit rows that are searched of raw ones."""

MARGIN, COARSE = 8, 4
"""Rows beyond k that are scored again, and how many times k where the codes have fewer than 8 bits a number."""

WHOLE = 1 << 30
"""Bytes of raw vectors that are read whole, once, to be believed."""

AT_ONCE = 16_384
"""Rows that are scored together: some kilobytes each."""


class Rescoring:
    """The raw vectors of an index's segments, opened when they are first needed.

    Parameters
    ----------
    opened : callable
        Those of a segment; any of them can be read, and is verified by then.
    """

    def __init__(self, opened: Callable[[Segment], Rows]) -> None:
        self._opened = opened
        self._open: dict[FileEntry, Rows] = {}

    def keep(self, segments: Sequence[LoadedSegment]) -> None:
        """Let go of the files of other segments than these."""
        files = {loaded.segment.raw for loaded in segments}
        self._open = {file: array for file, array in self._open.items() if file in files}

    def scores(
        self,
        segments: Sequence[LoadedSegment],
        shape: tuple[int, str],
        vectors: NDArray[np.float32],
        rows: Int64,
        unit: Unit,
    ) -> NDArray[np.float64]:
        """The scores of what was found by the raw vectors, of shape (q, m), rounded.

        Parameters
        ----------
        segments : sequence of LoadedSegment
        shape : (int, str)
            Columns and dtype of raw vectors.
        vectors : ndarray of shape (q, dim), float32
            Unit rows.
        rows : ndarray of shape (q, m)
            What the structures found; row -1, of score -inf, is none.
        unit : callable

        Raises
        ------
        IndexCorruptError
            If raw vectors are not what was committed.
        """
        wanted = np.unique(rows[rows >= 0])
        raw = np.empty((len(wanted), shape[0]), shape[1])
        for loaded in segments:
            places = np.searchsorted(loaded.rows, wanted).clip(max=len(loaded.rows) - 1)
            here = loaded.rows[places] == wanted
            if here.any():
                try:
                    raw[here] = self.rows_of(loaded.segment)[places[here]]
                except IndexCorruptError:
                    self._open.clear()  # a good file may be put in its place
                    raise
        # subtle: equal rows in different places of a product differ in their last digits, and would not tie
        first: dict[bytes, int] = {}
        own = unit(raw).astype(np.float64)[[first.setdefault(row.tobytes(), at) for at, row in enumerate(raw)]]
        found = np.full(rows.shape, -np.inf)
        for query, vector in enumerate(vectors.astype(np.float64)):
            there = np.flatnonzero(rows[query] >= 0)
            of_query = own[np.searchsorted(wanted, rows[query, there])]
            found[query, there] = np.einsum("nd,d->n", of_query, vector).round(DECIMALS)  # not by BLAS's threads
        return found

    def rows_of(self, segment: Segment) -> Rows:
        """The raw vectors of a segment, any of which can be read, and is verified by then."""
        assert segment.raw is not None
        if segment.raw not in self._open:
            self._open[segment.raw] = self._opened(segment)
        return self._open[segment.raw]


def depth_of(segments: Sequence[LoadedSegment], k: int) -> tuple[bool, int]:
    """Whether codes are to be rescored, and how many rows must be found so that the best k are among them."""
    codes = min((loaded.index.bits for loaded in segments), default=32)
    whole = [loaded.segment.raw for loaded in segments if loaded.segment.sums is None]
    size = sum(raw.bytes for raw in whole if raw is not None)
    return codes < 32 and size <= WHOLE, (k if codes >= 8 else COARSE * k) + MARGIN
