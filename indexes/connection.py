"""A read-only connection to a catalogue, also where its folder cannot be written to.

SQLite writes a -shm file even to read. Where it cannot, the catalogue is opened as a file that nobody changes: such a
"frozen" connection sees no commits, takes no locks and keeps what it has read. Should somebody else write there after
all, the file or its log shows it.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from urllib.parse import quote

from .errors import IndexCorruptError, IndexMissingError, IndexUnfinishedError

# NULL where a number stood; a message of SQLite that quotes damaged bytes
UNREADABLE = (sqlite3.DatabaseError, TypeError, UnicodeDecodeError)


class ReadOnlyConnection:
    """The connection to one file; see the module.

    Parameters
    ----------
    path : Path

    Attributes
    ----------
    connection : sqlite3.Connection
    frozen : bool

    Raises
    ------
    IndexUnfinishedError
        If there is a log beside the file that cannot be read where nothing can be written.
    IndexCorruptError
        If the file is not a database.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._identity = path, _identity(path)
        self._open()

    def _open(self) -> None:
        self._signature = _signature(self._path)  # first: what changes behind it is noticed
        try:
            self.connection, self.frozen = _connect(self._path), False
        except sqlite3.OperationalError:
            log = self._path.with_name(self._path.name + "-wal")
            if log.is_file() and log.stat().st_size:
                raise IndexUnfinishedError(
                    f"{self._path} has changes in {log.name} that cannot be read where nothing can be written; "
                    "copy the whole index to a folder that can be"
                ) from None
            frozen = uri(self._path) + "&immutable=1"
            self.connection, self.frozen = sqlite3.connect(frozen, uri=True, check_same_thread=False), True
        except UNREADABLE as error:
            raise IndexCorruptError(
                f"{self._path} is not a catalogue ({error}); restore it from a copy or build again"
            ) from error

    def renew(self) -> None:
        """In the place of a frozen connection one that is not, if it can be had now, else a new frozen one."""
        old = self.connection
        self._open()
        old.close()

    def thaw(self) -> None:
        """Leave a frozen connection for one that is not.

        Raises
        ------
        sqlite3.OperationalError
            If there is still none.
        """
        if self.frozen:
            connection = _connect(self._path)
            self.connection.close()
            self.connection, self.frozen = connection, False

    def changed(self) -> bool:
        """Whether a frozen connection may have seen two states."""
        return self.frozen and _signature(self._path) != self._signature

    def check_place(self) -> None:
        """See whether the file that was opened is still the one at its path.

        Raises
        ------
        IndexMissingError
            If it was removed, or another one put in its place.
        """
        if _identity(self._path) != self._identity:
            raise IndexMissingError(
                f"{self._path.parent} is not the index that was opened (it was removed or replaced); open it again"
            )


def _connect(path: Path) -> sqlite3.Connection:
    """A connection that sees every commit."""
    connection = sqlite3.connect(uri(path), uri=True, timeout=30, check_same_thread=False)
    try:
        connection.execute("SELECT 1 FROM sqlite_master").fetchone()
    except BaseException:
        connection.close()
        raise
    return connection


def uri(path: Path, mode: str = "ro") -> str:
    """The name by which SQLite opens a file in a mode: ro, rw, or rwc, which makes it."""
    return f"file:{quote(str(path.absolute()))}?mode={mode}"


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file is at a path."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


def _signature(path: Path) -> list[tuple[int, int]]:
    """What differs when somebody has written to a database or its log; an empty log is as good as none."""
    found = []
    for file in (path, path.with_name(path.name + "-wal")):
        try:
            status = file.stat()
        except FileNotFoundError:
            found.append((0, 0))
        else:
            found.append((status.st_size, status.st_mtime_ns if status.st_size else 0))
    return found
