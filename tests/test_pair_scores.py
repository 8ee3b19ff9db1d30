"""Scores that are kept: by their file, whatever is done to it, and by the scorer that looks there before it asks."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_bundle import ENVIRONMENT
from test_engine import texts

from indexes import pair_scores
from indexes.errors import IndexExistsError, InputError
from indexes.pair_scores import PairScores
from indexes.writer import _foreign
from retrieval import Engine
from retrieval.remembered import RememberedScorer

KEYS = [bytes([i]) * 16 for i in range(50)]
SCORES = [i / 7 - 3 for i in range(50)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "pairs.sqlite"


@pytest.fixture
def filled(path: Path) -> Path:
    PairScores(path).put(KEYS, SCORES)
    return path


def warnings_of(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records if record.levelname == "WARNING"]


# ---- the file


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.dictionaries(st.sampled_from(KEYS[:5]), st.floats(allow_nan=False, allow_infinity=False), max_size=5))
)
@example([{KEYS[0]: -0.0, KEYS[1]: 5e-324, KEYS[2]: 2.0}, {KEYS[0]: 0.1}])
def test_what_was_put_last_is_got_bit_for_bit(puts: list[dict[bytes, float]]) -> None:
    with TemporaryDirectory() as folder:
        pairs, expected = PairScores(Path(folder) / "pairs.sqlite"), dict[bytes, float]()
        for some in puts:
            pairs.put(list(some), list(some.values()))
            expected |= some
        found = pairs.get(KEYS[:5])
    for key, score in zip(KEYS, found, strict=False):
        assert (key in expected) == (score is not None)
        assert score is None or struct.pack("<d", score) == struct.pack("<d", expected[key])


def test_scores_come_in_the_order_of_the_keys_also_twice(filled: Path) -> None:
    for order in ([3, 1, 2], [1, 1, 0, 1], []):
        assert PairScores(filled).get([KEYS[i] for i in order]) == [SCORES[i] for i in order]


def test_nothing_is_made_before_something_is_put(path: Path) -> None:
    pairs = PairScores(path)
    assert pairs.get(KEYS[:2]) == [None, None]
    assert list(path.parent.iterdir()) == []
    pairs.put(KEYS[:1], SCORES[:1])
    assert list(path.parent.iterdir()) == [path]


def test_the_file_stays_where_it_was_first_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    pairs = PairScores(Path("a?b#c%41.sqlite"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    pairs.put(KEYS[:1], [1.0])
    assert [entry.name for entry in tmp_path.iterdir() if entry.is_file()] == ["a?b#c%41.sqlite"]


def test_it_may_be_removed_replaced_and_copied_at_any_time(filled: Path, tmp_path: Path) -> None:
    pairs, copy = PairScores(filled), shutil.copy(filled, tmp_path / "copy")
    filled.unlink()
    assert pairs.get(KEYS[:1]) == [None]
    pairs.put(KEYS[:1], [4.0])
    assert PairScores(filled).get(KEYS[:2]) == [4.0, None]
    Path(copy).replace(filled)
    assert pairs.get(KEYS) == SCORES


def test_beyond_the_limit_the_oldest_go(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_scores, "LIMIT", 10)
    pairs = PairScores(path)

    def kept() -> list[int]:
        return [i for i, score in enumerate(pairs.get(KEYS)) if score is not None]

    pairs.put(KEYS[:10], SCORES[:10])
    assert kept() == list(range(10))
    pairs.put(KEYS[10:13], SCORES[10:13])
    assert kept() == list(range(3, 13))
    pairs.put(KEYS[3:4], [0.5])  # put again it is the newest
    pairs.put(KEYS[20:28], SCORES[20:28])
    assert kept() == [3, 12, *range(20, 28)]
    pairs.put(KEYS, SCORES)
    assert kept() == list(range(40, 50))


def test_a_file_at_its_limit_does_not_grow(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_scores, "LIMIT", 2000)
    pairs, rng, sizes = PairScores(path), random.Random(0), list[int]()
    for _ in range(60):
        pairs.put([rng.randbytes(16) for _ in range(200)], [0.5] * 200)
        sizes.append(path.stat().st_size)
    assert sizes[9] > 100_000 and max(sizes[10:]) < 1.3 * sizes[9]


def test_a_full_file_has_the_size_that_is_said(path: Path) -> None:
    rng = random.Random(0)
    PairScores(path).put([rng.randbytes(16) for _ in range(50_000)], [0.5] * 50_000)
    assert path.stat().st_size / 50_000 == pytest.approx(66, rel=0.05)


# ---- faults


def test_a_flipped_bit_costs_a_score_and_never_gives_another(filled: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Wherever it is; and what is put then is kept, or it is said why not."""
    good, rng, lost, begun = filled.read_bytes(), random.Random(0), 0, 0
    for place in rng.sample([i for i, byte in enumerate(good) if byte], 400):
        damaged = bytearray(good)
        damaged[place] ^= 1 << rng.randrange(8)
        filled.write_bytes(damaged)
        caplog.clear()
        pairs = PairScores(filled)
        found = pairs.get(KEYS)
        assert all(score in (None, right) for score, right in zip(found, SCORES, strict=True)), place
        lost += None in found
        begun += any("was damaged" in line for line in warnings_of(caplog))
        pairs.put([b"a key put later.."], [1.5])
        assert pairs.get([b"a key put later.."]) == [1.5] or warnings_of(caplog), place
        for suffix in ("-journal", "-wal", "-shm"):
            filled.with_name(filled.name + suffix).unlink(missing_ok=True)
    assert 40 < begun < lost < 400  # of both kinds there are some


