"""What one commit of an index consists of: the row of JSON that readers believe.

A manifest names every immutable file of the index with its size and SHA-256, and
records what made the vectors. It is written in the same SQLite transaction as the
documents, with its own checksum beside it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .errors import IndexCorruptError, IndexVersionError
from .files import FileEntry

FORMAT_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Rows first_row .. first_row + count - 1: their search structure and, if kept, their raw vectors."""

    first_row: int
    count: int
    vectors: FileEntry
    raw: FileEntry | None

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The files of this segment."""
        return (self.vectors,) if self.raw is None else (self.vectors, self.raw)


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """One committed state.

    Parameters
    ----------
    generation : int
        Counts commits, from 1.
    documents : int
        Live documents.
    next_row : int
        The row the next document gets; rows are never reused.
    dim : int
        Columns of the searched vectors.
    model : mapping
        Name, source and fingerprint of the encoder, its raw dim, prompts, token limit.
    whitening : mapping or None
        dim, beta, gamma, epsilon and the number of fitted vectors.
    whitening_file : FileEntry or None
    index : mapping
        What was asked for, the FAISS factory string, the reason.
    segments : tuple of Segment
    made_by : mapping
        Library versions and time (UTC).
    format_version : int
    """

    generation: int
    documents: int
    next_row: int
    dim: int
    model: Mapping[str, Any]
    whitening: Mapping[str, Any] | None
    whitening_file: FileEntry | None
    index: Mapping[str, Any]
    segments: tuple[Segment, ...]
    made_by: Mapping[str, Any]
    format_version: int = FORMAT_VERSION

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file this commit lists."""
        own = () if self.whitening_file is None else (self.whitening_file,)
        return own + tuple(file for segment in self.segments for file in segment.files)

    def to_json(self) -> str:
        """The manifest as JSON, keys in a fixed order."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, sha256: str) -> Manifest:
        """Read a manifest and hold it against its checksum.

        Raises
        ------
        IndexVersionError
            If it was written by a newer version.
        IndexCorruptError
            If it is not what was written.
        """
        if checksum(text) != sha256:
            raise IndexCorruptError("the manifest in catalogue.sqlite is damaged (its SHA-256 differs)")
        values = json.loads(text)
        if values["format_version"] > FORMAT_VERSION:
            raise IndexVersionError(
                f"the index has format version {values['format_version']}, but this version of sentence-retrieval "
                f"reads up to {FORMAT_VERSION}; upgrade with: pip install -U sentence-retrieval"
            )
        segments = tuple(
            Segment(**(segment | {"vectors": FileEntry(**segment["vectors"]), "raw": _entry(segment["raw"])}))
            for segment in values["segments"]
        )
        return cls(**(values | {"segments": segments, "whitening_file": _entry(values["whitening_file"])}))


def checksum(text: str) -> str:
    """SHA-256 (hex) of a text's UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def _entry(values: Mapping[str, Any] | None) -> FileEntry | None:
    return None if values is None else FileEntry(**values)
