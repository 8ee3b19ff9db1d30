"""Metadata filters: an oracle in plain Python, truth tables by hand, injections, limits, fuzz."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.errors import FilterError
from indexes.filter_sql import MAX_DEPTH
from indexes.filters import MAX_CONDITIONS, Filter, parse_filter

Json = Any


def words(text: str) -> list[str]:
    return text.split()


Expression = str | Mapping[str, Any]


def table(metadata: Iterable[Mapping[str, Json]]) -> sqlite3.Connection:
    """Documents with rows 0, 1, ...; their ids are the rows as text, padded to three digits."""
    db = sqlite3.connect(":memory:")
    db.execute("CREATE TABLE documents (row INTEGER, id TEXT, text TEXT, metadata TEXT)")
    rows = [
        (row, f"{row:03}", f"Text of {row}", json.dumps(each, ensure_ascii=False, allow_nan=False))
        for row, each in enumerate(metadata)
    ]
    db.executemany("INSERT INTO documents VALUES (?, ?, ?, ?)", rows)
    return db


def run(db: sqlite3.Connection, expression: Expression) -> list[int]:
    """The rows that match; that the rest does not match under NOT would be a NULL."""
    found = parse_filter(expression)
    value = f"SELECT row, {found.sql} FROM documents ORDER BY row"
    values = db.execute(value, found.parameters).fetchall()
    assert {each for _, each in values} <= {0, 1}, "a condition is two-valued"
    where = f"SELECT row FROM documents WHERE {found.sql} AND 1 ORDER BY row"
    rows = [row for (row,) in db.execute(where, found.parameters)]
    assert rows == [row for row, each in values if each]
    return rows


def select(metadata: Iterable[Mapping[str, Json]], expression: Expression) -> list[int]:
    with closing(table(metadata)) as db:
        return run(db, expression)


# ---- the oracle: a tree is ("and" | "or", [trees]), ("not", tree) or (path, operator, literal)

KEYS = ("kind", "year", "tags", "author", "first name", "a.b", "作者", "from", "it's", "a`b", "$x", "[0]", "NULL")
PATHS = [(key,) for key in KEYS] + [("author", "name"), ("author", "a.b"), ("tags", "0"), ("id",), ("text",), ("gone",)]
STRINGS = [*words(r"""class Class CLASS a b é É it's " % _ a% %s% 𝒳 x\'y"""), "", "\uffff", "\n"]
NUMERALS = words("1953 01953 1953.0 1e3 12abc 0x10 +5 .5 5. - -3 --1 inf nan 1_0 ١ 1e999 0 -0 0.30000000000000004")
NUMERALS += ["9007199254740993", "9223372036854775808", " 12 ", "- 1", "\n7\t"]
NUMBERS = [0, 1, -3, 5, 7, 12, 1000, 1953, 2**53 + 1, 2**63 - 1, 2**63, 0.5, -0.0, 1953.0, 1950.5, 0.3, 0.1 + 0.2]
NUMBERS += [2.0**53, 1e22, 1e-7, -1.5e300]
common = st.sampled_from(KEYS[:4])
strings = st.sampled_from(STRINGS + NUMERALS + ["001", "Text of 1"]) | st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=5
)
numbers = st.sampled_from(NUMBERS) | st.integers(-5, 5) | st.integers(1940, 1960)
literals = strings | numbers | st.booleans()
scalars = literals | st.none()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["name", "a.b", "0"]), inner, max_size=2)
    ),
    max_leaves=4,
)
documents = st.lists(st.dictionaries(common | st.sampled_from(KEYS), values, max_size=6), min_size=1, max_size=8)
paths = common.map(lambda key: (key,)) | st.sampled_from(PATHS)
leaves = st.one_of(
    st.tuples(paths, st.sampled_from(["=", "!="]), literals | st.none()),
    st.tuples(paths, st.sampled_from(["<", "<=", ">", ">="]), strings | numbers),
    st.tuples(paths, st.sampled_from(["in", "not in"]), st.lists(literals, max_size=4)),
    st.tuples(paths, st.sampled_from(["like", "not like"]), strings),
    st.tuples(paths, st.just("between"), st.tuples(strings, strings) | st.tuples(numbers, numbers)),
    st.tuples(paths, st.just("exists"), st.booleans()),
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.tuples(st.sampled_from(["and", "or"]), st.lists(inner, min_size=1, max_size=3))
        | st.tuples(st.just("not"), inner)
    ),
    max_leaves=6,
)

