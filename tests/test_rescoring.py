"""What codes have found is scored by the raw vectors: exact scores, whatever the structure, and damage is seen."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from test_engine import texts

from indexes.blocks import BLOCK, CheckedRows, sums_of
from indexes.errors import IndexCorruptError
from indexes.files import sha256_of, write_array
from indexes.writer import BundleWriter
from retrieval import Document, Engine, Whitening
from retrieval.verify import verify

TEXTS, QUERIES = texts(3000), texts(40, seed=9)
WHITENING = Whitening(24, beta=0.5, gamma=0.25)


def exact(engine: Engine, ids: set[str] | None = None) -> list[list[tuple[str, float]]]:
    """The best ten of each query by numpy, from the raw vectors that are kept."""
    stored, raw = engine.raw_documents()
    whitening = engine.whitening
    rows = raw / np.linalg.norm(raw, axis=1, keepdims=True) if whitening is None else whitening.transform(raw)
    scores = engine.embed(QUERIES, "query").astype(np.float64) @ np.asarray(rows, np.float64).T
    wanted = [i for i, doc_id in enumerate(stored) if ids is None or doc_id in ids]
    best = [sorted(wanted, key=lambda i, of=of: (-of[i].round(6), stored[i]))[:10] for of in scores]  # type: ignore[misc]
    return [[(stored[i], float(of[i].round(6))) for i in rows] for of, rows in zip(scores, best, strict=True)]


def found(engine: Engine, **how: Any) -> list[list[tuple[str, float]]]:
    return [[(hit.doc_id, hit.score) for hit in hits] for hits in engine.search(QUERIES, 10, **how)]


def same(one: list[list[tuple[str, float]]], two: list[list[tuple[str, float]]]) -> float:
    """The share of hits that are the same; the scores of all the same are."""
    shares = []
    for a, b in zip(one, two, strict=True):
        both = dict(a).keys() & dict(b).keys()
        assert all(abs(dict(a)[doc_id] - dict(b)[doc_id]) <= 2e-6 for doc_id in both)
        shares.append(len(both) / len(b))
    return float(np.mean(shares))


def without_sums(engine: Engine) -> None:
    """As an index of version 4 is, until it is made anew."""
    with BundleWriter(engine._bundle.folder, engine._bundle) as writer:
        segments = [dataclasses.replace(segment, sums=None) for segment in engine._bundle.manifest.segments]
        writer.commit(segments, made_by=engine._bundle.manifest.made_by)
    engine._bundle.refresh()


def built(tmp_path: Path, **how: Any) -> Engine:
    corpus = [Document(doc_id=f"{i:04}", text=text, metadata={"n": i}) for i, text in enumerate(TEXTS)]
    return Engine.build(corpus, tmp_path / "i", model="hash:48", **{"whitening": WHITENING, **how})


@pytest.mark.parametrize(
    ("factory", "least"), [("SQ8", 0.999), ("HNSW32,SQ8", 0.98), ("IVF16,SQ8", 0.9), ("PQ12", 0.75), ("RaBitQ", 0.6)]
)
def test_scores_are_those_of_the_raw_vectors(tmp_path: Path, factory: str, least: float) -> None:
    with built(tmp_path, index=factory) as engine:
        assert same(found(engine), exact(engine)) >= least
        assert same(found(engine, exact=True), exact(engine)) >= least


def test_coarse_codes_find_more_than_their_own_best(tmp_path: Path) -> None:
    with built(tmp_path, index="PQ12") as engine:
        alone = engine._bundle.search(engine.embed(QUERIES, "query"), 10)
        codes = [[(one.document.doc_id, one.score) for one in of] for of in alone]
        truth = [{doc_id for doc_id, _ in of} for of in exact(engine)]

        def recall(hits: list[list[tuple[str, float]]]) -> float:
            pairs = zip(hits, truth, strict=True)
            return float(np.mean([len({doc_id for doc_id, _ in of} & best) / 10 for of, best in pairs]))

        assert recall(found(engine)) > recall(codes) + 0.15


def test_several_segments_deletions_and_filters(tmp_path: Path) -> None:
    with built(tmp_path, index="SQ8") as engine:
        engine.add(
            [Document(doc_id=f"x{i}", text=text, metadata={"n": i}) for i, text in enumerate(texts(1200, seed=4))]
        )
        engine.delete([hits[0].doc_id for hits in engine.search(QUERIES, 1)])
        assert len(engine._bundle.manifest.segments) == 2
        assert same(found(engine), exact(engine)) > 0.999
        stored, _ = engine.raw_documents()
        kept = {document.doc_id for document in engine.get(stored) if document.metadata["n"] < 900}
        assert 1500 < len(kept) < 2000
        assert same(found(engine, filter="n < 900"), exact(engine, kept)) > 0.999
        engine.rebuild(
            whitening=Whitening(16, beta=1.0, gamma=1.0), index="SQ8"
        )  # another whitening, in the same engine
        assert engine.info()["dim"] == 16 and same(found(engine), exact(engine)) > 0.999


@pytest.mark.parametrize("factory", ["SQ8", "PQ12", "RaBitQ"])
def test_equal_texts_tie_and_ids_settle_it(tmp_path: Path, factory: str) -> None:
    """60 copies among others, ids against the order of rows: the lowest ids come first, however many are asked for."""
    copies = [Document(doc_id=f"c{59 - i:02}", text=TEXTS[5]) for i in range(60)]
    others = [Document(doc_id=f"x{i:04}", text=text) for i, text in enumerate(TEXTS[10:1500])]
    corpus = [*others[:700], *copies[:30], *others[700:], *copies[30:]]
    queries = [f"{TEXTS[5]} {text}" for text in QUERIES]
    with Engine.build(corpus, tmp_path / "i", model="hash:48", index=factory, whitening=WHITENING) as engine:
        for k in (1, 5, 61):
            for hits in engine.search(queries, k):
                ids = [hit.doc_id for hit in hits if hit.doc_id.startswith("c")]
                assert ids == [f"c{i:02}" for i in range(len(ids))]
                assert len({hit.score for hit in hits if hit.doc_id.startswith("c")}) <= 1


def test_equal_raw_vectors_score_alike_wherever_they_stand_in_a_product(tmp_path: Path) -> None:
    """The last digits of a matrix product's row may depend on its place; here they do for sure."""
    copies = [(f"c{i:02}", TEXTS[5]) for i in range(60)]
    others = [(f"x{i:04}", text) for i, text in enumerate(TEXTS[10:1500])]
    with Engine.build([*copies, *others], tmp_path / "i", model="hash:48", index="SQ8", whitening=WHITENING) as engine:
        whitening = engine.whitening
        assert whitening is not None

        def placed(raw: NDArray[Any]) -> NDArray[np.float32]:
            return np.asarray(whitening.transform(raw) * (1 + 1e-5 * np.arange(len(raw)))[:, None], np.float32)

        (hits,) = engine._bundle.search(engine.embed([TEXTS[5]], "query"), 70, unit=placed)
        assert len({hit.score for hit in hits if hit.document.doc_id.startswith("c")}) == 1


