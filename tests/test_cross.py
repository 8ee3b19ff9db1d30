"""Cross-encoder search: what a scorer would rank first, under a budget of its calls."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.stats import spearmanr
from sklearn.linear_model import Ridge

from indexes.errors import InputError
from retrieval.cross import Basis, CrossEncoderSearch, Trace, greedy_rows
from retrieval.cross import search as module
from retrieval.cross.fit import fit_scores

Array = NDArray[np.float64]
N, D, ANCHORS = 600, 16, 24
RNG = np.random.default_rng(0)


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


class World:
    """Items and queries in 40 hidden dimensions; the bi-encoder sees 16 of them, but not the first, and noise."""

    def __init__(self, seed: int = 0, noise: float = 0.02) -> None:
        rng = np.random.default_rng(seed)
        hidden = rng.normal(size=(N, 40)) * np.linspace(1.5, 0.3, 40)
        asked = hidden[rng.choice(N, 60, replace=False)] + 0.4 * rng.normal(size=(60, 40))
        anchors = hidden[rng.choice(N, ANCHORS, replace=False)] + 0.4 * rng.normal(size=(ANCHORS, 40))
        self.vectors = unit(hidden[:, 2 : D + 2] + 0.2 * rng.normal(size=(N, D)))
        self.query_vectors, self.anchor_vectors = unit(asked[:, 2 : D + 2]), unit(anchors[:, 2 : D + 2])
        self.scores = asked @ hidden.T / 6 + noise * rng.normal(size=(60, N))
        self.anchors = (anchors @ hidden.T / 6 + noise * rng.normal(size=(ANCHORS, N))).T

    def scorer(self, query: int, rows: Sequence[int]) -> Array:
        return self.scores[query][list(rows)]

    def recall(self, traces: Sequence[Trace], k: int) -> float:
        """Top-k recall x 100."""
        shares = []
        for query, trace in enumerate(traces):
            best = set(np.argsort(-self.scores[query])[:k].tolist())
            shares.append(len(best & {one.row for one in trace.found}) / k)
        return 100 * float(np.mean(shares))


WORLD = World()


def traced(world: World = WORLD, **how: Any) -> list[Trace]:
    """All queries, with the vectors and the anchors unless told otherwise."""
    given = {"vectors": world.vectors, "anchors": world.anchors, "anchor_vectors": world.anchor_vectors} | how
    with_query = given.pop("query_vectors", world.query_vectors)
    vectors, scorer = given.pop("vectors"), given.pop("scorer", world.scorer)
    return CrossEncoderSearch(vectors, scorer, **given).trace(range(60), with_query)


# The fit


@given(st.integers(2, 30), st.integers(1, 12), st.sampled_from([1e-2, 1e-1, 1.0]), st.integers(0, 99))
def test_a_fit_is_ridge_regression_on_all_columns_together(m: int, d: int, ridge: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, prior, scores = rng.normal(size=(m, d)), rng.normal(size=(m, 2)), rng.normal(size=m)
    fit = fit_scores(rows, prior, scores, ridge)
    oracle = Ridge(alpha=ridge, solver="svd").fit(np.hstack([rows, prior]), scores)
    found = np.concatenate([fit.weights, fit.prior, [fit.bias]])
    np.testing.assert_allclose(found, [*oracle.coef_, oracle.intercept_], atol=1e-6)


def test_what_is_left_out_is_predicted_by_a_fit_without_it() -> None:
    rng = np.random.default_rng(1)
    rows, prior, scores = rng.normal(size=(15, 30)), rng.normal(size=(15, 1)), rng.normal(size=15)
    fit = fit_scores(rows, prior, scores, 0.3)
    for i in range(15):
        rest = np.arange(15) != i
        without = fit_scores(rows[rest], prior[rest], scores[rest], 0.3)
        assert fit.left_out[i] == pytest.approx(rows[i] @ without.weights + prior[i] @ without.prior + without.bias)


def test_the_ridge_is_tiny_for_scores_that_are_linear_and_not_for_noise() -> None:
    rng = np.random.default_rng(2)
    rows, nothing = rng.normal(size=(40, 10)), np.empty((40, 0))
    assert fit_scores(rows, nothing, rows @ rng.normal(size=10) + 3).ridge == 1e-8
    assert fit_scores(rows, nothing, rng.normal(size=40)).ridge == 1e-1


@pytest.mark.parametrize("m", [3, 10, 40])
def test_a_ridge_of_nothing_can_be_solved(m: int) -> None:
    rows = np.random.default_rng(3).normal(size=(m, 10))
    fit = fit_scores(rows, np.empty((m, 0)), rows[:, 0], ridge=0.0)
    np.testing.assert_allclose(rows @ fit.weights + fit.bias, rows[:, 0], atol=1e-4)


# The rounds


@pytest.mark.parametrize("which", ["vectors", "anchors", "both"])
def test_scores_of_low_rank_are_found_exactly(which: str) -> None:
    rng = np.random.default_rng(4)
    left, right = rng.normal(size=(10 + ANCHORS, 8)), rng.normal(size=(N, 8))
    scores = left @ right.T  # of rank 8
    parts = {"vectors": right if which != "anchors" else None, "anchors": scores[10:].T if which != "vectors" else None}
    vectors, anchors = parts["vectors"], parts["anchors"]
    search = CrossEncoderSearch(vectors, lambda q, rows: scores[q][list(rows)], anchors=anchors, budget=40)
    traces = search.trace(range(10), rng.normal(size=(10, 8)) if vectors is not None else None)
    for query, trace in enumerate(traces):
        best = np.argsort(-scores[query])[:5].tolist()
        assert [one.row for one in trace.found[:5]] == best
        last = [one for one in trace.found if one.round == trace.rounds]
        assert last
        for one in last:
            assert one.predicted == pytest.approx(one.score, abs=1e-6)


def test_plain_is_the_bi_encoders_first_hits_scored() -> None:
    traces = traced(anchors=None, anchor_vectors=None, method="plain", budget=30)
    for query, trace in enumerate(traces):
        first = np.argsort(-(WORLD.vectors @ WORLD.query_vectors[query]), kind="stable")[:30]
        ordered = first[np.argsort(-WORLD.scores[query][first], kind="stable")]
        assert [one.row for one in trace.found] == ordered.tolist()
        assert [one.score for one in trace.found] == WORLD.scores[query][ordered].tolist()


@pytest.mark.parametrize("method", ["plain", "anchors", "adaptive"])
@pytest.mark.parametrize("budget", [1, 2, 7, 50, N, 2 * N])
def test_no_pair_is_scored_twice_and_the_budget_holds(method: Any, budget: int) -> None:
    asked: Counter[tuple[int, int]] = Counter()

    def scorer(query: int, rows: Sequence[int]) -> Array:
        asked.update((query, row) for row in rows)
        return WORLD.scorer(query, rows)

    traces = traced(scorer=scorer, method=method, budget=budget)
    assert set(asked.values()) == {1}
    for query, trace in enumerate(traces):
        assert trace.calls == min(budget, N) == sum(one == query for one, _ in asked)
        assert {each.row for each in trace.found} == {row for one, row in asked if one == query}


@pytest.mark.parametrize("method", ["plain", "anchors", "adaptive"])
def test_vectors_that_are_all_alike_say_nothing_and_do_no_harm(method: Any) -> None:
    search = CrossEncoderSearch(np.ones((50, 3)), lambda query, rows: [-row for row in rows], method=method, budget=50)
    assert search.search("q", query_vector=np.ones(3), k=3) == [(0, 0), (1, -1), (2, -2)]
    assert len(search.search("q", query_vector=np.zeros(3), k=60)) == 50


def test_with_calls_for_every_item_the_order_is_the_scorers() -> None:
    (trace, *_) = traced(budget=N)
    assert [one.row for one in trace.found] == np.argsort(-WORLD.scores[0], kind="stable").tolist()


def test_rounds_find_more_than_plain_reranking_and_both_bases_most() -> None:
    only = {"anchors": None, "anchor_vectors": None}
    found = {
        "plain": WORLD.recall(traced(**only, method="plain", budget=60), 10),
        "vectors": WORLD.recall(traced(**only, budget=60), 10),
        "anchors": WORLD.recall(traced(vectors=None, query_vectors=None, anchor_vectors=None, budget=60), 10),
        "both": WORLD.recall(traced(budget=60), 10),
    }
    assert found["vectors"] > found["plain"] - 2 and found["anchors"] > found["plain"] + 2, found
    assert found["both"] > max(95, found["vectors"] + 5, found["anchors"] + 2), found


def test_what_the_anchors_say_of_a_query_helps_before_any_call() -> None:
    with_it = WORLD.recall(traced(budget=20), 10)
    assert with_it > WORLD.recall(traced(anchor_vectors=None, budget=20), 10)


def test_the_first_round_asks_about_what_bi_encoder_and_anchors_expect_together() -> None:
    basis = Basis(WORLD.vectors, WORLD.anchors, WORLD.anchor_vectors)
    for query, trace in enumerate(traced(budget=50)):
        expected = basis.rows(np.arange(N)) @ basis.directions(WORLD.query_vectors[query]).sum(axis=1)
        first = {one.row for one in trace.found if one.round == 1}
        assert first == set(np.argsort(-expected)[:10].tolist())


@pytest.mark.parametrize("noise", [0.02, 0.2])
def test_as_many_landmarks_as_anchors_are_no_worse_than_half_of_them(noise: float) -> None:
    """A pseudo-inverse interpolates noise here."""
    world = World(noise=noise)
    how: dict[str, Any] = {
        "vectors": None, "query_vectors": None, "anchor_vectors": None, "method": "anchors", "guard": False,
    }  # fmt: skip
    half, equal = (world.recall(traced(world, **how, budget=budget), 10) for budget in (ANCHORS, 2 * ANCHORS))
    assert equal >= half - 2


@pytest.mark.parametrize("shift, factor", [(7.0, 1.0), (-300.0, 1.0), (0.0, 12.0), (5.0, 0.01)])
def test_shifted_and_scaled_scores_change_nothing(shift: float, factor: float) -> None:
    other = traced(scorer=lambda query, rows: shift + factor * WORLD.scorer(query, rows), ridge=0.1)
    for one, two in zip(traced(ridge=0.1), other, strict=True):
        assert [each.row for each in one.found] == [each.row for each in two.found]


def test_queries_together_find_what_they_find_alone_and_share_calls() -> None:
    calls = []

    class Pairs:
        def __call__(self, query: int, rows: Sequence[int]) -> Array:
            raise AssertionError("pairs are taken together")

        def scores(self, queries: Sequence[int], rows: Sequence[int]) -> Array:
            calls.append(len(rows))
            return WORLD.scores[list(queries), list(rows)]

    together = traced(scorer=Pairs())
    assert calls == [60 * 20] * 5
    search = CrossEncoderSearch(WORLD.vectors, WORLD.scorer, anchors=WORLD.anchors, anchor_vectors=WORLD.anchor_vectors)
    for query in range(60):
        hits = search.search(query, query_vector=WORLD.query_vectors[query], k=7)
        assert hits == [(one.row, one.score) for one in together[query].found[:7]]


def test_texts_go_to_the_scorer() -> None:
    texts = [f"text {row}" for row in range(N)]

    def scorer(query: str, some: Sequence[str]) -> list[float]:
        return [WORLD.scores[int(query)][int(text.removeprefix("text "))] for text in some]

    expected = [(one.row, one.score) for one in traced()[3].found[:10]]
    array = np.array(texts)
    for given_texts in (texts, array, lambda rows: [texts[row] for row in rows], lambda rows: array[rows]):
        search = CrossEncoderSearch(
            WORLD.vectors, scorer, texts=given_texts, anchors=WORLD.anchors, anchor_vectors=WORLD.anchor_vectors
        )
        assert search.search("3", query_vector=WORLD.query_vectors[3]) == expected


@pytest.mark.parametrize("method", ["plain", "anchors", "adaptive"])
@pytest.mark.parametrize("share", [0.0, 0.02, 0.5])
def test_only_what_is_allowed_is_scored(method: Any, share: float) -> None:
    allowed = np.random.default_rng(5).random(N) < share
    asked: set[int] = set()

    def scorer(query: int, rows: Sequence[int]) -> Array:
        asked.update(rows)
        return WORLD.scorer(query, rows)

    search = CrossEncoderSearch(WORLD.vectors, scorer, anchors=WORLD.anchors, method=method)
    (trace,) = search.trace([0], WORLD.query_vectors[:1], allowed=allowed)
    assert trace.calls == min(100, allowed.sum()) and all(allowed[row] for row in asked)


@pytest.mark.parametrize("misled", [False, True])
def test_the_guard_goes_on_with_the_bi_encoder_where_the_fit_knows_less(misled: bool) -> None:
    """Scores follow the bi-encoder's order but for noise, in many columns: a fit finds chance in them, and anchors that
    say nothing do not count as the bi-encoder.
    """
    rng = np.random.default_rng(6)
    vectors, wishes = unit(rng.normal(size=(N, 300))), unit(rng.normal(size=(20, 300)))
    scores = np.exp(40 * wishes @ vectors.T) * (1 + 0.1 * rng.random((20, N)))
    found = {}
    for guard in (True, False):
        anchors = (rng.normal(size=(N, 10)), unit(rng.normal(size=(10, 300)))) if misled else (None, None)
        basis = Basis(vectors, *anchors)
        search = CrossEncoderSearch(basis, lambda q, rows: scores[q][list(rows)], guard=guard, budget=60)
        found[guard] = search.trace(range(20), wishes)
    assert not any(trace.fallbacks for trace in found[False])
    fallen = [query for query, trace in enumerate(found[True]) if trace.fallbacks == 4]
    assert fallen
    for query in fallen:  # every round but the first, which asks the anchors too, took the bi-encoder's order
        begun = {one.row for one in found[True][query].found if one.round == 1}
        rest = [row for row in np.argsort(-(vectors @ wishes[query])).tolist() if row not in begun]
        assert {one.row for one in found[True][query].found} == begun | set(rest[: 60 - len(begun)])


def test_calls_stop_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]

    def scorer(query: int, rows: Sequence[int]) -> Array:
        clock[0] += 0.002 * len(rows)
        return WORLD.scorer(query, rows)

    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    search = CrossEncoderSearch(WORLD.vectors, scorer, budget=500)
    (trace,) = search.trace([0], WORLD.query_vectors[:1], milliseconds=100)
    assert 48 <= trace.calls <= 50
    one, two = search.trace([0, 1], WORLD.query_vectors[:2], milliseconds=100)
    assert 48 <= one.calls == two.calls <= 50
    (trace,) = search.trace([0], WORLD.query_vectors[:1], milliseconds=0.001)
    assert trace.calls == module.PROBE


def test_a_slow_first_call_is_made_up_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that warms up took 400 ms for 8 calls, and the search stopped at 19 of 600."""
    clock, warm = [0.0], [0.4]

    def scorer(query: int, rows: Sequence[int]) -> Array:
        clock[0] += warm.pop() if warm else 0.001 * len(rows)
        return WORLD.scorer(query, rows)

    monkeypatch.setattr(module.time, "perf_counter", lambda: clock[0])
    for method in ("plain", "adaptive"):
        warm[:] = [0.4]
        search = CrossEncoderSearch(WORLD.vectors, scorer, budget=500, method=method)  # type: ignore[arg-type]
        (trace,) = search.trace([0], WORLD.query_vectors[:1], milliseconds=850)
        assert 400 < trace.calls < 460


