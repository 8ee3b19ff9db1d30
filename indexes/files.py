"""Files that survive a power cut: written, fsynced, renamed, checked.

Everything this project writes into an index folder goes through here or through
SQLite, so this is also where faults can be injected.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from .errors import IndexCorruptError


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file that a commit lists: what it is for, its size and its SHA-256 (hex)."""

    name: str
    role: str
    bytes: int
    sha256: str

    def verify(self, folder: Path) -> Path:
        """The path of the file, once it is known to be the one that was committed.

        Raises
        ------
        IndexCorruptError
            If the file is missing, a link, of another size or of another content.
        """
        path = folder / self.name
        if path.is_symlink() or not path.is_file():
            raise IndexCorruptError(f"{path} is missing or not a regular file; {_REMEDY}")
        size = path.stat().st_size
        if size != self.bytes:
            raise IndexCorruptError(f"{path} has {size:,} bytes, but {self.bytes:,} were committed; {_REMEDY}")
        if sha256_of(path) != self.sha256:
            raise IndexCorruptError(f"{path} is not what was committed (its SHA-256 differs); {_REMEDY}")
        return path


_REMEDY = "restore it from a copy or build the index again"


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file's content, read in pieces."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else _sha256(path)


def _sha256(path: Path) -> str:  # Python 3.10
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def write_durably(path: Path, data: bytes) -> None:
    """Replace a file's content so that a crash leaves the old or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
