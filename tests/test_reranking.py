"""Hits of an index in a scorer's order, by Python and by the command line."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_cli import run
from test_engine import texts

from indexes.errors import IndexError_, InputError, ModelError
from indexes.loaded import searched
from indexes.vectors import VectorIndex
from retrieval import Document, Engine, Whitening
from retrieval.cross import Basis, CrossEncoderSearch
from retrieval.cross.indexed import IndexBasis
from retrieval.reranking import Reranking

TEXTS = texts(400)
QUERIES = texts(6, seed=1)


class Wanting:
    """Scores a text by how many words it shares with the query, then by its length; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    def __call__(self, query: str, some: Sequence[str]) -> list[float]:
        self.asked += [(query, text) for text in some]
        return [10.0 * len(set(query.split()) & set(text.split())) - len(text) / 100 for text in some]


def best(query: str, k: int, some: Sequence[str] = TEXTS) -> list[str]:
    """By asking for every text."""
    scores = Wanting()(query, some)
    return [some[i] for i in np.lexsort((np.arange(len(some)), -np.array(scores)))[:k]]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("reranking") / "i"
    corpus = [Document(doc_id=f"{i:03}", text=text, metadata={"even": i % 2 == 0}) for i, text in enumerate(TEXTS)]
    with Engine.build(corpus, path, model="hash:64", whitening=Whitening(32)) as built:
        yield built


@pytest.mark.parametrize("method", ["plain", "anchors", "adaptive"])
def test_hits_have_the_scorers_scores_and_its_order(engine: Engine, method: Any) -> None:
    scorer = Wanting()
    for query, hits in zip(QUERIES, engine.search(QUERIES, 5, rerank=scorer, budget=40, method=method), strict=True):
        asked = [text for one, text in scorer.asked if one == query]
        assert len(asked) == len(set(asked)) == 40
        assert [hit.score for hit in hits] == pytest.approx(sorted(Wanting()(query, asked), reverse=True)[:5])
        assert [hit.rank for hit in hits] == [1, 2, 3, 4, 5]
        cosines = engine.embed([hit.text for hit in hits]) @ engine.embed([query], "query")[0]
        for hit, cosine in zip(hits, cosines, strict=True):
            assert hit.score == hit.scores["cross_encoder"] == pytest.approx(Wanting()(query, [hit.text])[0])
            assert hit.scores["dense"] == pytest.approx(cosine, abs=1e-4)
            assert TEXTS[int(hit.doc_id)] == hit.text and hit.metadata == {"even": int(hit.doc_id) % 2 == 0}
            assert "predicted" not in hit.scores or hit.scores["round"] > 1


def test_plain_asks_about_the_first_hits(engine: Engine) -> None:
    scorer = Wanting()
    engine.search(QUERIES[0], 3, rerank=scorer, budget=25)
    assert {text for _, text in scorer.asked} == {hit.text for hit in engine.search(QUERIES[0], 25)}


@pytest.mark.parametrize("method", ["plain", "anchors", "adaptive"])
def test_with_calls_for_every_document_the_best_are_found(engine: Engine, method: Any) -> None:
    hits = engine.search(QUERIES, 8, rerank=Wanting(), budget=10_000, method=method)
    for query, of_query in zip(QUERIES, hits, strict=True):
        assert [hit.text for hit in of_query] == best(query, 8)


def test_rounds_find_more_of_the_best_than_plain_reranking(tmp_path: Path) -> None:
    """The scorer wants something that the vectors hold, and the query does not name."""
    rng = np.random.default_rng(0)
    corpus = texts(3000, seed=5)
    with Engine.build(corpus, tmp_path / "i", model="hash:64", whitening=None) as engine:
        wish = rng.normal(size=64)
        value = dict(zip(corpus, engine.embed(corpus) @ wish, strict=True))
        top = sorted(corpus, key=value.__getitem__)[-10:]

        def scorer(query: str, some: Sequence[str]) -> list[float]:
            return [float(value[text]) for text in some]

        found = {
            method: {hit.text for hit in engine.search(QUERIES[0], 10, rerank=scorer, budget=200, method=method)}
            for method in ("plain", "adaptive")
        }
    assert len(found["adaptive"] & set(top)) == 10 > len(found["plain"] & set(top))


