"""The vectors of an index as a basis: its own search structure finds the best rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from indexes.bundle import Bundle

from .basis import SAMPLE, Array, Bool, Int64
from .fit import Float64
from .greedy import greedy_rows


class IndexBasis:
    """The columns of an index's documents; items are its rows. Made and used within one `Bundle.read`.

    Parameters
    ----------
    bundle : Bundle
    wanted : ndarray of shape (m,), int64, optional
        Only these rows, ascending.

    Attributes
    ----------
    n, dim : int
    """

    def __init__(self, bundle: Bundle, wanted: Int64 | None = None) -> None:
        self._bundle, self._wanted = bundle, wanted
        self._vectors = bundle.searched_vectors()
        self._rows = self._vectors.rows if wanted is None else np.intersect1d(self._vectors.rows, wanted)
        self.n, self.dim = len(self._rows), self._vectors.shape[1]
        self._some = self.rows(self._sample(SAMPLE)) if self.n else np.empty((0, self.dim))

    def rows(self, positions: Int64) -> Float64:
        """The vectors of some rows, of shape (m, dim)."""
        return np.asarray(self._vectors.of_rows(positions), np.float64)

    def directions(self, query_vector: Array | None) -> Float64:
        """The query's vector, scaled to scores of unit spread, of shape (dim, 1)."""
        assert query_vector is not None  # an engine encodes every query
        query = np.asarray(query_vector, np.float64)
        spread = float((self._some @ query).std())
        return np.asarray((query / (spread or 1.0))[:, None])

    def best(self, weights: Float64, depth: Sequence[int], allowed: Bool | None = None) -> list[Int64]:
        """The rows with the largest predictions, best first; at most `depth` for each query."""
        lengths = np.linalg.norm(weights, axis=1, keepdims=True)
        unit = np.divide(weights, lengths, out=np.full_like(weights, self.dim**-0.5), where=lengths > 0)
        _, found = self._bundle.nearest(unit.astype(np.float32), min(max(depth), self.n), self._wanted)
        return [rows[rows >= 0][:k] for rows, k in zip(found, depth, strict=True)]

    def landmarks(self, count: int) -> Int64:
        """Rows that stand for all others, the most telling first."""
        sample = self._sample(max(SAMPLE, count))
        return np.asarray(sample[greedy_rows(self.rows(sample), count)])

    def _sample(self, size: int) -> Int64:
        return np.asarray(self._rows[np.unique(np.linspace(0, self.n - 1, min(size, self.n)).astype(np.int64))])
