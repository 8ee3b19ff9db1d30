"""One writer at a time, and a name for the one who is at work.

The lock is the operating system's (`filelock`), so it goes with the process that
held it, however that ended; the note beside it only says who.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import IndexLockedError


@contextmanager
def write_lock(folder: Path) -> Iterator[None]:
    """Hold the right to write to an index folder, or be told at once who does.

    Raises
    ------
    IndexLockedError
        If another process (or another writer of this one) holds it.
    """
    from filelock import FileLock, Timeout

    lock, note = FileLock(folder / "write.lock"), folder / "write.lock.json"
    for attempt in range(20):  # between taking the lock and writing the name, and between two holders, there is no name
        try:
            lock.acquire(timeout=0)
            break
        except Timeout:
            if (holder := _holder(note)) or attempt == 19:
                raise IndexLockedError(
                    f"{folder} is being written by {holder or 'another process'}; wait until that is done (readers are "
                    "not hindered)"
                ) from None
            time.sleep(0.01)
    try:
        note.write_text(json.dumps({"pid": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def _holder(note: Path) -> str | None:
    try:
        holder = json.loads(note.read_text())
        return f"process {holder['pid']} on {holder['host']}"
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
