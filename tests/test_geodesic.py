"""Ways over the neighbour graph: against scipy's full shortest paths, known surfaces, and a look at every document."""

import importlib
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from commands import run
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.sparse import csr_matrix
from scipy.sparse.csgraph import shortest_path
from sklearn.datasets import make_swiss_roll
from sklearn.neighbors import NearestNeighbors

from indexes import writer
from indexes.errors import IndexCorruptError, IndexLockedError, InputError, VectorError
from indexes.stored import NEIGHBOR
from retrieval import Engine, Whitening, linking, neighbors
from retrieval.cross import CrossEncoderSearch
from retrieval.cross import search as module
from retrieval.geodesic import NeighborGraph
from retrieval.geodesic.scoring import Blended, best_blended, blend
from retrieval.moments import unit_rows
from retrieval.neighbors import angle_between, positioned


def points(n: int, d: int = 6, seed: int = 0) -> np.ndarray:
    return unit_rows(np.random.default_rng(seed).normal(size=(n, d)))


def oracle(rows: np.ndarray, neighbors: int, join: str, length: str) -> np.ndarray:
    """All shortest paths, (n, n), from links that scikit-learn finds."""
    rows = rows.astype(np.float64)
    chords, ends = (
        NearestNeighbors(n_neighbors=min(neighbors + 1, len(rows)), algorithm="brute").fit(rows).kneighbors(rows)
    )
    links = np.full((len(rows), len(rows)), np.inf)
    for one, (some, apart) in enumerate(zip(ends, chords, strict=True)):
        for other, chord in zip(some, apart, strict=True):
            if other != one:
                links[one, other] = chord if length == "chord" else 2 * np.arcsin(min(chord / 2, 1.0))
    links = np.minimum(links, links.T) if join == "union" else np.maximum(links, links.T)
    there = np.isfinite(links)
    return shortest_path(csr_matrix((links[there], np.nonzero(there)), links.shape), directed=False)


def ways_from(graph: NeighborGraph, starts: list[int], lengths: list[float] | None = None, **how: float) -> np.ndarray:
    ways = np.full(graph.n, np.inf)
    reached = graph.reach(starts, lengths, **how)
    ways[reached.positions] = reached.distances
    return ways


# ---- the graph


@pytest.mark.parametrize("length", ["angle", "chord"])
@pytest.mark.parametrize("join", ["union", "mutual"])
@settings(max_examples=20, deadline=None)
@given(n=st.integers(2, 60), neighbors=st.integers(1, 8), seed=st.integers(0, 2**16))
def test_ways_are_scipys_shortest_paths(join: str, length: str, n: int, neighbors: int, seed: int) -> None:
    rows = points(n, seed=seed)
    graph = NeighborGraph.build(rows, neighbors, join=join, length=length)
    expected = oracle(rows, neighbors, join, length)
    for start in range(0, n, 7):
        np.testing.assert_allclose(ways_from(graph, [start]), expected[start], atol=1e-5)
    radius = float(np.median(expected[np.isfinite(expected)]))
    near = ways_from(graph, [0], radius=radius)
    sure = np.abs(expected[0] - radius) > 1e-4
    assert np.array_equal(np.isfinite(near)[sure], (expected[0] <= radius)[sure])


def test_a_point_beside_the_graph_enters_by_links_of_its_own() -> None:
    rows = points(40)
    graph, expected = NeighborGraph.build(rows, 3), oracle(rows, 3, "union", "angle")
    ways = ways_from(graph, [7, 3], [0.5, 0.1])
    np.testing.assert_allclose(ways, np.minimum(0.5 + expected[7], 0.1 + expected[3]), atol=1e-5)
    many = list(range(40))  # more links than there is room for at first; and fewer again
    np.testing.assert_allclose(ways_from(graph, many * 1, [1.0] * 40), np.full(40, 1.0), atol=1e-5)
    assert len(graph.reach(np.arange(40)).positions) == 40
    np.testing.assert_allclose(ways_from(graph, [7, 3], [0.5, 0.1]), ways, atol=1e-12)


def test_more_starts_than_slots() -> None:
    rows = points(200)
    graph, expected = NeighborGraph.build(rows, 4), oracle(rows, 4, "union", "angle")
    starts = list(range(0, 200, 2))
    np.testing.assert_allclose(ways_from(graph, starts), expected[starts].min(axis=0), atol=1e-4)
    np.testing.assert_allclose(ways_from(graph, [5]), expected[5], atol=1e-5)


def test_a_path_is_as_long_as_its_links() -> None:
    rows = points(60, d=3)
    graph = NeighborGraph.build(rows, 3)
    reached = graph.reach([0])
    assert reached.distances.tolist() == sorted(reached.distances)
    for position, distance in zip(reached.positions.tolist(), reached.distances.tolist(), strict=True):
        path = reached.path(position)
        assert (path[0], path[-1]) == (0, position)
        links = angle_between(rows[path[:-1]], rows[path[1:]]).sum()
        assert links == pytest.approx(distance, abs=1e-4)


