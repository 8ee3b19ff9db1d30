"""Cosine and way in one score, for the best documents and without a look at all of them.

    score = alpha cosine + (1 - alpha) / (1 + way)

The way from a query to a document is the shortest path over the documents nearest to the query, in radians; what no
path reaches counts at its angle, so it is not punished. Paths are followed to a radius that grows until nothing beyond
can be among the best: its cosine is below those that were ranked, and its way longer than the radius; and of what is
reached, the cosine is only asked for where it may matter (the threshold algorithm of Fagin, Lotem & Naor 2001).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError
from indexes.loaded import DECIMALS

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
        Best first; k of them, and those that tie with the last when scores are rounded.
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
        Of some positions, float64, on the same scale.
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
    cosines[starts] = entries[1]
    radius, depth = float(lengths.max(initial=0.0)), k
    if k > len(starts):
        radius *= AHEAD
    listed, cosines[listed] = ranked(depth)
    while True:
        reached = graph.reach(starts, lengths, radius)
        done = len(reached.positions) >= within
        ways = np.full(graph.n, np.nan)
        ways[reached.positions] = reached.distances
        beyond = listed[np.isnan(ways[listed])]
        ways[beyond] = _at_least(cosines[beyond], np.where(joined[beyond], radius, 0.0))
        candidates = np.union1d(reached.positions, listed)
        if allowed is not None:
            candidates = candidates[allowed[candidates]]
        open_ = np.isin(candidates, beyond[joined[beyond]]) & (not done)  # a longer path may lead to them
        last = cosines[listed[-1]]  # no cosine that is not known is larger

        def scored(last: np.float64 = last, candidates: Int64 = candidates, ways: Float64 = ways) -> Float64:
            known = np.where(np.isnan(cosines[candidates]), last, cosines[candidates])
            return blend(known, ways[candidates], alpha)

        scores, unread = scored(), np.isnan(cosines[candidates])
        kth = _kth(scores[~open_ & ~unread], k)
        if done or np.count_nonzero(~open_) >= k:
            read = unread & (scores > kth - ROUNDING)  # what may be among the best
            cosines[candidates[read]] = cosines_of(candidates[read])
            scores, unread = scored(), unread & ~read
            kth = _kth(scores[~open_ & ~unread], k)
        further = scores[open_].max(initial=-np.inf)
        deeper = -np.inf  # at best, of those that were not looked at
        if len(listed) < able and len(candidates) < able:
            deeper = float(blend(last, _at_least(last, radius if joined.all() else 0.0), alpha))
        if kth > max(further, deeper) + ROUNDING or (done and deeper == -np.inf):
            sure = np.flatnonzero(~open_ & ~unread)
            best = candidates[sure[best_first(scores[sure], k)]]
            return Blended(
                positions=best, scores=blend(cosines[best], ways[best], alpha), cosines=cosines[best], ways=ways[best],
                reached=reached,
            )  # fmt: skip
        if done or (deeper > further and kth > further):
            listed, cosines[listed] = ranked(depth := DEEPER * depth)
        else:
            radius = max(GROWTH * radius, FIRST)


def best_first(scores: Float64, k: int) -> Int64:
    """The places of the k largest scores, largest first, and of those that tie with the last when they are rounded."""
    rounded = scores.round(DECIMALS)
    order: Int64 = np.argsort(-rounded, kind="stable")
    return order[: max(k, int(np.count_nonzero(rounded >= _kth(rounded, k))))]


def _kth(scores: Float64, k: int) -> float:
    return float(np.partition(scores, -k)[-k]) if len(scores) >= k else -np.inf


def _at_least(cosines: Any, radius: Any) -> Any:
    """The angles of some cosines, or the radius where it is longer."""
    return np.maximum(angles_of(cosines), radius)


def check_alpha(alpha: float) -> None:
    """Nothing, if it is a share.

    Raises
    ------
    InputError
    """
    if isinstance(alpha, bool) or not isinstance(alpha, int | float | np.number) or not 0.0 <= alpha <= 1.0:
        raise InputError(f"geodesic={alpha!r}; expected a number from 0 (ways alone) to 1 (cosine alone)")