def test_filters_deletions_and_segments_hold(tmp_path: Path) -> None:
    corpus = [Document(doc_id=str(i), text=text, metadata={"n": i}) for i, text in enumerate(TEXTS[:100])]
    more = [Document(doc_id=str(i), text=text, metadata={"n": i}) for i, text in enumerate(TEXTS[100:110], 100)]
    with Engine.build(corpus, tmp_path / "i", model="hash:32") as engine:
        engine.add(more)
        engine.delete([str(i) for i in range(0, 110, 2)])
        assert engine.info()["segments"] == 2
        kept = [text for i, text in enumerate(TEXTS[:110]) if i % 2 and i >= 30]
        for method in ("plain", "anchors", "adaptive"):
            scorer = Wanting()
            hits = engine.search(QUERIES[0], 5, rerank=scorer, budget=500, method=method, filter="n >= 30")  # type: ignore[arg-type]
            assert sorted(text for _, text in scorer.asked) == sorted(kept)
            assert [hit.text for hit in hits] == best(QUERIES[0], 5, kept)
        assert engine.search(QUERIES[0], rerank=scorer, filter="n > 1000") == []


def test_equal_scores_go_by_id(tmp_path: Path) -> None:
    corpus = [Document(doc_id=f"{99 - i:02}", text=text) for i, text in enumerate(TEXTS[:100])]
    with Engine.build(corpus, tmp_path / "i", model="hash:32") as engine:
        hits = engine.search(QUERIES[0], 4, rerank=lambda query, some: [0.0] * len(some), budget=400)
    assert [hit.doc_id for hit in hits] == ["00", "01", "02", "03"]


@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_an_index_s_own_structure_picks_as_a_basis_of_its_vectors_does(tmp_path: Path, shift: float) -> None:
    """Vectors that all point one way, too: both scale them alike."""
    with Engine.build(TEXTS, tmp_path / "i", model="hash:32", whitening=None, index="Flat") as engine:
        (segment,), vectors = engine._bundle.loaded, engine.embed(TEXTS).astype(np.float64)
    vectors += shift * vectors.mean(axis=0) / np.linalg.norm(vectors.mean(axis=0))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    scores = np.sin(3 * vectors @ np.random.default_rng(0).normal(size=32))
    asked = vectors.astype(np.float32)
    index = VectorIndex.build("Flat", 32, lambda most: asked, [asked])
    segments = [dataclasses.replace(segment, structure=index)]
    bases = (IndexBasis(segments, searched(segments, 32)), Basis(vectors))
    one, two = (
        CrossEncoderSearch(basis, lambda query, rows: scores[list(rows)], budget=50).trace(range(5), asked[:5])
        for basis in bases
    )
    for of_index, of_basis in zip(one, two, strict=True):
        assert len({found.row for found in of_index.found} & {found.row for found in of_basis.found}) >= 48


def test_a_scorer_s_own_error_is_not_the_index_s(engine: Engine) -> None:
    def scorer(query: str, some: Sequence[str]) -> list[float]:
        raise FileNotFoundError("my-model.bin")

    with pytest.raises(FileNotFoundError, match="my-model"):
        engine.search(QUERIES[0], rerank=scorer)


def test_a_scorer_may_use_the_index_from_another_thread(engine: Engine) -> None:
    def scorer(query: str, some: Sequence[str]) -> list[float]:
        with ThreadPoolExecutor(1) as pool:
            return [float(hit.score) for hit in pool.submit(engine.search, query, len(some)).result(30)]

    assert len(engine.search(QUERIES[0], 3, rerank=scorer, budget=5)) == 3


