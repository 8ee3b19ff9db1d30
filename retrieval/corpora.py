"""Text files in, `Record`s out, one at a time.

    path -> bytes and lines (`retrieval.streams`) -> rows (JSON, CSV, ...) -> records_of -> Record

Memory is that of one record, or of one row group for Parquet, however long the file
(compressed or piped Parquet is first copied to a temporary file, because it must be
read from its end). Nothing is dropped silently: a record is yielded, rejected by name,
or raises. Wholly blank lines are separators, not records, and are counted nowhere.
What a record means is said in `retrieval.records`.
"""

from __future__ import annotations

import csv
import io
import json
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from itertools import chain
from os import PathLike, fspath
from pathlib import Path
from typing import IO, Any, Final, Literal, NoReturn, TypeAlias

from indexes.errors import CorpusError, InputError

from .records import DEFAULT_FIELDS, Fields, OnReject, Record, Reject, Row, check_columns, read_records, records_of
from .streams import LONGEST, Lines, decoded, inner_suffix, lines_of, open_stream, optional_package, unreadable

__all__ = ["Fields", "Format", "Record", "Reject", "read_corpus", "read_records"]

PARQUET_MARK: Final = "sentence-retrieval"
"""In the metadata of a Parquet file: an index was exported to it (`retrieval.export_index`)."""

Format: TypeAlias = Literal["jsonl", "csv", "tsv", "text", "parquet", "beir"]
LineReader: TypeAlias = Callable[[Lines, str, Fields], Iterator[Row]]
Reader: TypeAlias = Callable[[IO[bytes], str, Fields], Iterator[Row]]


def read_corpus(
    path: str | Path,
    *,
    format: Format | None = None,
    fields: Fields = DEFAULT_FIELDS,
    on_reject: OnReject | None = None,
) -> Iterator[Record]:
    """The records of a file, a BEIR folder or standard input, one at a time.

    - jsonl: one JSON object a line. NaN and Infinity are refused.
    - csv: the first row is the header; quoted fields may hold newlines; all values stay strings.
    - tsv: as csv with tabs, but a quote is a character like any other.
    - text: one document a line, without ids.
    - parquet: one document a row.
    - beir: a folder with ``corpus.jsonl``, ``corpus.jsonl.gz`` or ``corpus.jsonl.zst`` (the first that is there).

    Text is UTF-8, with or without a byte order mark, with LF or CRLF. An empty file has no records.

    Parameters
    ----------
    path : str or Path
        A file, a folder (BEIR), or "-" for standard input. Suffixes .gz and .zst are undone.
    format : {"jsonl", "csv", "tsv", "text", "parquet", "beir"} or None, default=None
        None: by suffix (.jsonl .ndjson .json .csv .tsv .txt .parquet); for standard input "jsonl" if the
        first character that is not blank is "{", else "text".
    fields : Fields, default=Fields()
        Which fields are the id, the text and the metadata.
    on_reject : callable or None, default=None
        Called with a `Reject` for each bad record, which is then passed over. None: raise.

    Yields
    ------
    Record
        In the order of the file. Nothing is opened before the first is asked for.

    Raises
    ------
    CorpusError
        At the first bad record, if `on_reject` is None. In any case for what concerns the whole file:
        one that cannot be opened or decompressed, a bad header, an unknown format.
    MissingPackageError
        If .zst or .parquet is to be read and its optional package is not installed.

    Examples
    --------
    >>> path = Path(tempfile.mkdtemp()) / "spies.csv"
    >>> _ = path.write_text("id,text,year\\n007,A spy.,1953\\n", encoding="utf-8")
    >>> for record in read_corpus(path):
    ...     print(record.line, record.document)
    2 Document(doc_id='007', text='A spy.', metadata={'year': '1953'})
    """
    if format is not None and format not in READERS:
        raise CorpusError(_shown(path), 0, f"format is {format!r}; expected one of {', '.join(READERS)}")
    if str(path) == "-":
        if sys.stdin is None or sys.stdin.closed:
            raise CorpusError("<stdin>", 0, "standard input is closed; pipe a corpus in or name a file")
        reader = READERS[format] if format else _by_line(_sniffed)
        yield from records_of(reader(sys.stdin.buffer, "<stdin>", fields), "<stdin>", fields, on_reject)
        return
    try:
        file = file_of(path, format)
        stream = open_stream(file)
    except (OSError, ValueError) as error:
        if isinstance(error, CorpusError):
            raise
        problem = getattr(error, "strerror", None) or error
        raise CorpusError(_shown(path), 0, f"cannot be opened ({problem}); expected a file or a BEIR folder") from None
    with stream:
        reader, source = READERS[format or _format_of(file)], _shown(file)
        yield from records_of(reader(stream, source, fields), source, fields, on_reject)


