"""Every whitening of a grid judged from one encode and one eigendecomposition for each Sigma.

    moments --spectrum(beta, local)--> Rotation --x spectrum^(-gamma/2)--> first k columns --Objective--> a score a cell

A `Rotation` holds all columns of one Sigma(beta, local); gamma and epsilon only scale them and k only
cuts them, so hundreds of cells cost one matrix product for each Sigma. What is good is
said by an `Objective`: `FindObjective` here (queries whose documents are known), pairs of
sentences with people's scores in `eval.tuning`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError, VectorError

from .moments import Float32, Float64, Moments, check_vectors
from .whitening import Whitening, rank_of

BETAS = (0.0, 0.25, 0.5, 0.75, 1.0)
GAMMAS = (0.0, 0.125, 0.25, 0.375, 0.5, 0.75, 1.0)
LOCALS = (0.0, 0.5, 0.75, 1.0)
DEPTH = 10
_AT_ONCE = 256  # queries
DISCOUNTS = 1 / np.log2(np.arange(2, DEPTH + 2))


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One choice of the hyperparameters and how good it was.

    Parameters
    ----------
    dim : int
    beta, gamma, epsilon, local : float
        See `retrieval.Whitening`.
    score : float
        By the objective; higher is better.
    """

    dim: int
    beta: float
    gamma: float
    epsilon: float
    local: float
    score: float

    def whitening(self) -> Whitening:
        """These hyperparameters, not yet fitted."""
        return Whitening(self.dim, self.beta, self.gamma, self.epsilon, self.local)


@dataclass(frozen=True, slots=True)
class Rotation:
    """``x -> (x - offset) @ columns``: what all cells of one Sigma share.

    Parameters
    ----------
    offset : ndarray of shape (d,), float64
    columns : ndarray of shape (d, m), float64
        Most important first.
    """

    offset: Float64
    columns: Float64

    def __call__(self, vectors: NDArray[Any]) -> Float64:
        """The rotated vectors, of shape (n, m)."""
        rotated: Float64 = (vectors - self.offset) @ self.columns
        return rotated


class Objective(Protocol):
    """Says how good vectors of `dim` columns are."""

    dim: int

    def scores(self, rotate: Rotation, scales: Float64, dims: Sequence[int]) -> Float64:
        """A score for each scale and dim.

        Parameters
        ----------
        rotate : Rotation
        scales : ndarray of shape (s, m), float64
            What the rotated columns are multiplied by.
        dims : sequence of int
            How many of the first columns are kept.

        Returns
        -------
        ndarray of shape (s, len(dims)), float64
        """
        ...  # pragma: no cover


class FindObjective:
    """How well queries find the documents that answer them: the mean nDCG@10; equal scores in the order of rows.

    All documents are rotated at once (8 d bytes each): give a sample of a large corpus.

    Parameters
    ----------
    queries : ndarray of shape (q, d)
        Raw vectors.
    documents : ndarray of shape (n, d)
        Raw vectors.
    relevant : sequence of q mappings of document position to grade
        Documents that are not named have grade 0. A negative position is a document that is not among them:
        it counts for the ideal and is never found.

    References
    ----------
    Jarvelin and Kekalainen, "Cumulated gain-based evaluation of IR techniques", 2002;
    linear gains and log2 discounts, as nDCG of ir_measures.
    """

    def __init__(self, queries: NDArray[Any], documents: NDArray[Any], relevant: Sequence[Mapping[int, float]]) -> None:
        self._documents = check_vectors(documents)
        self.dim = self._documents.shape[1]
        self._queries = check_vectors(queries, self._documents.shape[1])
        if not len(relevant) == len(self._queries) > 0:
            raise InputError(
                f"{len(self._queries)} queries and {len(relevant)} judgements; expected one for each, or more"
            )
        self._relevant = relevant
        best = [sorted(grades.values(), reverse=True)[:DEPTH] for grades in relevant]
        self._ideal = np.array([float(np.dot(grades, DISCOUNTS[: len(grades)])) for grades in best])
        if not (self._ideal > 0).all():
            raise InputError(f"query {int(np.argmin(self._ideal)) + 1} has no relevant document; expected one or more")

    def scores(self, rotate: Rotation, scales: Float64, dims: Sequence[int]) -> Float64:
        """Mean nDCG@10, of shape (s, len(dims))."""
        documents = rotate(self._documents).astype(np.float32)
        queries = rotate(self._queries).astype(np.float32)
        found = np.empty((len(scales), len(dims)))
        for i, scale in enumerate(scales.astype(np.float32)):
            scaled_documents, scaled_queries = documents * scale, queries * scale
            for j, k in enumerate(dims):
                found[i, j] = self._ndcg(scaled_queries[:, :k], scaled_documents[:, :k])
        return found

    def _ndcg(self, queries: Float32, documents: Float32) -> float:
        norms = np.sqrt(np.einsum("nd,nd->n", documents, documents))
        with np.errstate(divide="ignore"):
            inverse = np.where(norms > 0, 1 / norms, 0.0).astype(np.float32)
        total = 0.0
        for start in range(0, len(queries), _AT_ONCE):
            part = queries[start : start + _AT_ONCE]
            products = (part @ documents.T) * inverse
            products[:, norms == 0] = -np.inf  # nothing is left of them
            best = _top(products, min(DEPTH, products.shape[1])).tolist()
            for i, row in enumerate(best):
                grades = self._relevant[start + i]
                gains = [grades.get(d, 0.0) for d in row] if part[i].any() else []
                total += float(np.dot(gains, DISCOUNTS[: len(gains)])) / self._ideal[start + i]
        return total / len(queries)


