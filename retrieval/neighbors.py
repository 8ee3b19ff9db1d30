"""The nearest rows of each row of an index, as they are kept beside it (`indexes.stored.NEIGHBOR`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError
from indexes.loaded import LoadedSegment, nearest, searched
from indexes.stored import NEIGHBOR

from .progress import Advance

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Lists = NDArray[Any]

BLOCK = 1024
"""Rows that are looked for together."""

MORE = 4
"""Rows beyond the list's end that are measured: codes are not quite of length one, so they order a little otherwise."""

MOST_ROWS = 2**31


def neighbor_lists(
    segments: Sequence[LoadedSegment], rows: Int64, neighbors: int, advance: Advance = lambda count: None
) -> Iterator[Lists]:
    """For each of some rows the live rows nearest to it, nearest first, block by block.

    Found by the search structures, measured between the rows that they hold (8-bit codes decoded).

    Parameters
    ----------
    segments : sequence of LoadedSegment
    rows : ndarray of shape (m,), int64
        Live rows of theirs.
    neighbors : int
    advance : callable, optional
        Told how many rows are done.

    Yields
    ------
    ndarray of shape (b, neighbors), NEIGHBOR
        Row -1, at an infinite angle, where there are no more.

    Raises
    ------
    InputError
        If a row's number does not fit into 31 bits.
    """
    if not len(rows):
        return
    stored = searched(segments, segments[0].index.dim)
    if stored.rows.max() >= MOST_ROWS:
        raise InputError(
            f"row {stored.rows.max():,}: a neighbour graph numbers less than {MOST_ROWS:,}; build the index anew"
        )

    def found(vectors: Float32, k: int) -> Int64:
        return nearest(segments, vectors, k)[1]

    for start in range(0, len(rows), BLOCK):
        some = rows[start : start + BLOCK]
        yield lists_among(found, stored.of_rows, some, neighbors)
        advance(len(some))


def lists_among(
    nearest_to: Callable[[Float32, int], Int64], vectors_of: Callable[[Int64], Float32], rows: Int64, neighbors: int
) -> Lists:
    """For each of some rows those nearest to it, of shape (m, neighbors), NEIGHBOR; see `neighbor_lists`.

    Parameters
    ----------
    nearest_to : callable
        Gives the rows nearest to vectors, (m, k), -1 where there are no more.
    vectors_of : callable
        Gives the unit vectors of rows.
    rows : ndarray of shape (m,), int64
    neighbors : int
    """
    vectors = vectors_of(rows)
    found = nearest_to(vectors, neighbors + 1 + MORE)  # the row itself is most often among them
    found = np.where(found == rows[:, None], -1, found)
    there = found >= 0
    angles = np.full(found.shape, np.inf, np.float32)
    angles[there] = angle_between(vectors[np.nonzero(there)[0]], vectors_of(found[there]))
    order = np.lexsort((found, angles))[:, :neighbors]
    lists: Lists = np.full((len(rows), neighbors), np.array((-1, np.inf), NEIGHBOR))
    lists["row"][:, : order.shape[1]] = np.take_along_axis(found, order, 1)
    lists["angle"][:, : order.shape[1]] = np.take_along_axis(angles, order, 1)
    return lists


def positioned(rows: Int64, lists: Lists) -> Lists:
    """Lists that name rows as lists that name positions among `rows`; what is not there any more is left out.

    Parameters
    ----------
    rows : ndarray of shape (n,), int64
        Ascending.
    lists : ndarray of shape (m, k), NEIGHBOR
    """
    found = np.array(lists, NEIGHBOR)
    places = np.searchsorted(rows, found["row"]).clip(max=max(len(rows) - 1, 0))
    there = (rows[places] == found["row"]) if len(rows) else np.zeros(found.shape, np.bool_)
    found["row"] = np.where(there, places, -1)
    return found


def is_unlinked(lists: Lists, n: int) -> NDArray[np.bool_]:
    """Which of some lists of positions among n rows were never made, or have lost most of what they named."""
    could = min(lists.shape[1], n - 1)
    lost = 2 * np.count_nonzero(lists["row"] >= 0, axis=1) < could
    unlinked: NDArray[np.bool_] = lost | np.isnan(lists["angle"][:, 0])
    return unlinked


def angle_between(one: NDArray[np.floating[Any]], other: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Angles between unit rows, in radians: exact where they are nearly equal, too, as arccos of the cosine is not.

    Examples
    --------
    >>> angle_between(np.array([[1.0, 0.0]]), np.array([[0.0, 1.0]])).round(4).tolist()
    [1.5708]
    """
    apart = one.astype(np.float64) - other
    chord = np.sqrt(np.einsum("nd,nd->n", apart, apart))
    angles: NDArray[np.float64] = 2.0 * np.arcsin(np.minimum(chord / 2.0, 1.0))
    return angles
