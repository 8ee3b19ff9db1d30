"""The command line inside of this process: quick enough for hundreds of runs, and any error but an exit shows itself.

Not a conftest: import what you need, ``from commands import run``.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from retrieval.cli import main

LOGGERS = ("retrieval", "indexes", "eval")


@dataclass(frozen=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """Lines that say what went wrong; click spells wrong usage the same way."""
        return [line for line in self.err.splitlines() if line.startswith("Error: ")]


def run(*arguments: object, stdin: bytes = b"") -> Ran:
    """`python -m retrieval` with these arguments; what would be a traceback there is raised here."""
    written = io.BytesIO(), io.BytesIO()
    out, err = (io.TextIOWrapper(each, encoding="utf-8", errors="strict", write_through=True) for each in written)
    err.reconfigure(errors="backslashreplace")  # as Python's own
    given = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    with _loggers_as_they_were(), patch.multiple(sys, stdin=given, stdout=out, stderr=err):
        try:
            main([str(argument) for argument in arguments])
            code: object = "no exit"
        except SystemExit as ended:
            code = ended.code or 0
    assert isinstance(code, int), code
    return Ran(code, written[0].getvalue().decode(), written[1].getvalue().decode())


@contextmanager
def _loggers_as_they_were() -> Iterator[None]:
    """The command line sets levels and handlers, which other tests must not see."""
    before = [(logger, logger.level, logger.handlers) for logger in map(logging.getLogger, LOGGERS)]
    try:
        yield
    finally:
        for logger, level, handlers in before:
            logger.setLevel(level)
            logger.handlers = handlers
