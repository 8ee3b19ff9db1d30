"""Hits of an index in the order of a cross-encoder, under a budget of its calls; see `retrieval.cross`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from typing import Any

import numpy as np

from indexes.bundle import Bundle
from indexes.catalogue import StoredDocument
from indexes.errors import IndexError_, InputError

from .cross.calls import Scorer
from .cross.indexed import IndexBasis
from .cross.search import CrossEncoderSearch, Found, Method, Trace
from .hit import Hit
from .moments import Float32
from .scorer import CrossEncoderScorer

BUDGET = 100
"""Calls of the cross-encoder for one query, where nothing else is said."""


QUERIES_AT_ONCE = 16
"""Queries whose pairs share batches, where there are many: answers come as they are known."""

ATTEMPTS = 5
"""How often a search begins again because the index was changed meanwhile."""


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


class _Changed(Exception):
    """The index was changed while a model ran."""


def rerank(
    bundle: Bundle,
    queries: Sequence[str],
    embed: Callable[[], Float32],
    k: int,
    how: Reranking,
    *,
    filter: str | Mapping[str, Any] | None = None,
) -> list[Reranked]:
    """The k documents that the cross-encoder ranks first among those it was asked about, for each query.

    Nothing of the index is held while the scorer runs; if it was changed meanwhile, the search begins again.

    Parameters
    ----------
    bundle : Bundle
    queries : sequence of str
    embed : callable
        Gives the unit rows of the queries, of shape (q, dim), in the state that is loaded.
    k : int
    how : Reranking
    filter : str or mapping, optional

    Raises
    ------
    InputError
        If a value cannot be used, or the scorer's scores cannot.
    IndexError_
        If the index is changed all the time.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InputError(f"k={k!r}; expected the number of hits, 1 or more")
    for _ in range(ATTEMPTS):
        try:
            return _reranked(bundle, queries, embed, k, how, filter)
        except _Changed:
            continue
    raise IndexError_(f"{bundle.folder} was changed {ATTEMPTS} times while a cross-encoder ran; search it again")


def _reranked(
    bundle: Bundle,
    queries: Sequence[str],
    embed: Callable[[], Float32],
    k: int,
    how: Reranking,
    filter: str | Mapping[str, Any] | None,
) -> list[Reranked]:
    def state() -> tuple[int, Float32, IndexBasis]:
        wanted = None if filter is None else bundle.rows_matching(filter)
        manifest = bundle.manifest
        return manifest.generation, embed(), IndexBasis(bundle.loaded, manifest.dim, wanted)

    def documents(rows: Sequence[int]) -> list[StoredDocument]:
        def of_this_state() -> list[StoredDocument]:
            if bundle.manifest.generation != generation:
                raise _Changed
            return bundle.documents(rows)

        return bundle.read(of_this_state)

    generation, vectors, basis = bundle.read(state)
    search = CrossEncoderSearch(
        basis, how.scorer, texts=lambda rows: [one.text for one in documents(rows)], method=how.method,
        budget=how.budget,
    )  # fmt: skip
    if not basis.n:
        return [Reranked(hits=[], calls=0, rounds=0, fallbacks=0) for _ in queries]
    traces = search.trace(queries, vectors, milliseconds=how.milliseconds)
    return [
        Reranked(
            hits=_hits(documents, basis, vector, one, k), calls=one.calls, rounds=one.rounds, fallbacks=one.fallbacks
        )
        for vector, one in zip(vectors, traces, strict=True)
    ]


Documents = Callable[[Sequence[int]], list[StoredDocument]]


def _hits(documents: Documents, basis: IndexBasis, vector: Float32, trace: Trace, k: int) -> list[Hit]:
    best = _best(documents, trace, k)
    dense = basis.cosines(np.array([one.row for one, _ in best], np.int64), vector).round(6).tolist()
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


def _best(documents: Documents, trace: Trace, k: int) -> list[tuple[Found, StoredDocument]]:
    """The first k with their documents; equal scores by id."""
    found = trace.found
    if len(found) > k:
        found = [one for one in found if one.score >= found[k - 1].score]
    read = documents([one.row for one in found])
    return sorted(zip(found, read, strict=True), key=lambda pair: (-pair[0].score, pair[1].doc_id))[:k]