def test_neighbors_count_both_ways_in_a_union() -> None:
    around = np.deg2rad([0.0, 1.0, 3.0, 90.0])  # the last one names the third, and nobody names it
    rows = np.stack([np.cos(around), np.sin(around)], axis=1)
    union, mutual = NeighborGraph.build(rows, 1), NeighborGraph.build(rows, 1, join="mutual")
    assert union.neighbors(2)[0].tolist() == [1, 3]
    np.testing.assert_allclose(union.neighbors(2)[1], np.deg2rad([2.0, 87.0]), atol=1e-6)
    assert mutual.neighbors(2)[0].tolist() == [] and mutual.neighbors(0)[0].tolist() == [1]
    assert union.links == 3 and mutual.links == 1
    assert len(set(union.components.tolist())) == 1 and len(set(mutual.components.tolist())) == 3


def test_equal_vectors_are_linked() -> None:
    rows = np.repeat(points(3), 4, axis=0)
    graph = NeighborGraph.build(rows, 3)
    assert ways_from(graph, [0])[[1, 2, 3]].max() < 1e-4
    assert np.isinf(ways_from(graph, [0])[4:]).all()


def test_ways_on_a_swiss_roll_are_those_along_it() -> None:
    """Tenenbaum et al. 2000, figure 1: along the roll, not through it."""
    places, turn = make_swiss_roll(3000, random_state=0)
    flat = 0.02 * places  # near a pole of the sphere angles are distances
    rows = np.column_stack([flat, np.sqrt(1.0 - (flat**2).sum(axis=1))])
    graph = NeighborGraph.build(rows, 10)
    along = 0.5 * (turn * np.sqrt(1 + turn**2) + np.arcsinh(turn))  # arc length of the spiral r = turn
    start = int(np.argmin(turn))
    true = np.hypot(along - along[start], places[:, 1] - places[start, 1])
    ways = ways_from(graph, [start])
    straight = np.linalg.norm(places - places[start], axis=1)
    assert np.isfinite(ways).all()
    assert np.corrcoef(ways, true)[0, 1] > 0.99
    assert np.corrcoef(straight, true)[0, 1] < 0.8


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**16))
def test_permuted_points_have_permuted_ways(seed: int) -> None:
    rows, order = points(50, seed=seed), np.random.default_rng(seed).permutation(50)
    one, other = NeighborGraph.build(rows, 4), NeighborGraph.build(rows[order], 4)
    np.testing.assert_allclose(ways_from(other, [0]), ways_from(one, [int(order[0])])[order], atol=1e-5)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: NeighborGraph.build(points(5), 0), "neighbors=0; expected a whole number of 1 or more"),
        (lambda: NeighborGraph.build(points(5), join="both"), "join='both'; expected one of union, mutual"),
        (lambda: NeighborGraph.build(points(5), length="cosine"), "length='cosine'; expected one of angle, chord"),
        (lambda: NeighborGraph(np.full((2, 1), np.array((5, 0.1), NEIGHBOR))), "a list names position 5 of 2"),
        (lambda: NeighborGraph.build(points(5)).reach([5]), "expected different positions below 5"),
        (lambda: NeighborGraph.build(points(5)).reach(0), "expected a sequence of positions"),
        (lambda: NeighborGraph.build(points(5)).reach([0.7]), "expected a sequence of positions"),
        (lambda: NeighborGraph.build(points(5)).reach([1], radius=np.nan), "radius=nan; expected 0 or more"),
        (lambda: NeighborGraph.build(points(5)).reach([1, 1]), "expected different positions below 5"),
        (lambda: NeighborGraph.build(points(5)).reach([1], [-1.0]), "expected a length of 0 or more"),
        (lambda: NeighborGraph.build(points(5)).reach([1], [np.nan]), "expected a length of 0 or more"),
        (lambda: NeighborGraph.build(points(5)).reach([1], [1.0, 2.0]), "expected a length of 0 or more"),
    ],
)
def test_what_a_graph_cannot_be_made_of_is_refused(build: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build()  # type: ignore[operator]


def test_rows_that_are_not_unit_are_refused() -> None:
    with pytest.raises(VectorError, match="expected unit rows"):
        NeighborGraph.build(3 * points(5))


# ---- scores


def all_scores(graph: NeighborGraph, cosines: np.ndarray, entries: np.ndarray, alpha: float) -> np.ndarray:
    ways = ways_from(graph, entries.tolist(), np.arccos(cosines[entries].clip(-1, 1)).tolist())
    return blend(cosines, np.where(np.isfinite(ways), ways, np.arccos(cosines.clip(-1, 1))), alpha)


@settings(max_examples=80, deadline=None)
@given(
    n=st.integers(1, 150), d=st.integers(2, 8), neighbors=st.integers(1, 4), join=st.sampled_from(["union", "mutual"]),
    k=st.integers(1, 40), alpha=st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]), few=st.integers(1, 16),
    share=st.sampled_from([1.0, 0.5, 0.1]), seed=st.integers(0, 2**16),
)  # fmt: skip
def test_the_best_are_those_of_a_look_at_every_document(
    n: int, d: int, neighbors: int, join: str, k: int, alpha: float, few: int, share: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    rows, query = points(n, d, seed), points(1, d, seed + 1)[0]
    graph, cosines = NeighborGraph.build(rows, neighbors, join=join), (rows @ query).astype(np.float64)
    allowed = None if share == 1.0 else rng.random(n) < share
    order = np.argsort(-cosines, kind="stable")
    open_to = order if allowed is None else order[allowed[order]]
    if not len(open_to):
        return
    entries = order[:few]
    found = best_blended(
        graph, (entries, cosines[entries]), lambda depth: (open_to[:depth], cosines[open_to[:depth]]),
        lambda positions: cosines[positions], k, alpha, allowed=allowed,
    )  # fmt: skip
    scores = all_scores(graph, cosines, entries, alpha)
    np.testing.assert_allclose(found.scores[:k], np.sort(scores[open_to])[::-1][:k], atol=1e-6)
    np.testing.assert_allclose(found.scores, scores[found.positions], atol=1e-6)
    np.testing.assert_allclose(blend(found.cosines, found.ways, alpha), found.scores)
    assert np.isin(found.positions, open_to).all() and len(found.positions) >= min(k, len(open_to))


def test_what_no_path_reaches_counts_at_its_angle() -> None:
    around = np.deg2rad([0.0, 5.0, 80.0, 85.0])
    rows = np.stack([np.cos(around), np.sin(around)], axis=1)
    graph, cosines = NeighborGraph.build(rows, 1), rows @ rows[0]
    found = best_blended(
        graph, (np.array([0]), cosines[:1]), lambda depth: (np.arange(4)[:depth], cosines[:depth]),
        lambda positions: cosines[positions], 4, 0.0,
    )  # fmt: skip
    np.testing.assert_allclose(np.sort(found.ways), around, atol=1e-5)


def test_beyond_most_documents_the_rest_counts_at_the_radius() -> None:
    rows, query = points(300, 4), points(1, 4, 9)[0]
    graph, cosines = NeighborGraph.build(rows, 4), (rows @ query).astype(np.float64)
    order = np.argsort(-cosines)
    found = best_blended(
        graph, (order[:4], cosines[order[:4]]), lambda depth: (order[:depth], cosines[order[:depth]]),
        lambda positions: cosines[positions], 250, 0.5, most=30,
    )  # fmt: skip
    full = ways_from(graph, order[:4].tolist(), np.arccos(cosines[order[:4]]).tolist())
    assert len(found.positions) == 250 and (found.ways <= full[found.positions] + 1e-6).all()
    assert (found.ways >= np.arccos(cosines[found.positions]) - 1e-6).all()
    assert (found.ways < full[found.positions] - 1e-3).any()


# ---- in an index

WORDS = [
    "red",
    "blue",
    "fox",
    "whale",
    "sea",
    "night",
    "train",
    "café",
    "日本",
    "狐狸",
    "大海",
    "green",
    "old",
    "small",
    "bright",
    "river",
]


def texts(n: int, seed: int = 0) -> list[tuple[str, str]]:
    rng = np.random.default_rng(seed)
    return [(f"{seed}-{at}", " ".join(rng.choice(WORDS, 5))) for at in range(n)]


def lists_of(engine: Engine) -> dict[str, dict[str, float]]:
    """What each document is linked with by its own list, by ids."""

    def read() -> dict[str, dict[str, float]]:
        lists = engine._bundle.kept("neighbors")
        assert lists is not None
        ids = [one.doc_id for one in engine._bundle.documents(lists.rows.tolist())]
        return {
            ids[at]: {ids[row]: float(angle) for row, angle in own if row >= 0}
            for at, own in enumerate(positioned(lists.rows, lists[:]).tolist())
        }

    return engine._bundle.read(read)


def check_lists(engine: Engine, *, own: set[str] | None = None) -> None:
    """The lists of some documents (all) are of those nearest among all, by brute force over the searched rows."""
    ids, _ = engine.raw_documents()
    rows = engine._bundle.read(lambda: engine._bundle.searched_vectors()[:])
    apart = np.arccos((rows.astype(np.float64) @ rows.T).clip(-1, 1))
    np.fill_diagonal(apart, np.inf)
    width = engine.info()["graph"]["neighbors"]
    for at, (doc_id, own_list) in enumerate(zip(ids, map(lists_of(engine).get, ids), strict=True)):
        assert own_list is not None and doc_id not in own_list
        if own is None or doc_id in own:
            found = np.sort(list(own_list.values()))
            np.testing.assert_allclose(found, np.sort(apart[at])[: min(width, len(ids) - 1)], atol=2e-3)
        for other, angle in own_list.items():
            assert angle == pytest.approx(apart[at, ids.index(other)], abs=2e-3)


@pytest.mark.parametrize("index", ["Flat", "SQ8", "HNSW8,SQ8"])
def test_every_document_is_linked_with_those_nearest_to_it(tmp_path: Path, index: str) -> None:
    with Engine.build(texts(120), tmp_path / "i", model="hash:32", index=index) as engine:
        assert engine.info()["graph"] is None
        assert engine.build_graph(5).linked == 120
        assert engine.info()["graph"] == {"neighbors": 5, "documents": 120}
        check_lists(engine)
        assert engine.build_graph().linked == 0
        assert [check.name for check in engine.verify(deep=True) if check.problem] == []


def test_what_is_added_is_linked_and_what_is_deleted_left_out(tmp_path: Path) -> None:
    with Engine.build(texts(60), tmp_path / "i", model="hash:32") as engine:
        engine.build_graph(4)
        first = lists_of(engine)
        engine.add(texts(20, seed=1))  # a segment of its own
        engine.add(texts(25, seed=2))  # takes that one in
        assert engine.info()["graph"]["documents"] == 105 and engine.info()["segments"] == 2
        new = {doc_id for doc_id, _ in texts(25, seed=2)}
        check_lists(engine, own=new)
        after = lists_of(engine)
        assert {doc_id: after[doc_id] for doc_id in first} == first
        engine.delete([doc_id for doc_id, _ in texts(60)[::2]])
        left = lists_of(engine)
        assert len(left) == 75 and all(set(own) <= set(left) for own in left.values())
        check_lists(engine, own=set())
        before = {doc_id: dict(own) for doc_id, own in left.items()}
        engine.compact()
        assert engine.info()["segments"] == 1 and lists_of(engine) == before
        engine.upsert([(doc_id, "another text") for doc_id in list(before)[:3]])
        check_lists(engine, own=set(list(before)[:3]))
        frayed = {doc_id for doc_id, own in lists_of(engine).items() if len(own) < 2}
        assert frayed and engine.info()["graph"]["documents"] == 75 - len(frayed)
        assert engine.build_graph().linked == len(frayed) and engine.info()["graph"]["documents"] == 75
        check_lists(engine, own=frayed)


def test_a_rebuild_moves_the_vectors_and_makes_all_lists_anew(tmp_path: Path) -> None:
    with Engine.build(texts(80), tmp_path / "i", model="hash:32") as engine:
        engine.build_graph(4)
        engine.add(texts(70, seed=1))
        engine.rebuild(whitening=Whitening(8, beta=1.0, gamma=0.5))
        check_lists(engine)
        with Engine.build(
            texts(80) + texts(70, seed=1), tmp_path / "j", model="hash:32", whitening=engine.whitening
        ) as other:
            other.build_graph(4)
            assert lists_of(other) == lists_of(engine)


def test_an_interrupted_graph_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "BLOCK", 16)
    monkeypatch.setattr(linking, "COMMIT_EVERY", 0.0)
    with Engine.build(texts(100), tmp_path / "i", model="hash:32") as engine:
        engine.add(texts(40, seed=1))
        told: list[int] = []

        def interrupted(*given: Any) -> Any:
            for block in neighbors.neighbor_lists(*given):
                if len(told) == 4:
                    raise KeyboardInterrupt
                told.append(len(block))
                yield block

        monkeypatch.setattr(linking, "neighbor_lists", interrupted)
        with pytest.raises(KeyboardInterrupt):
            engine.build_graph(4)
        assert told == [16] * 4 and engine.info()["graph"] == {"neighbors": 4, "documents": 64}
        with pytest.raises(InputError, match="has a graph of 4 neighbors already"):
            engine.build_graph(5)
        monkeypatch.setattr(linking, "neighbor_lists", neighbors.neighbor_lists)
        assert engine.build_graph(4).linked == 76
        check_lists(engine)