def test_vectors_are_taken_as_queries_too(tmp_path: Path) -> None:
    with built(tmp_path, index="SQ8") as engine:
        hits = engine.search(engine.embed(QUERIES, "query"), 10)
        assert [[(hit.doc_id, hit.score) for hit in of] for of in hits] == found(engine)


def test_without_raw_vectors_codes_decide(tmp_path: Path) -> None:
    with built(tmp_path, index="SQ8", raw=None) as engine:
        codes = engine._bundle.search(engine.embed(QUERIES, "query"), 10)
        assert found(engine) == [[(one.document.doc_id, one.score) for one in of] for of in codes]


def other_number(values: NDArray[Any]) -> None:
    values[:, 0] += 3


def not_a_number(values: NDArray[Any]) -> None:
    values[:, 3] = np.nan


def nothing(values: NDArray[Any]) -> None:
    values[:] = 0


def of_others(values: NDArray[Any]) -> None:
    values[:] = values[::-1].copy()


@pytest.mark.parametrize("factory", ["SQ8", "PQ12", "RaBitQ", "PCA12,SQ8"])
@pytest.mark.parametrize("damage", [other_number, not_a_number, nothing, of_others])
def test_raw_vectors_that_are_not_those_of_the_codes_are_seen(
    tmp_path: Path, factory: str, damage: Callable[[NDArray[Any]], None]
) -> None:
    built(tmp_path, index=factory).close()
    (path,) = (tmp_path / "i" / "segments").glob("*.raw.npy")
    values = np.load(path)
    damage(values)
    np.save(path, values)
    with (
        Engine.open(tmp_path / "i") as engine,
        pytest.raises(IndexCorruptError, match="raw.npy is not what was committed"),
    ):
        engine.search(QUERIES)


