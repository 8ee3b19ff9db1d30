"""The comparison with other systems: its measures by hand, and that its tables leave no system out."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest


@pytest.fixture
def peers(root: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    return importlib.import_module


def test_whoever_ties_with_the_last_is_near(peers: Any) -> None:
    documents = np.array([[1, 0], [0.8, 0.6], [0.8, 0.6], [0, 1]], np.float32)
    measures = peers("peers.measures")
    near = measures.nearest(documents, np.array([[1, 0], [0, 1]], np.float32), "abcd", 2)
    assert near == [measures.Nearest({"a"}, {"b", "c"}), measures.Nearest({"d"}, {"b", "c"})]


def test_recall_is_the_share_of_k(peers: Any) -> None:
    recall, Nearest = peers("peers.measures").recall, peers("peers.measures").Nearest
    near = Nearest({"a"}, {"b", "c"})
    assert recall([["a", "c"], ["d", "a"]], [near, Nearest({"d"}, {"b", "c"})], 2) == 0.75
    assert recall([["b", "c"]], [near], 2) == 0.5  # one of those that tie is enough; the nearest is missed
    assert recall([["a"]], [Nearest(set(), {"a"})], 10) == 1.0


def test_ndcg_by_hand(peers: Any) -> None:
    found = peers("peers.measures").ndcg([["x", "a"], ["b"]], ["1", "2"], {"1": {"a": 1}, "2": {"b": 1, "c": 0}})
    assert found == pytest.approx((1 / np.log2(3) + 1) / 2)


def test_percentiles_are_over_all_turns(peers: Any) -> None:
    found = peers("peers.measures").times([list(range(50)), list(range(50, 101))])
    assert found == {"p50 ms": 50.0, "p95 ms": 95.0, "p50 ms of each turn": [24.5, 75.0]}


def test_the_peak_is_the_command_s_own(root: Path, tmp_path: Path) -> None:
    clock, out = root / "benchmarks" / "peers" / "clock.py", tmp_path / "clock.json"
    command = [sys.executable, "-c", "print('hello'); raise SystemExit(3)"]
    done = subprocess.run([sys.executable, "-I", "-S", str(clock), str(out), *command], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "hello\n")
    found = json.loads(out.read_text())
    assert 0 < found["s"] < 60
    assert 1 << 20 < found["peak"] < 100 << 20


def made_up(systems: Any) -> dict[str, Any]:
    """A result in which system number i has i of everything but quality, and the first none of it."""
    figures = ("build s", "peak MiB", "disk MiB", "cold s", "p50 ms", "p95 ms")
    rows = {
        system.name: {**dict.fromkeys(figures, float(i)), "recall@10": i / 10, "nDCG@10": 0.5}
        for i, system in enumerate(systems, 1)
    }
    packages = {system.name: {"packages": {"numpy": "2"}} for system in systems}
    packages[systems[0].name]["first use s"] = 1.0
    return {"systems": packages, "corpora": {"few": rows}}


def test_tables_leave_no_system_out_and_say_who_is_first(peers: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    systems, worker, tables = peers("peers.systems").SYSTEMS, peers("peers.worker"), peers("tables")
    assert {system.client for system in systems} == set(worker.CLIENTS)
    assert {system.name for system in systems if system.other} == set(tables.OTHERS)
    assert systems[0].name == tables.THIS
    more = {"corpora": {"few": {tables.THIS: {"build s": 3.0}, "txtai": {"build s": 2.0}}}, "systems": {}}
    monkeypatch.setattr(tables, "peers_result", lambda: {"AVX2": made_up(systems), "AVX512": more})
    main, other, versions = tables.peers(), tables.peers(others=True), tables.peers_versions()
    for system in systems:
        assert f"| {system.name} |" in (other if system.other else main)
        assert f"| {system.name} |" in versions
    ours, last = (
        next(line for line in main.splitlines() if f"| {name} |" in line) for name in (tables.THIS, systems[6].name)
    )
    assert ours.count("**") == 2 * 7  # all but recall
    assert last.count("**") == 2 * 2  # recall, and nDCG, which all have
    assert [line.split(" | ")[:6] for line in tables.peers_why().splitlines()[2:]] == [
        ["| AVX2", "few", "recall@10", systems[6].name, "70.0", "10.0"],
        ["| AVX512", "few", "build, s", "txtai", "2", "3"],
    ]
    del more["corpora"]["few"][tables.THIS]
    monkeypatch.setattr(tables, "peers_result", lambda: {"AVX512": more})
    assert tables.peers_why() == "None." and "txtai" in tables.peers()
    monkeypatch.setattr(tables, "peers_result", dict)
    assert tables.peers_why() == tables.peers() == tables.peers_versions() == "Not run yet."


def test_what_is_told_of_a_loss_is_known(peers: Any) -> None:
    assert "not explained" not in peers("tables").peers_why()


def test_systems_take_turns_at_being_first(peers: Any) -> None:
    rotated = peers("peers.steps").rotated
    turns = [rotated("abcd", turn) for turn in range(4)]
    assert turns == [list("abcd"), list("cbad"), list("cdab"), list("adcb")]
    assert rotated("a", 3) == ["a"]


def test_a_processor_leaves_the_figures_of_others_alone(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = peers("shared_data")
    (tmp_path / "results").mkdir()
    monkeypatch.setattr(data, "HERE", tmp_path)
    for processor, found in (("one", {"a": 1, "b": 1}), ("two", {"a": 2}), ("one", {"a": 3})):
        monkeypatch.setattr(data, "processor", lambda name=processor: name)
        data.write_here("x", found)
    kept = data.earlier("x")["processors"]
    assert {name: {key: of[key] for key in of if len(key) == 1} for name, of in kept.items()} == {
        "one": {"a": 3, "b": 1}, "two": {"a": 2},
    }  # fmt: skip
    assert data.known_here("x")["versions"] == kept["two"]["versions"] != {}
    assert data.known_here("y") == {}
