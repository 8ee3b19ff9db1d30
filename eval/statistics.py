"""The statistics behind an STS report: the interval of a rank correlation, the best cut."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError
from retrieval.similarity import spearman


def bootstrap_interval(
    cosines: NDArray[np.float64], labels: NDArray[np.float64], resamples: int, seed: int
) -> tuple[float, float]:
    """95 % percentile interval of Spearman over pairs drawn with replacement (Efron 1979)."""
    rng, n = np.random.default_rng(seed), len(labels)
    values = [spearman(cosines[rows], labels[rows]) for rows in (rng.integers(n, size=n) for _ in range(resamples))]
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return float(low), float(high)


def best_threshold(cosines: NDArray[np.float64], labels: NDArray[np.float64]) -> float:
    """The cosine from which on calling a pair alike is right most often; midway between two cosines.

    Raises
    ------
    InputError
        If all labels are the same.

    Examples
    --------
    >>> best_threshold(np.array([0.1, 0.4, 0.6, 0.9]), np.array([0.0, 0.0, 1.0, 1.0]))
    0.5
    """
    if np.ptp(labels) == 0:
        raise InputError(f"all labels are {labels[0]:g}; a threshold needs pairs of both kinds")
    order = np.argsort(cosines, kind="stable")
    sorted_cosines, positive = cosines[order], labels[order] == 1
    # right[i]: pairs below i called different and the rest alike
    right = np.concatenate([[0], np.cumsum(~positive)]) + np.concatenate([np.cumsum(positive[::-1])[::-1], [0]])
    edges = np.concatenate([[sorted_cosines[0] - 1], sorted_cosines, [sorted_cosines[-1] + 1]])
    possible = np.diff(edges) > 0  # no cut between equal cosines
    cut = int(np.argmax(np.where(possible, right, -1)))
    return float((edges[cut] + edges[cut + 1]) / 2)
