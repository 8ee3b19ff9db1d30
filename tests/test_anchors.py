"""Anchor queries: chosen by a pilot, scored in the background, carried along by every change, used by searches."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.linear_model import RidgeCV
from test_cli import run
from test_engine import texts

from indexes.bundle import Bundle
from indexes.errors import FingerprintError, IndexCorruptError, InputError
from indexes.manifest import FORMAT_VERSION
from indexes.stored import blank
from indexes.writer import BundleWriter
from retrieval import Document, Engine, Whitening, anchoring, making
from retrieval.cross import Basis, completion, greedy_rows
from retrieval.cross.anchors import Anchors
from retrieval.cross.completion import completed, is_scored
from retrieval.cross.pilot import try_anchors

TEXTS = texts(300)
LOG = texts(60, seed=5)
HIDDEN = 12
DRAWN = np.random.default_rng(3).normal(size=(2, 500, HIDDEN))


def hidden(text: str, side: int) -> NDArray[np.float64]:
    """What a text is to the scorer, of which its vector by the encoder says nothing."""
    return np.asarray(sum(DRAWN[side, sum(word.encode()) % 500] for word in text.split()), np.float64)


class Hidden:
    """A scorer of rank 12, exact in float16 (quarters); counts its calls, and may do something before one."""

    name, fingerprint = "hidden", {"weights": "0a", "max_length": 512}

    def __init__(self, before: Callable[[int], object] = lambda calls: None) -> None:
        self.calls, self.before = 0, before

    def __call__(self, query: str, some: Sequence[str]) -> list[float]:
        self.before(self.calls)
        self.calls += len(some)
        left = hidden(query, 0)
        return [round(float(4 * left @ hidden(text, 1) / len(text.split()))) / 4 for text in some]


def corpus(some: Sequence[str], start: int = 0) -> list[Document]:
    return [Document(doc_id=f"{i:04}", text=text) for i, text in enumerate(some, start)]


def stored(engine: Engine) -> dict[str, list[float]]:
    """The scores of each document, by id; None for none."""
    bundle = engine._bundle

    def read() -> dict[str, list[float]]:
        scores = bundle.kept("scores")
        assert scores is not None
        ids = [one.doc_id for one in bundle.documents(scores.rows.tolist())]
        known = is_scored(scores)
        return {doc_id: row for doc_id, row, is_known in zip(ids, scores[:].tolist(), known, strict=True) if is_known}

    return bundle.read(read)


def queries_of(engine: Engine) -> tuple[str, ...]:
    path = engine._bundle.anchors_path
    assert path is not None
    return Anchors.load(path).queries


def right(engine: Engine) -> set[str]:
    """Ids of the documents with scores, which are those of their texts."""
    found, scorer = stored(engine), Hidden()
    for doc_id, row in found.items():
        (document,) = engine.get([doc_id])
        assert row == [scorer(query, [document.text])[0] for query in queries_of(engine)]
    return set(found)


@pytest.fixture
def engine(tmp_path: Path) -> Any:
    with Engine.build(corpus(TEXTS), tmp_path / "i", model="hash:32") as built:
        yield built


# ---- scoring


def test_every_document_is_scored_once_and_only_what_is_new_later(engine: Engine) -> None:
    scorer = Hidden()
    done = engine.score_anchors(scorer, anchors=8)
    pilot = done.pilot
    assert (
        pilot is not None
        and pilot.queries * pilot.documents + 8 * (300 - pilot.documents) == scorer.calls == done.calls
    )
    assert (done.anchors, done.scored, done.documents) == (8, 300, 300) and len(right(engine)) == 300
    assert engine.score_anchors(scorer).calls == 0
    engine.add(corpus(["a new text", "another one"], 300))
    engine.upsert(corpus(["the first text is another now"]))
    assert engine.info()["anchors"] == {"queries": 8, "model": "hidden", "documents": 299}
    assert engine.score_anchors(scorer).calls == 3 * 8
    assert len(right(engine)) == 302
    assert not [check for check in engine.verify(deep=True) if check.problem]


def test_an_index_that_grew_has_the_scores_and_hits_of_one_built_at_once(tmp_path: Path) -> None:
    with (
        Engine.build(corpus(TEXTS), tmp_path / "whole", model="hash:32", whitening=None) as whole,
        Engine.build(corpus(TEXTS[:200]), tmp_path / "grown", model="hash:32", whitening=None) as grown,
    ):
        whole.score_anchors(Hidden(), anchors=60, queries=LOG)
        grown.score_anchors(Hidden(), anchors=60, queries=LOG)
        grown.add(corpus(TEXTS[200:], 200))
        grown.score_anchors(Hidden())
        for engine in (whole, grown):
            order = np.argsort(queries_of(engine))
            engine_scores = {doc_id: np.array(row)[order] for doc_id, row in stored(engine).items()}
            first = engine_scores if engine is whole else first  # noqa: F821
        assert first.keys() == engine_scores.keys()
        assert all(np.array_equal(first[doc_id], engine_scores[doc_id]) for doc_id in first)
        how: Any = {"rerank": Hidden(), "budget": 40, "method": "adaptive"}
        one, two = (engine.search(TEXTS[:20], 10, **how) for engine in (whole, grown))
        for hits, others in zip(one, two, strict=True):
            assert [hit.doc_id for hit in hits] == [hit.doc_id for hit in others]
            predicted = [[hit.scores.get("predicted", 0.0) for hit in some] for some in (hits, others)]
            assert np.allclose(*predicted, atol=1e-6)


@pytest.mark.parametrize("raw", ["float16", None])
def test_changes_carry_scores_along(tmp_path: Path, raw: Any) -> None:
    with Engine.build(corpus(TEXTS[:100]), tmp_path / "i", model="hash:16", raw=raw) as engine:
        engine.score_anchors(Hidden(), anchors=4, documents=60)
        before = right(engine)
        assert len(before) == 60
        gone = sorted(before)[::7]
        engine.delete(gone)
        assert right(engine) == before - set(gone)
        for start in range(100, 250, 50):
            engine.add(corpus(TEXTS[start : start + 50], start))  # takes the segments before it in
            assert right(engine) == before - set(gone)
        engine.compact()
        assert right(engine) == before - set(gone) and engine.info()["segments"] == 1
        if raw:
            engine.rebuild(whitening=8)
            assert right(engine) == before - set(gone)
        engine.score_anchors(Hidden())
        assert len(right(engine)) == len(engine)
        files = {file.name for file in engine._bundle.manifest.files}
        assert {path.name for path in (tmp_path / "i" / "segments").iterdir()} == files


def test_many_rows_are_gone_through_in_pieces(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(making, "BATCH", 16)
    monkeypatch.setattr(completion, "AT_ONCE", 16)
    monkeypatch.setattr(anchoring, "PAIRS", 40)
    for documents in (50, 110):  # so many in all
        assert engine.score_anchors(Hidden(), anchors=4, documents=documents).scored == documents
        assert len(right(engine)) == documents
    rows = sorted(map(int, right(engine)))
    assert rows[-1] > 200 and np.diff(rows).max() < 30  # from everywhere
    engine.compact()
    assert len(right(engine)) == 110


def test_anchors_differ_as_much_as_they_can(engine: Engine) -> None:
    """One of twenty queries of the same words, and all of five others."""
    words, others = LOG[0].split(), LOG[1:6]
    same = [" ".join(np.random.default_rng(i).permutation(words)) for i in range(20)]
    engine.score_anchors(Hidden(), anchors=6, queries=[*same, *others], documents=1)
    assert len(set(queries_of(engine)) & set(same)) == 1 and set(others) <= set(queries_of(engine))


def test_an_interruption_keeps_what_was_scored(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchoring, "PAIRS", 40)

    def stop(calls: int) -> None:
        if calls > 100:
            raise KeyboardInterrupt

    engine.score_anchors(Hidden(), anchors=4, documents=1)
    with pytest.raises(KeyboardInterrupt):
        engine.score_anchors(Hidden(stop))
    done = len(right(engine))
    assert done == 1 + 20  # of the third 40 pairs not all were scored
    rest = Hidden()
    engine.score_anchors(rest)
    assert rest.calls == 4 * (300 - done) and len(right(engine)) == 300


def test_a_text_that_cannot_be_scored_costs_nothing_that_was(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchoring, "PAIRS", 40)
    engine.score_anchors(Hidden(), anchors=4, documents=1)

    class Choosy(Hidden):
        def __call__(self, query: str, some: Sequence[str]) -> list[float]:
            scores = super().__call__(query, some)
            return [float("nan"), *scores[1:]] if self.calls > 100 else scores

    with pytest.raises(InputError, match="not finite for 'w"):
        engine.score_anchors(Choosy())
    assert len(right(engine)) == 1 + 20


def test_scores_that_another_writer_costs_are_told(
    engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine.score_anchors(Hidden(), anchors=4, documents=1)
    with closing(Bundle(tmp_path / "i")) as bundle, ExitStack() as others:

        def stop(calls: int) -> None:
            if calls >= 256:
                others.enter_context(BundleWriter(tmp_path / "i", bundle))
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            engine.score_anchors(Hidden(stop))
    assert "the last scores are lost: " in caplog.text and "is being written" in caplog.text and len(right(engine)) == 1


def test_anchors_that_are_dropped_meanwhile_end_the_scoring(
    engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    engine.score_anchors(Hidden(), anchors=4, documents=1)

    def drop(error: type[BaseException] | None) -> Callable[[int], None]:
        def meddle(calls: int) -> None:
            with Engine.open(tmp_path / "i") as other:
                other.drop_anchors()
            if error is not None:
                raise error

        return meddle

    with pytest.raises(InputError, match="got other anchor queries meanwhile, or none"):
        engine.score_anchors(Hidden(drop(None)))
    engine.score_anchors(Hidden(), anchors=4, documents=1)
    with pytest.raises(KeyboardInterrupt):
        engine.score_anchors(Hidden(drop(KeyboardInterrupt)))
    assert engine.info()["anchors"] is None


def test_threads_of_one_engine_take_turns(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents come and go while the same engine scores and commits all the time: nobody is refused."""
    monkeypatch.setattr(anchoring, "PAIRS", 8)
    monkeypatch.setattr(anchoring, "COMMIT_EVERY", 0.0)
    engine.score_anchors(Hidden(), anchors=4, documents=1)
    committing, go_on, commit = threading.Event(), threading.Event(), BundleWriter.commit

    def slow(self: BundleWriter, *given: Any, **how: Any) -> Any:
        committing.set()
        go_on.wait(30)
        return commit(self, *given, **how)

    with ThreadPoolExecutor() as pool:
        with monkeypatch.context() as patch:
            patch.setattr(BundleWriter, "commit", slow)
            scoring = pool.submit(engine.score_anchors, Hidden())
            committing.wait(30)
            adding = pool.submit(engine.add, ["came meanwhile"])
            with pytest.raises(TimeoutError):
                adding.result(0.3)  # it waits
            go_on.set()
            adding.result()
        for i in range(5):
            engine.delete([f"{i:04}"])
        scoring.result()
    engine.score_anchors(Hidden())
    assert len(right(engine)) == len(engine) == 296


