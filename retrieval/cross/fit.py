"""Ridge regression with fewer rows than columns, its ridge chosen by leaving one out.

With rows X (m, D) of the basis, prior directions Z (m, f) and a constant, the model of m scores y is

    y = X u + Z c + b + noise,   u ~ N(0, I),  c ~ N(0, I),  noise ~ N(0, ridge),  b anything

so with C = [X Z] - mean, C C^T = U L U^T and r = y - mean(y)

    [u c] = C^T U (L + ridge)^-1 U^T r,    H = 1/m + U L (L + ridge)^-1 U^T

and the residual of row i, fitted without it, is (y - H y)_i / (1 - H_ii) (Allen 1974, Technometrics 16(1)). Scores of
another origin or scale give the same picks: b is free, and all else is linear in y. One decomposition of (m, m)
serves all ridges.

Never a pseudo-inverse: with as many anchors as rows it interpolates noise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Float64 = NDArray[np.float64]

RIDGES = (1e-8, 1e-1)
"""Scores that are exactly linear in the basis are fitted exactly, all others with the ridge that was best in trials."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What m scores say of all others.

    Parameters
    ----------
    weights : ndarray of shape (D,), float64
        Of the basis's columns.
    prior : ndarray of shape (f,), float64
        Of the prior directions.
    bias : float
    left_out : ndarray of shape (m,), float64
        Each score as the others predict it.
    ridge : float
        That was chosen.
    """

    weights: Float64
    prior: Float64
    bias: float
    left_out: Float64
    ridge: float


def fit_scores(rows: Float64, prior: Float64, scores: Float64, ridge: float | None = None) -> Fit:
    """Fit m scores.

    Parameters
    ----------
    rows : ndarray of shape (m, D), float64
    prior : ndarray of shape (m, f), float64
        Columns of unit variance over all items; f may be 0.
    scores : ndarray of shape (m,), float64
    ridge : float, optional
        By default the one of `RIDGES` under which left-out scores are predicted best.

    Examples
    --------
    >>> rows = np.eye(3)
    >>> fit = fit_scores(rows, np.empty((3, 0)), np.array([1.0, 2.0, 3.0]), ridge=1e-9)
    >>> (rows @ fit.weights + fit.bias).round(4).tolist()
    [1.0, 2.0, 3.0]
    """
    if len(scores) < 2:  # a constant fits one score
        return Fit(
            weights=np.zeros(rows.shape[1]), prior=np.zeros(prior.shape[1]), bias=float(scores.sum()),
            left_out=np.full(len(scores), np.nan), ridge=RIDGES[-1] if ridge is None else ridge,
        )  # fmt: skip
    columns = np.hstack([rows, prior])
    mean, centre = columns.mean(axis=0), float(scores.mean())
    columns, centred = columns - mean, scores - centre
    values, left = np.linalg.eigh(columns @ columns.T)
    told = values > 1e-13 * values[-1]  # the others are rounding
    values, left = values[told], left[:, told]
    projected = left.T @ centred
    beyond = centred - left @ projected  # what no weights can fit
    free = 1 - 1 / len(scores) - np.square(left).sum(axis=1)

    def residuals(candidate: float) -> Float64:
        shrunk = candidate / (values + candidate)
        rest = np.maximum(free + np.square(left) @ shrunk, 1e-15)
        return np.asarray((beyond + left @ (shrunk * projected)) / rest)

    candidates = RIDGES if ridge is None else (ridge,)
    chosen = min(candidates, key=lambda one: float(np.square(residuals(one)).mean()))
    weights = columns.T @ (left @ (projected / (values + chosen)))
    split = rows.shape[1]
    return Fit(
        weights=weights[:split], prior=weights[split:], bias=centre - float(mean @ weights),
        left_out=scores - residuals(chosen), ridge=chosen,
    )  # fmt: skip
