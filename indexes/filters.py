"""A metadata filter, as people write it, becomes a parameterised SQLite condition.

Two forms, one meaning, the same SQL::

    kind = 'class' AND (year >= 1950 OR NOT tags IN ('old', 'draft'))
    {"kind": "class", "$or": [{"year": {"$gte": 1950}}, {"$not": {"tags": {"$in": ["old", "draft"]}}}]}

    field      name, "any name", `any name`, a.b (b inside of a); ``id`` and ``text`` are the document's own
    SQL form   AND OR NOT ( ) = == != <> < <= > >= [NOT] LIKE, IN, BETWEEN, IS [NOT] NULL, IS [NOT] TRUE
    JSON form  $and $or $not $eq $ne $gt $gte $lt $lte $in $nin $like $exists; null is IS NULL (as is = NULL)

What a comparison means:

- It is true or false, never NULL. A missing or null field matches none, so ``deleted != TRUE`` and
  ``NOT deleted = TRUE`` match documents without the field. ``$exists`` is IS NOT NULL (null counts as no value).
- A string compares with strings, by code point; LIKE folds the case of ASCII letters only (SQLite's rule).
- A number compares with numbers and with strings that are a number from end to end: "1953" in metadata that came
  from CSV is 1953, "1953a" is nothing. TRUE and FALSE equal JSON's true and false only.
- = and IN match an array that contains such a value, != and NOT IN one that does not; the others match no array.

Every literal and every path is bound; no text of the expression becomes SQL. Leaves out functions, arithmetic,
sub-queries, LIKE ... ESCAPE, and names with double quotes, backslashes or control characters, which JSON paths cannot
spell in every version of SQLite. Keys are found as `Document.metadata_json` writes them (no ``\\u`` escapes).
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .errors import FilterError
from .filter_sql import MAX_DEPTH, read_sql, shown, spelled

MAX_CHARACTERS = 100_000
MAX_CONDITIONS = 500  # each adds a level to SQLite's expression tree, which ends at 1000
MAX_PATTERN = 1_000  # characters; SQLite ends at 50,000 bytes

_EXPECTED_JSON = 'e.g. {"kind": "class", "year": {"$gte": 1950}, "$or": [{"a.b": null}, {"tags": {"$in": ["x", "y"]}}]}'
# operator of the JSON form -> SQL, is it the negation?
_OPERATORS = {"$eq": ("=", False), "$ne": ("=", True), "$gt": (">", False), "$gte": (">=", False), "$lt": ("<", False)}
_OPERATORS |= {"$lte": ("<=", False), "$like": ("LIKE", False), "$in": ("IN", False), "$nin": ("IN", True)}
_JSON_TYPES = {str: "'text'", float: "'integer', 'real', 'text'", bool: "'true', 'false'"}
_NAME = r'(?:"([^"]+)"|`([^`]+)`|([^."`]+))'


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """A condition for ``SELECT row FROM documents WHERE <sql>``, with documents(row, id, text, metadata).

    Parameters
    ----------
    sql : str
        In parentheses, so that it may stand beside other conditions; 0 or 1, never NULL.
    parameters : dict of str to str
        The named parameters of `sql`: ``filter0``, ``filter1``, ...
    fields : tuple of str
        The metadata fields used, so spelled that ``parse_filter({field: {"$exists": True}})`` asks who has one.
    """

    sql: str
    parameters: dict[str, str]
    fields: tuple[str, ...]


def parse_filter(expression: str | Mapping[str, Any]) -> Filter:
    """The condition for a filter in SQL form (str) or JSON form (a mapping, or a str that begins with ``{``).

    Parameters
    ----------
    expression : str or mapping
        At most 100,000 characters, 100 levels, 500 comparisons; in a mapping, lists may be of any length.
        The empty mapping matches every document.

    Raises
    ------
    FilterError
        If the expression is no such filter; the message names the piece and shows a right filter.

    Examples
    --------
    >>> import sqlite3
    >>> db = sqlite3.connect(":memory:")
    >>> _ = db.execute("CREATE TABLE documents (row INTEGER, id TEXT, text TEXT, metadata TEXT)")
    >>> rows = [(0, "a", "x", '{"kind":"class","year":1953}'), (1, "b", "y", '{"year":"1961","tags":["old"]}')]
    >>> _ = db.executemany("INSERT INTO documents VALUES (?, ?, ?, ?)", rows)
    >>> def select(expression):
    ...     found = parse_filter(expression)
    ...     return [row for row, in db.execute(f"SELECT row FROM documents WHERE {found.sql}", found.parameters)]
    >>> select("year BETWEEN 1950 AND 1970"), select("kind != 'class'"), select({"tags": "old", "id": "b"})
    ([0, 1], [1], [1])
    >>> parse_filter("author.name LIKE 'Ann%' AND id = '7'").parameters
    {'filter0': '$."author"."name"', 'filter1': 'Ann%', 'filter2': '7'}
    """
    try:
        if isinstance(expression, str):
            if len(expression) > MAX_CHARACTERS:
                size = f"{len(expression):,} characters; expected at most {MAX_CHARACTERS:,}"
                raise FilterError(f"the filter has {size}; give long lists in a mapping, from Python")
            _check_text(expression)
            expression = _read_json(expression) if expression.lstrip()[:1] == "{" else read_sql(expression)
        build = _Builder()
        condition = build.query(expression, False)
    except RecursionError:
        raise FilterError(f"the filter is nested too deeply; expected at most {MAX_DEPTH} levels") from None
    parameters = {name[1:]: value for value, name in build.bound.items()}
    return Filter(sql=f"({condition.text})", parameters=parameters, fields=tuple(build.fields))


class _Sql(NamedTuple):
    """A piece of the condition: its text, what joins its parts, how deep its parentheses go."""

    text: str
    glue: str = ""
    height: int = 0


class _Builder:
    """Turns the JSON form into SQL; collects what is bound and which fields are used."""

    def __init__(self) -> None:
        self.bound: dict[str, str] = {}
        self.fields: dict[str, None] = {}
        self.conditions = 0

    def query(self, query: Any, negate: bool, depth: int = 0) -> _Sql:
        """A mapping of fields, $and, $or, $not; all of `negate` goes down to the comparisons (De Morgan)."""
        if not isinstance(query, Mapping):
            raise FilterError(f"the filter has {shown(query)} where a mapping was expected, {_EXPECTED_JSON}")
        if depth > MAX_DEPTH:
            raise FilterError(f"AND, OR and NOT are nested deeper than {MAX_DEPTH}; expected a simpler filter")
        parts = []
        for key, value in query.items():
            if key == "$not":
                parts.append(self.query(value, not negate, depth + 1))
            elif key in ("$and", "$or"):
                if not isinstance(value, (list, tuple)) or not value:
                    raise FilterError(f"{key} has {shown(value)}; expected a list of filters, {_EXPECTED_JSON}")
                inner = [self.query(each, negate, depth + 1) for each in value]
                parts.append(self.join("AND" if (key == "$and") != negate else "OR", inner))
            else:
                parts.append(self.field(_path(key), value, negate))
        return self.join("OR" if negate else "AND", parts)

    def field(self, path: list[str], value: Any, negate: bool) -> _Sql:
        """All conditions on one field: a literal, or a mapping of operators to literals."""
        parts = []
        for name, operand in (value if isinstance(value, Mapping) else {"$eq": value}).items():
            if name == "$not" and isinstance(operand, Mapping):
                parts.append(self.field(path, operand, not negate))
            elif name == "$exists" and isinstance(operand, bool):
                parts.append(self.compare(path, "=", None, negate ^ operand))
            elif name in _OPERATORS and (name not in ("$in", "$nin") or isinstance(operand, (list, tuple))):
                operator, flip = _OPERATORS[name]
                parts.append(self.compare(path, operator, operand, negate ^ flip))
            else:
                allowed = f"{', '.join(_OPERATORS)} ($in and $nin: a list), $exists (true or false), $not (a mapping)"
                found = f"{shown(name)}: {shown(operand)}"
                raise FilterError(f"{spelled(path)} has {found}; expected one of {allowed}, {_EXPECTED_JSON}")
        if not parts:
            raise FilterError(f"{spelled(path)} has no condition; expected a literal or operators, {_EXPECTED_JSON}")
        return self.join("OR" if negate else "AND", parts)

    def join(self, glue: str, parts: list[_Sql]) -> _Sql:
        if len(parts) < 2:
            return parts[0] if parts else _Sql("1" if glue == "AND" else "0")
        # subtle: until 3.46 SQLite's parser has a stack of 100, and `a OR (b AND (...))` takes three a level. The
        # deepest part first, and parentheses only where AND does not bind tighter anyway, take one for two levels.
        parts = sorted(parts, key=lambda part: -part.height)
        if glue == "AND":
            parts = [_Sql(f"({part.text})", "", part.height + 1) if part.glue == "OR" else part for part in parts]
        return _Sql(f" {glue} ".join(part.text for part in parts), glue, max(part.height for part in parts))

    def compare(self, path: list[str], operator: str, value: Any, negate: bool) -> _Sql:
        """One comparison of the field at `path`: 0 or 1 for every document."""
        own = path[0] if path in (["id"], ["text"]) else ""
        if not own:
            self.fields[spelled(path)] = None
        bound = own or self.bind("$" + "".join(f'."{key}"' for key in path))
        field, types = own or f"json_extract(metadata, {bound})", f"json_type(metadata, {bound})"
        null = value is None and operator == "="
        tests = [] if null else self.tests(operator, value)
        self.conditions += max(1, len(tests))
        if self.conditions > MAX_CONDITIONS:
            raise FilterError(f"more than {MAX_CONDITIONS} comparisons; for many values write field IN ('a', 'b', ...)")
        if null:
            return _Sql(f"{field} IS {'NOT ' if negate else ''}NULL")
        cases = []
        for kind, test in tests:
            case = f"CASE WHEN {types} IN ({_JSON_TYPES[kind]}) THEN {test.format(field)}"
            if operator in ("=", "IN"):
                case += f" WHEN {types} = 'array' THEN EXISTS (SELECT 1 FROM json_each(metadata, {bound}) "
                case += f"WHERE type IN ({_JSON_TYPES[kind]}) AND {test.format('value')})"
            case = ("0" if kind is bool else f"({test.format(own)})") if own else f"{case} ELSE 0 END"
            cases.append(_Sql(f"NOT {case}" if negate else case))
        return self.join("AND" if negate else "OR", cases)

    def tests(self, operator: str, value: Any) -> list[tuple[type, str]]:
        """For each kind of literal at hand the test of ``{}``, a value of one of the JSON types of that kind."""
        if operator == "IN":
            lists: dict[type, list[Any]] = {}
            for each in value:
                lists.setdefault(_kind(each), []).append(each)
            bound = {kind: self.bind(json.dumps(values, ensure_ascii=False)) for kind, values in lists.items()}
            cast = {str: "value", float: "CAST(value AS NUMERIC)", bool: "value"}
            return [(kind, f"{{}} IN (SELECT {cast[kind]} FROM json_each({bound[kind]}))") for kind in lists]
        kind = _kind(value)
        if operator == "LIKE" and (kind is not str or len(value) > MAX_PATTERN):
            expected = f"a string of at most {MAX_PATTERN:,} characters (% any text, _ any character)"
            raise FilterError(f"LIKE has the pattern {shown(value)}; expected {expected}, e.g. name LIKE 'json%'")
        if kind is str:
            return [(kind, f"{{}} {operator} {self.bind(value)}")]
        if kind is bool and operator != "=":
            raise FilterError(f"{operator} {shown(value)}: true and false have no order; expected = or !=")
        # subtle: the cast gives the comparison NUMERIC affinity, which takes a string for a number if it is one from
        # end to end (sqlite.org/datatype3.html, 4.2). Other strings stay above all numbers, so > and >= need a ceiling.
        # Bound as text, the literal is rounded just as the same digits in the metadata are.
        literal = self.bind(json.dumps(value if kind is float else int(value)))
        ceiling = " AND {0} <= CAST(9e999 AS REAL)" if operator.startswith(">") else ""
        return [(kind, f"{{0}} {operator} CAST({literal} AS NUMERIC){ceiling}")]

    def bind(self, value: str) -> str:
        return self.bound.setdefault(value, f":filter{len(self.bound)}")


def _kind(value: Any) -> type:
    """What a literal is compared as: str, bool or float (any number)."""
    if isinstance(value, str):
        _check_text(value)
        return str
    if isinstance(value, bool):
        return bool
    if not isinstance(value, (int, float)):
        found = "null (that is field IS NULL, or null alone in the JSON form)" if value is None else shown(value)
        raise FilterError(f"a field is compared with {found}; expected a string, a number, true or false")
    if not abs(value) <= sys.float_info.max:
        raise FilterError("a number is NaN, infinite or beyond 1.8e308; expected a finite one, e.g. year >= 1950")
    return float


def _path(name: Any) -> list[str]:
    """``a."b c"`` -> ``["a", "b c"]``."""
    if not isinstance(name, str) or name.startswith("$") or not re.fullmatch(rf"{_NAME}(\.{_NAME})*", name):
        raise FilterError(f'{shown(name)} is no field (a, a.b, "a b"), nor $and, $or, $not; {_EXPECTED_JSON}')
    path = ["".join(spelled) for spelled in re.findall(_NAME, name)]
    if re.search(r'["\\\x00-\x1f\ud800-\udfff]', "".join(path)) or len(path) > MAX_DEPTH:
        raise FilterError(
            f"the field name {shown(name)} cannot be used; expected at most {MAX_DEPTH} parts, without double quotes, "
            "backslashes, control characters and lone surrogates"
        )
    return path


def _check_text(text: str) -> None:
    if re.search("[\0\ud800-\udfff]", text):
        raise FilterError(f"{shown(text)} holds a NUL or a lone surrogate; expected text that UTF-8 can write")


def _read_json(text: str) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key stands twice in one object (expected $and)")
        return dict(pairs)

    try:
        return json.loads(text, object_pairs_hook=unique)
    except ValueError as error:
        raise FilterError(f"the filter begins with {{ but is not JSON: {error}; {_EXPECTED_JSON}") from error
