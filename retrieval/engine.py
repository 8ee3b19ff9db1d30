"""The way of the data, from text to hits: read this first.

    text -> encode -> raw vector (d) -> whiten (k, beta, gamma) -> unit row (k) -> FAISS segment
    query -> encode -> whiten -> search (k nearest, filters) -> hits
                                   or along the neighbour graph (geodesic scores) -> hits
                                   or a cross-encoder under a budget of calls, with scores of anchor queries -> hits

There is one path from text to vector, `Engine.embed`, and building, querying and
evaluating all take it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from indexes.bundle import Bundle
from indexes.checks import Check
from indexes.document import Document, check_unicode
from indexes.errors import InputError
from indexes.writer import BundleWriter, Kept

from . import changes
from .anchoring import Anchoring, drop_anchors, score_anchors
from .changes import Changes, check_ids
from .compiled.store import Compiled
from .corpora import Fields, Format
from .cross.calls import Scorer
from .cross.search import Method
from .encoder import Encoder, Model, Precision, Role, check_encoded, find_model, load_encoder
from .export_index import ExportFormat, Which, export
from .hit import Hit, hits_of
from .intake import Corpus, stage_corpus
from .linking import Linking, drop_graph, link_documents
from .making import (
    LONGER,
    WhiteningChoice,
    auto_dim,
    check_whitening,
    dim_after,
    encode_staged,
    fitted,
    index_rows,
    is_fitted,
    structure,
    whiten,
)
from .models import DEFAULT_MODEL
from .moments import Float32
from .provenance import compiled_fields, compiled_of, encoder_of, made_by, model_record, whitening_fields
from .records import DEFAULT_FIELDS
from .remembered import unremembered
from .reranking import BUDGET, Reranked, Reranker, Reranking
from .summary import summary
from .verify import verify
from .whitening import Whitening

if TYPE_CHECKING:
    from .geodesic.indexed import GeodesicSearch

logger = logging.getLogger(__name__)


class Engine:
    """An index folder and the encoder that made it.

    Use `Engine.build` or `Engine.open`; close it or use it in a ``with`` block.

    Examples
    --------
    >>> import tempfile, pathlib
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "index"
    >>> engine = Engine.build([("a", "the red fox"), ("b", "a blue whale")], path, model="hash:64")
    >>> [(hit.doc_id, hit.text) for hit in engine.search("fox", k=1)]
    [('a', 'the red fox')]
    >>> engine.close()
    """

    def __init__(self, bundle: Bundle, encoder: Encoder | str | None = None) -> None:
        self._bundle = bundle
        self._model = encoder
        self._encoder: Encoder | None = None
        self._reranker = Reranker(bundle, lambda: self.whitening, lambda: self._geodesic.graph()[0])
        self._whitening: tuple[object, Whitening | None] = (None, None)
        self._writing = Lock()  # threads take turns; another process is refused by the folder's own lock
        if bundle.searchable:
            self.whitening  # noqa: B018  # loaded now, so that damage is found when an index is opened

    @classmethod
    def build(
        cls,
        corpus: Corpus,
        path: str | PathLike[str],
        *,
        model: Model = DEFAULT_MODEL,
        prompts: Mapping[str, str] | None = None,
        precision: Precision | None = None,
        portable: bool = False,
        whitening: WhiteningChoice = "auto",
        index: str = "auto",
        raw: Literal["float16", "float32"] | None = "float16",
        format: Format | None = None,
        fields: Fields = DEFAULT_FIELDS,
        on_error: Literal["fail", "skip"] = "fail",
        rejects: str | PathLike[str] | None = None,
        fresh: bool = False,
        progress: bool = False,
    ) -> Engine:
        """Make an index over a corpus, in one commit, and open it.

        An interrupted build goes on where it was when it is started again with the same arguments.

        Parameters
        ----------
        corpus : path, sequence of paths, or iterable of documents
            Files as in `retrieval.corpora.read_corpus`; or texts, (id, text) pairs, mappings or `Document`s.
        path : path
            The index folder; nothing, or an interrupted build, may be there.
        model : str, path or Encoder, default="all-MiniLM-L6-v2"
            See `retrieval.encoder.load_encoder`.
        prompts : mapping, optional
            "query" and "document" prompts in place of the model's own.
        precision : {"float32", "bfloat16"}, optional
            Of the model's arithmetic; by default bfloat16, the quicker one, where the model is compiled
            (`retrieval.compiled`) and the processor computes in it (docs/speed.md says what that costs).
        portable : bool, default=False
            Put the compiled model into the index, which then answers where neither the model nor torch is.
        whitening : Whitening, int, "auto" or None, default="auto"
            An unfitted `Whitening` is fitted on the corpus, a fitted one is used as it is. A number keeps so many
            columns, and all else is chosen by how well halves of the corpus's own texts find each other
            (`retrieval.halves`); "auto" keeps half of the columns, if there are two documents for each.
        index : str, default="auto"
            A FAISS factory string, or "auto" (`indexes.choice.choose`).
        raw : {"float16", "float32", None}, default="float16"
            How raw vectors are kept beside the index. Vectors are searched as they are kept:
            float16 moves a cosine by about 1e-5. None keeps none (float16 while building).
        format, fields
            See `read_corpus`.
        on_error : {"fail", "skip"}, default="fail"
            "skip" leaves bad records out, counts them, and writes them to `rejects`.
        rejects : path, optional
            JSON Lines file of the records left out: source, line, reason, raw.
        fresh : bool, default=False
            Throw away what an interrupted build of other documents or another model has done.
        progress : bool, default=False
            Bars on standard error, if that is a terminal.

        Returns
        -------
        Engine

        Raises
        ------
        CorpusError
            A record that cannot be used, by file and line; nothing is left behind.
        ModelError, InputError, IndexExistsError, IndexLockedError
            See `indexes.errors`.
        """
        folder, kept = Path(path), raw or "float16"
        if kept not in ("float16", "float32"):
            raise InputError(f"raw={raw!r}; expected 'float16', 'float32' or None")
        check_whitening(whitening, "auto")
        _check_rejects(rejects, folder)
        found = find_model(model)
        with BundleWriter(folder, fresh=fresh) as writer:
            staging = writer.staging
            stage_corpus(
                staging, corpus, format=format, fields=fields, on_error=on_error, rejects=rejects, progress=progress
            )
            encoder = load_encoder(found, prompts=prompts, precision=precision)
            carried = compiled_of(encoder) if portable else None
            n, d = staging.count, encoder.dim
            whitening = auto_dim(n, d) if whitening == "auto" else whitening
            dim = dim_after(whitening, d)
            choice = structure(index, n, dim)
            logger.info("index %s: %s", choice.factory, choice.reason)
            encode_staged(staging, encoder, kept, progress)

            vectors = staging.raw()  # (n, d)
            fit = fitted(whitening, vectors, staging.texts, lambda: encoder, progress)
            rows = index_rows(choice, vectors, fit, dim, progress)  # (n, dim)
            beside: Kept = {"raw": staging.publish_raw} if raw else {}
            segment = writer.write_segment(rows, choice.factory, np.arange(n), beside)
            writer.commit(
                [segment],
                model=model_record(encoder),
                dim=dim,
                index=choice.record(index),
                raw=raw,
                made_by=made_by(),
                **whitening_fields(fit, writer.write_whitening, fitted_below=0 if is_fitted(whitening) else n),
                **compiled_fields(carried, writer.write_compiled),
            )
        try:
            return cls(Bundle(folder), encoder)
        except OSError as error:
            message = f"the index is built and committed, but cannot be opened now ({error.strerror or error})"
            raise OSError(error.errno, message, str(folder)) from error

    @classmethod
    def open(cls, path: str | PathLike[str], *, model: str | Encoder | None = None, searchable: bool = True) -> Engine:
        """Open an index; its files are checked now, its model is loaded when the first text comes.

        Parameters
        ----------
        path : path
        model : str or Encoder, optional
            Another place of the same model; one that is not the same is refused when it is first used.
        searchable : bool, default=True
            Whether search structures, row numbers and the whitening are read. Without them documents can still be
            exported, and `rebuild` makes them anew from the raw vectors where they are damaged.

        Raises
        ------
        IndexMissingError, IndexUnfinishedError, IndexVersionError, IndexCorruptError
            See `indexes.errors`.
        """
        return cls(Bundle(Path(path), searchable=searchable), model)

    @overload
    def search(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self,
        query_or_queries: str,
        k: int = 10,
        *,
        filter: str | Mapping[str, Any] | None = None,
        exact: bool = False,
        geodesic: float | None = None,
        rerank: str | Scorer | None = None,
        budget: int | None = None,
        budget_ms: float | None = None,
        method: Method = "plain",
    ) -> list[Hit]: ...
    @overload
    def search(
        self,
        query_or_queries: Sequence[str] | Float32,
        k: int = 10,
        *,
        filter: str | Mapping[str, Any] | None = None,
        exact: bool = False,
        geodesic: float | None = None,
        rerank: str | Scorer | None = None,
        budget: int | None = None,
        budget_ms: float | None = None,
        method: Method = "plain",
    ) -> list[list[Hit]]: ...

    def search(
        self,
        query_or_queries: str | Sequence[str] | Float32,
        k: int = 10,
        *,
        filter: str | Mapping[str, Any] | None = None,
        exact: bool = False,
        geodesic: float | None = None,
        rerank: str | Scorer | None = None,
        budget: int | None = None,
        budget_ms: float | None = None,
        method: Method = "plain",
    ) -> list[Hit] | list[list[Hit]]:
        """The k documents nearest in meaning, best first.

        Parameters
        ----------
        query_or_queries : str, sequence of str, or ndarray of shape (q, dim)
            An array holds unit rows as `embed` gives them; after a `rebuild` embed again.
        k : int, default=10
            Fewer come back where there are fewer.
        filter : str or mapping, optional
            ``"kind = 'class' AND year >= 1990"`` or ``{"kind": "class", "year": {"$gte": 1990}}``;
            see `indexes.filters`.
        exact : bool, default=False
            Look at every vector, whatever the index (IVF with all lists, HNSW without its graph).
        geodesic : float, optional
            Score by ``geodesic * cosine + (1 - geodesic) / (1 + way)``, the way being the shortest path from text to
            text in radians (`build_graph`); 1 is the cosine alone. docs/geodesic.md says where it helps.
        rerank : str or callable, optional
            A cross-encoder's name or folder, or ``scorer(query, texts) -> scores``: hits then have its scores.
        budget : int, default=100
            Most calls of it for one query; what it was not asked about does not come back.
        budget_ms : float, optional
            Milliseconds of them that are aimed at, by the pace of the first 8, within `budget`; scores that are
            remembered are made again. Not with "anchors", which divides a number of calls.
        method : {"plain", "anchors", "adaptive", "graph"}, default="plain"
            What the calls are spent on: the first hits, or what is found by them to be promising
            (`retrieval.cross.CrossEncoderSearch`); "graph" needs a neighbour graph (`build_graph`).

        Returns
        -------
        list of Hit for a str, else a list of such lists
            Score descending, then id.

        Raises
        ------
        InputError
            An empty query, k < 1, a filter that cannot be understood, a scorer's scores that cannot be used, a
            geodesic search of an index without a graph.
        FingerprintError
            The model at hand is not the one that made this index.
        ModelError
            The cross-encoder cannot be loaded.
        """
        how: dict[str, Any] = {
            "filter": filter, "exact": exact, "geodesic": geodesic, "rerank": rerank, "budget": budget,
            "budget_ms": budget_ms, "method": method,
        }  # fmt: skip
        if isinstance(query_or_queries, str):
            return self.search([query_or_queries], k, **how)[0]
        if rerank is not None:
            if isinstance(query_or_queries, np.ndarray) or exact or geodesic is not None:
                what = "a cross-encoder reads texts, not vectors"
                if exact or geodesic is not None:
                    what = f"{'exact' if exact else 'geodesic'} says how vectors are compared"
                raise InputError(f"rerank={rerank!r:.100}, but {what}; leave one of them out")
            raw = self.encode(query_or_queries, "query")
            reranking = Reranking(
                scorer=self.scorer(rerank), budget=BUDGET if budget is None else budget, method=method,
                milliseconds=budget_ms,
            )  # fmt: skip
            return [one.hits for one in self.reranked(query_or_queries, raw, k, reranking, filter=filter)]
        if budget is not None or budget_ms is not None or method != "plain":
            raise InputError("budget, budget_ms and method say how a cross-encoder is asked; name it by rerank")
        if not isinstance(query_or_queries, np.ndarray):
            raw = self.encode(query_or_queries, "query")
            return self.search_encoded(raw, k, filter=filter, exact=exact, geodesic=geodesic)
        return self._found(lambda: query_or_queries, k, filter, exact, geodesic)

    def search_encoded(
        self,
        raw: Float32,
        k: int = 10,
        *,
        filter: str | Mapping[str, Any] | None = None,
        exact: bool = False,
        geodesic: float | None = None,
    ) -> list[list[Hit]]:
        """`search` for queries that `encode` made vectors of, (q, model_dim): whitened and found in one state."""
        return self._found(lambda: self._unit(raw), k, filter, exact, geodesic)

    def _found(
        self, rows: Callable[[], Float32], k: int, filter: Any, exact: bool, geodesic: float | None
    ) -> list[list[Hit]]:
        """What is nearest to each unit row; they are made in the state that is searched."""
        if geodesic is not None:
            return self._bundle.read(lambda: self._geodesic.search(rows(), k, geodesic, filter=filter, exact=exact))
        found = self._bundle.read(lambda: self._bundle.search(rows(), k, filter=filter, exact=exact, unit=self._unit))
        return [hits_of(of_query) for of_query in found]

    def _unit(self, raw: NDArray[np.floating[Any]]) -> Float32:
        return whiten(raw, self.whitening)

    def reranked(
        self,
        queries: Sequence[str],
        raw: Float32,
        k: int,
        how: Reranking,
        *,
        filter: str | Mapping[str, Any] | None = None,
    ) -> list[Reranked]:
        """`search` with a cross-encoder, for queries and what `encode` made of them; with what each cost."""
        return self._reranker.rerank(queries, raw, k, how, filter=filter)

    def rank_by_topic(
        self,
        texts: Sequence[str],
        k: int | None = 10,
        *,
        centre: bool = False,
        filter: str | Mapping[str, Any] | None = None,
    ) -> list[Hit]:
        """The documents by their way from a topic, nearest first, with the score ``1 / (1 + way)``.

        Parameters
        ----------
        texts : sequence of str
            What the topic is; the way is that from the nearest of them.
        k : int or None, default=10
            None ranks all documents.
        centre : bool, default=False
            Begin at the mean of the texts' vectors instead (GeoSumm, arXiv 2209.07496).
        filter
            See `search`.

        Raises
        ------
        InputError
            If the index has no neighbour graph (`build_graph`), or a value cannot be used.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> engine = Engine.build(["a red fox", "a red hen", "the sea"], pathlib.Path(tempfile.mkdtemp()) / "i",
        ...                       model="hash:64")
        >>> engine.build_graph().neighbors
        16
        >>> [hit.text for hit in engine.rank_by_topic(["red"], k=2)]
        ['a red fox', 'a red hen']
        """
        raw = self.encode(texts, "query")
        if not len(raw):
            raise InputError("a topic of no texts; expected one or more")
        return self._bundle.read(
            lambda: self._geodesic.rank_by_topic(whiten(raw, self.whitening), k, centre=centre, filter=filter)
        )

    @cached_property
    def _geodesic(self) -> GeodesicSearch:
        from .geodesic.indexed import GeodesicSearch  # scipy takes a while

        return GeodesicSearch(self._bundle, self._unit)

    def build_graph(self, neighbors: int | None = None, *, fresh: bool = False, progress: bool = False) -> Linking:
        """Link every document with those nearest to it, for geodesic scores; committed every minute.

        What is added later is linked in its own commit; an interrupted call goes on where it was. Documents that lost
        most of their neighbours by deletions are linked anew.

        Parameters
        ----------
        neighbors : int, default=16
            Links that each document makes; a graph that is there keeps its own.
        fresh : bool, default=False
            Put another graph in the place of one that is there; to go on with it after an interruption, leave this out.
        progress : bool, default=False

        Raises
        ------
        InputError
            If a graph is there with another number of neighbors.
        IndexLockedError
            If another process is writing.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> engine = Engine.build(["red", "blue"], pathlib.Path(tempfile.mkdtemp()) / "i", model="hash:8")
        >>> engine.build_graph(4)
        Linking(neighbors=4, linked=2, documents=2)
        """
        with self._writing:
            return link_documents(self._bundle, neighbors=neighbors, fresh=fresh, progress=progress)

    def drop_graph(self) -> None:
        """Take the neighbour graph out of the index, in one commit; nothing else changes."""
        with self._writing:
            drop_graph(self._bundle)

    def score_anchors(
        self,
        rerank: str | Scorer | None = None,
        *,
        anchors: int | None = None,
        queries: Sequence[str] | None = None,
        documents: int | None = None,
        pilot_only: bool = False,
        fresh: bool = False,
        progress: bool = False,
    ) -> Anchoring:
        """Score the documents with some anchor queries, so that ``method="adaptive"`` and "anchors" know more.

        A pilot over a few documents says first what anchors would bring and cost; it is a small sample, and what they
        bring grows with the corpus. Scores are committed every few minutes; a call without `anchors` and `queries` goes
        on where it was, and scores documents that came since. Documents without scores have theirs predicted from
        their vectors.

        Parameters
        ----------
        rerank : str or callable, optional
            The cross-encoder that will rerank; a callable needs an attribute `fingerprint`. By default the one that the
            index's anchors were scored by.
        anchors : int, optional
            Number of anchor queries; by default the smallest that the pilot finds to be enough, or none.
        queries : sequence of str, optional
            What anchors are chosen from, such as a log of queries; by default the documents themselves.
        documents : int, optional
            Score so many, by chance; all by default. It costs anchors x documents calls.
        pilot_only : bool, default=False
            Store nothing; the anchors that the index has stay.
        fresh : bool, default=False
            Others in the place of the anchors that the index has, if the pilot finds them worth it.
        progress : bool, default=False

        Raises
        ------
        InputError
            If a value cannot be used, or the scores cannot.
        FingerprintError
            If the index has anchors that were scored by another cross-encoder.
        ModelError, IndexLockedError
            See `indexes.errors`.
        """
        if rerank is None:
            known = self._bundle.read(lambda: self._bundle.manifest.anchors)
            if known is None:
                raise InputError(
                    f"{self._bundle.folder} has no anchors yet; name a cross-encoder to score them (--model)"
                )
            rerank = str(known["name"])
        return score_anchors(
            self._bundle, lambda texts: self.encode(texts, "query"), lambda: self.whitening,
            unremembered(self.scorer(rerank)), self._writing, anchors=anchors, queries=queries, documents=documents,
            pilot_only=pilot_only, fresh=fresh, progress=progress,
        )  # fmt: skip

    def drop_anchors(self) -> None:
        """Take the anchor queries and their scores out of the index, in one commit; nothing else changes.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> engine = Engine.build([("a", "red"), ("b", "blue")], pathlib.Path(tempfile.mkdtemp()) / "i", model="hash:8")
        >>> engine.drop_anchors()
        >>> engine.info()["anchors"] is None
        True
        """
        with self._writing:
            drop_anchors(self._bundle)

    def scorer(self, rerank: str | Scorer) -> Scorer:
        """A named cross-encoder, loaded once and its scores kept beside the index; a scorer as it is."""
        return self._reranker.scorer(rerank)

    def embed(self, texts: Sequence[str], role: Role = "document") -> Float32:
        """Unit rows of shape (n, dim), float32: encoded, then whitened as this index is.

        Raises
        ------
        InputError
            If a text is empty.
        FingerprintError
            If the model at hand is not the one that made this index.
        """
        return whiten(self.encode(texts, role), self.whitening)

    def encode(self, texts: Sequence[str], role: Role = "document") -> Float32:
        """The model's own vectors, shape (n, model_dim), float32: what `embed` whitens.

        Raises
        ------
        InputError, FingerprintError
            See `embed`.
        """
        if isinstance(texts, str | bytes | Mapping) or not hasattr(texts, "__getitem__"):
            raise InputError(f"texts are {texts!r:.40}; expected a sequence of texts")
        for i, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"{role} {i + 1} is {text!r:.100}; expected some words")
            check_unicode(f"{role} {i + 1}", text)
        vectors, truncated = check_encoded(self.encoder.encode(texts, role), len(texts), self.encoder.dim)
        if role == "query" and truncated.any():
            logger.warning(LONGER, "queries", self.encoder.max_tokens, f"{int(truncated.sum()):,}")
        return vectors

    @property
    def whitening(self) -> Whitening | None:
        """The whitening of the newest state."""

        def current() -> Whitening | None:
            entry = self._bundle.manifest.whitening_file
            if entry != self._whitening[0]:
                path = self._bundle.whitening_path
                self._whitening = (entry, None if path is None else Whitening.load(path))
            return self._whitening[1]

        return self._bundle.read(current)

    def add(
        self,
        corpus: Corpus,
        *,
        format: Format | None = None,
        fields: Fields = DEFAULT_FIELDS,
        on_error: Literal["fail", "skip"] = "fail",
        rejects: str | PathLike[str] | None = None,
        fresh: bool = False,
        progress: bool = False,
    ) -> Changes:
        """Add documents, in one commit; the whitening stays as it was fitted.

        A document that the index has just so is left as it is and counted, so that the same call can be made again.
        An interrupted addition goes on where it was when the same call is made again.

        Parameters
        ----------
        corpus, format, fields, on_error, rejects, progress
            See `build`.
        fresh : bool, default=False
            Throw away what an interrupted addition of other documents has done.

        Returns
        -------
        Changes

        Raises
        ------
        DuplicateIdError
            If the index has one of the ids with another text or other metadata.
        CorpusError, FingerprintError, IndexLockedError, IndexUnfinishedError
            See `indexes.errors`; the index is as it was.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> engine = Engine.build([("a", "the red fox")], pathlib.Path(tempfile.mkdtemp()) / "i", model="hash:8")
        >>> engine.add([("a", "the red fox"), ("b", "a blue whale")])
        Changes(added=1, replaced=0, relabelled=0, unchanged=1, deleted=0, missing=0)
        """
        return self._put(
            corpus, replace=False, prune=False, format=format, fields=fields, on_error=on_error, rejects=rejects,
            fresh=fresh, progress=progress,
        )  # fmt: skip

    def upsert(
        self,
        corpus: Corpus,
        *,
        prune: bool = False,
        format: Format | None = None,
        fields: Fields = DEFAULT_FIELDS,
        on_error: Literal["fail", "skip"] = "fail",
        rejects: str | PathLike[str] | None = None,
        fresh: bool = False,
        progress: bool = False,
    ) -> Changes:
        """Add documents, and put them in the place of those with the same ids, in one commit.

        Only texts that are new or another are encoded; a change of metadata is noted without.

        Parameters
        ----------
        corpus
            See `build`.
        prune : bool, default=False
            Delete the documents whose ids the corpus does not hold: the index becomes the corpus.
        format, fields, on_error, rejects, fresh, progress
            See `add`.

        Returns
        -------
        Changes

        Raises
        ------
        CorpusError, FingerprintError, IndexLockedError, IndexUnfinishedError
            See `indexes.errors`; the index is as it was.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> engine = Engine.build([("a", "red"), ("b", "blue")], pathlib.Path(tempfile.mkdtemp()) / "i", model="hash:8")
        >>> print(engine.upsert([("a", "crimson"), ("c", "green")], prune=True))
        1 added, 1 replaced, 1 deleted
        """
        return self._put(
            corpus, replace=True, prune=prune, format=format, fields=fields, on_error=on_error, rejects=rejects,
            fresh=fresh, progress=progress,
        )  # fmt: skip

    def _put(self, corpus: Corpus, *, rejects: str | PathLike[str] | None, **how: Any) -> Changes:
        _check_rejects(rejects, self._bundle.folder)
        with self._writing:
            return changes.put_documents(
                self._bundle, lambda: self.encoder, lambda: self.whitening, corpus, rejects=rejects, **how
            )

    def delete(self, ids: Sequence[str] | None = None, *, filter: str | Mapping[str, Any] | None = None) -> Changes:
        """Delete the documents of some ids, or those that a filter lets through, in one commit.

        Ids that are not there are counted as missing and named in a warning: what was asked for holds already.
        The rows stay in their segment, unseen, until `compact` (or an addition that takes the segment in).

        Returns
        -------
        Changes

        Raises
        ------
        InputError, FilterError, IndexLockedError
            See `indexes.errors`.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> engine = Engine.build([("a", "red"), ("b", "blue")], pathlib.Path(tempfile.mkdtemp()) / "i", model="hash:8")
        >>> engine.delete(["b"]).deleted, len(engine)
        (1, 1)
        """
        with self._writing:
            return changes.delete_documents(self._bundle, ids, filter)

    def compact(self, *, progress: bool = False) -> None:
        """Merge all segments into one without deleted rows, and give the space back to the disk, in one commit.

        Nothing is encoded and the whitening stays. Where raw vectors are kept, the result is that of a build over
        the live documents with this whitening; else 8-bit codes are decoded and made again.
        """
        with self._writing:
            changes.compact(self._bundle, lambda: self.whitening, progress)

    def rebuild(
        self,
        *,
        whitening: WhiteningChoice | Literal["same"] = "same",
        index: str | None = None,
        portable: bool = False,
        progress: bool = False,
    ) -> None:
        """Fit the whitening on all documents anew and index them, from the stored raw vectors, in one commit.

        Parameters
        ----------
        whitening : Whitening, int, "auto", "same" or None, default="same"
            "same" fits again with the same parameters; the others as in `build`. Only a number of columns and "auto"
            need the model, for a few hundred halves of texts.
        index : str, optional
            Another FAISS factory string, or "auto"; by default what was asked for before.
        portable : bool, default=False
            Put the compiled model into the index; anew, if one is there, from the model itself or the cache. One that
            is there stays otherwise.
        progress : bool, default=False

        Raises
        ------
        InputError
            If the index keeps no raw vectors or holds no document, or the whitening or structure cannot be made, or
            there is no compiled model to put in.
        ModelError, FingerprintError
            If a model is needed and is not found, or is another.
        """
        with self._writing:
            if portable:
                self._encoder = encoder_of(self._bundle.manifest.model, self._model)
            changes.rebuild(
                self._bundle, lambda: self.encoder, whitening=whitening, index=index, portable=portable,
                progress=progress,
            )  # fmt: skip

    def verify(self, *, deep: bool = False) -> list[Check]:
        """Look whether everything is as it was committed; a list of what was looked at, each with its problem or None.

        Parameters
        ----------
        deep : bool, default=False
            Read every byte: checksums of all files and documents, SQLite's own check, and whether the vectors
            that are searched are those of the raw ones.

        An index that cannot be opened any more is looked at by ``retrieval.verify.verify(path, deep=True)``.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> engine = Engine.build([("a", "red"), ("b", "blue")], pathlib.Path(tempfile.mkdtemp()) / "i", model="hash:8")
        >>> [check.name for check in engine.verify(deep=True) if check.problem]
        []
        """
        return verify(self._bundle.folder, deep=deep)

    def export(
        self,
        path: str | PathLike[str],
        *,
        format: ExportFormat | None = None,
        vectors: Which = "whitened",
        filter: str | Mapping[str, Any] | None = None,
        progress: bool = False,
    ) -> int:
        """Write documents or vectors to a file that others read; see `retrieval.export_index.export`."""
        return export(
            self._bundle, lambda: self.whitening, path, format=format, vectors=vectors, filter=filter, progress=progress
        )

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in this order.

        Raises
        ------
        InputError
            If an id is not in the index.
        """
        found = self._bundle.get(check_ids(ids))
        return [Document(doc_id=one.doc_id, text=one.text, metadata=one.metadata) for one in found]

    def raw_documents(self) -> tuple[list[str], NDArray[np.floating[Any]]]:
        """Ids of all documents and the model's vectors of them, before whitening, of shape (n, model_dim).

        Raises
        ------
        InputError
            If the index was built without raw vectors.
        """
        return self._bundle.raw_documents()

    @property
    def encoder(self) -> Encoder:
        """The encoder that made the index, loaded and checked when it is first needed."""
        if self._encoder is None:
            found = None if self._model is not None else self._bundle.read(lambda: self._bundle.compiled)
            carried = None if found is None else Compiled(**found)
            self._encoder = encoder_of(self._bundle.manifest.model, self._model, carried)
        return self._encoder

    def info(self) -> dict[str, Any]:
        """What this index is: documents, dim, model, whitening, index, bytes, format_version and more.

        ``unfinished`` is the number of texts that an interrupted addition had encoded, or one under way has; the same
        addition goes on behind them.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> engine = Engine.build(["one text", "two texts"], pathlib.Path(tempfile.mkdtemp()) / "i", model="hash:8")
        >>> engine.info()["documents"], engine.info()["index"]
        (2, 'Flat')
        """
        return self._bundle.read(lambda: summary(self._bundle, self.whitening))

    def __len__(self) -> int:
        """Number of documents in the newest state."""
        return self._bundle.read(lambda: self._bundle.manifest.documents)

    def __repr__(self) -> str:
        manifest = self._bundle.manifest  # as it was loaded; a closed engine can be shown, too
        return f"<Engine {self._bundle.folder}: {manifest.documents:,} documents, {manifest.model['name']}>"

    def close(self) -> None:
        """Let go of the files."""
        self._bundle.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_rejects(rejects: str | PathLike[str] | None, folder: Path) -> None:
    if rejects is not None and folder.resolve() in Path(rejects).resolve().parents:
        raise InputError(f"{fspath(rejects)} lies in the index folder; give another place for the rejects")
