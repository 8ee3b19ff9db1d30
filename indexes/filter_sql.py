"""The SQL form of a metadata filter, read into its JSON form (`indexes.filters`).

sqlglot splits and parses; what it may have found is a list of tokens and nodes that are let
in by name. Leaves out what a filter means.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable
from typing import Any

from .errors import FilterError

MAX_DEPTH = 100

_EXPECTED = (
    "expected fields compared with literals (= != < <= > >= LIKE IN BETWEEN, IS NULL), joined by AND, OR, NOT and "
    "parentheses, no functions, sub-queries or arithmetic, e.g. kind = 'class' AND (year >= 1950 OR \"a name\" IS NULL)"
)
# what the SQL form may hold, of all that sqlglot knows: tokens, nodes (comparisons: as the JSON form), parts of nodes
_TOKENS = {"AND", "OR", "NOT", "IN", "LIKE", "BETWEEN", "IS", "NULL", "TRUE", "FALSE", "STRING", "NUMBER", "IDENTIFIER"}
_TOKENS |= {"L_PAREN", "R_PAREN", "COMMA", "DOT", "DASH", "EQ", "NEQ", "LT", "LTE", "GT", "GTE"}
_NODES = {"eq": "$eq", "neq": "$ne", "gt": "$gt", "gte": "$gte", "lt": "$lt", "lte": "$lte"}
_NODES |= {"like": "$like", "is": "$eq"}
_PARTS = {"this", "expression", "expressions", "low", "high", "negate"}
_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = 100


def read_sql(text: str) -> dict[str, Any]:
    """The JSON form of ``kind = 'class' AND year >= 1950``.

    Raises
    ------
    FilterError
        If it is not such a condition; the message names the piece.
    """
    return _Reader(text).read()


def spelled(path: list[str]) -> str:
    """``["a", "b.c"]`` -> ``a."b.c"``."""
    return ".".join(key if re.fullmatch(r'[^."`$][^."`]*', key) else f'"{key}"' for key in path)


def shown(value: object) -> str:
    """A value as an error message shows it: short."""
    try:
        return _REPR.repr(value)
    except ValueError:  # an int of more than 4300 digits
        return f"a value of type {type(value).__name__}"


class _Reader:
    """Turns the SQL form into the JSON form: text -> tokens -> trees (both sqlglot's) -> mapping.

    Each group in parentheses is read by itself, innermost first, and stands in the outer one as a name (NUL, number):
    sqlglot takes 20 Python frames for a level and would end at 46 levels, sooner where the caller stands deep.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        self.groups: list[dict[str, Any]] = []

    def read(self) -> dict[str, Any]:
        from sqlglot import Token, TokenType
        from sqlglot.dialects.sqlite import SQLite

        try:
            found = SQLite().tokenize(self.text)
        except Exception as error:  # of its own type, on odd text of others
            raise FilterError(f"the filter cannot be split into words, is a quote left open? {_EXPECTED}") from error
        stack: list[list[Token]] = [[]]
        starts: list[int] = []
        listing, run = False, 0  # inside of IN (...); so many NOT or - in a row
        for token in found:
            kind, piece = token.token_type, self.text[token.start : token.end + 1]
            if kind.name not in _TOKENS and (kind is TokenType.VAR or re.fullmatch(r"[^\W\d]\w*", piece)):
                kind = TokenType.IDENTIFIER  # a key of metadata may well be called date, from or case
            last = stack[-1][-1] if stack[-1] else None
            opens, closes = kind is TokenType.L_PAREN, kind is TokenType.R_PAREN and not listing
            if kind.name not in _TOKENS or (closes and not starts):
                raise FilterError(f"{shown(piece)} at character {token.start + 1} is not allowed; {_EXPECTED}")
            if opens and last is not None and last.token_type is TokenType.IDENTIFIER:
                piece = self.text[last.start : token.end + 1]
                raise FilterError(f"{shown(piece)} at character {last.start + 1} is not allowed; {_EXPECTED}")
            run = run + 1 if kind in (TokenType.NOT, TokenType.DASH) else 0
            if (opens and len(starts) == MAX_DEPTH) or run > 20:
                raise FilterError(
                    f"the filter is nested deeper than {MAX_DEPTH} parentheses or 20 NOT in a row at character "
                    f"{token.start + 1}; expected a simpler one"
                )
            if opens and not (last is not None and last.token_type is TokenType.IN):
                stack.append([])
                starts.append(token.start)
            elif closes:
                self.groups.append(self.group(stack.pop()))
                name = f"\0{len(self.groups) - 1}"
                stack[-1].append(Token(TokenType.IDENTIFIER, name, token.line, token.col, starts.pop(), token.end))
            else:
                listing = opens or (listing and kind is not TokenType.R_PAREN)
                stack[-1].append(Token(kind, token.text, token.line, token.col, token.start, token.end))
        if starts:
            raise FilterError(f"'(' at character {starts[-1] + 1} is never closed; {_EXPECTED}")
        return self.group(stack[0])

    def group(self, tokens: list[Any]) -> dict[str, Any]:
        from sqlglot import exp
        from sqlglot.dialects.sqlite import SQLite

        if not tokens:
            raise FilterError(f"the filter, or a pair of parentheses in it, is empty; {_EXPECTED}")
        try:
            tree = SQLite().parser().parse_into(exp.Condition, tokens, self.text)[0]
        except Exception as error:  # RecursionError too, under a caller that stands deep
            at = (getattr(error, "errors", None) or [{}])[0]
            near = f" near {shown(at['highlight'])} (line {at['line']}, column {at['col']})" if "line" in at else ""
            raise FilterError(f"the filter cannot be read{near}; {_EXPECTED}") from error
        return self.condition(tree)

    def condition(self, node: Any) -> dict[str, Any]:
        rule = _RULES.get(node.key) if node is not None else None
        if rule is None or {name for name, value in node.args.items() if value} - _PARTS:
            raise self.refused(node, "is not a condition")
        query = rule(self, node)
        return {"$not": query} if node.args.get("negate") else query  # NOT LIKE, in newer versions of sqlglot

    def parenthesised(self, node: Any) -> dict[str, Any]:
        if node.name[:1] != "\0":
            raise self.refused(node, "is not a condition (for a field that is true: field = TRUE)")
        return self.groups[int(node.name[1:])]

    def chain(self, node: Any) -> dict[str, Any]:
        todo, parts = [node], []
        while todo:  # not by recursion: a chain of 10,000 ANDs is a tree as deep
            top = todo.pop()
            if top is not None and top.key == node.key:
                todo += [top.expression, top.this]
            else:
                parts.append(self.condition(top))
        return {f"${node.key}": parts}

    def field(self, node: Any) -> str:
        names, top = [], node
        while top.key == "dot":
            names.append(top.expression)
            top = top.this
        names += [top.args.get(part) for part in ("this", "table", "db", "catalog")] if top.key == "column" else [top]
        names = [name for name in reversed(names) if name is not None]
        if any(name.key != "identifier" or name.name[:1] == "\0" for name in names):
            raise self.refused(node, "is not a field (a comparison has a field on the left, a literal on the right)")
        return spelled([name.name for name in names])

    def literal(self, node: Any) -> Any:
        value = node.this if node.key == "neg" else node
        if value.key == "literal" and not value.is_string:
            try:
                number = int(value.this) if value.this.isdigit() else float(value.this)
            except ValueError:
                raise self.refused(node, "is not a number") from None
            return number if value is node else -number
        if value is not node or value.key not in ("literal", "boolean", "null"):
            raise self.refused(node, "is not a literal (text stands in single quotes: 'class')")
        return None if value.key == "null" else value.this

    def refused(self, node: Any, reason: str) -> FilterError:
        try:
            piece = shown(re.sub('"\0\\d+"', "(...)", node.sql()))
        except Exception:  # a tree that is too deep or broken
            piece = "a part of the filter"
        return FilterError(f"{piece} {reason}; {_EXPECTED}")


_RULES: dict[str, Callable[[_Reader, Any], dict[str, Any]]] = {
    "column": _Reader.parenthesised,
    "not": lambda reader, node: {"$not": reader.condition(node.this)},
    "and": _Reader.chain,
    "or": _Reader.chain,
    "in": lambda reader, node: {reader.field(node.this): {"$in": [reader.literal(each) for each in node.expressions]}},
    "between": lambda reader, node: {
        reader.field(node.this): {"$gte": reader.literal(node.args["low"]), "$lte": reader.literal(node.args["high"])}
    },
    **dict.fromkeys(
        _NODES, lambda reader, node: {reader.field(node.this): {_NODES[node.key]: reader.literal(node.expression)}}
    ),
}
