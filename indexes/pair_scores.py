"""Scores of pairs of texts, kept from one search to the next in ``INDEX/pairs.sqlite``.

No commit lists this file. It may be removed at any time, and whatever is wrong with it costs calls of a model and a
line in the log, never an answer: so nothing in it is fsynced, and no query waits long for it. Its table:

    scores   number INTEGER PRIMARY KEY (counted up, so the lowest are the oldest), key BLOB UNIQUE,
             value BLOB (the score as float64, and the CRC-32 of the key and of that)

Every call opens the file anew: then threads, forks and other processes share nothing but SQLite's locks, and a file
that was removed or replaced meanwhile is noticed. The journal is SQLite's plain one and no write-ahead log, which could
not be read in a folder that cannot be written to. Leaves out what a key stands for (`retrieval.remembered`).
"""

from __future__ import annotations

import logging
import sqlite3
import stat
import struct
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from .connection import uri

logger = logging.getLogger(__name__)

T = TypeVar("T")

PAIR_SCORES = "pairs.sqlite"
"""The file's name in an index folder."""

LIMIT = 2_000_000
"""Scores that are kept; at some 66 bytes each the file has 130 MB then."""

PATIENCE = 1.0
"""Seconds that a call waits for another process that is writing."""

TABLE = "CREATE TABLE IF NOT EXISTS scores (number INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, value BLOB NOT NULL)"


class PairScores:
    """A file of at most `LIMIT` scores by their keys; the oldest make room for new ones.

    Parameters
    ----------
    path : Path
        Made with the first score that is put.

    Examples
    --------
    >>> pairs = PairScores(Path("pairs.sqlite"))
    >>> pairs.put([b"16 bytes of hash", b"another pair's.."], [0.25, -7.5])
    >>> pairs.get([b"another pair's..", b"one never scored"])
    [-7.5, None]
    """

    def __init__(self, path: Path) -> None:
        self._path = path.absolute()  # the process may go elsewhere
        self._told = False

    def get(self, keys: Sequence[bytes]) -> list[float | None]:
        """The score of each key, as it was put, bit for bit; None where there is none (any more) or it is damaged."""

        def read(database: sqlite3.Connection) -> list[tuple[object] | None]:
            return [database.execute("SELECT value FROM scores WHERE key = ?", [key]).fetchone() for key in keys]

        found = self._within("rw", read)
        if found is None:
            return [None] * len(keys)
        return [None if row is None else _unsealed(key, row[0]) for key, row in zip(keys, found, strict=True)]

    def put(self, keys: Sequence[bytes], scores: Sequence[float]) -> None:
        """Keep the score of each key in the place of the one before, if that can be done now."""
        rows = [(key, _sealed(key, score)) for key, score in zip(keys, scores, strict=True)]

        def write(database: sqlite3.Connection) -> None:
            database.executemany("INSERT OR REPLACE INTO scores (key, value) VALUES (?, ?)", rows)
            database.execute("DELETE FROM scores WHERE number <= (SELECT max(number) FROM scores) - ?", [LIMIT])

        self._within("rwc", write)

    def _within(self, mode: str, work: Callable[[sqlite3.Connection], T]) -> T | None:
        """What a function makes of the file in one transaction; None where there is no file, or none that can be used.

        Modes are SQLite's: "rw" opens what is there, also where that can only be read, "rwc" makes it.
        """
        try:
            if not _is_there(self._path) and mode == "rw":
                return None
            name = uri(self._path, mode)
            with closing(sqlite3.connect(name, uri=True, timeout=PATIENCE, isolation_level=None)) as database:
                database.text_factory = bytes  # of a damaged row, too
                database.execute("PRAGMA synchronous = OFF")
                database.execute(TABLE)
                database.execute("BEGIN")
                result = work(database)
                database.execute("COMMIT")
                return result
        except (OSError, sqlite3.OperationalError) as error:  # locked, read-only, full, ...
            self._tell(error)
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            self._begin_again(error)
        return None

    def _tell(self, error: Exception) -> None:
        if not self._told:
            logger.warning("%s cannot be used (%s): scores are computed anew; it may be removed", self._path, error)
        self._told = True

    def _begin_again(self, error: Exception) -> None:
        try:
            self._path.unlink(missing_ok=True)  # SQLite removes a journal that it finds beside a new file
        except OSError as refused:
            self._tell(refused)
        else:
            logger.warning("%s was damaged (%s) and is begun again: scores are computed anew", self._path, error)


def _is_there(path: Path) -> bool:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(mode):
        raise OSError("it is not a regular file")  # a link may lead anywhere
    return True


def _sealed(key: bytes, score: float) -> bytes:
    number = struct.pack("<d", score)
    return number + struct.pack("<I", zlib.crc32(key + number))


def _unsealed(key: bytes, value: object) -> float | None:
    """The score in a value that was sealed for this key; None if it was not."""
    if not isinstance(value, bytes) or len(value) != 12:
        return None
    score: float = struct.unpack("<d", value[:8])[0]
    return score if _sealed(key, score) == value else None
