"""The whole way of the data through the Python face, with an encoder that is a function of the text."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from indexes.errors import (
    CorpusError,
    DuplicateIdError,
    FingerprintError,
    IndexCorruptError,
    IndexExistsError,
    IndexUnfinishedError,
    InputError,
    ModelError,
)
from retrieval import Document, Engine, Hit, Whitening
from retrieval.encoder import Encoded, HashEncoder, Role
from retrieval.engine import auto_dim
from retrieval.halves import GAMMAS
from retrieval.moments import unit_rows

WORDS = [f"w{i}" for i in range(300)]


def texts(n: int, seed: int = 0) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 12))) for _ in range(n)]


class Counting(HashEncoder):
    """A hash encoder that remembers what it was asked to encode."""

    def __init__(self, dim: int = 32, max_tokens: int | None = None) -> None:
        super().__init__(dim, max_tokens)
        self.asked: list[tuple[str, Role]] = []

    def encode(self, texts: Sequence[str], role: Role = "document") -> Encoded:
        self.asked += [(text, role) for text in texts]
        return super().encode(texts, role)


def test_hits_say_what_was_found(tmp_path: Path) -> None:
    corpus = [
        Document(doc_id="a", text="red fox", metadata={"n": 1}),
        Document(doc_id="b", text="blue whale", metadata={"n": 2}),
    ]
    with Engine.build(corpus, tmp_path / "i", model="hash:256") as engine:
        (hit,) = engine.search("red fox", k=1)
    assert hit == Hit(rank=1, doc_id="a", score=1.0, text="red fox", metadata={"n": 1}, scores={"dense": 1.0})


@pytest.mark.parametrize("whitening", [None, Whitening(), Whitening(dim=12, beta=0.5, gamma=0.5)])
def test_flat_equals_numpy(tmp_path: Path, whitening: Whitening | None) -> None:
    corpus, queries = texts(500), texts(40, seed=1)
    encoder = HashEncoder(32)
    engine = Engine.build(corpus, tmp_path / "i", model=encoder, whitening=whitening, index="Flat")
    raw = encoder.encode(corpus).vectors.astype(np.float16).astype(np.float64)
    asked = encoder.encode(queries).vectors.astype(np.float64)
    if whitening is not None:  # the formula again, by hand
        mean = raw.mean(axis=0)
        sigma = (raw - whitening.beta * mean).T @ (raw - whitening.beta * mean) / len(raw)
        values, vectors = np.linalg.eigh(sigma)
        kernel = (vectors * values ** (-whitening.gamma / 2))[:, ::-1][:, : whitening.dim]
        raw, asked = (raw - whitening.beta * mean) @ kernel, (asked - whitening.beta * mean) @ kernel
    cosines = (asked / np.linalg.norm(asked, axis=1, keepdims=True)) @ (
        raw / np.linalg.norm(raw, axis=1, keepdims=True)
    ).T
    for hits, row in zip(engine.search(queries, k=10), cosines, strict=True):
        assert [hit.score for hit in hits] == pytest.approx(sorted(row, reverse=True)[:10], abs=2e-5)
        for hit in hits:
            assert hit.score == pytest.approx(row[corpus.index(hit.text)], abs=2e-5)


def test_batch_equals_one_by_one(tmp_path: Path) -> None:
    queries = texts(60, seed=2)
    with Engine.build(texts(9000), tmp_path / "i", model="hash:48") as engine:
        together = engine.search(queries, k=10)
        for query, hits in zip(queries, together, strict=True):
            alone = engine.search(query, k=10)
            assert [hit.doc_id for hit in alone] == [hit.doc_id for hit in hits]
            assert [hit.score for hit in alone] == pytest.approx([hit.score for hit in hits], abs=1.5e-6)


def test_closed_and_opened_again_it_answers_the_same(tmp_path: Path) -> None:
    queries = texts(10, seed=3)
    with Engine.build(texts(300), tmp_path / "i", model="hash:32", index="HNSW16") as engine:
        before = engine.search(queries, k=5)
    with Engine.open(tmp_path / "i") as engine:
        assert engine.search(queries, k=5) == before
        assert engine.search(engine.embed(queries, role="query"), k=5) == before


def test_equal_scores_are_in_the_order_of_ids(tmp_path: Path) -> None:
    corpus = [(f"id{i:02}", "the same text") for i in random.Random(0).sample(range(60), 60)]
    with Engine.build(corpus, tmp_path / "i", model="hash:16") as engine:
        assert [hit.doc_id for hit in engine.search("the same text", k=5)] == [f"id{i:02}" for i in range(5)]
        assert [hit.doc_id for hit in engine.search("text", k=60)] == [f"id{i:02}" for i in range(60)]


def test_more_hits_than_documents(tmp_path: Path) -> None:
    with Engine.build(["one", "two"], tmp_path / "i", model="hash:8") as engine:
        assert len(engine.search("one", k=100)) == 2
        assert engine.search([], k=3) == []


@pytest.mark.parametrize("index", ["Flat", "HNSW32", "HNSW32,SQ8", "IVF20,Flat"])
def test_a_narrow_filter_is_exact(tmp_path: Path, index: str) -> None:
    rng = random.Random(5)
    corpus = [
        Document(doc_id=str(i), text=text, metadata={"group": rng.randrange(1000)})
        for i, text in enumerate(texts(6000, seed=4))
    ]
    allowed = [document for document in corpus if document.metadata["group"] < 2]  # about 0.2 %
    with Engine.build(corpus, tmp_path / "i", model="hash:32", index=index) as engine:
        vectors = engine.embed([document.text for document in allowed])
        for query in texts(20, seed=6):
            hits = engine.search(query, k=5, filter="group < 2")
            best = np.sort(vectors @ engine.embed([query], role="query")[0])[::-1][:5]
            assert len(hits) == min(5, len(allowed))
            assert all(hit.metadata["group"] < 2 for hit in hits)
            assert [hit.score for hit in hits] == pytest.approx(
                best, abs=0.02 if "SQ8" in index else 1e-3
            )  # float16 rows


def test_equal_texts_are_encoded_once(tmp_path: Path) -> None:
    encoder = Counting()
    corpus = ["a a", "b b", "a a", "c c", "b b", "a a"] * 500
    engine = Engine.build(corpus, tmp_path / "i", model=encoder)
    assert sorted(encoder.asked) == [("a a", "document"), ("b b", "document"), ("c c", "document")]
    engine.search("b b")
    assert encoder.asked[3:] == [("b b", "query")]
    assert engine.info()["documents"] == 3000


def test_truncated_documents_are_counted_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    corpus = ["one two three four", "one two three", "one two three four", "one two three four five"]
    engine = Engine.build(corpus, tmp_path / "i", model=HashEncoder(16, max_tokens=3))
    assert engine.info()["truncated"] == 3
    assert "documents longer than 3 tokens: 3; what is beyond was not read" in caplog.messages


def test_another_model_is_refused_and_named(tmp_path: Path) -> None:
    Engine.build(["one", "two"], tmp_path / "i", model="hash:16").close()
    with Engine.open(tmp_path / "i", model="hash:8") as engine:
        assert engine.info()["documents"] == 2
        with pytest.raises(FingerprintError, match="differ from those of 'hash:8'"):
            engine.search("one")


@pytest.mark.model
def test_another_model_without_prompts_is_refused_by_its_name(tmp_path: Path) -> None:
    Engine.build(["one", "two"], tmp_path / "i", prompts={"document": "text: "}).close()
    with Engine.open(tmp_path / "i", model="hash:8") as engine, pytest.raises(FingerprintError, match="of 'hash:8'"):
        engine.search("one")


def test_a_changed_whitening_file_is_refused(tmp_path: Path) -> None:
    Engine.build(texts(100), tmp_path / "i", model="hash:16", whitening=Whitening(dim=8)).close()
    (file,) = (tmp_path / "i" / "segments").glob("*.whitening.safetensors")
    Whitening(dim=8, beta=0.5).fit(np.random.default_rng(0).standard_normal((100, 16))).save(file)
    with pytest.raises(IndexCorruptError, match=file.name):
        Engine.open(tmp_path / "i")


def test_a_fitted_whitening_is_used_as_it_is(tmp_path: Path) -> None:
    fitted = Whitening(dim=4).fit(HashEncoder(16).encode(texts(400, seed=9)).vectors)
    engine = Engine.build(texts(50), tmp_path / "i", model="hash:16", whitening=fitted)
    assert engine.whitening is not None
    np.testing.assert_array_equal(engine.whitening.components_, fitted.components_)
    assert engine.info()["whitening"]["n_fitted"] == 400


def test_raw_vectors_are_kept_unless_told_not_to(tmp_path: Path) -> None:
    corpus = texts(30)
    kept = Engine.build(corpus, tmp_path / "kept", model="hash:16")
    (raw,) = (tmp_path / "kept" / "segments").glob("*.raw.npy")
    stored = np.load(raw, allow_pickle=False)
    np.testing.assert_array_equal(stored, HashEncoder(16).encode(corpus).vectors.astype(np.float16))
    without = Engine.build(corpus, tmp_path / "without", model="hash:16", raw=None)
    assert not list((tmp_path / "without" / "segments").glob("*.raw.npy"))
    assert (kept.info()["raw_vectors"], without.info()["raw_vectors"]) == ("float16", None)
    assert kept.search(corpus[0]) == without.search(corpus[0])
    full = Engine.build(corpus, tmp_path / "full", model="hash:16", raw="float32")
    cosines = (
        unit_rows(HashEncoder(16).encode(corpus).vectors) @ unit_rows(HashEncoder(16).encode(corpus[:1]).vectors)[0]
    )
    assert [hit.score for hit in full.search(corpus[0], k=30)] == pytest.approx(sorted(cosines, reverse=True), abs=1e-6)


def test_ids_stay_as_they_are_and_missing_ones_are_stable(tmp_path: Path) -> None:
    corpus = [("007", "bond"), ("1e5", "number"), ("a\nb 🦊", "odd"), "nameless", "nameless"]
    engines = [Engine.build(c, tmp_path / str(i), model="hash:16") for i, c in enumerate([corpus, corpus[::-1]])]
    found = [sorted(hit.doc_id for hit in engine.search("bond", k=9)) for engine in engines]
    assert found[0] == found[1]
    assert {"007", "1e5", "a\nb 🦊"} < set(found[0])
    assert [i.removeprefix(found[0][-2]) for i in found[0][-2:]] == ["", ":2"]


def test_bad_records_leave_nothing(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"<iterable>:2: text is empty"):
        Engine.build(["fine", " "], tmp_path / "i", model="hash:8")
    with pytest.raises(DuplicateIdError, match=r"<iterable>:3.*<iterable>:1"):
        Engine.build([("x", "one"), ("y", "two"), ("x", "three")], tmp_path / "i", model="hash:8")
    with pytest.raises(InputError, match="no document in the corpus: it is empty"):
        Engine.build([], tmp_path / "i", model="hash:8")
    with pytest.raises(InputError, match="all 2 records were rejected"):
        Engine.build([" ", ""], tmp_path / "i", model="hash:8", on_error="skip")
    with pytest.raises(ModelError, match="no folder 'nowhere'"):
        Engine.build(["fine"], tmp_path / "i", model="nowhere")
    assert not (tmp_path / "i").exists()


def test_rejects_are_written_aside(tmp_path: Path) -> None:
    engine = Engine.build(
        ["fine", " ", "good"], tmp_path / "i", model="hash:8", on_error="skip", rejects=tmp_path / "r.jsonl"
    )
    (reject,) = [json.loads(line) for line in (tmp_path / "r.jsonl").read_text().splitlines()]
    assert (reject["source"], reject["line"]) == ("<iterable>", 2)
    assert engine.info()["documents"] == 2


def test_an_index_is_not_built_over(tmp_path: Path) -> None:
    Engine.build(["one"], tmp_path / "i", model="hash:8").close()
    with pytest.raises(IndexExistsError, match="is an index already"):
        Engine.build(["two"], tmp_path / "i", model="hash:8")
    with Engine.open(tmp_path / "i") as engine:
        assert engine.search("one")[0].text == "one"


class Tired(Counting):
    """Gives up, as a killed process does, after some texts."""

    def __init__(self, patience: int) -> None:
        super().__init__()
        self.patience = patience

    def encode(self, texts: Sequence[str], role: Role = "document") -> Encoded:
        if len(self.asked) >= self.patience:
            raise KeyboardInterrupt
        return super().encode(texts, role)


def test_an_interrupted_build_goes_on_and_gives_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("indexes.staging.CHUNK", 64)
    corpus = list(dict.fromkeys(texts(400)))
    arguments = {"whitening": Whitening(dim=16), "index": "HNSW16"}
    Engine.build(corpus, tmp_path / "whole", model=Counting(), **arguments).close()
    with pytest.raises(KeyboardInterrupt):
        Engine.build(corpus, tmp_path / "i", model=Tired(200), **arguments)
    assert not arguments["whitening"].is_fitted
    second = Counting()
    Engine.build(corpus, tmp_path / "i", model=second, **arguments).close()
    assert len(second.asked) == len(corpus) - 256
    for file in (tmp_path / "whole" / "segments").iterdir():
        assert file.read_bytes() == (tmp_path / "i" / "segments" / file.name).read_bytes()


def test_other_documents_do_not_throw_an_interrupted_build_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexes.staging.CHUNK", 64)
    with pytest.raises(KeyboardInterrupt):
        Engine.build(texts(300), tmp_path / "i", model=Tired(100))
    other = Counting()
    corpus = list(dict.fromkeys(texts(300, seed=8)))
    with pytest.raises(
        IndexUnfinishedError, match=r"an interrupted build or addition of other documents .* \(128 vectors are done\)"
    ):
        Engine.build(corpus, tmp_path / "i", model=other)
    assert other.asked == []
    again = Counting()
    Engine.build(texts(300), tmp_path / "i", model=again, whitening=None).close()
    assert len(again.asked) == len(set(texts(300))) - 128


def test_auto_whitening_needs_documents_enough() -> None:
    assert [auto_dim(n, d) for n, d in ((19, 10), (20, 10), (2, 1), (1, 1))] == [None, 5, 1, None]


def test_a_number_of_columns_leaves_the_rest_to_the_texts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with Engine.build(texts(300), tmp_path / "i", model="hash:16", whitening=6) as engine:
        assert engine.info()["dim"] == 6 and engine.whitening is not None
        chosen = engine.whitening.parameters
    assert {name: chosen[name] for name in ("beta", "epsilon", "local")} == {
        "beta": 0.0,
        "epsilon": 0.001,
        "local": 0.5,
    }
    assert chosen["gamma"] in GAMMAS
    assert any(
        message.startswith(f"whitening: 6 columns, gamma {chosen['gamma']:g} finds texts")
        for message in caplog.messages
    )
    for bad in (True, "some", 0, 17):
        with pytest.raises(InputError, match="whitening=|dim="):
            Engine.build(texts(300), tmp_path / "j", model="hash:16", whitening=bad)  # type: ignore[arg-type]


def test_documents_by_their_ids(tmp_path: Path) -> None:
    corpus = [Document(doc_id=str(i), text=f"text {i}", metadata={"n": i}) for i in range(5)]
    with Engine.build(corpus, tmp_path / "i", model="hash:8") as engine:
        assert engine.get(["3", "0", "3"]) == [corpus[3], corpus[0], corpus[3]]
        assert engine.get([]) == []
        with pytest.raises(InputError, match="id '9' is not in"):
            engine.get(["0", "9"])
        ids, vectors = engine.raw_documents()
        assert ids == ["0", "1", "2", "3", "4"] and vectors.shape == (5, 8)


def test_auto_whitening_takes_texts_that_are_all_the_same(tmp_path: Path) -> None:
    """They span one direction, in which a scale without epsilon would divide by nothing."""
    with Engine.build(["the same words"] * 50, tmp_path / "i", model="hash:16") as engine:
        assert engine.info()["dim"] == 8
        assert engine.search("the same words", k=1)[0].score == pytest.approx(1.0, abs=1e-3)


def test_files_and_python_objects_give_the_same_index(tmp_path: Path) -> None:
    records = [{"id": str(i), "text": text, "n": i} for i, text in enumerate(texts(20))]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    engines = [
        Engine.build(corpus, tmp_path / name, model="hash:16")
        for name, corpus in (
            ("path", tmp_path / "c.jsonl"), ("str", str(tmp_path / "c.jsonl")), ("list", [tmp_path / "c.jsonl"]), ("objects", records),
        )
    ]  # fmt: skip
    answers = [engine.search(records[3]["text"], k=20) for engine in engines]
    assert answers[0][0].doc_id == "3"
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.parametrize("query", ["", "  ", "\n"])
def test_empty_queries_are_refused(tmp_path: Path, query: str) -> None:
    with (
        Engine.build(["one"], tmp_path / "i", model="hash:8") as engine,
        pytest.raises(InputError, match="query 2 is .*; expected some words"),
    ):
        engine.search(["fine", query])


def test_a_whitening_that_was_not_fitted_is_fitted_on_each_corpus_and_stays_unfitted(tmp_path: Path) -> None:
    whitening = Whitening(dim=4)
    for n in (200, 50):
        with Engine.build(texts(n), tmp_path / str(n), model="hash:16", whitening=whitening) as engine:
            assert engine.info()["whitening"]["n_fitted"] == n
    assert not whitening.is_fitted
    fitted = Whitening(dim=4).fit(HashEncoder(8).encode(texts(50)).vectors)
    with pytest.raises(InputError, match="fitted on 8 columns, but the model's vectors have 16"):
        Engine.build(texts(50), tmp_path / "i", model="hash:16", whitening=fitted)
    assert not (tmp_path / "i").exists()


def test_vectors_that_were_changed_while_a_build_lay_still_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("indexes.staging.CHUNK", 64)
    corpus = list(dict.fromkeys(texts(300)))
    with pytest.raises(KeyboardInterrupt):
        Engine.build(corpus, tmp_path / "i", model=Tired(100))
    raw = tmp_path / "i" / "staging" / "raw.npy"
    data = bytearray(raw.read_bytes())
    data[500] ^= 1
    raw.write_bytes(data)
    again = Counting()
    with Engine.build(corpus, tmp_path / "i", model=again, whitening=None) as engine:
        assert len(again.asked) == len(corpus)
        assert engine.search(corpus[5], k=1)[0].text == corpus[5]


def test_the_corpus_is_not_overwritten_by_its_rejects(tmp_path: Path) -> None:
    corpus = tmp_path / "c.txt"
    corpus.write_text("one\ntwo\n")
    (tmp_path / "old.jsonl").write_text("older rejects")
    for rejects, said in ((corpus, "is the corpus itself"), (tmp_path / "i" / "r.jsonl", "lies in the index folder")):
        with pytest.raises(InputError, match=said):
            Engine.build(corpus, tmp_path / "i", model="hash:8", on_error="skip", rejects=rejects)
    with pytest.raises(InputError, match="no document"):
        Engine.build([" "], tmp_path / "i", model="hash:8", on_error="skip", rejects=tmp_path / "r.jsonl")
    with pytest.raises(ModelError):
        Engine.build(corpus, tmp_path / "i", model="nowhere", on_error="skip", rejects=tmp_path / "old.jsonl")
    assert corpus.read_text() == "one\ntwo\n"
    assert (tmp_path / "old.jsonl").read_text() == "older rejects"
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"raw": "int8"}, "raw='int8'; expected 'float16', 'float32' or None"),
        ({"whitening": "none"}, "whitening='none'; expected a Whitening"),
        ({"prompts": {"query": "x"}}, "the encoder hash:8 takes none from outside"),
        ({"index": "IVF64,Flat"}, "learns from 64 documents or more, but there are 2"),
        ({"index": "PQ4"}, "learns from 256 documents or more, but there are 2"),
    ],
)
def test_arguments_are_checked_before_anything_is_encoded(tmp_path: Path, arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        Engine.build(["one", "two"], tmp_path / "i", model="hash:8", **arguments)
    assert not (tmp_path / "i").exists()


def test_truncated_queries_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Engine.build(["one two"], tmp_path / "i", model=HashEncoder(16, max_tokens=2)) as engine:
        engine.search(["one two three", "one"])
    assert "queries longer than 2 tokens: 1; what is beyond was not read" in caplog.messages


def test_a_closed_engine_says_so(tmp_path: Path) -> None:
    engine = Engine.build(["one two"], tmp_path / "i", model="hash:8")
    assert len(engine) == 1
    assert "1 documents, hash:8" in repr(engine)
    engine.close()
    with pytest.raises(InputError, match="was closed; open it again"):
        engine.search("one")


@pytest.mark.parametrize("k", [0, -1, 2.5, "3", True])
def test_k_is_a_number_of_hits(tmp_path: Path, k: Any) -> None:
    with (
        Engine.build(["one two"], tmp_path / "i", model="hash:8") as engine,
        pytest.raises(InputError, match="expected the number of hits"),
    ):
        engine.search("one", k=k)
