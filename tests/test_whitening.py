"""Whitening: its laws, scikit-learn's PCA as the oracle, the formula once more in five lines, and every refusal."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from indexes.errors import IndexCorruptError, InputError, VectorError
from retrieval.moments import ALL_OF, BLOCK, FEW, Moments, check_vectors, neighbour_scatter, unit_rows
from retrieval.moments import product as few_by_many
from retrieval.whitening import Whitening

Array = NDArray[Any]


def sample(n: int = 300, d: int = 12, seed: int = 0, mean: float = 1.0) -> Array:
    """Correlated columns whose variances fall by half from one to the next, around a mean that is not zero."""
    rng = np.random.default_rng(seed)
    turned, _ = np.linalg.qr(rng.standard_normal((d, d)))
    centre = mean * rng.standard_normal(d)
    return (rng.standard_normal((n, d)) * 0.5 ** np.arange(d / 2, step=0.5) @ turned + centre).astype(np.float32)


def unit(rows: Array) -> Array:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def same_up_to_sign(found: Array, expected: Array, atol: float = 1e-4) -> None:
    assert found.shape == expected.shape
    signs = np.sign((found * expected).sum(axis=0))
    assert (signs != 0).all()
    np.testing.assert_allclose(found, expected * signs, atol=atol)


def directly(x: Array, fitted: Array, dim: int, beta: float, gamma: float, epsilon: float) -> Array:
    x, fitted = x.astype(float), fitted.astype(float)
    shift = beta * fitted.mean(axis=0)
    values, vectors = np.linalg.eigh(sum(np.outer(row, row) for row in fitted - shift) / len(fitted))
    values, vectors = values[::-1][:dim] + epsilon * values.mean(), vectors[:, ::-1][:, :dim]
    return unit((x - shift) @ vectors @ np.diag(values ** (-gamma / 2)))


# ---- laws and oracles: the transform

shapes = st.tuples(st.integers(1, 40), st.integers(1, 24), st.integers(0, 2**32 - 1))


@settings(max_examples=60, deadline=None)
@given(shapes)
def test_beta_and_gamma_zero_leave_every_cosine(shape: tuple[int, int, int]) -> None:
    n, d, seed = shape
    vectors = np.random.default_rng(seed).standard_normal((n, d)).astype(np.float32)
    found = Whitening(beta=0, gamma=0).fit(vectors).transform(vectors).astype(float)
    before = unit(vectors.astype(float))
    np.testing.assert_allclose(found @ found.T, before @ before.T, atol=1e-6)


@pytest.mark.parametrize("dim", [None, 12, 7, 2, 1])
@pytest.mark.parametrize("gamma", [0.0, 1.0])
def test_beta_one_is_the_pca_of_scikit_learn(dim: int | None, gamma: float) -> None:
    vectors, asked = sample(), sample(seed=0)[:50] + sample(50, seed=1, mean=0)
    pca = PCA(n_components=dim, whiten=bool(gamma)).fit(vectors.astype(float))
    whitening = Whitening(dim=dim, beta=1, gamma=gamma).fit(vectors)
    same_up_to_sign(whitening.transform(asked), unit(pca.transform(asked.astype(float))))
    np.testing.assert_allclose(whitening.eigenvalues_[: dim or 12], pca.explained_variance_ * 299 / 300, rtol=1e-9)


@pytest.mark.parametrize(
    ("beta", "gamma", "dim", "epsilon"), [*product([0, 0.3, 1], [0, 0.4, 1], [1, 5, 12], [0, 0.01, 2.0])]
)
def test_the_formula_again(beta: float, gamma: float, dim: int, epsilon: float) -> None:
    vectors, asked = sample(n=80), sample(n=20, seed=0, mean=0)
    found = Whitening(dim, beta, gamma, epsilon).fit(vectors).transform(asked)
    assert found.dtype == np.float32
    same_up_to_sign(found, directly(asked, vectors, dim, beta, gamma, epsilon))


def test_full_whitening_has_mean_zero_and_covariance_one() -> None:
    vectors = sample(n=500)
    whitening = Whitening(beta=1, gamma=1).fit(vectors)
    white = vectors @ whitening.kernel + whitening.bias
    np.testing.assert_allclose(white.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(np.cov(white.T, bias=True), np.eye(12), atol=1e-3)


def test_by_hand() -> None:
    # mean (1, 0), covariance diag(4, 1): full whitening halves the first column
    vectors = [[3.0, 1.0], [3.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]]
    whitening = Whitening(beta=1, gamma=1).fit(vectors)
    np.testing.assert_allclose(whitening.eigenvalues_, [4, 1])
    np.testing.assert_allclose(whitening.kernel, [[0.5, 0], [0, 1]], atol=1e-7)
    np.testing.assert_allclose(whitening.bias, [-0.5, 0], atol=1e-7)
    np.testing.assert_allclose(whitening.transform([[7.0, 4.0]]), [[0.6, 0.8]], atol=1e-6)  # (7 - 1) / 2 = 3 and 4
    assert whitening.n_fitted_ == 4 and whitening.mean_.tolist() == [1, 0]


def test_kernel_and_bias_are_the_transform() -> None:
    whitening = Whitening(dim=5, beta=0.4, gamma=0.7).fit(sample())
    assert whitening.kernel.shape == (12, 5) and whitening.bias.shape == (5,)
    expected = unit(sample(seed=0)[:9] @ whitening.kernel + whitening.bias)
    np.testing.assert_allclose(whitening.transform(sample()[:9]), expected, atol=1e-6)


def test_batch_is_one_by_one() -> None:
    vectors = sample(50)
    whitening = Whitening(dim=6, gamma=0.5).fit(vectors)
    np.testing.assert_allclose(
        whitening.transform(vectors), np.vstack([whitening.transform(row[None]) for row in vectors]), atol=1e-6
    )
    assert whitening.transform(np.zeros((0, 12), np.float32)).shape == (0, 6)


def test_signs_are_the_same_in_every_fit() -> None:
    vectors = sample()
    first, second = Whitening().fit(vectors), Whitening().fit(vectors[::-1])
    np.testing.assert_allclose(first.components_, second.components_, atol=1e-6)
    peaks = first.components_[np.abs(first.components_).argmax(axis=0), np.arange(12)]
    assert (peaks > 0).all()
    again = Whitening().fit(vectors)
    assert again.to_bytes() == first.to_bytes()


def test_spectrum_falls_and_the_columns_are_orthonormal() -> None:
    whitening = Whitening(beta=0.5).fit(sample(n=6))  # 6 vectors in 12 dimensions: half of the spectrum is rounding
    assert (np.diff(whitening.eigenvalues_) <= 0).all() and (whitening.eigenvalues_ >= 0).all()
    np.testing.assert_allclose(whitening.components_.T @ whitening.components_, np.eye(12), atol=1e-12)


def test_float16_goes_in() -> None:
    half = sample().astype(np.float16)
    whitening, wide = Whitening(dim=5, gamma=1).fit(half), Whitening(dim=5, gamma=1).fit(half.astype(float))
    np.testing.assert_array_equal(whitening.components_, wide.components_)
    found = whitening.transform(half)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, whitening.transform(half.astype(np.float32)))


# ---- moments


@pytest.mark.parametrize("beta", [0, 0.25, 0.5, 0.9, 1])
def test_sigma_is_the_mean_of_the_shifted_squares(beta: float) -> None:
    vectors = sample(d=8).astype(float)
    shifted = vectors - beta * vectors.mean(axis=0)
    values, columns = Moments.of(vectors).spectrum(beta)
    np.testing.assert_allclose(columns @ np.diag(values) @ columns.T, shifted.T @ shifted / 300, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.data(), st.integers(0, 2**32 - 1))
def test_moments_of_parts_in_any_order_are_those_of_the_whole(data: st.DataObject, seed: int) -> None:
    n, d = data.draw(st.integers(2, 60)), data.draw(st.integers(1, 6))
    vectors = 10 + np.random.default_rng(seed).standard_normal((n, d))
    cuts = sorted(data.draw(st.sets(st.integers(1, n - 1), min_size=1, max_size=6)))
    parts = [Moments.of(part) for part in np.split(vectors, cuts)]
    while len(parts) > 1:  # any tree, any order
        first, second = data.draw(st.permutations(range(len(parts))))[:2]
        merged = parts[first].merge(parts[second])
        parts = [part for place, part in enumerate(parts) if place not in (first, second)] + [merged]
    (found,), whole = parts, Moments.of(vectors)
    assert found.count == whole.count == n
    np.testing.assert_allclose(found.mean, vectors.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(found.mean, whole.mean, atol=1e-9)
    np.testing.assert_allclose(found.scatter, whole.scatter, atol=1e-9)
    np.testing.assert_allclose(found.covariance, np.cov(vectors.T, bias=True).reshape(d, d), atol=1e-9)


def test_fit_of_batches_is_fit_of_the_whole() -> None:
    vectors = sample()
    whole = Whitening(dim=6, gamma=0.5).fit(vectors)
    stream = (part for part in (vectors[:1], vectors[:0], vectors[1:120], vectors[120:]))
    assert whole.fit(vectors) is whole
    for fitted in (
        Whitening(dim=6, gamma=0.5).fit(stream),
        Whitening(dim=6, gamma=0.5).fit([vectors[:200], vectors[200:]]),
        Whitening(dim=6, gamma=0.5).fit(Moments.of(vectors)),
        Whitening(dim=6, gamma=0.5).fit(vectors.tolist()),
    ):
        assert fitted.n_fitted_ == 300
        np.testing.assert_allclose(fitted.eigenvalues_, whole.eigenvalues_, rtol=1e-9)
        np.testing.assert_allclose(fitted.transform(vectors), whole.transform(vectors), atol=1e-6)


@pytest.mark.parametrize(("mean", "dtype"), [(1e3, np.float32), (1e7, np.float64)])
def test_a_large_mean_costs_no_accuracy(mean: float, dtype: type) -> None:
    # E[x^2] - E[x]^2 would be off by 0.1 in float32, and by 0.01 in float64 around 1e7
    vectors = (mean + np.random.default_rng(0).standard_normal((4000, 6))).astype(dtype)
    expected = np.cov(vectors.astype(float).T, bias=True)
    for moments in (Moments.of(vectors), Moments.of(np.array_split(vectors, 37))):
        np.testing.assert_allclose(moments.covariance, expected, atol=1e-9)
        np.testing.assert_allclose(moments.mean, vectors.astype(float).mean(axis=0), rtol=1e-12)


# ---- nearest-neighbour differences


def test_neighbour_scatter_is_that_of_scikit_learn() -> None:
    rows = sample(n=400, d=7)
    _, found = NearestNeighbors(n_neighbors=2).fit(rows).kneighbors(rows)
    differences = rows - rows[found[:, 1]]
    np.testing.assert_allclose(neighbour_scatter(rows), differences.T @ differences, rtol=1e-5, atol=1e-6)


def test_neighbours_are_looked_for_block_by_block() -> None:
    rows = sample(n=2 * BLOCK, d=4)
    parts = [neighbour_scatter(rows[:BLOCK]), neighbour_scatter(rows[BLOCK:])]
    np.testing.assert_allclose(neighbour_scatter(rows), parts[0] + parts[1], rtol=1e-9)
    whole = Moments.of(rows, local=True)
    merged = Moments.of(rows[:BLOCK], local=True).merge(Moments.of(rows[BLOCK:], local=True))
    assert whole.local is not None and merged.local is not None
    np.testing.assert_allclose(whole.local, merged.local, rtol=1e-5)


def test_after_the_first_rows_one_in_eight_is_asked_and_counted_for_all() -> None:
    rows = sample(n=ALL_OF + BLOCK, d=3)
    moments = Moments.of(rows, local=True)
    first = Moments.of(rows[:ALL_OF], local=True)
    rest = rows[ALL_OF:] - rows[ALL_OF:].mean(axis=0)
    assert moments.local is not None and first.local is not None
    np.testing.assert_allclose(moments.local, first.local + neighbour_scatter(rest, every=8), rtol=1e-5)
    _, found = NearestNeighbors(n_neighbors=2).fit(rest).kneighbors(rest[::8])
    differences = rest[::8] - rest[found[:, 1]]
    np.testing.assert_allclose(neighbour_scatter(rest, every=8), 8 * differences.T @ differences, rtol=1e-4)


def test_neighbours_do_not_depend_on_how_the_rows_come() -> None:
    rows = sample(n=BLOCK + 500, d=3)
    whole = Moments.of(rows, local=True).local
    for size in (1000, 2 * BLOCK):
        parts = Moments.of((rows[i : i + size] for i in range(0, len(rows), size)), local=True).local
        np.testing.assert_array_equal(whole, parts)


def test_one_row_and_equal_rows_have_no_differences() -> None:
    assert not neighbour_scatter(np.ones((1, 3))).any()
    assert not neighbour_scatter(np.ones((5, 3))).any()
    rows = np.repeat(sample(n=50, d=3), 2, axis=0)  # each has its double for a neighbour
    both = Moments.of(rows, local=True)
    np.testing.assert_allclose(both.spectrum(1.0, 0.25)[0], 0.75 * both.spectrum(1.0)[0], rtol=1e-9)


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_local_mixes_two_scatters_of_one_size(beta: float) -> None:
    moments = Moments.of(sample(n=300, d=6), local=True)
    assert moments.local is not None
    near = moments.local / np.trace(moments.local) * np.trace(moments.covariance)
    sigma = moments.covariance + (1 - beta) ** 2 * np.outer(moments.mean, moments.mean)
    for share in (0.0, 0.3, 1.0):
        eigenvalues, columns = moments.spectrum(beta, share)
        expected = (1 - share) * sigma + share * near
        np.testing.assert_allclose(columns * eigenvalues @ columns.T, expected, atol=1e-12)


def test_local_keeps_the_directions_that_tell_neighbours_apart() -> None:
    """Pairs that differ in column 0 only, far from each other in column 1: PCA keeps 1, local keeps 0."""
    rng = np.random.default_rng(0)
    centres = np.repeat(rng.standard_normal((200, 1)) * 100, 2, axis=0)
    rows = np.hstack([np.tile([[0.0], [1.0]], (200, 1)), centres])
    assert Whitening(dim=1).fit(rows).components_[:, 0].round(2).tolist() == [0.0, 1.0]
    assert Whitening(dim=1, local=1.0).fit(rows).components_[:, 0].round(2).tolist() == [1.0, 0.0]


def test_local_needs_its_sums() -> None:
    with pytest.raises(VectorError, match=r"local=0.5 needs neighbour differences; make .*local=True"):
        Whitening(local=0.5).fit(Moments.of(sample()))
    with pytest.raises(VectorError, match="one of two moments has no neighbour differences"):
        Moments.of(sample()).merge(Moments.of(sample(), local=True))


def test_a_blend_gives_each_set_the_same_weight() -> None:
    small, large = sample(n=50, d=4).astype(np.float64), 3 + 2 * sample(n=500, d=4).astype(np.float64)
    blend = Moments.blend([Moments.of(small, local=True), Moments.of(large, local=True)])
    np.testing.assert_allclose(blend.mean, (small.mean(0) + large.mean(0)) / 2)
    covariances = [np.cov(rows.T, bias=True) for rows in (small, large)]
    np.testing.assert_allclose(blend.covariance, (covariances[0] + covariances[1]) / 2)
    assert blend.local is not None
    near = (neighbour_scatter(small - small.mean(0)) / 50 + neighbour_scatter(large - large.mean(0)) / 500) / 2
    np.testing.assert_allclose(blend.local / blend.count, near, rtol=1e-5)
    alone = Moments.of(small)
    np.testing.assert_allclose(Moments.blend([alone]).scatter, alone.scatter)
    with pytest.raises(VectorError, match="no moments to blend"):
        Moments.blend([])


def test_a_large_mean_leaves_the_transform_three_digits() -> None:
    vectors = (1e3 + np.random.default_rng(0).standard_normal((400, 6))).astype(np.float32)
    found = Whitening(gamma=1).fit(vectors).transform(vectors)
    same_up_to_sign(found, directly(vectors, vectors, 6, 1, 1, 0), atol=5e-3)


def test_moments_refuse_other_dimensions() -> None:
    with pytest.raises(VectorError, match="dim 2 and 3"):
        Moments.of([[1.0, 2.0]]).merge(Moments.of([[1.0, 2.0, 3.0]]))
    with pytest.raises(VectorError, match="dim 3; expected dim 2"):
        Moments.of([np.ones((2, 2)), np.ones((2, 3))])


@pytest.mark.parametrize("nothing", [[], np.zeros((0, 3)), [np.zeros((0, 3)), np.zeros((0, 3))], iter([])], ids=str)
def test_nothing_cannot_be_fitted(nothing: Any) -> None:
    with pytest.raises(VectorError, match="no vectors to fit on"):
        Whitening().fit(nothing)


# ---- parameters


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"dim": 0}, "dim=0; expected a whole number"),
        ({"dim": -3}, "dim=-3"),
        ({"dim": True}, "dim=True"),
        ({"dim": 2.0}, "dim=2.0"),
        ({"dim": "3"}, "dim='3'"),
        ({"beta": -0.1}, "beta=-0.1; expected a number from 0 to 1"),
        ({"beta": 1.1}, "beta=1.1"),
        ({"beta": float("nan")}, "beta=nan"),
        ({"gamma": -0.1}, "gamma=-0.1; expected a number from 0 to 1"),
        ({"gamma": 1.01}, "gamma=1.01"),
        ({"gamma": float("nan")}, "gamma=nan"),
        ({"epsilon": -1e-9}, "epsilon=-1e-09; expected a number from 0 upwards"),
        ({"epsilon": float("nan")}, "epsilon=nan"),
        ({"epsilon": float("inf")}, "epsilon=inf"),
    ],
    ids=str,
)
def test_parameters_out_of_range(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        Whitening(**parameters)


def test_the_ends_of_each_range_are_allowed() -> None:
    for beta, gamma in product((0, 1), repeat=2):
        Whitening(dim=np.int64(1), beta=beta, gamma=gamma, epsilon=0).fit(sample())  # type: ignore[arg-type]


def test_dim_beyond_the_columns() -> None:
    Whitening(dim=12).fit(sample(d=12))
    with pytest.raises(InputError, match="dim=13 but the vectors have 12 columns; expected dim <= 12"):
        Whitening(dim=13).fit(sample(d=12))


def test_the_name_of_a_whitening() -> None:
    assert repr(Whitening(dim=128, gamma=0.25)) == "Whitening(dim=128, beta=1, gamma=0.25)"
    assert repr(Whitening(beta=0.5, epsilon=0.1)) == "Whitening(dim=None, beta=0.5, gamma=0, epsilon=0.1)"


@pytest.mark.parametrize(
    "use",
    [
        lambda fresh, path: fresh.transform(sample()),
        lambda fresh, path: fresh.kernel,
        lambda fresh, path: fresh.bias,
        lambda fresh, path: fresh.to_bytes(),
        lambda fresh, path: fresh.save(path),
    ],
    ids=["transform", "kernel", "bias", "to_bytes", "save"],
)
def test_not_fitted(use: Callable[[Whitening, Path], object], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"Whitening\(dim=3, .*\) was not fitted; call"):
        use(Whitening(dim=3), tmp_path / "whitening")
    assert not list(tmp_path.iterdir())


# ---- too little to fit on


def constant_column(n: int = 40) -> Array:
    vectors = np.random.default_rng(0).standard_normal((n, 6))
    vectors[:, 2] = 1.5
    return vectors


@pytest.mark.parametrize(
    ("vectors", "beta", "rank"),
    [
        (sample(n=5, d=8), 1.0, 4),  # n points lie in n - 1 directions around their mean ...
        (sample(n=5, d=8), 0.0, 5),  # ... and in n around zero
        (constant_column(), 1.0, 5),
        (np.hstack([constant_column()[:, :2]] * 2), 1.0, 2),
        (np.ones((9, 3)), 1.0, 0),
    ],
    ids=["few, centred", "few", "constant column", "doubled columns", "all the same"],
)
def test_a_scale_of_nothing_is_refused(vectors: Array, beta: float, rank: int) -> None:
    d = vectors.shape[1]
    message = f"dim={d} with gamma=0.5, but the {len(vectors)} fitted vectors span {rank} directions"
    with pytest.raises(InputError, match=message):
        Whitening(beta=beta, gamma=0.5).fit(vectors)
    if rank:
        with pytest.raises(InputError, match=f"expected dim <= {rank}, "):
            Whitening(dim=rank + 1, beta=beta, gamma=0.5).fit(vectors)
        Whitening(dim=rank, beta=beta, gamma=0.5).fit(vectors)
        fitted = Whitening(beta=beta, gamma=0.5, epsilon=0.1).fit(vectors)
        same_up_to_sign(
            fitted.transform(vectors)[:, :rank], directly(vectors, vectors, d, beta, 0.5, 0.1)[:, :rank], atol=1e-3
        )
    assert Whitening(beta=beta, gamma=0).fit(vectors).kernel.shape == (d, d)


@pytest.mark.parametrize("epsilon", [1.0, 1e-300])
def test_an_epsilon_that_does_not_help(epsilon: float) -> None:
    # epsilon counts in means of the spectrum: nothing times 0 is 0, and 1e-300 scales beyond float32
    vectors = np.ones((9, 3)) if epsilon == 1 else sample(n=2, d=3)
    with pytest.raises(InputError, match=f"epsilon={epsilon:g}.* cannot scale by a spectrum"):
        Whitening(gamma=1, epsilon=epsilon).fit(vectors)


# ---- vectors that cannot be used


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_numbers_that_are_none(bad: float) -> None:
    vectors = sample()
    fitted = Whitening().fit(vectors)
    vectors[7, 3] = bad
    for use in (Whitening().fit, Moments.of, fitted.transform, unit_rows):
        with pytest.raises(VectorError, match="vector 7 holds NaN or infinity"):
            use(vectors)


def test_other_dimensions() -> None:
    with pytest.raises(VectorError, match="vectors have dim 11; expected dim 12"):
        Whitening().fit(sample()).transform(sample(d=11))


@pytest.mark.parametrize("d", [2, 32, 300])
@pytest.mark.parametrize("gamma", [0, 1])
def test_the_mean_itself_has_no_direction(d: int, gamma: float) -> None:
    # what was left of it was rounding, which came back as a unit row of noise
    vectors = sample(n=2 * d, d=2)[:, [0, 1]] if d == 2 else np.random.default_rng(0).standard_normal((2 * d, d)) + 0.3
    vectors = vectors.astype(np.float32)
    whitening = Whitening(beta=1, gamma=gamma).fit(vectors)
    rows = np.vstack([vectors[0], whitening.mean_])
    with pytest.raises(VectorError, match="vector 1 is the mean of the fit, or nothing of it"):
        whitening.transform(rows)
    near = whitening.mean_ + 1e-3 * (vectors - whitening.mean_)  # a thousandth of the way is enough
    same_up_to_sign(whitening.transform(near), directly(near, vectors, d, 1, gamma, 0), atol=0.01)
    assert Whitening(beta=0).fit(vectors).transform(whitening.mean_[None]).shape == (1, d)


def test_a_vector_outside_the_kept_columns() -> None:
    whitening = Whitening(dim=1, beta=0).fit([[1.0, 0.0], [-2.0, 0.0]])
    with pytest.raises(VectorError, match="vector 1 is .* nothing of it lies in the kept columns"):
        whitening.transform([[5.0, 1.0], [0.0, 1.0]])


def test_what_rounding_leaves_of_a_vector_is_no_direction() -> None:
    """Orthogonal to what is kept, but not to the last bit."""
    rotation = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))[0]
    rows = np.random.default_rng(1).standard_normal((100, 3)) @ rotation[:3]
    whitening = Whitening(dim=3, beta=0.0).fit(rows)
    with pytest.raises(VectorError, match="vector 0 is .* nothing of it lies in the kept columns"):
        whitening.transform(rotation[4:5])
    assert whitening.transform(rotation[4:5] + 1e-3 * rotation[:1]).shape == (1, 3)


@pytest.mark.parametrize(
    ("vectors", "expected"),
    [
        ([[3.0, 4.0]], [[0.6, 0.8]]),
        ([[3, 4], [0, -2]], [[0.6, 0.8], [0, -1]]),
        (np.array([[3, 4]], np.int8), [[0.6, 0.8]]),
        (np.array([[True, False]]), [[1, 0]]),
        (np.array([[60000, 60000]], np.float16), [[0.5**0.5, 0.5**0.5]]),  # whose square float16 does not hold
        (np.array([[3e38, 3e38]], np.float32), [[0.5**0.5, 0.5**0.5]]),  # nor float32
        (np.array([[1e-45, 0]], np.float32), [[1, 0]]),
        (np.zeros((0, 3)), np.zeros((0, 3))),
    ],
    ids=str,
)
def test_unit_rows_by_hand(vectors: Any, expected: Any) -> None:
    found = unit_rows(vectors)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-7)


@settings(max_examples=60, deadline=None)
@given(shapes, st.sampled_from([np.float16, np.float32, np.float64]), st.sampled_from([1e-3, 1.0, 1e3]))
def test_unit_rows_have_length_one_and_keep_their_direction(
    shape: tuple[int, int, int], dtype: type, size: float
) -> None:
    n, d, seed = shape
    vectors = (size * (1 + np.random.default_rng(seed).random((n, d)))).astype(dtype)
    found = unit_rows(vectors)
    np.testing.assert_allclose(np.linalg.norm(found.astype(float), axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found, unit(vectors.astype(float)), atol=1e-6)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        ([[1, 0], [0, 0]], "vector 1 is zero and has no direction"),
        ([[1.0, 0.0], [1e200, 0.0]], "vector 1 is too long to be scaled"),  # came back as zeros
        (np.zeros((1, 3), np.float16), "vector 0 is zero"),
    ],
    ids=str,
)
def test_rows_without_a_direction(vectors: Any, message: str) -> None:
    with pytest.raises(VectorError, match=message):
        unit_rows(vectors)


@pytest.mark.parametrize(
    ("vectors", "dim", "expected"),
    [
        (np.ones((2, 3), np.float16), None, np.float16),
        (np.ones((2, 3), np.float32), 3, np.float32),
        (np.ones((2, 3), np.float64), 3, np.float64),
        (np.ones((2, 3), np.int64), None, np.float32),
        (np.ones((2, 3), np.uint8), None, np.float32),
        (np.ones((2, 3), bool), None, np.float32),
        ([[1, 2]], 2, np.float32),
        ([[1.5, 2]], 2, np.float64),
        (np.ones((0, 3)), 3, np.float64),
        (np.ones((2, 3)), 4, "vectors have dim 3; expected dim 4"),
        (np.ones((0, 3)), 4, "vectors have dim 3; expected dim 4"),
        (np.ones(3), None, "vectors have shape (3,); expected (n, d)"),
        (np.ones((1, 2, 3)), None, "vectors have shape (1, 2, 3)"),
        (np.ones((2, 0)), None, "vectors have shape (2, 0)"),
        (1.0, None, "vectors have shape ()"),
        ([], None, "vectors have shape (0,)"),
        ([[1, 2], [3]], None, "vectors are no array"),
        ([["a", "b"]], None, "vectors have dtype <U1; expected float16"),
        ([[1j]], None, "vectors have dtype complex128"),
        ([[None, 1]], None, "vectors have dtype object"),
        (np.ones((2, 3), np.longdouble), None, f"vectors have dtype {np.dtype(np.longdouble)}"),
        ([[1.0, 2.0], [np.nan, 2.0]], None, "vector 1 holds NaN or infinity"),
        ([[1.0, -np.inf], [1.0, 2.0]], None, "vector 0 holds NaN or infinity"),
        (np.array([[np.inf]], np.float16), None, "vector 0 holds NaN or infinity"),
    ],
    ids=str,
)
def test_check_vectors(vectors: Any, dim: int | None, expected: Any) -> None:
    if isinstance(expected, str):
        with pytest.raises(VectorError, match=re.escape(expected)):
            check_vectors(vectors, dim)
    else:
        found = check_vectors(vectors, dim)
        assert found.dtype == expected
        np.testing.assert_array_equal(found, vectors)


# ---- on disk


def test_what_is_loaded_is_what_was_saved(tmp_path: Path) -> None:
    vectors = sample()
    saved = Whitening(dim=5, beta=0.3, gamma=0.7, epsilon=1e-3).fit(vectors)
    saved.save(tmp_path / "whitening")
    saved.save(str(tmp_path / "whitening-2"))
    loaded = Whitening.load(str(tmp_path / "whitening"))
    assert repr(loaded) == repr(saved) and loaded.n_fitted_ == 300
    np.testing.assert_array_equal(loaded.transform(vectors), saved.transform(vectors))
    for name in ("mean_", "eigenvalues_", "components_", "kernel", "bias"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(saved, name))
    assert loaded.to_bytes() == (tmp_path / "whitening").read_bytes() == (tmp_path / "whitening-2").read_bytes()


def test_the_same_fit_gives_the_same_bytes() -> None:
    # safetensors writes several entries of metadata in a new random order each time
    fitted = Whitening(dim=5, beta=0.3, gamma=0.7).fit(sample())
    assert len({fitted.to_bytes() for _ in range(20)}) == 1
    assert Whitening(dim=5, beta=0.3, gamma=0.7).fit(sample()).to_bytes() == fitted.to_bytes()


def test_all_columns_are_saved_as_a_number(tmp_path: Path) -> None:
    Whitening().fit(sample()).save(tmp_path / "whitening")
    assert Whitening.load(tmp_path / "whitening").dim == 12


def test_the_file_is_plain_safetensors() -> None:
    data = Whitening(dim=5, beta=0.3).fit(sample()).to_bytes()
    tensors = load_tensors(data)
    assert {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()} == {
        "mean": ((12,), np.float64),
        "eigenvalues": ((12,), np.float64),
        "components": ((12, 5), np.float64),
    }
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    assert json.loads(header["__metadata__"]["whitening"]) == {
        "dim": 5,
        "beta": 0.3,
        "gamma": 0.0,
        "epsilon": 0.0,
        "local": 0.0,
        "n_fitted": 300,
    }


@pytest.mark.parametrize("name", ["gone", "folder"])
def test_no_such_file(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(FileNotFoundError, match=f"no such file; expected a whitening .*{name}"):
        Whitening.load(tmp_path / name)


SMALL = Whitening(dim=2, gamma=0.5).fit(sample(n=50, d=3)).to_bytes()
TENSORS: dict[str, Array] = load_tensors(SMALL)
HEADER = {"dim": 2, "beta": 1.0, "gamma": 0.5, "epsilon": 0.0, "local": 0.0, "n_fitted": 50}


def a_file(header: Any = HEADER, **changed: Array | None) -> bytes:
    tensors = {name: tensor for name, tensor in (TENSORS | changed).items() if tensor is not None}
    return save_tensors(tensors, metadata={"whitening": json.dumps(header)})


def refuse(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(IndexCorruptError, match="is not a whitening saved by Whitening.save: ") as error:
        Whitening.load(path)
    assert str(path) in str(error.value)
    return str(error.value)


def test_a_file_made_by_hand_is_read(tmp_path: Path) -> None:  # or the refusals below would say nothing
    assert a_file() == SMALL
    (tmp_path / "whitening").write_bytes(a_file())
    assert repr(Whitening.load(tmp_path / "whitening")) == "Whitening(dim=2, beta=1, gamma=0.5)"


def test_truncated_files(tmp_path: Path) -> None:
    for length in range(len(SMALL)):
        refuse(tmp_path / "whitening", SMALL[:length])


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"not a safetensors file at all, but some text",
        b"\xff" * 400,
        save_tensors({"weight": np.ones((2, 2))}),
        save_tensors({"weight": np.ones((2, 2))}, metadata={"format": "pt"}),
        save_tensors(TENSORS),
        save_tensors(TENSORS, metadata={"whitening": "zca"}),
        *(a_file(header) for header in (5, "x", None, True, [1], {}, [])),
        *(a_file(HEADER | change) for change in ({"dim": None}, {"dim": 0}, {"dim": 3}, {"dim": "2"}, {"dim": 2.0})),
        *(a_file(HEADER | change) for change in ({"beta": 2}, {"beta": "x"}, {"beta": None}, {"gamma": float("nan")})),
        *(a_file(HEADER | change) for change in ({"epsilon": -1}, {"n_fitted": None}, {"n_fitted": "x"}, {"zca": 1})),
        *(a_file({key: HEADER[key] for key in HEADER if key != gone}) for gone in ("n_fitted", "dim")),
        *(a_file(**{name: None}) for name in TENSORS),
        a_file(mean=np.zeros(4)),
        a_file(mean=np.zeros((3, 1))),
        a_file(mean=np.array(0.0)),
        a_file(eigenvalues=np.ones(2)),
        a_file(components=np.ones((3, 3))),
        a_file(components=np.ones((2, 3))),
        a_file(components=np.full((3, 2), np.nan)),
        a_file(mean=np.array([0, np.inf, 0])),
        a_file(eigenvalues=np.array([-1.0, -2.0, 1.0])),
        a_file(eigenvalues=np.zeros(3)),
        a_file(mean=np.zeros(3, np.float32)),
        a_file(components=np.ones((3, 2), np.int64)),
        a_file(eigenvalues=np.ones(3, np.complex64)),  # C64: one changed byte away from F64
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_other_files(data: bytes, tmp_path: Path) -> None:
    refuse(tmp_path / "whitening", data)


@settings(max_examples=200, deadline=None)
@given(st.integers(0, len(SMALL) - 1), st.integers(1, 255))
def test_a_changed_byte_is_refused_or_read_but_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, place: int, change: int
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed-whitening"
    path.write_bytes(SMALL[:place] + bytes([SMALL[place] ^ change]) + SMALL[place + 1 :])
    try:
        loaded = Whitening.load(path)
    except IndexCorruptError:
        return
    assert np.isfinite(loaded.kernel).all() and np.isfinite(loaded.bias).all()


# ---- few rows


@pytest.mark.parametrize("n", [0, 1, FEW, FEW + 1])
def test_a_product_is_that_of_numpy(n: int) -> None:
    rng = np.random.default_rng(n)
    rows, matrix = rng.normal(size=(n, 96)).astype(np.float32), rng.normal(size=(96, 40)).astype(np.float32)
    found = few_by_many(rows, matrix)
    assert found.dtype == np.float32 and found.shape == (n, 40)
    np.testing.assert_allclose(found, rows.astype(np.float64) @ matrix.astype(np.float64), atol=1e-4)


def test_a_row_of_few_is_the_same_whatever_is_beside_it() -> None:
    """So equal rows tie; BLAS, by whose threads few rows are not multiplied, takes other paths for other shapes."""
    rows = np.random.default_rng(0).normal(size=(FEW, 384)).astype(np.float32)
    whitening = Whitening(192).fit(np.random.default_rng(1).normal(size=(1000, 384)))
    together = whitening.transform(rows)
    for at in range(FEW):
        assert np.array_equal(whitening.transform(rows[at : at + 1])[0], together[at])
