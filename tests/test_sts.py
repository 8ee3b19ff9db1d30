"""STS: sentence-transformers' evaluator and scipy as oracles, laws, worked examples, published numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from eval import STSSet, evaluate_sts, load_sts
from eval.statistics import best_threshold, bootstrap_interval
from indexes.errors import CorpusError, IndexCorruptError, InputError, VectorError
from retrieval import Engine, Whitening
from retrieval.encoder import HashEncoder
from retrieval.moments import unit_rows
from retrieval.similarity import spearman

WORDS = [f"w{i}" for i in range(60)]


def pairs(n: int = 60, seed: int = 0, *, binary: bool = False) -> STSSet:
    rng = np.random.default_rng(seed)
    one = [" ".join(rng.choice(WORDS, 5)) for _ in range(n)]
    two = [" ".join([*text.split()[: int(rng.integers(0, 6))], *rng.choice(WORDS, 2)]) for text in one]
    scores = np.array([len(set(a.split()) & set(b.split())) for a, b in zip(one, two, strict=True)], float)
    scores += rng.normal(0, 0.5, n).round(1)
    return STSSet(
        name="made", sentences1=tuple(one), sentences2=tuple(two), scores=(scores > 2) * 1.0 if binary else scores
    )


def write(path: Path, sets: STSSet) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = zip(sets.sentences1, sets.sentences2, sets.scores.tolist(), strict=True)
    path.write_text("sentence1\tsentence2\tscore\n" + "".join(f"{a}\t{b}\t{s}\n" for a, b, s in rows))
    return path


class Vectors:
    """Enough of a SentenceTransformer for its evaluator: the hash encoder's vectors."""

    def encode(self, sentences: list[str], **options: object) -> np.ndarray:
        return HashEncoder(32).encode(sentences).vectors


def test_equal_to_the_evaluator_of_sentence_transformers(tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.evaluation import EmbeddingSimilarityEvaluator

    made = pairs()
    evaluator = EmbeddingSimilarityEvaluator(
        list(made.sentences1),
        list(made.sentences2),
        made.scores.tolist(),
        similarity_fn_names=["cosine"],
        write_csv=False,
    )
    vectors = Vectors()
    evaluator.embed_inputs = lambda model, sentences, **options: vectors.encode(sentences)  # type: ignore[method-assign]
    evaluator.store_metrics_in_model_card_data = lambda *a, **k: None  # type: ignore[method-assign]
    theirs = evaluator(vectors)  # type: ignore[arg-type]
    ours = evaluate_sts("hash:32", made)["made"].to_dict()
    for key in ("spearman_cosine", "pearson_cosine"):
        assert ours[key] == pytest.approx(theirs[key], abs=1e-6)


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.integers(-5, 5)), min_size=3, max_size=40).filter(
        lambda rows: all(len({row[i] for row in rows}) > 1 for i in (0, 1))
    )
)
def test_spearman_is_scipy_s(rows: list[tuple[int, int]]) -> None:
    x, y = np.array(rows, float).T
    assert spearman(x, y) == pytest.approx(stats.spearmanr(x, y).statistic, abs=1e-12)
    assert spearman(np.exp(x), 3 * y - 1) == pytest.approx(spearman(x, y), abs=1e-12)  # monotone maps
    assert spearman(-x, y) == pytest.approx(-spearman(x, y), abs=1e-12)


def test_spearman_of_a_constant_is_not_a_number() -> None:
    assert np.isnan(spearman(np.ones(4), np.arange(4.0)))


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30).filter(
        lambda r: len({b for _, b in r}) > 1
    )
)
def test_the_threshold_is_as_good_as_any(rows: list[tuple[int, bool]]) -> None:
    cosines, labels = np.array([c for c, _ in rows]) / 10, np.array([float(b) for _, b in rows])
    reached = ((cosines >= best_threshold(cosines, labels)) == (labels == 1)).mean()
    everywhere = [((cosines >= cut) == (labels == 1)).mean() for cut in np.arange(-0.05, 0.75, 0.05)]
    assert reached == max(everywhere)


