"""The seal of a catalogue: its SHA-256, kept beside it while nobody writes.

SQLite believes every bit of its file. A writer breaks the seal before its transaction and, once the
log is empty again, seals the file as it then is; so a seal that is there must fit. After a kill there
is none until the next write: documents and manifest are then held against their own checksums only.
"""

from __future__ import annotations

import json
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
            fits = path.stat().st_size == note["bytes"] and sha256_of(path) == note["sha256"]
        except (ValueError, KeyError, TypeError):
            fits = False
        if fits:
            return True
        # subtle: a writer may have been at work between the two readings; then there is another seal, or none
        if _read(folder) == written:
            raise IndexCorruptError(
                f"{path} is not what was committed (its SHA-256 differs from the one in {SEAL}); "
                "restore both from a copy or build the index again"
            )


def _read(folder: Path) -> bytes | None:
    path = folder / SEAL
    try:
        if path.is_symlink() or not path.is_file():
            if path.exists() or path.is_symlink():
                raise IndexCorruptError(f"{path} is not a regular file; remove it, and restore the index from a copy")
            return None
        return path.read_bytes()
    except FileNotFoundError:
        return None
