"""The moments of vectors: what every whitening is fitted from.

One pass over the vectors gives sums (count, mean, scatter, and if asked for the scatter of
nearest-neighbour differences) that add up over shards and from which the spectrum of
every beta follows. Vectors are checked at this door.

References
----------
Chan, Golub, LeVeque, "Updating formulae and a pairwise algorithm for computing
sample variances", 1979 (the merge of scatters, eq. 2.1).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from indexes.errors import VectorError

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

BLOCK = 8192
"""Rows among which nearest neighbours are looked for (2 BLOCK d operations a row), and that are summed up together."""
ALL_OF = 32_768
"""Of so many rows every one's neighbour is looked for, of those after them one in eight, counted eight times."""
FEW = 128
"""Rows: those of a query and of what it has found."""

_AT_ONCE = 1024  # rows whose neighbours are looked for together: 32 MiB


def product(rows: Float32, matrix: Float32) -> Float32:
    """``rows @ matrix``, of few rows in the calling thread.

    BLAS wakes its threads for small products, too; they then spin, much longer than they computed, on the cores that
    the next query's encoder needs.

    Parameters
    ----------
    rows : ndarray of shape (n, d), float32
    matrix : ndarray of shape (d, k), float32

    Returns
    -------
    ndarray of shape (n, k), float32

    Examples
    --------
    >>> product(np.ones((1, 3), np.float32), np.eye(3, dtype=np.float32))
    array([[1., 1., 1.]], dtype=float32)
    """
    found: Float32 = np.einsum("nd,dk->nk", rows, matrix) if len(rows) <= FEW else rows @ matrix
    return found


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