def test_scores_that_are_all_equal_leave_the_order_to_the_bi_encoder() -> None:
    """A grader says 5 to what the bi-encoder has from rank 31 to 60, and -5 to all else."""
    rng = np.random.default_rng(8)
    vectors, query = unit(rng.normal(size=(2000, 32))), unit(rng.normal(size=32))
    scores = np.full(2000, -5.0)
    scores[np.argsort(-(vectors @ query))[30:60]] = 5
    for structure in ("all", "SQ8"):
        search = CrossEncoderSearch(Basis(vectors, structure=structure), lambda q, rows: scores[rows], budget=100)  # type: ignore[arg-type]
        (trace,) = search.trace(["q"], query[None])
        second = {one.row for one in trace.found if one.round == 2}
        assert trace.fallbacks and len(second & set(np.argsort(-(vectors @ query))[20:40].tolist())) >= 18


# What a scorer must not give


def test_probabilities_flat_at_their_end_are_refused_with_the_remedy() -> None:
    def sigmoid(query: int, rows: Sequence[int]) -> NDArray[np.float32]:
        return (1 / (1 + np.exp(-40 * WORLD.scorer(query, rows)))).astype(np.float32)

    with pytest.raises(InputError, match="raw logits.*Identity"):
        traced(scorer=sigmoid)


