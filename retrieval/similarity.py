"""Cosines of sentence pairs, and how well they follow people's scores: the same in reports, tuning and training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from indexes.errors import InputError

from .moments import unit_rows
from .pairs import STSSet
from .whitening import Whitening

DECIMALS = 10
"""Cosines are rounded here, so that equal ones tie; what is below is rounding of the arithmetic."""

Embed = Callable[[list[str]], ArrayLike]


class Sentences:
    """Distinct sentences and their unit vectors: encoded once, however often they are compared.

    Parameters
    ----------
    sentences : sequence of str
    embed : callable
        From a list of n texts to an array of shape (n, d).
    """

    def __init__(self, sentences: Sequence[str], embed: Embed) -> None:
        distinct = list(dict.fromkeys(sentences))
        self.raw: NDArray[Any] = np.asarray(embed(distinct))
        if self.raw.ndim != 2 or len(self.raw) != len(distinct):
            raise InputError(
                f"{len(distinct)} texts gave vectors of shape {self.raw.shape}; expected ({len(distinct)}, d)"
            )
        self._place = {sentence: i for i, sentence in enumerate(distinct)}
        self._unit = _unit_rows(self.raw)

    def whitened(self, whitening: Whitening) -> Sentences:
        """The same sentences, transformed."""
        other = object.__new__(Sentences)
        other.raw, other._place = self.raw, self._place
        other._unit = _unit_rows(whitening.transform(self.raw))
        return other

    def rows(self, sentences: Sequence[str]) -> NDArray[np.int64]:
        """Positions of sentences among the distinct ones."""
        return np.array([self._place[sentence] for sentence in sentences], np.int64)

    def cosines(self, pairs: STSSet) -> NDArray[np.float64]:
        """The cosine of every pair, of shape (n,)."""
        one, two = self._unit[self.rows(pairs.sentences1)], self._unit[self.rows(pairs.sentences2)]
        cosines: NDArray[np.float64] = np.einsum("nd,nd->n", one, two).round(DECIMALS)
        return cosines


def _unit_rows(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """In float64, or the cosine of a vector with itself would differ from one vector to the next."""
    unit_rows(vectors)  # refuses what has no direction
    rows = np.asarray(vectors, np.float64)
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Spearman's rank correlation, ties by mean rank; NaN if either is constant.

    Examples
    --------
    >>> spearman(np.array([1.0, 2.0, 3.0]), np.array([1.0, 4.0, 9.0]))
    1.0
    """
    from scipy.stats import rankdata

    a, b = rankdata(x), rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    norm = np.sqrt((a @ a) * (b @ b))
    return float(a @ b / norm) if norm else float("nan")
