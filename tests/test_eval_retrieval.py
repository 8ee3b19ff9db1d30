"""Retrieval measures: a worked example, edge cases, the oracle pytrec_eval, and the published number."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from eval import RetrievalSet, evaluate_retrieval, load_retrieval
from indexes.errors import CorpusError, InputError
from retrieval import Engine

DOCS = {"d1": "alpha beta", "d2": "alpha gamma", "d3": "delta epsilon", "d4": "zeta eta"}


def write_beir(folder: Path, qrels: list[tuple[str, str, int]], queries: dict[str, str]) -> Path:
    (folder / "qrels").mkdir(parents=True)
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in DOCS.items()))
    (folder / "queries.jsonl").write_text("".join(json.dumps({"_id": i, "text": t}) + "\n" for i, t in queries.items()))
    rows = "".join(f"{query}\t{doc}\t{grade}\n" for query, doc, grade in qrels)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n" + rows)
    return folder


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return Engine.build(list(DOCS.items()), tmp_path / "index", model="hash:512", whitening=None)


def test_a_worked_example(engine: Engine, tmp_path: Path) -> None:
    # q1 ("alpha beta"): d1 first, d2 second. Judged: d2 grade 2, d1 grade 1.
    # DCG = 1/log2(2) + 2/log2(3), ideal = 2/log2(2) + 1/log2(3)
    # q2 ("delta"): d3 first, and nothing it finds is judged relevant but d9, which is not there: 0.
    folder = write_beir(
        tmp_path / "set",
        [("q1", "d2", 2), ("q1", "d1", 1), ("q2", "d9", 1)],
        {"q1": "alpha beta", "q2": "delta", "q3": "unjudged"},
    )
    report = evaluate_retrieval(engine, folder, measures=("nDCG@10", "R@1", "RR"))
    ndcg = (1 + 2 / math.log2(3)) / (2 + 1 / math.log2(3))
    assert report.per_query["nDCG@10"] == pytest.approx({"q1": ndcg, "q2": 0.0})
    assert report["nDCG@10"] == pytest.approx(ndcg / 2)
    assert report["R@1"] == pytest.approx(0.25)
    assert report["RR"] == pytest.approx(0.5)
    assert report.to_dict()["queries"] == 2
    assert list(report.run["q1"])[:2] == ["d1", "d2"]


def test_a_scorer_may_decide(engine: Engine) -> None:
    """d2 comes first if "gamma" is wanted; it is judged 1 and d1 is not."""
    judged = RetrievalSet(name="s", queries={"q": "alpha beta"}, qrels={"q": {"d2": 1}})
    assert evaluate_retrieval(engine, judged, measures=("R@1",))["R@1"] == 0
    wanting = {"rerank": lambda query, texts: [float("gamma" in text) for text in texts], "budget": 2}
    for method in ("plain", "anchors", "adaptive"):
        report = evaluate_retrieval(engine, judged, measures=("R@1",), method=method, **wanting)  # type: ignore[arg-type]
        assert report.to_dict()["rerank"] == {"model": "function", "budget": 2, "method": method}
        assert len(report.run["q"]) == 2
        assert method == "anchors" or report["R@1"] == 1
    with pytest.raises(InputError, match="2 calls give as many hits"):
        evaluate_retrieval(engine, judged, measures=("R@10",), **wanting)  # type: ignore[arg-type]


def test_ways_over_the_graph_may_decide(tmp_path: Path) -> None:
    judged = RetrievalSet(name="s", queries={"q": "red"}, qrels={"q": {"4": 1}})
    words = np.random.default_rng(0).choice(["red", "fox", "night", "river", "moon", "hill", "tree", "old"], (120, 4))
    corpus = [(str(i), " ".join(of_one)) for i, of_one in enumerate(words)]
    with Engine.build(corpus, tmp_path / "i", model="hash:512", whitening=None) as engine:
        with pytest.raises(InputError, match="no neighbour graph"):
            evaluate_retrieval(engine, judged, geodesic=0.0)
        engine.build_graph(2)
        report = evaluate_retrieval(engine, judged, measures=("RR",), geodesic=0.0)
        assert report.to_dict()["geodesic"] == 0.0
        assert list(report.run["q"]) == [hit.doc_id for hit in engine.search("red", 100, geodesic=0.0)]
        assert list(report.run["q"]) != list(evaluate_retrieval(engine, judged, measures=("RR",)).run["q"])


@pytest.mark.parametrize("grades", [(1, 1, 1, 1), (1, 0, 0, 0), (0, 0, 0, 1), (0, 0, 0, 0)])
def test_the_oracle_agrees_for_full_partial_and_empty_judgements(engine: Engine, grades: tuple[int, ...]) -> None:
    pytrec_eval = pytest.importorskip("pytrec_eval")
    qrels = {"q": dict(zip(DOCS, grades, strict=True))}
    judged = RetrievalSet(name="s", queries={"q": "alpha eta"}, qrels=qrels)
    report = evaluate_retrieval(engine, judged, measures=("nDCG@10", "AP", "R@100"))
    run = {"q": {hit.doc_id: -float(hit.rank) for hit in engine.search("alpha eta", 100)}}
    oracle = pytrec_eval.RelevanceEvaluator(qrels, {"ndcg_cut.10", "map", "recall.100"}).evaluate(run)["q"]
    assert dict(report.measures) == pytest.approx(
        {"nDCG@10": oracle["ndcg_cut_10"], "AP": oracle["map"], "R@100": oracle["recall_100"]}
    )


def test_errors_say_what_is_wrong(engine: Engine, tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "set", [("q1", "d1", 1)], {"q1": "alpha"})
    with pytest.raises(InputError, match="'nDGC@10' is not known"):
        evaluate_retrieval(engine, folder, measures=("nDGC@10",))
    with pytest.raises(InputError, match="looks 1000 deep, but 100"):
        evaluate_retrieval(engine, folder, measures=("R@1000",))
    with pytest.raises(CorpusError, match="splits there are: test"):
        load_retrieval(folder, split="dev")
    with pytest.raises(CorpusError, match="expected a BEIR folder"):
        load_retrieval(tmp_path)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1\td1\thigh\n")
    with pytest.raises(CorpusError, match=r"test.tsv:2: score 'high'"):
        load_retrieval(folder)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq1 d1 1\n")
    with pytest.raises(CorpusError, match=r"test.tsv:2: 1 fields"):
        load_retrieval(folder)
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq7\td1\t1\n")
    with pytest.raises(CorpusError, match="judge query 'q7'"):
        load_retrieval(folder)


def test_the_command_prints_the_same_numbers(engine: Engine, tmp_path: Path) -> None:
    folder = write_beir(tmp_path / "set", [("q1", "d2", 1)], {"q1": "alpha beta"})
    command = [
        sys.executable,
        "-c",
        "from retrieval.cli import main; main()",
        "eval",
        "retrieval",
        str(tmp_path / "index"),
        str(folder),
    ]
    shown = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=True).stdout
    assert json.loads(shown) == evaluate_retrieval(engine, folder).to_dict()
    table = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "nDCG@10    0.6309" in table


@pytest.mark.shared
@pytest.mark.model
def test_scifact_gives_the_published_number(shared: Path, tmp_path: Path) -> None:
    folder = shared / "retrieval" / "scifact"
    with Engine.build(folder, tmp_path / "i", model="all-MiniLM-L6-v2", whitening=None, index="Flat") as engine:
        assert evaluate_retrieval(engine, folder)["nDCG@10"] == pytest.approx(0.645, abs=0.005)
