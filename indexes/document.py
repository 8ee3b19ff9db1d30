"""The one record that everything speaks of: a document.

Leaves out where documents come from (`retrieval.corpora`) and where they are
kept (`indexes.catalogue`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import InputError

MAX_DEPTH = 100
"""Levels of nesting that metadata may have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Document:
    """A text with the user's own id and metadata.

    Parameters
    ----------
    text : str
        What is searched. Not empty, not only white space, no lone surrogates.
    doc_id : str or None, default=None
        The user's id, kept as it is (``"007"`` stays ``"007"``); not empty, no NUL.
        None asks the index to derive a stable one from the text.
    metadata : mapping, default={}
        Any JSON object; filters read its keys.

    Raises
    ------
    InputError
        If a field is not what is said above; the message names the field and the value.

    Examples
    --------
    >>> Document(doc_id="007", text="A spy.", metadata={"year": 1953})
    Document(doc_id='007', text='A spy.', metadata={'year': 1953})
    """

    doc_id: str | None = None
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise InputError(f"text is {_shown(self.text)}; expected a string")
        if not self.text.strip():
            raise InputError("text is empty; expected some words (leave the record out or skip it)")
        check_unicode("text", self.text)
        if self.doc_id is not None:
            if not isinstance(self.doc_id, str):
                raise InputError(f"doc_id is {_shown(self.doc_id)}; expected a string")
            if not self.doc_id or "\0" in self.doc_id:
                raise InputError(f"doc_id is {self.doc_id!r}; expected a string that is not empty, without NUL")
            check_unicode("doc_id", self.doc_id)
        if not isinstance(self.metadata, Mapping):
            raise InputError(f"metadata is {_shown(self.metadata)}; expected a JSON object")
        _check_nesting(self.metadata)
        check_unicode("metadata", self.metadata_json())

    def metadata_json(self) -> str:
        """The metadata as compact JSON, keys in their given order.

        Raises
        ------
        InputError
            If a value has no place in JSON (NaN, bytes, ...).

        Examples
        --------
        >>> Document(text="x", metadata={"tags": ["a", "b"]}).metadata_json()
        '{"tags":["a","b"]}'
        """
        try:
            return json.dumps(dict(self.metadata), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        except (TypeError, ValueError, RecursionError) as error:
            raise InputError(f"metadata cannot be written as JSON: {error}") from error


def _shown(value: object) -> str:
    text = repr(value)
    return f"{text if len(text) <= 40 else text[:37] + '...'} ({type(value).__name__})"


def _check_nesting(metadata: Mapping[str, Any]) -> None:
    """Keys are strings all the way down, and not more than `MAX_DEPTH` levels: SQLite's JSON reads 1,000."""
    containers: list[Any] = [metadata]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for container in containers:
            if isinstance(container, Mapping):
                for key in container:
                    if not isinstance(key, str):
                        raise InputError(f"metadata has the key {_shown(key)}; expected strings as keys")
                container = container.values()
            inner += [value for value in container if isinstance(value, Mapping | list | tuple)]
        containers = inner
        if not containers:
            return
    raise InputError(f"metadata is nested deeper than {MAX_DEPTH} levels; expected a flatter object")


def check_unicode(name: str, value: str) -> None:
    """Refuse what cannot be written as UTF-8.

    Raises
    ------
    InputError
        If the value holds a lone surrogate; the message calls it by `name`.
    """
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} holds a lone surrogate ({error.object[error.start]!r} at character {error.start}); "
            "expected text that can be written as UTF-8"
        ) from None
