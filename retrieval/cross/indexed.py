"""The vectors of an index as a basis: its own search structure finds the best rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from indexes.errors import InputError
from indexes.loaded import LoadedSegment, nearest
from indexes.stored import StoredVectors

from ..moments import spread
from .basis import SAMPLE, Array, Bool, Int64, spread_of
from .fit import Float64
from .greedy import greedy_rows


class IndexBasis:
    """The columns of an index's documents, in one state of it.

    Parameters
    ----------
    segments : sequence of LoadedSegment
        See `indexes.bundle.Bundle.loaded`.
    vectors : StoredVectors
        What they search (`indexes.loaded.searched`); items are the positions in it.

    Attributes
    ----------
    n, dim : int
    """

    def __init__(self, segments: Sequence[LoadedSegment], vectors: StoredVectors) -> None:
        self._segments, self._vectors = segments, vectors
        self.n, self.dim = vectors.shape
        self._scale = 1.0
        if self.n:
            some = self.rows(spread(self.n, SAMPLE))
            self._mean = some.mean(axis=0)
            self._scale = spread_of(float(np.square(some).sum(axis=1).mean()), self._mean)
            self._some = (some - self._mean) * self._scale

    def rows(self, positions: Int64) -> Float64:
        """The scaled vectors of some items, of shape (m, dim)."""
        return np.asarray(self._vectors[positions], np.float64) * self._scale

    def directions(self, query_vector: Array | None) -> Float64:
        """The query's vector, scaled to scores of unit spread, of shape (dim, 1)."""
        query = np.asarray(query_vector, np.float64)
        if query.shape != (self.dim,) or not np.isfinite(query).all():
            raise InputError(f"query_vector has shape {query.shape}; expected ({self.dim},), all of it finite")
        spread = float((self._some @ query).std())
        return np.asarray((query / (spread or 1.0))[:, None])

    def best(self, weights: Float64, depth: Sequence[int], allowed: Bool | None = None) -> list[Int64]:
        """The items with the largest predictions, best first; at most `depth` for each query."""
        lengths = np.linalg.norm(weights, axis=1, keepdims=True)
        unit = np.divide(weights, lengths, out=np.full_like(weights, self.dim**-0.5), where=lengths > 0)
        wanted = None if allowed is None else self._vectors.rows[allowed]
        _, found = nearest(self._segments, unit.astype(np.float32), min(max(depth), self.n), wanted)
        places = [np.searchsorted(self._vectors.rows, rows[rows >= 0]) for rows in found]
        return [items[:k] for items, k in zip(places, depth, strict=True)]

    def landmarks(self, count: int, allowed: Bool | None = None) -> Int64:
        """Items that stand for all others, the most telling first."""
        items = np.arange(self.n) if allowed is None else np.flatnonzero(allowed)
        sample = items[spread(len(items), max(SAMPLE, count))]
        return np.asarray(sample[greedy_rows(self.rows(sample) - self._mean * self._scale, count)])
