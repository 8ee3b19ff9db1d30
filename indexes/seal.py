"""The seal of a catalogue: its SHA-256, kept beside it while nobody writes.

SQLite believes every bit of its file. A writer breaks the seal before its transaction and, once the
log is empty again, seals the file as it then is; so a seal that is there must fit. After a kill there
is none until the next write: documents and manifest are then held against their own checksums only.
"""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

from .errors import IndexCorruptError
from .files import sha256_of, sync_folder, write_durably
from .steps import step

CATALOGUE, SEAL = "catalogue.sqlite", "catalogue.seal"


def break_seal(folder: Path) -> None:
    """Take the seal away, durably; there may be none."""
    (folder / SEAL).unlink(missing_ok=True)
    sync_folder(folder)
    step("seal broken")


def seal(folder: Path) -> None:
    """Seal the catalogue as it is; its log must be empty."""
    log = folder / f"{CATALOGUE}-wal"
    if log.exists():
        # subtle: SQLite does not fsync the log that it has emptied; after a power cut it may be back, against the seal
        with log.open("rb") as file:
            os.fsync(file.fileno())
    note = {"bytes": (folder / CATALOGUE).stat().st_size, "sha256": sha256_of(folder / CATALOGUE)}
    write_durably(folder / SEAL, json.dumps(note).encode())
    step("sealed")


def check_seal(folder: Path) -> bool:
    """Hold the catalogue against its seal; False where it has none.

    Raises
    ------
    IndexCorruptError
        If the catalogue is not what was sealed, or the seal cannot be read.
    """
    while True:
        if (written := _read(folder)) is None:
            return False
        path = folder / CATALOGUE
        try:
            note = json.loads(written)
            # subtle: a log beside a sealed catalogue is another state's, and SQLite would believe it
            fits = not _size_of_log(path) and path.stat().st_size == note["bytes"] and sha256_of(path) == note["sha256"]
        except (ValueError, KeyError, TypeError, RecursionError):
            fits = False
        if fits:
            return True
        # subtle: a writer may have been at work between the two readings; then there is another seal, or none
        if _read(folder) == written:
            raise IndexCorruptError(
                f"{path} is not what was committed (it does not fit {SEAL}, or its log is of another state); "
                "restore both from a copy or build the index again"
            )


def _size_of_log(path: Path) -> int:
    try:
        return path.with_name(path.name + "-wal").stat().st_size
    except FileNotFoundError:
        return 0


def _read(folder: Path) -> bytes | None:
    path = folder / SEAL
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise IndexCorruptError(f"{path} is not a regular file; remove it, and restore the index from a copy")
        return path.read_bytes()
    except FileNotFoundError:
        return None
