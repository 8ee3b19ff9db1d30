"""The way of the data, from text to hits: read this first.

    text -> encode -> raw vector (d) -> whiten (k, beta, gamma) -> unit row (k) -> FAISS segment
    query -> encode -> whiten -> search (k nearest, filters) -> hits

There is one path from text to vector, `Engine.embed`, and building, querying and
evaluating all take it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from indexes.bundle import Bundle
from indexes.document import Document
from indexes.errors import InputError
from indexes.vectors import Choice, VectorIndex, check_factory, choose, free_memory
from indexes.writer import BundleWriter

from .corpora import Fields, Format
from .encoder import Encoder, Model, Role, find_model, load_encoder
from .halves import choose_whitening
from .hit import Hit, hits_of
from .intake import Corpus, stage_corpus
from .models import DEFAULT_MODEL, ModelFiles, compare
from .moments import Float32, Moments, unit_rows
from .progress import Advance, progress_bar
from .provenance import made_by, model_record, whitening_record
from .records import DEFAULT_FIELDS
from .whitening import Whitening

logger = logging.getLogger(__name__)

BATCH = 8192  # rows that are whitened and added together; fixed, so that a build gives the same bytes again
_LONGER = "%s longer than %s tokens: %s; what is beyond was not read"
TRAINING_ROWS = 262_144  # evenly spaced rows that lists and codebooks are trained on


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
        path = bundle.whitening_path
        self.whitening = None if path is None else Whitening.load(path)

    @classmethod
    def build(
        cls,
        corpus: Corpus,
        path: str | PathLike[str],
        *,
        model: Model = DEFAULT_MODEL,
        prompts: Mapping[str, str] | None = None,
        whitening: Whitening | int | Literal["auto"] | None = "auto",
        index: str = "auto",
        raw: Literal["float16", "float32"] | None = "float16",
        format: Format | None = None,
        fields: Fields = DEFAULT_FIELDS,
        on_error: Literal["fail", "skip"] = "fail",
        rejects: str | PathLike[str] | None = None,
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
        whitening : Whitening, int, "auto" or None, default="auto"
            An unfitted `Whitening` is fitted on the corpus, a fitted one is used as it is. A number keeps so many
            columns, and all else is chosen by how well halves of the corpus's own texts find each other
            (`retrieval.halves`); "auto" keeps half of the columns, if there are two documents for each.
        index : str, default="auto"
            A FAISS factory string, or "auto" (`indexes.vectors.choose`).
        raw : {"float16", "float32", None}, default="float16"
            How raw vectors are kept beside the index. Vectors are searched as they are kept:
            float16 moves a cosine by about 1e-5. None keeps none (float16 while building).
        format, fields
            See `read_corpus`.
        on_error : {"fail", "skip"}, default="fail"
            "skip" leaves bad records out, counts them, and writes them to `rejects`.
        rejects : path, optional
            JSON Lines file of the records left out: source, line, reason, raw.
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
        if isinstance(whitening, bool) or not isinstance(whitening, Whitening | int | None) and whitening != "auto":
            raise InputError(f"whitening={whitening!r}; expected a Whitening, a number of columns, 'auto' or None")
        if rejects is not None and folder.resolve() in Path(rejects).resolve().parents:
            raise InputError(f"{fspath(rejects)} lies in the index folder; give another place for the rejects")
        found = find_model(model)
        with BundleWriter(folder) as writer:
            staging = writer.staging
            stage_corpus(
                staging, corpus, format=format, fields=fields, on_error=on_error, rejects=rejects, progress=progress
            )
            encoder = load_encoder(found, prompts=prompts)
            n, d = staging.count, encoder.dim
            whitening = auto_dim(n, d) if whitening == "auto" else whitening
            dim = _dim_after(whitening, d)
            choice = choose(n, dim, free_memory()) if index == "auto" else Choice(factory=index, reason="as asked for")
            check_factory(choice.factory, dim, n)
            logger.info("index %s: %s", choice.factory, choice.reason)
            staging.begin_vectors(d, kept, _plan(encoder), drop_others=False)
            if staging.encoded:
                logger.info("going on with an interrupted build at document %s", f"{staging.encoded:,}")
            with progress_bar("encoding", n, progress) as advance:
                advance(done := staging.encoded)
                for texts in staging.chunks():
                    staging.put(*encoder.encode(texts))
                    advance(staging.encoded - done)
                    done = staging.encoded
            if cut := int(staging.truncated().sum()):
                logger.info(_LONGER, "documents", encoder.max_tokens, f"{cut:,}")

            vectors = staging.raw()  # (n, d)
            if isinstance(whitening, int):
                with progress_bar("whitening", n, progress) as advance:
                    moments = Moments.of(_batches(vectors, advance), local=True)
                whitening = choose_whitening(moments, vectors, staging.texts, encoder, dim)
            elif whitening is not None and not whitening.is_fitted:
                with progress_bar("whitening", n, progress) as advance:
                    whitening = whitening.unfitted().fit(_batches(vectors, advance))  # the caller's stays as it is
            with progress_bar("indexing", n, progress) as advance:
                rows = VectorIndex.build(
                    choice.factory,
                    dim,
                    lambda: _whiten(_sample(vectors, TRAINING_ROWS), whitening),
                    (_whiten(batch, whitening) for batch in _batches(vectors, advance)),
                )
            writer.commit(
                rows,
                model=model_record(encoder),
                whitening=None if whitening is None else (whitening_record(whitening), whitening.to_bytes()),
                choice={"requested": index, "factory": choice.factory, "reason": choice.reason},
                keep_raw=raw is not None,
                made_by=made_by(),
            )
        return cls(Bundle(folder), encoder)

    @classmethod
    def open(cls, path: str | PathLike[str], *, model: str | Encoder | None = None) -> Engine:
        """Open an index; its files are checked now, its model is loaded when the first text comes.

        Parameters
        ----------
        path : path
        model : str or Encoder, optional
            Another place of the same model; one that is not the same is refused when it is first used.

        Raises
        ------
        IndexMissingError, IndexUnfinishedError, IndexVersionError, IndexCorruptError
            See `indexes.errors`.
        """
        return cls(Bundle(Path(path)), model)

    @overload
    def search(  # type: ignore[overload-overlap]  # a str is a sequence of str, too
        self, query_or_queries: str, k: int = 10, *, filter: str | Mapping[str, Any] | None = None, exact: bool = False
    ) -> list[Hit]: ...
    @overload
    def search(
        self,
        query_or_queries: Sequence[str] | Float32,
        k: int = 10,
        *,
        filter: str | Mapping[str, Any] | None = None,
        exact: bool = False,
    ) -> list[list[Hit]]: ...

    def search(
        self,
        query_or_queries: str | Sequence[str] | Float32,
        k: int = 10,
        *,
        filter: str | Mapping[str, Any] | None = None,
        exact: bool = False,
    ) -> list[Hit] | list[list[Hit]]:
        """The k documents nearest in meaning, best first.

        Parameters
        ----------
        query_or_queries : str, sequence of str, or ndarray of shape (q, dim)
            An array holds unit rows as `embed` gives them.
        k : int, default=10
            Fewer come back where there are fewer.
        filter : str or mapping, optional
            ``"kind = 'class' AND year >= 1990"`` or ``{"kind": "class", "year": {"$gte": 1990}}``;
            see `indexes.filters`.
        exact : bool, default=False
            Look at every vector, whatever the index (IVF with all lists, HNSW without its graph).

        Returns
        -------
        list of Hit for a str, else a list of such lists
            Score descending, then id.

        Raises
        ------
        InputError
            An empty query, k < 1, a filter that cannot be understood.
        FingerprintError
            The model at hand is not the one that made this index.
        """
        if isinstance(query_or_queries, str):
            return self.search([query_or_queries], k, filter=filter, exact=exact)[0]
        if isinstance(query_or_queries, np.ndarray):
            vectors = query_or_queries
        else:
            vectors = self.embed(query_or_queries, role="query")
        return [hits_of(found) for found in self._bundle.search(vectors, k, filter=filter, exact=exact)]

    def embed(self, texts: Sequence[str], role: Role = "document") -> Float32:
        """Unit rows of shape (n, dim), float32: encoded, then whitened as this index is.

        Raises
        ------
        InputError
            If a text is empty.
        FingerprintError
            If the model at hand is not the one that made this index.
        """
        for i, text in enumerate(texts):
            if not isinstance(text, str) or not text.strip():
                raise InputError(f"{role} {i + 1} is {text!r}; expected some words")
        vectors, truncated = self.encoder.encode(texts, role)
        if role == "query" and truncated.any():
            logger.warning(_LONGER, "queries", self.encoder.max_tokens, f"{int(truncated.sum()):,}")
        return _whiten(vectors, self.whitening)

    def get(self, ids: Sequence[str]) -> list[Document]:
        """The documents of these ids, in this order.

        Raises
        ------
        InputError
            If an id is not in the index.
        """
        found = self._bundle.get(ids)
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
            stored = self._bundle.manifest.model
            found = find_model(stored["name"] if self._model is None else self._model)
            encoder = load_encoder(found, prompts=stored["prompts"]) if isinstance(found, ModelFiles) else found
            compare(stored["fingerprint"], encoder.fingerprint, encoder.name)
            self._encoder = encoder
        return self._encoder

    def info(self) -> dict[str, Any]:
        """What this index is: documents, dim, model, whitening, index, bytes, format_version and more.

        Examples
        --------
        >>> import tempfile, pathlib
        >>> engine = Engine.build(["one text", "two texts"], pathlib.Path(tempfile.mkdtemp()) / "i", model="hash:8")
        >>> engine.info()["documents"], engine.info()["index"]
        (2, 'Flat')
        """
        manifest = self._bundle.manifest
        raw = {segment.raw is not None for segment in manifest.segments}
        return {
            "path": str(self._bundle.folder),
            "documents": manifest.documents,
            "truncated": self._bundle.truncated(),
            "dim": manifest.dim,
            "model": manifest.model["name"],
            "model_source": manifest.model["source"],
            "model_dim": manifest.model["dim"],
            "fingerprint": dict(manifest.model["fingerprint"]),
            "whitening": None if manifest.whitening is None else dict(manifest.whitening),
            "index": manifest.index["factory"],
            "index_reason": manifest.index["reason"],
            "raw_vectors": raw == {True},
            "bytes": self._bundle.bytes_on_disk(),
            "generation": manifest.generation,
            "format_version": manifest.format_version,
            "made_by": dict(manifest.made_by),
        }

    def __len__(self) -> int:
        """Number of documents."""
        return self._bundle.manifest.documents

    def __repr__(self) -> str:
        manifest = self._bundle.manifest
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


def auto_dim(n: int, d: int) -> int | None:
    """Columns of d that a new index of n documents keeps when nothing was asked for: half of them.

    None where the documents are too few (under two for each column) to tell directions from chance.
    """
    if n < 2 * d:
        logger.info("no whitening: %s documents are fewer than two for each of %s columns", f"{n:,}", d)
        return None
    return max(1, d // 2)


def _plan(encoder: Encoder) -> dict[str, Any]:
    """What decides the raw vectors of documents: an interrupted build goes on only with the same."""
    parts = {name: value for name, value in encoder.fingerprint.items() if name != "prompts"}
    return {"model": parts, "prompt": encoder.prompts.get("document", "")}


def _dim_after(whitening: Whitening | int | None, d: int) -> int:
    """Columns that are left of d, known before anything is fitted."""
    if whitening is None:
        return d
    if isinstance(whitening, int):
        whitening = Whitening(whitening)
    if whitening.is_fitted and len(whitening.mean_) != d:
        raise InputError(
            f"the whitening was fitted on {len(whitening.mean_)} columns, but the model's vectors have {d}"
        )
    k = whitening.dim or d
    if k > d:
        raise InputError(f"dim={k} but the model's vectors have {d} columns; expected dim <= {d}")
    return k


def _whiten(raw: NDArray[np.floating[Any]], whitening: Whitening | None) -> Float32:
    return unit_rows(raw) if whitening is None else whitening.transform(raw)


def _batches(vectors: NDArray[np.floating[Any]], advance: Advance) -> Iterator[NDArray[np.floating[Any]]]:
    for start in range(0, len(vectors), BATCH):
        batch = vectors[start : start + BATCH]
        yield batch
        advance(len(batch))


def _sample(vectors: NDArray[np.floating[Any]], size: int) -> NDArray[np.floating[Any]]:
    """At most `size` rows, evenly spaced."""
    return vectors[np.linspace(0, len(vectors) - 1, min(size, len(vectors))).astype(np.int64)]
