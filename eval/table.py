"""Rows of cells as a table: for a page (markdown) and for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

Rows = Sequence[Sequence[str]]  # the first one is the header; the first column holds names, the others numbers


def markdown(rows: Rows) -> str:
    """The rows as a markdown table.

    Examples
    --------
    >>> print(markdown([["set", "n"], ["a", "10"]]))
    | set | n |
    | --- | ---: |
    | a | 10 |
    """
    head, *rest = rows
    marks = ["---", *["---:"] * (len(head) - 1)]
    cells = ([cell.replace("|", "\\|") for cell in row] for row in (head, marks, *rest))
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def text(rows: Rows) -> str:
    """The rows in columns, names to the left and numbers to the right.

    Examples
    --------
    >>> print(text([["set", "n"], ["a", "10"]]))
    set   n
    a    10
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    cells = ([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])] for row in rows)
    return "\n".join("  ".join(row).rstrip() for row in cells)