def test_a_flipped_byte_in_a_row_is_a_miss_of_that_row(filled: Path, caplog: pytest.LogCaptureFixture) -> None:
    value = struct.pack("<d", SCORES[7])
    good = filled.read_bytes()
    assert good.count(value) == 1
    for place in range(12):  # the score and its checksum
        damaged = bytearray(good)
        damaged[good.index(value) + place] ^= 0x10
        filled.write_bytes(damaged)
        assert PairScores(filled).get(KEYS) == [*SCORES[:7], None, *SCORES[8:]]
    assert warnings_of(caplog) == []
    PairScores(filled).put(KEYS[7:8], SCORES[7:8])
    assert PairScores(filled).get(KEYS) == SCORES


@pytest.mark.parametrize(
    "value, kept",
    [
        ("(SELECT value FROM scores WHERE number = 3)", False),
        ("7", False),
        ("0.5", False),
        ("x'00'", False),
        ("value || x'00'", False),
        ("CAST(value AS TEXT)", True),  # the same bytes, though no UTF-8
    ],
)
def test_a_value_of_another_row_or_kind_is_a_miss(filled: Path, value: str, kept: bool) -> None:
    with closing(sqlite3.connect(filled)) as db, db:
        db.execute(f"UPDATE scores SET value = {value} WHERE number = 8")
    assert PairScores(filled).get(KEYS) == [*SCORES[:7], SCORES[7] if kept else None, *SCORES[8:]]


@pytest.mark.parametrize(
    "damage", [lambda b: b"no database" * 500, lambda b: b[:5000], lambda b: b[:4096] + b"\xff" * 8192]
)
@pytest.mark.parametrize("first", ["get", "put"])
def test_a_damaged_file_is_begun_again(
    filled: Path, damage: Callable[[bytes], bytes], first: str, caplog: pytest.LogCaptureFixture
) -> None:
    filled.write_bytes(damage(filled.read_bytes()))
    filled.with_name("pairs.sqlite-journal").write_bytes(b"of no use")
    pairs = PairScores(filled)
    if first == "get":
        assert pairs.get(KEYS) == [None] * 50
    else:
        pairs.put(KEYS, SCORES)
    (line,) = warnings_of(caplog)
    assert str(filled) in line and "was damaged" in line and "begun again" in line
    assert list(filled.parent.iterdir()) == []
    pairs.put(KEYS, SCORES)
    assert pairs.get(KEYS) == SCORES and len(warnings_of(caplog)) == 1


