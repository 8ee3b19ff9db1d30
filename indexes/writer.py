"""How an index folder comes to be and changes: lock, stage, write files, commit.

Files are written and fsynced first; then one SQLite transaction lists them together with
what it does to the documents (`indexes.bundle` shows the folder). What no commit lists is removed
by the next writer; what is not ours is never touched.
"""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .blocks import sums_of
from .bundle import Bundle
from .catalogue import (
    Catalogue,
    create_tables,
    delete_rows,
    empty_log,
    forget_deletions,
    open_database,
    write_commit,
)
from .document import check_unicode
from .errors import IndexError_, IndexExistsError, IndexMissingError, IndexUnfinishedError, InputError
from .files import FileEntry, make_folder, sync_folder, write_array, write_durably
from .loaded import LoadedSegment
from .lock import write_lock
from .manifest import FORMAT_VERSION, Manifest, Segment
from .seal import CATALOGUE, SEAL, break_seal, seal
from .spool import waiting
from .staging import Staging
from .steps import step
from .stored import Role
from .vectors import VectorIndex

logger = logging.getLogger(__name__)

Int64 = NDArray[np.int64]
NO_ROWS: Int64 = np.empty(0, np.int64)
PIECE = 8192
"""Rows that are read and written together."""

Write = Callable[[Path], FileEntry]
"""Writes a file to a path, durably."""
Kept = Mapping[Role, Write]