# ---- path -> file and format


def file_of(path: str | PathLike[str], format: str | None = None) -> Path:
    """The file that is read for a path: itself, or the corpus of a BEIR folder.

    Raises
    ------
    CorpusError
        If the folder holds no corpus, or another format than BEIR is asked for.
    """
    place = Path("/dev/stdin" if str(path) == "-" else path)
    if not place.is_dir():
        return place
    if format not in (None, "beir"):
        raise CorpusError(_shown(path), 0, f"is a folder; expected a {format} file, or leave the format out for BEIR")
    names = ["corpus.jsonl", "corpus.jsonl.gz", "corpus.jsonl.zst"]
    for name in names:
        if (place / name).is_file():
            return place / name
    raise CorpusError(_shown(path), 0, f"is a folder without {', '.join(names)}; expected a file or a BEIR folder")


def _shown(path: str | PathLike[str]) -> str:
    """A path as text that UTF-8 can write, whatever bytes the name has: it is stored and printed with each record."""
    return fspath(path).encode("utf-8", "backslashreplace").decode("utf-8")


def _format_of(file: Path) -> str:
    suffix = inner_suffix(file)
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    expected = f"{' '.join(SUFFIXES)}, also with .gz or .zst behind it, or a format ({', '.join(READERS)})"
    raise CorpusError(_shown(file), 0, f"suffix {suffix!r} says no format; expected {expected}")


# ---- lines -> rows


def _text(lines: Lines, source: str, fields: Fields) -> Iterator[Row]:
    return _one_a_line(lines, lambda text: text)


def _jsonl(lines: Lines, source: str, fields: Fields) -> Iterator[Row]:
    if inner_suffix(Path(source)) == ".json":
        first, lines = _first_of(lines)
        if first == "[":
            reason = "is a JSON array; expected JSON Lines, one object a line; convert it with: jq -c '.[]'"
            raise CorpusError(source, 0, reason)
    yield from _one_a_line(lines, _json_object)


def _sniffed(lines: Lines, source: str, fields: Fields) -> Iterator[Row]:
    first, lines = _first_of(lines)
    return (_jsonl if first == "{" else _text)(lines, source, fields)


def _first_of(lines: Lines) -> tuple[str, Lines]:
    """The first character that is not blank, and the lines from its line on."""
    for number, raw in lines:
        if text := raw.decode("utf-8", "replace").removeprefix("\ufeff").strip():
            return text[0], chain([(number, raw)], lines)
    return "", iter(())


def _one_a_line(lines: Lines, parse: Callable[[str], object]) -> Iterator[Row]:
    for number, raw in lines:
        item: object
        try:
            text = decoded(number, raw)
            if not text.strip():
                continue
            item = parse(text.removesuffix("\n").removesuffix("\r"))
        except InputError as error:
            item = error
        yield number, raw, item


def _json_object(text: str) -> Mapping[str, Any]:
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        reason = f"not JSON at character {error.pos} of the line (counted from 0): {error.msg}"
        raise InputError(f"{reason}; expected one JSON object a line") from None
    except RecursionError:
        raise InputError("JSON is nested too deeply; expected one flat object a line") from None
    except ValueError as error:  # a constant of ours, or an int of more than 4300 digits
        raise InputError(f"not JSON that can be read: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f'a JSON {type(value).__name__}; expected one JSON object a line, such as {{"text": ...}}')
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON; expected a number or null")


def _csv(lines: Lines, source: str, fields: Fields, **dialect: Any) -> Iterator[Row]:
    rows = _csv_rows(lines, source, dialect)
    line, _, names = next(rows, (0, b"", None))
    if names is None:
        return
    try:
        if isinstance(names, InputError):
            raise names
        check_columns(names, fields)
    except InputError as error:
        raise CorpusError(source, line, f"bad header: {error}") from None
    id_name = fields.doc_id or next((name for name in ("_id", "id") if name in names), None)
    for line, raw, values in rows:
        if isinstance(values, InputError):
            yield line, raw, values
        else:  # an empty cell is how a table says that there is no id
            yield line, raw, {n: None if n == id_name and not v else v for n, v in zip(names, values, strict=True)}


def _csv_rows(
    lines: Lines, source: str, dialect: Mapping[str, Any]
) -> Iterator[tuple[int, bytes, list[str] | InputError]]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))  # one for the process; 128 kB by default
    read: list[tuple[int, bytes]] = []  # the physical lines of the row at hand
    faults: list[tuple[int, str]] = []  # what is wrong with them

    def texts() -> Iterator[str]:
        size = 0
        for number, raw in lines:
            size = len(raw) + (size if read else 0)
            read.append((number, raw))
            if size > LONGEST:
                raise CorpusError(source, read[0][0], f"record is longer than {LONGEST} bytes; is a quote left open?")
            text = raw.decode("utf-8", "replace")
            try:
                text = decoded(number, raw)
            except InputError as error:
                faults.append((number, str(error)))
            if "\0" in text:  # Python 3.10's csv refuses it, later ones do not
                faults.append((number, "line has a NUL character; expected text (is it UTF-16, or a binary file?)"))
            yield text.replace("\0", " ")

    reader = csv.reader(texts(), strict=True, **dialect)
    width = 0
    while True:
        read.clear()
        faults.clear()
        row: list[str] = []
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            reason = "carriage return outside quotes" if "new-line" in str(error) else str(error)
            faults.append((read[0][0], f"{reason}; expected fields quoted as in RFC 4180 (tsv: unquoted)"))
        if not row and not faults:  # a blank line
            continue
        width = width or len(row)
        if len(row) != width:
            faults.append((read[0][0], f"{len(row)} fields; expected {width} as in the header"))
        if faults:
            line, reason = faults[0]
            span = f" (the record goes from line {read[0][0]} to {read[-1][0]})" if len(read) > 1 else ""
            yield line, b"".join(raw for _, raw in read), InputError(reason + span)
        else:
            yield read[0][0], b"".join(raw for _, raw in read), row


