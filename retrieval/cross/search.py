"""The k items that a cross-encoder would rank first, under a budget of its calls.

    round 1      the items that the bi-encoder, or the anchor queries like this one, would rank first: score them
    rounds 2..   fit the scores made so far by the basis, predict all items, score the best that were not scored
    at the end   the best of what was scored: every call is fit and candidate at once, no pair is scored twice

With V the vectors this is AXN (Yadav et al. 2024, arXiv 2405.03651, algorithm 1), with anchors ADACUR (Yadav et al.
2023, arXiv 2305.02996); one fit on fixed landmarks is ANNCUR (Yadav et al. 2022, arXiv 2210.12579). Over the papers:
a ridge in the place of the pseudo-inverse, a bias, what the bi-encoder and the anchors expect as a prior, both bases
side by side, and a guard that goes on as plain reranking where the fit knows no more than the bi-encoder.

Without a fit a neighbour graph can say what to score next: what scored well pulls its neighbours in (GAR: MacAvaney,
Tonellotto & Macdonald 2022, arXiv 2208.08942).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, cast, get_args

import numpy as np

from indexes.bundle import checked_hits
from indexes.errors import InputError

from ..similarity import spearman
from .basis import Array, Basis, Bool, Int64
from .calls import Scorer, check_callable, check_saturation, score_pairs
from .fit import Fit, Float64, fit_scores

Method = Literal["plain", "anchors", "adaptive", "graph"]

PROBE = 8
"""Calls that tell how long one takes, where the budget is a time."""

BY_ORDER = ("plain", "graph")
"""Methods that predict nothing."""

FEWEST = 8
"""Scores that a first fit is made of, and that the guard compares."""


class Columns(Protocol):
    """What the rounds ask of a basis: see `Basis`; `retrieval.cross.indexed.IndexBasis` is one, too."""

    @property
    def n(self) -> int:
        """Number of items."""
        ...  # pragma: no cover

    def rows(self, positions: Int64) -> Float64:
        """The columns of some items."""
        ...  # pragma: no cover

    def directions(self, query_vector: Array | None) -> Float64:
        """What is expected of a query before any call."""
        ...  # pragma: no cover

    def best(self, weights: Float64, depth: Sequence[int], allowed: Bool | None = None) -> list[Int64]:
        """The items with the largest predictions."""
        ...  # pragma: no cover

    def landmarks(self, count: int, allowed: Bool | None = None) -> Int64:
        """Items that stand for all others."""
        ...  # pragma: no cover


class Links(Protocol):
    """What is asked of a neighbour graph: `retrieval.geodesic.NeighborGraph` is one."""

    @property
    def n(self) -> int:
        """Number of items."""
        ...  # pragma: no cover

    def neighbors(self, position: int) -> tuple[Int64, Float64]:
        """The items that one is linked with, nearest first, and how far off they are."""
        ...  # pragma: no cover


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """An item that was scored.

    Parameters
    ----------
    row : int
    score : float
        What the scorer gave.
    predicted : float or None
        What the fit expected before; None in the first round, and where the guard took the bi-encoder's order.
    round : int
        From 1.
    """

    row: int
    score: float
    predicted: float | None
    round: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """How a search went.

    Parameters
    ----------
    found : list of Found
        All that was scored: score descending, then row.
    rounds : int
    fallbacks : int
        Rounds in which the guard took the bi-encoder's order, for the fit predicted left-out scores no better.
    """

    found: list[Found]
    rounds: int
    fallbacks: int

    @property
    def calls(self) -> int:
        """How often the scorer was asked."""
        return len(self.found)


class CrossEncoderSearch:
    """Search for what a scorer would rank first, with a bounded number of calls.

    Parameters
    ----------
    vectors : ndarray of shape (n, d), basis or None
        Vectors of the items by the bi-encoder; a `Basis` holds them with anchors. None needs `anchors`.
    scorer : callable
        ``scorer(query, texts) -> scores``, raw and higher for better; with a method ``scores(queries, texts)`` the
        pairs of several queries go in one call (`retrieval.scorer.CrossEncoderScorer` has it).
    texts : sequence or callable, optional
        The items' texts, or ``texts(rows) -> texts``; without it the scorer is given the rows themselves.
    anchors, anchor_vectors : ndarray, optional
        See `Basis`.
    method : {"adaptive", "anchors", "plain", "graph"}, default="adaptive"
        "plain" scores what the bi-encoder ranks first, "anchors" fits once on fixed landmarks (half of the budget),
        "adaptive" goes in rounds, "graph" too, half of them with neighbours of what scored best.
    budget : int, default=100
        Most calls for one query.
    rounds : int, default=5
        Of the methods that go in rounds.
    ridge : float, optional
        See `retrieval.cross.fit.fit_scores`.
    guard : bool, default=True
        Whether the bi-encoder's order is taken where the fit predicts left-out scores no better.
    graph : NeighborGraph, optional
        Of the items; "graph" needs it.

    Raises
    ------
    InputError
        If a value cannot be used.

    Notes
    -----
    A round costs n dim multiplications for its predictions and m^3 for the fit of m scores. Where 100,000 items or
    more make that too slow the basis finds its best rows by an inverted file.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> items, wish = rng.normal(size=(1000, 8)), rng.normal(size=8)
    >>> def scorer(query, rows):  # stands for a cross-encoder; it has 30 calls, not 1,000
    ...     return items[rows] @ wish
    >>> search = CrossEncoderSearch(items, scorer, budget=30)
    >>> hits = search.search("anything", query_vector=items[0], k=3)
    >>> [row for row, score in hits] == np.argsort(-(items @ wish))[:3].tolist()
    True
    """

    def __init__(
        self,
        vectors: Array | Columns | None,
        scorer: Scorer,
        *,
        texts: Sequence[Any] | Callable[[Sequence[int]], Sequence[Any]] | None = None,
        anchors: Array | None = None,
        anchor_vectors: Array | None = None,
        method: Method = "adaptive",
        budget: int = 100,
        rounds: int = 5,
        ridge: float | None = None,
        guard: bool = True,
        graph: Links | None = None,
    ) -> None:
        if method not in get_args(Method):
            raise InputError(f"method={method!r}; expected one of {', '.join(get_args(Method))}")
        for name, value in (("budget", budget), ("rounds", rounds)):
            if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
                raise InputError(f"{name}={value!r}; expected a whole number of 1 or more")
        check_callable(scorer)
        if ridge is not None and not 0 <= ridge < np.inf:
            raise InputError(f"ridge={ridge!r}; expected 0 or more")
        if not hasattr(vectors, "directions"):
            rows = None if vectors is None else np.asarray(vectors)
            self.basis: Columns = Basis(rows, anchors, anchor_vectors)
        elif anchors is not None or anchor_vectors is not None:
            raise InputError("anchors are given beside a basis; expected them in it")
        else:
            self.basis = cast(Columns, vectors)
        if texts is not None and not callable(texts) and len(texts) != self.basis.n:
            raise InputError(f"there are {len(texts):,} texts for {self.basis.n:,} items; expected one for each")
        if method == "graph" and (graph is None or graph.n != self.basis.n):
            what = "none" if graph is None else f"one of {graph.n:,} items"
            raise InputError(f"method='graph' with {what}; expected the neighbour graph of {self.basis.n:,} items")
        self.scorer, self.texts, self.method, self.graph = scorer, texts, method, graph
        self.budget, self.rounds, self.ridge, self.guard = int(budget), int(rounds), ridge, guard

    def search(
        self, query: Any, *, query_vector: Array | None = None, k: int = 10, allowed: Bool | None = None
    ) -> list[tuple[int, float]]:
        """The best k of what was scored, as (row, score), best first.

        Parameters
        ----------
        query : str, or whatever the scorer takes
        query_vector : ndarray of shape (d,), optional
            By the bi-encoder; "plain" needs it.
        k : int, default=10
        allowed : ndarray of shape (n,), bool, optional
            Only these items may be found.

        Raises
        ------
        InputError
            If a value cannot be used, or the scorer's scores are not finite or saturated.
        """
        k = checked_hits(k)
        vectors = None if query_vector is None else np.asarray(query_vector)[None]
        (trace,) = self.trace([query], vectors, allowed=allowed)
        return [(one.row, one.score) for one in trace.found[:k]]

    def trace(
        self,
        queries: Sequence[Any],
        query_vectors: Array | None = None,
        *,
        allowed: Bool | None = None,
        milliseconds: float | None = None,
    ) -> list[Trace]:
        """All that was scored for each of q queries, and how it came to it; the pairs of a round share batches.

        Parameters
        ----------
        queries : sequence
        query_vectors : ndarray of shape (q, d), optional
        allowed : ndarray of shape (n,), bool, optional
        milliseconds : float, optional
            Calls stop where so much time a query would be spent, by the pace of the last round, or at the budget.
        """
        if query_vectors is None and self.method in BY_ORDER:
            raise InputError(f"method={self.method!r} ranks by the bi-encoder; expected query_vector")
        if query_vectors is not None and len(query_vectors) != len(queries):
            raise InputError(f"{len(query_vectors)} query vectors for {len(queries)} queries; expected one for each")
        if allowed is not None and np.shape(allowed) != (self.basis.n,):
            raise InputError(f"allowed has shape {np.shape(allowed)}; expected ({self.basis.n},)")
        if milliseconds is not None and not 0 < milliseconds < np.inf:
            raise InputError(f"a budget of {milliseconds!r} ms; expected a number more than 0")
        if milliseconds is not None and self.method == "anchors":
            raise InputError(
                "method='anchors' (--method anchors) divides a number of calls; expected a budget, not milliseconds"
            )
        able = self.basis.n if allowed is None else int(np.count_nonzero(allowed))
        most = budget = min(self.budget, able)
        vectors: Any = [None] * len(queries) if query_vectors is None else query_vectors
        running = [
            _Running(query, self.basis.directions(vector)) for query, vector in zip(queries, vectors, strict=True)
        ]
        if self.method in BY_ORDER and running and not running[0].directions.shape[1]:
            raise InputError(f"method={self.method!r} ranks by the bi-encoder; expected vectors in the basis")
        left, done, number = milliseconds, 0, 0
        while done < budget and running:
            number += 1
            began = time.perf_counter()
            count = self._round_size(number, budget, done, milliseconds is not None)
            picks = self._picks(running, number, count, allowed)
            self._score(running, picks, number)
            done += count
            if left is not None:
                spent = 1000 * (time.perf_counter() - began) / len(running)
                left -= spent
                budget = min(most, done + int(max(left, 0.0) * count / max(spent, 1e-6)))
        return [one.trace(number) for one in running]

    def _round_size(self, number: int, budget: int, done: int, timed: bool) -> int:
        """Calls of this round for each query; under a budget of time few at first, which tell how long one takes."""
        if timed and number == 1:
            size = PROBE
        elif self.method == "plain":
            size = 2 * done if timed else budget
        elif self.method == "anchors":
            size = max(1, budget // 2) if number == 1 else budget
        elif number == 1:
            size = max(FEWEST, budget // self.rounds)
        else:
            size = -(-(budget - done) // max(1, self.rounds + 1 - number))
        return min(size, budget - done)

    def _picks(self, running: list[_Running], number: int, count: int, allowed: Bool | None) -> list[_Picks]:
        """What each query's next calls are spent on."""
        if number == 1 and (self.method == "anchors" or not running[0].directions.shape[1]):
            landmarks = self.basis.landmarks(count, allowed)
            return [_Picks(landmarks, None) for _ in running]
        if self.method in BY_ORDER:
            weights = [one.directions[:, 0] for one in running]
            fits: list[Fit | None] = [None] * len(running)
        elif number == 1:
            weights, fits = [one.directions.sum(axis=1) for one in running], [None] * len(running)
        else:
            weights, fits = map(list, zip(*(self._fitted(one) for one in running), strict=True))
        depths = [count + len(one.rows) for one in running]
        best = self.basis.best(np.array(weights), depths, allowed)
        picks = []
        for one, fit, weight, found in zip(running, fits, weights, best, strict=True):
            chosen = found[~np.isin(found, one.rows)][:count]
            if self.method == "graph" and number > 1:
                pulled = self._pulled(one, count // 2, allowed)
                chosen = np.concatenate([pulled, chosen[~np.isin(chosen, pulled)]])[:count]
            predicted = None if fit is None else self.basis.rows(chosen) @ weight + fit.bias
            picks.append(_Picks(chosen, predicted))
        return picks

    def _pulled(self, one: _Running, count: int, allowed: Bool | None) -> Int64:
        """Neighbours of what scored best, the best one's first, that were not scored yet."""
        assert self.graph is not None
        known, pulled = set(one.rows), list[int]()
        for at in np.argsort(-np.array(one.scores), kind="stable"):
            for item in self.graph.neighbors(one.rows[at])[0].tolist():
                if len(pulled) == count:
                    break
                if item not in known and (allowed is None or allowed[item]):
                    known.add(item)
                    pulled.append(item)
        return np.array(pulled, np.int64)

    def _fitted(self, one: _Running) -> tuple[Float64, Fit | None]:
        """The weights that predict all items, and the fit that they are of; the bi-encoder's if the guard says so."""
        rows, scores = self.basis.rows(np.array(one.rows)), np.array(one.scores)
        if np.ptp(scores) == 0 and one.directions.shape[1]:  # they say nothing yet
            one.fallbacks += 1
            return one.directions.sum(axis=1), None
        prior = rows @ one.directions
        fit = fit_scores(rows, prior, scores, self.ridge)
        guarded = self.guard and one.directions.shape[1] > 0 and len(scores) >= FEWEST
        if guarded and spearman(fit.left_out, scores) < spearman(prior[:, 0], scores):
            one.fallbacks += 1
            return one.directions[:, 0], None
        return fit.weights + one.directions @ fit.prior, fit

    def _score(self, running: list[_Running], picks: list[_Picks], number: int) -> None:
        texts = [self._texts(pick.rows) for pick in picks]
        scores = score_pairs(self.scorer, [one.query for one in running], texts)
        for one, pick, some, of_query in zip(running, picks, texts, scores, strict=True):
            one.add(pick, of_query, some, number)

    def _texts(self, rows: Int64) -> Sequence[Any]:
        numbers = [int(row) for row in rows]
        if self.texts is None:
            return numbers
        return list(self.texts(numbers)) if callable(self.texts) else [self.texts[row] for row in numbers]


@dataclass(frozen=True, slots=True)
class _Picks:
    rows: Int64
    predicted: Float64 | None


@dataclass(slots=True)
class _Running:
    """One query on its way."""

    query: Any
    directions: Float64
    rows: list[int] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    predicted: list[float | None] = field(default_factory=list)
    round_of: list[int] = field(default_factory=list)
    texts: list[Any] = field(default_factory=list)
    fallbacks: int = 0

    def add(self, pick: _Picks, scores: Float64, texts: Sequence[Any], number: int) -> None:
        self.rows += pick.rows.tolist()
        self.scores += scores.tolist()
        self.predicted += [None] * len(scores) if pick.predicted is None else pick.predicted.tolist()
        self.round_of += [number] * len(scores)
        self.texts += texts
        check_saturation(np.array(self.scores), self.texts)

    def trace(self, rounds: int) -> Trace:
        found = [
            Found(row=row, score=score, predicted=predicted, round=number)
            for row, score, predicted, number in zip(self.rows, self.scores, self.predicted, self.round_of, strict=True)
        ]
        found.sort(key=lambda one: (-one.score, one.row))
        return Trace(found=found, rounds=rounds, fallbacks=self.fallbacks)
