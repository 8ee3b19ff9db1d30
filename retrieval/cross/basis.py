"""Columns in which the scores of any query are nearly linear: vectors of the items, and scores of anchor queries.

    vectors     an encoder's (n, d): no call of the cross-encoder is needed for them        (AXN, arXiv 2405.03651)
    anchors     what some anchor queries score, (n, k_q): k_q n calls, made once            (ANNCUR, ADACUR)

Both may stand side by side, each scaled so that its rows have length one in the mean. A query's vector gives prior
directions: its product with the vectors, and the anchors' scores mixed as the query resembles them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from indexes.choice import FLAT_COMPONENTS
from indexes.errors import InputError
from indexes.stored import StoredVectors
from indexes.vectors import VectorIndex

from ..moments import spread
from .fit import Float64
from .greedy import greedy_rows

Array = NDArray[np.floating]
Bool = NDArray[np.bool_]
Int64 = NDArray[np.int64]

Structure = Literal["all", "SQ8", "IVF"]

SAMPLE = 2048
"""Rows, evenly spaced, that spreads are measured on and landmarks are chosen from."""

LIKENESS_RIDGE = 0.1
"""Ridge of the regression of a query's vector on those of the anchor queries."""

QUERIES_AT_ONCE = 16


class Basis:
    """The columns of n items.

    Parameters
    ----------
    vectors : array-like of shape (n, d), float, optional
        An array, or `indexes.stored.StoredVectors`, of which only rows asked for are read if there are many.
    anchors : array-like of shape (n, k_q), float, optional
        Raw scores of each item with k_q anchor queries.
    anchor_vectors : ndarray of shape (k_q, d), float, optional
        The anchor queries' own vectors: with them the anchors' scores say something of a query before any call.
    structure : {"all", "SQ8", "IVF"}, optional
        How the best rows are found: by looking at all of them, at their 8-bit codes, or at an inverted file of those,
        which is trained once. By default the first that takes a few milliseconds.

    Raises
    ------
    InputError
        If neither is given, or shapes do not fit, or a number is not finite.

    Attributes
    ----------
    n, dim : int
    """

    def __init__(
        self,
        vectors: Array | StoredVectors | None = None,
        anchors: Array | StoredVectors | None = None,
        anchor_vectors: Array | None = None,
        *,
        structure: Structure | None = None,
    ) -> None:
        self._blocks: list[_Block] = []
        self._vectors = None if vectors is None else self._block("vectors", vectors)
        self._anchors = None if anchors is None else self._block("anchors", anchors)
        if not self._blocks:
            raise InputError("a basis has no columns; expected vectors, anchors or both")
        self._likeness = None if anchor_vectors is None else self._likeness_of(anchor_vectors)
        self.dim = sum(block.dim for block in self._blocks)
        self._sample = self.rows(spread(self.n, SAMPLE))
        structure = _structure(self.n * self.dim) if structure is None else structure
        if structure not in get_args(Structure):
            raise InputError(f"structure={structure!r}; expected one of {', '.join(get_args(Structure))}")
        for block in self._blocks if structure == "all" else ():
            block.hold()
        self._index = None if structure == "all" else self._indexed(structure)
        self._landmarks = np.empty(0, np.int64)

    @property
    def n(self) -> int:
        """Number of items."""
        return len(self._blocks[0].values)

    def rows(self, positions: Int64) -> Float64:
        """The columns of some items, of shape (m, dim)."""
        return np.hstack([block.rows(positions) for block in self._blocks])

    def directions(self, query_vector: Array | None) -> Float64:
        """What is expected of a query before any call: weights of shape (dim, f), scaled to scores of unit spread.

        Parameters
        ----------
        query_vector : ndarray of shape (d,), float, or None
            None expects nothing: f is 0.

        Raises
        ------
        InputError
            If its shape is not that of the vectors, or a number is not finite.
        """
        if query_vector is None:
            return np.empty((self.dim, 0))
        query = np.asarray(query_vector, np.float64)
        expected = {
            *(() if self._vectors is None else (self._vectors.dim,)),
            *(() if self._likeness is None else (self._likeness.shape[1],)),
        }
        if query.ndim != 1 or (expected and expected != {len(query)}) or not np.isfinite(query).all():
            dims = " and ".join(map(str, sorted(expected))) or "d"
            raise InputError(f"query_vector has shape {query.shape}; expected ({dims},), all of it finite")
        found = []
        if self._vectors is not None:
            found.append(self._placed(self._vectors, query))
        if self._likeness is not None:
            assert self._anchors is not None
            found.append(self._placed(self._anchors, self._likeness @ query))
        columns = np.stack(found, axis=1) if found else np.empty((self.dim, 0))
        spread = (self._sample @ columns).std(axis=0)
        return np.asarray(columns / np.where(spread > 0, spread, 1.0))

    def best(self, weights: Float64, depth: Sequence[int], allowed: Bool | None = None) -> list[Int64]:
        """The items with the largest predictions, best first.

        Parameters
        ----------
        weights : ndarray of shape (q, dim), float64
        depth : sequence of q int
            How many items for each query.
        allowed : ndarray of shape (n,), bool, optional
            Only these.

        Returns
        -------
        list of q ndarray of shape (at most depth,), int64
        """
        if self._index is not None:
            return self._by_index(weights, depth, allowed)
        found = []
        for start in range(0, len(weights), QUERIES_AT_ONCE):
            part = weights[start : start + QUERIES_AT_ONCE]
            predicted = sum(block.products(columns) for block, columns in self._columns_of(part))
            for scores, k in zip(np.asarray(predicted).T, depth[start : start + len(part)], strict=True):
                found.append(_largest(scores if allowed is None else np.where(allowed, scores, -np.inf), k))
        return found

    def landmarks(self, count: int, allowed: Bool | None = None) -> Int64:
        """Items that stand for all others, the most telling first (`greedy_rows` over a sample of them)."""
        if allowed is not None:
            return self._chosen(np.flatnonzero(allowed), count)
        held = self._landmarks  # threads may share a basis
        if count > len(held):
            held = self._landmarks = self._chosen(np.arange(self.n), count)
        return held[:count]

    def _chosen(self, items: Int64, count: int) -> Int64:
        sample = items[spread(len(items), max(SAMPLE, count))]
        return np.asarray(sample[greedy_rows(self.rows(sample), count)])

    def _block(self, name: str, values: Array | StoredVectors) -> _Block:
        block = _Block(name, values)
        if self._blocks and len(values) != self.n:
            raise InputError(f"there are {self.n:,} vectors, but anchors of {len(values):,} items")
        self._blocks.append(block)
        return block

    def _likeness_of(self, anchor_vectors: Array) -> Float64:
        """The matrix that makes weights of the anchor queries from a query's vector, of shape (k_q, d)."""
        vectors = np.asarray(anchor_vectors, np.float64)
        if self._anchors is None or vectors.ndim != 2 or len(vectors) != self._anchors.dim:
            raise InputError(
                f"anchor_vectors have shape {vectors.shape}; expected one for each of "
                f"{0 if self._anchors is None else self._anchors.dim} anchor queries"
            )
        kernel = vectors @ vectors.T
        return np.linalg.solve(kernel + LIKENESS_RIDGE * np.eye(len(kernel)), vectors)

    def _placed(self, block: _Block, weights: Float64) -> Float64:
        """Weights of a block's own values as weights of all columns; its mean, left out, is a constant."""
        parts = [weights / one.scale if one is block else np.zeros(one.dim) for one in self._blocks]
        return np.concatenate(parts)

    def _columns_of(self, weights: Float64) -> list[tuple[_Block, Float64]]:
        edges = np.cumsum([block.dim for block in self._blocks])[:-1]
        return list(zip(self._blocks, np.split(weights, edges, axis=1), strict=True))

    def _by_index(self, weights: Float64, depth: Sequence[int], allowed: Bool | None) -> list[Int64]:
        assert self._index is not None
        lengths = np.linalg.norm(weights, axis=1, keepdims=True)
        unit = np.divide(weights, lengths, out=np.full_like(weights, self.dim**-0.5), where=lengths > 0)
        _, positions = self._index.search(unit.astype(np.float32), max(depth), allowed=allowed)
        return [row[row >= 0][:k] for row, k in zip(positions, depth, strict=True)]

    def _indexed(self, structure: Structure) -> VectorIndex:
        lists = max(1, min(int(4 * self.n**0.5), self.n // 39))  # k-means wants 39 rows a list
        steps = range(0, self.n, 8192)
        index = VectorIndex.build(
            "SQ8" if structure == "SQ8" else f"IVF{lists},SQ8",
            self.dim,
            lambda most: self.rows(spread(self.n, most)).astype(np.float32),
            (self.rows(np.arange(at, min(at + 8192, self.n))).astype(np.float32) for at in steps),
            unit=False,
        )
        index.probed /= 2  # what is missed in one round comes up in the next
        return index


class _Block:
    """Some columns: values minus their mean, scaled to rows of length one in the mean."""

    def __init__(self, name: str, values: Array | StoredVectors) -> None:
        if len(values.shape) != 2 or 0 in values.shape:
            raise InputError(f"{name} have shape {values.shape}; expected (n, d), neither of them 0")
        self.values: Any = values
        total, squares = np.zeros(values.shape[1]), 0.0
        for start in range(0, len(values), 8192):
            part = np.asarray(values[start : start + 8192], np.float64)
            total += part.sum(axis=0)
            squares += float(np.square(part).sum())
        if not np.isfinite(squares):
            raise InputError(f"{name} hold a number that is not finite")
        self.mean = total / len(values)
        self.scale = spread_of(squares / len(values), self.mean)

    @property
    def dim(self) -> int:
        """Number of columns."""
        return int(self.values.shape[1])

    def hold(self) -> None:
        """Read all values, so that products are quick; float16 ones are not."""
        self.values = self.values[:].astype(np.float64 if self.values.dtype == np.float64 else np.float32, copy=False)

    def rows(self, positions: Int64) -> Float64:
        """The scaled columns of some items."""
        return (np.asarray(self.values[positions], np.float64) - self.mean) * self.scale

    def products(self, weights: Float64) -> Array:
        """Products of all items with weights (q, dim), of shape (n, q), up to a constant for each query."""
        return np.asarray(self.values @ (weights * self.scale).T.astype(self.values.dtype))


def spread_of(square: float, mean: Float64) -> float:
    """The scale at which rows of a mean squared length have length one in the mean, once their mean is taken away."""
    variance = square - float(mean @ mean)
    return variance**-0.5 if variance > 1e-12 * square else 1.0


def _structure(numbers: int) -> Structure:
    """5 million float32, or 12 million 8-bit codes, are looked at in 2 to 4 ms on one core, once in each round."""
    return "all" if numbers <= FLAT_COMPONENTS // 5 else "SQ8" if numbers <= FLAT_COMPONENTS // 2 else "IVF"


def _largest(scores: Array, k: int) -> Int64:
    """Positions of the k largest, best first, those of -inf left out; equal ones by position."""
    k = min(k, len(scores))
    if k == 0:
        return np.empty(0, np.int64)
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    above, equal = np.flatnonzero(scores > threshold), np.flatnonzero(scores == threshold)
    chosen = np.sort(np.concatenate([above, equal[: k - len(above)]]))
    ordered: Int64 = chosen[np.argsort(-scores[chosen], kind="stable")]
    return np.asarray(ordered[scores[ordered] > -np.inf])
