"""The grid of whitenings: each cell is what fitting, transforming and measuring one by one would give."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from numpy.typing import NDArray

from indexes.errors import InputError
from retrieval.grid import Cell, FindObjective, Rotation, default_dims, judge
from retrieval.moments import Moments, unit_rows
from retrieval.whitening import Whitening

D = 12
Array = NDArray[np.float64]


def sample(n: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    return (rng.standard_normal((n, D)) * np.linspace(2, 0.2, D) + 0.5) @ np.linalg.qr(rng.standard_normal((D, D)))[0]


DOCUMENTS, QUERIES = sample(300, 0), sample(25, 1)
RNG = np.random.default_rng(2)
RELEVANT = [
    {int(d): float(g) for d, g in zip(RNG.choice(300, 4, replace=False), (3, 1, 1, 2), strict=True)} for _ in QUERIES
]


def ndcg(scores: Array) -> float:
    """By ir_measures; equal scores do not come up."""
    qrels = {str(q): {str(d): int(g) for d, g in grades.items()} for q, grades in enumerate(RELEVANT)}
    run = {str(q): {str(d): float(s) for d, s in enumerate(row)} for q, row in enumerate(scores)}
    return float(ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10])


def test_a_cell_is_that_whitening_measured_by_ir_measures() -> None:
    moments = Moments.of(DOCUMENTS, local=True)
    objective = FindObjective(QUERIES, DOCUMENTS, RELEVANT)
    cells = list(judge(moments, objective, [3, 12, 7], [0.0, 0.7], [0.0, 0.5], [0.0, 0.1], [0.0, 0.5]))
    assert len(cells) == 3 * 2 * 2 * 2 * 2
    assert len({(c.dim, c.beta, c.gamma, c.epsilon, c.local) for c in cells}) == len(cells)
    for cell in cells:
        whitening = cell.whitening().fit(DOCUMENTS)
        scores = whitening.transform(QUERIES) @ whitening.transform(DOCUMENTS).T
        assert cell.score == pytest.approx(ndcg(scores.astype(np.float64)), abs=1e-6), cell


def test_raw_vectors_are_the_cell_that_changes_nothing() -> None:
    objective = FindObjective(QUERIES, DOCUMENTS, RELEVANT)
    (cell,) = judge(Moments.of(DOCUMENTS), objective, [D], [0.0], [0.0])
    assert cell.score == pytest.approx(ndcg((unit_rows(QUERIES) @ unit_rows(DOCUMENTS).T).astype(np.float64)), abs=1e-9)


def test_ndcg_by_hand() -> None:
    """Found in the order b, a, c with grades 0, 2, 1: (2 / log2 3 + 1 / log2 4) / (2 + 1 / log2 3)."""
    objective = FindObjective(
        np.array([[1.0, 0.1]]), np.array([[1.0, 0.5], [1.0, 0.2], [0.1, 1.0]]), [{0: 2.0, 2: 1.0}]
    )
    score = objective.scores(Rotation(np.zeros(2), np.eye(2)), np.ones((1, 2)), [2])
    assert score[0, 0] == pytest.approx((2 / np.log2(3) + 1 / 2) / (2 + 1 / np.log2(3)))


def test_documents_that_lose_all_their_columns_are_found_last() -> None:
    objective = FindObjective(np.array([[1.0, 1.0]]), np.array([[0.0, 1.0], [1.0, 0.0]]), [{1: 1.0}])
    assert objective.scores(Rotation(np.zeros(2), np.eye(2)), np.ones((1, 2)), [1])[0, 0] == 1.0


def test_cells_that_fit_would_refuse_are_left_out() -> None:
    flat = DOCUMENTS[:6]  # spans 6 directions at most
    objective = FindObjective(QUERIES, DOCUMENTS, RELEVANT)
    cells = list(judge(Moments.of(flat), objective, [4, 9], [0.0], [0.0, 0.5], [0.0, 0.1]))
    assert {(c.dim, c.gamma, c.epsilon) for c in cells} == {
        (4, 0.0, 0.0), (4, 0.0, 0.1), (4, 0.5, 0.0), (4, 0.5, 0.1), (9, 0.0, 0.0), (9, 0.0, 0.1), (9, 0.5, 0.1),
    }  # fmt: skip
    with pytest.raises(InputError, match="span 6 directions"):
        Whitening(9, beta=0.0, gamma=0.5).fit(flat)


@pytest.mark.parametrize(
    ("dims", "betas", "said"),
    [
        ([], [0.0], r"dims=\[\]"),
        ([13], [0.0], "each from 1 to 12"),
        ([0], [0.0], "each from 1"),
        ([3], [1.5], "beta=1.5"),
    ],
)
def test_a_grid_out_of_range(dims: list[int], betas: list[float], said: str) -> None:
    objective = FindObjective(QUERIES, DOCUMENTS, RELEVANT)
    with pytest.raises(InputError, match=said):
        list(judge(Moments.of(DOCUMENTS), objective, dims, betas, [0.0]))


def test_judgements_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="25 queries and 24 judgements"):
        FindObjective(QUERIES, DOCUMENTS, RELEVANT[1:])
    with pytest.raises(InputError, match="query 2 has no relevant document"):
        FindObjective(QUERIES[:2], DOCUMENTS, [{0: 1.0}, {}])


@pytest.mark.parametrize(("d", "dims"), [(768, (768, 512, 384, 256, 192, 128, 96, 64)), (3, (3, 2, 1)), (1, (1,))])
def test_default_dims(d: int, dims: tuple[int, ...]) -> None:
    assert default_dims(d) == dims


def test_a_cell_becomes_a_whitening() -> None:
    cell = Cell(dim=3, beta=0.5, gamma=0.25, epsilon=0.1, local=0.75, score=1.0)
    assert repr(cell.whitening()) == "Whitening(dim=3, beta=0.5, gamma=0.25, epsilon=0.1, local=0.75)"