@dataclass(frozen=True, slots=True)
class Moments:
    """Count, mean and scatter of vectors, summed in float64.

    Parameters
    ----------
    count : int
    mean : ndarray of shape (d,), float64
    scatter : ndarray of shape (d, d), float64
        Sum of ``(x - mean)^T (x - mean)``; memory 8 d^2 bytes whatever the count.
    local : ndarray of shape (d, d), float64, optional
        Sum of ``(x - x')^T (x - x')``, x' the nearest (Euclidean) of the up to 8,191 rows that
        came beside x: what tells a text from the one that is most like it.

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
    local: Float64 | None = None

    @classmethod
    def of(cls, vectors: ArrayLike | Iterable[ArrayLike], *, local: bool = False) -> Moments:
        """The moments of an array of shape (n, d), or of an iterable of such arrays, in one pass.

        Parameters
        ----------
        vectors : array or iterable of arrays
        local : bool, default=False
            Whether nearest-neighbour differences are summed up, too; neighbours are looked for within `BLOCK` rows.

        Raises
        ------
        VectorError
            If there is no vector, or one cannot be used (see `check_vectors`).
        """
        total: Moments | None = None
        batches: Iterable[Any] = [vectors] if _is_matrix(vectors) else cast("Iterable[ArrayLike]", vectors)
        for block in _blocks(batches):
            rows = block.astype(np.float64)
            mean = rows.mean(axis=0)
            rows -= mean
            near = neighbour_scatter(rows, every=1 if total is None or total.count < ALL_OF else 8) if local else None
            part = cls(len(rows), mean, rows.T @ rows, near)
            total = part if total is None else total.merge(part)
        if total is None:
            raise VectorError("there are no vectors to fit on; expected at least one")
        return total

    def merge(self, other: Moments) -> Moments:
        """The moments of both sets of vectors together (Chan et al. 1979, eq. 2.1).

        Raises
        ------
        VectorError
            If the dimensions differ, or only one holds neighbour differences.
        """
        if len(self.mean) != len(other.mean):
            raise VectorError(f"moments have dim {len(self.mean)} and {len(other.mean)}; expected the same dim")
        if (self.local is None) != (other.local is None):
            raise VectorError("one of two moments has no neighbour differences; expected both from of(..., local=True)")
        count = self.count + other.count
        delta = other.mean - self.mean
        mean = self.mean + delta * (other.count / count)
        between = np.outer(delta, delta) * (self.count * other.count / count)
        local = None if self.local is None or other.local is None else self.local + other.local
        return Moments(count, mean, self.scatter + other.scatter + between, local)

    @classmethod
    def blend(cls, parts: Sequence[Moments]) -> Moments:
        """Several sets of vectors, each of the same weight: the mean of their means and of their covariances.

        What lies between the sets (the differences of their means) is left out: it tells corpora
        apart, not texts.

        Raises
        ------
        VectorError
            See `merge`.
        """
        if not parts:
            raise VectorError("there are no moments to blend; expected at least one")
        whole = parts[0]
        for part in parts[1:]:
            whole = whole.merge(part)  # refuses what does not fit together
        share = whole.count / len(parts)
        locals_ = [part.local * (share / part.count) for part in parts if part.local is not None]
        return cls(
            whole.count,
            np.mean([part.mean for part in parts], axis=0),
            np.sum([part.scatter * (share / part.count) for part in parts], axis=0),
            np.sum(locals_, axis=0) if locals_ else None,
        )

    @property
    def covariance(self) -> Float64:
        """Cov = scatter / count, of shape (d, d)."""
        covariance: Float64 = self.scatter / self.count
        return covariance

    def spectrum(self, beta: float, local: float = 0.0) -> tuple[Float64, Float64]:
        """Eigenvalues, largest first, and eigenvectors (columns) of Sigma.

        Sigma(beta) = Cov + (1 - beta)^2 mu^T mu, and Sigma(beta, local) = (1 - local) Sigma(beta) + local N,
        where N is the scatter of nearest-neighbour differences, scaled to the trace of Cov. Where no row
        differs from its nearest, N is zero.

        Returns
        -------
        eigenvalues : ndarray of shape (d,), float64, not negative
        eigenvectors : ndarray of shape (d, d), float64
            The entry of largest size in each column is positive, so that a fit gives the same signs again.

        Raises
        ------
        VectorError
            If local > 0 and neighbour differences were not summed up.
        """
        sigma = self.covariance + (1.0 - beta) ** 2 * np.outer(self.mean, self.mean)
        if local:
            if self.local is None:
                raise VectorError(
                    f"local={local:g} needs neighbour differences; make the moments by of(..., local=True)"
                )
            size = np.trace(self.local)
            near = self.local * (np.trace(self.covariance) / size) if size else self.local
            sigma = (1.0 - local) * sigma + local * near
        eigenvalues, vectors = np.linalg.eigh(sigma)
        eigenvalues, vectors = eigenvalues[::-1].clip(min=0.0), vectors[:, ::-1]
        peaks = vectors[np.abs(vectors).argmax(axis=0), np.arange(len(eigenvalues))]
        return eigenvalues, vectors * np.where(peaks < 0, -1.0, 1.0)


def neighbour_scatter(rows: NDArray[Any], *, every: int = 1) -> Float64:
    """Sum of ``(x - x')^T (x - x')`` over rows x and their nearest x' (Euclidean), block by block.

    Parameters
    ----------
    rows : ndarray of shape (n, d)
        Cut into equal blocks of at most `BLOCK` rows; one row alone has no neighbour.
    every : int, default=1
        Ask for the neighbour of one row in so many; the sum is scaled as if all had been asked.

    Returns
    -------
    ndarray of shape (d, d), float64

    Examples
    --------
    >>> neighbour_scatter(np.array([[0.0, 0.0], [1.0, 0.0], [5.0, 0.0]])).tolist()  # 1 + 1 + 4^2
    [[18.0, 0.0], [0.0, 0.0]]
    """
    total = np.zeros((rows.shape[1], rows.shape[1]))
    for block in np.array_split(rows, max(1, -(-len(rows) // BLOCK))):
        if len(block) < 2:
            continue
        single = block.astype(np.float32)
        squares = np.einsum("nd,nd->n", single, single)
        asking = np.arange(0, len(block), every)
        for start in range(0, len(asking), _AT_ONCE):
            asked = asking[start : start + _AT_ONCE]
            distances = squares - 2 * (single[asked] @ single.T)  # and |x|^2, the same for all of a row
            distances[np.arange(len(asked)), asked] = np.inf
            differences = block[asked] - block[distances.argmin(axis=1)]
            total += differences.T @ differences * (len(block) / len(asking))
    return total


def spread(n: int, size: int) -> NDArray[np.int64]:
    """At most `size` of n rows, evenly spaced, ascending."""
    return np.linspace(0, n - 1, min(size, n)).astype(np.int64)


def _blocks(batches: Iterable[Any]) -> Iterator[NDArray[Any]]:
    """The rows of all batches in blocks of `BLOCK`, however they came; the last may be smaller."""
    kept: list[NDArray[Any]] = []
    size, dim = 0, None
    for batch in batches:
        rows = _checked_later(batch)
        for start in range(0, len(rows), BLOCK):  # a memory-mapped array is read in pieces
            piece = check_vectors(rows[start : start + BLOCK], dim)
            dim = piece.shape[1]
            kept.append(piece)
            size += len(piece)
            while size >= BLOCK:
                whole = np.concatenate(kept)
                yield whole[:BLOCK]
                kept, size = [whole[BLOCK:]], size - BLOCK
    if size:
        yield np.concatenate(kept)


def _checked_later(batch: Any) -> NDArray[Any]:
    return batch if isinstance(batch, np.ndarray) and batch.ndim == 2 else check_vectors(batch)


def _is_matrix(vectors: object) -> bool:
    """Whether this is one array (or a list of lists of numbers) rather than an iterable of arrays."""
    if isinstance(vectors, np.ndarray):
        return vectors.ndim <= 2
    return isinstance(vectors, list | tuple) and bool(vectors) and np.ndim(vectors[0]) == 1
