"""The preloaded library `shim.c`: compiled when it is first needed, told what to do through ctypes.

A process must have been started with it (`children.in_fresh_process`, preload=library()). What is armed in a process
is armed in the children that it forks later, too, and nowhere else.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

MODES = {
    "kill": 1,  # SIGKILL before the n-th operation that writes
    "EIO": 2,  # it fails
    "ENOSPC": 3,
    "full": 4,  # from the n-th on, whatever needs room fails with ENOSPC
    "half": 5,  # if it writes data, half of them are written and the caller is told so
    "EINTR": 6,  # if it may be interrupted, it is
    "read EIO": 7,  # the n-th operation that reads fails
}

_SOURCE = Path(__file__).with_name("shim.c")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """One operation that was done.

    Attributes
    ----------
    kind : str
        C(reate), D(irectory made), W(rite), T(runcate), S(ync), R(ename), L(ink), U(nlink or rmdir), M(ark).
    inode : int
        Of the file or folder it was done to; 0 for U and M.
    offset : int
        Where data were written; the size for T.
    first, second : bytes
        Path, and new path; the data of W; the text of M.
    """

    kind: str
    inode: int
    offset: int
    first: bytes
    second: bytes


def why_not() -> str:
    """Why the library cannot be had here; empty if it can."""
    return "" if shutil.which("gcc") else "no gcc to compile the library that makes file operations fail"


def library() -> Path:
    """The compiled library; made if it is not there."""
    source = _SOURCE.read_bytes()
    made = Path(tempfile.gettempdir()) / f"torture-{os.getuid()}-{hashlib.sha256(source).hexdigest()[:16]}.so"
    if not made.exists():
        with tempfile.NamedTemporaryFile(dir=made.parent, suffix=".so", delete=False) as other:
            command = ["gcc", "-O1", "-Wall", "-Wextra", "-fPIC", "-shared", "-o", other.name, str(_SOURCE), "-ldl"]
            subprocess.run(command, check=True)
        Path(other.name).replace(made)
    return made


def arm(folder: Path, n: int, mode: str) -> None:
    """From now on count the file operations below a folder, and do something at the n-th (from 1; 0 only counts)."""
    _loaded().shim_arm(os.fsencode(folder.resolve()), ctypes.c_long(n), MODES[mode])


def record(folder: Path, to: Path) -> None:
    """From now on write every file operation below a folder, with its data, to a file outside of it."""
    _loaded().shim_record(os.fsencode(folder.resolve()), os.fsencode(to))


def mark(text: str) -> None:
    """Put a word among what is recorded."""
    _loaded().shim_mark(text.encode())


def disarm() -> None:
    """Do nothing more."""
    _loaded().shim_disarm()


def count() -> tuple[int, int]:
    """How many operations that write, and that read, there were since `arm`."""
    return int(_loaded().shim_writes()), int(_loaded().shim_reads())


def read_record(path: Path) -> Iterator[Recorded]:
    """What `record` wrote."""
    with path.open("rb") as file:
        while header := file.read(40):
            kind, inode, offset, n, m = struct.unpack("<5q", header)
            yield Recorded(kind=chr(kind), inode=inode, offset=offset, first=file.read(n), second=file.read(m))


@cache
def _loaded() -> ctypes.CDLL:
    loaded = ctypes.CDLL(None)  # of this process, with all that was preloaded
    loaded.shim_writes.restype = loaded.shim_reads.restype = ctypes.c_long
    return loaded
