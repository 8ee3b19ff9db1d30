"""What a document may be: a truth table for each field, and JSON by hypothesis."""

from __future__ import annotations

import json
from collections import UserDict
from dataclasses import FrozenInstanceError
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.document import Document
from indexes.errors import InputError, RetrievalError

CIRCULAR: dict[str, Any] = {}
CIRCULAR["again"] = CIRCULAR

DEEP: dict[str, Any] = {}
for _ in range(100_000):
    DEEP = {"deeper": DEEP}


@pytest.mark.parametrize("text", ["x", " x ", "a\nb\r\n", "a\0b", "\ufeffx", "\u200b", "🦊", "\U0010ffff", "0", "nan"])
def test_texts_that_can_be_used(text: str) -> None:
    assert Document(text=text).text == text


@pytest.mark.parametrize("doc_id", [None, "007", "1e5", "-0", "null", " ", "a\nb", "🦊", "é", "e\u0301", "x" * 10_000])
def test_ids_that_can_be_used_are_kept_as_they_are(doc_id: str | None) -> None:
    assert Document(doc_id=doc_id, text="x").doc_id == doc_id


@pytest.mark.parametrize(
    "metadata, expected",
    [
        ({}, "{}"),
        ({"b": 1, "a": 2}, '{"b":1,"a":2}'),  # the keys keep their order
        ({"a": None, "b": True, "c": 1.5, "d": -0.0}, '{"a":null,"b":true,"c":1.5,"d":-0.0}'),
        ({"a": {"b": [{"c": []}]}}, '{"a":{"b":[{"c":[]}]}}'),
        ({"作者": "é🦊", "": ""}, '{"作者":"é🦊","":""}'),
        ({"a": "\0\n\x7f\u2028"}, '{"a":"\\u0000\\n\x7f\u2028"}'),
        ({"a": 10**30}, '{"a":1000000000000000000000000000000}'),
        ({"a": (1, 2)}, '{"a":[1,2]}'),
        (MappingProxyType({"a": 1}), '{"a":1}'),
        (UserDict({"a": 1}), '{"a":1}'),
    ],
)
def test_metadata_that_can_be_used_and_its_json(metadata: Any, expected: str) -> None:
    assert Document(text="x", metadata=metadata).metadata_json() == expected


@pytest.mark.parametrize(
    "fields, message",
    [
        ({"text": None}, r"^text is None \(NoneType\); expected a string"),
        ({"text": 5}, r"^text is 5 \(int\); expected a string"),
        ({"text": b"x"}, r"^text is b'x' \(bytes\); expected a string"),
        ({"text": ["x" * 100]}, r"^text is \['x{35}\.\.\. \(list\); expected a string"),
        ({"text": ""}, r"^text is empty"),
        ({"text": " \n\t\u00a0\u2003"}, r"^text is empty"),
        ({"text": "ab\ud800"}, r"^text holds a lone surrogate \('\\ud800' at character 2\)"),
        ({"text": "\udfffab"}, r"^text holds a lone surrogate \('\\udfff' at character 0\)"),
        ({"text": "\ud83e\udd8a"}, r"^text holds a lone surrogate"),  # a pair in two code points is no fox
        ({"doc_id": ""}, r"^doc_id is ''; expected a string that is not empty"),
        ({"doc_id": "a\0b"}, r"^doc_id is 'a\\x00b'; expected .* without NUL"),
        ({"doc_id": 7}, r"^doc_id is 7 \(int\); expected a string"),
        ({"doc_id": b"7"}, r"^doc_id is b'7' \(bytes\); expected a string"),
        ({"doc_id": "\udc00"}, r"^doc_id holds a lone surrogate"),
        ({"metadata": None}, r"^metadata is None \(NoneType\); expected a JSON object"),
        ({"metadata": []}, r"^metadata is \[\] \(list\); expected a JSON object"),
        ({"metadata": "{}"}, r"^metadata is '{}' \(str\); expected a JSON object"),
        ({"metadata": {"a": float("nan")}}, r"^metadata cannot be written as JSON"),
        ({"metadata": {"a": [{"b": float("-inf")}]}}, r"^metadata cannot be written as JSON"),
        ({"metadata": {"a": b""}}, r"^metadata cannot be written as JSON: .*bytes"),
        ({"metadata": {"a": {1}}}, r"^metadata cannot be written as JSON: .*set"),
        ({"metadata": {("a",): 1}}, r"^metadata has the key .*tuple"),
        ({"metadata": {"a": "\ud800"}}, r"^metadata holds a lone surrogate"),
        ({"metadata": {"\ud800": 1}}, r"^metadata holds a lone surrogate"),
        ({"metadata": {"a": [{"b": "\udc00"}]}}, r"^metadata holds a lone surrogate"),
        ({"metadata": CIRCULAR}, r"^metadata is nested deeper than 100"),
        ({"metadata": DEEP}, r"^metadata is nested deeper than 100"),
    ],
)
def test_what_cannot_be_used_is_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        Document(**({"text": "x"} | fields))
    assert isinstance(caught.value, ValueError) and isinstance(caught.value, RetrievalError)
    str(caught.value).encode()  # the message itself can be printed


def test_a_document_is_frozen_and_spelled_by_name() -> None:
    with pytest.raises(FrozenInstanceError):
        Document(text="x").text = "y"  # type: ignore[misc]
    with pytest.raises(TypeError):
        Document("x")  # type: ignore[misc]
    assert Document(text="x").metadata is not Document(text="x").metadata


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), JSON, max_size=4))
def test_any_json_object_comes_back(metadata: dict[str, Any]) -> None:
    written = Document(text="x", metadata=metadata).metadata_json()
    back = json.loads(written)
    assert back == metadata and list(back) == list(metadata)
    assert "\n" not in written and "\0" not in written


@given(st.text(st.characters(), min_size=1))  # surrogates too
def test_a_text_is_taken_if_utf8_can_hold_it_and_something_is_in_it(text: str) -> None:
    usable = bool(text.strip()) and not any(0xD800 <= ord(each) < 0xE000 for each in text)
    try:
        assert Document(text=text).text == text
        taken = True
    except InputError:
        taken = False
    assert taken == usable


@pytest.mark.parametrize("metadata", [{1: "a"}, {"a": {2: "b"}}, {"a": [{"b": {None: 1}}]}])
def test_keys_that_json_would_change_are_refused(metadata: dict[Any, Any]) -> None:
    with pytest.raises(InputError, match="expected strings as keys"):
        Document(text="x", metadata=metadata)


def test_a_hundred_levels_are_the_most() -> None:
    """SQLite's JSON, behind every filter, reads 1,000; Python 3.12 and later write more."""
    nested: Any = 1
    for _ in range(99):
        nested = [nested]
    assert Document(text="x", metadata={"a": nested}).metadata["a"] == nested
    with pytest.raises(InputError, match="nested deeper than 100 levels"):
        Document(text="x", metadata={"a": [nested]})