def _top(scores: Float32, depth: int) -> NDArray[np.int64]:
    """Positions of the largest scores in each row, best first, equal ones by position."""
    top = np.argpartition(-scores, depth - 1, axis=1)[:, :depth]
    least = np.take_along_axis(scores, top, 1).min(axis=1)
    top.sort(axis=1)
    order = np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable")
    best: NDArray[np.int64] = np.take_along_axis(top, order, 1)
    for row in np.flatnonzero((scores >= least[:, None]).sum(axis=1) > depth):  # a tie across the edge
        best[row] = np.argsort(-scores[row], kind="stable")[:depth]
    return best


def default_dims(d: int) -> tuple[int, ...]:
    """The kept dimensions that are tried: d and 2/3, 1/2, 1/3, 1/4, 1/6, 1/8, 1/12 of it.

    Examples
    --------
    >>> default_dims(384)
    (384, 256, 192, 128, 96, 64, 48, 32)
    """
    shares = (1, 2 / 3, 1 / 2, 1 / 3, 1 / 4, 1 / 6, 1 / 8, 1 / 12)
    return tuple(dict.fromkeys(max(1, round(d * share)) for share in shares))


def judge(
    moments: Moments,
    objective: Objective,
    dims: Sequence[int],
    betas: Sequence[float] = BETAS,
    gammas: Sequence[float] = GAMMAS,
    epsilons: Sequence[float] = (0.0,),
    locals_: Sequence[float] = (0.0,),
) -> Iterator[Cell]:
    """A score for every cell of the grid, one Sigma after the other.

    Left out are cells with gamma > 0 and epsilon = 0 where the fitted vectors span fewer than dim directions
    (`Whitening.fit` refuses them), and cells with local > 0 where no vector differs from its nearest.

    Parameters
    ----------
    moments : Moments
        What the whitenings are fitted on, d columns.
    objective : Objective
    dims : sequence of int
        1 to d.
    betas, gammas, epsilons, locals_ : sequence of float
        See `retrieval.Whitening`.

    Yields
    ------
    Cell

    Raises
    ------
    InputError
        If a hyperparameter is out of its range.
    VectorError
        If the fit and the objective are of another width.
    """
    d = len(moments.mean)
    if d != objective.dim:
        raise VectorError(
            f"the fit has {d} columns, but the dev vectors have {objective.dim}; expected the same model's"
        )
    if not dims or not all(1 <= k <= d for k in dims):
        raise InputError(f"dims={list(dims)}; expected one or more, each from 1 to {d}")
    shapes = list(product(gammas, epsilons))
    for (beta, local), (gamma, epsilon) in product(product(betas, locals_), shapes):
        Whitening(None, beta, gamma, epsilon, local)  # is checked there
    alike = moments.local is not None and not moments.local.any()
    for beta, local in product(betas, locals_):
        if local and alike:
            continue
        eigenvalues, columns = moments.spectrum(beta, local)
        rank = rank_of(eigenvalues)
        scales = np.ones((len(shapes), d))
        with np.errstate(divide="ignore"):
            for scale, (gamma, epsilon) in zip(scales, shapes, strict=True):
                if gamma:
                    scale[:] = (eigenvalues + epsilon * eigenvalues.mean()) ** (-gamma / 2)
        scales[~np.isfinite(scales)] = 0.0
        table = objective.scores(Rotation(beta * moments.mean, columns), scales, dims)
        for (gamma, epsilon), row in zip(shapes, table.tolist(), strict=True):
            for k, score in zip(dims, row, strict=True):
                if gamma == 0 or epsilon > 0 or k <= rank:
                    yield Cell(dim=k, beta=beta, gamma=gamma, epsilon=epsilon, local=local, score=score)