def test_a_row_that_codes_cannot_hold_is_no_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The codes learn their range from evenly spaced rows; one far from those has another score by its code."""
    monkeypatch.setattr("indexes.vectors.TRAINED", 1500)
    alike, odd = [f"word w{i % 7}" for i in range(2999)], "quite other things"
    with Engine.build([*alike[:1001], odd, *alike[1001:]], tmp_path / "i", model="hash:16", index="SQ8") as engine:
        (code,) = engine._bundle.search(engine.embed([odd], "query"), 1)[0]
        (hit,) = engine.search(odd, 1)
        assert hit.text == odd and hit.score == pytest.approx(1, abs=1e-5)
        assert abs(code.score - hit.score) > 0.05


def test_raw_vectors_without_sums_are_left_alone_beyond_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with built(tmp_path, index="SQ8") as engine:
        monkeypatch.setattr("indexes.rescoring.WHOLE", 0)
        assert same(found(engine), exact(engine)) > 0.999  # these have sums
        without_sums(engine)
        for limit, scored in ((SIZE, exact(engine)), (SIZE - 1, None)):
            monkeypatch.setattr("indexes.rescoring.WHOLE", limit)
            codes = engine._bundle.search(engine.embed(QUERIES, "query"), 10)
            expected = scored or [[(one.document.doc_id, one.score) for one in of] for of in codes]
            assert same(found(engine), expected) > 0.999


# ---- as much is verified as is read


SIZE = 128 + 3000 * 48 * 2
BLOCKS = -(-SIZE // BLOCK)


def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Bytes that are summed up from now on, a number for each block."""
    sizes: list[int] = []
    real = hashlib.sha256

    def noted(data: Any = b"") -> Any:
        sizes.append(memoryview(data).nbytes)
        return real(data)

    monkeypatch.setattr("indexes.blocks.hashlib", SimpleNamespace(sha256=noted))
    return sizes


def test_only_the_blocks_of_what_is_found_are_verified_and_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built(tmp_path, index="SQ8").close()
    sizes = hashed(monkeypatch)
    with Engine.open(tmp_path / "i") as engine:
        assert sizes == []
        first = engine.search(QUERIES[0], 1)
        before = len(sizes)  # nine rows are scored again for k = 1
        assert 1 < before < BLOCKS and set(sizes) <= {BLOCK, SIZE % BLOCK}
        assert engine.search(QUERIES[0], 1) == first and len(sizes) == before
        engine.search(QUERIES, 10)
        assert before < len(sizes) <= BLOCKS


