"""Documents and vectors on their way into an index: ids, copies, resuming, what is refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage import (
    CELLS,
    DIM,
    PLAN,
    Float32,
    cell,
    encode,
    encode_staged,
    flips,
    is_long,
    no_waiting_for_the_disk,
    records,
    refuse,
    staged,
)

import indexes.spool
import indexes.staging
from indexes.catalogue import text_hash
from indexes.document import Document
from indexes.errors import InputError, VectorError
from indexes.staging import Staging

Stage = Callable[..., Staging]

TEXTS = ["one", "two", "one", "a text that is long", "three", "two", "one", "a text that is long", "four"]
UNIQUE = list(dict.fromkeys(TEXTS))


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Hundreds of builds."""
    with no_waiting_for_the_disk():
        yield


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Batches of two documents, chunks of three rows."""
    monkeypatch.setattr(indexes.staging, "_BATCH", 2)
    monkeypatch.setattr(indexes.staging, "CHUNK", 3)


def stage(folder: Path, documents: Iterable[Document | str], dtype: str = "float16", **how: Any) -> Staging:
    """A staging area that is ready for vectors."""
    staging = Staging(folder)
    staging.add(records(documents), refuse)
    staging.begin_vectors(how.get("dim", DIM), dtype, how.get("plan", PLAN))
    return staging


def ids(folder: Path, documents: Iterable[Document | str]) -> list[str]:
    """The ids that documents get."""
    staging = Staging(folder)
    with closing(staging):
        staging.add(records(documents), refuse)
        return [doc_id for _, doc_id, _ in staged(folder)]


def stored(folder: Path) -> tuple[bytes, bytes]:
    """What a finished build leaves: the files of vectors and flags."""
    return (folder / "raw.npy").read_bytes(), (folder / "truncated.bin").read_bytes()


def whole(folder: Path, texts: Sequence[str] = TEXTS, **how: Any) -> tuple[bytes, bytes]:
    """The same of a build that nothing interrupts."""
    with closing(stage(folder, texts, **how)) as staging:
        encode_staged(staging)
    return stored(folder)


# ---- documents


def test_ids_are_text_and_the_users_own(tmp_path: Path) -> None:
    given_ids = [
        "007",
        "1e5",
        "1",
        "01",
        "1.0",
        "-0",
        "null",
        "NULL",
        "🦊",
        "a\nb\r",
        " ",
        "'); --",
        "é",
        "e\u0301",
        "A",
        "a",
    ]
    assert ids(tmp_path / "s", [Document(doc_id=each, text="x") for each in given_ids]) == given_ids


def test_texts_come_back_as_they_are(tmp_path: Path) -> None:
    texts = ["a\0b", "\ufeffx", "line\nline\r\n", " x ", "🦊", "007", "e\u0301"]
    with closing(Staging(tmp_path / "s")) as staging:
        staging.add(records(texts), refuse)
        assert [text for _, _, text in staged(tmp_path / "s")] == texts


def test_a_missing_id_is_made_from_the_text(tmp_path: Path) -> None:
    hashed = hashlib.blake2b("The red fox 🦊".encode(), digest_size=16).hexdigest()
    assert ids(tmp_path / "a", ["The red fox 🦊", "x"]) == [f"text:{hashed[:16]}", "text:442a44457137672b"]
    assert ids(tmp_path / "b", ["x", "The red fox 🦊"]) == ["text:442a44457137672b", f"text:{hashed[:16]}"]


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_copies_without_an_id_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int) -> None:
    monkeypatch.setattr(indexes.staging, "_BATCH", batch)
    x, y = (f"text:{text_hash(text)[:8].hex()}" for text in "xy")
    corpus = ["x", "x", "y", Document(doc_id="own", text="x"), "x", "y", "x"]
    assert ids(tmp_path / "s", corpus) == [x, f"{x}:2", y, "own", f"{x}:3", f"{y}:2", f"{x}:4"]


@pytest.mark.parametrize("batch", [1, 2, 100])
def test_ids_made_from_the_text_step_aside_for_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    # an index that was exported and is built again with more texts behind: sqlite3.IntegrityError, once
    monkeypatch.setattr(indexes.staging, "_BATCH", batch)
    x = f"text:{text_hash('x')[:8].hex()}"
    own = [x, f"{x}:2", f"{x}:4", "text:mine"]
    corpus = [*(Document(doc_id=each, text="x") for each in own), "x", "x"]
    assert ids(tmp_path / "a", corpus) == [*own, f"{x}:3", f"{x}:5"]
    assert ids(tmp_path / "b", [Document(doc_id=x, text="another text"), "x"]) == [x, f"{x}:2"]
    assert ids(tmp_path / "c", [Document(doc_id="text:mine", text="x"), "x"]) == ["text:mine", x]


@pytest.mark.parametrize("batch", [1, 2, 3, 100])
def test_an_id_that_was_used_before_is_called_back_with_both_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, batch: int
) -> None:
    monkeypatch.setattr(indexes.staging, "_BATCH", batch)
    calls = []
    corpus = [
        ("a", "1"),
        ("b", "2"),
        ("a", "3"),
        ("c", "4"),
        ("a", "1"),
        ("A", "5"),
        (None, "6"),
        (f"text:{text_hash('6')[:8].hex()}", "7"),
    ]
    with closing(Staging(tmp_path / "s")) as staging:
        staging.add(
            records(Document(doc_id=doc_id, text=text) for doc_id, text in corpus),
            lambda document, source, line, reason: calls.append((document.text, f"{source}:{line}", reason)),
        )
        assert [text for _, _, text in staged(tmp_path / "s")] == ["1", "2", "4", "5", "6"]
        assert [row for row, _, _ in staged(tmp_path / "s")] == list(range(staging.count)) == [0, 1, 2, 3, 4]
    reason = "id 'a' was used before, at corpus.txt:1; ids must differ"
    assert calls[:2] == [("3", "corpus.txt:3", reason), ("1", "corpus.txt:5", reason)]
    assert calls[2][:2] == ("7", "corpus.txt:8") and "was used before, at corpus.txt:7" in calls[2][2]
    assert len(calls) == 3


def test_a_callback_that_raises_ends_the_staging(tmp_path: Path) -> None:
    class Stop(Exception):
        pass

    def stop(document: Document, source: str, line: int, reason: str) -> None:
        raise Stop(f"{source}:{line}")

    twice = [Document(doc_id="a", text="x")] * 2
    with closing(Staging(tmp_path / "s")) as staging, pytest.raises(Stop, match="corpus.txt:2"):
        staging.add(records(twice), stop)


def test_documents_of_several_calls_go_on_counting(tmp_path: Path) -> None:
    with closing(Staging(tmp_path / "s", first_row=10)) as staging:
        staging.add(records(["x"]), refuse)
        staging.add(records([]), refuse)
        staging.add(records(["x"]), refuse)
        x = f"text:{text_hash('x')[:8].hex()}"
        assert staged(tmp_path / "s") == [(10, x, "x"), (11, f"{x}:2", "x")]
        assert staging.count == 2


# ---- vectors


@pytest.mark.parametrize("first_row", [0, 7])
@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 9, 100])
def test_equal_texts_are_asked_for_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, first_row: int
) -> None:
    monkeypatch.setattr(indexes.staging, "CHUNK", chunk)
    with closing(Staging(tmp_path / "s", first_row=first_row)) as staging:
        staging.add(records(TEXTS), refuse)
        staging.begin_vectors(DIM, "float16", PLAN)
        asked = encode_staged(staging)
        assert all(0 < len(texts) <= chunk for texts in asked)
        assert [text for texts in asked for text in texts] == UNIQUE
        assert staging.encoded == staging.count == len(TEXTS)
        np.testing.assert_array_equal(staging.raw(), [cell(text) for text in TEXTS])
        assert staging.truncated().tolist() == [is_long(text) for text in TEXTS]


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_raw_vectors_are_a_plain_numpy_file(tmp_path: Path, dtype: str) -> None:
    thirds = {text: cell(text) / np.float32(3) for text in TEXTS}
    with closing(stage(tmp_path / "s", TEXTS, dtype)) as staging:
        encode_staged(staging, thirds.__getitem__)
        raw = np.load(tmp_path / "s" / "raw.npy", allow_pickle=False)
        assert raw.dtype == np.dtype(dtype) and raw.flags.c_contiguous
        np.testing.assert_array_equal(raw, np.stack([thirds[text] for text in TEXTS]).astype(dtype))
        np.testing.assert_array_equal(raw, staging.raw())


def test_before_the_first_chunk_there_is_nothing(tmp_path: Path) -> None:
    with closing(stage(tmp_path / "s", TEXTS)) as staging:
        assert staging.encoded == 0 and staging.raw().shape == (0, DIM) and staging.truncated().shape == (0,)


def bad(value: float) -> Float32:
    vectors = np.array(CELLS[:2])
    vectors[1, 2] = value
    return vectors


@pytest.mark.parametrize(
    "dtype, vectors, message",
    [
        ("float16", bad(np.nan), "NaN, infinite or beyond 65,504"),
        ("float16", bad(np.inf), "NaN, infinite or beyond 65,504"),
        ("float16", bad(65_520.0), "do not fit float16.*raw='float32'"),
        ("float16", bad(-1e30), "do not fit float16"),
        ("float32", bad(np.nan), "do not fit float32"),
        ("float32", bad(-np.inf), "do not fit float32"),
        ("float32", bad(1.0).astype(np.float64) * 1e39, "do not fit float32"),
        ("float16", CELLS[:1], r"shape \(1, 4\).*expected \(2, 4\)"),  # one row would be broadcast to all
        ("float16", CELLS[:2, :1], r"shape \(2, 1\).*expected \(2, 4\)"),
        ("float16", CELLS[:3], r"shape \(3, 4\).*expected \(2, 4\)"),
        ("float16", CELLS[0], r"shape \(4,\).*expected \(2, 4\)"),
    ],
)
def test_vectors_that_cannot_be_kept_are_refused(tmp_path: Path, dtype: str, vectors: Any, message: str) -> None:
    with closing(stage(tmp_path / "s", ["one", "two"], dtype)) as staging:
        for _ in staging.chunks():
            with pytest.raises(VectorError, match=message):
                staging.put(vectors, np.zeros(2, np.bool_))
            assert staging.encoded == 0
            staging.put(CELLS[:2], np.zeros(2, np.bool_))  # nothing of the bad ones stays
        np.testing.assert_array_equal(staging.raw(), CELLS[:2])


def test_flags_of_another_length_are_refused(tmp_path: Path) -> None:
    with closing(stage(tmp_path / "s", ["one", "two"])) as staging:
        next(staging.chunks())
        with pytest.raises(VectorError, match=r"shape \(1,\)"):
            staging.put(CELLS[:2], np.zeros(1, np.bool_))


def test_what_fits_just_so_is_kept(tmp_path: Path) -> None:
    with closing(stage(tmp_path / "s", ["one", "two"])) as staging:
        next(staging.chunks())
        staging.put(bad(65_504.0), np.zeros(2, np.bool_))
        assert float(staging.raw()[1, 2]) == 65_504.0


# ---- resuming


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("stop", range(5))
def test_a_build_goes_on_where_it_was(tmp_path: Path, stop: int, dtype: str) -> None:
    expected = whole(tmp_path / "whole", dtype=dtype)
    with closing(stage(tmp_path / "s", TEXTS, dtype)) as staging:
        before = encode_staged(staging, chunks=stop)
        encoded = staging.encoded
    with closing(stage(tmp_path / "s", TEXTS, dtype)) as staging:
        assert staging.encoded == encoded
        after = encode_staged(staging)
        assert [text for texts in before + after for text in texts] == UNIQUE
        assert staging.truncated().tolist() == [is_long(text) for text in TEXTS]
    assert stored(tmp_path / "s") == expected


@pytest.mark.usefixtures("small")
def test_a_finished_build_asks_for_nothing(tmp_path: Path) -> None:
    expected = whole(tmp_path / "s")
    with closing(stage(tmp_path / "s", TEXTS)) as staging:
        assert staging.encoded == len(TEXTS) and encode_staged(staging) == []
    assert stored(tmp_path / "s") == expected


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("function", ["_write_at", "write_durably"])
@pytest.mark.parametrize("call", range(6))
def test_a_write_that_fails_costs_one_chunk_at_most(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, call: int, error: type[BaseException]
) -> None:
    expected = whole(tmp_path / "whole")
    real, calls = getattr(indexes.spool, function), []

    def fail(*arguments: Any) -> None:
        calls.append(arguments)
        if len(calls) > call:
            raise error("no space left")
        real(*arguments)

    with closing(stage(tmp_path / "s", TEXTS)) as staging, monkeypatch.context() as patch:
        patch.setattr(indexes.spool, function, fail)
        if call < 3 or function == "_write_at":  # three chunks: six writes, three notes of progress
            with pytest.raises(error, match="no space left"):
                encode_staged(staging)
        encoded = staging.encoded
    with closing(stage(tmp_path / "s", TEXTS)) as staging:
        assert staging.encoded >= min(3 * (call // 2 if function == "_write_at" else call), encoded)
        encode_staged(staging)
    assert stored(tmp_path / "s") == expected


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "change",
    [
        {"plan": {"model": {"name": "a test", "fingerprint": "01"}}},
        {"plan": {}},
        {"dim": 2},
        {"dtype": "float32"},
        {"texts": [*TEXTS[:-1], "five"]},
        {"texts": TEXTS[:-1]},
        {"texts": [*TEXTS, "five"]},
        {"texts": [TEXTS[1], TEXTS[0], *TEXTS[2:]]},
        {"texts": [Document(doc_id="own", text=TEXTS[0]), *TEXTS[1:]]},
        {"texts": [Document(text=TEXTS[0], metadata={"a": 1}), *TEXTS[1:]]},
    ],
    ids=repr,
)
def test_another_build_starts_again(tmp_path: Path, change: dict[str, Any]) -> None:
    how = {"texts": TEXTS, "dtype": "float16", "dim": DIM, "plan": PLAN} | change
    texts, dim = how.pop("texts"), how["dim"]

    def embed(text: str) -> Float32:
        return cell(text)[:dim]

    with closing(stage(tmp_path / "whole", texts, **how)) as staging:
        encode_staged(staging, embed)
    with closing(stage(tmp_path / "s", TEXTS)) as staging:
        encode_staged(staging, chunks=2)
    with closing(stage(tmp_path / "s", texts, **how)) as staging:
        assert staging.encoded == 0
        encode_staged(staging, embed)
        assert staging.encoded == len(texts)
    assert (tmp_path / "s" / "raw.npy").read_bytes() == (tmp_path / "whole" / "raw.npy").read_bytes()


@pytest.mark.usefixtures("small")
def test_the_vectors_of_another_plan_are_never_taken_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # plan A stops after a chunk, plan B dies between its vectors and its note of progress, plan A is run again
    expected = whole(tmp_path / "whole")
    with closing(stage(tmp_path / "s", TEXTS)) as staging:
        encode_staged(staging, chunks=1)
    with closing(stage(tmp_path / "s", TEXTS, plan={"model": "B"})) as staging, monkeypatch.context() as patch:

        def die(*arguments: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(indexes.spool, "write_durably", die)
        with pytest.raises(KeyboardInterrupt):
            encode_staged(staging, lambda text: -cell(text))
    with closing(stage(tmp_path / "s", TEXTS)) as staging:
        encode_staged(staging)
    assert stored(tmp_path / "s") == expected


def test_a_plan_may_hold_what_json_spells_otherwise(tmp_path: Path) -> None:
    plan = {"shape": (1, 2), "names": {1: "a"}}
    for encoded in (0, 1):
        with closing(stage(tmp_path / "s", ["one"], plan=plan)) as staging:
            assert staging.encoded == encoded
            encode_staged(staging)


def progress(**change: Any) -> Callable[[bytes], bytes]:
    return lambda data: json.dumps(json.loads(data) | change).encode()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "name, damage",
    [
        *[
            ("progress.json", lambda data, text=text: text)
            for text in (b"", b"{", b"{}", b"[]", b"null", b"6", b'"x"', b"\xff")
        ],
        ("progress.json", lambda data: data[:-1]),
        *[("progress.json", progress(encoded=value)) for value in (None, "x", [], -3, -1, 7, 12, 10**30, 1e400)],
        ("progress.json", progress(documents="")),
        ("progress.json", progress(more=1)),
        ("progress.json", None),
        ("raw.npy", None),
        ("raw.npy", lambda data: b""),
        ("raw.npy", lambda data: data[:-1]),
        ("raw.npy", lambda data: data[:100]),
        ("truncated.bin", None),
        ("truncated.bin", lambda data: b""),
        ("truncated.bin", lambda data: data[:-1]),
    ],
)
def test_a_damaged_note_of_progress_starts_again(
    tmp_path: Path, name: str, damage: Callable[[bytes], bytes] | None
) -> None:
    expected = whole(tmp_path / "whole")
    with closing(stage(tmp_path / "s", TEXTS)) as staging:
        encode_staged(staging, chunks=2)
        assert staging.encoded == 6
    if damage is None:
        (tmp_path / "s" / name).unlink()
    else:
        (tmp_path / "s" / name).write_bytes(damage((tmp_path / "s" / name).read_bytes()))
    with closing(stage(tmp_path / "s", TEXTS)) as staging:
        assert staging.encoded == 0
        encode_staged(staging)
    assert stored(tmp_path / "s") == expected


@pytest.mark.usefixtures("small")
def test_a_flipped_bit_in_the_note_of_progress_does_no_harm(tmp_path: Path) -> None:
    expected = whole(tmp_path / "whole")
    with closing(stage(tmp_path / "s", TEXTS)) as staging:
        encode_staged(staging, chunks=2)
    data = {name: (tmp_path / "s" / name).read_bytes() for name in ("raw.npy", "truncated.bin", "progress.json")}
    for position, damaged in flips(data["progress.json"], 50, seed=0):
        for name, good in data.items():
            (tmp_path / "s" / name).write_bytes(good)
        (tmp_path / "s" / "progress.json").write_bytes(damaged)
        with closing(stage(tmp_path / "s", TEXTS)) as staging:
            encode_staged(staging)
        assert stored(tmp_path / "s") == expected, f"bit {position}"


@settings(max_examples=60, deadline=None)
@given(
    texts=st.lists(
        st.sampled_from(["one", "two", "three", "a text that is long", "another long text"]), min_size=1, max_size=14
    ),
    chunk=st.integers(1, 6),
    batch=st.integers(1, 6),
    stops=st.lists(st.integers(0, 4), max_size=3),
)
def test_any_texts_and_any_interruptions(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], chunk: int, batch: int, stops: list[int]
) -> None:
    folder, asked = tmp_path_factory.mktemp("s"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexes.staging, "_BATCH", batch)
        patch.setattr(indexes.staging, "CHUNK", chunk)
        for stop in [*stops, None]:
            with closing(stage(folder, texts)) as staging:
                asked += encode_staged(staging, chunks=stop)
                if stop is None:
                    np.testing.assert_array_equal(staging.raw(), [cell(text) for text in texts])
                    assert staging.truncated().tolist() == [is_long(text) for text in texts]
    assert [text for each in asked for text in each] == list(dict.fromkeys(texts))
    np.testing.assert_array_equal(np.load(folder / "raw.npy", allow_pickle=False), [cell(text) for text in texts])


# ---- leaving


def test_published_vectors_outlive_the_staging(tmp_path: Path) -> None:
    with closing(stage(tmp_path / "s", TEXTS)) as staging:
        encode_staged(staging)
        raw, _ = stored(tmp_path / "s")
        staging.publish_raw(tmp_path / "out.npy")
        entry = staging.publish_raw(tmp_path / "out.npy")  # again: the commit did not come about
        staging.leave(done=True)
    assert not (tmp_path / "s").exists()
    assert (tmp_path / "out.npy").read_bytes() == raw
    assert (entry.name, entry.role, entry.bytes, entry.sha256) == (
        "out.npy",
        "raw",
        len(raw),
        hashlib.sha256(raw).hexdigest(),
    )
    assert entry.verify(tmp_path) == tmp_path / "out.npy"


def test_vectors_are_copied_where_there_are_no_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*arguments: Any) -> None:
        raise OSError("not supported")

    monkeypatch.setattr("os.link", no_link)
    with closing(stage(tmp_path / "s", TEXTS)) as staging:
        encode_staged(staging)
        (tmp_path / "out.npy").write_bytes(b"of a commit that did not come about")
        entry = staging.publish_raw(tmp_path / "out.npy")
        assert entry.verify(tmp_path).read_bytes() == (tmp_path / "s" / "raw.npy").read_bytes()


def test_errors_are_values_errors_for_callers_who_do_not_know_us() -> None:
    assert issubclass(VectorError, InputError) and issubclass(InputError, ValueError)
    assert encode(["one"])[0].shape == (1, DIM)
