"""An index that is changed is the index that would have been built: documents, answers, bytes."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexes.bundle import Bundle
from indexes.errors import (
    DuplicateIdError,
    FilterError,
    FingerprintError,
    IndexCorruptError,
    IndexMissingError,
    IndexUnfinishedError,
    InputError,
    VectorError,
)
from indexes.manifest import FORMAT_VERSION, Manifest, checksum
from retrieval import Document, Engine, Whitening
from retrieval.changes import Changes
from retrieval.cross.anchors import Anchors
from retrieval.encoder import Encoded, HashEncoder, Role
from retrieval.verify import verify

WORDS = [
    "fox",
    "whale",
    "captain",
    "ship",
    "river",
    "sea",
    "rain",
    "hill",
    "stone",
    "bird",
    "night",
    "day",
    "red",
    "old",
    "狐狸",
    "鲸鱼",
]


def corpus(n: int, seed: int = 0) -> list[Document]:
    """Short texts; some come twice, some are alike."""
    rng = np.random.default_rng(seed)
    return [
        Document(
            doc_id=f"{seed}-{i:04}",
            text=" ".join(rng.choice(WORDS, int(rng.integers(2, 6)))),
            metadata={"kind": "abc"[i % 3], "n": i},
        )
        for i in range(n)
    ]


class Counting(HashEncoder):
    """Remembers what it was asked for."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__(dim)
        self.asked: list[str] = []

    def encode(self, texts: Sequence[str], role: Role = "document") -> Encoded:
        self.asked += texts
        return super().encode(texts, role)


def contents(engine: Engine) -> dict[str, tuple[str, Any]]:
    """All that an index holds, by id."""
    hits = engine.search("fox", k=max(1, len(engine)), exact=True)
    assert len(hits) == len(engine) == len({hit.doc_id for hit in hits})
    found = {hit.doc_id: (hit.text, dict(hit.metadata)) for hit in hits}
    assert {one.doc_id: (one.text, dict(one.metadata)) for one in engine.get(list(found))} == found
    return found


def as_contents(documents: Sequence[Document]) -> dict[str, tuple[str, Any]]:
    return {str(one.doc_id): (one.text, dict(one.metadata)) for one in documents}


def same_answers(one: Engine, other: Engine) -> None:
    queries = [" ".join(pair) for pair in zip(WORDS, WORDS[5:], strict=False)]
    for expression in (None, "kind = 'a' AND n > 3"):
        found, expected = (engine.search(queries, 7, filter=expression, exact=True) for engine in (one, other))
        assert found == expected


def segment_bytes(path: Path, suffix: str) -> list[bytes]:
    return [file.read_bytes() for file in sorted((path / "segments").glob(f"*{suffix}"))]


def whole(engine: Engine) -> None:
    """Nothing is wrong with it, and nothing lies about that no commit lists."""
    assert [check for check in engine.verify(deep=True) if check.problem] == []
    folder = Path(engine.info()["path"])
    listed = {file.name for file in engine._bundle.manifest.files}
    assert {file.name for file in (folder / "segments").iterdir()} == listed
    assert not (folder / "staging").exists() and (folder / "catalogue.seal").is_file()


# ---- laws: as if it had been built so


@pytest.mark.parametrize("raw", ["float16", "float32", None])
@pytest.mark.parametrize("index", ["Flat", "auto", "HNSW8,Flat", "IVF4,Flat"])
def test_an_index_that_grew_answers_as_one_that_was_built_at_once(tmp_path: Path, raw: Any, index: str) -> None:
    documents = corpus(90)
    fit = Whitening(6, beta=0.5, gamma=0.5, epsilon=0.01).fit(
        HashEncoder(16).encode([d.text for d in documents]).vectors
    )
    how: dict[str, Any] = {"model": "hash:16", "whitening": fit, "raw": raw, "index": index}
    with (
        Engine.build(documents, tmp_path / "once", **how) as once,
        Engine.build(documents[:50], tmp_path / "grown", **how) as grown,
    ):
        assert grown.add(documents[50:60]) == Changes(added=10)
        assert grown.add(documents[55:90]) == Changes(added=30, unchanged=5)
        assert contents(grown) == as_contents(documents)
        same_answers(grown, once)
        whole(grown)
        grown.compact()
        assert grown.info()["segments"] == 1
        same_answers(grown, once)
        whole(grown)


def test_what_is_compacted_has_the_bytes_of_a_build(tmp_path: Path) -> None:
    documents = corpus(80)
    live = [one for one in documents if one.metadata["n"] % 5]
    fit = Whitening(6).fit(HashEncoder(16).encode([one.text for one in documents]).vectors)
    with Engine.build(documents[:30], tmp_path / "i", model="hash:16", whitening=fit, index="HNSW8,SQ8") as engine:
        engine.add(documents[30:])
        assert engine.delete(filter={"n": {"$in": list(range(0, 80, 5))}}) == Changes(deleted=16)
        engine.compact()
        whole(engine)
    Engine.build(live, tmp_path / "built", model="hash:16", whitening=fit, index="HNSW8,SQ8").close()
    for suffix in (".faiss", ".raw.npy", ".whitening.safetensors"):
        assert segment_bytes(tmp_path / "i", suffix) == segment_bytes(tmp_path / "built", suffix) != []