NUMERAL = re.compile(r"[ \t\n\v\f\r]*([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)[ \t\n\v\f\r]*")


def number(value: Json) -> int | float | None:
    """A number, or a string that is one from end to end; what leaves 64 bits is a float, as in SQLite."""
    if isinstance(value, str):
        match = NUMERAL.fullmatch(value)
        if not match:
            return None
        value = int(match[1]) if re.fullmatch(r"[+-]?[0-9]+", match[1]) else float(match[1])
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if isinstance(value, float) or -(2**63) <= value < 2**63 else float(value)


def pair(value: Json, literal: Json) -> tuple[Any, Any] | None:
    """Both sides as what they are compared as, or None if they cannot be."""
    if isinstance(literal, bool):
        return (value, literal) if isinstance(value, bool) else None
    if isinstance(literal, str):
        return (value, literal) if isinstance(value, str) else None
    left, right = number(value), number(literal)
    return None if left is None or right is None else (left, right)


def lookup(document: Mapping[str, Json], path: tuple[str, ...]) -> Json:
    value: Json = document
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def like(value: Json, pattern: str) -> bool:
    spelled = "".join({"%": ".*", "_": "."}.get(letter, re.escape(letter)) for letter in pattern)
    return isinstance(value, str) and bool(re.fullmatch(spelled, value, re.DOTALL | re.IGNORECASE | re.ASCII))


def equal(value: Json, literal: Json) -> bool:
    if literal is None:
        return value is None
    pairs = (pair(each, literal) for each in (value if isinstance(value, list) else [value]))
    return any(each is not None and each[0] == each[1] for each in pairs)


def compared(value: Json, operator: str, literal: Json) -> bool:
    both = pair(value, literal)
    if both is None:
        return False
    left, right = both
    return bool({"<": left < right, "<=": left <= right, ">": left > right, ">=": left >= right}[operator])


def holds(tree: Any, row: int, metadata: Mapping[str, Json]) -> bool:
    """What the filter means, in plain Python."""
    if tree[0] == "not":
        return not holds(tree[1], row, metadata)
    if tree[0] in ("and", "or"):
        return (all if tree[0] == "and" else any)(holds(each, row, metadata) for each in tree[1])
    path, operator, literal = tree
    own = {("id",): f"{row:03}", ("text",): f"Text of {row}"}
    value = own[path] if path in own else lookup(metadata, path)
    if operator.startswith("not "):
        return not holds((path, operator[4:], literal), row, metadata)
    if operator in ("=", "!="):
        return equal(value, literal) is (operator == "=")
    if operator == "in":
        return any(equal(value, each) for each in literal)
    if operator == "like":
        return like(value, literal)
    if operator == "exists":
        return (value is not None) == bool(literal)
    if operator == "between":
        return compared(value, ">=", literal[0]) and compared(value, "<=", literal[1])
    return compared(value, operator, literal)


JSON_OPERATORS = {"=": "$eq", "!=": "$ne", "<": "$lt", "<=": "$lte", ">": "$gt", ">=": "$gte", "in": "$in"}
JSON_OPERATORS |= {"not in": "$nin", "like": "$like", "exists": "$exists"}


def json_form(tree: Any) -> dict[str, Any]:
    if tree[0] == "not":
        return {"$not": json_form(tree[1])}
    if tree[0] in ("and", "or"):
        return {f"${tree[0]}": [json_form(each) for each in tree[1]]}
    path, operator, literal = tree
    name = ".".join(key if re.fullmatch(r"[^.$`][^.`]*", key) else f'"{key}"' for key in path)
    if operator == "not like":
        return {"$not": {name: {"$like": literal}}}
    if operator == "between":
        return {name: {"$gte": literal[0], "$lte": literal[1]}}
    return {name: {JSON_OPERATORS[operator]: literal}}


def sql_literal(literal: Json) -> str:
    if literal is None or isinstance(literal, bool):
        return {None: "NULL", True: "TRUE", False: "false"}[literal]
    return "'" + literal.replace("'", "''") + "'" if isinstance(literal, str) else repr(literal)