def test_a_fresh_graph_takes_the_old_ones_place_with_its_first_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine.build(texts(50), tmp_path / "i", model="hash:32") as engine:
        engine.build_graph(4)
        before = lists_of(engine)

        def fails(*given: Any) -> Any:
            raise KeyboardInterrupt
            yield

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(linking, "neighbor_lists", fails)
            engine.build_graph(2, fresh=True)
        assert lists_of(engine) == before
        assert engine.build_graph(2, fresh=True).neighbors == 2
        check_lists(engine)
        engine.drop_graph()
        assert engine.info()["graph"] is None and not list((tmp_path / "i" / "segments").glob("*neighbors*"))
        engine.drop_graph()


@pytest.mark.parametrize("remedy", ["--fresh", "--drop"])
def test_a_damaged_graph_is_told_and_can_be_made_anew(tmp_path: Path, remedy: str) -> None:
    with Engine.build(texts(60), tmp_path / "i", model="hash:32") as engine:
        engine.build_graph(3)
    (path,) = (tmp_path / "i" / "segments").glob("*neighbors*")
    data = path.read_bytes()
    path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with Engine.open(tmp_path / "i") as engine, pytest.raises(IndexCorruptError, match=f"{path.name}.*--fresh"):
        engine.search("red", geodesic=0.5)
    assert run("graph", tmp_path / "i", remedy).code == 0
    with Engine.open(tmp_path / "i") as engine:
        assert not [check for check in engine.verify(deep=True) if check.problem]
        assert (engine.info()["graph"] is None) == (remedy == "--drop") and len(engine.search("red")) == 10


