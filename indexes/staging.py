"""Documents and raw vectors on their way into an index, safe against interruption.

    INDEX/staging/documents.sqlite    every document of the build, checked before any model runs
    INDEX/staging/raw.npy, ...        their raw vectors, chunk after chunk (`indexes.spool`)

Nothing in here is part of the index; readers look no further than how many vectors there are. When
a build (or an addition to an index) is started again with the same documents and the same plan, it
goes on after the last good chunk; chunks are always cut at the same rows, so the result has the same
bytes.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .catalogue import (
    DOCUMENT_COLUMNS,
    create_documents,
    document_checksum,
    open_database,
    rows_of_cursor,
    text_hash,
)
from .document import Document
from .errors import IndexUnfinishedError, VectorError
from .files import FileEntry, make_folder
from .seal import CATALOGUE
from .spool import Spool
from .steps import step

if TYPE_CHECKING:
    from .catalogue import Database

CHUNK = 4096
"""Rows that are encoded, written and made durable together."""

_BATCH = 2000  # documents in one INSERT


class Staging:
    """A build in progress.

    Parameters
    ----------
    folder : Path
        The staging folder; made if it is not there.
    first_row : int
        The row that the first staged document gets.
    index : Path, optional
        The index that the documents are for: which of them it has already is looked up there.
    replace : bool, default=False
        Whether a document whose id the index has, with other content, replaces that one.

    Attributes
    ----------
    count : int
        Documents staged: those that get a row and a vector.
    replaced : int
        Of these, how many have the id of a document of the index.
    relabelled : int
        Documents of the index whose metadata alone is to be another.
    unchanged : int
        Documents that the index has just so.
    """

    def __init__(self, folder: Path, *, first_row: int = 0, index: Path | None = None, replace: bool = False) -> None:
        make_folder(folder)
        self._folder, self._first_row, self._replace = folder, first_row, replace
        for name in ("documents.sqlite", "documents.sqlite-journal", "documents.sqlite-wal", "documents.sqlite-shm"):
            (folder / name).unlink(missing_ok=True)
        self._database = open_database(folder / "documents.sqlite")
        self._database.execute("PRAGMA synchronous = OFF")  # read again from the corpus by whoever goes on
        create_documents(self._database, source=str, line=int)
        self._database.table("documents").create_index(["text_hash"])
        # of documents that the index has: what becomes of them
        self._database.table("met").create(
            {"id": str, "row": int, "metadata": str, "checksum": bytes, "source": str, "line": int}, pk="id"
        )
        self._database.table("superseded").create({"row": int}, pk="row")
        self._has_index = index is not None
        if index is not None:
            self._database.execute("ATTACH DATABASE ? AS catalogue", [str(index / CATALOGUE)])
        self._digest = hashlib.sha256()
        self._copies: dict[str, int] = {}  # of the ids made from texts that came more than once
        self._spool = Spool(folder)
        self.count = 0
        self.replaced, self.relabelled, self.unchanged = 0, 0, 0

    def add(
        self,
        records: Iterable[tuple[Document, str, int]],
        on_duplicate: Callable[[Document, str, int, str], None],
    ) -> None:
        """Stage documents with the source and line each came from.

        A missing id becomes ``text:`` and 16 hex digits of the text's hash, the same on every machine;
        the second document of the same text gets ``:2`` behind it, and so on.

        Parameters
        ----------
        on_duplicate : callable
            Called with (document, source, line, reason) when an id was seen before, or the index has it with
            other content and nothing is to be replaced; if it returns, the document is left out.
        """
        batch: list[tuple[Document, str, int]] = []
        for record in records:
            batch.append(record)
            if len(batch) == _BATCH:
                self._insert(batch, on_duplicate)
                batch = []
        self._insert(batch, on_duplicate)

    def _insert(
        self, batch: list[tuple[Document, str, int]], on_duplicate: Callable[[Document, str, int, str], None]
    ) -> None:
        hashes = [text_hash(document.text) for document, _, _ in batch]
        ids = [document.doc_id or _made_id(hashed) for (document, _, _), hashed in zip(batch, hashes, strict=True)]
        seen, known = self._seen(ids), self._known(ids)
        rows, met, superseded = [], [], []
        for (document, source, line), hashed, doc_id in zip(batch, hashes, ids, strict=True):
            if document.doc_id is None:
                doc_id = self._free_id(doc_id, hashed, seen, known)
            elif doc_id in seen:
                before, at = seen[doc_id]
                on_duplicate(
                    document, source, line, f"id {doc_id!r} was used before, at {before}:{at}; ids must differ"
                )
                continue
            metadata = document.metadata_json()
            if doc_id in known:
                old = known[doc_id]
                same_text, same_metadata = old.text_hash == hashed, _same_json(old.metadata, metadata)
                if not (self._replace or (same_text and same_metadata)):
                    other = "metadata" if same_text else "text"
                    reason = f"id {doc_id!r} is in the index already, with another {other}; upsert would replace it"
                    on_duplicate(document, source, line, reason)
                    continue
                if same_text:
                    check = document_checksum(old.row, doc_id, metadata, hashed)
                    change = (None, None) if same_metadata else (metadata, check)
                    met.append((doc_id, old.row, *change, source, line))
                    seen[doc_id] = (source, line)
                    self.unchanged += same_metadata
                    self.relabelled += not same_metadata
                    continue
                superseded.append((old.row,))
                self.replaced += 1
            seen[doc_id] = (source, line)
            row = self._first_row + self.count
            check = document_checksum(row, doc_id, metadata, hashed)
            rows.append((row, doc_id, document.text, metadata, hashed, 0, check, source, line))
            self._digest.update(check)
            self.count += 1
        with self._database.atomic():
            for table, values in (("documents", rows), ("met", met), ("superseded", superseded)):
                if values:
                    places = ",".join("?" * len(values[0]))
                    self._database.conn.executemany(f"INSERT INTO {table} VALUES ({places})", values)
        step("documents staged")

    def _free_id(self, made: str, hashed: bytes, seen: Mapping[str, tuple[str, int]], known: dict[str, _Known]) -> str:
        """The id made from a text, or its first copy that is free: the user's own ids may look like ours."""
        doc_id, taken = made, made in seen
        while taken or (doc_id in known and known[doc_id].text_hash != hashed):
            self._copies[made] = self._copies.get(made, 1) + 1
            doc_id = f"{made}:{self._copies[made]}"
            taken = doc_id in seen or bool(self._seen([doc_id]))
            known.update(self._known([doc_id]))
        return doc_id

    def _seen(self, ids: list[str]) -> dict[str, tuple[str, int]]:
        wanted = json.dumps(ids)
        found = self._database.execute(
            "SELECT id, source, line FROM documents WHERE id IN (SELECT value FROM json_each(?)) "
            "UNION ALL SELECT id, source, line FROM met WHERE id IN (SELECT value FROM json_each(?))",
            [wanted, wanted],
        )
        return {doc_id: (source, line) for doc_id, source, line in found}

    def _known(self, ids: list[str]) -> dict[str, _Known]:
        """Those of some ids that the index has."""
        if not self._has_index:
            return {}
        found = self._database.execute(
            "SELECT id, row, text_hash, metadata FROM catalogue.documents WHERE id IN (SELECT value FROM json_each(?))",
            [json.dumps(ids)],
        )
        return {doc_id: _Known(row, hashed, metadata) for doc_id, row, hashed, metadata in found}

    def superseded(self) -> NDArray[np.int64]:
        """Rows of the index whose documents are replaced by staged ones, ascending."""
        return self._rows("SELECT row FROM superseded ORDER BY row")

    def absent(self) -> NDArray[np.int64]:
        """Rows of the index whose ids have not come, ascending."""
        return self._rows(
            "SELECT row FROM catalogue.documents WHERE id NOT IN (SELECT id FROM main.documents) "
            "AND id NOT IN (SELECT id FROM met) ORDER BY row"
        )

    def _rows(self, sql: str) -> NDArray[np.int64]:
        return rows_of_cursor(self._database.execute(sql))

    def begin_vectors(self, dim: int, dtype: str, plan: Mapping[str, Any], *, drop_others: bool = True) -> None:
        """Make room for the raw vectors, or find those of an interrupted build again.

        Parameters
        ----------
        dim : int
            Columns of a raw vector.
        dtype : str
            "float16" or "float32".
        plan : mapping
            Everything that decides what the vectors are. If it and the documents are those of the
            interrupted build, `encoded` says how far that had come; else it starts at 0.
        drop_others : bool, default=True
            Whether the vectors of an interrupted build of another plan may be thrown away.

        Raises
        ------
        IndexUnfinishedError
            If there are such vectors, and they may not.
        """
        plan = {"plan": dict(plan), "first_row": self._first_row, "documents": self._digest.hexdigest()}
        others = self._spool.find(self.count, dim, dtype, plan)
        if others and not drop_others:
            raise IndexUnfinishedError(
                f"{self._folder.parent} holds an interrupted build or addition of other documents or another model "
                f"({others:,} vectors are done); run that one again to finish it, or throw those away with fresh=True "
                "(--fresh)"
            )
        self._spool.begin()

    @property
    def encoded(self) -> int:
        """Staged documents that have their raw vector (the first ones)."""
        return self._spool.encoded

    @property
    def has_vectors(self) -> bool:
        """Whether there are vectors, of this build or an interrupted one, that would be lost with the folder."""
        return self._spool.has_vectors

    def chunks(self) -> Iterator[list[str]]:
        """The texts that are still to be encoded, chunk by chunk; `put` each one's vectors before asking for the next.

        Equal texts are asked for once, whether they stand in one chunk or far apart.
        """
        while self.encoded < self.count:
            start = self._first_row + self.encoded
            found = self._database.execute(
                "SELECT text, (SELECT MIN(row) FROM documents AS first WHERE first.text_hash = documents.text_hash) "
                "FROM documents WHERE row >= ? AND row < ? ORDER BY row",
                [start, start + CHUNK],
            ).fetchall()
            self._sources = np.array([first for _, first in found], np.int64) - self._first_row
            new = self._sources == np.arange(self.encoded, self.encoded + len(found))
            texts = [text for (text, _), is_new in zip(found, new, strict=True) if is_new]
            if texts:
                yield texts
            else:
                self.put(np.empty((0, self._spool.dim), np.float32), np.empty(0, np.bool_))

    def put(self, vectors: NDArray[np.floating[Any]], truncated: NDArray[np.bool_]) -> None:
        """Add the raw vectors of the texts that `chunks` gave, and of their copies, durably.

        Parameters
        ----------
        vectors : ndarray of shape (n, dim)
        truncated : ndarray of shape (n,), bool
            Whose text was longer than the model reads.

        Raises
        ------
        VectorError
            If the shape is another one, or a value does not fit the stored dtype.
        """
        here = self._sources - self.encoded
        new, inside = here == np.arange(len(here)), here >= 0
        spool = self._spool
        expected = (int(new.sum()), spool.dim)
        if np.shape(vectors) != expected or np.shape(truncated) != expected[:1]:
            raise VectorError(
                f"the model gave vectors of shape {np.shape(vectors)} and truncated flags of shape "
                f"{np.shape(truncated)}; expected {expected} and {expected[:1]}"
            )
        with np.errstate(over="ignore"):
            stored = np.asarray(vectors).astype(spool.dtype)
        if not np.isfinite(stored).all():
            raise VectorError(
                f"the model gave vectors that do not fit {spool.dtype} (NaN, infinite or beyond 65,504); "
                "keep them with raw='float32' (--raw float32) if they are finite"
            )
        rows = np.empty((len(self._sources), spool.dim), spool.dtype)
        flags = np.empty(len(self._sources), np.bool_)
        rows[new], flags[new] = stored, truncated
        rows[inside], flags[inside] = rows[here[inside]], flags[here[inside]]
        rows[~inside], flags[~inside] = spool.at(self._sources[~inside])
        spool.append(rows, flags)

    def texts(self, positions: Sequence[int]) -> list[str]:
        """The texts of staged documents, by their position (ascending)."""
        found = self._database.execute(
            "SELECT text FROM documents WHERE row IN (SELECT value FROM json_each(?)) ORDER BY row",
            [json.dumps([self._first_row + int(position) for position in positions])],
        )
        return [text for (text,) in found]

    def raw(self) -> NDArray[np.floating[Any]]:
        """The raw vectors so far, memory-mapped, of shape (encoded, dim)."""
        return self._spool.vectors()

    def truncated(self) -> NDArray[np.bool_]:
        """Which texts so far were longer than the model reads, of shape (encoded,), bool."""
        return self._spool.flags()

    def publish_raw(self, path: Path) -> FileEntry:
        """Give the finished raw vectors a second name in the index; the first one stays until `leave`."""
        return self._spool.publish(path)

    def publish_documents(self, database: Database) -> None:
        """Copy what is staged into a catalogue that has it attached as ``staged`` (see `attach`)."""
        database.execute(
            "UPDATE documents SET metadata = met.metadata, checksum = met.checksum FROM staged.met AS met "
            "WHERE met.row = documents.row AND met.metadata IS NOT NULL"
        )
        columns = ", ".join(DOCUMENT_COLUMNS)
        database.execute(f"INSERT INTO documents ({columns}) SELECT {columns} FROM staged.documents ORDER BY row")
        cut = np.flatnonzero(self.truncated()) + self._first_row
        database.conn.executemany("UPDATE documents SET truncated = 1 WHERE row = ?", ((int(row),) for row in cut))
        step("documents inserted")

    def attach(self, database: Database) -> None:
        """Make the staged documents readable from a catalogue's connection; not inside a transaction."""
        # not database.attach, which writes the path into its SQL: /home/o'brien
        database.execute("ATTACH DATABASE ? AS staged", [str(self._folder / "documents.sqlite")])

    def close(self) -> None:
        """Let go of the files; the build can go on later."""
        self._database.conn.close()

    def leave(self, *, done: bool = False) -> None:
        """Let go of the files, and remove them unless they hold vectors that are still wanted.

        Parameters
        ----------
        done : bool, default=False
            Whether what was staged here is committed. Vectors of an interrupted build that these
            documents have nothing to do with stay in any case.
        """
        self.close()
        if self._folder.exists() and ((done and self.encoded) or not self.has_vectors):
            shutil.rmtree(self._folder)


class _Known(NamedTuple):
    """A document that the index has."""

    row: int
    text_hash: bytes
    metadata: str


def _same_json(one: str, other: str) -> bool:
    """Whether two metadata say the same; the order of keys says nothing."""
    return one == other or _sorted(one) == _sorted(other)


def _sorted(metadata: str) -> str:
    return json.dumps(json.loads(metadata), sort_keys=True)


def _made_id(hashed_text: bytes) -> str:
    return f"text:{hashed_text[:8].hex()}"