def sql_form(tree: Any) -> str:
    if tree[0] == "not":
        return f"NOT ({sql_form(tree[1])})"
    if tree[0] in ("and", "or"):
        return f" {tree[0]} ".join(f"({sql_form(each)})" for each in tree[1])
    path, operator, literal = tree
    name = ".".join(key if re.fullmatch(r"[^\W\d]\w*", key) and key != "NULL" else f'"{key}"' for key in path)
    if operator == "exists":
        return f"{name} IS {'NOT ' if literal else ''}NULL"
    if operator == "between":
        return f"{name} BETWEEN {sql_literal(literal[0])} AND {sql_literal(literal[1])}"
    if operator in ("in", "not in"):
        return f"{name} {operator} ({', '.join(map(sql_literal, literal))})"
    return f"{name} {operator} {sql_literal(literal)}"


@settings(max_examples=300, deadline=None)
@given(trees, documents)
def test_filter_selects_what_plain_python_selects(tree: Any, metadata: list[dict[str, Json]]) -> None:
    expected = [row for row, each in enumerate(metadata) if holds(tree, row, each)]
    assert select(metadata, json_form(tree)) == expected


@settings(max_examples=200, deadline=None)
@given(trees)
def test_both_forms_give_the_same_sql(tree: Any) -> None:
    form = json_form(tree)
    expected = parse_filter(form)
    assert parse_filter(json.dumps(form)) == expected
    assert parse_filter(sql_form(tree)) == expected


@settings(max_examples=100, deadline=None)
@given(trees, documents)
def test_not_selects_exactly_the_other_documents(tree: Any, metadata: list[dict[str, Json]]) -> None:
    chosen, others = select(metadata, json_form(tree)), select(metadata, {"$not": json_form(tree)})
    assert sorted(chosen + others) == list(range(len(metadata)))


def test_every_comparison_of_every_pair() -> None:
    alone: list[Json] = [*STRINGS, *NUMERALS, *NUMBERS, True, False, None]
    metadata = [
        {"v": value} for value in [*alone, *([value] for value in alone), [], {}, {"v": 1}, [[1], {"v": 1}]]
    ] + [{}]
    with closing(table(metadata)) as db:
        for literal in alone:
            operators = ["=", "!="] if literal is None else ["=", "!=", "in", "not in"]
            operators += ["like"] if isinstance(literal, str) else []
            operators += ["<", "<=", ">", ">="] if not isinstance(literal, bool) and literal is not None else []
            for operator in operators:
                tree = (("v",), operator, [literal] if "in" in operator else literal)
                expected = [row for row, each in enumerate(metadata) if holds(tree, row, each)]
                assert run(db, json_form(tree)) == expected, tree


# ---- truth tables, worked by hand

VALUES: list[Json] = [1953, "1953", 1953.0, "1953.0", "1953a", True, None, [1953], ["1953"], {"1953": 1}, 1960, "abc"]
VALUES += [[], "", False]
MISSING = len(VALUES)  # the last document has no field v


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("v = 1953", [0, 1, 2, 3, 7, 8]),
        ("v == 1953.0", [0, 1, 2, 3, 7, 8]),
        ("v = '1953'", [1, 8]),
        ("v = 'abc'", [11]),
        ("v = ''", [13]),
        ("v > 1950", [0, 1, 2, 3, 10]),
        ("v >= 1960", [10]),
        ("v < 1953", []),
        ("v <= 1953", [0, 1, 2, 3]),
        ("v < 'a'", [1, 3, 4, 13]),
        ("v BETWEEN 1950 AND 1953", [0, 1, 2, 3]),
        ("v BETWEEN '1953' AND '1953a'", [1, 3, 4]),
        ("v IN (1953, 'abc')", [0, 1, 2, 3, 7, 8, 11]),
        ("v IN (1953.0, TRUE)", [0, 1, 2, 3, 5, 7, 8]),
        ("v IN ()", []),
        ("v = TRUE", [5]),
        ("v IS TRUE", [5]),
        ("v = FALSE", [14]),
        ("v IS NOT TRUE", [0, 1, 2, 3, 4, 6, 7, 8, 9, 10, 11, 12, 13, 14, MISSING]),
        ("v = 1", []),
        ("v = 0", []),
        ("v IS NULL", [6, MISSING]),
        ("v IS NOT NULL", [0, 1, 2, 3, 4, 5, 7, 8, 9, 10, 11, 12, 13, 14]),
        ("v LIKE '1953%'", [1, 3, 4]),
        ("v LIKE 'AB_'", [11]),
        ("v NOT LIKE '%'", [0, 2, 5, 6, 7, 8, 9, 10, 12, 14, MISSING]),
        ("v != 1953", [4, 5, 6, 9, 10, 11, 12, 13, 14, MISSING]),
        ("v NOT IN ('1953', 'abc')", [0, 2, 3, 4, 5, 6, 7, 9, 10, 12, 13, 14, MISSING]),
        ("NOT v > 1950", [4, 5, 6, 7, 8, 9, 11, 12, 13, 14, MISSING]),
        ("v NOT BETWEEN 1950 AND 1953", [4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, MISSING]),
        ('v."1953" = 1', [9]),
    ],
)
def test_truth_table_of_one_field(expression: str, expected: list[int]) -> None:
    assert select([{"v": value} for value in VALUES] + [{}], expression) == expected