# ---- bytes -> rows


def _parquet(stream: IO[bytes], source: str, fields: Fields) -> Iterator[Row]:
    arrow = optional_package("pyarrow", extra="parquet", what=".parquet")
    parquet = optional_package("pyarrow.parquet", extra="parquet", what=".parquet")
    with tempfile.TemporaryFile() as copy:
        number = 0
        try:
            if not isinstance(getattr(stream, "raw", None), io.FileIO) or not stream.seekable():
                shutil.copyfileobj(stream, copy)
                stream = copy
            if stream.seek(0, io.SEEK_END) == 0:
                return
            table = parquet.ParquetFile(stream, pre_buffer=False)  # True keeps all that was read to the end
            names = table.schema_arrow.names
            check_columns(names, fields)
            columns = None
            exported = PARQUET_MARK.encode() in (table.schema_arrow.metadata or {})
            if (
                exported and fields == DEFAULT_FIELDS
            ):  # an index's own: its metadata is JSON, its vectors are not ours to read
                columns = ["id", "text", "metadata"]
            if fields.metadata is not None:
                wanted = {*((fields.doc_id,) if fields.doc_id else ("_id", "id")), *(fields.text or ("title", "text"))}
                columns = [name for name in names if name in {*wanted, "metadata", *fields.metadata}]
            for batch in table.iter_batches(batch_size=1024, columns=columns):
                for index in range(batch.num_rows):
                    number += 1
                    item = _parquet_row(batch, index)
                    if exported and not isinstance(item, InputError):
                        item = {**item, "metadata": json.loads(item["metadata"])}
                    yield number, item, item
        except (OSError, EOFError, zlib.error) as error:
            unreadable(error, source, number)
        except InputError as error:
            raise CorpusError(source, 0, f"bad header: {error}") from None
        except (arrow.ArrowException, ValueError) as error:
            raise CorpusError(source, number, f"not Parquet, or corrupt: {error}; make the file again") from None


def _parquet_row(batch: Any, index: int) -> Mapping[str, Any] | InputError:
    try:
        return {name: column[index].as_py() for name, column in zip(batch.schema.names, batch.columns, strict=True)}
    except (ValueError, OverflowError) as error:  # a string that is not UTF-8, a date out of range
        return InputError(f"row has a value that Python cannot hold: {error}")


# ---- the choices


def _by_line(reader: LineReader) -> Reader:
    return lambda stream, source, fields: reader(lines_of(stream, source), source, fields)


READERS: Final[Mapping[str, Reader]] = {
    "jsonl": _by_line(_jsonl),
    "csv": _by_line(_csv),
    "tsv": _by_line(partial(_csv, delimiter="\t", quoting=csv.QUOTE_NONE)),
    "text": _by_line(_text),
    "parquet": _parquet,
    "beir": _by_line(_jsonl),
}
SUFFIXES: Final[Mapping[str, str]] = {
    **dict.fromkeys((".jsonl", ".ndjson", ".json"), "jsonl"),
    **{".csv": "csv", ".tsv": "tsv", ".txt": "text", ".parquet": "parquet"},
}
