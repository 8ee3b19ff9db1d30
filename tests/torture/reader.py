"""One who asks an index while others write it, and holds each answer against the states there may be."""

from __future__ import annotations

import random
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from retrieval import Engine

from .notes import ANCHOR, CORE, MODEL, Notes, State, some_text


class Reader:
    """One who asks, and holds each answer against the states there may be."""

    def __init__(self, folder: Path, notes: Path, seed: int) -> None:
        self._folder, self._notes, self._rng = folder, Notes(notes), random.Random(seed)
        self._engine = Engine.open(folder, model=MODEL)
        self._seen = 0
        self.counts: Counter[str] = Counter()
        self.violations: list[str] = []

    def ask(self, name: str | None = None) -> None:
        """Ask one thing, at random if it is not named."""
        name = name or self._rng.choices(list(QUESTIONS), [weight for weight, _ in QUESTIONS.values()])[0]
        self._notes.read()
        oldest = max(self._seen, self._notes.done)
        self.counts[name] += 1
        try:
            problem = QUESTIONS[name][1](self, oldest)
        except Exception:
            problem = traceback.format_exc(limit=-8)
        if problem is not None:
            self.violations.append(f"{name}, states {oldest} to {len(self._notes.states) - 1}: {problem}")

    def close(self) -> None:
        """Let go of the index; `ask` for "open" opens it again."""
        self._engine.close()

    def _one_of(self, oldest: int, part: Callable[[State], bool], what: object) -> str | None:
        """Go on to the first state that an answer can be of, or say that there is none."""
        self._notes.read()
        for number in range(oldest, len(self._notes.states)):
            if part(self._notes.states[number]):
                self._seen = number
                return None
        others = [number for number in range(oldest) if part(self._notes.states[number])]
        return f"is of no state{f', but of the old {others[-1]}' if others else ''}: {str(what)[:600]}"

    def _search(self, filter: Any) -> State:
        anchored, _ = self._engine.search([ANCHOR, some_text(self._rng)], k=10_000, filter=filter)
        for hit in anchored:
            if hit.text == ANCHOR and not 0.99 < hit.score < 1.01:
                raise AssertionError(f"a document is {hit.score} like itself")
        return {hit.doc_id: (hit.text, dict(hit.metadata)) for hit in anchored}

    def whole(self, oldest: int) -> str | None:
        found = self._search(None)
        return self._one_of(oldest, lambda state: found == state, found)

    def half(self, oldest: int) -> str | None:
        found = self._search("half = 1")
        return self._one_of(oldest, lambda state: found == {k: v for k, v in state.items() if v[1]["half"]}, found)

    def of_state(self, oldest: int) -> str | None:
        wanted = self._rng.randint(0, len(self._notes.states))
        found = self._search({"state": {"$lte": wanted}})
        return self._one_of(
            oldest, lambda state: found == {k: v for k, v in state.items() if v[1]["state"] <= wanted}, found
        )

    def get(self, oldest: int) -> str | None:
        ids = [f"core{i:03}" for i in range(CORE)]
        found = [(one.text, dict(one.metadata)) for one in self._engine.get(ids)]
        return self._one_of(oldest, lambda state: found == [state[doc_id] for doc_id in ids], found)

    def raw(self, oldest: int) -> str | None:
        ids, vectors = self._engine.raw_documents()

        def fits(state: State) -> bool:
            if set(ids) != set(state) or len(ids) != len(state):
                return False
            expected = MODEL.encode([state[doc_id][0] for doc_id in ids]).vectors
            return bool(np.array_equal(np.asarray(vectors), expected.astype(np.float16)))

        return self._one_of(oldest, fits, ids)

    def info(self, oldest: int) -> str | None:
        counts = {self._engine.info()["documents"], len(self._engine)}
        return self._one_of(0, lambda state: len(state) in counts, counts)  # of what is loaded, which may be old

    def reopen(self, oldest: int) -> str | None:
        opened = Engine.open(self._folder, model=MODEL)
        self._engine.close()
        self._engine = opened
        count = len(self._engine)
        return self._one_of(oldest, lambda state: len(state) == count, count)

    def verify(self, oldest: int) -> str | None:
        problems = [check for check in self._engine.verify(deep=True) if check.problem]
        return str(problems) if problems else None


QUESTIONS: dict[str, tuple[int, Callable[[Reader, int], str | None]]] = {
    "all documents": (30, Reader.whole),
    "a filter": (20, Reader.half),
    "another filter": (10, Reader.of_state),
    "get": (10, Reader.get),
    "raw vectors": (10, Reader.raw),
    "info": (5, Reader.info),
    "open": (10, Reader.reopen),
    "verify": (5, Reader.verify),
}
"""How often, for each time, and what is asked: gives what is wrong with the answer to be of this state or a later one."""