def test_not_deleted_includes_documents_that_never_say() -> None:
    metadata = [{}, *({"deleted": value} for value in (True, False, None, "true"))]
    for expression in ("deleted != TRUE", "NOT deleted = TRUE", '{"deleted": {"$ne": true}}', "deleted NOT IN (TRUE)"):
        assert select(metadata, expression) == [0, 2, 3, 4]


def test_numbers_in_metadata_from_csv() -> None:
    years = [{"year": "1949"}, {"year": "1950"}, {"year": "unknown"}, {"year": ""}, {"year": "10000"}]
    assert select(years, "year > 1949") == [1, 4]
    assert select(years, "year BETWEEN 1949 AND 1950") == [0, 1]
    assert select(years, {"year": {"$in": [1950]}}) == [1]
    assert select(years, "year != 1950") == [0, 2, 3, 4]


def test_tags() -> None:
    tags: list[Json] = [["a", "b"], "a", [], None, [["a"], {"a": "a"}, None], ["c", 2]]
    metadata = [{"tags": value} for value in tags]
    assert select(metadata, "tags = 'a'") == [0, 1]
    assert select(metadata, "tags IN ('b', 'c')") == [0, 5]
    assert select(metadata, "tags IN ('b', 2)") == [0, 5]
    assert select(metadata, "tags != 'a'") == [2, 3, 4, 5]
    assert select(metadata, "tags >= 'a'") == [1]
    assert select(metadata, {"tags": None}) == [3]


def test_precedence_and_nesting() -> None:
    metadata = [{"a": a, "b": b, "c": c} for a in (0, 1) for b in (0, 1) for c in (0, 1)]
    assert select(metadata, "a = 1 OR b = 1 AND c = 1") == [3, 4, 5, 6, 7]
    assert select(metadata, "(a = 1 OR b = 1) AND c = 1") == [3, 5, 7]
    assert select(metadata, "NOT a = 1 AND b = 1") == [2, 3]
    assert select(metadata, "NOT (a = 1 AND b = 1)") == [0, 1, 2, 3, 4, 5]
    assert select(metadata, "NOT (a = 1 OR NOT b = 1) AND c = 1") == [3]
    assert select(metadata, "NOT NOT a = 1") == [4, 5, 6, 7]
    assert select(metadata, {"a": 1, "$or": [{"b": 1}, {"c": 1}]}) == [5, 6, 7]
    assert select(metadata, {"$not": {"a": 1, "b": 1}}) == [0, 1, 2, 3, 4, 5]
    assert select(metadata, {"a": {"$gte": 0, "$lt": 1, "$not": {"$gt": 5}}}) == [0, 1, 2, 3]
    assert select(metadata, {"a": {"$not": {"$gte": 0, "$lt": 1}}}) == [4, 5, 6, 7]
    assert select(metadata, {}) == list(range(8))
    assert select(metadata, {"$not": {}}) == []


def test_own_columns_and_names() -> None:
    metadata: list[dict[str, Json]] = [
        {"author": {"name": "Ann", "a.b": 1}, "author.name": "Bob", "作者": "安"},
        {"author": "Ann", "id": "000", "text": "x", "a b": 3},
    ]
    assert select(metadata, "id = '000'") == [0]
    assert select(metadata, "id = 1 AND text LIKE 'text OF%'") == [1]
    assert select(metadata, 'id IS NULL OR text = TRUE OR id = TRUE OR "id" IN (TRUE)') == []
    assert select(metadata, "id IN ('001', 0)") == [0, 1]
    assert select(metadata, "author.name = 'Ann'") == select(metadata, {"author.name": "Ann"}) == [0]
    assert select(metadata, "\"author.name\" = 'Bob'") == select(metadata, {'"author.name"': "Bob"}) == [0]
    assert select(metadata, "`author`.`a.b` = 1") == select(metadata, {"`author`.`a.b`": 1}) == [0]
    assert select(metadata, "作者 = '安'") == select(metadata, {"作者": "安"}) == [0]
    assert select(metadata, '"a b" = 3') == select(metadata, "[a b] = 3") == select(metadata, {"a b": 3}) == [1]