def test_damage_is_seen_where_it_is_read_and_nowhere_else(tmp_path: Path) -> None:
    with built(tmp_path, index="SQ8") as engine:
        expected = engine.search(QUERIES[0], 1)
    (path,) = (tmp_path / "i" / "segments").glob("*.raw.npy")
    good, seen = path.read_bytes(), set()
    for number in range(BLOCKS):
        at = number * BLOCK + 77
        path.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
        with Engine.open(tmp_path / "i") as engine:
            try:
                assert engine.search(QUERIES[0], 1) == expected
            except IndexCorruptError as error:
                seen.add(number)
                assert (
                    f"raw.npy is not what was committed (its SHA-256 differs from byte {number * BLOCK:,} on)"
                    in str(error)
                )
        assert [each.name for each in verify(tmp_path / "i", deep=True) if each.problem] == [path.name]
    assert {0, (128 + 96 * int(expected[0].doc_id)) // BLOCK} <= seen and len(seen) < BLOCKS


def test_sums_of_another_file_are_seen(tmp_path: Path) -> None:
    """As only a fault of the writer's could bring about: both files are as they were committed."""
    with built(tmp_path, index="SQ8") as engine, BundleWriter(engine._bundle.folder, engine._bundle) as writer:
        (segment,) = engine._bundle.manifest.segments
        for data in (bytes(32 * BLOCKS), bytes(32)):
            sums = writer._written("sums", data, ".sums")
            writer.commit([dataclasses.replace(segment, sums=sums)], made_by=engine._bundle.manifest.made_by)
            (problem,) = [each.problem for each in verify(engine._bundle.folder, deep=True) if each.problem]
            assert "another file than" in problem
            with (
                Engine.open(engine._bundle.folder) as other,
                pytest.raises(IndexCorruptError, match="checksums of|committed"),
            ):
                other.search(QUERIES)
            engine._bundle.refresh()


@given(
    rows=st.integers(1, 40), width=st.sampled_from([1, 3, 48, 384, 5000, 9000]), dtype=st.sampled_from(["f2", "f4"]),
    data=st.data(),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_rows_and_their_blocks(
    tmp_path_factory: pytest.TempPathFactory, rows: int, width: int, dtype: str, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("rows") / "a.npy"
    values = np.random.default_rng(rows * width).standard_normal((rows, width)).astype(dtype)
    write_array(path, "raw", [values], values.shape, values.dtype)
    content, sums = path.read_bytes(), sums_of(path, sha256_of(path))
    assert sums == b"".join(hashlib.sha256(content[at : at + BLOCK]).digest() for at in range(0, len(content), BLOCK))
    places = np.array(data.draw(st.lists(st.integers(0, rows - 1), max_size=6)), np.int64)
    assert np.array_equal(CheckedRows(path, values.shape, values.dtype, sums)[places], values[places])
    at = data.draw(st.integers(0, len(content) - 1))
    path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
    start, stride = len(content) - values.nbytes, width * values.itemsize
    starts = [start + stride * int(place) for place in places]
    touched = {0} | {
        byte // BLOCK for first in starts for byte in (*range(first, first + stride, 64), first + stride - 1)
    }
    try:
        found_rows = CheckedRows(path, values.shape, values.dtype, sums)[places]
        assert at // BLOCK not in touched and np.array_equal(found_rows, values[places])
    except IndexCorruptError:
        assert at // BLOCK in touched


def test_damaged_sums_are_mended_by_what_their_error_names(tmp_path: Path) -> None:
    with built(tmp_path, index="SQ8") as engine:
        expected = found(engine)
    (path,) = (tmp_path / "i" / "segments").glob("*.sums")
    good = path.read_bytes()
    path.write_bytes(good[:40] + bytes([good[40] ^ 1]) + good[41:])
    with Engine.open(tmp_path / "i") as engine, pytest.raises(IndexCorruptError, match=r"sums .*\(retrieval rebuild\)"):
        engine.search(QUERIES)
    with Engine.open(tmp_path / "i", searchable=False) as engine:
        engine.rebuild(whitening="same", index="SQ8")
        assert not [each for each in engine.verify(deep=True) if each.problem]
    with Engine.open(tmp_path / "i") as engine:
        assert same(found(engine), expected) > 0.999


def test_a_file_that_was_restored_is_read_again(tmp_path: Path) -> None:
    with built(tmp_path, index="SQ8") as engine:
        (path,) = (tmp_path / "i" / "segments").glob("*.raw.npy")
        good = path.read_bytes()
        path.write_bytes(good[:BLOCK] + bytes(len(good) - BLOCK))
        with pytest.raises(IndexCorruptError, match="is not what was committed"):
            engine.search(QUERIES)
        path.with_suffix(".copy").write_bytes(good)
        path.with_suffix(".copy").replace(path)
        assert same(found(engine), exact(engine)) > 0.999


def test_what_the_disk_cannot_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with built(tmp_path, index="SQ8") as engine:

        def broken(*arguments: Any) -> bytes:
            raise OSError(5, "Input/output error")

        monkeypatch.setattr("indexes.blocks.os.pread", broken)
        with pytest.raises(OSError, match="Input/output error"):
            engine.search(QUERIES)
        monkeypatch.undo()
        assert same(found(engine), exact(engine)) > 0.999


def test_files_are_let_go_of(tmp_path: Path) -> None:
    (values := np.zeros((3, 4), np.float16))[1] = 1
    entry = write_array(path := tmp_path / "a.npy", "raw", [values], values.shape, values.dtype)
    rows = CheckedRows(path, (3, 4), "float16", sums_of(path, entry.sha256))
    file = rows._file
    assert rows[np.array([1])].tolist() == [[1.0] * 4]
    del rows
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(file)


def test_what_is_empty_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "a.npy").touch()
    with pytest.raises(IndexCorruptError, match="of a file of another length"):
        CheckedRows(tmp_path / "a.npy", (0, 4), "float16", b"")


def test_raw_vectors_that_are_cut_off_are_seen(tmp_path: Path) -> None:
    built(tmp_path, index="SQ8").close()
    (path,) = (tmp_path / "i" / "segments").glob("*.raw.npy")
    path.write_bytes(path.read_bytes()[:-2])
    with Engine.open(tmp_path / "i") as engine, pytest.raises(IndexCorruptError, match="raw.npy has .* bytes"):
        engine.search(QUERIES)