def test_scores_are_committed_on_the_way_while_others_write(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(anchoring, "PAIRS", 40)
    monkeypatch.setattr(anchoring, "COMMIT_EVERY", 0.0)
    engine.score_anchors(Hidden(), anchors=4, documents=1)
    seen: list[int] = []

    def meddle(calls: int) -> None:
        with Engine.open(tmp_path / "i") as other:
            seen.append(len(right(other)))
            if calls == 0:
                other.delete(filter=None, ids=[f"{i:04}" for i in range(0, 300, 3)])
                other.add(["came meanwhile"])
                other.compact()

    done = engine.score_anchors(Hidden(meddle))
    later = seen[4:]  # the first rows may all have been deleted
    assert later == sorted(later) and len(set(later)) > 5  # readers see more and more
    assert done.scored == len(right(engine)) == 200 and len(engine) == 201  # the newcomer waits for the next call


def test_a_commit_waits_for_another_writer(engine: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    engine.score_anchors(Hidden(), anchors=4, documents=1)
    bundle, held, free = Bundle(tmp_path / "i"), threading.Event(), threading.Event()

    def write() -> None:
        with BundleWriter(tmp_path / "i", bundle):
            held.set()
            free.wait(30)

    writer = threading.Thread(target=write)

    def once(calls: int) -> None:
        if not held.is_set():
            writer.start()
            held.wait(30)
            threading.Timer(0.5, free.set).start()

    engine.score_anchors(Hidden(once))
    writer.join()
    bundle.close()
    assert "waiting to commit" in caplog.text and len(right(engine)) == 300


def test_two_that_score_at_once_share_the_work(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anchoring, "PAIRS", 40)
    monkeypatch.setattr(anchoring, "COMMIT_EVERY", 0.0)
    engine.score_anchors(Hidden(), anchors=4, documents=1)
    second = Hidden()

    def meanwhile(calls: int) -> None:
        if not second.calls:
            with Engine.open(tmp_path / "i") as other:
                other.score_anchors(second, documents=200)

    first = Hidden(meanwhile)
    engine.score_anchors(first)
    assert len(right(engine)) == 300
    assert second.calls == 199 * 4 and first.calls + second.calls < 299 * 4 + 50  # but for what was under way


def test_scores_for_anchors_that_were_replaced_meanwhile_are_refused(engine: Engine, tmp_path: Path) -> None:
    engine.score_anchors(Hidden(), anchors=4, documents=1)

    def replace(calls: int) -> None:
        if calls == 0:
            with Engine.open(tmp_path / "i") as other:
                other.score_anchors(Hidden(), anchors=5, fresh=True)

    with pytest.raises(InputError, match="got other anchor queries meanwhile"):
        engine.score_anchors(Hidden(replace))
    assert len(queries_of(engine)) == 5 and len(right(engine)) == 300


# ---- what is refused


def test_what_cannot_be_is_said_and_changes_nothing(engine: Engine, tmp_path: Path) -> None:
    def refused(match: str, scorer: Any = None, kind: type[Exception] = InputError, **how: Any) -> None:
        generation = engine.info()["generation"]
        with pytest.raises(kind, match=match):
            engine.score_anchors(Hidden() if scorer is None else scorer, **how)
        assert engine.info()["generation"] == generation

    refused("anchors=0; expected a whole number", anchors=0)
    refused("documents=True; expected a whole number", documents=True)
    refused("fingerprint is None.*give the scorer an attribute", scorer=lambda query, some: [0.0] * len(some))
    for fingerprint in ({"weights": b"0a"}, {"limits": (1, 2)}, {1: 2}, {"weights": float("nan")}, "0a", [("a", "b")]):
        odd = Hidden()
        odd.fingerprint = fingerprint  # type: ignore[assignment]
        refused("fingerprint is .*that JSON can hold", scorer=odd)
    refused("queries are 'a log.txt'; expected a sequence", queries="a log.txt")
    refused("1 different queries to choose anchors from; expected 2", queries=["a", "a"])
    refused("3 different queries for 5 anchors", anchors=5, queries=["a", "b", "c", "c"])
    huge = Hidden()
    huge.__class__ = type("Huge", (Hidden,), {"__call__": lambda self, query, some: [1e5 + len(text) for text in some]})
    with pytest.raises(InputError, match="expected less than 65,504"):
        engine.score_anchors(huge, anchors=2, queries=["a", "b"])
    engine.score_anchors(Hidden(), anchors=4, documents=2, fresh=True)
    refused("4 anchor queries already; leave out the choice", anchors=5)
    refused("4 anchor queries already; leave out the choice", queries=["a"])
    other = Hidden()
    other.fingerprint = {"weights": "0a", "max_length": 128}
    refused("max_length differ.*512 in the index, 128 now.*--fresh", scorer=other, kind=FingerprintError)
    other.fingerprint = Hidden.fingerprint | {"prompt": "which of these answers?"}
    refused("prompt differ.*None in the index", scorer=other, kind=FingerprintError)
    with Engine.build(["a text"], tmp_path / "e", model="hash:8") as empty:
        empty.delete([hit.doc_id for hit in empty.search("a")])
        with pytest.raises(InputError, match="holds no document"):
            empty.score_anchors(Hidden())


def test_a_pilot_alone_stores_nothing(engine: Engine) -> None:
    done = engine.score_anchors(Hidden(), pilot_only=True)
    assert done.pilot is not None and done.anchors == 0 and engine.info()["anchors"] is None
    assert engine.info()["generation"] == 1
    engine.score_anchors(Hidden(), anchors=3, documents=50)
    done = engine.score_anchors(Hidden(), pilot_only=True)  # would others be better?
    assert done.pilot is not None and (done.anchors, done.scored) == (3, 50) and engine.info()["generation"] == 3


def test_a_pilot_has_the_share_of_calls_that_a_search_has(tmp_path: Path) -> None:
    with Engine.build(texts(1500), tmp_path / "i", model="hash:8", whitening=None) as engine:
        pilot = engine.score_anchors(Hidden(), pilot_only=True).pilot
    assert pilot is not None and pilot.budget == 17  # of 256 documents, as 100 are of 1,500


def test_what_the_pilot_scored_is_not_scored_again(engine: Engine) -> None:
    scorer = Hidden()
    pilot = engine.score_anchors(scorer, anchors=4, documents=200).pilot
    assert pilot is not None and scorer.calls == pilot.queries * 256 and len(right(engine)) == 200


def test_anchors_can_be_dropped(engine: Engine, tmp_path: Path) -> None:
    engine.score_anchors(Hidden(), anchors=3)
    hits = engine.search(TEXTS[0], rerank=Hidden(), method="plain")
    engine.drop_anchors()
    assert engine.info()["anchors"] is None and not list((tmp_path / "i" / "segments").glob("*.anchors.*"))
    assert all(check.problem is None for check in engine.verify(deep=True))
    assert engine.search(TEXTS[0], rerank=Hidden(), method="plain") == hits
    generation = engine.info()["generation"]
    engine.drop_anchors()
    assert engine.info()["generation"] == generation
    engine.score_anchors(Hidden(), anchors=2, documents=10)
    assert len(right(engine)) == 10


def test_damaged_anchors_are_found(tmp_path: Path, engine: Engine) -> None:
    engine.score_anchors(Hidden(), anchors=3)
    for name in ("anchors", "scores"):
        (path,) = (tmp_path / "i" / "segments").glob(f"*.{name}.*")
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        assert [check.name for check in engine.verify(deep=True) if check.problem] == [path.name]
        with Engine.open(tmp_path / "i") as again, pytest.raises(IndexCorruptError, match=f"{path.name}.*--drop"):
            again.search("a", rerank=Hidden(), method="adaptive")
        path.write_bytes(good)
    anchors = Anchors(queries=("a", "b"), vectors=np.eye(2, dtype=np.float32))
    path = tmp_path / "anchors"
    path.write_bytes(anchors.to_bytes())
    assert Anchors.load(path).queries == ("a", "b") and np.array_equal(Anchors.load(path).vectors, np.eye(2))
    for wrong in (
        b"",
        anchors.to_bytes()[:-4],
        Anchors(queries=("a",), vectors=np.eye(2, dtype=np.float32)).to_bytes(),
    ):
        path.write_bytes(wrong)
        with pytest.raises(IndexCorruptError, match="does not hold anchor queries"):
            Anchors.load(path)


def test_damaged_scores_and_structure_do_not_stand_in_each_other_s_way(tmp_path: Path, engine: Engine) -> None:
    engine.score_anchors(Hidden(), anchors=3)
    engine.close()
    for pattern in ("*.scores.npy", "*.faiss"):
        (path,) = (tmp_path / "i" / "segments").glob(pattern)
        path.write_bytes(path.read_bytes()[:-1])
    assert "cross INDEX --drop" in run("rebuild", tmp_path / "i", check=1).stderr
    run("cross", tmp_path / "i", "--drop")
    run("rebuild", tmp_path / "i")
    with Engine.open(tmp_path / "i") as again:
        assert not [check for check in again.verify(deep=True) if check.problem] and len(again) == 300


@pytest.mark.parametrize("name", ["anchors", "scores"])
def test_damaged_anchors_can_be_dropped(tmp_path: Path, engine: Engine, name: str) -> None:
    """What the error tells one to do is done, and leaves a whole index."""
    engine.score_anchors(Hidden(), anchors=3)
    engine.close()
    (path,) = (tmp_path / "i" / "segments").glob(f"*.{name}.*")
    path.write_bytes(b"x" + path.read_bytes()[1:])
    run("cross", tmp_path / "i", "--drop")
    with Engine.open(tmp_path / "i") as again:
        assert not [check for check in again.verify(deep=True) if check.problem]
        assert again.info()["anchors"] is None and len(again) == 300


# ---- searching with them


def found(engine: Engine, queries: Sequence[str], method: Any) -> float:
    """Share of the scorer's first ten that 60 of 300 calls find."""
    shares = []
    for query, hits in zip(queries, engine.search(queries, 10, rerank=Hidden(), budget=60, method=method), strict=True):
        scores = np.array(Hidden()(query, TEXTS))
        shares.append(np.mean([hit.score >= np.sort(scores)[-10] for hit in hits]))
    return float(np.mean(shares))


def test_anchors_find_what_vectors_know_nothing_of(engine: Engine) -> None:
    queries = texts(20, seed=9)
    plain, alone = found(engine, queries, "plain"), found(engine, queries, "adaptive")
    engine.score_anchors(Hidden(), anchors=20, documents=150)
    half = found(engine, queries, "adaptive")
    engine.score_anchors(Hidden())
    assert found(engine, queries, "adaptive") == 1.0  # of rank 12, and there are 20 anchors
    assert found(engine, queries, "anchors") > 0.98
    assert found(engine, queries, "plain") == plain
    assert max(plain, alone) < 0.75 and half > alone + 0.05


def test_queries_like_an_anchor_are_expected_to_score_alike(tmp_path: Path) -> None:
    """The anchors' vectors are whitened as the documents' are, also after a rebuild to as many columns."""
    how: Any = {"rerank": Hidden(), "budget": 40, "method": "adaptive"}
    whitenings = Whitening(12, beta=0.0, gamma=0.0), Whitening(12, beta=1.0, gamma=1.0, epsilon=0.01)
    with Engine.build(corpus(TEXTS), tmp_path / "i", model="hash:32", whitening=whitenings[0], index="Flat") as engine:
        engine.score_anchors(Hidden(), anchors=20)
        found = []
        for whitening in whitenings:
            engine.rebuild(whitening=whitening)
            engine.search(TEXTS[0], rerank=Hidden(), budget=40, method="adaptive")
            columns = engine._reranker._held[True].columns()
            assert columns is not None
            scores = np.array([stored(engine)[f"{i:04}"] for i in range(len(TEXTS))])
            expected = Basis(engine.embed(TEXTS), scores, engine.embed(queries_of(engine), "query"))
            (vector,) = engine.embed(["fox whale"], "query")
            assert np.allclose(columns.directions(vector), expected.directions(vector), atol=1e-4)
            found.append(expected.directions(vector)[:, 1])
        assert not np.allclose(*found, atol=0.01)
        assert engine.search(TEXTS[0], **how)[0].scores["round"] >= 1


def test_what_predicts_scores_is_made_once_for_each_state(engine: Engine) -> None:
    engine.score_anchors(Hidden(), anchors=5)

    def state(method: Any) -> Any:
        engine.search(TEXTS[0], rerank=Hidden(), budget=10, method=method)
        return {anchored: (held.generation, held.columns()) for anchored, held in engine._reranker._held.items()}

    first = state("adaptive")
    assert set(first) == {True} and state("adaptive")[True][1] is first[True][1]
    both = state("plain")
    assert set(both) == {False, True} and both[True][1] is first[True][1] is state("adaptive")[True][1]
    engine.delete(["0003"])
    assert [generation for generation, _ in state("adaptive").values()] == [first[True][0] + 1]


def test_anchors_of_another_cross_encoder_are_not_used(engine: Engine, caplog: pytest.LogCaptureFixture) -> None:
    other = Hidden()
    other.fingerprint = {"weights": "ff", "max_length": 512}
    how: Any = {"rerank": other, "budget": 40}
    without = engine.search(TEXTS[:5], 5, method="adaptive", **how)
    engine.score_anchors(Hidden(), anchors=20)
    assert engine.search(TEXTS[:5], 5, method="adaptive", **how) == without
    assert (
        "anchors are not used: the anchors were scored by a cross-encoder (hidden) whose weights differ" in caplog.text
    )
    assert caplog.text.count("anchors are not used") == 1  # of five queries, said once
    engine.search(TEXTS[:40], 5, method="adaptive", **how)
    assert caplog.text.count("anchors are not used") == 1
    engine.search(TEXTS[0], 5, method="adaptive", budget=40, rerank=lambda query, some: [len(text) for text in some])
    assert "has no fingerprint that would show it to be the same" in caplog.text
    for fingerprint in ("0a", [("weights", "0a")], 5):
        other.fingerprint = fingerprint  # type: ignore[assignment]
        assert engine.search(TEXTS[:5], 5, method="adaptive", **how) == without
    other.fingerprint = {"weights": "ff", "max_length": 512}
    with pytest.raises(
        FingerprintError, match="weights differ from those of 'hidden'.*name that one, or score them anew"
    ):
        engine.search(TEXTS[:5], 5, method="anchors", **how)


def test_a_filter_holds_with_anchors(engine: Engine) -> None:
    engine.upsert([Document(doc_id=f"{i:04}", text=text, metadata={"n": i}) for i, text in enumerate(TEXTS)])
    engine.score_anchors(Hidden(), anchors=15)
    hits = engine.search(TEXTS[0], 10, rerank=Hidden(), budget=50, method="adaptive", filter="n >= 250")
    scores = np.array(Hidden()(TEXTS[0], TEXTS[250:]))
    assert [hit.score for hit in hits] == np.sort(scores)[::-1][:10].tolist()
    assert all(int(hit.doc_id) >= 250 for hit in hits)


# ---- completion and pilot


@pytest.mark.parametrize("at_once", [16, 8192])
def test_completion_is_a_ridge_regression_of_the_rows_that_are_there(
    monkeypatch: pytest.MonkeyPatch, at_once: int
) -> None:
    monkeypatch.setattr(completion, "AT_ONCE", at_once)
    chance = np.random.default_rng(0)
    vectors = chance.normal(size=(200, 5))
    scores = np.sin(vectors @ chance.normal(size=(5, 3))) + 4
    seen = scores.astype(np.float32)
    seen[::3] = np.nan
    known = np.isfinite(seen[:, 0])
    inputs = (vectors - vectors[known].mean(axis=0)) / np.sqrt(
        np.square(vectors[known] - vectors[known].mean(axis=0)).sum(axis=1).mean()
    )
    oracle = RidgeCV(alphas=(1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)).fit(inputs[known], seen[known])
    made = completed(seen, vectors)
    assert np.array_equal(made[known], seen[known])
    assert np.allclose(made[~known], oracle.predict(inputs[~known]), atol=1e-5)


def test_completion_of_all_one_or_no_row() -> None:
    vectors, scores = np.eye(4), np.arange(8.0).reshape(4, 2)
    assert np.array_equal(completed(scores, vectors), scores)
    one = np.array(blank(4, 2, "float16"))
    with pytest.raises(InputError, match="no item was scored"):
        completed(one, vectors)
    one[2] = (5, 7)
    assert np.array_equal(completed(one, vectors), [[5, 7]] * 4)
    single = np.array([[1.0], [2.0], [np.nan], [4.0]])
    assert completed(single, np.arange(4.0)[:, None])[2, 0] == pytest.approx(3, abs=0.05)


@pytest.mark.parametrize("rank", [3, 8])
def test_a_pilot_finds_how_many_anchors_there_must_be(rank: int) -> None:
    chance = np.random.default_rng(rank)
    scores = chance.normal(size=(60, rank)) @ chance.normal(size=(rank, 200))
    vectors, query_vectors = chance.normal(size=(200, 6)), chance.normal(size=(60, 6))
    pilot = try_anchors(scores, vectors, query_vectors, 20, [1, rank, 20], 40, 32)
    assert [outlook.anchors for outlook in pilot.outlooks] == [0, 1, rank, 20]
    assert pilot.outlooks[2].found > 99 and pilot.best == rank
    values = np.linalg.svd(scores - scores.mean(axis=1, keepdims=True), compute_uv=False) ** 2
    assert np.allclose(pilot.spectrum, np.cumsum(values) / values.sum())
    assert pilot.spectrum[rank - 2] < 0.99 and pilot.spectrum[rank] == pytest.approx(1)
    assert pilot.order == greedy_rows(scores - scores.mean(axis=1, keepdims=True), 40).tolist()
    assert len(set(pilot.order)) == 40 and np.linalg.matrix_rank(scores[pilot.order[:rank]]) == rank


def test_a_pilot_takes_no_anchors_where_the_vectors_tell_all() -> None:
    chance = np.random.default_rng(0)
    vectors, query_vectors = chance.normal(size=(200, 6)), chance.normal(size=(60, 6))
    pilot = try_anchors(query_vectors @ vectors.T, vectors, query_vectors, 20, [5, 10], 10, 25)
    assert pilot.best == 0 and pilot.plain == pilot.outlooks[0].found == 100


def test_an_index_takes_no_anchors_that_would_not_help(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with Engine.build(TEXTS, tmp_path / "i", model="hash:32", whitening=None) as engine:

        def cosine(query: str, some: Sequence[str]) -> Any:
            return engine.embed(some) @ engine.embed([query])[0]

        cosine.fingerprint = {"weights": "none"}  # type: ignore[attr-defined]
        done = engine.score_anchors(cosine)
        assert done.anchors == 0 and engine.info()["anchors"] is None
        assert "anchors would not help here" in caplog.text


# ---- on the command line


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sentence_transformers import CrossEncoder
    from tiny_models import tiny_encoder

    folder = tmp_path_factory.mktemp("cross")
    CrossEncoder(str(tiny_encoder(folder)), num_labels=1, device="cpu").save_pretrained(str(folder / "ce"))
    return folder / "ce"


def test_the_command_line(tmp_path: Path, model: Path) -> None:
    index, log = tmp_path / "i", tmp_path / "log.txt"
    log.write_text("\n".join(texts(30, seed=2)))
    run("build", "-", "-o", index, "-m", "hash:32", "--no-whitening", stdin="\n".join(TEXTS[:80]))
    assert "has no anchors yet; name a cross-encoder to score them (--model)" in run("cross", index, check=1).stderr
    said = run("cross", index, "--model", model, "--pilot").stderr
    assert "pilot: 80 queries with 80 documents, 6,400 calls\nof the first 10" in said
    assert "nothing was stored; 6,400 calls" in said
    assert "leave --quiet out" in run("cross", index, "--model", model, "--pilot", "-q", check=2).stderr
    said = run("cross", index, "--model", model, "--anchors", 6, "--queries", log, "--documents", 50).stderr
    assert "6 anchors, 50 of 80 documents scored" in said
    said = run("cross", index).stderr
    assert "6 anchors, 80 of 80 documents scored, 180 calls" in said
    info = json.loads(run("info", index, "--format", "json").stdout)
    assert (
        info["anchors"]["queries"] == 6
        and info["anchors"]["documents"] == 80
        and info["format_version"] == FORMAT_VERSION
    )
    out = run("query", index, TEXTS[3], "--rerank", model, "--budget", 20, "--method", "adaptive", "--format", "jsonl")
    (answer,) = map(json.loads, out.stdout.splitlines())
    assert answer["stats"]["cross_encoder_calls"] == 20 and len(answer["hits"]) == 10
    assert "leave the other options out" in run("cross", index, "--drop", "--pilot", check=2).stderr
    assert "has no anchors now" in run("cross", index, "--drop").stderr
    assert json.loads(run("info", index, "--format", "json").stdout)["anchors"] is None
