"""Hits of an index in the order of a cross-encoder, under a budget of its calls; see `retrieval.cross`."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike, fspath
from threading import Lock
from typing import Any

import numpy as np

from indexes.bundle import Bundle, checked_hits
from indexes.catalogue import StoredDocument
from indexes.errors import FingerprintError, IndexError_, InputError
from indexes.loaded import searched
from indexes.manifest import Manifest
from indexes.pair_scores import PAIR_SCORES, PairScores
from indexes.stored import StoredVectors

from .compiled.scorer import load_scorer
from .cross.anchors import Anchors
from .cross.basis import Basis, Bool
from .cross.calls import Scorer
from .cross.completion import completed, is_scored
from .cross.indexed import IndexBasis
from .cross.search import BY_ORDER, Columns, CrossEncoderSearch, Found, Links, Method, Trace
from .hit import Hit
from .making import whiten
from .models import compare
from .moments import Float32
from .remembered import RememberedScorer, unremembered
from .whitening import Whitening

logger = logging.getLogger(__name__)

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
    method : {"plain", "anchors", "adaptive", "graph"}
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
        return load_scorer(fspath(rerank))
    if not callable(rerank):
        raise InputError(f"rerank={rerank!r}; expected a cross-encoder's name or folder, or scorer(query, texts)")
    return rerank


class _Changed(Exception):
    """The index was changed while a model ran."""


class _State:
    """One state of an index: what is searched, and the columns that scores are predicted from, made when needed."""

    def __init__(self, generation: int, vectors: StoredVectors, make: Callable[[], Columns | None]) -> None:
        self.generation, self.vectors = generation, vectors
        self._make: Callable[[], Columns | None] | None = make
        self._columns: Columns | None = None
        self._making = Lock()

    def columns(self) -> Columns | None:
        """None where there is no document."""
        with self._making:
            if self._make is not None:
                self._columns, self._make = self._make(), None
            return self._columns


class Reranker:
    """Reranks the hits of an index; what predicts their scores is held from one search to the next.

    Parameters
    ----------
    bundle : Bundle
    whitening : callable
        Gives the whitening of the state that is loaded.
    graph : callable
        Gives the neighbour graph of the state that is loaded.
    """

    def __init__(self, bundle: Bundle, whitening: Callable[[], Whitening | None], graph: Callable[[], Links]) -> None:
        self._bundle, self._whitening, self._graph = bundle, whitening, graph
        self._held: dict[bool, _State] = {}  # of one generation, with anchors and without
        self._warned: set[str] = set()
        self._scorer: tuple[str, Scorer] | None = None

    def scorer(self, rerank: str | Scorer) -> Scorer:
        """A named cross-encoder, loaded once and its scores kept beside the index; a scorer as it is."""
        if not isinstance(rerank, str):
            return scorer_of(rerank)
        held = self._scorer
        if held is None or held[0] != rerank:
            pairs = PairScores(self._bundle.folder / PAIR_SCORES)
            held = self._scorer = rerank, RememberedScorer(scorer_of(rerank), pairs)
        return held[1]

    def rerank(
        self,
        queries: Sequence[str],
        raw: Float32,
        k: int,
        how: Reranking,
        *,
        filter: str | Mapping[str, Any] | None = None,
    ) -> list[Reranked]:
        """The k documents that the cross-encoder ranks first among those it was asked about, for each query.

        Nothing of the index is held while the scorer runs; if it was changed meanwhile, the search begins again.

        Parameters
        ----------
        queries : sequence of str
        raw : ndarray of shape (q, model_dim), float32
            What the encoder made of them.
        k : int
        how : Reranking
        filter : str or mapping, optional

        Raises
        ------
        InputError
            If a value cannot be used, or the scorer's scores cannot.
        FingerprintError
            If the method is "anchors", and those of the index were scored by another cross-encoder.
        IndexError_
            If the index is changed all the time.
        """
        k = checked_hits(k)
        for _ in range(ATTEMPTS):
            try:
                return self._reranked(queries, raw, k, how, filter)
            except _Changed:
                continue
        raise IndexError_(f"{self._bundle.folder} was changed {ATTEMPTS} times while a cross-encoder ran; try again")

    def _reranked(
        self, queries: Sequence[str], raw: Float32, k: int, how: Reranking, filter: str | Mapping[str, Any] | None
    ) -> list[Reranked]:
        bundle = self._bundle

        def prepared() -> tuple[_State, Float32, Bool | None, Links | None]:
            state = self._state(how)
            allowed = None if filter is None else np.isin(state.vectors.rows, bundle.rows_matching(filter))
            graph = self._graph() if how.method == "graph" else None
            return state, whiten(raw, self._whitening()), allowed, graph

        def documents(positions: Sequence[int]) -> list[StoredDocument]:
            def of_this_state() -> list[StoredDocument]:
                if bundle.manifest.generation != state.generation:
                    raise _Changed
                return bundle.documents(state.vectors.rows[np.asarray(positions, np.int64)].tolist())

            return bundle.read(of_this_state)

        state, vectors, allowed, graph = bundle.read(prepared)
        columns = state.columns()
        if columns is None or (allowed is not None and not allowed.any()):
            return [Reranked(hits=[], calls=0, rounds=0, fallbacks=0) for _ in queries]
        # subtle: scores that are remembered take no time, which would be taken for the model's pace
        scorer = how.scorer if how.milliseconds is None else unremembered(how.scorer)
        search = CrossEncoderSearch(
            columns, scorer, texts=lambda positions: [one.text for one in documents(positions)],
            method=how.method, budget=how.budget, graph=graph,
        )  # fmt: skip
        traces = search.trace(queries, vectors, allowed=allowed, milliseconds=how.milliseconds)
        return [
            Reranked(
                hits=_hits(documents, state.vectors, vector, one, k), calls=one.calls, rounds=one.rounds,
                fallbacks=one.fallbacks,
            )
            for vector, one in zip(vectors, traces, strict=True)
        ]  # fmt: skip

    def _state(self, how: Reranking) -> _State:
        """The state that is loaded; within `Bundle.read`."""
        bundle, manifest = self._bundle, self._bundle.manifest
        anchored = self._uses_anchors(manifest, how)
        self._held = {key: held for key, held in self._held.items() if held.generation == manifest.generation}
        if anchored in self._held:
            return self._held[anchored]
        vectors, segments = searched(bundle.loaded, manifest.dim), tuple(bundle.loaded)
        scores, path = (bundle.kept("scores"), bundle.anchors_path) if anchored else (None, None)
        of_anchors = None if path is None else whiten(Anchors.load(path).vectors, self._whitening())

        def make() -> Columns | None:
            if not len(vectors):
                return None
            if scores is None or not is_scored(scores).any():  # those that were scored may all be deleted
                return IndexBasis(segments, vectors)
            return Basis(vectors, completed(scores, vectors), of_anchors)

        return self._held.setdefault(anchored, _State(manifest.generation, vectors, make))

    def _uses_anchors(self, manifest: Manifest, how: Reranking) -> bool:
        """Whether the index's anchors say something of this scorer's scores."""
        if how.method == "anchors" and manifest.anchors is None:
            self._warn(
                f"{self._bundle.folder} has no anchors, so the vectors stand for them; make some with: "
                f"retrieval cross {self._bundle.folder} --model MODEL"
            )
        if how.method in BY_ORDER or manifest.anchors is None:
            return False
        try:
            check_scorer(manifest.anchors, how.scorer)
        except FingerprintError as error:
            if how.method == "anchors":
                raise
            self._warn(f"the index's anchors are not used: {error}")
            return False
        return True

    def _warn(self, message: str) -> None:
        if message not in self._warned:
            logger.warning("%s", message)
        self._warned.add(message)


def scorer_record(scorer: Scorer) -> dict[str, Any]:
    """What is stored of the scorer whose scores an index keeps.

    Raises
    ------
    InputError
        If its fingerprint is missing, or is nothing that JSON gives back as it was.
    """
    given: Any = getattr(scorer, "fingerprint", None)
    try:
        decides = dict(given) if isinstance(given, Mapping) else {}
        lasts = json.loads(json.dumps(decides, allow_nan=False)) == decides
    except (TypeError, ValueError):
        lasts = False
    if not decides or not lasts:
        raise InputError(
            f"the scorer's fingerprint is {given!r:.100}, by which its scores cannot be told from another's; name a "
            "cross-encoder, or give the scorer an attribute `fingerprint`: a mapping, that JSON can hold, of all that "
            "decides its scores"
        )
    name, source = getattr(scorer, "name", type(scorer).__name__), getattr(scorer, "source", "")
    return {"name": name, "source": source, "fingerprint": decides}


def check_scorer(anchors: Mapping[str, Any], scorer: Scorer) -> None:
    """Nothing, if it is the one that the anchors of an index were scored by.

    Raises
    ------
    FingerprintError
        Which parts differ, naming both; or that the scorer has no fingerprint.
    """
    given, name = getattr(scorer, "fingerprint", None), getattr(scorer, "name", type(scorer).__name__)
    if not given or not isinstance(given, Mapping):
        raise FingerprintError(
            f"the anchors were scored by {anchors['name']}, and {name} has no fingerprint that would show it to be the "
            "same; give it an attribute `fingerprint`, a mapping"
        )
    compare(
        dict.fromkeys(given) | dict(anchors["fingerprint"]), given, name,
        what=f"the anchors were scored by a cross-encoder ({anchors['name']})",
        remedy="name that one, or score them anew (retrieval cross INDEX --fresh)",
    )  # fmt: skip


Documents = Callable[[Sequence[int]], list[StoredDocument]]


def _hits(documents: Documents, vectors: StoredVectors, query: Float32, trace: Trace, k: int) -> list[Hit]:
    best = _best(documents, trace, k)
    rows = vectors[np.array([one.row for one, _ in best], np.int64)]
    dense = (rows.astype(np.float64) @ query).round(6).tolist()
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
