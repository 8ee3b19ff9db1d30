"""The SQLite catalogue: documents and manifests, and the one door to sqlite_utils.

Its tables, all in ``catalogue.sqlite`` (write-ahead log):

    documents   row INTEGER PRIMARY KEY, id TEXT UNIQUE, text, metadata (JSON), text_hash, truncated, checksum
    deletions   row INTEGER PRIMARY KEY       rows whose vectors lie in a segment and whose document is gone
    commits     generation INTEGER PRIMARY KEY, manifest (JSON), sha256      the last one counts

A write is one transaction over all three: that is the commit point of an index. Between writes
the file as a whole is held against its checksum (`indexes.seal`).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .connection import UNREADABLE, ReadOnlyConnection
from .errors import RESTORE, FilterError, IndexCorruptError, IndexMissingError, IndexUnfinishedError, InputError
from .filters import parse_filter
from .manifest import Manifest, checksum
from .seal import CATALOGUE, check_seal
from .steps import step

if TYPE_CHECKING:
    from sqlite_utils import Database as Database

Int64 = NDArray[np.int64]


DOCUMENT_COLUMNS: dict[str, Any] = {
    "row": int, "id": str, "text": str, "metadata": str, "text_hash": bytes, "truncated": int, "checksum": bytes,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredDocument:
    """A document as the catalogue keeps it."""

    row: int
    doc_id: str
    text: str
    metadata: Mapping[str, Any]


def text_hash(text: str) -> bytes:
    """16 bytes that stand for a text: equal texts are encoded once."""
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def document_checksum(row: int, doc_id: str, metadata: str, hashed_text: bytes) -> bytes:
    """8 bytes that tell whether a stored document is still what was written."""
    parts = (str(row).encode(), doc_id.encode(), metadata.encode(), hashed_text)
    return hashlib.blake2b(b"\0".join(parts), digest_size=8).digest()


def rows_of_cursor(cursor: Iterable[tuple[Any, ...]]) -> Int64:
    """The numbers of a column, of shape (m,), int64, without a list of them."""
    return np.fromiter((int(row) for (row,) in cursor), np.int64)


def open_database(path: Path) -> Database:
    """A writable SQLite database with a write-ahead log, made if it is not there."""
    from sqlite_utils import Database

    database = Database(sqlite3.connect(path, timeout=30, check_same_thread=False))
    database.enable_wal()
    return database


def create_documents(database: Database, **more: Any) -> None:
    """Make the documents table, with further columns if a caller needs them."""
    database.table("documents").create(
        DOCUMENT_COLUMNS | more, pk="row", not_null=set(DOCUMENT_COLUMNS), if_not_exists=True
    )
    database.table("documents").create_index(["id"], unique=True, if_not_exists=True)


class Catalogue:
    """Read one committed state after the other; never write.

    Parameters
    ----------
    folder : Path
        The index folder.

    Raises
    ------
    IndexMissingError
        If there is no index.
    IndexUnfinishedError
        If a build has begun and was not finished.
    IndexCorruptError
        If the file is not a catalogue.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / CATALOGUE
        if self._path.is_symlink():
            raise IndexCorruptError(f"{self._path} is a link; expected the file itself (a link may lead anywhere)")
        if not self._path.is_file():
            if (folder / "staging").is_dir():
                raise IndexUnfinishedError(
                    f"{folder}: the build was interrupted; run the same build again to finish it"
                )
            what = "holds no index (no catalogue.sqlite in it)" if folder.is_dir() else "is not a folder"
            raise IndexMissingError(f"{folder} {what}; make one with: retrieval build CORPUS -o {folder}")
        check_seal(folder)
        self._file = ReadOnlyConnection(self._path)
        self._lock = threading.RLock()
        self._state: Manifest | None = None  # that of the snapshot we are in
        try:
            with self.snapshot():
                pass
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the file."""
        self._file.connection.close()

    def thaw(self) -> None:
        """Make sure that the next snapshot is the newest state; see `ReadOnlyConnection.thaw`."""
        with self._lock:
            self._file.thaw()

    def check_place(self) -> None:
        """See `ReadOnlyConnection.check_place`."""
        self._file.check_place()

    def changed_meanwhile(self) -> bool:
        """Whether two states may have been seen as one; see `ReadOnlyConnection.changed`."""
        return self._file.changed()

    @property
    def _database(self) -> sqlite3.Connection:
        # without sqlite_utils, which takes pandas along where that is installed: a quarter of a second of each query
        return self._file.connection

    @property
    def in_snapshot(self) -> bool:
        """Whether this thread is within a snapshot; what is read now is of its state."""
        with self._lock:
            return self._state is not None

    @contextmanager
    def snapshot(self) -> Iterator[Manifest]:
        """One committed state: everything read inside belongs together, whatever a writer does meanwhile.

        A snapshot inside another one is the same state.

        Raises
        ------
        IndexCorruptError, IndexVersionError
            See `Manifest.from_json`.
        """
        with self._lock:
            if self._state is not None:
                yield self._state
                return
            if self._file.frozen:
                self._file.renew()
            connection = self._file.connection
            with self._sqlite_errors():
                connection.execute("BEGIN")
            try:
                self._state = self._manifest()
                yield self._state
            finally:
                self._state = None
                connection.rollback()

    def _manifest(self) -> Manifest:
        with self._sqlite_errors():
            if not self._database.execute("SELECT 1 FROM sqlite_master WHERE name = 'commits'").fetchone():
                if not (self._path.parent / "staging").is_dir():
                    raise IndexCorruptError(f"{self._path} lists no commit; {RESTORE}")
                raise IndexUnfinishedError(
                    f"{self._path.parent}: the build was interrupted; run the same build again to finish it"
                )
            found = self._database.execute(
                "SELECT manifest, sha256 FROM commits ORDER BY generation DESC LIMIT 1"
            ).fetchone()
        if found is None:
            raise IndexCorruptError(f"{self._path} lists no commit; {RESTORE}")
        text, sha256 = found
        return Manifest.from_json(str(text), sha256)  # NULL and BLOB have another checksum

    def documents(self, rows: Sequence[int]) -> dict[int, StoredDocument]:
        """The live documents at these rows, each held against its checksum.

        Raises
        ------
        IndexCorruptError
            If a document was altered or is missing.
        """
        with self._sqlite_errors():
            found = self._database.execute(
                "SELECT row, id, text, metadata, text_hash, checksum FROM documents "
                "WHERE row IN (SELECT value FROM json_each(?))",
                [json.dumps([int(row) for row in rows])],
            ).fetchall()
        documents = {}
        for row, doc_id, text, metadata, hashed, check in found:
            try:
                intact = text_hash(text) == hashed and document_checksum(row, doc_id, metadata, hashed) == check
            except (AttributeError, TypeError):  # a value of another type
                intact = False
            if not intact:
                raise IndexCorruptError(f"{self._path}: document {doc_id!r} (row {row}) is damaged; {RESTORE}")
            documents[row] = StoredDocument(row=row, doc_id=doc_id, text=text, metadata=json.loads(metadata))
        if missing := set(rows) - documents.keys():
            raise IndexCorruptError(f"{self._path}: the document of row {min(missing)} is missing; {RESTORE}")
        return documents

    def rows_of(self, ids: Sequence[str]) -> dict[str, int]:
        """The rows of those of some ids that are there."""
        # subtle: SQLite ends a JSON string at its NUL, and would find "a" for "a\0"; no id holds one
        wanted = json.dumps([doc_id for doc_id in ids if "\0" not in doc_id])
        with self._sqlite_errors():
            found = self._database.execute(
                "SELECT id, row FROM documents WHERE id IN (SELECT value FROM json_each(?))", [wanted]
            ).fetchall()
        return {str(doc_id): int(row) for doc_id, row in found}

    def ids(self) -> tuple[Int64, list[str]]:
        """Rows and ids of all live documents, by row."""
        with self._sqlite_errors():
            found = self._database.execute("SELECT row, id FROM documents ORDER BY row").fetchall()
        return np.array([row for row, _ in found], np.int64), [str(doc_id) for _, doc_id in found]

    def rows(self) -> Int64:
        """Rows of all live documents, ascending, of shape (n,), int64."""
        return self._rows("SELECT row FROM documents ORDER BY row")

    def deleted_rows(self) -> Int64:
        """Rows that have a vector but no document any more, of shape (m,), int64."""
        return self._rows("SELECT row FROM deletions")

    def rows_between(self, first: int, end: int) -> Int64:
        """Rows from `first` to below `end` that have a vector, whether or not a document, ascending, (m,), int64."""
        within = "WHERE row >= ?1 AND row < ?2"
        return self._rows(
            f"SELECT row FROM documents {within} UNION ALL SELECT row FROM deletions {within} ORDER BY row",
            (first, end),
        )

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> Int64:
        with self._sqlite_errors():
            return rows_of_cursor(self._database.execute(sql, parameters))

    def rows_matching(self, expression: str | Mapping[str, Any]) -> Int64:
        """Rows of the documents that a filter lets through, of shape (m,), int64.

        Raises
        ------
        FilterError
            If the filter cannot be understood, or names a field that no document has.
        """
        rows = self._select_rows(expression, "")
        if not len(rows):
            self._check_fields(parse_filter(expression).fields)
        return rows

    def _check_fields(self, fields: Sequence[str]) -> None:
        """A filter that matches nothing may be a slip of the pen: say so."""
        if not self.count():
            return
        for field in fields:
            if not len(self._select_rows({field: {"$exists": True}}, "LIMIT 1")):
                known = self._database.execute(
                    "SELECT DISTINCT key FROM (SELECT metadata FROM documents LIMIT 1000), json_each(metadata) LIMIT 20"
                ).fetchall()
                names = ", ".join(sorted(name for (name,) in known)) or "none"
                raise FilterError(
                    f"no document has a field {field!r}; among the fields there are: {names} (quote a name with dots "
                    'or blanks: "a.b")'
                )

    def _select_rows(self, expression: str | Mapping[str, Any], limit: str) -> Int64:
        condition = parse_filter(expression)
        try:
            sql = f"SELECT row FROM documents WHERE {condition.sql} {limit}"
            with self._sqlite_errors("malformed", "disk I/O", "no such"):
                return rows_of_cursor(self._database.execute(sql, condition.parameters))
        except sqlite3.OperationalError as error:
            raise FilterError(f"SQLite cannot evaluate the filter {expression!r}: {error}") from error

    def count(self, condition: str = "1") -> int:
        """Number of documents that meet a condition in SQL of our own."""
        with self._sqlite_errors():
            return int(self._database.execute(f"SELECT COUNT(*) FROM documents WHERE {condition}").fetchone()[0])

    def check_integrity(self, deep: bool) -> None:
        """SQLite's own check of its file.

        Raises
        ------
        IndexCorruptError
            With the first thing that SQLite finds.
        """
        with self._sqlite_errors():
            (found,) = self._database.execute(f"PRAGMA {'integrity_check' if deep else 'quick_check'}(1)").fetchone()
        if found != "ok":
            raise IndexCorruptError(f"{self._path} is damaged ({found}); {RESTORE}")

    @contextmanager
    def _sqlite_errors(self, *words: str) -> Iterator[None]:
        """What SQLite cannot read is damaged; with words, of the errors of operation only those that hold one."""
        try:
            yield
        except sqlite3.ProgrammingError as error:
            raise InputError(f"the index {self._path.parent} was closed; open it again with Engine.open") from error
        except UNREADABLE as error:
            if words and isinstance(error, sqlite3.OperationalError) and not any(word in str(error) for word in words):
                raise
            raise IndexCorruptError(f"{self._path} cannot be read ({error}); {RESTORE}") from error


def create_tables(database: Database) -> None:
    """Make what the tables of a new index are; call it inside ``database.atomic()``."""
    create_documents(database)
    database.table("deletions").create({"row": int}, pk="row")
    database.table("commits").create({"generation": int, "manifest": str, "sha256": str}, pk="generation")


def delete_rows(database: Database, rows: Int64) -> None:
    """Take documents away whose vectors stay for now; call it inside ``database.atomic()``."""
    database.conn.executemany("INSERT INTO deletions VALUES (?)", ((int(row),) for row in rows))
    if len(rows):
        database.execute("DELETE FROM documents WHERE row IN (SELECT row FROM deletions)")
    step("documents deleted")


def forget_deletions(database: Database, first_row: int) -> None:
    """Deleted rows from this one on have no vector any more; call it inside ``database.atomic()``."""
    database.execute("DELETE FROM deletions WHERE row >= ?", [first_row])


def write_commit(database: Database, manifest: Manifest) -> None:
    """Put a manifest in the place of the last one; call it inside ``database.atomic()``."""
    text = manifest.to_json()
    database.execute("DELETE FROM commits")
    database.table("commits").insert({"generation": manifest.generation, "manifest": text, "sha256": checksum(text)})
    step("commit inserted")


def empty_log(database: Database) -> bool:
    """Move all of the write-ahead log into the catalogue; False if readers were in the way for two seconds."""
    database.execute("PRAGMA busy_timeout = 2000")
    (busy, _, _) = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    step("log emptied")
    return not busy