def test_the_threshold_comes_from_dev_and_never_from_test(tmp_path: Path) -> None:
    test, dev = pairs(80, 1, binary=True), pairs(80, 2, binary=True)
    folder = write(tmp_path / "set" / "test.tsv", test).parent
    write(folder / "dev.tsv", dev)
    (loaded,) = load_sts(folder)
    score = evaluate_sts("hash:64", loaded)["set"]
    encoder = HashEncoder(64)

    def cosines(made: STSSet) -> np.ndarray:
        one, two = (unit_rows(encoder.encode(s).vectors) for s in (made.sentences1, made.sentences2))
        return np.einsum("nd,nd->n", one, two)

    assert score.threshold == pytest.approx(best_threshold(cosines(dev), dev.scores), abs=1e-6)
    assert score.accuracy == pytest.approx(((cosines(test) >= score.threshold) == test.scores).mean())
    (alone,) = load_sts(folder / "test.tsv")
    assert evaluate_sts("hash:64", alone)["set/test"].accuracy is None
    write(folder / "dev.tsv", pairs(80, 2))  # graded: no threshold in it
    assert evaluate_sts("hash:64", load_sts(folder)[0])["set"].threshold is None


def test_a_split_that_is_not_there_is_never_another_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder of train.tsv and test.tsv once gave both as dev sets: tuned on test."""
    for split in ("train", "test", "validation"):
        write(tmp_path / "sets" / "a" / f"{split}.tsv", pairs())
    write(tmp_path / "sets" / "b" / "test.tsv", pairs())
    assert [made.name for made in load_sts(tmp_path / "sets" / "a", split="dev")] == ["a"]  # validation.tsv
    with pytest.raises(CorpusError, match=r"no dev.tsv .* in it"):
        load_sts(tmp_path / "sets" / "b", split="dev")
    assert [made.name for made in load_sts(tmp_path / "sets", split="dev")] == ["a"]
    assert "b was left out: no dev pairs in it" in caplog.text


def test_a_split_read_by_itself_is_named_with_its_folder_and_hidden_folders_are_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for split in ("train", "dev"):
        write(tmp_path / "set" / f"{split}.tsv", pairs())
    assert [load_sts(tmp_path / "set" / f"{split}.tsv")[0].name for split in ("train", "dev")] == [
        "set/train",
        "set/dev",
    ]
    (tmp_path / ".git").mkdir()
    assert [made.name for made in load_sts(tmp_path, split="dev")] == ["set"]
    assert caplog.text == ""


def test_subsets_are_one_concatenated_set(tmp_path: Path) -> None:
    parts = [pairs(40, 1), pairs(60, 2)]
    for name, part in zip("xy", parts, strict=True):
        write(tmp_path / "sts12" / "test" / f"{name}.tsv", part)
    (whole,) = load_sts(tmp_path / "sts12")
    assert (whole.name, len(whole)) == ("sts12", 100)
    assert whole.sentences1 == parts[0].sentences1 + parts[1].sentences1
    assert [made.name for made in load_sts(tmp_path)] == ["sts12"]


def test_equal_pairs_tie() -> None:
    """In float32 the cosine of a vector with itself differs from one vector to the next."""
    one = pairs(100)
    twins = STSSet(
        name="t", sentences1=one.sentences1 * 2, sentences2=one.sentences1 + one.sentences2, scores=np.arange(200.0)
    )
    cosines = evaluate_sts("hash:64", twins, resamples=0)["t"].cosines
    assert set(cosines[:100]) == {1.0}


def test_a_comparison_of_undefined_samples(tmp_path: Path) -> None:
    two = STSSet(name="two", sentences1=("a", "a"), sentences2=("a", "b"), scores=np.array([2.0, 1.0]))
    report = evaluate_sts("hash:64", two, resamples=0)
    same = report.compare(report)  # half of the samples are one pair twice
    assert (same.difference, same.interval, same.p_value) == (0.0, (0.0, 0.0), 1.0)
    with pytest.raises(InputError, match="resamples=0"):
        report.compare(report, resamples=0)
    others = STSSet(name="two", sentences1=("c", "c"), sentences2=("c", "d"), scores=np.array([2.0, 1.0]))
    with pytest.raises(InputError, match="compare reports of the same pairs"):
        report.compare(evaluate_sts("hash:64", others, resamples=0))


def test_a_clear_difference_has_the_smallest_p_value() -> None:
    one = pairs(300)
    good, bad = evaluate_sts("hash:256", one, resamples=0), evaluate_sts("hash:1", one, resamples=0)
    assert good.compare(bad, resamples=99).p_value == pytest.approx(2 / 100)


@pytest.mark.parametrize(
    ("one", "two", "scores"),
    [(("a",), ("a", "b"), [1.0]), (("a",), ("b",), [1.0, 2.0]), (("a",), ("b",), [float("nan")])],
)
def test_a_set_is_checked_where_it_is_born(one: tuple[str, ...], two: tuple[str, ...], scores: list[float]) -> None:
    with pytest.raises(InputError, match="expected as many of each|no array of finite numbers"):
        STSSet(name="x", sentences1=one, sentences2=two, scores=np.array(scores))


def test_constant_cosines_are_an_error() -> None:
    with pytest.raises(InputError, match="all similarities are 1"):
        evaluate_sts(lambda texts: np.ones((len(texts), 4)), pairs())


def test_every_distinct_sentence_is_encoded_once() -> None:
    asked: list[str] = []

    def embed(texts: list[str]) -> np.ndarray:
        asked.extend(texts)
        return HashEncoder(16).encode(texts).vectors

    made = pairs()
    evaluate_sts(embed, [made, made], resamples=0)
    assert sorted(asked) == sorted({*made.sentences1, *made.sentences2})


def test_the_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng, inside, rho = np.random.default_rng(0), 0, 0.7
    truth = 6 / np.pi * np.arcsin(rho / 2)  # Spearman of a bivariate normal, Pearson 1907
    for trial in range(60):
        x = rng.standard_normal(150)
        y = rho * x + np.sqrt(1 - rho**2) * rng.standard_normal(150)
        low, high = bootstrap_interval(x, y, 200, trial)
        inside += low <= truth <= high
    assert inside >= 50  # 95 % of 60 is 57; fewer than 50 has probability 0.0003


def test_kinds_of_models_agree(tmp_path: Path) -> None:
    made, encoder = pairs(), HashEncoder(32)
    texts = sorted({*made.sentences1, *made.sentences2})
    with Engine.build(texts, tmp_path / "i", model="hash:32", whitening=None) as engine:
        means = [
            evaluate_sts(model, made, resamples=0).mean
            for model in ("hash:32", encoder, lambda t: encoder.encode(t).vectors, engine, tmp_path / "i")
        ]
    assert means == pytest.approx([means[0]] * 5, abs=1e-9)
    assert means[0] == pytest.approx(
        stats.spearmanr(evaluate_sts(encoder, made)["made"].cosines, made.scores).statistic, abs=1e-12
    )


def test_an_index_is_evaluated_with_its_own_whitening(tmp_path: Path) -> None:
    made = pairs()
    texts = sorted({*made.sentences1, *made.sentences2})
    with Engine.build(
        texts, tmp_path / "i", model="hash:32", raw="float32", whitening=Whitening(8, 0.5, 0.5)
    ) as engine:
        assert engine.whitening is not None
        of_model = evaluate_sts("hash:32", made, whitening=engine.whitening)
        assert evaluate_sts(engine, made)["made"].spearman == pytest.approx(of_model["made"].spearman, abs=1e-9)
        with pytest.raises(InputError, match="whitens its vectors already"):
            evaluate_sts(engine, made, whitening=engine.whitening)
        engine.whitening.save(tmp_path / "w.safetensors")
        assert evaluate_sts("hash:32", made, whitening=tmp_path / "w.safetensors").mean == of_model.mean


def test_a_report_shows_and_saves_itself(tmp_path: Path) -> None:
    report = evaluate_sts(
        "hash:32",
        [pairs(), STSSet(**{f: getattr(pairs(40, 3), f) for f in ("sentences1", "sentences2", "scores")}, name="b")],
    )
    assert report.mean == pytest.approx((report["made"].spearman + report["b"].spearman) / 2)
    with pytest.raises(KeyError, match="sets there are: made, b"):
        report["c"]
    markdown = report.to_markdown().splitlines()
    assert markdown[0] == "| set | n | Spearman | 95 % | Pearson |"
    assert markdown[2].startswith(f"| made | 60 | {100 * report['made'].spearman:.2f} | ")
    assert markdown[-1] == f"| mean | 100 | {100 * report.mean:.2f} |  |  |"
    assert report.to_text().splitlines()[1].split()[:3] == ["made", "60", f"{100 * report['made'].spearman:.2f}"]
    report.save(tmp_path / "r.json")
    saved = json.loads((tmp_path / "r.json").read_text())
    assert saved["mean_spearman_cosine"] == report.mean
    assert [entry["spearman_cosine"] for entry in saved["sets"]] == [score.spearman for score in report]
    pytest.importorskip("matplotlib")
    report.plot(tmp_path / "r.png")
    assert (tmp_path / "r.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    import pandas

    assert isinstance(report.to_frame(), pandas.DataFrame)
    assert report.to_frame().loc["b", "n"] == 40


def test_comparison_of_two_systems() -> None:
    made = pairs(200)
    rng = np.random.default_rng(0)

    def noisy(texts: list[str]) -> np.ndarray:
        vectors = HashEncoder(64).encode(texts).vectors
        return vectors + 2 * rng.standard_normal(vectors.shape)

    good, bad = evaluate_sts("hash:64", made), evaluate_sts(noisy, made)
    better = good.compare(bad, resamples=300)
    assert better.difference == pytest.approx(good.mean - bad.mean)
    assert better.interval[0] > 0
    assert better.p_value < 0.05
    worse = bad.compare(good, resamples=300)
    assert worse.interval == pytest.approx((-better.interval[1], -better.interval[0]))
    same = good.compare(good, resamples=50)
    assert (same.difference, same.p_value) == (0.0, 1.0)
    with pytest.raises(InputError, match="differ"):
        good.compare(evaluate_sts("hash:64", pairs(200, 5)))


# --- reading --------------------------------------------------------------------------------------------------------


def test_files_folders_and_names(tmp_path: Path) -> None:
    made = pairs(5)
    write(tmp_path / "sts" / "one" / "test.tsv", made)
    write(tmp_path / "sts" / "one" / "dev.tsv", pairs(4))
    write(tmp_path / "sts" / "two.tsv", made)
    rows = [
        {"text1": a, "text2": b, "label": s}
        for a, b, s in zip(made.sentences1, made.sentences2, made.scores, strict=True)
    ]
    (tmp_path / "sts" / "three.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "sts" / "four.csv").write_text('sentence1,sentence2,score\n"a, ""b""",c,1\nd,"e\nf",2\n')
    (tmp_path / "sts" / "notes.md").write_text("not data")
    assert [(s.name, len(s)) for s in load_sts(tmp_path / "sts")] == [("four", 2), ("one", 5), ("three", 5), ("two", 5)]
    assert load_sts(tmp_path / "sts" / "four.csv")[0].sentences1 == ('a, "b"', "d")
    for source, split in (("one", "test"), ("two.tsv", "test"), ("sts/one", "test")):
        (found,) = load_sts(source, split=split, data=tmp_path)
        assert found.sentences1 == made.sentences1
        np.testing.assert_array_equal(found.scores, made.scores)
    assert len(load_sts("one", split="dev", data=tmp_path)[0]) == 4


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("sentence1\tsentence2\tscore\na\tb\tx\n", r":2: score 'x'; expected a number"),
        ("sentence1\tsentence2\tscore\na\tb\t1\na\tb\tnan\n", r":3: score 'nan'; expected a finite number"),
        ("sentence1\tsentence2\tscore\na\t \t1\n", r":2: sentence ' '; expected some words"),
        ("sentence1\tsentence2\tscore\na\tb\n", r":2: 2 fields; expected 3"),
        (
            "sentence1\tsentence2\tscores\na\tb\t1\n",
            r":1: no column 'score' \(or 'label', 'similarity'\); the columns are sentence1, sentence2, scores",
        ),
        ("sentence1\tsentence2\tscore\n", r"no pairs in it"),
        ("", r"no pairs in it"),
    ],
)
def test_bad_rows_are_named(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "bad.tsv").write_text(content)
    with pytest.raises(CorpusError, match=said):
        load_sts(tmp_path / "bad.tsv")


