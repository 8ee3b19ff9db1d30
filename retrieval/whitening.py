"""BERT-whitening with hyperparameters: smaller vectors that score no worse.

    x~ = (x - beta mu) U L^(-gamma/2),  Sigma(beta) = Cov + (1 - beta)^2 mu^T mu = U L U^T

keep the first ``dim`` columns, then make unit rows. ``beta = gamma = 0`` is a
rotation (every cosine unchanged), ``beta = 1, gamma = 0`` is PCA, ``beta = gamma = 1``
is full whitening.

Everything that is fitted comes from three sums (count, mean, scatter) that one
pass over the vectors gives and that add up over shards: `Moments`. Leaves out the
choice of dim, beta and gamma.

References
----------
Su, "Whitening sentence representations for better semantics and faster retrieval",
arXiv:2103.15316; the hyperparameters: https://kexue.fm/archives/9079.
Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing
sample variances", 1979 (the merge of scatters, eq. 2.1).
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from indexes.errors import IndexCorruptError, InputError, VectorError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]


def unit_rows(vectors: ArrayLike) -> Float32:
    """Rows scaled to length one.

    Parameters
    ----------
    vectors : array-like of shape (n, d), any float dtype

    Returns
    -------
    ndarray of shape (n, d), float32

    Raises
    ------
    VectorError
        If a row is zero, NaN or infinite: it has no direction to search by.

    Examples
    --------
    >>> unit_rows([[3.0, 4.0]])
    array([[0.6, 0.8]], dtype=float32)
    """
    rows = check_vectors(vectors)
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
    if not norms.all():
        raise VectorError(f"vector {int(np.argmin(norms))} is zero and has no direction; expected non-zero vectors")
    if np.isinf(norms).any():
        raise VectorError(f"vector {int(np.argmax(norms))} is too long to be scaled; expected values below 1e150")
    unit: Float32 = (rows / norms[:, None]).astype(np.float32)
    return unit


def check_vectors(vectors: ArrayLike, dim: int | None = None) -> NDArray[Any]:
    """The vectors as a finite two-dimensional float array, or the reason why not.

    Parameters
    ----------
    vectors : array-like of shape (n, d)
        float16, float32 and float64 keep their dtype; integers become float32.
    dim : int, optional
        The d that is expected.

    Raises
    ------
    VectorError
        If the shape is another one, or a value is NaN or infinite.

    Examples
    --------
    >>> check_vectors([[1, 2]]).dtype
    dtype('float32')
    """
    try:
        array = np.asarray(vectors)
    except ValueError as error:  # lists of different lengths
        raise VectorError(f"vectors are no array: {error}; expected (n, d), one row a vector") from error
    if array.ndim != 2 or (len(array) and not array.shape[1]):
        raise VectorError(f"vectors have shape {array.shape}; expected (n, d), one row a vector")
    if dim is not None and array.shape[1] != dim:
        raise VectorError(f"vectors have dim {array.shape[1]}; expected dim {dim}")
    if array.dtype.kind in "iub":
        array = array.astype(np.float32)
    if array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise VectorError(f"vectors have dtype {array.dtype}; expected float16, float32 or float64")
    finite = np.isfinite(array).all(axis=1)
    if not finite.all():
        raise VectorError(f"vector {int(np.argmin(finite))} holds NaN or infinity; expected finite numbers")
    return array


@dataclass
class Moments:
    """Count, mean and scatter of vectors, summed in float64.

    Parameters
    ----------
    count : int
    mean : ndarray of shape (d,), float64
    scatter : ndarray of shape (d, d), float64
        Sum of ``(x - mean)^T (x - mean)``; memory 8 d^2 bytes whatever the count.

    Examples
    --------
    >>> a, b = Moments.of([[1.0, 0.0]]), Moments.of([[3.0, 2.0]])
    >>> whole = a.merge(b)
    >>> whole.count, whole.mean.tolist(), whole.covariance.tolist()
    (2, [2.0, 1.0], [[1.0, 1.0], [1.0, 1.0]])
    """

    count: int
    mean: Float64
    scatter: Float64

    @classmethod
    def of(cls, vectors: ArrayLike | Iterable[ArrayLike]) -> Moments:
        """The moments of an array of shape (n, d), or of an iterable of such arrays, in one pass.

        Raises
        ------
        VectorError
            If there is no vector, or one cannot be used (see `check_vectors`).
        """
        batches = cast("Iterable[ArrayLike]", [vectors] if _is_matrix(vectors) else vectors)
        total: Moments | None = None
        for batch in batches:
            rows = check_vectors(batch, None if total is None else len(total.mean)).astype(np.float64)
            if not len(rows):
                continue
            mean = rows.mean(axis=0)
            rows -= mean
            part = cls(len(rows), mean, rows.T @ rows)
            total = part if total is None else total.merge(part)
        if total is None:
            raise VectorError("there are no vectors to fit on; expected at least one")
        return total

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of vectors together (Chan et al. 1979, eq. 2.1).

        Raises
        ------
        VectorError
            If the dimensions differ.
        """
        if len(self.mean) != len(other.mean):
            raise VectorError(f"moments have dim {len(self.mean)} and {len(other.mean)}; expected the same dim")
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        between = np.outer(delta, delta) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Float64:
        """Cov = scatter / count, of shape (d, d)."""
        return self.scatter / self.count

    def spectrum(self, beta: float) -> tuple[Float64, Float64]:
        """Eigenvalues, largest first, and eigenvectors (columns) of Sigma(beta) = Cov + (1 - beta)^2 mu^T mu.

        Returns
        -------
        eigenvalues : ndarray of shape (d,), float64, not negative
        eigenvectors : ndarray of shape (d, d), float64
            The entry of largest size in each column is positive, so that a fit gives the same signs again.
        """
        sigma = self.covariance + (1.0 - beta) ** 2 * np.outer(self.mean, self.mean)
        eigenvalues, vectors = np.linalg.eigh(sigma)
        eigenvalues, vectors = eigenvalues[::-1].clip(min=0.0), vectors[:, ::-1]
        peaks = vectors[np.abs(vectors).argmax(axis=0), np.arange(len(eigenvalues))]
        return eigenvalues, vectors * np.where(peaks < 0, -1.0, 1.0)