@pytest.mark.parametrize("whitening", ["same", "auto", 5, None])
def test_what_is_rebuilt_has_the_bytes_of_a_build(tmp_path: Path, whitening: Any) -> None:
    documents = [*corpus(60), *corpus(40, seed=1)]
    live = [one for one in documents if one.metadata["kind"] != "b"]
    parameters = {"beta": 0.5, "gamma": 0.25, "epsilon": 0.01, "local": 0.0}
    encoder = Counting()
    with Engine.build(documents[:60], tmp_path / "i", model=encoder, whitening=Whitening(4, **parameters)) as engine:
        engine.add(documents[60:])
        engine.delete(filter="kind = 'b'")
        encoder.asked.clear()
        engine.rebuild(whitening=whitening)
        assert not {one.text for one in documents} & set(encoder.asked)  # halves of texts at most
        assert whitening in ("auto", 5) or encoder.asked == []
        whole(engine)
        assert contents(engine) == as_contents(live)
    new = Whitening(4, **parameters) if whitening == "same" else whitening
    with (
        Engine.build(live, tmp_path / "built", model="hash:16", whitening=new) as built,
        Engine.open(tmp_path / "i") as again,
    ):
        same_answers(again, built)
        assert again.info()["whitening"] == built.info()["whitening"]
    for suffix in (".faiss", ".raw.npy", ".whitening.safetensors"):
        assert segment_bytes(tmp_path / "i", suffix) == segment_bytes(tmp_path / "built", suffix)


def test_an_addition_takes_in_what_is_no_larger(tmp_path: Path) -> None:
    with Engine.build(corpus(60), tmp_path / "i", model="hash:8") as engine:
        sizes = []
        for n in (40, 30, 20, 10, 20, 160):
            engine.add(corpus(n, seed=len(sizes) + 1))
            assert len(engine) == 60 + sum((40, 30, 20, 10, 20, 160)[: len(sizes) + 1])
            sizes.append([segment.count for segment in engine._bundle.manifest.segments])
        assert sizes == [[60, 40], [60, 40, 30], [60, 40, 30, 20], [60, 40, 30, 20, 10], [180], [180, 160]]


def test_three_hundred_additions_leave_nine_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    with Engine.build(["first"], tmp_path / "i", model="hash:8") as engine:
        for i in range(300):
            engine.add([f"text {i}"])
            assert engine.info()["segments"] <= 9  # 2^8 < 300 < 2^9
        assert len(contents(engine)) == 301
        whole(engine)


# ---- upsert


def test_only_changed_texts_are_encoded(tmp_path: Path) -> None:
    encoder = Counting()
    documents = corpus(20)
    with Engine.build(documents, tmp_path / "i", model=encoder) as engine:
        encoder.asked.clear()
        new = [
            Document(doc_id=documents[0].doc_id, text="another text", metadata=documents[0].metadata),
            Document(doc_id=documents[1].doc_id, text=documents[1].text, metadata={"kind": "z"}),
            *documents[2:10],
            Document(doc_id="new", text="a new text"),
        ]
        assert engine.upsert(new) == Changes(added=1, replaced=1, relabelled=1, unchanged=8)
        assert encoder.asked == ["another text", "a new text"]
        assert contents(engine) == as_contents(documents) | as_contents(new)
        assert [hit.doc_id for hit in engine.search("fox", filter="kind = 'z'")] == [documents[1].doc_id]
        whole(engine)
        assert engine.upsert(new) == Changes(unchanged=11)
        encoder.asked.clear()
        assert engine.upsert(new, prune=True) == Changes(unchanged=11, deleted=10)
        assert encoder.asked == [] and contents(engine) == as_contents(new)
        whole(engine)


def test_nothing_changes_without_a_commit(tmp_path: Path) -> None:
    with Engine.build(corpus(5), tmp_path / "i", model="hash:8") as engine:
        before = engine.info()
        assert engine.add(corpus(5)) == engine.upsert(corpus(5), prune=True) == Changes(unchanged=5)
        assert engine.delete(["nobody"]) == Changes(missing=1)
        engine.compact()
        assert engine.info() == before
        whole(engine)


def test_the_order_of_keys_is_no_change(tmp_path: Path) -> None:
    with Engine.build(
        [Document(doc_id="a", text="x", metadata={"p": 1, "q": [True]})], tmp_path / "i", model="hash:8"
    ) as e:
        assert e.add([Document(doc_id="a", text="x", metadata={"q": [True], "p": 1})]) == Changes(unchanged=1)
        assert e.upsert([Document(doc_id="a", text="x", metadata={"q": [1], "p": 1})]) == Changes(relabelled=1)


def test_ids_made_from_texts_meet_again(tmp_path: Path) -> None:
    with Engine.build(["one", "two", "one"], tmp_path / "i", model="hash:8") as engine:
        assert engine.add(["one", "three"]) == Changes(added=1, unchanged=1)
        assert engine.add(["one", "one", "one"]) == Changes(added=1, unchanged=2)
        made = next(hit.doc_id for hit in engine.search("two", 1))
        # the user gives what looks like our id to another text: ours steps aside
        engine.upsert([(made, "something else")])
        assert engine.add(["two"]) == Changes(added=1)
        assert sorted(text for text, _ in contents(engine).values()) == [
            "one", "one", "one", "something else", "three", "two",
        ]  # fmt: skip


def test_an_id_that_is_there_with_other_content_is_refused(tmp_path: Path) -> None:
    (tmp_path / "new.jsonl").write_text('{"id": "x", "text": "new"}\n{"id": "a", "text": "other"}\n')
    with Engine.build([("a", "red fox"), ("b", "whale")], tmp_path / "i", model="hash:8") as engine:
        before = contents(engine)
        with pytest.raises(DuplicateIdError, match=r"new.jsonl:2: id 'a' is in the index already, with another text"):
            engine.add(tmp_path / "new.jsonl")
        with pytest.raises(DuplicateIdError, match="another metadata"):
            engine.add([Document(doc_id="a", text="red fox", metadata={"n": 1})])
        assert contents(engine) == before
        whole(engine)
        how: dict[str, Any] = {"on_error": "skip", "rejects": tmp_path / "rejects"}
        assert engine.add(tmp_path / "new.jsonl", **how) == Changes(added=1)
        assert json.loads((tmp_path / "rejects").read_text())["line"] == 2
        assert contents(engine) == before | {"x": ("new", {})}


