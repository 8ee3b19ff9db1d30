"""How an index folder comes to be: lock, stage, write, commit.

Files are written and fsynced first; then one SQLite transaction lists them together with
the documents (`indexes.bundle` shows the folder). What no commit lists is removed by the next
writer; what is not ours is never touched.
"""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from .catalogue import Catalogue, create_documents, open_database, write_commit
from .errors import IndexError_, IndexExistsError, IndexMissingError, IndexUnfinishedError
from .files import FileEntry, sync_folder, write_durably
from .lock import write_lock
from .manifest import Manifest, Segment
from .staging import Staging
from .vectors import VectorIndex


class BundleWriter:
    """The one writer of an index folder, from lock to commit; use it in a ``with`` block.

    Leaving the block by an error keeps what was staged, so that the same build can go on;
    one that came before any vector was made leaves nothing behind.

    Parameters
    ----------
    folder : Path
        A path where nothing is yet, an empty folder, or one with an interrupted build.

    Raises
    ------
    IndexExistsError
        If there is an index, or something else, already.
    IndexLockedError
        If another process is writing.
    """

    staging: Staging

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._stack = ExitStack()

    def __enter__(self) -> BundleWriter:
        if (self.folder.exists() or self.folder.is_symlink()) and not self.folder.is_dir():
            raise IndexExistsError(f"{self.folder} is a file; expected a path where nothing is yet")
        self._made = not self.folder.exists()
        self.folder.mkdir(parents=True, exist_ok=True)
        if foreign := _foreign(self.folder):
            raise IndexExistsError(
                f"{self.folder} holds other things ({foreign[0]}, ...); choose a new path for the index"
            )
        self._stack.enter_context(write_lock(self.folder))
        try:
            if _is_committed(self.folder):
                raise IndexExistsError(f"{self.folder} is an index already; remove it first or choose another path")
            if (self.folder / "segments").exists() and not (self.folder / "staging").exists():
                raise IndexExistsError(f"{self.folder} holds a part of an index; choose a new path for the index")
            self.staging = Staging(self.folder / "staging")
        except BaseException:
            self._stack.close()
            raise
        return self

    def commit(
        self,
        index: VectorIndex,
        *,
        model: Mapping[str, Any],
        whitening: tuple[Mapping[str, Any], bytes] | None,
        choice: Mapping[str, Any],
        keep_raw: bool,
        made_by: Mapping[str, Any],
    ) -> Manifest:
        """Make the staged documents and their vectors the first state of the index; what was staged is removed."""
        segments = self.folder / "segments"
        if segments.exists():  # of a commit that did not come about
            shutil.rmtree(segments)
        segments.mkdir()
        name = f"{1:06d}"
        size, sha256 = index.write(segments / f"{name}.faiss")
        vectors = FileEntry(name=f"{name}.faiss", role="vectors", bytes=size, sha256=sha256)
        raw = self.staging.publish_raw(segments / f"{name}.raw.npy", "raw") if keep_raw else None
        parameters, whitening_file = None, None
        if whitening is not None:
            parameters, data = whitening
            path = segments / f"{name}.whitening.safetensors"
            write_durably(path, data)
            whitening_file = FileEntry(
                name=path.name, role="whitening", bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
            )
        sync_folder(segments)
        sync_folder(self.folder)
        manifest = Manifest(
            generation=1,
            documents=self.staging.count,
            next_row=self.staging.count,
            dim=index.dim,
            model=model,
            whitening=parameters,
            whitening_file=whitening_file,
            index=choice,
            segments=(Segment(first_row=0, count=self.staging.count, vectors=vectors, raw=raw),),
            made_by=made_by,
        )
        database = open_database(self.folder / "catalogue.sqlite")
        try:
            self.staging.attach(database)
            with database.atomic():
                create_documents(database)
                database.table("deletions").create({"row": int}, pk="row")
                self.staging.publish_documents(database)
                write_commit(database, manifest)
        finally:
            database.conn.close()
        self.staging.discard()
        return manifest

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        useless = error is not None and not self.staging.has_vectors
        if useless:
            committed = _is_committed(self.folder)
            self.staging.discard()
            if not committed:  # left by another plan, whose vectors are gone
                shutil.rmtree(self.folder / "segments", ignore_errors=True)
                for path in self.folder.glob("catalogue.sqlite*"):
                    path.unlink()
            (self.folder / "write.lock").unlink(missing_ok=True)  # while it is held, or it may be another's
        else:
            self.staging.close()
        self._stack.close()
        if useless and self._made:
            with suppress(OSError):  # the next writer is here already
                self.folder.rmdir()


_FOLDERS = ("segments", "staging")
_OURS = re.compile(
    r"write\.lock(\.json)?|catalogue\.sqlite(-wal|-shm)?|segments(/\d{6}\.[^/]+)?"
    r"|staging(/(documents\.sqlite(-wal|-shm)?|raw\.npy|truncated\.bin|header\.tmp|progress\.json(\.tmp)?))?"
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
