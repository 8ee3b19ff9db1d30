"""An index's documents and vectors as files that others read: JSON Lines, npy, Parquet.

JSON Lines come back by `retrieval build` as they were. Rows are written batch by batch from one committed
state; the file appears under its name when it is whole.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import IO, Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from indexes.bundle import Bundle
from indexes.catalogue import StoredDocument
from indexes.errors import InputError
from indexes.files import write_header

from .corpora import PARQUET_MARK
from .making import whiten
from .progress import progress_bar
from .streams import OPENERS, optional_package, written_aside
from .whitening import Whitening

ExportFormat = Literal["jsonl", "npy", "parquet"]
Which = Literal["whitened", "raw"]
AT_ONCE: Final = 1024

Taken = Callable[[NDArray[np.int64]], NDArray[np.floating[Any]]]
Batch = tuple[Sequence[StoredDocument], NDArray[np.floating[Any]]]


def export(
    bundle: Bundle,
    whitening: Callable[[], Whitening | None],
    path: str | PathLike[str],
    *,
    format: ExportFormat | None = None,
    vectors: Which = "whitened",
    filter: str | Mapping[str, Any] | None = None,
    progress: bool = False,
) -> int:
    """Write documents or vectors to a file; the number of documents.

    Parameters
    ----------
    bundle : Bundle
    whitening : callable
        Gives that of the bundle's state.
    path : path
        "-" is standard output (jsonl only). A file that is there is replaced.
    format : {"jsonl", "npy", "parquet"}, optional
        - jsonl: one object a document: id, text, metadata.
        - npy: the vectors, of shape (n, k) or (n, d); and beside them ``<path>.ids.jsonl``, a JSON string an id.
        - parquet: columns id, text, metadata (JSON), vector.

        By default what the suffix of path says; else jsonl.
    vectors : {"whitened", "raw"}
        The unit rows of k float32 that are searched, or the model's own as they are kept (float16). An index without
        raw vectors gives the unit rows as its structure holds them, 8-bit codes decoded.
    filter : str or mapping, optional
        Only the documents that it lets through.

    Raises
    ------
    InputError
        If the format is unknown, raw vectors are asked for that are not kept, or path lies in the index.
    MissingPackageError
        If format is parquet and pyarrow is not installed.
    """
    format, to_stdout = format_of(path, format), fspath(path) == "-"
    if format not in get_args(ExportFormat) or vectors not in get_args(Which):
        raise InputError(f"format={format!r}, vectors={vectors!r}; expected jsonl, npy or parquet; whitened or raw")
    if format == "jsonl" and vectors == "raw":
        raise InputError("jsonl holds no vectors; raw ones are written as npy or parquet")
    if to_stdout and format != "jsonl":
        raise InputError(f"{format} cannot be written to standard output; name a file with -o FILE")
    if Path(path).suffix.lower() in OPENERS:
        raise InputError(f"{fspath(path)}: nothing is compressed here; write {Path(path).stem} and compress that")
    if not to_stdout and bundle.folder.resolve() in Path(path).resolve().parents:
        raise InputError(f"{fspath(path)} lies in the index folder; give another place")

    def found() -> tuple[NDArray[np.int64], Taken | None]:
        rows = bundle.live_rows() if filter is None else np.sort(bundle.rows_matching(filter))
        return rows, None if format == "jsonl" else _taken(bundle, whitening, vectors)

    with bundle.hold(found) as (rows, taken), progress_bar("exporting", len(rows), progress) as advance:
        batches = _batches(bundle, rows, taken, advance)
        if to_stdout:
            _write_jsonl(batches, sys.stdout.buffer)
            sys.stdout.buffer.flush()
        else:
            WRITERS[format](batches, Path(path), len(rows), _width(bundle, vectors))
    return len(rows)


def format_of(path: str | PathLike[str], format: ExportFormat | None) -> ExportFormat:
    """The format that was asked for, or else that of a file's suffix, or else jsonl."""
    suffixes: dict[str, ExportFormat] = {".npy": "npy", ".parquet": "parquet"}
    return format or suffixes.get(Path(path).suffix.lower(), "jsonl")


def _taken(bundle: Bundle, whitening: Callable[[], Whitening | None], vectors: Which) -> Taken:
    """What gives the vectors of some rows."""
    raw = bundle.kept("raw")
    if vectors == "raw":
        if raw is None:
            raise InputError(f"{bundle.folder} was built without raw vectors; only whitened ones can be written")
        return raw.of_rows
    if raw is None:
        return bundle.searched_vectors().of_rows
    kept, fit = raw, whitening()
    return lambda rows: whiten(kept.of_rows(rows), fit)


def _width(bundle: Bundle, vectors: Which) -> tuple[int, str]:
    """Columns and dtype of the vectors."""
    if vectors == "raw":
        return int(bundle.manifest.model["dim"]), str(bundle.manifest.raw)
    return bundle.manifest.dim, "float32"


def _batches(
    bundle: Bundle, rows: NDArray[np.int64], taken: Taken | None, advance: Callable[[int], None]
) -> Iterator[Batch]:
    """Documents and, where they are wanted, vectors; `AT_ONCE` at a time."""
    for start in range(0, len(rows), AT_ONCE):
        part = rows[start : start + AT_ONCE]
        yield bundle.documents(part.tolist()), np.empty((len(part), 0)) if taken is None else taken(part)
        advance(len(part))


def _write_jsonl(batches: Iterator[Batch], file: IO[bytes]) -> None:
    for documents, _ in batches:
        for document in documents:
            value = {"id": document.doc_id, "text": document.text, "metadata": document.metadata}
            file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")


def _to_jsonl(batches: Iterator[Batch], path: Path, n: int, width: tuple[int, str]) -> None:
    with written_aside(path) as file:
        _write_jsonl(batches, file)


def _to_npy(batches: Iterator[Batch], path: Path, n: int, width: tuple[int, str]) -> None:
    dim, dtype = width
    with written_aside(path) as file, written_aside(path.with_name(path.name + ".ids.jsonl")) as ids:
        write_header(file, (n, dim), dtype)
        for documents, vectors in batches:
            file.write(np.ascontiguousarray(vectors, dtype).tobytes())
            ids.write("".join(json.dumps(one.doc_id, ensure_ascii=False) + "\n" for one in documents).encode())


def _to_parquet(batches: Iterator[Batch], path: Path, n: int, width: tuple[int, str]) -> None:
    arrow = optional_package("pyarrow", extra="parquet", what=".parquet")
    parquet = optional_package("pyarrow.parquet", extra="parquet", what=".parquet")
    dim, dtype = width
    kind = arrow.list_(arrow.from_numpy_dtype(np.dtype(dtype)), dim)
    schema = arrow.schema(
        [("id", arrow.string()), ("text", arrow.string()), ("metadata", arrow.string()), ("vector", kind)],
        metadata={PARQUET_MARK: "1"},
    )
    with written_aside(path) as file, parquet.ParquetWriter(file, schema) as writer:
        for documents, vectors in batches:
            flat = np.ascontiguousarray(vectors, dtype).ravel()
            columns = [
                [one.doc_id for one in documents],
                [one.text for one in documents],
                [json.dumps(one.metadata, ensure_ascii=False) for one in documents],
                arrow.FixedSizeListArray.from_arrays(arrow.array(flat), dim),
            ]
            writer.write_table(arrow.table(columns, schema=schema))


WRITERS: Final = {"jsonl": _to_jsonl, "npy": _to_npy, "parquet": _to_parquet}
