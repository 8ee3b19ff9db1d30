"""A segment in memory: its search structure, its rows, and which of them live."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import IndexCorruptError, InputError
from .files import map_array
from .manifest import Segment
from .stored import StoredVectors
from .vectors import VectorIndex

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

DECIMALS = 6
"""Scores are rounded here: float32 arithmetic differs below it between one query and a batch."""


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
    def read(cls, segment: Segment, folder: Path, dim: int) -> LoadedSegment:
        """Read a segment's files, held against their checksums.

        Parameters
        ----------
        segment : Segment
        folder : Path
            Where its files are.
        dim : int
            Columns of the searched vectors.

        Raises
        ------
        IndexCorruptError
            If a file is not what was committed, or does not hold what the segment says.
        """
        structure = VectorIndex.read(path := segment.vectors.verify(folder))
        if (structure.n, structure.dim) != (segment.count, dim):
            raise IndexCorruptError(
                f"{path} holds {structure.n:,} vectors of {structure.dim} columns; expected {segment.count:,} of {dim}"
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


def nearest(
    segments: Sequence[LoadedSegment], vectors: Float32, depth: int, wanted: Int64 | None = None, exact: bool = False
) -> tuple[NDArray[np.float64], Int64]:
    """Rounded scores and rows over all segments, best first.

    Parameters
    ----------
    segments : sequence of LoadedSegment
    vectors : ndarray of shape (q, dim), float32
        Unit rows.
    depth : int
    wanted : ndarray of shape (m,), int64, optional
        Only these rows.
    exact : bool, default=False
        Look at every row, whatever the structure.

    Returns
    -------
    scores : ndarray of shape (q, at most depth), float64
    rows : ndarray of shape (q, at most depth), int64
        -1 (and score -inf) where fewer rows than depth are there.
    """
    all_scores: list[Any] = [np.empty((len(vectors), 0))]
    all_rows = [np.empty((len(vectors), 0), np.int64)]
    for loaded in segments:
        allowed = loaded.alive
        if wanted is not None:
            allowed = np.zeros(loaded.segment.count, np.bool_)
            allowed[loaded.positions_of(wanted)] = True
        scores, positions = loaded.index.search(vectors, depth, allowed=allowed, exact=exact)
        all_scores.append(scores.astype(np.float64).round(DECIMALS))
        all_rows.append(np.where(positions >= 0, loaded.rows[positions], -1))
    found, rows = np.hstack(all_scores), np.hstack(all_rows)
    order = np.argsort(-found, axis=1, kind="stable")[:, :depth]
    return np.take_along_axis(found, order, 1), np.take_along_axis(rows, order, 1)


def row_scores(segments: Sequence[LoadedSegment], vector: Float32, rows: Int64) -> NDArray[np.float64]:
    """The rounded scores of some live rows for one vector, (dim,), as `nearest` would find them, of shape (m,)."""
    found = np.full(len(rows), -np.inf)
    for loaded in segments:
        places = np.searchsorted(loaded.rows, rows).clip(max=len(loaded.rows) - 1)
        here = loaded.rows[places] == rows
        found[here] = loaded.index.scores(vector[None], places[here])[0]
    scores: NDArray[np.float64] = found.round(DECIMALS)
    return scores


def searched(segments: Sequence[LoadedSegment], dim: int) -> StoredVectors:
    """The unit rows of all live rows that are searched, as the structures hold them (8-bit codes decoded)."""
    return StoredVectors([(loaded.index.as_array(), *loaded.live()) for loaded in segments], dim, np.float32)
