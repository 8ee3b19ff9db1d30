"""Documents and raw vectors on their way into an index, safe against interruption.

    INDEX/staging/documents.sqlite    every document of the build, checked before any model runs
    INDEX/staging/raw.npy             raw vectors, written chunk after chunk; truncated.bin, a byte a vector
    INDEX/staging/progress.json       what is being built, and how many rows of raw.npy are good

Nothing in here is part of the index: readers never look. When a build is started
again with the same documents and the same plan, it goes on after the last good
chunk; chunks are always cut at the same rows, so the result has the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .catalogue import DOCUMENT_COLUMNS, create_documents, document_checksum, open_database, text_hash
from .document import Document
from .errors import IndexUnfinishedError, VectorError
from .files import FileEntry, sha256_of, sync_folder, write_durably

if TYPE_CHECKING:
    from .catalogue import Database

CHUNK = 1024
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

    Attributes
    ----------
    count : int
        Documents staged.
    encoded : int
        Of these, how many have their raw vector (the first ones).
    """

    def __init__(self, folder: Path, *, first_row: int = 0) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._first_row = folder, first_row
        for name in ("documents.sqlite", "documents.sqlite-wal", "documents.sqlite-shm"):
            (folder / name).unlink(missing_ok=True)
        self._database = open_database(folder / "documents.sqlite")
        self._database.execute("PRAGMA synchronous = OFF")  # read again from the corpus by whoever goes on
        create_documents(self._database, source=str, line=int)
        self._database.table("documents").create_index(["text_hash"])
        self._digest = hashlib.sha256()
        self._copies: dict[str, int] = {}  # of the ids made from texts that came more than once
        self.count, self.encoded = 0, 0
        self._plan: dict[str, Any] = {}

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
            Called with (document, source, line, reason) when an id was seen before; if it returns,
            the document is left out.
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
        seen = self._seen(ids)
        rows = []
        for (document, source, line), hashed, doc_id in zip(batch, hashes, ids, strict=True):
            if document.doc_id is None:
                doc_id = self._free_id(doc_id, seen)
            elif doc_id in seen:
                before, at = seen[doc_id]
                on_duplicate(
                    document, source, line, f"id {doc_id!r} was used before, at {before}:{at}; ids must differ"
                )
                continue
            seen[doc_id] = (source, line)
            row, metadata = self._first_row + self.count, document.metadata_json()
            check = document_checksum(row, doc_id, metadata, hashed)
            rows.append((row, doc_id, document.text, metadata, hashed, 0, check, source, line))
            self._digest.update(check)
            self.count += 1
        if rows:
            with self._database.atomic():
                self._database.conn.executemany(f"INSERT INTO documents VALUES ({','.join('?' * len(rows[0]))})", rows)

    def _free_id(self, made: str, seen: Mapping[str, tuple[str, int]]) -> str:
        """The id made from a text, or its first copy that is free: the user's own ids may look like ours."""
        doc_id = made
        while doc_id in seen or (doc_id != made and self._seen([doc_id])):
            self._copies[made] = self._copies.get(made, 1) + 1
            doc_id = f"{made}:{self._copies[made]}"
        return doc_id

    def _seen(self, ids: list[str]) -> dict[str, tuple[str, int]]:
        found = self._database.execute(
            f"SELECT id, source, line FROM documents WHERE id IN ({','.join('?' * len(ids))})", ids
        )
        return {doc_id: (source, line) for doc_id, source, line in found}

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
        self._dim, self._dtype = dim, np.dtype(dtype)
        wanted = {"plan": dict(plan), "dim": dim, "dtype": dtype, "documents": self._digest.hexdigest()}
        self._plan = json.loads(json.dumps(wanted))  # as it is read back: no tuples
        header = np.lib.format
        with (self._folder / "header.tmp").open("wb") as file:
            header.write_array_header_1_0(
                file, {"descr": header.dtype_to_descr(self._dtype), "fortran_order": False, "shape": (self.count, dim)}
            )
            self._offset = file.tell()
        self.encoded, others = self._progress()
        if others and not drop_others:
            raise IndexUnfinishedError(
                f"{self._folder.parent} holds an interrupted build of other documents or another model ({others:,} "
                f"vectors are done); run that build again to finish it, or remove {self._folder.parent} to begin afresh"
            )
        if self.encoded:
            os.truncate(self._raw, self._position(self.encoded))
        else:
            # subtle: first of all, or the note of one plan would vouch for the vectors of the next
            (self._folder / "progress.json").unlink(missing_ok=True)
            sync_folder(self._folder)
            (self._folder / "header.tmp").replace(self._raw)
            self._sums = (_sum_of(self._raw, self._offset), hashlib.sha256())

    @property
    def has_vectors(self) -> bool:
        """Whether there are vectors, of this build or of one that was interrupted, that would be lost by `discard`."""
        return self.encoded > 0 or (self._folder / "progress.json").exists()

    @property
    def _raw(self) -> Path:
        return self._folder / "raw.npy"

    @property
    def _flags(self) -> Path:
        return self._folder / "truncated.bin"

    def _position(self, row: int) -> int:
        return self._offset + row * self._dim * self._dtype.itemsize

    def _progress(self) -> tuple[int, int]:
        """How many rows of raw.npy are good, and how many are another plan's."""
        try:
            note = dict(json.loads((self._folder / "progress.json").read_text()))
            encoded, sums = int(note.pop("encoded")), note.pop("sha256")
            if note != self._plan:
                return 0, encoded
            self._sums = (_sum_of(self._raw, self._position(encoded)), _sum_of(self._flags, encoded))
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return 0, 0
        good = 0 <= encoded <= self.count and sums == [made.hexdigest() for made in self._sums]
        return (encoded if good else 0), 0

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
                self.put(np.empty((0, self._dim), np.float32), np.empty(0, np.bool_))

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
        expected = (int(new.sum()), self._dim)
        if np.shape(vectors) != expected or np.shape(truncated) != expected[:1]:
            raise VectorError(
                f"the model gave vectors of shape {np.shape(vectors)} and truncated flags of shape "
                f"{np.shape(truncated)}; expected {expected} and {expected[:1]}"
            )
        with np.errstate(over="ignore"):
            stored = np.asarray(vectors).astype(self._dtype)
        if not np.isfinite(stored).all():
            raise VectorError(
                f"the model gave vectors that do not fit {self._dtype} (NaN, infinite or beyond 65,504); "
                "keep them as raw='float32' if they are finite"
            )
        rows = np.empty((len(self._sources), self._dim), self._dtype)
        flags = np.empty(len(self._sources), np.bool_)
        rows[new], flags[new] = stored, truncated
        rows[inside], flags[inside] = rows[here[inside]], flags[here[inside]]
        rows[~inside], flags[~inside] = self.raw()[self._sources[~inside]], self.truncated()[self._sources[~inside]]
        _write_at(self._raw, self._position(self.encoded), rows.tobytes())
        _write_at(self._flags, self.encoded, flags.tobytes())
        self._sums[0].update(rows.tobytes())
        self._sums[1].update(flags.tobytes())
        self.encoded += len(rows)
        note = self._plan | {"encoded": self.encoded, "sha256": [made.hexdigest() for made in self._sums]}
        write_durably(self._folder / "progress.json", json.dumps(note).encode())

    def texts(self, positions: Sequence[int]) -> list[str]:
        """The texts of staged documents, by their position (ascending)."""
        found = self._database.execute(
            "SELECT text FROM documents WHERE row IN (SELECT value FROM json_each(?)) ORDER BY row",
            [json.dumps([self._first_row + int(position) for position in positions])],
        )
        return [text for (text,) in found]

    def raw(self) -> NDArray[np.floating[Any]]:
        """The raw vectors so far, memory-mapped, of shape (encoded, dim)."""
        if not self.encoded:
            return np.empty((0, self._dim), self._dtype)
        return np.memmap(self._raw, self._dtype, "r", self._offset, (self.encoded, self._dim))

    def truncated(self) -> NDArray[np.bool_]:
        """Which texts so far were longer than the model reads, of shape (encoded,), bool."""
        return np.fromfile(self._flags, np.bool_, self.encoded) if self.encoded else np.empty(0, np.bool_)

    def publish_raw(self, path: Path, role: str) -> FileEntry:
        """Give the finished raw vectors a second name in the index; the first one stays until `discard`."""
        path.unlink(missing_ok=True)
        try:
            os.link(self._raw, path)
        except OSError:  # a file system without hard links
            shutil.copyfile(self._raw, path)
            with path.open("r+b") as file:
                os.fsync(file.fileno())
        return FileEntry(name=path.name, role=role, bytes=path.stat().st_size, sha256=sha256_of(path))

    def publish_documents(self, database: Database) -> None:
        """Copy the staged documents into a catalogue that has them attached as ``staged`` (see `attach`)."""
        columns = ", ".join(DOCUMENT_COLUMNS)
        database.execute(f"INSERT INTO documents ({columns}) SELECT {columns} FROM staged.documents ORDER BY row")
        cut = (np.flatnonzero(self.truncated()) + self._first_row).tolist()
        database.conn.executemany("UPDATE documents SET truncated = 1 WHERE row = ?", ((row,) for row in cut))

    def attach(self, database: Database) -> None:
        """Make the staged documents readable from a catalogue's connection; not inside a transaction."""
        # not database.attach, which writes the path into its SQL: /home/o'brien
        database.execute("ATTACH DATABASE ? AS staged", [str(self._folder / "documents.sqlite")])

    def close(self) -> None:
        """Let go of the files; the build can go on later."""
        self._database.conn.close()

    def discard(self) -> None:
        """Remove everything staged."""
        self.close()
        shutil.rmtree(self._folder)


def _made_id(hashed_text: bytes) -> str:
    return f"text:{hashed_text[:8].hex()}"


def _sum_of(path: Path, size: int) -> hashlib._Hash:
    """SHA-256 of the first bytes of a file, to be continued."""
    made = hashlib.sha256()
    with path.open("rb") as file:
        while size > 0 and (piece := file.read(min(size, 1 << 20))):
            made.update(piece)
            size -= len(piece)
    if size:
        raise ValueError(f"{path} is {size} bytes short")
    return made


def _write_at(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b" if path.exists() else "w+b") as file:
        file.seek(offset)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
