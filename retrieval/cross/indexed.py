"""The vectors of an index as a basis: its own search structure finds the best rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from indexes.errors import InputError
from indexes.loaded import LoadedSegment, nearest, searched

from .basis import SAMPLE, Array, Bool, Int64, spread_of
from .fit import Float64
from .greedy import greedy_rows


class IndexBasis:
    """The columns of an index's documents; items are its rows, in one state of it.

    Parameters
    ----------
    segments : sequence of LoadedSegment
        See `indexes.bundle.Bundle.loaded`.
    dim : int
    wanted : ndarray of shape (m,), int64, optional
        Only these rows.

    Attributes
    ----------
    n, dim : int
    """

    def __init__(self, segments: Sequence[LoadedSegment], dim: int, wanted: Int64 | None = None) -> None:
        self._segments, self._wanted = segments, wanted
        self._vectors = searched(segments, dim)
        self._rows = self._vectors.rows if wanted is None else np.intersect1d(self._vectors.rows, wanted)
        self.n, self.dim = len(self._rows), dim
        self._scale = 1.0
        if self.n:
            some = self.rows(self._sample(SAMPLE))
            self._mean = some.mean(axis=0)
            self._scale = spread_of(float(np.square(some).sum(axis=1).mean()), self._mean)
            self._some = (some - self._mean) * self._scale

    def cosines(self, rows: Int64, vector: Array) -> Float64:
        """Products of some rows with a query's vector, of shape (m,)."""
        return np.asarray(np.asarray(self._vectors.of_rows(rows), np.float64) @ vector)

    def rows(self, positions: Int64) -> Float64:
        """The scaled vectors of some rows, of shape (m, dim)."""
        return np.asarray(self._vectors.of_rows(positions), np.float64) * self._scale

    def directions(self, query_vector: Array | None) -> Float64:
        """The query's vector, scaled to scores of unit spread, of shape (dim, 1)."""
        query = np.asarray(query_vector, np.float64)
        if query.shape != (self.dim,) or not np.isfinite(query).all():
            raise InputError(f"query_vector has shape {query.shape}; expected ({self.dim},), all of it finite")
        spread = float((self._some @ query).std())
        return np.asarray((query / (spread or 1.0))[:, None])

    def best(self, weights: Float64, depth: Sequence[int], allowed: Bool | None = None) -> list[Int64]:
        """The rows with the largest predictions, best first; at most `depth` for each query."""
        assert allowed is None  # `wanted` says it
        lengths = np.linalg.norm(weights, axis=1, keepdims=True)
        unit = np.divide(weights, lengths, out=np.full_like(weights, self.dim**-0.5), where=lengths > 0)
        _, found = nearest(self._segments, unit.astype(np.float32), min(max(depth), self.n), self._wanted)
        return [rows[rows >= 0][:k] for rows, k in zip(found, depth, strict=True)]

    def landmarks(self, count: int, allowed: Bool | None = None) -> Int64:
        """Rows that stand for all others, the most telling first."""
        assert allowed is None
        sample = self._sample(max(SAMPLE, count))
        return np.asarray(sample[greedy_rows(self.rows(sample) - self._mean * self._scale, count)])

    def _sample(self, size: int) -> Int64:
        return np.asarray(self._rows[np.unique(np.linspace(0, self.n - 1, min(size, self.n)).astype(np.int64))])