class Whitening:
    """Fit on vectors, then turn vectors into smaller unit rows.

    Parameters
    ----------
    dim : int, optional
        Kept columns k, 1 <= k <= d. None keeps all d.
    beta : float, default=1.0
        Share of the mean that is taken away, 0 to 1.
    gamma : float, default=0.0
        Strength of the scaling by the spectrum, 0 (none) to 1 (unit variance).
    epsilon : float, default=0.0
        Added to the eigenvalues before they are used as scales, in units of their mean
        (Soft-ZCA, arXiv:2411.17538): keeps small, noisy directions from being blown up.

    Attributes
    ----------
    mean_ : ndarray of shape (d,), float64
    eigenvalues_ : ndarray of shape (d,), float64
        The whole spectrum of Sigma(beta), largest first.
    components_ : ndarray of shape (d, k), float64
        First k eigenvectors, a column each.
    n_fitted_ : int
        Number of vectors in the fit.

    Raises
    ------
    InputError
        If a parameter is out of its range.

    Examples
    --------
    >>> rng = np.random.default_rng(0)
    >>> vectors = rng.standard_normal((1000, 8)).astype(np.float32)
    >>> Whitening(dim=3, beta=1.0, gamma=0.5).fit(vectors).transform(vectors).shape
    (1000, 3)
    """

    mean_: Float64
    eigenvalues_: Float64
    components_: Float64
    n_fitted_: int

    def __init__(self, dim: int | None = None, beta: float = 1.0, gamma: float = 0.0, epsilon: float = 0.0) -> None:
        if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1):
            raise InputError(f"dim={dim!r}; expected a whole number of columns to keep, 1 or more, or None for all")
        for name, value in (("beta", beta), ("gamma", gamma)):
            if not 0.0 <= value <= 1.0:
                raise InputError(f"{name}={value!r}; expected a number from 0 to 1")
        if not 0.0 <= epsilon < float("inf"):
            raise InputError(f"epsilon={epsilon!r}; expected a number from 0 upwards")
        self.dim = None if dim is None else int(dim)
        self.beta, self.gamma, self.epsilon = float(beta), float(gamma), float(epsilon)

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` or `load` has been called."""
        return hasattr(self, "components_")

    def unfitted(self) -> Whitening:
        """Another one with the same parameters."""
        return Whitening(self.dim, self.beta, self.gamma, self.epsilon)

    def __repr__(self) -> str:
        epsilon = f", epsilon={self.epsilon:g}" if self.epsilon else ""
        return f"Whitening(dim={self.dim}, beta={self.beta:g}, gamma={self.gamma:g}{epsilon})"

    def fit(self, vectors: ArrayLike | Iterable[ArrayLike] | Moments) -> Whitening:
        """Learn mean and spectrum in one pass.

        Parameters
        ----------
        vectors : array of shape (n, d), iterable of such arrays, or Moments
            Not normalised beforehand. Cost: n d^2 multiplications and one d x d eigendecomposition;
            memory 8 d^2 bytes and one batch.

        Raises
        ------
        VectorError
            If there is no vector, or one is NaN or infinite.
        InputError
            If dim > d, or if the vectors span fewer than dim directions and gamma > 0 would divide by nothing,
            or by so little that the scales are no float32 numbers.
        """
        moments = vectors if isinstance(vectors, Moments) else Moments.of(vectors)
        d = len(moments.mean)
        k = d if self.dim is None else self.dim
        if k > d:
            raise InputError(f"dim={k} but the vectors have {d} columns; expected dim <= {d}")
        eigenvalues, eigenvectors = moments.spectrum(self.beta)
        rank = int((eigenvalues > eigenvalues[0] * d * np.finfo(np.float64).eps).sum())
        if self.gamma > 0 and self.epsilon == 0 and k > rank:
            raise InputError(
                f"dim={k} with gamma={self.gamma:g}, but the {moments.count} fitted vectors span {rank} directions; "
                f"expected dim <= {rank}, gamma=0, epsilon > 0 or more vectors"
            )
        self.mean_, self.eigenvalues_, self.n_fitted_ = moments.mean, eigenvalues, moments.count
        self.components_ = np.ascontiguousarray(eigenvectors[:, :k])
        self._prepare()
        return self

    def _prepare(self) -> None:
        k = self.components_.shape[1]
        with np.errstate(all="ignore"):
            spectrum = self.eigenvalues_ + self.epsilon * self.eigenvalues_.mean()
            scale = np.ones(k) if self.gamma == 0 else spectrum[:k] ** (-self.gamma / 2)
            kernel = self.components_ * scale
            parts = [part.astype(np.float32) for part in (kernel, -self.beta * self.mean_ @ kernel)]
        if not all(np.isfinite(part).all() for part in parts):
            raise InputError(
                f"{self!r} cannot scale by a spectrum from {spectrum[0]:g} to {spectrum[k - 1]:g}; "
                "expected gamma=0, a larger epsilon or other vectors"
            )
        self._kernel, self._bias = parts

    @property
    def kernel(self) -> Float32:
        """W = U L^(-gamma/2), of shape (d, k): `transform` is ``unit_rows(x @ W + bias)``."""
        self._check_fitted()
        return self._kernel

    @property
    def bias(self) -> Float32:
        """b = -beta mu W, of shape (k,)."""
        self._check_fitted()
        return self._bias

    def transform(self, vectors: ArrayLike) -> Float32:
        """The whitened vectors, as unit rows.

        Parameters
        ----------
        vectors : array-like of shape (n, d)

        Returns
        -------
        ndarray of shape (n, k), float32

        Raises
        ------
        VectorError
            If d is not the d of the fit, a value is NaN or infinite, or a row becomes zero
            (it is the mean itself, or nothing of it lies in the kept columns).
        InputError
            If nothing was fitted.
        """
        self._check_fitted()
        rows = check_vectors(vectors, len(self.mean_)).astype(np.float32, copy=False)
        projected = rows @ self._kernel + self._bias
        # subtle: the mean itself leaves rounding, up to 1.8 eps |bias|, which must not become a direction
        noise = 8 * np.finfo(np.float32).eps * np.linalg.norm(self._bias)
        lost = np.linalg.norm(projected, axis=1) < noise
        if lost.any():
            raise VectorError(f"vector {int(lost.argmax())} is the mean of the fit and has no direction; leave it out")
        return unit_rows(projected)

    def _check_fitted(self) -> None:
        if not hasattr(self, "_kernel"):
            raise InputError(f"{self!r} was not fitted; call .fit(vectors) or Whitening.load(path) first")

    def save(self, path: str | PathLike[str]) -> None:
        """Write the fit to a safetensors file (float64 mean, spectrum and columns; parameters as its metadata)."""
        Path(path).write_bytes(self.to_bytes())

    def to_bytes(self) -> bytes:
        """The fit as the bytes of a safetensors file; the same fit gives the same bytes."""
        from safetensors.numpy import save

        self._check_fitted()
        parameters = {"dim": self.components_.shape[1], "beta": self.beta, "gamma": self.gamma, "epsilon": self.epsilon}
        # subtle: one entry only, because safetensors writes its metadata in random order
        header = {"whitening": json.dumps(parameters | {"n_fitted": self.n_fitted_})}
        tensors = {"mean": self.mean_, "eigenvalues": self.eigenvalues_, "components": self.components_}
        return save(tensors, metadata=header)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Whitening:
        """Read what `save` wrote.

        Raises
        ------
        FileNotFoundError
            If there is no such file.
        IndexCorruptError
            If the file is not a whitening in safetensors form.
        """
        from safetensors import SafetensorError, safe_open

        if not Path(path).is_file():
            raise FileNotFoundError(f"{fspath(path)}: no such file; expected a whitening saved by Whitening.save")
        try:
            with safe_open(fspath(path), framework="numpy") as file:
                header = json.loads((file.metadata() or {})["whitening"])
                n_fitted = int(header.pop("n_fitted"))
                loaded = cls(**header)
                loaded.n_fitted_ = n_fitted
                loaded.mean_, loaded.eigenvalues_, loaded.components_ = (
                    file.get_tensor(name) for name in ("mean", "eigenvalues", "components")
                )
            d, k = len(loaded.mean_), loaded.dim
            tensors = (loaded.mean_, loaded.eigenvalues_, loaded.components_)
            shapes, kinds = [tensor.shape for tensor in tensors], {str(tensor.dtype) for tensor in tensors}
            if shapes != [(d,), (d,), (d, k)] or kinds != {"float64"}:
                raise ValueError(
                    f"mean, eigenvalues, components of shapes {shapes} and dtypes {kinds}; "
                    f"expected {[(d,), (d,), (d, k)]} in float64"
                )
            loaded._prepare()
        except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise IndexCorruptError(f"{fspath(path)} is not a whitening saved by Whitening.save: {error}") from error
        return loaded


def _is_matrix(vectors: object) -> bool:
    """Whether this is one array (or a list of lists of numbers) rather than an iterable of arrays."""
    if isinstance(vectors, np.ndarray):
        return vectors.ndim <= 2
    return isinstance(vectors, list | tuple) and bool(vectors) and np.ndim(vectors[0]) == 1