def test_few_documents_or_none(tmp_path: Path) -> None:
    with Engine.build(texts(1), tmp_path / "i", model="hash:32") as engine:
        assert engine.build_graph().linked == 1 and engine.build_graph().linked == 0
        assert [hit.rank for hit in engine.search("red", geodesic=0.5)] == [1]
        engine.delete(["0-0"])
        assert engine.search("red", geodesic=0.5) == [] and engine.rank_by_topic(["red"]) == []
        assert engine.build_graph().documents == 0
        engine.add(texts(30, seed=1))
        assert engine.info()["graph"] == {"neighbors": 16, "documents": 30}
        check_lists(engine)


@pytest.fixture
def linked(tmp_path: Path) -> Iterator[Engine]:
    """Ids are numbers with a kind, so that filters have something to do."""
    documents = [{"id": doc_id, "text": text, "kind": "ab"[at % 2]} for at, (doc_id, text) in enumerate(texts(150))]
    with Engine.build(documents, tmp_path / "i", model="hash:32") as engine:
        engine.build_graph(4)
        yield engine


def expected_hits(engine: Engine, query: str, alpha: float, kind: str | None = None) -> list[tuple[str, float]]:
    """By a look at every document and scipy's shortest paths over all."""
    ids, _ = engine.raw_documents()
    rows = engine._bundle.read(lambda: engine._bundle.searched_vectors()[:])
    cosines = (rows.astype(np.float64) @ engine.embed([query], "query")[0]).round(6)
    paths = oracle(rows, 4, "union", "angle")
    first = np.lexsort((np.arange(len(ids)), -cosines))[:16]
    ways = (np.arccos(cosines[first].clip(-1, 1))[:, None] + paths[first]).min(axis=0)
    scores = alpha * cosines + (1 - alpha) / (1 + np.where(np.isfinite(ways), ways, np.arccos(cosines.clip(-1, 1))))
    kept = [at for at in range(len(ids)) if kind is None or "ab"[at % 2] == kind]
    return sorted(((ids[at], float(scores[at])) for at in kept), key=lambda one: -one[1])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 0.9])
