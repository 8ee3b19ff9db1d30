"""The states that an index may be in, noted by who writes it and read by who asks it."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retrieval import Document
from retrieval.encoder import HashEncoder

from .asking import WORDS

State = dict[str, tuple[str, dict[str, Any]]]
"""Text and metadata by id."""

MODEL = HashEncoder(16)
CORE = 30  # documents that are there in every state
ANCHOR = "anchor red fox"  # the text of the first of them in every state


class Notes:
    """The states of an index in a file: written by one process, read by others.

    A line with documents says that this state may be seen from now on; one without, that no older one may.
    """

    def __init__(self, path: Path) -> None:
        path.touch()
        self._path, self._position = path, 0
        self.states: list[State] = []
        self.done = -1

    def may_come(self, state: State) -> None:
        """Note a state before its commit."""
        self._append(json.dumps(state))

    def has_come(self) -> None:
        """Note that the last state is committed."""
        self._append("null")

    def _append(self, line: str) -> None:
        with self._path.open("a") as file:
            file.write(line + "\n")
        self.read()

    def read(self) -> None:
        """Take in what was noted since the last time."""
        with self._path.open("rb") as file:
            file.seek(self._position)
            for line in file:
                if not line.endswith(b"\n"):  # it is being written
                    return
                self._position += len(line)
                if (noted := json.loads(line)) is None:
                    self.done = len(self.states) - 1
                else:
                    self.states.append({doc_id: (text, metadata) for doc_id, (text, metadata) in noted.items()})


def first_state(rng: random.Random) -> State:
    """The documents of state 0."""
    state = {f"core{i:03}": (some_text(rng), {"state": 0, "half": i % 2}) for i in range(CORE)}
    return {"core000": (ANCHOR, {"state": 0, "half": 1})} | {k: v for k, v in state.items() if k != "core000"}


def some_text(rng: random.Random) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(2, 6)))


def documents_of(state: Mapping[str, tuple[str, dict[str, Any]]]) -> list[Document]:
    return [Document(doc_id=doc_id, text=text, metadata=metadata) for doc_id, (text, metadata) in state.items()]


def new_documents(number: int, rng: random.Random) -> State:
    """Some that come with a state, not all of the same half."""
    count = rng.randint(2, 40)
    return {f"s{number}-{i}": (some_text(rng), {"state": number, "half": i % 2}) for i in range(count)}
