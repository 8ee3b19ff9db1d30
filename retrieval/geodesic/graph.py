"""A graph of near neighbours, and shortest paths in it.

    vectors -> the nearest of each -> links, as long as the angle between their ends -> shortest paths (Dijkstra)

Similarity can be trusted nearby; so what lies far apart is compared along the way of steps that are near (Isomap:
Tenenbaum, de Silva & Langford 2000; for sentences Su 2022, https://kexue.fm/archives/9368). Angles are lengths that add
up along a great circle; 1 - cos is none, for two short steps are then less than one long one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.csgraph import connected_components, dijkstra

from indexes.errors import InputError, VectorError
from indexes.vectors import VectorIndex, check_unit

from ..neighbors import BLOCK, Lists, lists_among

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Join = Literal["union", "mutual"]
Length = Literal["angle", "chord"]

LEAST = 1e-9
"""Length of a link between equal vectors: scipy takes 0 for no link where matrices are put together."""

SLOTS = 64
"""Links of the point that paths begin at, for which there is room without making the graph again."""


@dataclass(frozen=True, slots=True)
class Reached:
    """What lies within some way of a point.

    Parameters
    ----------
    positions : ndarray of shape (m,), int64
        Nearest first.
    distances : ndarray of shape (m,), float64
        Length of the shortest path to each.
    before : ndarray of shape (n,), int32
        The last but one of the shortest path to each position; negative, or n, where it begins.
    """

    positions: Int64
    distances: Float64
    before: NDArray[np.int32]

    def path(self, position: int) -> list[int]:
        """The positions on the shortest path to one that was reached, from the first after the beginning to itself."""
        way, n = [int(position)], len(self.before)
        while 0 <= (last := int(self.before[way[-1]])) < n:
            way.append(last)
        return way[::-1]


class NeighborGraph:
    """A graph that links each of n vectors with those nearest to it.

    Parameters
    ----------
    lists : ndarray of shape (n, k), `indexes.stored.NEIGHBOR`
        Positions near each one, and the angles; -1 is none.
    join : {"union", "mutual"}, default="union"
        Whether one of two names the other, or both must.
    length : {"angle", "chord"}, default="angle"
        Of a link: the angle in radians, or the straight line between the unit vectors, 2 sin(angle / 2).

    Attributes
    ----------
    n : int
    links : int
        Each counts once.
    nbytes : int
        Memory, in bytes.

    Raises
    ------
    InputError
        If a value cannot be used, or a list names what is not there.

    Examples
    --------
    >>> around = np.linspace(0, np.pi, 50)  # half a circle
    >>> graph = NeighborGraph.build(np.stack([np.cos(around), np.sin(around)], axis=1), neighbors=2)
    >>> reached = graph.reach([0])
    >>> round(float(reached.distances[reached.positions == 49][0]), 4)  # from one end to the other, along it
    3.1416
    """

    def __init__(self, lists: Lists, *, join: Join = "union", length: Length = "angle") -> None:
        if join not in get_args(Join):
            raise InputError(f"join={join!r}; expected one of {', '.join(get_args(Join))}")
        if length not in get_args(Length):
            raise InputError(f"length={length!r}; expected one of {', '.join(get_args(Length))}")
        self.n, width = lists.shape
        there = lists["row"] >= 0
        ends = lists["row"][there].astype(np.int32)
        if len(ends) and ends.max() >= self.n:
            raise InputError(f"a list names position {ends.max():,} of {self.n:,}")
        lengths = lists["angle"][there].astype(np.float64)
        if length == "chord":
            lengths = 2.0 * np.sin(lengths / 2.0)
        starts = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int32)
        directed = sparse.csr_matrix((np.maximum(lengths, LEAST), ends, starts), (self.n, self.n))
        back = directed.T.tocsr()
        joined = directed.maximum(back) if join == "union" else directed.minimum(back)
        self._set(joined.tocsr(), SLOTS)
        self._components: Int64 | None = None
        self._busy = Lock()

    @classmethod
    def build(
        cls, vectors: NDArray[np.floating[Any]], neighbors: int = 16, *, join: Join = "union", length: Length = "angle"
    ) -> NeighborGraph:
        """The graph of some vectors, by exact search.

        Parameters
        ----------
        vectors : ndarray of shape (n, d)
            Unit rows.
        neighbors : int, default=16
        join, length
            See `NeighborGraph`.

        Raises
        ------
        InputError, VectorError
            If a value cannot be used, or a row is not of length one.
        """
        if isinstance(neighbors, bool) or not isinstance(neighbors, int | np.integer) or neighbors < 1:
            raise InputError(f"neighbors={neighbors!r}; expected a whole number of 1 or more")
        rows = np.asarray(vectors)
        if rows.ndim != 2:
            raise VectorError(f"vectors have shape {rows.shape}; expected (n, d)")
        rows = check_unit(rows.astype(np.float32), rows.shape[1])
        index = VectorIndex.build("Flat", rows.shape[1], lambda most: rows[:most], [rows])
        blocks = [
            lists_among(lambda some, k: index.search(some, k)[1], rows.__getitem__, some, int(neighbors))
            for some in np.array_split(np.arange(len(rows)), max(1, len(rows) // BLOCK))
        ]
        return cls(np.concatenate(blocks), join=join, length=length)

    def _set(self, links: Any, slots: int) -> None:
        """Hold the links, and behind them a point with room for so many, where paths begin."""
        empty = np.zeros(slots)
        data, ends = np.concatenate([links.data, empty]), np.concatenate([links.indices, empty.astype(np.int32)])
        starts = np.concatenate([links.indptr, [len(data)]]).astype(np.int32)
        self._with_point = sparse.csr_matrix((data, ends, starts), (self.n + 1, self.n + 1))
        self._slots, of_links = slots, len(links.data)
        self._links = sparse.csr_matrix((data[:of_links], ends[:of_links], starts[:-1]), (self.n, self.n))  # a view

    @property
    def links(self) -> int:
        """Number of links."""
        return int(self._links.nnz) // 2

    @property
    def matrix(self) -> Any:
        """The links as a symmetric scipy.sparse.csr_matrix of shape (n, n): their lengths. It must not be changed."""
        return self._links

    @property
    def nbytes(self) -> int:
        """Memory that the graph takes, in bytes."""
        return sum(
            int(part.nbytes) for part in (self._with_point.data, self._with_point.indices, self._with_point.indptr)
        )

    def neighbors(self, position: int) -> tuple[Int64, Float64]:
        """The positions that one is linked with, nearest first, and how long the links are."""
        start, end = self._links.indptr[position], self._links.indptr[position + 1]
        ends, lengths = self._links.indices[start:end], self._links.data[start:end]
        order = np.lexsort((ends, lengths))
        return ends[order].astype(np.int64), lengths[order]

    @property
    def components(self) -> Int64:
        """For each position the number of the part of the graph it is in, of shape (n,); no path leaves a part."""
        if self._components is None:
            self._components = connected_components(self._links, directed=False)[1].astype(np.int64)
        return self._components

    def reach(
        self, starts: Sequence[int] | Int64, lengths: Sequence[float] | Float64 | None = None, radius: float = np.inf
    ) -> Reached:
        """What lies within a radius of a point, by the shortest paths from it.

        Parameters
        ----------
        starts : sequence of m int
            The positions that the point is linked with; different ones.
        lengths : sequence of m float, optional
            How long these links are; by default 0, and the point is all of `starts` at once.
        radius : float, default=inf
            Longest path that is followed.

        Raises
        ------
        InputError
            If a position is not there or named twice, or a length is negative or not a number.
        """
        first = np.asarray(starts)
        if first.ndim != 1 or (len(first) and first.dtype.kind not in "iu"):
            raise InputError(f"starts={starts!r:.100}; expected a sequence of positions")
        if not radius >= 0.0:
            raise InputError(f"radius={radius!r}; expected 0 or more")
        first = first.astype(np.int64)
        how_far = np.zeros(len(first)) if lengths is None else np.asarray(lengths, np.float64)
        if len(np.unique(first)) != len(first) or ((first < 0) | (first >= self.n)).any():
            raise InputError(f"starts={starts!r:.100}; expected different positions below {self.n:,}")
        if how_far.shape != first.shape or not (how_far >= 0).all():
            raise InputError(f"lengths={lengths!r:.100}; expected a length of 0 or more for each start")
        order = np.argsort(first)
        with self._busy:  # the point is part of the one matrix
            if len(first) > self._slots:
                self._set(self._links, len(first))
            point, last = self._with_point, len(self._with_point.data) - self._slots
            used = last + len(first)
            point.indices[last:used], point.data[last:used] = first[order], np.maximum(how_far[order], LEAST)
            point.indptr[-1] = used
            found, before = dijkstra(point, indices=self.n, limit=radius + LEAST, return_predecessors=True)
        inside = np.flatnonzero(np.isfinite(found[: self.n]))
        nearest_first = inside[np.argsort(found[inside], kind="stable")]
        return Reached(nearest_first, found[nearest_first], before[: self.n])