@pytest.mark.parametrize("kind", [None, "a"])
@pytest.mark.parametrize("query", ["red fox", "大海 狐狸", "bright river night"])
def test_hits_are_those_of_a_look_at_every_document(linked: Engine, alpha: float, kind: str | None, query: str) -> None:
    hits = linked.search(query, 40, geodesic=alpha, filter=kind and f"kind = '{kind}'")
    expected = expected_hits(linked, query, alpha, kind)
    np.testing.assert_allclose([hit.score for hit in hits], [score for _, score in expected[:40]], atol=2e-4)
    by_id = dict(expected)
    assert all(hit.score == pytest.approx(by_id[hit.doc_id], abs=2e-4) for hit in hits)
    assert [hit.rank for hit in hits] == list(range(1, 41))
    for hit in hits:
        assert hit.score == pytest.approx(alpha * hit.scores["dense"] + (1 - alpha) / (1 + hit.scores["way"]), abs=2e-6)


def test_alpha_1_is_the_cosine_exactly(linked: Engine) -> None:
    for query in ("red fox", "日本 train"):
        plain, geodesic = linked.search(query, 60), linked.search(query, 60, geodesic=1.0)
        assert [(hit.doc_id, hit.score) for hit in geodesic] == [(hit.doc_id, hit.score) for hit in plain]


def test_the_first_hits_are_those_of_the_cosine(linked: Engine) -> None:
    """A way is never shorter than the angle, and it is the angle for the documents that paths begin at."""
    for query in ("red fox", "sea sea night"):
        plain, geodesic = linked.search(query, 10), linked.search(query, 10, geodesic=0.5)
        assert [hit.doc_id for hit in geodesic] == [hit.doc_id for hit in plain]
        assert all(hit.scores["way"] >= np.arccos(min(hit.scores["dense"], 1.0)) - 2e-3 for hit in geodesic)


def test_the_way_to_a_hit_leads_over_its_path(linked: Engine) -> None:
    text_of = dict(texts(150))
    longer = 0
    for hit in linked.search("red fox", 80, geodesic=0.2):
        assert all(text_of[step["id"]] == step["text"] for step in hit.path)
        stops = [step["id"] for step in hit.path] + [hit.doc_id]
        rows = linked.embed([text_of[stop] for stop in stops])
        begin = float(np.arccos(min(float(rows[0] @ linked.embed(["red fox"], "query")[0]), 1.0)))
        assert begin + angle_between(rows[:-1], rows[1:]).sum() == pytest.approx(hit.scores["way"], abs=0.02)
        longer += len(stops) > 1
    assert longer > 5
    assert all(hit.path == () for hit in linked.search("red fox", 20))


def test_the_order_of_documents_does_not_matter(tmp_path: Path) -> None:
    found, some = [], list(dict(map(reversed, texts(150))).items())  # each text once: equal ones have equal angles
    for order in (np.arange(len(some)), np.random.default_rng(3).permutation(len(some))):
        with Engine.build(
            [(some[at][1], some[at][0]) for at in order],
            tmp_path / str(order[0]),
            model="hash:32",
            whitening=None,
            index="Flat",
        ) as engine:
            engine.build_graph(4)
            found.append({hit.doc_id: hit.score for hit in engine.search("red fox", 150, geodesic=0.5)})
    assert len(found[0]) == len(some) > 100
    near = [abs(found[0][doc_id] - found[1][doc_id]) < 1e-4 for doc_id in found[0]]
    assert np.mean(near) > 0.9, "equal angles may choose other links, but few are equal"


