"""Scores by the raw vectors themselves, of the few rows that codes have found.

Of a file of raw vectors a search reads some rows. Where 8-bit codes lie beside them, its checksum, which takes reading
all of it, is left to the commands that do: what is read is held against the code of the row, and where the two scores
differ by more than `EIGHT_BITS` the checksum decides. Damage that moves a score by less is seen by ``verify --deep``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
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

AT_ONCE = 16_384
"""Rows that are scored together: some kilobytes each."""


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

    def scores(
        self,
        segments: Sequence[LoadedSegment],
        shape: tuple[int, str],
        vectors: NDArray[np.float32],
        codes: Floats,
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
        codes, rows : ndarray of shape (q, m)
            Scores by the structures, and what they found; row -1, with score -inf, is none.
        unit : callable

        Raises
        ------
        IndexCorruptError
            If raw vectors are not what was committed, as far as that is looked at.
        """
        wanted = np.unique(rows[rows >= 0])
        raw, errors, of_segment = np.empty((len(wanted), shape[0]), shape[1]), np.zeros(len(wanted)), {}
        for loaded in segments:
            places = np.searchsorted(loaded.rows, wanted).clip(max=len(loaded.rows) - 1)
            here = loaded.rows[places] == wanted
            if here.any():
                raw[here], errors[here] = self._array(loaded, shape)[places[here]], loaded.index.error
                of_segment[loaded.segment.raw] = here
        # subtle: equal rows in different places of a product differ in their last digits, and would not tie
        distinct, back = np.unique(raw, axis=0, return_inverse=True)
        try:
            own = unit(distinct).astype(np.float64)[back.ravel()]
        except VectorError as error:
            self._read_whole(of_segment)
            raise IndexCorruptError(f"{self._folder}: a raw vector cannot be used ({error}); {RESTORE}") from error
        found, doubtful = np.full(codes.shape, -np.inf), np.zeros(len(wanted), np.bool_)
        for query, vector in enumerate(vectors.astype(np.float64)):
            there = np.flatnonzero(rows[query] >= 0)
            at = np.searchsorted(wanted, rows[query, there])
            found[query, there] = (own[at] @ vector).round(DECIMALS)
            doubtful[at] |= ~(np.abs(found[query, there] - codes[query, there]) <= errors[at])
        if doubtful.any():  # damage, or a row far from all that the codes learned their range from
            self._read_whole(file for file, here in of_segment.items() if doubtful[here].any())
        return found

    def _read_whole(self, files: Iterable[FileEntry | None]) -> None:
        """Hold every byte of some raw vectors against their checksums, once."""
        for file in files:
            if file is not None and file not in self._sound:
                file.verify(self._folder)
                self._sound.add(file)

    def _array(self, loaded: LoadedSegment, shape: tuple[int, str]) -> Floats:
        file = loaded.segment.raw
        assert file is not None
        if file not in self._open:
            path = file.verify(self._folder, content=False)
            if loaded.index.error > EIGHT_BITS:  # such codes would show no damage
                self._read_whole([file])
            self._open[file] = map_array(path, (loaded.segment.count, shape[0]), shape[1])
        return self._open[file]


def depth_of(segments: Sequence[LoadedSegment], k: int) -> tuple[bool, int]:
    """Whether the structures hold codes, and how many rows must be found so that the best k are among them."""
    error = max((loaded.index.error for loaded in segments), default=0.0)
    return error > 0, (k if error <= EIGHT_BITS else COARSE * k) + MARGIN
