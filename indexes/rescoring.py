"""Scores by the raw vectors themselves, of the few rows that codes have found.

Of a file of raw vectors a search reads some rows, so its checksum, which takes reading all of it, is left to the
commands that do. What is read is held against the code of the row instead; where the two scores differ by more than
codes do, the checksum decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import RESTORE, IndexCorruptError, VectorError
from .files import FileEntry, map_array
from .loaded import DECIMALS, LoadedSegment
from .vectors import EIGHT_BITS

Int64 = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
Unit = Callable[[Floats], NDArray[np.float32]]
"""Makes the unit rows that are searched of raw ones."""

MARGIN, COARSE = 8, 4
"""Rows beyond k that are scored again, and how many times k where the codes have fewer than 8 bits a number."""


class Rescoring:
    """The raw vectors of an index's segments, opened when they are first needed.

    Parameters
    ----------
    folder : Path
        Where the files are.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._open: dict[FileEntry, Floats] = {}
        self._sound: set[FileEntry] = set()

    def keep(self, segments: Sequence[LoadedSegment]) -> None:
        """Let go of the files of other segments than these."""
        files = {loaded.segment.raw for loaded in segments}
        self._open = {file: array for file, array in self._open.items() if file in files}

    def rescored(
        self,
        segments: Sequence[LoadedSegment],
        shape: tuple[int, str],
        vectors: NDArray[np.float32],
        scores: Floats,
        rows: Int64,
        unit: Unit,
    ) -> tuple[NDArray[np.float64], Int64]:
        """Scores and rows, best first.

        Parameters
        ----------
        segments : sequence of LoadedSegment
        shape : (int, str)
            Columns and dtype of raw vectors.
        vectors : ndarray of shape (q, dim), float32
            Unit rows.
        scores, rows : ndarray of shape (q, m)
            What the structures found; row -1, with score -inf, is none.
        unit : callable

        Raises
        ------
        IndexCorruptError
            If the raw vectors are not what was committed.
        """
        wanted = np.unique(rows[rows >= 0])
        raw = np.empty((len(wanted), shape[0]), shape[1])
        for loaded in segments:
            here = np.isin(wanted, loaded.rows)
            if here.any():
                raw[here] = self._array(loaded, shape)[loaded.positions_of(wanted[here])]
        doubtful = False
        try:
            own = unit(raw).astype(np.float64)
        except VectorError as error:
            self._read_whole(segments)
            raise IndexCorruptError(f"{self._folder}: a raw vector cannot be used ({error}); {RESTORE}") from error
        most = max((loaded.index.error for loaded in segments), default=0.0)
        found = np.full(scores.shape, -np.inf)
        for query, vector in enumerate(vectors.astype(np.float64)):
            there = np.flatnonzero(rows[query] >= 0)
            places = np.searchsorted(wanted, rows[query, there])
            found[query, there] = (own[places] @ vector).round(DECIMALS)
            doubtful |= not (np.abs(found[query, there] - scores[query, there]) <= most).all()
        if doubtful:  # damage, or a row far from all that the codes learned their range from
            self._read_whole(segments)
        best = np.argsort(-found, axis=1, kind="stable")
        return np.take_along_axis(found, best, 1), np.take_along_axis(rows, best, 1)

    def _read_whole(self, segments: Sequence[LoadedSegment]) -> None:
        """Hold every byte of the raw vectors against its checksum, once."""
        for loaded in segments:
            if loaded.segment.raw is not None and loaded.segment.raw not in self._sound:
                loaded.segment.raw.verify(self._folder)
                self._sound.add(loaded.segment.raw)

    def _array(self, loaded: LoadedSegment, shape: tuple[int, str]) -> Floats:
        file = loaded.segment.raw
        assert file is not None
        if file not in self._open:
            path = file.verify(self._folder, content=False)
            self._open[file] = map_array(path, (loaded.segment.count, shape[0]), shape[1])
        return self._open[file]


def depth_of(segments: Sequence[LoadedSegment], k: int) -> tuple[bool, int]:
    """Whether the structures hold codes, and how many rows must be found so that the best k are among them."""
    error = max((loaded.index.error for loaded in segments), default=0.0)
    return error > 0, (k if error <= EIGHT_BITS else COARSE * k) + MARGIN