class BundleWriter:
    """The one writer of an index folder, from lock to commit; use it in a ``with`` block.

    Leaving the block by an error keeps what was staged, so that the same work can go on;
    one that came before any vector was made leaves nothing behind.

    Parameters
    ----------
    folder : Path
        For a new index: a path where nothing is yet, an empty folder, or one with an interrupted build.
    bundle : Bundle, optional
        The index in `folder`, if it is to be changed; it is brought up to date under the lock.
    replace : bool, default=False
        See `Staging`.
    fresh : bool, default=False
        Throw away what an interrupted build or addition has staged.

    Attributes
    ----------
    staging : Staging
        Made when it is first asked for.

    Raises
    ------
    IndexExistsError
        If there is an index, or something else, where a new one is to be.
    IndexLockedError
        If another process is writing.
    """

    def __init__(
        self, folder: Path, bundle: Bundle | None = None, *, replace: bool = False, fresh: bool = False
    ) -> None:
        self.folder, self._bundle, self._replace, self._fresh = folder, bundle, replace, fresh
        self._stack = ExitStack()

    @property
    def _before(self) -> Manifest | None:
        return None if self._bundle is None else self._bundle.manifest

    @property
    def _generation(self) -> int:
        return 1 if self._before is None else self._before.generation + 1

    def __enter__(self) -> BundleWriter:
        self._made = not self.folder.exists()
        if self._bundle is None:
            self._prepare_folder()
        else:
            self._bundle.check_place()
        self._stack.enter_context(write_lock(self.folder))
        try:
            step("locked")
            if self._bundle is None:
                self._check_no_index()
            else:
                self._bundle.refresh_to_write()
            self._sweep(self._before)
            if self._fresh:
                shutil.rmtree(self.folder / "staging", ignore_errors=True)
        except BaseException:
            self._stack.close()
            raise
        return self

    def _prepare_folder(self) -> None:
        if (self.folder.exists() or self.folder.is_symlink()) and not self.folder.is_dir():
            raise IndexExistsError(f"{self.folder} is a file; expected a path where nothing is yet")
        check_unicode("the index's name", str(self.folder))
        if "\0" in str(self.folder):
            raise InputError(f"{str(self.folder)!r} holds a NUL; choose another name for the index")
        make_folder(self.folder)
        if foreign := _foreign(self.folder):
            raise IndexExistsError(
                f"{self.folder} holds other things ({foreign[0]}, ...); choose a new path for the index"
            )

    def _check_no_index(self) -> None:
        if _is_committed(self.folder):
            raise IndexExistsError(
                f"{self.folder} is an index already; change it (add, upsert), remove it first, or choose another path"
            )
        if (self.folder / "segments").exists() and not (self.folder / "staging").exists():
            raise IndexExistsError(f"{self.folder} holds a part of an index; choose a new path for the index")

    def _sweep(self, manifest: Manifest | None) -> None:
        """Remove what the last commit does not list: of a write that did not come about, or of the state before."""
        listed = {file.name for file in manifest.files} if manifest is not None else set()
        for path in (self.folder / "segments").glob("*"):
            if path.name not in listed and _OURS.fullmatch(f"segments/{path.name}"):
                path.unlink()
        if manifest is not None and not waiting(self.folder / "staging", manifest.next_row):
            shutil.rmtree(self.folder / "staging", ignore_errors=True)
        step("swept")

    @cached_property
    def staging(self) -> Staging:
        """Where documents and their raw vectors wait for the commit."""
        folder = self.folder / "staging"
        if self._before is None:
            return Staging(folder)
        return Staging(folder, first_row=self._before.next_row, index=self.folder, replace=self._replace)

    def write_segment(
        self,
        index: VectorIndex,
        factory: str,
        rows: Int64,
        kept: Kept,
    ) -> Segment:
        """Write the files of a new segment, durably; no reader sees them before the commit.

        Parameters
        ----------
        index : VectorIndex
        factory : str
            What `index` was made by.
        rows : ndarray of shape (n,), int64
            The index's row of each vector, ascending.
        kept : mapping of role to callable
            Each writes what is kept of the rows besides; see `Bundle.kept`.
        """
        stem = self._new_path("")
        size, sha256 = index.write(path := stem.with_suffix(".faiss"))
        vectors = FileEntry(name=path.name, role="vectors", bytes=size, sha256=sha256)
        step("segment written")
        rows_file = None
        if len(rows) != rows[-1] - rows[0] + 1:
            rows_file = write_array(stem.with_suffix(".rows.npy"), "rows", [rows], rows.shape, np.int64)
            step("rows written")
        segment = Segment(
            first_row=int(rows[0]), count=len(rows), factory=factory, vectors=vectors, raw=None, rows=rows_file
        )
        for role, write in kept.items():
            segment = self.with_kept(segment, role, write)
        return segment

    def with_kept(self, segment: Segment, role: Role, write: Write) -> Segment:
        """A segment of which something else is kept in a role, once its file is written."""
        first = "" if role == "raw" else f".{segment.first_row:06d}"  # raw vectors come once, with the segment itself
        file = write(self._new_path(f"{first}.{role}.npy"))
        step(f"{role} written")
        changed: dict[str, FileEntry] = {role: file}
        if role == "raw":
            sums = sums_of(self.folder / "segments" / file.name, file.sha256)
            changed["sums"] = self._written("sums", sums, ".sums")
            step("sums written")
        return dataclasses.replace(segment, **changed)  # type: ignore[arg-type]

    def with_values(
        self, loaded: LoadedSegment, role: Role, before: NDArray[Any], rows: Int64, values: NDArray[Any]
    ) -> Segment:
        """A segment of which something else is kept of some rows; as it is, if it has none of them.

        Parameters
        ----------
        loaded : LoadedSegment
        role : {"scores", "neighbors"}
        before : ndarray of shape (count, width)
            What is kept of all its rows; read piece by piece.
        rows : ndarray of shape (m,), int64
            Ascending.
        values : ndarray of shape (m, width)
        """
        here = np.isin(rows, loaded.rows)
        if not here.any():
            return loaded.segment
        places, new = loaded.positions_of(rows), values[here]

        def blocks() -> Iterator[NDArray[Any]]:
            for start in range(0, len(before), PIECE):
                block = np.array(before[start : start + PIECE])
                of_block = (places >= start) & (places < start + len(block))
                block[places[of_block] - start] = new[of_block]
                yield block

        return self.with_kept(
            loaded.segment, role, lambda path: write_array(path, role, blocks(), before.shape, before.dtype)
        )

    def write_whitening(self, data: bytes) -> FileEntry:
        """Write the file of a new whitening, durably."""
        file = self._written("whitening", data, ".whitening.safetensors")
        step("whitening written")
        return file

    def write_anchors(self, data: bytes) -> FileEntry:
        """Write the file of new anchor queries, durably."""
        file = self._written("anchors", data, ".anchors.safetensors")
        step("anchors written")
        return file

    def write_compiled(self, files: Mapping[str, Path], settings: Mapping[str, Any]) -> dict[str, Any]:
        """Copy the files of a compiled encoder, durably; the fields of the manifest that tell of it.

        Parameters
        ----------
        files : mapping
            By what they are: graph, weights (if they are apart), tokenizer.
        settings : mapping
        """
        # OpenVINO looks for weights beside the graph, under its name
        stems = {"graph": "graph", "weights": "graph", "tokenizer": "tokenizer"}
        found = {
            f"{role}_file": self._written(role, path.read_bytes(), f".{stems[role]}{path.suffix}")
            for role, path in files.items()
        }
        return {"compiled": settings, **found}

    def _written(self, role: str, data: bytes, ending: str) -> FileEntry:
        path = self._new_path(ending)
        write_durably(path, data)
        return FileEntry(name=path.name, role=role, bytes=len(data), sha256=hashlib.sha256(data).hexdigest())

    def _new_path(self, suffix: str) -> Path:
        (self.folder / "segments").mkdir(exist_ok=True)
        return self.folder / "segments" / f"{self._generation:06d}{suffix}"

    def commit(
        self,
        segments: Sequence[Segment],
        *,
        made_by: Mapping[str, Any],
        dead: Int64 = NO_ROWS,
        vacuum: bool = False,
        **changed: Any,
    ) -> Manifest:
        """Make the next state of the index: what is staged comes in, what is dead goes, in one transaction.

        Parameters
        ----------
        segments : sequence of Segment
            All of the new state, by first row. A new one takes the place of the last ones of the state before.
        made_by : mapping
            See `Manifest`.
        dead : ndarray of shape (m,), int64
            Rows whose documents go.
        vacuum : bool, default=False
            Give the space of what was deleted back to the disk.
        **changed
            Other fields of the manifest that are to differ from the state before: ``dim``, ``model``, ``whitening``,
            ``whitening_file``, ``index``, all of them for a new index; ``anchors``, ``anchors_file``; ``neighbors``;
            those of `write_compiled`.
        """
        before = self._before
        staged = self.staging if "staging" in self.__dict__ else None
        count = 0 if staged is None else staged.count
        fields: dict[str, Any] = {
            "generation": self._generation,
            "documents": (0 if before is None else before.documents) - len(dead) + count,
            "next_row": (0 if before is None else before.next_row) + count,
            "segments": tuple(segments),
            "made_by": made_by,
            "format_version": FORMAT_VERSION,
        } | changed
        manifest = Manifest(**fields) if before is None else dataclasses.replace(before, **fields)
        if (self.folder / "segments").exists():
            sync_folder(self.folder / "segments")
        sync_folder(self.folder)
        step("folder synced")
        break_seal(self.folder)
        database = open_database(self.folder / CATALOGUE)
        try:
            if staged is not None:
                staged.attach(database)
            with database.atomic():
                if before is None:
                    create_tables(database)
                delete_rows(database, dead)
                kept = {segment.vectors for segment in segments}
                if gone := [old.first_row for old in before.segments if old.vectors not in kept] if before else []:
                    forget_deletions(database, min(gone))
                if staged is not None:
                    staged.publish_documents(database)
                write_commit(database, manifest)
        finally:
            database.conn.close()
        step("committed")
        try:
            self._finish(manifest, vacuum)
        except (OSError, sqlite3.Error) as error:
            logger.warning(
                "%s: the change is committed, but what is left over could not be removed (%s); compact does it",
                self.folder,
                error,
            )
        return manifest

    def tidy(self) -> None:
        """Give the space that the catalogue does not need any more back to the disk; the state stays."""
        assert self._before is not None
        database = open_database(self.folder / CATALOGUE)
        try:
            (free,) = database.execute("PRAGMA freelist_count").fetchone()
        finally:
            database.conn.close()
        if free:
            break_seal(self.folder)
            self._finish(self._before, vacuum=True)

    def _finish(self, manifest: Manifest, vacuum: bool) -> None:
        """Put the house in order behind a commit; if this is not reached, the next writer does it."""
        if "staging" in self.__dict__:
            self.staging.leave(done=True)
            step("staging removed")
        if self._bundle is not None:
            self._sweep(manifest)
            step("files removed")
        self._settle(vacuum)

    def _settle(self, vacuum: bool = False) -> None:
        """All of the catalogue in one file, and that sealed."""
        database = open_database(self.folder / CATALOGUE)
        try:
            if vacuum:
                database.execute("VACUUM")
                step("vacuumed")
            emptied = empty_log(database)
        finally:
            database.conn.close()
        if emptied:
            seal(self.folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            unborn = error is not None and self._bundle is None and not _is_committed(self.folder)
            if "staging" in self.__dict__:
                self.staging.leave()
            if unborn and not (self.folder / "staging").exists():
                self._leave_nothing()
            if self._bundle is not None and not (self.folder / SEAL).exists():
                # a write failed, or one was killed before; if this fails as well, the next writer tries again
                with suppress(OSError, sqlite3.Error):
                    self._settle()
        finally:
            self._stack.close()
        if error is not None and self._made and not any(self.folder.iterdir()):
            with suppress(OSError):  # the next writer is here already
                self.folder.rmdir()

    def _leave_nothing(self) -> None:
        """Remove what was left by another plan, whose vectors are gone."""
        shutil.rmtree(self.folder / "segments", ignore_errors=True)
        for path in self.folder.glob("catalogue.*"):
            path.unlink()
        (self.folder / "write.lock").unlink(missing_ok=True)  # while it is held, or it may be another's


_FOLDERS = ("segments", "staging")
_OURS = re.compile(
    r"write\.lock(\.json)?|(catalogue|pairs)\.sqlite(-wal|-shm|-journal)?|catalogue\.seal(\.tmp)?"
    r"|segments(/\d{6,}\.[^/]+)?"
    r"|staging(/(documents\.sqlite(-wal|-shm|-journal)?|raw\.npy|truncated\.bin|header\.tmp|progress\.json(\.tmp)?))?"
)


def _foreign(folder: Path) -> list[str]:
    """What no build of ours leaves in a folder, and what therefore must not be removed."""
    paths = (path for pattern in ("*", "segments/*", "staging/*") for path in folder.glob(pattern))
    names = ((path.relative_to(folder).as_posix(), path.is_dir()) for path in paths)
    return sorted(name for name, is_folder in names if not _OURS.fullmatch(name) or is_folder != (name in _FOLDERS))


def _is_committed(folder: Path) -> bool:
    """Whether a folder has a commit, be it damaged or of a newer version."""
    try:
        Catalogue(folder).close()
    except (IndexMissingError, IndexUnfinishedError):
        return False
    except IndexError_:
        return True
    return True
