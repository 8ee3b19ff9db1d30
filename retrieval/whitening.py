"""BERT-whitening with hyperparameters: smaller vectors that score no worse.

    x~ = (x - beta mu) U L^(-gamma/2),  Sigma(beta) = Cov + (1 - beta)^2 mu^T mu = U L U^T

keep the first ``dim`` columns, then make unit rows. ``beta = gamma = 0`` is a
rotation (every cosine unchanged), ``beta = 1, gamma = 0`` is PCA, ``beta = gamma = 1``
is full whitening. With ``local`` > 0 a part of Sigma is the scatter of nearest-neighbour
differences: directions are kept for telling a text from the one that is most like it
(our addition; docs/whitening.md shows what it brings). Everything comes from the vectors'
`Moments`. Leaves out the choice of the hyperparameters (`retrieval.grid`).

References
----------
Su, "Whitening sentence representations for better semantics and faster retrieval",
arXiv:2103.15316; the hyperparameters: https://kexue.fm/archives/9079.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from indexes.errors import IndexCorruptError, InputError, VectorError
from indexes.vectors import linear_transform

from .moments import Float32, Float64, Moments, check_vectors, product, unit_rows

NOISE = 8 * float(np.finfo(np.float32).eps)
_UNREADABLE = (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError)  # of a file of others
DEFAULTS = {"beta": 0.0, "gamma": 0.125, "epsilon": 0.001, "local": 0.5}
"""What to take where nothing can be chosen by (docs/whitening.md). epsilon does nothing but keep vectors of low rank
from being refused."""


def rank_of(eigenvalues: Float64) -> int:
    """How many directions the vectors of a spectrum span, rounding apart."""
    return int((eigenvalues > eigenvalues[0] * len(eigenvalues) * np.finfo(np.float64).eps).sum())


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
    local : float, default=0.0
        Share of nearest-neighbour differences in Sigma, 0 (none) to 1 (nothing else); see `Moments.spectrum`.

    Attributes
    ----------
    mean_ : ndarray of shape (d,), float64
    eigenvalues_ : ndarray of shape (d,), float64
        The whole spectrum of Sigma, largest first.
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

    def __init__(
        self, dim: int | None = None, beta: float = 1.0, gamma: float = 0.0, epsilon: float = 0.0, local: float = 0.0
    ) -> None:
        if dim is not None and (isinstance(dim, bool) or not isinstance(dim, int | np.integer) or dim < 1):
            raise InputError(f"dim={dim!r}; expected a whole number of columns to keep, 1 or more, or None for all")
        for name, value in (("beta", beta), ("gamma", gamma), ("local", local)):
            if not 0.0 <= value <= 1.0:
                raise InputError(f"{name}={value!r}; expected a number from 0 to 1")
        if not 0.0 <= epsilon < float("inf"):
            raise InputError(f"epsilon={epsilon!r}; expected a number from 0 upwards")
        self.dim = None if dim is None else int(dim)
        self.beta, self.gamma, self.epsilon, self.local = float(beta), float(gamma), float(epsilon), float(local)

    @property
    def parameters(self) -> dict[str, Any]:
        """The hyperparameters by name; dim is that of the fit, once there is one."""
        dim = self.components_.shape[1] if self.is_fitted else self.dim
        return {"dim": dim, "beta": self.beta, "gamma": self.gamma, "epsilon": self.epsilon, "local": self.local}

    @property
    def is_fitted(self) -> bool:
        """Whether `fit` or `load` has been called."""
        return hasattr(self, "components_")

    def unfitted(self) -> Whitening:
        """Another one with the same parameters."""
        return Whitening(self.dim, self.beta, self.gamma, self.epsilon, self.local)

    def __repr__(self) -> str:
        more = "".join(f", {name}={value:g}" for name in ("epsilon", "local") if (value := getattr(self, name)))
        return f"Whitening(dim={self.dim}, beta={self.beta:g}, gamma={self.gamma:g}{more})"

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
        moments = vectors if isinstance(vectors, Moments) else Moments.of(vectors, local=self.local > 0)
        d = len(moments.mean)
        k = d if self.dim is None else self.dim
        if k > d:
            raise InputError(f"dim={k} but the vectors have {d} columns; expected dim <= {d}")
        eigenvalues, eigenvectors = moments.spectrum(self.beta, self.local)
        rank = rank_of(eigenvalues)
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
        self._sizes = [float(np.linalg.norm(part)) for part in parts]

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
        projected = product(rows, self._kernel) + self._bias
        # subtle: the mean itself, or a vector outside the kept columns, leaves rounding, which is no direction
        lengths = np.sqrt(np.einsum("nd,nd->n", rows, rows, dtype=np.float64))
        sizes = lengths * self._sizes[0] + self._sizes[1]
        lost = np.linalg.norm(projected, axis=1) < NOISE * sizes
        if lost.any():
            raise VectorError(
                f"vector {int(lost.argmax())} is the mean of the fit, or nothing of it lies in the kept columns: "
                "it has no direction; leave it out"
            )
        return unit_rows(projected)

    def to_faiss(self) -> Any:
        """This transform as a ``faiss.LinearTransform``: its ``apply`` gives `transform` before the unit rows.

        For an index of your own: ``faiss.IndexPreTransform(whitening.to_faiss(), index)``.

        Raises
        ------
        MissingPackageError
            If no FAISS is installed.
        InputError
            If nothing was fitted.
        """
        return linear_transform(self.kernel, self.bias)

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
        # subtle: one entry only, because safetensors writes its metadata in random order
        header = {"whitening": json.dumps(self.parameters | {"n_fitted": self.n_fitted_})}
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
            raise FileNotFoundError(
                errno.ENOENT, "no such file; expected a whitening saved by Whitening.save", fspath(path)
            )
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
        except (SafetensorError, *_UNREADABLE) as error:
            raise IndexCorruptError(f"{fspath(path)} is not a whitening saved by Whitening.save: {error}") from error
        return loaded
