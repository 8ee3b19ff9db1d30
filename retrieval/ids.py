"""Ids from a file, one a line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from indexes.errors import CorpusError, InputError

from .streams import decoded, lines_of


def read_ids(path: str) -> list[str]:
    """The ids of a file; "-" is standard input.

    A line is an id as it stands, without its line end; one that begins with a double quote is a JSON string, as
    an id must be written that holds a line end. Blank lines are left out.

    Raises
    ------
    CorpusError
        If the file cannot be read, a line is not UTF-8 or a quoted one not JSON; or if no id is left.
    """
    if path == "-":
        if sys.stdin is None:
            raise CorpusError("<stdin>", 0, "standard input is closed; pipe ids in or name a file")
        return _ids(sys.stdin.buffer, "<stdin>")
    try:
        with Path(path).open("rb") as file:
            return _ids(file, path)
    except OSError as error:
        raise CorpusError(path, 0, f"cannot be opened ({error.strerror}); expected a file of ids") from None


def _ids(stream: object, source: str) -> list[str]:
    ids = []
    for number, raw in lines_of(stream, source):  # type: ignore[arg-type]
        try:
            line = decoded(number, raw).removesuffix("\n").removesuffix("\r")
            if not line.strip():
                continue
            if line.startswith('"'):
                value = json.loads(line)
                if not isinstance(value, str):
                    raise InputError("is not one JSON string")
                line = value
        except (InputError, ValueError) as error:
            raise CorpusError(source, number, f"{error}; expected an id a line (in double quotes: as JSON)") from None
        ids.append(line)
    if not ids:
        raise CorpusError(source, 0, "holds no id; expected one a line")
    return ids