@pytest.mark.parametrize(
    "name",
    ["from", "case", "select", "if", "set", "date", "order", "with", "group", "current_date", "interval", "any", "end"],
)
def test_words_of_sql_are_names(name: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> None:
    assert select([{name: 1}, {}, {name: {name: 2}}], f"{name} = 1 OR {name}.{name} IN (2)") == [0, 2]
    assert capfd.readouterr() == ("", "") and not caplog.records, "sqlglot warns of commands"


def test_sql_stands_beside_other_conditions() -> None:
    found = parse_filter("a = 1 OR a = 2")
    with closing(table([{"a": 1}, {"a": 2}])) as db:
        where = f"SELECT row FROM documents WHERE row = 0 AND {found.sql}"
        assert db.execute(where, found.parameters).fetchall() == [(0,)]


def test_filter_is_a_frozen_value() -> None:
    found = parse_filter("kind = 'class' AND kind != 'x' AND a.\"b.c\" > 1 AND id = '1' AND `$p` IS NULL")
    assert isinstance(found, Filter)
    assert found.fields == ("kind", 'a."b.c"', '"$p"')
    bound = ['$."kind"', "class", "x", '$."a"."b.c"', "1", '$."$p"']
    assert found.parameters == {f"filter{number}": value for number, value in enumerate(bound)}
    assert set(re.findall(r":(\w+)", found.sql)) == set(found.parameters)
    assert parse_filter({field: {"$exists": True} for field in found.fields}).fields == found.fields
    with pytest.raises(AttributeError):
        found.sql = "1"  # type: ignore[misc]


# ---- injections

INJECTIONS = """
kind = 'x'; DROP TABLE documents
kind = 'x';
1) OR (1=1
kind = 'x') OR (kind = 'y'
kind = 'x' OR 1=1
1 = 1
TRUE
kind
NOT deleted
kind = kind
kind IN (SELECT id FROM documents)
EXISTS (SELECT 1)
(SELECT 1)
SELECT * FROM documents
load_extension('x') = 1
kind = randomblob(1000000000)
kind = x'00'
kind = ?
kind = :filter0
@kind = 1
year + 1 = 2
year - 1 = 2
year = 1 + 1
kind || 'x' = 'y'
CAST(year AS INT) = 1
year::int = 1
CASE WHEN year = 1 THEN 1 END = 1
kind GLOB 'x*'
kind REGEXP 'x'
kind MATCH 'x'
kind COLLATE NOCASE = 'x'
kind LIKE 'x' ESCAPE '!'
kind = 'x' UNION SELECT 1
kind = 'x' ORDER BY id
kind = 'x' LIMIT 1
kind = 'a' 'b'
metadata -> 'x' = 1
kind IN kinds
kind IN ('x', id)
kind = (SELECT 1)
(kind, id) = ('a', 'b')
year BETWEEN 1 AND year
kind = 'x' kind = 'y'
{kind: 1}
kind = 'x
kind = "x"
"""


@pytest.mark.parametrize("expression", INJECTIONS.strip().splitlines())
def test_injections_are_refused(expression: str) -> None:
    with pytest.raises(FilterError, match="e\\.g\\. "):
        parse_filter(expression)


@pytest.mark.parametrize(
    "value",
    ["'; DROP TABLE documents; --", "' OR '1'='1", "x' OR 1=1 --", "/* */", ":filter0", '"', "$.a", "\\", "%00", "?1"],
)
def test_injections_in_literals_and_names_are_text(value: str) -> None:
    metadata: list[dict[str, Json]] = [{"kind": value}, {"kind": "x"}, {}]
    with closing(table(metadata)) as db:
        assert run(db, f"kind = {sql_literal(value)}") == [0]
        assert run(db, {"kind": value}) == run(db, {"kind": {"$in": [value]}}) == [0]
        assert db.execute("SELECT count(*) FROM documents").fetchone() == (3,)
    assert parse_filter({"kind": value}).sql == parse_filter({"kind": "x"}).sql
    if not re.search(r'["\\]', value):
        assert select([{value: 1}, {}], f'"{value}" = 1') == select([{value: 1}, {}], {f"`{value}`": 1}) == [0]
        assert parse_filter({f"`{value}`": 1}).sql == parse_filter({"kind": 1}).sql


def test_comments_change_nothing() -> None:
    metadata = [{"kind": "x"}, {"kind": "y"}]
    assert select(metadata, "kind = 'x' -- ' OR 1=1") == select(metadata, "kind /* ; */ = 'x'") == [0]


# ---- refusals say what is wrong


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("", "empty"),
        (" \n", "empty"),
        ("()", "empty"),
        ("kind = 'x'; DROP TABLE documents", "';' at character 11"),
        ("kind = lower('X')", r"'lower\(' at character 8"),
        ("kind = 'x') OR (id = '1'", r"'\)' at character 11"),
        ("(kind = 'x'", r"'\(' at character 1 is never closed"),
        ("kind = class", "single quotes"),
        ('kind = "class"', "single quotes"),
        ("'class' = kind", "field on the left"),
        ("NOT deleted", "field = TRUE"),
        ("kind = 'x' OR", "near 'OR'"),
        ("kind = 'x", "quote left open"),
        ("(a = 1) = 1", r"'\(\.\.\.\)' is not a field"),
        ('(a = 1) AND "\0000"', "NUL"),
        ("year = 1e999", "finite"),
        ("year = 1e", "not a number"),
        ("year > TRUE", "no order"),
        ("year > NULL", "IS NULL"),
        ("year IN (1, NULL)", "IS NULL"),
        ("year LIKE 5", "pattern"),
        ('"a\\b" = 1', "backslash"),
        ('"a\nb" = 1', "control"),
        ("kind = 'a\0'", "NUL"),
        ("kind = '\ud800'", "surrogate"),
        ("{", "not JSON"),
        ('{"a": 1} x', "not JSON"),
        ('{"a": 1, "a": 2}', "stands twice"),
        ('{"a": NaN}', "finite"),
        ('{"a": "\\ud800"}', "surrogate"),
        ({"$foo": 1}, r"'\$foo'"),
        ({"a": {"$foo": 1}}, r"'\$foo': 1.*\$eq"),
        ({"a": {"b": 1}}, "'b': 1"),
        ({"a": {}}, "no condition"),
        ({"a": [1]}, r"compared with \[1\]"),
        ({"a": {"$in": "x"}}, "list"),
        ({"a": {"$nin": {"x": 1}}}, "list"),
        ({"a": {"$exists": 1}}, "true or false"),
        ({"a": {"$gt": None}}, "IS NULL"),
        ({"a": {"$like": 1}}, "pattern"),
        ({"a": {"$like": "x" * 1001}}, "1,000"),
        ({"a": {"$not": 1}}, "mapping"),
        ({"a": b"x"}, "compared with b'x'"),
        ({"a": 10**5000}, "finite"),
        ({"a": {"$in": [10**5000]}}, "finite"),
        ({"a": {"$like": [10**5000]}}, "compared with"),
        ({"$and": []}, "list of filters"),
        ({"$or": {"a": 1}}, "list of filters"),
        ({"$or": [1]}, "mapping"),
        ({"$not": [{"a": 1}]}, "mapping"),
        ({1: 2}, "no field"),
        ({"": 1}, "no field"),
        ({"a..b": 1}, "no field"),
        ({"a\0": 1}, "control"),
        ({'"a': 1}, "no field"),
        ({".".join("a" * 101): 1}, "100 parts"),
        (None, "mapping"),
        ([{"a": 1}], "mapping"),
    ],
)
def test_refusals_name_the_piece(expression: Any, words: str) -> None:
    with pytest.raises(FilterError, match=words) as raised:
        parse_filter(expression)
    assert "expected" in str(raised.value) or "e.g." in str(raised.value)
    assert "\n" not in str(raised.value) and "\0" not in str(raised.value) and len(str(raised.value)) < 700