def test_a_topic_is_ranked_by_ways(linked: Engine) -> None:
    topic = ["red fox", "night train"]
    hits = linked.rank_by_topic(topic, k=None)
    assert len(hits) == 150
    best = [dict(expected_hits(linked, text, 0.0)) for text in topic]
    for hit in hits:
        assert hit.score == pytest.approx(max(of_text[hit.doc_id] for of_text in best), abs=2e-4)
        assert hit.score == pytest.approx(1 / (1 + hit.scores["way"]), abs=2e-6)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert [hit.doc_id for hit in linked.rank_by_topic(topic, k=7)] == [hit.doc_id for hit in hits[:7]]
    few = linked.rank_by_topic(topic, k=None, filter="kind = 'b'")
    assert [hit.doc_id for hit in few] == [hit.doc_id for hit in hits if hit.metadata["kind"] == "b"]
    middle = linked.rank_by_topic(topic, k=3, centre=True)
    mean = unit_rows(linked.embed(topic, "query").mean(axis=0, keepdims=True))
    assert [hit.score for hit in middle] == [
        hit.score for hit in linked._geodesic.rank_by_topic(mean, 3, centre=False, filter=None)
    ]
    assert [hit.scores["dense"] for hit in middle] != [hit.scores["dense"] for hit in hits[:3]]


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda engine: engine.search("red", geodesic=1.5), "geodesic=1.5; expected a number from 0"),
        (lambda engine: engine.search("red", geodesic=True), "geodesic=True; expected a number from 0"),
        (lambda engine: engine.search("red", geodesic=float("nan")), "geodesic=nan; expected a number from 0"),
        (lambda engine: engine.search_encoded(engine.encode(["red"]), geodesic=5.0), "geodesic=5.0; expected a number"),
        (lambda engine: engine.search("red", 0, geodesic=0.5), "k=0; expected the number of hits"),
        (lambda engine: engine.search("red", geodesic=0.5, rerank=lambda query, some: some), "leave one of them out"),
        (lambda engine: engine.rank_by_topic([]), "a topic of no texts"),
        (lambda engine: engine.rank_by_topic("red"), "expected a sequence of texts"),
        (lambda engine: engine.rank_by_topic(None), "expected a sequence of texts"),
        (lambda engine: engine.rank_by_topic(["red"], k=0), "k=0; expected the number of hits"),
        (lambda engine: engine.build_graph(0), "neighbors=0; expected a whole number from 1 to 1,000"),
        (lambda engine: engine.build_graph(True), "neighbors=True; expected a whole number"),
    ],
)
def test_wrong_values_are_refused(linked: Engine, ask: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(linked)


def test_without_a_graph_it_says_how_to_make_one(tmp_path: Path) -> None:
    with Engine.build(texts(20), tmp_path / "i", model="hash:32") as engine:
        for ask in (lambda: engine.search("red", geodesic=0.5), lambda: engine.rank_by_topic(["red"])):
            with pytest.raises(InputError, match="has no neighbour graph; make one with: retrieval graph"):
                ask()


def test_a_graph_that_is_not_whole_is_used_with_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(neighbors, "BLOCK", 16)
    monkeypatch.setattr(linking, "COMMIT_EVERY", 0.0)
    with Engine.build(texts(40), tmp_path / "i", model="hash:32") as engine:
        commits = iter([None])
        monkeypatch.setattr(linking, "made_by", lambda: next(commits) or {})
        with pytest.raises(StopIteration):
            engine.build_graph(4)
        assert len(engine.search("red", 40, geodesic=0.5)) == 40
    assert "24 of 40 documents are not linked, or no more; go on with: retrieval graph" in caplog.text


def test_the_command_line_links_and_searches(tmp_path: Path) -> None:
    corpus = tmp_path / "texts.txt"
    corpus.write_text("\n".join(text for _, text in texts(60)), encoding="utf-8")
    index = tmp_path / "i"
    assert run("build", corpus, "-o", index, "-m", "hash:32", "--quiet").code == 0
    refused = run("query", index, "red fox", "--geodesic", "0.5")
    assert refused.code == 1 and "has no neighbour graph; make one with: retrieval graph" in refused.err
    done = run("graph", index, "--neighbors", 3)
    assert done.code == 0 and "60 of 60 documents linked now, each with the nearest 3" in done.err
    assert "0 of 60 documents linked now" in run("graph", index).err
    assert json.loads(run("info", index, "--format", "json").out)["graph"] == {"neighbors": 3, "documents": 60}
    plain = json.loads(run("query", index, "red fox", "--format", "jsonl").out)
    assert all("path" not in hit for hit in plain["hits"])
    found = json.loads(run("query", index, "red fox", "-k", 40, "--geodesic", "0.2", "--format", "jsonl").out)
    far = [hit for hit in found["hits"] if hit.get("path")]
    assert far and all(set(hit["scores"]) == {"dense", "way"} for hit in found["hits"])
    explained = run("query", index, "red fox", "-k", 40, "--geodesic", "0.2", "--explain").out
    step = far[0]["path"][0]
    assert "way" in explained and f"over {step['id']}: {step['text'].split()[0]}" in explained  # a terminal cuts it
    assert "over" not in run("query", index, "red fox", "-k", 40, "--geodesic", "0.2").out
    for wrong in (
        ("graph", index, "--drop", "--fresh"), ("graph", index, "--neighbors", 0),
        ("query", index, "red", "--geodesic", "2"), ("query", index, "red", "--geodesic", "0.5", "--rerank", "x"),
    ):  # fmt: skip
        assert run(*wrong).code == 2
    assert "geodesic=nan; expected a number" in run("query", index, "red fox", "--geodesic", "nan").err
    assert run("graph", index, "--drop").code == 0
    assert json.loads(run("info", index, "--format", "json").out)["graph"] is None


# ---- what a reranker finds along the graph


class Wish:
    """Stands for a cross-encoder: likes texts with a word; counts its calls."""

    def __init__(self, word: str) -> None:
        self.word, self.asked = word, []  # type: ignore[var-annotated]

    def __call__(self, query: str, some: list[str]) -> list[float]:
        self.asked += some
        return [10.0 * text.split().count(self.word) + len(text) / 100 for text in some]


def test_what_scored_best_pulls_its_neighbours_in() -> None:
    """Two heaps; the query is in one, and the one item of it that is liked is linked with the other heap."""
    graph = NeighborGraph(np.array([[(1, 0.1)], [(0, 0.1)], [(9, 0.5)], *[[(9, 0.1)]] * 6, [(3, 0.1)]], NEIGHBOR))
    around = np.deg2rad([0, 1, 2, 90, 91, 92, 93, 94, 95, 96.0])
    rows = np.stack([np.cos(around), np.sin(around)], axis=1)
    liked = np.array([0, 0, 1, 5, 6, 7, 8, 9, 10, 11.0])
    search = CrossEncoderSearch(
        rows, lambda query, items: liked[items], method="graph", budget=4, rounds=2, graph=graph
    )
    with patch.object(module, "FEWEST", 2):
        (trace,) = search.trace(["any"], rows[:1])
    # first the two nearest, then a neighbour of the better one of them (none new), and the order goes on
    assert [one.row for one in sorted(trace.found, key=lambda one: (one.round, one.row))] == [0, 1, 2, 3]
    search.budget, search.rounds = 6, 3
    with patch.object(module, "FEWEST", 2):
        (trace,) = search.trace(["any"], rows[:1])
    assert {one.row: one.round for one in trace.found} == {0: 1, 1: 1, 2: 2, 3: 2, 9: 3, 4: 3}


def test_a_reranker_goes_along_the_graph(linked: Engine) -> None:
    wish = Wish("river")
    hits = linked.search("red fox", 5, rerank=wish, budget=40, method="graph")
    assert len(wish.asked) == 40
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    only = linked.search("red fox", 40, rerank=Wish("river"), budget=40, method="graph", filter="kind = 'a'")
    assert len(only) == 40 and {hit.metadata["kind"] for hit in only} == {"a"}
    everything = linked.search("red fox", 150, rerank=Wish("river"), budget=150, method="graph")
    assert len({hit.doc_id for hit in everything}) == 150


def test_method_graph_needs_a_graph_of_the_items(tmp_path: Path) -> None:
    rows = points(20)
    for graph, what in ((None, "none"), (NeighborGraph.build(points(19)), "one of 19 items")):
        with pytest.raises(InputError, match=f"method='graph' with {what}; expected the neighbour graph of 20 items"):
            CrossEncoderSearch(rows, lambda query, items: items, method="graph", graph=graph)
    with pytest.raises(InputError, match="method='graph' ranks by the bi-encoder; expected query_vector"):
        CrossEncoderSearch(rows, lambda query, items: items, method="graph", graph=NeighborGraph.build(rows)).search(
            "any"
        )
    with (
        Engine.build(texts(20), tmp_path / "i", model="hash:32") as engine,
        pytest.raises(InputError, match="has no neighbour graph"),
    ):
        engine.search("red", rerank=Wish("red"), method="graph")


# ---- diffusion


@settings(max_examples=20, deadline=None)
@given(
    n=st.integers(2, 60), neighbors=st.integers(1, 6), alpha=st.sampled_from([0.0, 0.5, 0.9, 0.99]),
    join=st.sampled_from(["union", "mutual"]), seed=st.integers(0, 2**16),
)  # fmt: skip
def test_diffusion_solves_its_equation(n: int, neighbors: int, alpha: float, join: str, seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        Diffusion = importlib.import_module("diffusion").Diffusion
    rows = points(n, seed=seed)
    graph = NeighborGraph.build(rows, neighbors, join=join)
    linked = graph.matrix.toarray() > 0
    affinity = np.where(linked, (rows.astype(np.float64) @ rows.T).clip(0.0) ** 3, 0.0)
    degree = affinity.sum(axis=1)
    root = 1 / np.sqrt(np.where(degree > 0, degree, 1.0))
    begin = np.zeros(n)
    begin[:2] = [0.9**3, 0.0]
    expected = np.linalg.solve(np.eye(n) - alpha * root[:, None] * affinity * root, begin)
    found = Diffusion(graph, alpha=alpha).scores([0, 1], [0.9, -0.4])
    np.testing.assert_allclose(found, expected, atol=1e-4 * max(1.0, expected.max()))


# ---- what a review's mutants came through


QUERIES = [text for _, text in texts(40, seed=9)]


@pytest.mark.parametrize("index", ["SQ8", "IVF8,SQ8"])
def test_alpha_1_is_the_plain_search_by_codes_too(tmp_path: Path, index: str) -> None:
    with Engine.build(texts(400), tmp_path / "i", model="hash:64", whitening=None, index=index) as engine:
        engine.build_graph(6)
        for query in QUERIES:
            for k in (10, 16, 17, 40):
                plain, found = engine.search(query, k), engine.search(query, k, geodesic=1.0)
                assert [(hit.doc_id, hit.score) for hit in plain] == [(hit.doc_id, hit.score) for hit in found]


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_few_hits_are_the_first_of_many(tmp_path: Path, alpha: float) -> None:
    """Equal texts tie, and go by id, however many are asked for; codes lose none."""
    equal = [(f"d{at:02}", "red fox") for at in np.random.default_rng(0).permutation(60)]
    with Engine.build(equal + texts(200), tmp_path / "i", model="hash:64", whitening=None, index="SQ8") as engine:
        engine.build_graph(4)
        for query in ["red fox", *QUERIES[:10]]:
            everything = [(hit.doc_id, hit.score) for hit in engine.search(query, 260, geodesic=alpha)]
            for k in (3, 10, 17, 70):
                few = [(hit.doc_id, hit.score) for hit in engine.search(query, k, geodesic=alpha)]
                assert few == everything[:k]
            ranked = [hit.doc_id for hit in engine.rank_by_topic([query], k=None)]
            assert [hit.doc_id for hit in engine.rank_by_topic([query], k=5)] == ranked[:5]


def test_the_way_of_a_hit_without_a_path_is_its_angle(tmp_path: Path) -> None:
    with Engine.build(texts(400), tmp_path / "i", model="hash:64", whitening=None, index="SQ8") as engine:
        engine.build_graph(1)
        for query in QUERIES[:10]:
            hits = engine.search(query, 400, geodesic=0.5)
            first = [hit.doc_id for hit in engine.search(query, 16)]
            assert [hit.doc_id for hit in hits[:16]] == first
            for hit in hits:
                if not hit.path:
                    assert hit.scores["way"] == pytest.approx(np.arccos(min(1.0, hit.scores["dense"])), abs=1e-5)


def test_exact_looks_at_every_document_along_the_graph_too(tmp_path: Path) -> None:
    with Engine.build(texts(600), tmp_path / "i", model="hash:64", whitening=None, index="IVF16,Flat") as engine:
        engine.build_graph(4)
        for query in QUERIES:
            plain = [hit.doc_id for hit in engine.search(query, 30, exact=True)]
            assert [hit.doc_id for hit in engine.search(query, 30, exact=True, geodesic=1.0)] == plain


def blended(graph: NeighborGraph, cosines: np.ndarray, order: np.ndarray, few: int, k: int, alpha: float) -> Blended:
    return best_blended(
        graph, (order[:few], cosines[order[:few]]), lambda depth: (order[:depth], cosines[order[:depth]]),
        lambda positions: cosines[positions], k, alpha,
    )  # fmt: skip


@pytest.mark.parametrize(("join", "neighbors", "few"), [("mutual", 2, 2), ("union", 4, 16)])
def test_stopping_early_loses_nothing(join: str, neighbors: int, few: int) -> None:
    for seed in range(120):
        rows, query = points(250, 3, seed), points(1, 3, seed + 1)[0]
        graph, cosines = NeighborGraph.build(rows, neighbors, join=join), (rows @ query).astype(np.float64)
        order = np.argsort(-cosines, kind="stable")
        for alpha in (0.0, 0.3, 0.9):
            scores = np.sort(all_scores(graph, cosines, order[:few], alpha))[::-1]
            for k in (3, 17, 60):
                found = blended(graph, cosines, order, few, k, alpha)
                np.testing.assert_allclose(np.sort(found.scores[:k])[::-1], scores[:k], atol=1e-6)


def test_only_cosines_that_matter_are_asked_for() -> None:
    rows, query = points(2000, 8), points(1, 8, 1)[0]
    graph, cosines = NeighborGraph.build(rows, 8), (rows @ query).astype(np.float64)
    order, asked = np.argsort(-cosines, kind="stable"), []

    def cosines_of(positions: np.ndarray) -> np.ndarray:
        asked.extend(positions.tolist())
        return cosines[positions]

    found = best_blended(
        graph, (order[:16], cosines[order[:16]]), lambda depth: (order[:depth], cosines[order[:depth]]),
        cosines_of, 100, 0.5,
    )  # fmt: skip
    assert len(asked) == len(set(asked)) and not set(asked) & set(order[:100].tolist())
    assert len(asked) < len(found.reached.positions) / 2


def test_many_threads_reach_what_one_does() -> None:
    graph = NeighborGraph.build(points(3000, 6), 4)
    starts = [[at] for at in range(40)] * 6
    expected = [graph.reach(start).distances.sum() for start in starts]
    with ThreadPoolExecutor(4) as pool:
        assert [reached.distances.sum() for reached in pool.map(graph.reach, starts)] == expected


def test_lists_are_put_where_they_belong_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "PIECE", 8)
    monkeypatch.setattr(neighbors, "BLOCK", 16)
    monkeypatch.setattr(linking, "COMMIT_EVERY", 0.0)
    with Engine.build(texts(101), tmp_path / "i", model="hash:32") as engine:
        engine.build_graph(3)
        check_lists(engine)


def test_what_is_replaced_is_no_neighbour_of_its_successor(tmp_path: Path) -> None:
    with Engine.build(
        [*texts(30), ("x", "zig zag zog zug")], tmp_path / "i", model="hash:64", whitening=None
    ) as engine:
        engine.build_graph(1)
        engine.upsert([("x", "zig zag zog zug zeg")])
        assert len(lists_of(engine)["x"]) == 1


def test_another_writer_between_two_commits_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "BLOCK", 16)
    monkeypatch.setattr(linking, "COMMIT_EVERY", 0.0)
    monkeypatch.setattr("retrieval.waiting.time.sleep", lambda seconds: None)
    with Engine.build(texts(60), tmp_path / "i", model="hash:32") as engine:
        tries, real = [], linking.BundleWriter

        def sometimes_locked(*given: Any) -> Any:
            tries.append(1)
            if len(tries) in (2, 3):
                raise IndexLockedError("another process is writing")
            return real(*given)

        monkeypatch.setattr(linking, "BundleWriter", sometimes_locked)
        assert engine.build_graph(3).linked == 60 and len(tries) == 7
        check_lists(engine)


def test_without_search_structures_nothing_is_linked(tmp_path: Path) -> None:
    with Engine.build(texts(20), tmp_path / "i", model="hash:32") as engine:
        engine.build_graph(3)
    with (
        Engine.open(tmp_path / "i", searchable=False) as engine,
        pytest.raises(InputError, match="open it with its search structures"),
    ):
        engine.add(texts(3, seed=1))
    assert not (tmp_path / "i" / "staging").exists()