def test_bad_bytes_and_bad_json_are_named(tmp_path: Path) -> None:
    (tmp_path / "bad.tsv").write_bytes(b"sentence1\tsentence2\tscore\na\tb\t1\n\xff\tb\t1\n")
    with pytest.raises(CorpusError, match=r"bad.tsv:3: .*not UTF-8"):
        load_sts(tmp_path / "bad.tsv")
    (tmp_path / "bad.jsonl").write_text('{"sentence1": "a", "sentence2": "b", "score": 1}\n{"sentence1"\n')
    said = r"bad.jsonl:2: not JSON at character 13 of the line \(counted from 0\): Expecting"
    with pytest.raises(CorpusError, match=said):
        load_sts(tmp_path / "bad.jsonl")
    (tmp_path / "bad.xml").write_text("x")
    with pytest.raises(CorpusError, match="expected one of .tsv"):
        load_sts(tmp_path / "bad.xml")
    with pytest.raises(CorpusError, match="no such file, folder or set"):
        load_sts("nowhere", data=tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="no test.tsv"):
        load_sts(tmp_path / "empty")


def test_what_cannot_be_evaluated_is_a_sentence(tmp_path: Path) -> None:
    made = pairs(3)
    same = STSSet(name="same", sentences1=made.sentences1, sentences2=made.sentences2, scores=np.ones(3))
    with pytest.raises(InputError, match="'same': all 3 scores are the same"):
        evaluate_sts("hash:8", same)
    with pytest.raises(InputError, match="all labels are 1"):
        best_threshold(np.arange(3.0), np.ones(3))
    with pytest.raises(InputError, match=r"texts gave vectors of shape \(2, 3\)"):
        evaluate_sts(lambda texts: np.ones((2, 3)), made)
    with pytest.raises(VectorError, match="NaN"):
        evaluate_sts(lambda texts: np.full((len(texts), 3), np.nan), made)
    with pytest.raises(VectorError, match="expected dim 4"):
        evaluate_sts("hash:8", made, whitening=Whitening().fit(np.random.default_rng(0).standard_normal((50, 4))))
    with pytest.raises(InputError, match="cannot make vectors with 7"):
        evaluate_sts(7, made)
    with pytest.raises(InputError, match="there are no pairs"):
        evaluate_sts("hash:8", [])
    (tmp_path / "w").write_text("x")
    with pytest.raises(IndexCorruptError, match="not a whitening"):
        evaluate_sts("hash:8", made, whitening=tmp_path / "w")