# ---- limits

LEAF = {"a": 1}


def ladder(depth: int, *glues: str) -> dict[str, Any]:
    """So many AND and OR, one inside of the other, deepest last."""
    query: dict[str, Any] = LEAF
    for level in range(depth):
        query = {glues[level % len(glues)]: [LEAF, query]}
    return query


def sql_ladder(depth: int, *glues: str) -> str:
    text = "a = 1"
    for level in range(depth):
        text = f"a = 1 {glues[level % len(glues)]} ({text})"
    return text


def test_a_hundred_levels_work_and_more_are_refused() -> None:
    metadata = [{"a": 1}, {}]
    for glues in (("$and", "$or"), ("$or", "$and"), ("$and",)):
        assert select(metadata, ladder(MAX_DEPTH, *glues)) == [0]
        with pytest.raises(FilterError, match="deeper than 100"):
            parse_filter(ladder(MAX_DEPTH + 1, *glues))
    for names in (("AND", "OR"), ("OR", "AND"), ("OR",)):
        assert select(metadata, sql_ladder(MAX_DEPTH, *names)) == [0]
        with pytest.raises(FilterError, match="deeper than 100"):
            parse_filter(sql_ladder(MAX_DEPTH + 1, *names))
    assert select(metadata, "(" * MAX_DEPTH + "a = 1" + ")" * MAX_DEPTH) == [0]
    assert select(metadata, "NOT (" * MAX_DEPTH + "a = 1" + ")" * MAX_DEPTH) == [0]
    assert select(metadata, "NOT (" * (MAX_DEPTH - 1) + "a = 1" + ")" * (MAX_DEPTH - 1)) == [1]
    assert select(metadata, "NOT " * 19 + "a = 1") == [1]
    for refused in ("(" * (MAX_DEPTH + 1) + "a = 1" + ")" * (MAX_DEPTH + 1), "NOT " * 21 + "a = 1"):
        with pytest.raises(FilterError, match="nested deeper than 100 parentheses or 20 NOT"):
            parse_filter(refused)


