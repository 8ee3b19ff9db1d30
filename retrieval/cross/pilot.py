"""What anchor queries would bring and cost, tried on a small sample before the bill is run up.

Some candidate queries are scored with some documents. Those of the queries that are set aside are then searched for in
that sample, with every number of anchors chosen among the others: the scores are known, so the search asks no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .basis import Basis
from .greedy import greedy_rows
from .search import CrossEncoderSearch, Method

Float = NDArray[np.floating[Any]]

FIRST = 10
"""How many of the documents that are ranked first a search is to find."""

CALLS, SHARE, FEWEST = 100, 8, 16
"""A search that makes so many calls of all documents may ask about as large a share of the sample, but about no more
than one document in `SHARE`, and no fewer than `FEWEST`."""

WITHIN = 2.0
"""Points of recall that the smallest number of anchors may be below the best number."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """Of the first documents by the cross-encoder: how many are found.

    Parameters
    ----------
    anchors : int
        Anchor queries; 0 searches by the vectors alone.
    found : float
        Percent of the first `FIRST` of the sample.
    """

    anchors: int
    found: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pilot:
    """What came out.

    Parameters
    ----------
    queries, documents, held_out : int
        Candidates that were scored, with how many documents; candidates that were searched for.
    budget : int
        Calls that each search had.
    plain : float
        Percent found by scoring the vectors' first hits.
    outlooks : list of Outlook
        By number of anchors, from 0 on.
    spectrum : list of float
        Share of the scores' variance in the first 1, 2, 3, ... directions.
    order : list of int
        All candidates, the most telling first.
    """

    queries: int
    documents: int
    held_out: int
    budget: int
    plain: float
    outlooks: list[Outlook]
    spectrum: list[float]
    order: list[int]

    @property
    def best(self) -> int:
        """The smallest number of anchors that finds about as much as any; 0 if none are worth it."""
        most = max(outlook.found for outlook in self.outlooks)
        return next(outlook.anchors for outlook in self.outlooks if outlook.found >= most - WITHIN)


def calls_in(sample: int, documents: int) -> int:
    """How many calls a search in a sample has, that stands for one in all documents.

    Examples
    --------
    >>> calls_in(256, 300), calls_in(256, 1_000), calls_in(256, 1_000_000)
    (32, 25, 16)
    """
    return max(FEWEST, min(sample // SHARE, CALLS * sample // documents))


def try_anchors(
    scores: Float, vectors: Float, query_vectors: Float, held_out: int, sizes: Sequence[int], ordered: int, budget: int
) -> Pilot:
    """See what different numbers of anchor queries bring.

    Parameters
    ----------
    scores : ndarray of shape (q, m), float
        Of q candidate queries with m documents.
    vectors : ndarray of shape (m, d), float
        The documents' own.
    query_vectors : ndarray of shape (q, d), float
    held_out : int
        So many candidates, the first ones, are searched for; anchors are chosen among the others here.
    sizes : sequence of int
        Numbers of anchors.
    ordered : int
        How many of all candidates are put in order.
    budget : int
        Calls for each query that is searched for.
    """
    among = centred(scores[held_out:])
    order = greedy_rows(among, max(sizes, default=0)) + held_out

    def found(count: int, method: Method) -> float:
        chosen = order[:count]
        anchors = (scores[chosen].T, query_vectors[chosen]) if count else (None, None)
        basis = Basis(vectors, *anchors)
        search = CrossEncoderSearch(basis, lambda query, rows: scores[query, rows], method=method, budget=budget)
        traces = search.trace(list(range(held_out)), query_vectors[:held_out])
        hits = []
        for query, trace in enumerate(traces):
            first = np.argsort(-scores[query], kind="stable")[:FIRST]
            hits.append(np.isin(first, [one.row for one in trace.found]).mean())
        return 100 * float(np.mean(hits))

    values = np.square(np.linalg.svd(centred(scores), compute_uv=False))
    return Pilot(
        queries=len(scores), documents=scores.shape[1], held_out=held_out, budget=budget, plain=found(0, "plain"),
        outlooks=[Outlook(anchors=size, found=found(size, "adaptive")) for size in (0, *sizes)],
        spectrum=(values.cumsum() / (values.sum() or 1.0)).tolist(),
        order=greedy_rows(centred(scores), ordered).tolist(),
    )  # fmt: skip


def centred(scores: Float) -> NDArray[np.float64]:
    """Each query's scores without their mean, which orders nothing."""
    given = np.asarray(scores, np.float64)
    return np.asarray(given - given.mean(axis=1, keepdims=True))
