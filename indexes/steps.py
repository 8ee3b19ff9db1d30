"""The named steps of every write: where a test pulls the plug.

Nothing happens here unless a test asks for it.
"""

from __future__ import annotations

from collections.abc import Callable

STEPS = (
    "locked",  # the right to write is held
    "swept",  # what no commit lists was removed
    "documents staged",  # a batch of documents lies in the staging area
    "vectors written",  # a chunk of raw vectors is on the disk, but not yet noted
    "chunk noted",  # ... and noted
    "segment written",
    "rows written",
    "raw written",
    "sums written",
    "whitening written",
    "anchors written",
    "scores written",
    "neighbors written",
    "folder synced",  # the names of these files are durable
    "seal broken",
    "documents deleted",  # inside the transaction
    "documents inserted",
    "commit inserted",
    "committed",  # the transaction is over
    "staging removed",
    "files removed",  # those that only the state before listed
    "vacuumed",
    "log emptied",
    "sealed",
)

on_step: Callable[[str], None] | None = None
"""Called with the name of each step as it is reached; set by tests."""


def step(name: str) -> None:
    """Say that a step has been reached."""
    assert name in STEPS, name
    if on_step is not None:
        on_step(name)