ENDLESS = [
    "(",
    "NOT ",
    "NOT (",
    "- ",
    "a = -",
    "a.",
    "a = ",
    "a AND ",
    "a = 1 AND (",
    "[",
    "{",
    '{"$not":',
    ")",
    "f(",
    "'",
]
ENDLESS += ["CASE WHEN a THEN ", "a IN (", "a BETWEEN ", "a = 1 AND NOT ", "a - ", "a IS NOT "]


@pytest.mark.parametrize("piece", ENDLESS)
def test_endless_nesting_is_refused(piece: str) -> None:
    with pytest.raises(FilterError):
        parse_filter(piece * (20_000 // len(piece)))


def test_a_filter_that_holds_itself_is_refused() -> None:
    query: dict[str, Any] = {}
    query["$and"] = [query]
    with pytest.raises(FilterError, match="deeper"):
        parse_filter(query)
    condition: dict[str, Any] = {}
    condition["$not"] = condition
    with pytest.raises(FilterError, match="nested"):
        parse_filter({"a": condition})


def test_deep_callers_get_a_sentence() -> None:
    def down(levels: int) -> Filter:
        return down(levels - 1) if levels else parse_filter(sql_ladder(20, "AND", "OR"))

    refused = 0
    for levels in range(300, sys.getrecursionlimit(), 20):
        try:
            down(levels)
        except FilterError as error:
            assert "expected" in str(error)
            refused += 1
        except RecursionError:
            break  # before it reached the filter
    assert refused


def bushy(leaves: int, depth: int, glue: str = "$and") -> dict[str, Any]:
    """A tree of exactly so many comparisons, with two large parts at every level as long as they last."""
    if leaves == 1 or not depth:
        return {"$or": [LEAF] * leaves}
    half = leaves // 2
    other = "$or" if glue == "$and" else "$and"
    return {glue: [bushy(half, depth - 1, other), bushy(leaves - half, depth - 1, other)]}


def spine(leaves: int, depth: int) -> dict[str, Any]:
    """A ladder whose steps are bushes."""
    query: dict[str, Any] = LEAF
    for level in range(depth):
        query = {("$and", "$or")[level % 2]: [bushy(leaves // depth, 6, ("$or", "$and")[level % 2]), query]}
    return query


@pytest.mark.parametrize(
    "query",
    [
        {"$or": [LEAF] * MAX_CONDITIONS},
        {"$and": [{"$not": LEAF}] * MAX_CONDITIONS, "$not": {}},
        {"$or": [{"a": {"$in": ["x", 1, True]}}] * (MAX_CONDITIONS // 3)},  # a list of three kinds is three comparisons
        bushy(MAX_CONDITIONS, 20),
        bushy(MAX_CONDITIONS, 20, "$or"),
        spine(MAX_CONDITIONS - 1, 90),
        spine(MAX_CONDITIONS - 1, 60),
        spine(MAX_CONDITIONS - 1, 30),
    ],
)
def test_the_largest_filters_run_in_sqlite(query: dict[str, Any]) -> None:
    found = parse_filter(query)
    with closing(table([{"a": 1}, {}])) as db:
        assert run(db, query) in ([0], [])
        db.execute(f"SELECT 1 FROM (SELECT row FROM documents WHERE row > 0 AND {found.sql})", found.parameters)


def test_more_comparisons_are_refused() -> None:
    assert select([{"a": 1}, {}], " OR ".join(["a = 1"] * MAX_CONDITIONS)) == [0]
    mixed = {"$or": [{"a": {"$in": ["x", 1, True]}}] * (MAX_CONDITIONS // 3 + 1)}
    for refused in ({"$or": [LEAF] * (MAX_CONDITIONS + 1)}, " AND ".join(["a = 1"] * 10_000), mixed):
        with pytest.raises(FilterError, match="500 comparisons.*IN"):
            parse_filter(refused)


def test_lists_of_any_length() -> None:
    with closing(table([{"year": 99_999, "tags": ["x", "s5"]}, {"year": "17"}, {"year": -1}])) as db:
        assert run(db, {"year": {"$in": list(range(100_000))}}) == [0, 1]
        assert run(db, {"tags": {"$in": [f"s{each}" for each in range(100_000)]}}) == [0]
        assert run(db, {"id": {"$nin": [f"{each:03}" for each in range(1, 100_000)]}}) == [0]
        text = f"year IN ({', '.join(map(str, range(15_000)))})"
        assert len(text) < 100_000 and run(db, text) == [1]
    assert len(parse_filter(text).parameters) == 2


def test_long_text_is_refused() -> None:
    ok = f"kind = '{'x' * 99_000}'"
    assert select([{"kind": "x" * 99_000}], ok) == [0]
    for expression in (ok + " " * 2_000, json.dumps({"kind": "x" * 100_000})):
        with pytest.raises(FilterError, match="characters; expected at most 100,000"):
            parse_filter(expression)


# ---- fuzz: FilterError or a filter that runs

FUZZED: list[dict[str, Json]] = [{"a": 1, "b": "x", "c": [1, "x"]}, {}]
WORDS = words(r"""
a b c.d id text "q" `q` [z] 作 1 -2 1.5 1e3 'x' '1' '' ( ) , . ; = == != <> < >= - + * / || ? :p @ $ { } [ ] -- /* */
:: -> ~ ! && \\ x'00' 0x1F N'x' f AND OR NOT IN LIKE BETWEEN IS NULL TRUE FALSE SELECT FROM CASE WHEN END IF CAST AS
DISTINCT ESCAPE GLOB ANY INTERVAL DATE COLLATE UNION WITH VALUES JSON SYMMETRIC AT TIME ZONE OVER
""")
WORDS += ['"q r"', "\n", "\0"]


def accept_or_refuse(expression: Any) -> bool:
    try:
        parse_filter(expression)
    except FilterError:
        return False
    select(FUZZED, expression)
    return True


@settings(max_examples=300, deadline=None)
@given(
    st.text()
    | st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join)
    | st.lists(st.sampled_from(WORDS)).map("".join)
)
def test_arbitrary_text_is_refused_or_runs(text: str) -> None:
    accept_or_refuse(text)


@settings(max_examples=300, deadline=None)
@given(trees, st.lists(st.tuples(st.integers(0, 200), st.sampled_from(WORDS)), min_size=1, max_size=3))
def test_damaged_filters_are_refused_or_run(tree: Any, damages: list[tuple[int, str]]) -> None:
    text = sql_form(tree)
    for place, word in damages:
        text = text[:place] + word + text[place + 1 :]
    accept_or_refuse(text)


queries = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=2),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["a", "a.b", "$and", "$or", "$not", *JSON_OPERATORS.values()]) | st.text(max_size=3), inner
        )
    ),
    max_leaves=8,
)


@settings(max_examples=300, deadline=None)
@given(queries)
def test_arbitrary_mappings_are_refused_or_run(query: Any) -> None:
    accept_or_refuse(query)


def test_fuzz_words_can_be_accepted() -> None:
    assert accept_or_refuse("a = 1 AND NOT b IN ( 'x' , -2 ) OR c.d IS NOT NULL")


# ---- cost


def test_sqlglot_is_imported_late() -> None:
    code = (
        "import sys; from indexes.filters import parse_filter; parse_filter({'a': 1}); parse_filter('{\"a\": 1}')\n"
        "assert 'sqlglot' not in sys.modules; parse_filter('a = 1'); assert 'sqlglot' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
