"""Some seconds of `torture.concurrency`, and that what it looks for would be seen; `make torture` takes a minute."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from torture import concurrency
from torture.locks import names_one
from torture.notes import MODEL, Notes, State, documents_of
from torture.reader import QUESTIONS, Reader
from torture.result import Result

from retrieval import Engine


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return concurrency.run(6, seed=1)


@pytest.mark.parametrize("kind", ["commits beside readers", "reader", "contend", "second writer", "middle", "held"])
def test_every_answer_beside_a_writer_is_of_one_state(results: list[Result], kind: str) -> None:
    mine = [result for result in results if kind in result.kind]
    assert sum(result.number for result in mine) > 0
    assert [each for result in mine for each in result.violations] == []


def test_nothing_else_is_wrong_either(results: list[Result]) -> None:
    assert [each for result in results for each in result.violations] == []


def state(number: int, text: str = "some text") -> State:
    return {f"core{i:03}": (text, {"state": number, "half": i % 2}) for i in range(30)}


def reader_of(folder: Path, index: State, noted: list[State]) -> Reader:
    """A reader of an index, and of notes of other states, all of them committed."""
    Engine.build(documents_of(index), folder / "index", model=MODEL, whitening=None).close()
    notes = Notes(folder / "notes")
    for each in noted:
        notes.may_come(each)
        notes.has_come()
    return Reader(folder / "index", folder / "notes", seed=1)


ANSWERED = ["all documents", "a filter", "another filter", "get", "raw vectors"]  # by documents, not by their number


@pytest.mark.parametrize("question", ANSWERED)
def test_an_answer_of_no_state_would_be_seen(tmp_path: Path, question: str) -> None:
    mixed = state(0) | {"core005": ("new text", {"state": 0, "half": 1})}
    reader = reader_of(tmp_path, mixed, [state(0), state(0, "new text")])
    reader.ask(question)
    reader.close()
    assert len(reader.violations) == 1
    assert "is of no state" in reader.violations[0]


@pytest.mark.parametrize("question", ANSWERED)
def test_an_answer_of_an_old_state_would_be_seen(tmp_path: Path, question: str) -> None:
    reader = reader_of(tmp_path, state(0), [state(0), state(0, "new text")])
    reader.ask(question)
    reader.close()
    assert len(reader.violations) == 1
    assert "of the old 0" in reader.violations[0]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_right_answer_is_right(tmp_path: Path, question: str) -> None:
    reader = reader_of(tmp_path, state(1), [state(0), state(1)])
    reader.ask(question)
    reader.close()
    assert reader.violations == []


def test_a_refusal_that_names_nobody_would_be_seen() -> None:
    host = socket.gethostname()
    assert names_one(f"x is being written by process 12 on {host}; wait", {"12", "13"})
    assert not names_one(f"x is being written by process 14 on {host}; wait", {"12", "13"})
    assert not names_one("x is being written by another process; wait", {"12", "13"})
