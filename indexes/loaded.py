"""A segment in memory: its search structure, its rows, and which of them live."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .errors import IndexCorruptError, InputError
from .files import map_array
from .manifest import Segment
from .vectors import VectorIndex

Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSegment:
    """A segment as it is searched.

    Parameters
    ----------
    segment : Segment
    structure : VectorIndex or None
        None where nothing is to be searched.
    rows : ndarray of shape (count,), int64
        The index's row of each vector, ascending.
    alive : ndarray of shape (count,), bool, or None
        Which vectors have a document; None if all have.
    """

    segment: Segment
    structure: VectorIndex | None
    rows: Int64
    alive: NDArray[np.bool_] | None = None

    @classmethod
    def read(cls, segment: Segment, folder: Path, dim: int | None) -> LoadedSegment:
        """Read a segment's files, held against their checksums.

        Parameters
        ----------
        segment : Segment
        folder : Path
            Where its files are.
        dim : int or None
            Columns of the searched vectors; None leaves the search structure out.

        Raises
        ------
        IndexCorruptError
            If a file is not what was committed, or does not hold what the segment says.
        """
        structure = None
        if dim is not None:
            structure = VectorIndex.read(path := segment.vectors.verify(folder))
            if (structure.n, structure.dim) != (segment.count, dim):
                raise IndexCorruptError(
                    f"{path} holds {structure.n:,} vectors of {structure.dim} columns; "
                    f"expected {segment.count:,} of {dim}"
                )
        if segment.rows is None:
            rows = np.arange(segment.first_row, segment.first_row + segment.count)
        else:
            rows = np.array(map_array(path := segment.rows.verify(folder), (segment.count,), "int64"), np.int64)
            if rows[0] != segment.first_row or (np.diff(rows) <= 0).any():
                raise IndexCorruptError(f"{path} does not hold ascending rows from {segment.first_row} on")
        return cls(segment=segment, structure=structure, rows=rows)

    @property
    def index(self) -> VectorIndex:
        """The search structure.

        Raises
        ------
        InputError
            If it was left out.
        """
        if self.structure is None:
            raise InputError("the index was opened without its search structures; open it with them to search it")
        return self.structure

    @property
    def count(self) -> int:
        """Number of vectors that live."""
        return len(self.rows) if self.alive is None else int(self.alive.sum())

    def positions_of(self, rows: Int64) -> Int64:
        """Where those of some rows are that are in this segment."""
        places = np.searchsorted(self.rows, rows).clip(max=len(self.rows) - 1)
        found: Int64 = places[self.rows[places] == rows]
        return found

    def without(self, deleted: Int64) -> LoadedSegment:
        """The same with just these rows (and any of other segments) dead."""
        alive = None
        if len(dead := self.positions_of(deleted)):
            alive = np.ones(len(self.rows), np.bool_)
            alive[dead] = False
        return dataclasses.replace(self, alive=alive)

    def live(self, dead: Int64 | None = None) -> tuple[Int64 | None, Int64]:
        """Positions of the live vectors (None for all) and their rows, without some that are about to be deleted."""
        alive = self.alive
        if dead is not None and len(gone := self.positions_of(dead)):
            alive = np.ones(len(self.rows), np.bool_) if alive is None else alive.copy()
            alive[gone] = False
        if alive is None:
            return None, self.rows
        positions = np.flatnonzero(alive)
        return positions, self.rows[positions]