@pytest.mark.parametrize("method", ["plain", "adaptive"])
def test_a_search_begins_again_where_the_index_changed_meanwhile(tmp_path: Path, method: Any) -> None:
    with Engine.build(TEXTS[:100], tmp_path / "i", model="hash:32") as engine, Engine.open(tmp_path / "i") as other:
        gone: list[str] = []

        def scorer(query: str, some: Sequence[str]) -> list[float]:
            if not gone:
                gone.append(other.search(some[0], 1)[0].doc_id)
                other.delete(gone)
                other.add([("new", "w1 w2 w3")])
            return Wanting()(query, some)

        hits = engine.search("w1 w2 w3", 5, rerank=scorer, budget=40, method=method)
        assert hits[0].doc_id == "new" and gone[0] not in {hit.doc_id for hit in hits}

        def restless(query: str, some: Sequence[str]) -> list[float]:
            other.add([(f"more {len(other)}", f"w{len(other)}")])
            return Wanting()(query, some)

        with pytest.raises(IndexError_, match="changed 5 times"):
            engine.search("w1", 5, rerank=restless, budget=40, method=method)


def test_what_it_cost_is_told(engine: Engine) -> None:
    raw = engine.encode(QUERIES, "query")
    how = Reranking(scorer=Wanting(), budget=40, method="adaptive")
    for one in engine.reranked(QUERIES, raw, 3, how):
        assert (one.calls, one.rounds, len(one.hits)) == (40, 5, 3) and 0 <= one.fallbacks <= 4


