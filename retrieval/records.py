"""Anything that describes a document, made into one by the same rules.

    mapping | text | (id, text) | Document  --document_of-->  Document  --records_of-->  Record or Reject

Files and Python callers share these rules, so a corpus reads the same from either.
Leaves out how files are opened and split (`retrieval.corpora`) and whether an id was
seen before (the index knows).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeAlias

from indexes.document import Document
from indexes.errors import CorpusError, InputError

_OTHERS: Final = "name others with --text-field, --id-field"
RAW_LIMIT: Final = 2000  # characters of a rejected line that are kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A document and where it came from.

    Parameters
    ----------
    document : Document
        The document.
    source : str
        Name of the file as it was given; "<stdin>" or "<iterable>" for others.
    line : int
        1-based physical line on which the record starts (Parquet: row, iterables: position).
    """

    document: Document
    source: str
    line: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A record that could not be used, and why.

    Parameters
    ----------
    source : str
        As in `Record`.
    line : int
        1-based line of the fault; in a CSV record of many lines it may stand below the record's first.
    reason : str
        What is wrong, what was expected, what to do.
    raw : str
        The record as it stood there, cut at 2000 characters; bytes that are not UTF-8 are shown as ``\\xff``.
    """

    source: str
    line: int
    reason: str
    raw: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Fields:
    """Which fields of a record are the id, the text and the metadata.

    Parameters
    ----------
    doc_id : str or None, default=None
        Field of the id. None: "_id", or else "id", whichever the record has. A record
        whose id is null gets none (the index derives one); so does one without the field, unless it was named here.
    text : tuple of str, default=()
        Fields of the text, all required, joined by one blank in this order; empty and null ones
        are left out. (): "text" (required), preceded by "title" when that is not empty; the
        title then also stays in the metadata.
    metadata : tuple of str or None, default=None
        Fields to keep as metadata. None: all that are neither id nor text. A record's own
        "metadata" object is merged in, not nested; top-level fields win. The name "metadata"
        keeps all of that object.

    Raises
    ------
    InputError
        If a field is not what is said above.

    Examples
    --------
    >>> bond = {"docno": 7, "name": "Bond", "about": "A spy.", "year": 1953}
    >>> document_of(bond, Fields(doc_id="docno", text=("name", "about")))
    Document(doc_id='7', text='Bond A spy.', metadata={'year': 1953})
    """

    doc_id: str | None = None
    text: tuple[str, ...] = ()
    metadata: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        """Check the names."""
        values: dict[str, object] = {"text": self.text, "metadata": () if self.metadata is None else self.metadata}
        for name, value in values.items():
            if not isinstance(value, tuple) or not all(isinstance(field, str) and field for field in value):
                raise InputError(f"Fields.{name} is {shown(value)}; expected a tuple of names, such as ('title',)")
        if self.doc_id is not None and not (isinstance(self.doc_id, str) and self.doc_id):
            raise InputError(f"Fields.doc_id is {shown(self.doc_id)}; expected a field's name or None")


DEFAULT_FIELDS: Final = Fields()
OnReject: TypeAlias = Callable[[Reject], object]
Item: TypeAlias = Document | str | tuple[str, str] | Mapping[str, Any]
Row: TypeAlias = tuple[int, object, object]  # line, what stood there (bytes of a file), an Item or an InputError


def document_of(item: object, fields: Fields = DEFAULT_FIELDS) -> Document:
    """The document that a mapping, a text, an (id, text) pair or a Document describes.

    Parameters
    ----------
    item : mapping, str, tuple of (id, text) or Document
        A mapping is read as `fields` say; a str has no id; a Document stays as it is. An id is
        a string, an int (taken as its decimal string) or None.
    fields : Fields, default=Fields()
        Which fields of a mapping are the id, the text and the metadata.

    Raises
    ------
    InputError
        If it does not describe a document; the message names the field and the value.

    Examples
    --------
    >>> document_of({"_id": 7, "title": "Bond", "text": "A spy.", "metadata": {"year": 1953}})
    Document(doc_id='7', text='Bond A spy.', metadata={'year': 1953, 'title': 'Bond'})
    >>> document_of(("007", "A spy."))
    Document(doc_id='007', text='A spy.', metadata={})
    """
    if isinstance(item, Document):
        return item
    if isinstance(item, str):
        return Document(text=item)
    if isinstance(item, tuple) and len(item) == 2:
        return Document(doc_id=_doc_id("id", item[0]), text=item[1])
    if isinstance(item, Mapping):
        return _document_of_mapping(item, fields)
    raise InputError(f"record is {shown(item)}; expected a mapping, a text, an (id, text) tuple or a Document")


def records_of(rows: Iterable[Row], source: str, fields: Fields, on_reject: OnReject | None) -> Iterator[Record]:
    """The records among the rows; each bad one is raised, or told to `on_reject` and passed over.

    Raises
    ------
    CorpusError
        At the first bad row, if `on_reject` is None.
    """
    for line, raw, item in rows:
        try:
            if isinstance(item, InputError):
                raise item
            document = document_of(item, fields)
        except (InputError, RecursionError) as error:
            reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
            if on_reject is None:
                raise CorpusError(source, line, reason) from None
            on_reject(Reject(source=source, line=line, reason=reason, raw=_raw_text(raw)))
        else:
            yield Record(document=document, source=source, line=line)


def read_records(
    items: Iterable[Item], *, fields: Fields = DEFAULT_FIELDS, on_reject: OnReject | None = None
) -> Iterator[Record]:
    """The records of Python objects, one at a time.

    Parameters
    ----------
    items : iterable of str, (id, text) tuples, mappings or Documents
        See `document_of`; kinds may be mixed. Read as it is consumed, so it may be endless.
    fields : Fields, default=Fields()
        Which fields of a mapping are the id, the text and the metadata.
    on_reject : callable or None, default=None
        Called with a `Reject` for each bad record, which is then passed over. None: raise.

    Yields
    ------
    Record
        With source "<iterable>" and its 1-based position as line.

    Raises
    ------
    CorpusError
        At the first bad record, if `on_reject` is None; or if `items` is itself a single record.

    Examples
    --------
    >>> [record.document.doc_id for record in read_records(["A spy.", ("007", "A spy.")])]
    [None, '007']
    """
    if isinstance(items, (str, bytes, Mapping)):  # these iterate too, over characters or keys
        raise CorpusError(
            "<iterable>", 0, f"records are {shown(items)}; expected an iterable of records (for a file: read_corpus)"
        )
    rows = ((position, item, item) for position, item in enumerate(items, 1))
    yield from records_of(rows, "<iterable>", fields, on_reject)


def check_columns(names: Sequence[str], fields: Fields) -> None:
    """Refuse a table whose header has empty, doubled or missing names.

    Raises
    ------
    InputError
        Naming the columns in question and those that there are.

    Examples
    --------
    >>> check_columns(["id", "body"], Fields())
    Traceback (most recent call last):
        ...
    indexes.errors.InputError: no column 'text'; the columns are 'id', 'body'; name others with --text-field, --id-field
    """
    if empty := [number for number, name in enumerate(names, 1) if not name.strip()]:
        raise InputError(f"column {empty[0]} of the header has no name; expected a name for each column")
    if doubled := [name for name in names if names.count(name) > 1]:
        raise InputError(f"column {doubled[0]!r} stands more than once in the header; expected different names")
    wanted = [*(fields.text or ("text",)), *([fields.doc_id] if fields.doc_id else [])]
    if "metadata" not in names:  # subtle: a column of objects may hold any name
        wanted += fields.metadata or ()
    if missing := [name for name in wanted if name not in names]:
        raise InputError(f"no column {missing[0]!r}; the columns are {_listed(names)}; {_OTHERS}")


def shown(value: object) -> str:
    """A value and its type in few characters, whatever it is.

    Examples
    --------
    >>> shown(1.5)
    '1.5 (float)'
    """
    text = _repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"


def _document_of_mapping(item: Mapping[str, Any], fields: Fields) -> Document:
    if fields.doc_id is not None and fields.doc_id not in item:
        raise InputError(f"no field {fields.doc_id!r}; the record has {_listed(item)}; name another with --id-field")
    id_field = fields.doc_id or next((name for name in ("_id", "id") if name in item), None)
    text_fields = fields.text or ("text",)
    if missing := [name for name in text_fields if name not in item]:
        raise InputError(f"no field {missing[0]!r}; the record has {_listed(item)}; {_OTHERS}")
    parts = [_text_part(name, item.get(name)) for name in (fields.text or ("title", "text"))]

    own = item.get("metadata")
    own = own if isinstance(own, Mapping) else {}
    top = {name: value for name, value in item.items() if name != "metadata" or not isinstance(value, Mapping)}
    if fields.metadata is None:
        top = {name: value for name, value in top.items() if name != id_field and name not in text_fields}
    else:
        kept = fields.metadata
        own = {name: value for name, value in own.items() if name in kept or "metadata" in kept}
        top = {name: value for name, value in top.items() if name in kept}
    try:
        return Document(
            doc_id=_doc_id(id_field, item.get(id_field)) if id_field else None,
            text=" ".join(part for part in parts if part.strip()),
            metadata={**own, **top},
        )
    except InputError as error:
        if error.__cause__ is None:
            raise
        # only Document.metadata_json has a cause: a value (a date, NaN) without a place in JSON
        raise InputError(f"{error}; leave the field out, naming those to keep with --metadata-field") from None


def _doc_id(name: str, value: object) -> str | None:
    if value == "":
        raise InputError(f"field {name!r} is an empty string; expected an id, or null for one made from the text")
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return str(int(value))
        except ValueError as error:  # more than 4300 digits
            raise InputError(f"field {name!r} is an int that is too long for an id: {error}") from None
    raise InputError(f"field {name!r} is {shown(value)}; expected a string or an integer as id")


def _text_part(name: str, value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    raise InputError(f"field {name!r} is {shown(value)}; expected a string as text")


def _listed(names: Iterable[object]) -> str:
    first = list(islice(names, 11))
    return ", ".join(map(_repr, first[:10])) + (", ..." if len(first) > 10 else "") if first else "none"


def _repr(value: object) -> str:
    try:
        return repr(value)
    except Exception:  # nested too deeply, or a caller's own __repr__
        return f"<{type(value).__name__}>"


def _raw_text(raw: object) -> str:
    if isinstance(raw, bytes):  # a character has at most 4 bytes: no need to decode more
        text = raw[: 4 * RAW_LIMIT].rstrip(b"\r\n").decode("utf-8", "backslashreplace")
    elif isinstance(raw, str):
        text = raw[:RAW_LIMIT].encode("utf-8", "backslashreplace").decode("utf-8")
    else:
        text = _repr(raw)
    return text[:RAW_LIMIT]