def test_a_file_without_anything_in_it_is_as_good_as_none(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.touch()  # what a kill leaves that comes before the first commit
    pairs = PairScores(path)
    assert pairs.get(KEYS[:1]) == [None]
    pairs.put(KEYS[:1], SCORES[:1])
    assert pairs.get(KEYS[:1]) == SCORES[:1] and warnings_of(caplog) == []


@pytest.fixture
def killed(filled: Path) -> Path:
    """A put that went as far as into the file, and no further."""
    code = f"""
import os, sqlite3
db = sqlite3.connect({str(filled)!r}, isolation_level=None)
db.execute("PRAGMA cache_size = 1")
db.execute("BEGIN")
db.execute("UPDATE scores SET value = x'00'")
db.executemany("INSERT INTO scores (key, value) VALUES (?, x'01')", [[os.urandom(16)] for _ in range(5000)])
os._exit(9)
"""
    before = filled.stat().st_size
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert filled.stat().st_size > before and filled.with_name("pairs.sqlite-journal").stat().st_size
    return filled


def test_a_kill_amid_a_put_leaves_what_was_there_before(killed: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert PairScores(killed).get(KEYS) == SCORES
    assert list(killed.parent.iterdir()) == [killed] and warnings_of(caplog) == []


def test_what_a_kill_leaves_beside_a_file_is_no_part_of_the_next(
    killed: Path, caplog: pytest.LogCaptureFixture
) -> None:
    killed.unlink()
    pairs = PairScores(killed)
    assert pairs.get(KEYS[:1]) == [None]
    pairs.put(KEYS[:1], [4.0])
    assert pairs.get(KEYS[:2]) == [4.0, None]
    assert list(killed.parent.iterdir()) == [killed] and warnings_of(caplog) == []


def check_only_kept_scores_are_got(pairs: PairScores, caplog: pytest.LogCaptureFixture, reason: str) -> None:
    """Where nothing can be written: a warning for all, and what is there stays."""
    for _ in range(3):
        assert pairs.get([*KEYS, b"new"]) == [*SCORES, None]
        pairs.put([b"new"], [1.0])
    (line,) = warnings_of(caplog)
    assert reason in line and "computed anew" in line


def test_a_folder_where_no_journal_can_be_made(filled: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What SQLite meets in a folder that is read-only, and for root too."""
    filled.with_name("pairs.sqlite-journal").symlink_to("nowhere/at/all")
    check_only_kept_scores_are_got(PairScores(filled), caplog, "unable to open database file")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
@pytest.mark.parametrize("locked", ["file", "folder", "both"])
def test_a_file_or_folder_without_write_permission(filled: Path, locked: str, caplog: pytest.LogCaptureFixture) -> None:
    file, folder = filled, filled.parent
    file.chmod(0o644 if locked == "folder" else 0o444)
    folder.chmod(0o755 if locked == "file" else 0o555)
    try:
        check_only_kept_scores_are_got(PairScores(filled), caplog, "")
    finally:
        folder.chmod(0o755)


def test_a_damaged_file_that_cannot_be_removed_is_told_once(
    filled: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: Path, missing_ok: bool = False) -> None:
        raise PermissionError(13, "Permission denied")

    filled.write_bytes(b"no database" * 500)
    monkeypatch.setattr(Path, "unlink", refuse)
    pairs = PairScores(filled)
    for _ in range(3):
        assert pairs.get(KEYS) == [None] * 50
        pairs.put(KEYS, SCORES)
    (line,) = warnings_of(caplog)
    assert "cannot be used" in line and "Permission denied" in line


def test_a_folder_that_is_not_there(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pairs = PairScores(tmp_path / "gone" / "pairs.sqlite")
    assert pairs.get(KEYS[:1]) == [None] and warnings_of(caplog) == []
    pairs.put(KEYS[:1], SCORES[:1])
    assert len(warnings_of(caplog)) == 1 and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["link", "dangling link", "folder", "pipe"])
def test_what_is_no_file_is_left_alone(filled: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    real = filled.rename(filled.with_name("real.sqlite"))
    content = real.read_bytes()
    {
        "link": lambda: filled.symlink_to(real),
        "dangling link": lambda: filled.symlink_to("other.sqlite"),
        "folder": filled.mkdir,
        "pipe": lambda: os.mkfifo(filled),
    }[kind]()
    pairs = PairScores(filled)
    for _ in range(2):
        assert pairs.get(KEYS[:1]) == [None]
        pairs.put(KEYS[:1], [1.0])
    (line,) = warnings_of(caplog)
    assert "not a regular file" in line
    assert real.read_bytes() == content and not (filled.parent / "other.sqlite").exists()


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Nobody else may read or write."""
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        yield


def test_a_lock_is_not_waited_for_long(
    filled: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pair_scores, "PATIENCE", 0.05)
    pairs = PairScores(filled)
    with held(filled):
        start = time.perf_counter()
        assert pairs.get(KEYS) == [None] * 50
        pairs.put(KEYS[:1], [1.0])
        assert time.perf_counter() - start < 5  # SQLite's own patience is 5 for each, sqlite_utils' door here 30
    (line,) = warnings_of(caplog)
    assert "database is locked" in line
    assert pairs.get(KEYS) == SCORES  # as they were
    pairs.put(KEYS[:1], [1.0])
    assert pairs.get(KEYS[:1]) == [1.0] and len(warnings_of(caplog)) == 1


def test_a_lock_that_goes_is_waited_for(
    filled: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pair_scores, "PATIENCE", 60.0)
    free = threading.Event()

    def hold() -> None:
        with held(filled):
            free.set()
            time.sleep(0.2)

    for work in (lambda: PairScores(filled).get(KEYS) == SCORES, lambda: PairScores(filled).put(KEYS, SCORES) is None):
        free.clear()
        other = threading.Thread(target=hold)
        other.start()
        free.wait()
        assert work()
        other.join()
    assert warnings_of(caplog) == []


def test_a_full_disk(filled: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """SQLite's own error, from a file that may have no more pages."""
    real = sqlite3.connect

    def connect(*name: Any, **how: Any) -> sqlite3.Connection:
        connection = real(*name, **how)
        connection.execute("PRAGMA max_page_count = 4")
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect)
    pairs, many = PairScores(filled), [i.to_bytes(16, "big") for i in range(1, 1001)]
    for _ in range(2):
        pairs.put(many, [0.0] * 1000)
    (line,) = warnings_of(caplog)
    assert "full" in line
    assert pairs.get(KEYS) == SCORES and set(pairs.get(many)) == {None}
    monkeypatch.undo()
    pairs.put(many, [0.0] * 1000)
    assert pairs.get(many) == [0.0] * 1000


def test_threads_share_one(path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(pair_scores, "PATIENCE", 60.0)
    pairs, wrong = PairScores(path), list[object]()

    def work(mine: int) -> None:
        for i in range(40):
            keys = [bytes([mine, i, j]) * 5 for j in range(5)]
            pairs.put(keys, [float(mine * i + j) for j in range(5)])
            if (found := pairs.get(keys)) != [float(mine * i + j) for j in range(5)]:
                wrong.append(found)

    threads = [threading.Thread(target=work, args=[mine]) for mine in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    everything = [bytes([mine, i, j]) * 5 for mine in range(4) for i in range(40) for j in range(5)]
    assert wrong == [] and None not in pairs.get(everything) and warnings_of(caplog) == []


def test_processes_share_one(path: Path) -> None:
    code = f"""
import logging, sys
from pathlib import Path
from indexes import pair_scores
logging.basicConfig(level="WARNING")
pair_scores.PATIENCE = 60.0
mine = int(sys.argv[1])
sys.stdin.readline()  # all at once
for i in range(60):
    keys = [bytes([mine, i, j]) * 5 for j in range(5)] + [b"everybody's"]
    scores = [float(mine * i + j) for j in range(5)] + [1.0]
    pairs = pair_scores.PairScores(Path({str(path)!r}))
    pairs.put(keys, scores)
    assert pairs.get(keys) == scores, i
"""
    children = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(mine)],
            env=ENVIRONMENT,
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for mine in range(3)
    ]
    ends = []
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    for child in children:
        ends.append((child.communicate(timeout=120)[1], child.returncode))
    assert ends == [("", 0)] * 3
    everything = [bytes([mine, i, j]) * 5 for mine in range(3) for i in range(60) for j in range(5)]
    assert None not in PairScores(path).get(everything)


# ---- the scorer


class Lengths:
    """Scores of pairs by a formula that knows one from the other; counts what it is asked."""

    name = "lengths"

    def __init__(self, fingerprint: Any = None, dtype: Any = np.float32) -> None:
        self.fingerprint = {"weights": "00"} if fingerprint is None else fingerprint
        self.dtype, self.asked, self.calls = dtype, list[tuple[str, str]](), 0

    def of(self, first: str, second: str) -> float:
        return 10 * len(first) + len(second) + sum(map(ord, first)) / 7 - sum(map(ord, second)) / 3

    def __call__(self, query: str, some: Sequence[str]) -> Any:
        self.calls += 1
        self.asked += [(query, text) for text in some]
        return np.array([self.of(query, text) for text in some], self.dtype)


class LengthsOfPairs(Lengths):
    """... and takes the pairs of several queries in one call."""

    def scores(self, firsts: Sequence[str], seconds: Sequence[str]) -> Any:
        self.calls += 1
        self.asked += list(zip(firsts, seconds, strict=True))
        return np.array([self.of(first, second) for first, second in self.asked[-len(firsts) :]], self.dtype)


class Kept(dict[bytes, float]):
    """PairScores without a file."""

    def put(self, keys: Sequence[bytes], scores: Sequence[float]) -> None:
        self.update(zip(keys, scores, strict=True))

    def get(self, keys: Sequence[bytes]) -> list[float | None]:  # type: ignore[override]
        return [super(Kept, self).get(key) for key in keys]


def remembered(scorer: Any, pairs: Any = None) -> RememberedScorer:
    return RememberedScorer(scorer, Kept() if pairs is None else pairs)


WORDS = st.text("ab", max_size=2)


@settings(deadline=None)
@given(
    calls=st.lists(st.lists(st.tuples(WORDS, WORDS), max_size=12), max_size=4),
    kind=st.sampled_from([Lengths, LengthsOfPairs]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_scores_are_the_scorer_s_and_each_pair_is_asked_once(
    calls: list[list[tuple[str, str]]], kind: type[Lengths], dtype: Any
) -> None:
    scorer = kind(dtype=dtype)
    made = remembered(scorer)
    for some in calls:
        found = made.scores([first for first, _ in some], [second for _, second in some])
        expected = np.array([scorer.of(*pair) for pair in some], dtype).astype(np.float64)
        np.testing.assert_array_equal(found, expected, strict=True)
    everything = [pair for some in calls for pair in some]
    assert sorted(scorer.asked) == sorted(set(everything))
    assert made.asked == len(scorer.asked) and made.asked + made.remembered == len(everything)


@pytest.mark.parametrize("kind", [Lengths, LengthsOfPairs])
def test_a_second_search_asks_nothing(path: Path, kind: type[Lengths]) -> None:
    scorer, some = kind(), ["one", "three", "five"]
    first = remembered(scorer, PairScores(path))("a query", some)
    again = remembered(scorer, PairScores(path))
    np.testing.assert_array_equal(again("a query", some), first)
    np.testing.assert_array_equal(again("a query", some[::-1]), first[::-1])
    assert (scorer.calls, len(scorer.asked), again.asked, again.remembered) == (1, 3, 0, 6)
    again.scores(["a query", "b", "a query", "b"], ["one", "one", "two", "two"])
    assert scorer.asked[3:] in (
        [("b", "one"), ("b", "two"), ("a query", "two")],
        [("a query", "two"), ("b", "one"), ("b", "two")],
    )
    assert scorer.calls == (2 if kind is LengthsOfPairs else 3)  # one call for all, or one for each query


PARTS = st.text("ab\0\x01\x02", max_size=3) | st.text(max_size=5)
TRIPLES = st.tuples(st.dictionaries(WORDS, PARTS, min_size=1, max_size=2), PARTS, PARTS)


@settings(max_examples=300, deadline=None)
@given(TRIPLES, TRIPLES)
@example(({"a": "b"}, "ab", "c"), ({"a": "b"}, "a", "bc"))
@example(({"a": "b"}, "", "c"), ({"a": "b"}, "c", ""))
@example(({"a": "b"}, "q", "t"), ({"a": "c"}, "q", "t"))
@example(({"a": "b"}, "q", "t"), ({"b": "a"}, "q", "t"))
@example(({"a": "b", "b": "a"}, "q", "t"), ({"b": "a", "a": "b"}, "q", "t"))
@example(({"a": "b"}, "\ud800", "t"), ({"a": "b"}, "?", "t"))
@example(({"a": "b"}, "é", "t"), ({"a": "b"}, "e\u0301", "t"))
def test_other_scorers_queries_and_texts_have_other_keys(one: Any, other: Any) -> None:
    kept = Kept()
    for fingerprint, query, text in (one, other):
        remembered(Lengths(fingerprint), kept)(query, [text])
    assert len(kept) == (1 if one == other else 2) and {len(key) for key in kept} == {16}


LONG = "x" * 255


@pytest.mark.parametrize(
    "one, other",
    [
        (("a", "\0\0\0\0\0\0\0\x01b"), ("a\0\0\0\0\0\0\0\x01", "b")),
        (("", "\0" * 8), ("\0" * 8, "")),
        ((LONG, "x"), ("x", LONG)),
        ((LONG + "x", LONG), (LONG, LONG + "x")),
    ],
)
def test_no_two_pairs_are_the_same_bytes(one: tuple[str, str], other: tuple[str, str]) -> None:
    """A length that is written in a text, and one that needs a second byte."""
    made = remembered(Lengths())
    for query, text in (one, other):
        made(query, [text])
    assert made.asked == 2


def test_keys_stay_what_they_are() -> None:
    """A file of today is read tomorrow, by another process with another seed of hashes."""
    kept = Kept()
    remembered(Lengths({"weights": "00", "max_tokens": 128}), kept)("a query", ["a text"])
    assert [key.hex() for key in kept] == ["e26d53410802c202ebac0a987648dea5"]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_scores_that_are_no_numbers_are_refused_and_not_kept(bad: float) -> None:
    scorer, kept = Lengths(), Kept()
    scorer.of = lambda first, second: bad if second == "b" else 1.0  # type: ignore[method-assign]
    with pytest.raises(InputError, match="not finite for 'b'"):
        remembered(scorer, kept)("q", ["a", "b"])
    assert not kept
    scorer.of = lambda first, second: 2.0  # type: ignore[method-assign]
    assert remembered(scorer, kept)("q", ["a", "b"]).tolist() == [2.0, 2.0]


@pytest.mark.parametrize("wrong", [[1.0], [1.0, 2.0, 3.0], [[1.0, 2.0]]])
def test_scores_of_another_number_are_refused_and_not_kept(wrong: Any) -> None:
    def scorer(query: str, some: Sequence[str]) -> Any:
        return wrong

    scorer.fingerprint = {"of": "a function"}  # type: ignore[attr-defined]
    made = remembered(scorer, kept := Kept())
    with pytest.raises(InputError, match="expected one for each"):
        made("q", ["a", "b"])
    assert not kept and made.asked == made.remembered == 0


@pytest.mark.parametrize(
    "fingerprint", [{}, "", "the weights", 7, [1, 2], {"a": np.zeros(2)}, {"a": b"bytes"}], ids=repr
)
def test_a_scorer_that_cannot_be_told_from_another_is_refused(fingerprint: Any) -> None:
    with pytest.raises(InputError, match="give it a `fingerprint`"):
        remembered(Lengths(fingerprint))


def test_a_scorer_without_a_fingerprint_is_refused() -> None:
    with pytest.raises(InputError, match="fingerprint None; give it a `fingerprint`, a mapping"):
        remembered(lambda query, some: [1.0] * len(some))


@pytest.mark.parametrize("pair", [(7, "text"), ("query", 7), ("query", b"text")])
def test_only_texts_are_remembered(pair: tuple[Any, Any]) -> None:
    with pytest.raises(InputError, match="only scores of texts"):
        remembered(Lengths())(pair[0], [pair[1]])


def test_as_many_of_both_are_expected() -> None:
    with pytest.raises(InputError, match="2 first texts and 1 second"):
        remembered(Lengths()).scores(["a", "b"], ["c"])


def test_name_and_fingerprint_are_the_scorer_s() -> None:
    scorer = Lengths()
    assert (remembered(scorer).name, remembered(scorer).fingerprint) == ("lengths", {"weights": "00"})
    unnamed = SimpleNamespace(fingerprint={"a": 1})
    assert remembered(unnamed).name is None


# ---- in an index


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pairs") / "index"
    Engine.build(texts(200), folder, model="hash:32").close()
    return folder


@pytest.mark.parametrize("method", ["plain", "adaptive"])
def test_hits_are_the_same_and_the_second_search_asks_nothing(made: Path, tmp_path: Path, method: Any) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "index"))
    queries = texts(4, seed=1)
    with Engine.open(folder) as engine:
        search = partial(engine.search, queries, 5, budget=30, method=method)
        expected = search(rerank=LengthsOfPairs())
        for asked in (120, 0):
            scorer = remembered(LengthsOfPairs(), PairScores(folder / "pairs.sqlite"))
            assert search(rerank=scorer) == expected
            assert (scorer.asked, scorer.remembered) == (asked, 120 - asked)


def test_the_index_does_not_mind_the_file(made: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(made, tmp_path / "index"))
    for suffix in ("", "-journal", "-wal", "-shm"):
        (folder / f"pairs.sqlite{suffix}").write_bytes(b"anything")
    with Engine.open(folder) as engine:
        engine.add([("new", "a new text")])
        engine.delete(["new"])
        engine.compact()
        assert [check.problem for check in engine.verify(deep=True) if check.problem] == []
    assert (folder / "pairs.sqlite").read_bytes() == b"anything"


def test_a_new_index_may_be_built_beside_the_file(path: Path) -> None:
    PairScores(path).put(KEYS, SCORES)
    Engine.build(["one", "two"], path.parent, model="hash:8", whitening=None).close()
    assert PairScores(path).get(KEYS) == SCORES


@pytest.mark.parametrize("name", ["pairs.sqlite.bak", "pairs.seal", "pairs", "other.sqlite", "segments/pairs.sqlite"])
def test_other_names_are_still_a_stranger_s(tmp_path: Path, name: str) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).touch()
    assert _foreign(tmp_path) == [name]
    with pytest.raises(IndexExistsError, match="holds other things"):
        Engine.build(["one"], tmp_path, model="hash:8", whitening=None)


def test_a_folder_of_its_name_is_a_stranger_s(path: Path) -> None:
    path.mkdir()
    assert _foreign(path.parent) == ["pairs.sqlite"]