@pytest.mark.parametrize(
    "how, says",
    [
        ({"rerank": 7}, "expected a cross-encoder"),
        ({"rerank": Wanting(), "exact": True}, "leave one of them out"),
        ({"rerank": Wanting(), "budget": 0}, "budget=0"),
        ({"rerank": Wanting(), "method": "best"}, "method='best'"),
        ({"rerank": Wanting(), "k": 0}, "k=0"),
        ({"budget": 10}, "name it by rerank"),
        ({"budget_ms": 10.0}, "name it by rerank"),
        ({"method": "adaptive"}, "name it by rerank"),
        ({"rerank": Wanting(), "budget_ms": float("nan")}, "a budget of nan ms"),
        ({"rerank": lambda query, some: [np.nan] * len(some)}, "not finite"),
    ],
)
def test_values_that_cannot_be_used_are_told(engine: Engine, how: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        engine.search("w1 w2", **how)


def test_little_time_asks_about_a_few(engine: Engine) -> None:
    scorer = Wanting()
    hits = engine.search(QUERIES[0], 20, rerank=scorer, budget_ms=1e-3)
    assert len(scorer.asked) == len(hits) == 8
    assert len(engine.search(QUERIES[0], 20, rerank=Wanting(), budget=15, budget_ms=1e6)) == 15


def test_anchors_that_are_not_there_are_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Engine.build(TEXTS[:60], tmp_path / "i", model="hash:64") as engine:
        engine.search(QUERIES, 3, rerank=Wanting(), budget=20, method="adaptive")
        assert "has no anchors" not in caplog.text
        for _ in range(2):
            engine.search(QUERIES, 3, rerank=Wanting(), budget=20, method="anchors")
    (told,) = [record.getMessage() for record in caplog.records if "has no anchors" in record.getMessage()]
    assert "retrieval cross" in told


def test_vectors_cannot_be_reranked(engine: Engine) -> None:
    with pytest.raises(InputError, match="reads texts"):
        engine.search(engine.embed(QUERIES), rerank=Wanting())


def test_a_model_that_is_none_is_refused(engine: Engine) -> None:
    with pytest.raises(ModelError, match="no-such-model"):
        engine.search("w1", rerank="no-such-model")


# A real cross-encoder, by the command line


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    pytest.importorskip("sentence_transformers")
    from sentence_transformers import CrossEncoder
    from tiny_models import WORDS, tiny_encoder

    folder = tmp_path_factory.mktemp("cross")
    model = CrossEncoder(str(tiny_encoder(folder)), num_labels=1, device="cpu")
    model.save_pretrained(str(folder / "cross"))
    rng = np.random.default_rng(0)
    corpus = folder / "corpus.txt"
    corpus.write_text("".join(" ".join(rng.choice(WORDS, 5)) + "\n" for _ in range(60)))
    run("build", corpus, "-o", folder / "index", "-m", "hash:64")
    return folder / "index", folder / "cross"


def test_the_command_line_reranks_with_a_real_model(files: tuple[Path, Path]) -> None:
    from sentence_transformers import CrossEncoder
    from torch import nn

    index, cross = files
    how = ("--rerank", cross, "--budget", 60, "--method", "adaptive", "-k", 3, "--format", "json")
    (answer,) = json.loads(run("query", index, "the red dog runs", *how).stdout)
    with Engine.open(index) as engine:
        everything = [hit.text for hit in engine.search("the", 60)]
    model = CrossEncoder(str(cross), device="cpu")
    pairs = [("the red dog runs", text) for text in everything]
    logits: NDArray[np.float32] = model.predict(pairs, activation_fn=nn.Identity())
    expected = np.sort(logits)[::-1][:3]
    np.testing.assert_allclose([hit["score"] for hit in answer["hits"]], expected, atol=1e-4)
    # a corpus of so few words holds the same text twice
    assert answer["stats"]["cross_encoder_calls"] == 60 and answer["stats"]["remembered"] <= 60 - len(set(everything))
    (again,) = json.loads(run("query", index, "the red dog runs", *how).stdout)
    assert again["hits"] == answer["hits"] and again["stats"]["remembered"] == 60
    (index / "pairs.sqlite").unlink()
    (once_more,) = json.loads(run("query", index, "the red dog runs", *how).stdout)
    assert once_more["hits"] == answer["hits"] and once_more["stats"]["remembered"] < 60
    assert "Error" not in run("verify", index, "--deep").stdout


def test_explained_hits_show_what_they_are_made_of(files: tuple[Path, Path]) -> None:
    index, cross = files
    out = run(
        "query", index, "a cat sings", "--rerank", cross, "--budget", 30, "--method", "adaptive", "--explain"
    ).stdout
    for word in ("dense", "round", "predicted", "cross-encoder calls 30, rounds 5"):
        assert word in out
    plain = run("query", index, "a cat sings", "--explain").stdout
    assert "dense" in plain and "predicted" not in plain and "cross-encoder calls 0" in plain


def test_fewer_hits_than_asked_for_are_told(files: tuple[Path, Path]) -> None:
    index, cross = files
    told = run("query", index, "a cat sings", "--rerank", cross, "--budget", 9, "-k", 10).stderr
    assert "9 calls for a query give 9 hits at most; -k 10 asks for more" in told
    assert "hits at most" not in run("query", index, "a cat", "--rerank", cross, "--budget", 10, "-k", 10).stderr


def test_a_budget_of_time_asks_at_least_a_few(files: tuple[Path, Path]) -> None:
    index, cross = files
    how = ("--rerank", cross, "--budget-ms", 0.001, "--format", "json")
    (answer,) = json.loads(run("query", index, "a cat sings", *how).stdout)
    assert answer["stats"]["cross_encoder_calls"] == 8


@pytest.mark.parametrize(
    "arguments, code, says",
    [
        (("--budget", "5"), 2, "name it with --rerank"),
        (("--rerank", "MODEL", "--exact"), 2, "leave it or --rerank out"),
        (("--explain", "--format", "trec"), 2, "TREC"),
        (("--rerank", "MODEL", "--budget", "0"), 2, "budget"),
        (("--rerank", "MODEL", "--budget-ms", "inf"), 1, "a budget of inf ms; expected a number"),
        (("--rerank", "no-such-model"), 1, "no-such-model"),
    ],
)
def test_slips_are_told(files: tuple[Path, Path], arguments: tuple[str, ...], code: int, says: str) -> None:
    index, cross = files
    result = run("query", index, "x", *(str(cross) if one == "MODEL" else one for one in arguments), check=code)
    assert says in result.stderr
