"""Files that survive a power cut: written, fsynced, renamed, checked.

Everything this project writes into an index folder goes through here or through
SQLite, so this is also where faults can be injected.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .errors import ENCODE_AGAIN, IndexCorruptError


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """A file that a commit lists: what it is for, its size and its SHA-256 (hex)."""

    name: str
    role: str
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        """A name is a name, not a way out of the folder."""
        if type(self.bytes) is not int or not isinstance(self.sha256, str) or not isinstance(self.role, str):
            raise TypeError(f"{self.name!r} has no size, role or checksum")
        if not re.fullmatch(r"\w[\w.-]{0,99}", self.name):
            raise ValueError(f"{self.name!r} is not the name of a file of an index")

    def verify(self, folder: Path, *, content: bool = True) -> Path:
        """The path of the file, once it is known to be the one that was committed.

        Parameters
        ----------
        folder : Path
        content : bool, default=True
            Whether every byte is read; the size is looked at in any case.

        Raises
        ------
        IndexCorruptError
            If the file is missing, a link, of another size or of another content.
        """
        path = folder / self.name
        try:
            status = path.lstat()
        except FileNotFoundError:
            raise IndexCorruptError(f"{path} is missing; {self._remedy}") from None
        if not stat.S_ISREG(status.st_mode):
            raise IndexCorruptError(f"{path} is not a regular file; {self._remedy}")
        if status.st_size != self.bytes:
            raise IndexCorruptError(
                f"{path} has {status.st_size:,} bytes, but {self.bytes:,} were committed; {self._remedy}"
            )
        try:
            if content and sha256_of(path) != self.sha256:
                raise IndexCorruptError(f"{path} is not what was committed (its SHA-256 differs); {self._remedy}")
        except FileNotFoundError:
            raise IndexCorruptError(f"{path} is missing; {self._remedy}") from None
        return path

    @property
    def _remedy(self) -> str:
        if self.role in ("vectors", "whitening", "sums", "rows"):
            return "restore it from a copy, or make it anew from the raw vectors (retrieval rebuild)"
        if self.role == "neighbors":
            return "restore it from a copy, or make the graph anew (retrieval graph INDEX --fresh)"
        if self.role in ("graph", "weights", "tokenizer"):
            return (
                "restore it from a copy, or say where the model itself is (--model; with retrieval rebuild --portable "
                "it is put in anew)"
            )
        if self.role in ("scores", "anchors"):
            return "restore it from a copy, or take the anchors out (retrieval cross INDEX --drop)"
        return ENCODE_AGAIN


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


def write_array(
    path: Path, role: str, batches: Iterable[NDArray[Any]], shape: tuple[int, ...], dtype: Any
) -> FileEntry:
    """Write an array as .npy, batch by batch, and fsync it."""
    digest = hashlib.sha256()
    with path.open("w+b") as file:
        write_header(file, shape, dtype)
        file.seek(0)
        digest.update(file.read())
        for batch in batches:
            data = np.ascontiguousarray(batch, dtype).tobytes()
            digest.update(data)
            file.write(data)
        size = file.tell()
        file.flush()
        os.fsync(file.fileno())
    return FileEntry(name=path.name, role=role, bytes=size, sha256=digest.hexdigest())


def write_header(file: IO[bytes], shape: tuple[int, ...], dtype: Any) -> None:
    """What stands before the numbers in a .npy file, of version 1, whose length is bounded."""
    described = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, described)


def map_array(path: Path, shape: tuple[int, ...], *dtypes: Any) -> NDArray[Any]:
    """A .npy file, memory-mapped.

    Raises
    ------
    IndexCorruptError
        If it is not an array of this shape and one of these dtypes.
    """
    try:
        with path.open("rb") as file:
            if file.read(8) != b"\x93NUMPY\x01\x00":
                raise ValueError("no header of version 1, whose length is bounded")
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a header can bring about when numpy evaluates it
        raise IndexCorruptError(f"{path} is not an array of numpy ({error})") from error
    if array.shape != shape or array.dtype not in dtypes or not array.flags.c_contiguous:
        raise IndexCorruptError(f"{path} has shape {array.shape} of {array.dtype}; expected {shape} of {dtypes}")
    return array


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, durably, where they are not there yet."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