def test_the_command_prints_the_same(tmp_path: Path) -> None:
    file = write(tmp_path / "made.tsv", pairs())
    command = [sys.executable, "-c", "from retrieval.cli import main; main()", "eval", "sts", "hash:32", str(file)]
    report = evaluate_sts("hash:32", file)
    shown = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=True)
    assert json.loads(shown.stdout) == json.loads(json.dumps(report.to_dict()))
    for format_, expected in (("markdown", report.to_markdown()), ("table", report.to_text())):
        shown = subprocess.run([*command, "--format", format_], capture_output=True, text=True, check=True)
        assert shown.stdout == expected + "\n"
    failed = subprocess.run([*command, "nowhere"], capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stderr.count("\n")) == (1, 1)


# --- published numbers ----------------------------------------------------------------------------------------------

SETS = ("sts12", "sts13", "sts14", "sts15", "stsb-en")
PUBLISHED = {
    "all-MiniLM-L6-v2": (72.37, 80.60, 75.59, 85.39, 82.03),
    "all-mpnet-base-v2": (72.63, 83.48, 78.00, 85.66, 83.42),
}


@pytest.mark.shared
@pytest.mark.model
@pytest.mark.parametrize("model", list(PUBLISHED))
def test_known_numbers_come_out(shared: Path, model: str) -> None:
    place = model
    if model != "all-MiniLM-L6-v2":
        place = str(Path(os.environ.get("RETRIEVAL_MODELS", "models")) / model)
        if not Path(place).is_dir():
            pytest.skip(f"RETRIEVAL_MODELS names no folder that holds {model}")
    report = evaluate_sts(place, list(SETS), data=shared, resamples=0)
    for name, published in zip(SETS, PUBLISHED[model], strict=True):
        assert 100 * report[name].spearman == pytest.approx(published, abs=0.1)