def test_equal_texts_may_have_the_same_probability() -> None:
    """Copies of one document share its score; that is no saturation."""
    search = CrossEncoderSearch(
        WORLD.vectors, lambda query, texts: [1.0 if text == "same" else 0.5 for text in texts],
        texts=["same"] * 5 + [str(i) for i in range(N - 5)], budget=N,
    )  # fmt: skip
    assert [row for row, _ in search.search("q", query_vector=WORLD.query_vectors[0], k=5)] == [0, 1, 2, 3, 4]


def test_graders_and_shares_are_no_saturated_probabilities() -> None:
    for scorer in (
        lambda q, rows: [float(row % 7 == 0) for row in rows],
        lambda q, rows: [row % 3 / 2 for row in rows],
    ):
        (trace, *_) = traced(scorer=scorer, budget=50)
        assert trace.calls == 50


@pytest.mark.parametrize(
    "scores, says",
    [
        (lambda rows: [float("nan")] * len(rows), "not finite"),
        (lambda rows: [1.0], "one for each"),
        (lambda rows: np.zeros((len(rows), 2)), "one for each"),
        (lambda rows: ["0.5"] * len(rows), "no numbers"),
        (lambda rows: (0.5 for _ in rows), "no numbers"),
        (lambda rows: [0.5 + 1j] * len(rows), "no numbers"),
        (lambda rows: [None] * len(rows), "no numbers"),
        (lambda rows: [[0.5], [1.0, 2.0]], "no numbers"),
        (lambda rows: [1e300] * len(rows), "a score of 1e[+]300; expected less than 1e[+]100"),
    ],
)
def test_what_is_no_score_is_refused(scores: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        traced(scorer=lambda query, rows: scores(rows))


@pytest.mark.parametrize(
    "how, says",
    [
        ({"method": "best"}, "plain, anchors, adaptive"),
        ({"budget": 0}, "budget=0"),
        ({"scorer": None}, "scorer=None; expected scorer"),
        ({"budget": 2.5}, "budget=2.5"),
        ({"rounds": True}, "rounds=True"),
        ({"ridge": -1.0}, "ridge=-1.0"),
        ({"texts": ["one"]}, "1 texts for 600 items"),
        ({"vectors": None, "anchors": None, "anchor_vectors": None}, "no columns"),
        ({"anchors": WORLD.anchors[:5]}, "600 vectors, but anchors of 5 items"),
        ({"anchor_vectors": WORLD.anchor_vectors[:3]}, "one for each of 24"),
        ({"vectors": np.full((N, 3), np.nan)}, "not finite"),
        ({"vectors": np.empty((0, 3))}, "neither of them 0"),
        ({"query_vectors": None, "method": "plain"}, "expected query_vector"),
        ({"vectors": None, "anchor_vectors": None, "method": "plain"}, "expected vectors in the basis"),
        ({"vectors": None, "query_vectors": np.ones((60, 3))}, r"expected \(16,\)"),
        ({"query_vectors": np.full((60, D), np.nan)}, "all of it finite"),
        ({"query_vectors": WORLD.query_vectors[:3]}, "3 query vectors for 60"),
        ({"query_vectors": np.ones((60, 3))}, r"expected \(16,\)"),
    ],
)
def test_values_that_cannot_be_used_are_told(how: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        traced(**how)


def test_a_basis_has_one_of_three_structures() -> None:
    with pytest.raises(InputError, match="all, SQ8, IVF"):
        Basis(WORLD.vectors, structure="HNSW")  # type: ignore[arg-type]


def test_a_time_is_no_budget_for_fixed_landmarks() -> None:
    search = CrossEncoderSearch(WORLD.vectors, WORLD.scorer, method="anchors")
    with pytest.raises(InputError, match="not milliseconds"):
        search.trace([0], WORLD.query_vectors[:1], milliseconds=10)


def test_k_must_be_a_number_of_hits() -> None:
    with pytest.raises(InputError, match="k=0"):
        CrossEncoderSearch(WORLD.vectors, WORLD.scorer).search(0, query_vector=WORLD.query_vectors[0], k=0)


# The basis


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_basis_ranks_as_its_columns_do(dtype: Any) -> None:
    basis = Basis(WORLD.vectors.astype(dtype), WORLD.anchors.astype(dtype))
    rows = basis.rows(np.arange(N))
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(np.square(rows[:, :D]).sum(axis=1).mean(), 1, rtol=1e-3)
    weights = RNG.normal(size=(5, basis.dim))
    for query, found in enumerate(basis.best(weights, [50] * 5)):
        predicted = rows @ weights[query]
        assert len(set(found.tolist())) == 50
        assert spearmanr(predicted[found], -np.arange(50)).statistic > 0.999
        assert predicted[found].min() >= np.sort(predicted)[-50] - 1e-4


@pytest.mark.parametrize("structure, at_least", [("SQ8", 27), ("IVF", 24)])
def test_other_structures_find_nearly_what_a_full_scan_finds(structure: Any, at_least: int) -> None:
    exact, by_index = (Basis(WORLD.vectors, WORLD.anchors, structure=one) for one in ("all", structure))
    weights = RNG.normal(size=(20, exact.dim))
    pairs = zip(exact.best(weights, [30] * 20), by_index.best(weights, [30] * 20), strict=True)
    shared = [len(set(one.tolist()) & set(two.tolist())) for one, two in pairs]
    assert np.mean(shared) >= at_least
    allowed = np.arange(N) < 40
    for one, two in zip(exact.best(weights, [9] * 20, allowed), by_index.best(weights, [9] * 20, allowed), strict=True):
        assert len(set(one.tolist()) & set(two.tolist())) >= 8 and two.max() < 40


def test_directions_have_unit_spread_and_are_the_bi_encoder_and_the_like_anchors() -> None:
    basis = Basis(WORLD.vectors, WORLD.anchors, WORLD.anchor_vectors)
    query = WORLD.query_vectors[0]
    products = basis.rows(np.arange(N)) @ basis.directions(query)
    np.testing.assert_allclose(products.std(axis=0), 1, rtol=1e-6)
    assert spearmanr(products[:, 0], WORLD.vectors @ query).statistic == pytest.approx(1)
    like = Ridge(alpha=0.1, fit_intercept=False).fit(WORLD.anchor_vectors.T, query).coef_
    assert spearmanr(products[:, 1], WORLD.anchors @ like).statistic == pytest.approx(1)


# Rows that stand for all others


def explained(rows: Array, chosen: Sequence[int]) -> float:
    """Squared length of all rows within the span of some."""
    span = np.linalg.qr(rows[list(chosen)].T)[0]
    return float(np.square(rows @ span).sum())


@given(st.integers(0, 200))
def test_each_step_takes_the_row_that_explains_most(seed: int) -> None:
    rows = np.random.default_rng(seed).normal(size=(12, 5))
    chosen = greedy_rows(rows, 4).tolist()
    for step in range(4):
        best = max(explained(rows, [*chosen[:step], j]) for j in range(12) if j not in chosen[:step])
        assert explained(rows, chosen[: step + 1]) == pytest.approx(best)


@given(st.integers(0, 100), st.integers(1, 30), st.integers(0, 40))
def test_any_number_of_different_rows_can_be_had(seed: int, n: int, count: int) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n, 2)) @ rng.normal(size=(2, 6)) * (rng.random((n, 1)) < 0.7)  # rank 2, some of them 0
    chosen = greedy_rows(rows, count).tolist()
    assert len(chosen) == len(set(chosen)) == min(n, count)
    assert greedy_rows(rows, count // 2).tolist() == chosen[: count // 2]


def test_greedy_landmarks_beat_random_ones() -> None:
    how: dict[str, Any] = {"vectors": None, "query_vectors": None, "anchor_vectors": None, "method": "anchors"}
    basis = Basis(None, WORLD.anchors)
    allowed = np.arange(N) % 2 == 0
    of_half = basis.landmarks(30, allowed)
    assert allowed[of_half].all()
    assert explained(basis.rows(np.arange(N)), of_half[:12].tolist()) > explained(
        basis.rows(np.arange(N)), np.flatnonzero(allowed)[:12].tolist()
    )
    chosen = WORLD.recall(traced(**(how | {"anchors": WORLD.anchors}), budget=40), 10)
    rows, chance = np.random.default_rng(7), []
    for _ in range(5):
        basis._landmarks = rows.permutation(N)
        traces = CrossEncoderSearch(basis, WORLD.scorer, method="anchors", budget=40).trace(range(60))
        chance.append(WORLD.recall(traces, 10))
    assert chosen > np.mean(chance)
