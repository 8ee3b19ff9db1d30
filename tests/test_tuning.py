"""Tuning: the same numbers as evaluating each whitening by itself, and advice that never loses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval import STSSet, evaluate_retrieval, evaluate_sts, load_sts, tune_whitening
from eval.retrieval import RetrievalSet
from eval.tuned import WhiteningTuning
from eval.tuning import PairObjective
from indexes.errors import CorpusError, InputError, VectorError
from retrieval import Engine, Whitening
from retrieval.encoder import HashEncoder
from retrieval.grid import Rotation
from retrieval.halves import GAMMAS, HalvesObjective, judged_by_halves
from retrieval.moments import Moments

WORDS = [
    "red",
    "blue",
    "green",
    "fox",
    "whale",
    "sea",
    "fence",
    "jumps",
    "swims",
    "runs",
    "big",
    "small",
    "old",
    "new",
    "house",
    "road",
]


def sentences(n: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(3, 8))) for _ in range(n)]


def pairs(n: int = 200, seed: int = 0, name: str = "toy") -> STSSet:
    one, two = sentences(n, seed), sentences(n, seed + 1)
    shared = np.array([len(set(a.split()) & set(b.split())) for a, b in zip(one, two, strict=True)], float)
    noise = np.random.default_rng(seed + 2).standard_normal(n)
    return STSSet(name=name, sentences1=tuple(one), sentences2=tuple(two), scores=shared + noise)


GRID: dict[str, Any] = {"dims": [16, 8, 4], "betas": [0, 0.5, 1], "gammas": [0, 0.5], "locals_": [0, 0.5]}
MODEL = "hash:16"


@pytest.fixture(scope="module")
def tuning() -> WhiteningTuning:
    return tune_whitening(MODEL, pairs(), fit=sentences(500, 9), **GRID)


def test_each_cell_is_what_evaluate_sts_says(tuning: WhiteningTuning) -> None:
    assert len(tuning.cells) == 3 * 3 * 2 * 2
    vectors = HashEncoder(16).encode(list(dict.fromkeys(sentences(500, 9)))).vectors
    for cell in tuning.cells:
        whitening = cell.whitening().fit(vectors)
        alone = evaluate_sts(MODEL, pairs(), whitening=whitening, resamples=0).mean
        assert cell.score == pytest.approx(alone, abs=5e-3), cell  # float32 tells some equal cosines apart


def test_raw_is_evaluate_sts_without_whitening_and_one_of_the_cells(tuning: WhiteningTuning) -> None:
    assert tuning.raw == pytest.approx(evaluate_sts(MODEL, pairs(), resamples=0).mean, abs=2e-4)
    identity = next(c for c in tuning.cells if (c.dim, c.beta, c.gamma, c.local) == (16, 0, 0, 0))
    assert identity.score == pytest.approx(tuning.raw, abs=2e-4)


def test_rivals_are_what_they_say(tuning: WhiteningTuning) -> None:
    def cut(k: int) -> Any:
        return lambda texts: HashEncoder(16).encode(texts).vectors[:, :k]

    first = [evaluate_sts(cut(k), pairs(), resamples=0).mean for k in tuning.dims]
    assert tuning.rivals["first columns"] == pytest.approx(first, abs=2e-4)
    pca = [
        next(c.score for c in tuning.cells if (c.dim, c.beta, c.gamma, c.local) == (k, 1, 0, 0)) for k in tuning.dims
    ]
    assert tuning.rivals["PCA"] == pytest.approx(pca)
    assert tuning.rivals["random projection"][0] == pytest.approx(tuning.raw, abs=2e-4)


def test_the_advice(tuning: WhiteningTuning) -> None:
    assert tuning.dims == (16, 8, 4)
    for cell in tuning.per_dim:
        assert cell.score == max(c.score for c in tuning.cells if c.dim == cell.dim)
    assert tuning.best.score == max(c.score for c in tuning.cells) >= tuning.raw - 1e-6
    smallest = tuning.smallest()
    assert smallest.score >= tuning.raw - 1e-6
    assert all(c.score < tuning.raw for c in tuning.per_dim if c.dim < smallest.dim)
    assert tuning.smallest(loss=2.0).dim == 4
    assert tuning.whitening().dim == smallest.dim
    assert tuning.whitening(8).transform(np.eye(16)).shape == (16, 8)
    with pytest.raises(InputError, match="dim=9 was not tried; expected one of 16, 8, 4"):
        tuning.whitening(9)


def test_a_transform_that_is_worse_than_none_is_never_recommended() -> None:
    """Sixteen words, one column each: every column that is left out, and every scale, makes it worse."""

    def one_hot(texts: list[str]) -> np.ndarray:
        return np.array([[float(word in text.split()) for word in WORDS] for text in texts])

    exact = pairs()
    a, b = one_hot(list(exact.sentences1)), one_hot(list(exact.sentences2))
    cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    truth = STSSet(name="exact", sentences1=exact.sentences1, sentences2=exact.sentences2, scores=cosines.round(9))
    tuning = tune_whitening(
        one_hot, truth, fit=sentences(500, 9), dims=[16, 4], betas=[1], gammas=[0.5, 1], locals_=[0]
    )
    assert tuning.raw == pytest.approx(1.0)
    assert (tuning.best.dim, tuning.best.beta, tuning.best.gamma) == (16, 0.0, 0.0)  # tried though not asked for
    assert tuning.smallest().dim == 16


def test_every_set_counts_the_same_and_each_sentence_is_encoded_once() -> None:
    asked: list[str] = []

    def embed(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return HashEncoder(16).encode(texts).vectors

    sets = [pairs(50, 0, "a"), pairs(400, 5, "b"), pairs(50, 0, "c")]
    both = tune_whitening(embed, sets, **GRID)
    assert len(asked) == len(set(asked))
    alone = [tune_whitening(embed, one, fit=both.moments, **GRID) for one in sets]
    for i, cell in enumerate(both.cells):
        assert cell.score == pytest.approx(np.mean([t.cells[i].score for t in alone]))


def test_queries_with_judgements_over_an_index(tmp_path: Path) -> None:
    documents = [(str(i), text) for i, text in enumerate(sentences(300, 3))]
    judged = RetrievalSet(
        name="toy",
        queries={f"q{i}": documents[i][1] for i in range(40)},
        qrels={f"q{i}": {str(i): 2, str(i + 1): 1, "gone": 1} for i in range(40)},
    )
    with Engine.build(documents, tmp_path / "i", model=MODEL, whitening=None, index="Flat", raw="float32") as engine:
        tuning = tune_whitening(engine, judged, **GRID)
        assert tuning.measure == "nDCG@10" and tuning.moments.count == 300
        by_path = tune_whitening(tmp_path / "i", judged, **GRID)
        assert [c.score for c in by_path.cells] == [c.score for c in tuning.cells]
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in documents))
    (folder / "queries.jsonl").write_text(
        "".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in judged.queries.items())
    )
    rows = "".join(f"{q}\t{d}\t{g}\n" for q, grades in judged.qrels.items() for d, g in grades.items())
    (folder / "qrels" / "dev.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    whole = tune_whitening(MODEL, folder, **GRID)
    assert [c.score for c in whole.cells] == pytest.approx([c.score for c in tuning.cells], abs=1e-3)


def test_without_labels_halves_of_the_texts_decide(tmp_path: Path) -> None:
    texts = list(dict.fromkeys(f"{one} {two}" for one, two in zip(sentences(400, 3), sentences(400, 4), strict=True)))
    tuning = tune_whitening(MODEL, fit=texts, dims=[8, 4])
    assert {(c.beta, c.local) for c in tuning.cells} == {(0.0, 0.5)}
    assert [(c.dim, c.gamma) for c in tuning.cells] == [(k, g) for g in GAMMAS for k in (16, 8, 4)]
    objective = HalvesObjective(
        HashEncoder(16).encode(texts).vectors, lambda rows: [texts[i] for i in rows], HashEncoder(16)
    )
    again = judged_by_halves(tuning.moments, objective, [16, 8, 4])
    assert [cell.score for cell in tuning.cells] == [cell.score for cell in again]
    assert "says nothing of what a k loses" in tuning.to_text() and tuning.to_dict()["smallest_without_loss"] is None
    assert tuning.whitening(8).dim == 8
    for use in (tuning.smallest, tuning.whitening):
        with pytest.raises(InputError, match="without labels nothing says how many columns are enough"):
            use()
    with pytest.raises(InputError, match="without dev data only dims can be given"):
        tune_whitening(MODEL, fit=texts, gammas=[0, 1])
    with Engine.build(texts, tmp_path / "i", model=MODEL, raw="float32") as engine:
        of_index = tune_whitening(engine, dims=[8, 4])
    assert [c.score for c in of_index.cells] == pytest.approx([c.score for c in tuning.cells], abs=1e-3)


def test_an_index_is_tuned_on_its_raw_vectors(tmp_path: Path) -> None:
    Engine.build(sentences(100, 3), tmp_path / "i", model=MODEL, whitening=Whitening(4), raw="float32").close()
    tuning = tune_whitening(tmp_path / "i", pairs(), **GRID)
    assert tuning.moments.count == 100 and tuning.dims == (16, 8, 4)
    assert tuning.raw == pytest.approx(evaluate_sts(MODEL, pairs(), resamples=0).mean, abs=2e-4)


def test_tables_and_pictures(tuning: WhiteningTuning, tmp_path: Path) -> None:
    lines = tuning.to_markdown().splitlines()
    assert lines[0].startswith("| k | beta | gamma | epsilon | local | Spearman | - raw | PCA |") and len(lines) == 5
    assert f"smallest k that loses nothing on these data: {tuning.smallest().dim}" in tuning.to_text()
    frame = tuning.to_frame()
    assert len(frame) == len(tuning.cells) and frame.score.max() == tuning.best.score
    tuning.save(tmp_path / "t.json")
    values = json.loads((tmp_path / "t.json").read_text())
    assert values["best"]["score"] == tuning.best.score and len(values["cells"]) == len(tuning.cells)
    assert values["rivals"]["PCA"] == {str(k): v for k, v in zip(tuning.dims, tuning.rivals["PCA"], strict=True)}
    figure = tuning.plot(tmp_path / "t.png", dim=4)
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
    curve, heat = figure.axes[:2]
    assert {line.get_label() for line in curve.lines} >= {"PCA", "first columns", "random projection"}
    assert [text.get_text() for text in heat.get_xticklabels()] == ["0", "0.5"]
    assert len(heat.texts) == 6
    with pytest.raises(InputError, match="dim=5 was not tried"):
        tuning.plot(dim=5)


def labelled(scores: list[float]) -> STSSet:
    n = len(scores)
    return STSSet(name="x", sentences1=tuple(sentences(n)), sentences2=tuple(sentences(n, 1)), scores=np.array(scores))


@pytest.mark.parametrize(
    ("dev", "options", "error", "said"),
    [
        (labelled([1.0, 1.0]), {}, InputError, "all 2 dev scores are the same"),
        (labelled([1.0]), {}, InputError, "all 1 dev scores are the same"),
        (pairs(20), {"dims": [17]}, InputError, "each from 1 to 16"),
        (pairs(20), {"gammas": [2]}, InputError, "gamma=2"),
        (pairs(20), {"fit": np.ones((5, 3))}, VectorError, "has 3 columns, but the dev vectors have 16"),
        (pairs(20), {"fit": np.full((5, 16), np.nan)}, VectorError, "NaN"),
        (pairs(20), {"fit": Moments.of(np.eye(16))}, VectorError, "needs neighbour differences"),
        ([], {}, InputError, "there are no pairs"),
        ("nowhere", {}, CorpusError, "no such file"),
        (None, {}, InputError, "without dev data"),
        (None, {"fit": ["one", "two"]}, InputError, "0 of 0 texts can be halved; expected 20 or more"),
        (
            RetrievalSet(name="q", queries={"a": "b"}, qrels={"a": {"c": 1}}),
            {},
            InputError,
            "queries without documents",
        ),
    ],
)
def test_what_cannot_be_tuned_says_why(dev: Any, options: dict[str, Any], error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        tune_whitening(MODEL, dev, **options)


def test_constant_cosines_are_refused_raw_and_count_nothing_in_a_cell() -> None:
    def constant(texts: list[str]) -> np.ndarray:
        return np.ones((len(texts), 4))

    with pytest.raises(InputError, match="all 20 cosines of a dev set are the same"):
        tune_whitening(constant, pairs(20))
    one = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0]])
    two = np.array([[1.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    objective = PairObjective([(one, two, np.array([1.0, 3.0, 2.0]))])
    # by hand: cosines of both columns rank as the scores do; of the first column alone they are all 1
    found = objective.scores(Rotation(np.zeros(2), np.eye(2)), np.ones((1, 2)), [1, 2, 2])
    assert found.tolist() == [[0.0, 1.0, 1.0]]


def test_a_set_that_a_cell_makes_constant_does_not_decide_for_the_others() -> None:
    """It once turned the mean of all sets into -1, and the smallest k won."""
    other = STSSet(name="b", sentences1=("red", "red"), sentences2=("red", "fox"), scores=np.array([2.0, 1.0]))
    tuning = tune_whitening(MODEL, [pairs(), other], fit=sentences(500, 9), dims=[16, 1], gammas=[0], locals_=[0])
    assert tuning.best.dim == 16 and tuning.raw > 0.5


def test_relevant_documents_that_are_gone_count_as_not_found(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    documents = [(str(i), text) for i, text in enumerate(sentences(60, 3))]
    queries = {f"q{i}": documents[i][1] for i in range(20)}
    qrels = {f"q{i}": {str(i) if i < 10 else f"gone{i}": 1} for i in range(20)}
    judged = RetrievalSet(name="toy", queries=queries, qrels=qrels)
    with Engine.build(documents, tmp_path / "i", model=MODEL, whitening=None, index="Flat", raw="float32") as engine:
        tuning = tune_whitening(engine, judged, dims=[16])
        assert tuning.raw == pytest.approx(
            evaluate_retrieval(engine, judged, measures=["nDCG@10"])["nDCG@10"], abs=0.02
        )
    assert tuning.raw <= 0.5
    assert "10 of 20 relevant documents are not in the index; they count as not found" in caplog.text


def test_roles_reach_the_encoder() -> None:
    """Queries and both sides of a pair get the query prompt, what is fitted on the document prompt."""

    class Roles(HashEncoder):
        def encode(self, texts: Any, role: Any = "document") -> Any:
            seen.update((text, role) for text in texts)
            return super().encode(texts, role)

    seen: set[tuple[str, str]] = set()
    tune_whitening(Roles(16), pairs(20), fit=["fit one", "fit two", "fit three"], dims=[16], locals_=[0])
    fitted = {"fit one", "fit two", "fit three"}
    assert {role for text, role in seen if text in fitted} == {"document"}
    assert {role for text, role in seen if text not in fitted} == {"query"}


@pytest.mark.model
@pytest.mark.shared
def test_hundreds_of_cells_at_the_real_size(shared: Path) -> None:
    stsb = shared / "sts" / "stsb-en"
    (train,) = load_sts(stsb, split="train")
    tuning = tune_whitening("all-MiniLM-L6-v2", stsb, fit=[*train.sentences1[::3], *train.sentences2[::3]])
    assert len(tuning.cells) > 500
    assert 100 * tuning.raw == pytest.approx(86.72, abs=0.1)
    third = next(cell for cell in tuning.per_dim if cell.dim == 128)
    i = tuning.dims.index(128)
    assert third.score > max(rival[i] for rival in tuning.rivals.values())
    assert third.score > tuning.raw - 0.006