def test_an_id_that_comes_twice_is_refused_even_if_the_index_has_it(tmp_path: Path) -> None:
    with Engine.build([("a", "red fox")], tmp_path / "i", model="hash:8") as engine:
        for twice in ([("a", "red fox")] * 2, [("a", "one"), ("a", "two")]):
            with pytest.raises(DuplicateIdError, match="id 'a' was used before, at <iterable>:1"):
                engine.upsert(twice)
        assert contents(engine) == {"a": ("red fox", {})}


# ---- delete, and what is left


def test_deleting(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    documents = corpus(30)
    with Engine.build(documents, tmp_path / "i", model="hash:16") as engine:
        first, second, third = (str(one.doc_id) for one in documents[:3])
        assert engine.delete([first, second, "nobody", first]) == Changes(deleted=2, missing=1)
        assert "1 of 3 ids ('nobody')" in caplog.text
        assert engine.delete(filter="kind = 'c'") == Changes(deleted=10)
        assert contents(engine) == as_contents([one for one in documents[2:] if one.metadata["kind"] != "c"])
        assert engine.info()["deleted"] == 12 and engine.info()["documents"] == len(engine) == 18
        assert third not in contents(engine)
        with pytest.raises(InputError, match="not in"):
            engine.get([first])
        for wrong in ({}, {"ids": [first], "filter": "n = 1"}):
            with pytest.raises(InputError, match="either ids or a filter"):
                engine.delete(**wrong)
        for ids in ("abc", [1], [None]):
            with pytest.raises(InputError, match="expected a list of ids"):
                engine.delete(ids)  # type: ignore[arg-type]
        for everything in ({}, ""):
            with pytest.raises(InputError, match="lets everything through"):
                engine.delete(filter=everything)
        with pytest.raises(FilterError, match="no document has a field 'knd'"):
            engine.delete(filter="knd = 'c'")
        whole(engine)


def test_an_empty_index_can_be_lived_with(tmp_path: Path) -> None:
    documents = corpus(40)
    with Engine.build(documents, tmp_path / "i", model="hash:16", whitening=4) as engine:
        engine.delete([str(one.doc_id) for one in documents])
        for _ in range(2):
            assert engine.search(["fox", "sea"], 3) == [[], []] and len(engine) == 0
            assert engine.search("fox", filter="n > 3", exact=True) == []
            assert engine.export(tmp_path / "out.jsonl") == 0 and (tmp_path / "out.jsonl").read_bytes() == b""
            whole(engine)
            engine.compact()
        assert engine.info()["segments"] == 0
        with pytest.raises(InputError, match="holds no document"):
            engine.rebuild()
        with pytest.raises(VectorError):
            engine.search(np.ones((1, 5), np.float32))
        assert engine.add(documents[:7]) == Changes(added=7)
        assert contents(engine) == as_contents(documents[:7])
        whole(engine)


@pytest.mark.parametrize("raw", ["float32", None])
def test_an_empty_index_still_knows_how_it_keeps_raw_vectors(tmp_path: Path, raw: Any) -> None:
    with Engine.build(corpus(5), tmp_path / "i", model="hash:16", raw=raw) as engine:
        engine.delete([str(one.doc_id) for one in corpus(5)])
        engine.compact()
        if raw is None:
            with pytest.raises(InputError, match="without raw vectors"):
                engine.export(tmp_path / "v.npy", vectors="raw")
            with pytest.raises(InputError, match="without raw vectors"):
                engine.raw_documents()
        else:
            assert engine.raw_documents()[1].dtype == np.float32
        engine.add(corpus(3))
        assert (engine.info()["raw_vectors"], len(engine)) == (raw, 3)
        whole(engine)


def test_rows_are_never_given_twice(tmp_path: Path) -> None:
    with Engine.build(["a", "b", "c"], tmp_path / "i", model="hash:8") as engine:
        seen = {0, 1, 2}
        for i in range(6):
            engine.upsert([("x", f"text {i}")])
            (row,) = engine._bundle.rows_of(["x"]).values()
            assert row not in seen
            seen.add(row)
            if i % 2:
                engine.compact()


def test_compacting_gives_space_back(tmp_path: Path) -> None:
    long = [(str(i), f"{i} " + "word " * 2000) for i in range(200)]
    with Engine.build(long, tmp_path / "i", model="hash:8") as engine:
        before = engine.info()["bytes"]
        engine.delete([str(i) for i in range(180)])
        engine.compact()
        assert engine.info()["bytes"] < before / 4
        assert sum(f.stat().st_size for f in (tmp_path / "i").rglob("*") if f.is_file()) < before / 4
        whole(engine)


# ---- the model, the whitening, other readers


def test_another_model_adds_nothing(tmp_path: Path) -> None:
    Engine.build(corpus(5), tmp_path / "i", model="hash:16").close()
    with Engine.open(tmp_path / "i", model="hash:8") as engine:
        with pytest.raises(FingerprintError):
            engine.add(["a new text"])
        assert engine.delete([str(corpus(1)[0].doc_id)]) == Changes(deleted=1)  # needs no model
        whole(engine)


def test_the_whitening_stays_on_add_and_drift_is_told(tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(40)]
    rng = np.random.default_rng(0)
    near = [" ".join(rng.choice(words[:20], 5)) for _ in range(400)]
    far = [" ".join(rng.choice(words[20:], 5)) for _ in range(200)]
    with Engine.build(near[:300], tmp_path / "i", model="hash:32", whitening=Whitening(12)) as engine:
        (fit,) = segment_bytes(tmp_path / "i", "whitening.safetensors")
        assert engine.info()["drift"] is None
        engine.add([(f"n{i}", text) for i, text in enumerate(near[300:])])
        like = engine.info()["drift"]
        engine.add([(f"f{i}", text) for i, text in enumerate(far)])
        unlike = engine.info()["drift"]
        assert segment_bytes(tmp_path / "i", "whitening.safetensors") == [fit]
        assert like["added"] == 100 and unlike["added"] == 300
        _, raw = engine.raw_documents()
        old, added, mean = (np.array(part, np.float64) for part in (raw[:300], raw[300:], engine.whitening.mean_))
        spread = np.sqrt(((old - mean) ** 2).sum(axis=1).mean())
        columns = engine.whitening.components_
        shares = [(((part - mean) @ columns) ** 2).sum() / ((part - mean) ** 2).sum() for part in (added, old)]
        by_hand = [np.linalg.norm(added.mean(axis=0) - mean) / spread, *shares]
        assert [unlike[name] for name in ("shift", "kept", "kept_at_fit")] == pytest.approx(by_hand, abs=6e-4)
        assert like["shift"] < 0.1 < 0.4 < unlike["shift"]
        assert abs(like["kept"] - like["kept_at_fit"]) < 0.02 < 0.1 < unlike["kept_at_fit"] - unlike["kept"]
        engine.compact()
        assert engine.info()["drift"] == unlike  # merging does not hide who was in the fit
        engine.rebuild()
        assert engine.info()["drift"] is None
        assert segment_bytes(tmp_path / "i", "whitening.safetensors") != [fit]


def test_drift_by_hand() -> None:
    from retrieval.drift import measured

    fit = Whitening(1).fit([[3.0, 0.0], [-3.0, 0.0], [0.0, 1.0], [0.0, -1.0]])  # mean 0, first column (1, 0)
    kept, shift = measured(fit, np.array([[3.0, 4.0], [0.0, 0.0]]))
    assert kept == pytest.approx(9 / 25) and shift == pytest.approx(np.hypot(1.5, 2.0))


def test_an_open_reader_follows(tmp_path: Path) -> None:
    documents = corpus(60)
    with (
        Engine.build(documents[:40], tmp_path / "i", model="hash:16", whitening=Whitening(6)) as writer,
        Engine.open(tmp_path / "i") as reader,
    ):
        ids, held = reader.raw_documents()
        kept = np.array(held)
        writer.add(documents[40:])
        assert contents(reader) == as_contents(documents)
        writer.delete(filter="kind = 'a'")
        writer.rebuild(whitening=Whitening(3, gamma=1.0))
        live = [one for one in documents if one.metadata["kind"] != "a"]
        assert contents(reader) == as_contents(live) and reader.embed(["fox"]).shape == (1, 3)
        same_answers(reader, writer)
        np.testing.assert_array_equal(held, kept)  # the file is gone from the folder, not from those who hold it
        ids, vectors = reader.raw_documents()
        assert ids == [one.doc_id for one in live]
        encoded = HashEncoder(16).encode([one.text for one in live]).vectors.astype(np.float16)
        np.testing.assert_array_equal(vectors, encoded)


def test_without_raw_vectors_there_is_no_rebuilding(tmp_path: Path) -> None:
    with Engine.build(corpus(30), tmp_path / "i", model="hash:16", raw=None) as engine:
        engine.add(corpus(5, seed=1))
        assert engine.info()["drift"] is None and engine.info()["raw_vectors"] is None
        with pytest.raises(InputError, match="without raw vectors"):
            engine.rebuild()
        with pytest.raises(InputError, match="without raw vectors"):
            engine.raw_documents()
        whole(engine)


# ---- interrupted


class Tired(HashEncoder):
    """Falls asleep after so many texts."""

    def __init__(self, dim: int, after: int) -> None:
        super().__init__(dim)
        self.left = after

    def encode(self, texts: Sequence[str], role: Role = "document") -> Encoded:
        self.left -= len(texts)
        if self.left < 0:
            raise KeyboardInterrupt
        return super().encode(texts, role)


def test_an_interrupted_addition_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexes.staging.CHUNK", 8)
    documents = [Document(doc_id=f"{i}", text=f"text {i}") for i in range(60)]
    Engine.build(documents[:20], tmp_path / "i", model="hash:16").close()
    with Engine.open(tmp_path / "i", model=Tired(16, 20)) as tired, pytest.raises(KeyboardInterrupt):
        tired.upsert(documents[10:])
    with Engine.open(tmp_path / "i", model=(encoder := Counting())) as engine:
        assert len(contents(engine)) == 20 and engine.info()["unfinished"] == 16
        encoder.asked.clear()
        with pytest.raises(IndexUnfinishedError, match=r"addition of other documents .*16 vectors are done.*--fresh"):
            engine.add(["something else"])
        assert engine.delete(["3"]) == Changes(deleted=1)  # a small change may come in between
        assert engine.upsert(documents[10:20]) == Changes(unchanged=10)
        assert engine.upsert([Document(doc_id="4", text="text 4", metadata={"a": 1})]) == Changes(relabelled=1)
        assert encoder.asked == []
        assert engine.upsert(documents[10:]) == Changes(added=40, unchanged=10)
        assert encoder.asked == [f"text {i}" for i in range(36, 60)]
        assert engine.info()["unfinished"] == 0
        whole(engine)


def test_an_interrupted_addition_can_be_thrown_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexes.staging.CHUNK", 8)
    Engine.build(["a text"], tmp_path / "i", model="hash:16").close()
    with Engine.open(tmp_path / "i", model=Tired(16, 20)) as tired, pytest.raises(KeyboardInterrupt):
        tired.add([f"text {i}" for i in range(50)])
    with Engine.open(tmp_path / "i") as engine:
        assert engine.add(["something else"], fresh=True) == Changes(added=1)
        assert len(engine) == 2 and engine.info()["unfinished"] == 0
        whole(engine)
        (tmp_path / "i" / "staging").mkdir()
        for damaged in ("", "[]", '{"encoded": "many"}', '{"encoded": 3, "first_row": 0}'):  # of other rows
            (tmp_path / "i" / "staging" / "progress.json").write_text(damaged)
            assert engine.info()["unfinished"] == 0


# ---- old indexes


@pytest.mark.parametrize("version", [1, 2, 3, 4, 5])
def test_golden_indexes_stay_readable_and_writable(root: Path, tmp_path: Path, version: int) -> None:
    golden = root / "tests" / "data" / f"index-v{version}"
    expected = json.loads(golden.with_name(golden.name + ".json").read_text())
    path = Path(shutil.copytree(golden, tmp_path / "i"))
    with Engine.open(path) as engine:
        assert [check for check in engine.verify(deep=True) if check.problem] == []
        filters = {"blue whale": "kind = 'c'"}
        for query, hits in expected.items():
            found = engine.search(query, 5, filter=filters.get(query))
            assert [hit.doc_id for hit in found] == [doc_id for doc_id, _ in hits]
            assert [hit.score for hit in found] == pytest.approx([score for _, score in hits], abs=1e-5)
        before = contents(engine)
        assert engine.upsert([("000", "a red fox runs"), ("new", "an otter swims")]) == Changes(added=1, replaced=1)
        assert contents(engine) == before | {"000": ("a red fox runs", {}), "new": ("an otter swims", {})}
        whole(engine)
        assert all((segment.sums is None) == (version < 5) for segment in engine._bundle.manifest.segments[:1])
        engine.rebuild()
        whole(engine)
        assert engine.info()["format_version"] == FORMAT_VERSION
        assert all(segment.sums is not None for segment in engine._bundle.manifest.segments)


def test_a_golden_index_of_version_4_has_a_graph(root: Path, tmp_path: Path) -> None:
    with Engine.open(Path(shutil.copytree(root / "tests" / "data" / "index-v4", tmp_path / "i"))) as engine:
        assert engine.info()["graph"] == {"neighbors": 3, "documents": 17}
        hits = engine.search("a red fox", 17, geodesic=0.0)
        assert len(hits) == 17 and any(hit.path for hit in hits)


def test_a_golden_index_of_version_3_has_scores_with_anchor_queries(root: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(root / "tests" / "data" / "index-v3", tmp_path / "i"))
    with Engine.open(path) as engine:
        assert engine.info()["anchors"] == {"queries": 2, "model": "letters", "documents": 16}
        scores = engine._bundle.kept("scores")
        assert scores is not None and engine.get(["005"])[0].text == "the captain hunts a whale"
        # letters that they share with it (" theo" and " abelushi"), less its 25 characters
        expected = {"the old fox": 5.0 - 25, "a blue ship": 9.0 - 25}
        file = engine._bundle.anchors_path
        assert file is not None
        assert scores[5:6][0].tolist() == [expected[query] for query in Anchors.load(file).queries]
        assert np.isnan(scores[16:17]).all()


# ---- verify and export


def test_what_verify_looks_at(tmp_path: Path) -> None:
    with pytest.raises(IndexMissingError):
        verify(tmp_path / "nothing", deep=True)
    with Engine.build(corpus(30), tmp_path / "i", model="hash:16", whitening=Whitening(4)) as engine:
        engine.add(corpus(3, seed=1))
        engine.delete([str(corpus(1)[0].doc_id)])
        quick, deep = engine.verify(), engine.verify(deep=True)
        assert {check.problem for check in [*quick, *deep]} == {None}
        files = {file.name for file in engine._bundle.manifest.files}
        assert files | {"catalogue.sqlite", "rows and documents"} <= {check.name for check in quick}
        raw = tmp_path / "i" / "segments" / "000001.raw.npy"
        good = raw.read_bytes()
        raw.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert {check.problem for check in engine.verify()} == {None}  # sizes only
        (bad,) = [check for check in engine.verify(deep=True) if check.problem]
        assert bad.name == raw.name and "SHA-256" in str(bad.problem)
        raw.write_bytes(good[:-1])
        (bad,) = [check for check in engine.verify() if check.problem]
        assert bad.name == raw.name and "bytes" in str(bad.problem)


def test_verify_finds_vectors_that_are_not_those_of_the_texts(tmp_path: Path) -> None:
    """Every checksum fits, and yet it is wrong: the structure of another index."""
    with Engine.build(corpus(30), tmp_path / "i", model="hash:16") as engine:
        other = Engine.build(corpus(30, seed=3), tmp_path / "other", model="hash:16")
        other.close()
        data = (tmp_path / "other" / "segments" / "000001.faiss").read_bytes()
        (tmp_path / "i" / "segments" / "000001.faiss").write_bytes(data)
        from storage import rewrite_manifest

        from indexes.files import sha256_of

        sha256 = sha256_of(tmp_path / "other" / "segments" / "000001.faiss")
        rewrite_manifest(tmp_path / "i", lambda m: m["segments"][0]["vectors"].update(sha256=sha256))
        bad = [check for check in engine.verify(deep=True) if check.problem]
        assert [check.name for check in bad] == ["vectors"] and "are not those of the raw vectors" in str(
            bad[0].problem
        )


def test_documents_come_back_from_an_export(tmp_path: Path) -> None:
    documents = [
        Document(doc_id='a "b"\nc', text="line\none", metadata={"id": 7, "text": "x", "metadata": {"y": [1, None]}}),
        Document(doc_id="🦊", text="狐狸 \u2028 red", metadata={"title": "T", "_id": "z"}),
        *corpus(10),
    ]
    with Engine.build(documents, tmp_path / "i", model="hash:16") as engine:
        engine.delete([str(documents[5].doc_id)])
        assert engine.export(tmp_path / "out.jsonl") == 11
        assert engine.export(tmp_path / "some.jsonl", filter="n < 3") == 3
        engine.export(tmp_path / "out.parquet")
        for name in ("out.jsonl", "out.parquet"):
            with Engine.build(tmp_path / name, tmp_path / f"of {name}", model="hash:16") as again:
                assert contents(again) == contents(engine)
            assert engine.upsert(tmp_path / name) == Changes(unchanged=11)


@pytest.mark.parametrize("whitening", [Whitening(5, gamma=0.5, epsilon=0.1), None])
def test_vectors_are_exported_as_they_are_searched(tmp_path: Path, whitening: Whitening | None) -> None:
    import pyarrow.parquet

    with Engine.build(corpus(30), tmp_path / "i", model="hash:16", whitening=whitening) as engine:
        engine.add(corpus(4, seed=1))
        engine.delete([str(corpus(2)[1].doc_id)])
        ids, raw = engine.raw_documents()
        assert engine.export(tmp_path / "v.npy", format="npy") == 33
        vectors = np.load(tmp_path / "v.npy")
        told = [json.loads(line) for line in (tmp_path / "v.npy.ids.jsonl").read_text().splitlines()]
        assert told == ids and vectors.dtype == np.float32
        texts = [one.text for one in engine.get(ids)]
        np.testing.assert_allclose(vectors, engine.embed(texts), atol=2e-3)  # float16 lies between
        engine.export(tmp_path / "r.npy", format="npy", vectors="raw")
        np.testing.assert_array_equal(np.load(tmp_path / "r.npy"), raw)
        engine.export(tmp_path / "v.parquet", format="parquet")
        table = pyarrow.parquet.read_table(tmp_path / "v.parquet").to_pylist()
        assert [row["id"] for row in table] == ids and [row["text"] for row in table] == texts
        np.testing.assert_array_equal([row["vector"] for row in table], vectors)
        assert json.loads(table[0]["metadata"]) == dict(engine.get(ids[:1])[0].metadata)


@pytest.mark.parametrize("index", ["Flat", "SQ8", "IVF4,SQ8"])
def test_vectors_are_exported_from_the_structure_where_there_are_no_others(tmp_path: Path, index: str) -> None:
    with Engine.build(corpus(60), tmp_path / "i", model="hash:16", raw=None, index=index) as engine:
        engine.delete([str(corpus(1)[0].doc_id)])
        assert engine.export(tmp_path / "v.npy") == 59
        ids = [json.loads(line) for line in (tmp_path / "v.npy.ids.jsonl").read_text().splitlines()]
        expected = engine.embed([one.text for one in engine.get(ids)])
        np.testing.assert_allclose(np.load(tmp_path / "v.npy"), expected, atol=1e-3 if index == "Flat" else 0.02)


def test_exports_that_cannot_be_made(tmp_path: Path) -> None:
    with Engine.build(corpus(5), tmp_path / "i", model="hash:16", raw=None) as engine:
        for how, said in [
            ({"format": "csv"}, "expected jsonl, npy or parquet"),
            ({"format": "npy", "vectors": "sparse"}, "whitened or raw"),
            ({"format": "npy", "vectors": "raw"}, "without raw vectors"),
            ({"vectors": "raw"}, "jsonl holds no vectors"),
        ]:
            (tmp_path / "out").write_text("mine")
            with pytest.raises(InputError, match=said):
                engine.export(tmp_path / "out", **how)  # type: ignore[arg-type]
            assert (tmp_path / "out").read_text() == "mine"
        with pytest.raises(InputError, match="lies in the index folder"):
            engine.export(tmp_path / "i" / "out.jsonl")
        with pytest.raises(InputError, match="nothing is compressed here"):
            engine.export(tmp_path / "out.jsonl.gz")
        with pytest.raises(FileNotFoundError, match="nowhere"):
            engine.export(tmp_path / "nowhere" / "out.jsonl")
        with pytest.raises(InputError, match="standard output"):
            engine.export("-", format="npy")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["i", "out"]


@pytest.mark.parametrize("raw", ["float16", None])
@pytest.mark.parametrize(
    "index", ["PQ4x4", "IVF4,PQ4x4fs", "RaBitQ", "IVF4,RaBitQ", "PCA8,SQ8", "SQ8,RFlat", "HNSW8,PQ4x4"]
)
def test_every_structure_can_be_verified_and_compacted(tmp_path: Path, index: str, raw: Any) -> None:
    """FAISS 1.15.1 ended the process when it decoded what it had read of IVF,PQ..fs; coarse codes were called damaged."""
    documents = corpus(80)
    with Engine.build(documents, tmp_path / "i", model="hash:16", whitening=None, index=index, raw=raw) as engine:
        engine.add(corpus(20, seed=1))
        engine.delete([str(documents[0].doc_id)])
    with Engine.open(tmp_path / "i") as engine:
        whole(engine)
        engine.compact()
        whole(engine)
    with Engine.open(tmp_path / "i") as engine:
        whole(engine)
        assert len(contents(engine)) == 99


# ---- found by a reviewer and by a user


def test_what_took_the_place_of_an_index_is_not_written_to(tmp_path: Path) -> None:
    """A change by an engine of the old one used to be committed into the new one, and destroyed it."""
    with Engine.build([("a", "first text"), ("b", "second text")], tmp_path / "i", model="hash:16") as old:
        (tmp_path / "i").rename(tmp_path / "old")
        for change in (lambda: old.add(["new"]), lambda: old.delete(["a"]), old.compact, old.rebuild):
            with pytest.raises(IndexMissingError, match="removed or replaced"):
                change()
        assert not (tmp_path / "i").exists()
        Engine.build(corpus(30), tmp_path / "i", model="hash:16", whitening=4).close()
        for change in (lambda: old.add(["new"]), lambda: old.delete(["a"]), old.compact, old.rebuild):
            with pytest.raises(IndexMissingError, match="removed or replaced"):
                change()
    with Engine.open(tmp_path / "i") as new:
        assert contents(new) == as_contents(corpus(30))
        whole(new)


def test_an_engine_stays_where_it_was_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Engine.build(["one"], "i", model="hash:16") as engine:
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        assert engine.add(["two"]) == Changes(added=1)
        whole(engine)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_bad_records_are_not_taken_for_absent_ones(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text('{"id": "a", "text": "one"}\n{"id": "b", "text": ""}\n')
    with Engine.build([("a", "one"), ("b", "two")], tmp_path / "i", model="hash:16") as engine:
        with pytest.raises(InputError, match="would delete the documents whose records are bad"):
            engine.upsert(tmp_path / "c.jsonl", prune=True, on_error="skip")
        assert engine.upsert(tmp_path / "c.jsonl", on_error="skip") == Changes(unchanged=1)
        assert len(engine) == 2


def test_an_export_is_of_one_state_also_beside_a_rebuild(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whitening used to be looked up before the state was taken; the rebuild here comes between the two."""
    real = Bundle.hold
    with (
        Engine.build(corpus(60), tmp_path / "i", model="hash:16", whitening=Whitening(6)) as engine,
        Engine.open(tmp_path / "i") as other,
    ):

        def hold_later(bundle: Bundle, prepare: Any) -> Any:
            if "whitening" not in prepare.__qualname__:  # that of the export itself
                monkeypatch.undo()
                other.rebuild(whitening=Whitening(3, gamma=1.0))
            return real(bundle, prepare)

        monkeypatch.setattr(Bundle, "hold", hold_later)
        engine.export(tmp_path / "v.npy")
        vectors = np.load(tmp_path / "v.npy")
        ids = [json.loads(line) for line in (tmp_path / "v.npy.ids.jsonl").read_text().splitlines()]
        np.testing.assert_allclose(vectors, other.embed([one.text for one in other.get(ids)]), atol=2e-3)


def test_an_error_behind_the_commit_is_none_of_the_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(5, "Input/output error")

    with Engine.build(corpus(30), tmp_path / "i", model="hash:16") as engine:
        with monkeypatch.context() as patch:
            patch.setattr("indexes.loaded.VectorIndex.read", fail)
            assert engine.add(["new"]) == Changes(added=1)
            with pytest.raises(OSError, match="Input/output"):
                engine.search("fox")
            with pytest.raises(OSError, match="built and committed, but cannot be opened"):
                Engine.build(corpus(3), tmp_path / "j", model="hash:16")
        assert len(engine) == 31
    with Engine.open(tmp_path / "j") as built:
        assert len(built) == 3


def test_info_names_the_structure_that_is_there(tmp_path: Path) -> None:
    with Engine.build(corpus(20), tmp_path / "i", model="hash:16") as engine:
        assert engine.info()["index"] == "Flat"
        engine.add([(str(i), f"text {i}") for i in range(1500)])
        assert engine.info()["index"] == "SQ8" and "1,520" in engine.info()["index_reason"]


def test_one_segment_is_compacted_too(tmp_path: Path) -> None:
    """An addition may take the segment in; then the space in the catalogue is what is left to give back."""
    with Engine.build(
        [(str(i), f"{i} " + "word " * 500) for i in range(300)], tmp_path / "i", model="hash:16"
    ) as engine:
        engine.upsert([(str(i), f"{i}") for i in range(300)])
        before = engine.info()
        engine.compact()
        after = engine.info()
        assert after["generation"] == before["generation"] and after["bytes"] < before["bytes"] / 4
        whole(engine)


def test_a_write_that_fails_leaves_the_catalogue_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    with Engine.build(corpus(30), tmp_path / "i", model="hash:16") as engine:
        with monkeypatch.context() as patch:
            patch.setattr("indexes.writer.write_commit", fail)
            with pytest.raises(OSError, match="No space"):
                engine.add(["new"])
        assert (tmp_path / "i" / "catalogue.seal").exists()
        (tmp_path / "i" / "catalogue.seal").unlink()  # as after a kill
        engine.delete(["nobody"])
        assert (tmp_path / "i" / "catalogue.seal").exists()
        assert engine.add(["new"]) == Changes(added=1)
        whole(engine)


def test_threads_of_one_engine_take_turns(tmp_path: Path) -> None:
    with Engine.build(["first"], tmp_path / "i", model="hash:16") as engine:
        with ThreadPoolExecutor(4) as pool:
            done = list(pool.map(lambda i: engine.add([f"text {i}"]), range(12)))
        assert done == [Changes(added=1)] * 12 and len(engine) == 13
        whole(engine)


def test_a_tiny_index_of_version_1_keeps_float16() -> None:
    entry = {"name": "000001.faiss", "role": "vectors", "bytes": 1, "sha256": "0"}
    model = {"name": "m", "source": "s", "dim": 8, "prompts": {}, "fingerprint": {}}
    for itemsize, dtype in ((2, "float16"), (4, "float32")):
        raw = entry | {"bytes": 128 + 8 * 8 * itemsize}
        values = {
            "generation": 1, "documents": 8, "next_row": 8, "dim": 8, "model": model, "whitening": None,
            "whitening_file": None, "index": {"requested": "auto", "factory": "Flat", "reason": "few"}, "made_by": {},
            "segments": [{"first_row": 0, "count": 8, "vectors": entry, "raw": raw}], "format_version": 1,
        }  # fmt: skip
        text = json.dumps(values)
        assert Manifest.from_json(text, checksum(text)).raw == dtype


def test_an_index_that_has_grown_is_told_what_it_could_have(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with Engine.build([f"text {i}" for i in range(20)], tmp_path / "i", model="hash:16") as engine:
        engine.add([f"text {i}" for i in range(20, 31)])
        assert "rebuild --auto" not in caplog.text
        engine.add(["text 31"])
        assert "rebuild --auto would choose one" in caplog.text
        engine.rebuild(whitening="auto")
        assert engine.info()["whitening"]["dim"] == 8


@pytest.mark.parametrize("suffix", [".faiss", ".whitening.safetensors"])
@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"rot")])
def test_what_can_be_made_anew_is_no_loss(tmp_path: Path, suffix: str, damage: Any) -> None:
    documents = corpus(60)
    parameters = {"beta": 0.5, "gamma": 0.25, "epsilon": 0.01, "local": 0.0}
    with Engine.build(documents, tmp_path / "i", model="hash:16", whitening=Whitening(6, **parameters)) as engine:
        shutil.copytree(tmp_path / "i", tmp_path / "whole")
        engine.export(tmp_path / "before.jsonl")
    damage(tmp_path / "i" / "segments" / f"000001{suffix}")
    with pytest.raises(IndexCorruptError, match=r"make it anew from the raw vectors \(retrieval rebuild\)"):
        Engine.open(tmp_path / "i")
    with Engine.open(tmp_path / "i", searchable=False) as engine:
        engine.export(tmp_path / "after.jsonl")
        assert (tmp_path / "after.jsonl").read_bytes() == (tmp_path / "before.jsonl").read_bytes()
        if suffix == ".faiss":
            with pytest.raises(InputError, match="opened without its search structures"):
                engine.search("fox")
        engine.rebuild()
    with Engine.open(tmp_path / "i") as again, Engine.open(tmp_path / "whole") as whole_one:
        whole(again)
        same_answers(again, whole_one)


@pytest.mark.parametrize("damage", [lambda path: path.unlink(), lambda path: path.write_bytes(b"rot")])
def test_row_numbers_stand_in_the_catalogue_too(tmp_path: Path, damage: Any) -> None:
    documents = corpus(90)
    with Engine.build(documents[:40], tmp_path / "i", model="hash:16", whitening=6) as engine:
        engine.delete([one.doc_id for one in documents[3:40:7]])
        engine.compact()
        engine.add(documents[40:])  # takes in what is there
        engine.add(corpus(5, seed=1))
        engine.delete([one.doc_id for one in documents[50:60]])
        engine.export(tmp_path / "before.jsonl")
    (rows,) = (tmp_path / "i" / "segments").glob("*.rows.npy")
    damage(rows)
    with pytest.raises(IndexCorruptError, match=r"rows.npy .*make it anew .*\(retrieval rebuild\)"):
        Engine.open(tmp_path / "i")
    assert [check.name for check in verify(tmp_path / "i", deep=True) if check.problem][-1] == rows.name
    with Engine.open(tmp_path / "i", searchable=False) as engine:
        engine.export(tmp_path / "after.jsonl")
        assert (tmp_path / "after.jsonl").read_bytes() == (tmp_path / "before.jsonl").read_bytes()
        engine.rebuild(whitening=None)
    with (
        Engine.open(tmp_path / "i") as again,
        Engine.build(tmp_path / "before.jsonl", tmp_path / "built", model="hash:16", whitening=None) as built,
    ):
        whole(again)
        same_answers(again, built)


def test_row_numbers_of_the_catalogue_are_those_of_the_vectors(tmp_path: Path) -> None:
    with Engine.build(corpus(40), tmp_path / "i", model="hash:16", whitening=None) as engine:
        engine.delete(["0-0003"])
        engine.compact()
    with closing(sqlite3.connect(tmp_path / "i" / "catalogue.sqlite")) as database:
        database.execute("DELETE FROM documents WHERE row = 7")
        database.commit()
    (tmp_path / "i" / "catalogue.seal").unlink()
    with pytest.raises(IndexCorruptError, match="38 rows from 0 on, but 39 vectors were committed"):
        Engine.open(tmp_path / "i", searchable=False)


def test_documents_outlive_their_raw_vectors(tmp_path: Path) -> None:
    """What the error says can be done."""
    Engine.build(corpus(60), tmp_path / "i", model="hash:16", whitening=6).close()
    raw = tmp_path / "i" / "segments" / "000001.raw.npy"
    raw.write_bytes(raw.read_bytes()[:-1] + b"?")
    with Engine.open(tmp_path / "i") as engine:
        with pytest.raises(
            IndexCorruptError, match=r"build an index again from its documents \(retrieval export INDEX\)"
        ):
            engine.rebuild()
        engine.export(tmp_path / "out.jsonl")
    with Engine.build(tmp_path / "out.jsonl", tmp_path / "again", model="hash:16") as again:
        assert contents(again) == as_contents(corpus(60))


def test_an_index_that_is_replaced_while_a_writer_waits_for_the_lock_is_not_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Engine.build(corpus(30), tmp_path / "new", model="hash:16", whitening=4).close()
    with Engine.build([("a", "first text")], tmp_path / "i", model="hash:16") as old:

        def replaced(name: str) -> None:
            if name == "locked":
                for file in ("catalogue.sqlite", "catalogue.seal"):
                    (tmp_path / "new" / file).replace(tmp_path / "i" / file)
                shutil.rmtree(tmp_path / "i" / "segments")
                (tmp_path / "new" / "segments").replace(tmp_path / "i" / "segments")

        monkeypatch.setattr("indexes.steps.on_step", replaced)
        with pytest.raises(IndexMissingError, match="removed or replaced"):
            old.delete(["a"])
    with Engine.open(tmp_path / "i") as new:
        assert contents(new) == as_contents(corpus(30))


def test_the_log_of_another_state_beside_a_sealed_catalogue_is_not_believed(tmp_path: Path) -> None:
    """Who puts back an older catalogue with its seal, and leaves the newer log, would get what SQLite makes of both."""
    Engine.build(corpus(10), tmp_path / "i", model="hash:16").close()
    with closing(sqlite3.connect(tmp_path / "i" / "catalogue.sqlite")) as newer:
        newer.execute("UPDATE documents SET metadata = '{}'")
        newer.commit()
        log = (tmp_path / "i" / "catalogue.sqlite-wal").read_bytes()
        assert log
        with pytest.raises(IndexCorruptError, match="its log is of another state"):
            Engine.open(tmp_path / "i")


def test_verify_finds_a_damaged_index_of_ids(tmp_path: Path) -> None:
    """No file and no document is amiss; only SQLite's own check sees it."""
    Engine.build(corpus(10), tmp_path / "i", model="hash:16").close()
    catalogue = tmp_path / "i" / "catalogue.sqlite"
    with closing(sqlite3.connect(catalogue)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_master WHERE type = 'index'").fetchone()
        (size,) = db.execute("PRAGMA page_size").fetchone()
    data = bytearray(catalogue.read_bytes())
    data[(page - 1) * size : page * size] = bytes(size)
    catalogue.write_bytes(data)
    (tmp_path / "i" / "catalogue.seal").unlink()
    bad = [check.name for check in verify(tmp_path / "i", deep=True) if check.problem]
    assert bad == ["catalogue.sqlite"]
