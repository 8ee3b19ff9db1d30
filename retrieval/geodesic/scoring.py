"""Cosine and way in one score, for the best documents and without a look at all of them.

    score = alpha cosine + (1 - alpha) / (1 + way)

The way from a query to a document is the shortest path over the documents nearest to the query, in radians; what no
path reaches counts at its angle, so it is not punished. Paths are followed to a radius that grows until nothing beyond
can be among the best: its cosine is below those that were ranked, and its way longer than the radius (the threshold
algorithm of Fagin, Lotem & Naor 2001).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .graph import NeighborGraph, Reached

Bool = NDArray[np.bool_]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]
Ranked = tuple[Int64, Float64]

ENTRIES = 16
"""Documents nearest to a query, by which it is linked with the graph."""

AHEAD, GROWTH, DEEPER = 2.5, 1.15, 4
"""How far paths are followed at first, in lengths of the longest entry, where more is asked for than entries; how much
further after that, and how much more is ranked by cosine, as long as it may change the best."""

MOST = 20_000
"""Documents that the paths of a query reach, before they are followed no further: the rest counts at the radius."""

FIRST, ROUNDING = 0.1, 1e-6
"""The least radius that grows, in radians; and of scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Blended:
    """The best documents of a query.

    Parameters
    ----------
    positions : ndarray of shape (m,), int64
        Best first; k of them, and those that tie with the last.
    scores, cosines, ways : ndarray of shape (m,), float64
    reached : Reached
        The paths.
    """

    positions: Int64
    scores: Float64
    cosines: Float64
    ways: Float64
    reached: Reached


def blend(cosines: Float64, ways: Float64, alpha: float) -> Float64:
    """The score of some documents.

    Parameters
    ----------
    cosines : ndarray of shape (m,), float64
    ways : ndarray of shape (m,), float64
        In radians.
    alpha : float
        1 is the cosine, 0 the way alone.

    Examples
    --------
    >>> blend(np.array([0.5]), np.array([1.0]), 0.5).tolist()
    [0.5]
    """
    score: Float64 = alpha * cosines + (1.0 - alpha) / (1.0 + ways)
    return score


def angles_of(cosines: Float64) -> Float64:
    """The angles of some cosines, in radians."""
    angles: Float64 = np.arccos(np.clip(cosines, -1.0, 1.0))
    return angles


def best_blended(
    graph: NeighborGraph,
    entries: Ranked,
    ranked: Callable[[int], Ranked],
    cosines_of: Callable[[Int64], Float64],
    k: int,
    alpha: float,
    *,
    allowed: Bool | None = None,
    most: int = MOST,
) -> Blended:
    """The k documents with the best scores for a query.

    Parameters
    ----------
    graph : NeighborGraph
        Of n documents.
    entries : (positions, cosines)
        The documents nearest to the query.
    ranked : callable
        Gives so many documents that are allowed, and perhaps more, by cosine, best first; all if there are fewer.
    cosines_of : callable
        Of some positions, float64.
    k : int
    alpha : float
    allowed : ndarray of shape (n,), bool, optional
        Only these are found; paths lead over others, too.
    most : int, default=20,000
        Documents that are reached at most, before the rest counts at the radius.
    """
    able = graph.n if allowed is None else int(np.count_nonzero(allowed))
    starts, lengths = entries[0], angles_of(entries[1])
    joined = np.isin(graph.components, graph.components[starts], kind="table")  # what a path may lead to
    within = min(int(np.count_nonzero(joined)), most)
    cosines = np.full(graph.n, np.nan)
    radius, depth = float(lengths.max(initial=0.0)), k
    if k > len(starts):
        radius *= AHEAD
    listed, cosines[listed] = ranked(depth)
    cosines[starts] = entries[1]
    while True:
        reached = graph.reach(starts, lengths, radius)
        done = len(reached.positions) >= within
        unread = reached.positions[np.isnan(cosines[reached.positions])]
        cosines[unread] = cosines_of(unread)
        ways = np.full(graph.n, np.nan)
        ways[reached.positions] = reached.distances
        beyond = listed[np.isnan(ways[listed])]
        ways[beyond] = _at_least(cosines[beyond], np.where(joined[beyond], radius, 0.0))

        candidates = np.union1d(reached.positions, listed)
        if allowed is not None:
            candidates = candidates[allowed[candidates]]
        scores = blend(cosines[candidates], ways[candidates], alpha)
        open_ = np.isin(candidates, beyond[joined[beyond]]) if not done else np.zeros(len(candidates), np.bool_)
        sure = scores[~open_]
        kth = np.partition(sure, -k)[-k] if len(sure) >= k else -np.inf
        further = scores[open_].max(initial=-np.inf)  # at best, of those that a longer path may lead to
        deeper = -np.inf  # and of those that were not looked at
        if len(listed) < able and len(candidates) < able:
            last = cosines[listed[-1:]]
            deeper = float(blend(last, _at_least(last, radius if joined.all() else 0.0), alpha)[0])
        if kth > max(further, deeper) + ROUNDING or (done and deeper == -np.inf):
            best = candidates[order := np.argsort(-scores, kind="stable")][: max(k, int((scores >= kth).sum()))]
            return Blended(
                positions=best, scores=scores[order][: len(best)], cosines=cosines[best], ways=ways[best],
                reached=reached,
            )  # fmt: skip
        if done or (deeper > further and kth > further):
            listed, cosines[listed] = ranked(depth := DEEPER * depth)
            cosines[starts] = entries[1]
        else:
            radius = max(GROWTH * radius, FIRST)


def _at_least(cosines: Float64, radius: float | Float64) -> Float64:
    """The angles of some cosines, or the radius where it is longer."""
    ways: Float64 = np.maximum(angles_of(cosines), radius)
    return ways
