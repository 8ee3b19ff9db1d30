"""Hits of an index in the order of a cross-encoder, under a budget of its calls; see `retrieval.cross`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import numpy as np

from indexes.bundle import Bundle
from indexes.errors import InputError

from .cross.calls import Scorer
from .cross.indexed import IndexBasis
from .cross.search import CrossEncoderSearch, Found, Method, Trace
from .hit import Hit
from .moments import Float32
from .scorer import CrossEncoderScorer

BUDGET = 100
"""Calls of the cross-encoder for one query, where nothing else is said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranking:
    """How hits are to be reranked.

    Parameters
    ----------
    scorer : callable
        ``scorer(query, texts) -> scores``.
    budget : int, default=100
        Most calls for one query.
    method : {"plain", "anchors", "adaptive"}
    milliseconds : float, optional
        Most time for one query's calls.
    """

    scorer: Scorer
    budget: int = BUDGET
    method: Method = "plain"
    milliseconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reranked:
    """The hits of one query, and what they cost."""

    hits: list[Hit]
    calls: int
    rounds: int
    fallbacks: int


def scorer_of(rerank: str | PathLike[str] | Scorer) -> Scorer:
    """A model's name or folder as a scorer; a scorer as it is.

    Raises
    ------
    ModelError
        See `CrossEncoderScorer`.
    InputError
        If it is neither.
    """
    if isinstance(rerank, str | PathLike):
        return CrossEncoderScorer(fspath(rerank))
    if not callable(rerank):
        raise InputError(f"rerank={rerank!r}; expected a cross-encoder's name or folder, or scorer(query, texts)")
    return rerank


def rerank(
    bundle: Bundle,
    queries: Sequence[str],
    vectors: Float32,
    k: int,
    how: Reranking,
    *,
    filter: str | Mapping[str, Any] | None = None,
) -> list[Reranked]:
    """The k documents that the cross-encoder ranks first among those it was asked about, for each query.

    Call it within `Bundle.read`: scores, texts and rows are then of one state.

    Parameters
    ----------
    bundle : Bundle
    queries : sequence of str
    vectors : ndarray of shape (q, dim), float32
        Unit rows of the queries.
    k : int
    how : Reranking
    filter : str or mapping, optional

    Raises
    ------
    InputError
        If a value cannot be used, or the scorer's scores cannot.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InputError(f"k={k!r}; expected the number of hits, 1 or more")
    basis = IndexBasis(bundle, None if filter is None else np.sort(bundle.rows_matching(filter)))
    search = CrossEncoderSearch(basis, how.scorer, texts=bundle.texts, method=how.method, budget=how.budget)
    if not basis.n:
        return [Reranked(hits=[], calls=0, rounds=0, fallbacks=0) for _ in queries]
    traces = search.trace(queries, vectors, milliseconds=how.milliseconds)
    return [
        Reranked(
            hits=_hits(bundle, basis, vector, trace, k),
            calls=trace.calls,
            rounds=trace.rounds,
            fallbacks=trace.fallbacks,
        )
        for vector, trace in zip(vectors, traces, strict=True)
    ]


def _hits(bundle: Bundle, basis: IndexBasis, vector: Float32, trace: Trace, k: int) -> list[Hit]:
    best = _best(bundle, trace, k)
    rows = np.array([one.row for one, _ in best], np.int64)
    dense = (basis.rows(rows) @ vector).round(6).tolist() if len(rows) else []
    hits = []
    for rank, ((one, document), cosine) in enumerate(zip(best, dense, strict=True), start=1):
        scores = {"cross_encoder": round(one.score, 6), "dense": cosine, "round": one.round}
        if one.predicted is not None:
            scores["predicted"] = round(one.predicted, 6)
        hits.append(
            Hit(
                rank=rank, doc_id=document.doc_id, score=scores["cross_encoder"], text=document.text,
                metadata=document.metadata, scores=scores,
            )
        )  # fmt: skip
    return hits


def _best(bundle: Bundle, trace: Trace, k: int) -> list[tuple[Found, Any]]:
    """The first k with their documents; equal scores by id."""
    found = trace.found
    if len(found) > k:
        found = [one for one in found if one.score >= found[k - 1].score]
    documents = bundle.documents([one.row for one in found])
    return sorted(zip(found, documents, strict=True), key=lambda pair: (-pair[0].score, pair[1].doc_id))[:k]
