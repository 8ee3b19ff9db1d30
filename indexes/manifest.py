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

FORMAT_VERSION = 5
FILES = ("whitening_file", "anchors_file", "graph_file", "weights_file", "tokenizer_file")
"""Fields of a manifest that name a file."""
ROLES = ("vectors", "raw", "sums", "rows", "scores", "neighbors")
"""Fields of a segment that do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """Some rows of an index: their search structure and, if kept, their raw vectors.

    Parameters
    ----------
    first_row, count : int
        The first row, and how many there are.
    factory : str
        FAISS factory string of the structure.
    vectors : FileEntry
    raw : FileEntry or None
    sums : FileEntry or None
        SHA-256 of each block of raw (see `indexes.blocks`); None in what was written before there were any.
    rows : FileEntry or None
        The rows, ascending (npy, int64); None where they are first_row, first_row + 1, ...
    scores : FileEntry or None
        What its rows score with the anchor queries (npy, float16, of shape (count, anchors)), NaN where a row was not
        scored; None where none was.
    neighbors : FileEntry or None
        The nearest rows of each of its rows (npy, `indexes.stored.NEIGHBOR`, of shape (count, neighbors)).
    """

    first_row: int
    count: int
    factory: str
    vectors: FileEntry
    raw: FileEntry | None
    rows: FileEntry | None
    scores: FileEntry | None = None
    neighbors: FileEntry | None = None
    sums: FileEntry | None = None

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """The files of this segment."""
        files = (getattr(self, role) for role in ROLES)
        return tuple(file for file in files if file is not None)


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
        dim, beta, gamma, epsilon, local, n_fitted (vectors), and fitted_below: rows below it were in the fit.
    whitening_file : FileEntry or None
    index : mapping
        What was asked for, the FAISS factory string, the reason; a small segment may have a simpler structure.
    raw : "float16", "float32" or None
        How raw vectors are kept beside the rows.
    segments : tuple of Segment
        By first row.
    anchors : mapping or None
        count, and name, source and fingerprint of the cross-encoder that scores documents with anchor queries.
    anchors_file : FileEntry or None
        The anchor queries and the encoder's vectors of them.
    compiled : mapping or None
        What runs the compiled encoder that lies in the index, beside its files.
    graph_file, weights_file, tokenizer_file : FileEntry or None
        Weights are apart from a graph in OpenVINO's own form, not from an .onnx file.
    neighbors : int or None
        How many nearest rows each row is linked with, where there is a neighbour graph.
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
    raw: str | None
    segments: tuple[Segment, ...]
    made_by: Mapping[str, Any]
    anchors: Mapping[str, Any] | None = None
    anchors_file: FileEntry | None = None
    compiled: Mapping[str, Any] | None = None
    graph_file: FileEntry | None = None
    weights_file: FileEntry | None = None
    tokenizer_file: FileEntry | None = None
    neighbors: int | None = None
    format_version: int = FORMAT_VERSION

    @property
    def files(self) -> tuple[FileEntry, ...]:
        """Every file this commit lists."""
        own = tuple(file for name in FILES if (file := getattr(self, name)) is not None)
        return own + tuple(file for segment in self.segments for file in segment.files)

    def _check(self) -> None:
        """Every value that is counted with, looked up or shown is of its kind."""
        model, index = self.model, self.index
        for value in (self.generation, self.documents, self.next_row, self.dim, model["dim"]):
            _of(value, int)
        if self.generation < 1:  # a reader that has loaded nothing yet is at a generation below
            raise ValueError(f"generation {self.generation}")
        for value in (self.next_row, *(number for one in self.segments for number in (one.first_row, one.count))):
            _of(value, int)
            if not 0 <= value < 2**62:
                raise ValueError(f"{value} rows")
        for value in (model["name"], model["source"], index["requested"], index["factory"], index["reason"]):
            _of(value, str)
        for value in (model["prompts"], model["fingerprint"], self.made_by):
            _of(value, dict)
        for segment in self.segments:
            _of(segment.factory, str)
            _of(segment.vectors, FileEntry)
        _of(self.whitening, dict, type(None))
        _of(self.whitening_file, FileEntry, type(None))
        if self.raw not in ("float16", "float32", None):
            raise ValueError(f"raw vectors of {self.raw!r:.40}")
        if any((segment.raw is None) != (self.raw is None) for segment in self.segments):
            raise ValueError("a segment with raw vectors, or one without, that should not be")
        if any(segment.raw is None and segment.sums is not None for segment in self.segments):
            raise ValueError("sums of no raw vectors")
        if self.whitening is not None:
            _of(self.whitening["fitted_below"], int)
        if (self.whitening is None) != (self.whitening_file is None):
            raise ValueError("a whitening without its file")
        if self.anchors is not None:
            _of(self.anchors["fingerprint"], dict)
            if _of(self.anchors["count"], int) < 1:
                raise ValueError(f"{self.anchors['count']} anchors")
        if (self.anchors is None) != (self.anchors_file is None):
            raise ValueError("anchors without their file")
        if self.compiled is not None:
            _of(self.compiled["fingerprint"], dict)
            _of(self.compiled["prompts"], dict)
            for name in ("dim", "pad"):
                _of(self.compiled[name], int)
            _of(self.compiled["max_tokens"], int, type(None))
        if len({part is None for part in (self.compiled, self.graph_file, self.tokenizer_file)}) > 1:
            raise ValueError("a part of a compiled encoder")
        graph, weights = ("" if file is None else file.name for file in (self.graph_file, self.weights_file))
        if weights != (graph.removesuffix(".xml") + ".bin" if graph.endswith(".xml") else ""):
            raise ValueError("a graph without its weights beside it")
        if self.anchors is None and any(segment.scores is not None for segment in self.segments):
            raise ValueError("scores without anchors")
        if self.neighbors is not None and _of(self.neighbors, int) < 1:
            raise ValueError(f"{self.neighbors} neighbors")
        if self.neighbors is None and any(segment.neighbors is not None for segment in self.segments):
            raise ValueError("lists of neighbors without their number")

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
        try:
            values = json.loads(text)
            version = values["format_version"]
            if version > FORMAT_VERSION:
                raise IndexVersionError(
                    f"the index has format version {version}, but this version of sentence-retrieval "
                    f"reads up to {FORMAT_VERSION}; upgrade with: pip install -U sentence-retrieval"
                )
            if version < 2:
                values = _from_version_1(values)
            if version < 3:  # there were no anchors
                values["segments"] = [segment | {"scores": None} for segment in values["segments"]]
                values |= {"anchors": None, "anchors_file": None}
            if version < 4:  # nor a neighbour graph
                values["segments"] = [segment | {"neighbors": None} for segment in values["segments"]]
                values["neighbors"] = None
            if version < 5:  # nor sums, nor a graph whose weights are apart
                values["segments"] = [segment | {"sums": None} for segment in values["segments"]]
            segments = tuple(
                Segment(**(segment | {role: _entry(segment[role]) for role in ROLES})) for segment in values["segments"]
            )
            files = {name: _entry(values.get(name)) for name in FILES}
            manifest = cls(**(values | {"segments": segments} | files))
            manifest._check()
            return manifest
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise IndexCorruptError(
                f"the manifest in catalogue.sqlite does not describe an index ({type(error).__name__}: {error})"
            ) from error


def _of(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        raise TypeError(f"{value!r:.40} in the place of {' or '.join(kind.__name__ for kind in kinds)}")
    return value


def _from_version_1(values: dict[str, Any]) -> dict[str, Any]:
    """Version 1 had one segment, whose rows count from 0 and whose structure is the index's."""
    (segment,) = values["segments"]
    raw, numbers = segment["raw"], segment["count"] * values["model"]["dim"]
    kept = None if raw is None else "float32" if raw["bytes"] - 128 >= 4 * numbers else "float16"
    whitening = values["whitening"] and values["whitening"] | {"fitted_below": values["whitening"]["n_fitted"]}
    segment = segment | {"factory": values["index"]["factory"], "rows": None}
    return values | {"segments": [segment], "raw": kept, "whitening": whitening}


def checksum(text: str) -> str:
    """SHA-256 (hex) of a text's UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def _entry(values: Mapping[str, Any] | None) -> FileEntry | None:
    return None if values is None else FileEntry(**values)
