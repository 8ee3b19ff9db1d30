"""Scores of items that were not scored, from their vectors and the items that were.

With n items and k_q anchor queries all scores cost k_q n calls, which stops paying somewhere. A ridge regression of the
scored items' rows on their vectors gives the others' rows for none; what is not linear in the vectors it leaves out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError
from indexes.stored import StoredVectors

from ..moments import spread

Rows = NDArray[np.floating[Any]] | StoredVectors

FITTED = 20_000
"""Scored items, evenly spaced, that the regression is made of."""

RIDGES = (1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
AT_ONCE = 8192


def is_scored(scores: Rows) -> NDArray[np.bool_]:
    """Which items were scored, of shape (n,), bool."""
    parts = [np.isfinite(scores[at : at + AT_ONCE][:, 0]) for at in range(0, len(scores), AT_ONCE)]
    return np.concatenate([np.empty(0, np.bool_), *parts])


def completed(scores: Rows, vectors: Rows) -> NDArray[np.float32]:
    """The scores, those that are missing predicted.

    Parameters
    ----------
    scores : array-like of shape (n, k_q), float
        Of n items with the anchor queries; a row that was not scored is NaN.
    vectors : array-like of shape (n, d), float
        The items' own.

    Returns
    -------
    ndarray of shape (n, k_q), float32

    Raises
    ------
    InputError
        If no item was scored.

    Examples
    --------
    >>> vectors = np.random.default_rng(0).normal(size=(50, 3))
    >>> scores = vectors @ np.array([[1.0, 0.0], [-2.0, 1.0], [0.0, 3.0]])
    >>> seen = scores.copy()
    >>> seen[:10] = np.nan
    >>> bool(abs(completed(seen, vectors) - scores).max() < 0.01)
    True
    """
    known = is_scored(scores)
    if not known.any():
        raise InputError("no item was scored with the anchor queries; expected some that were")
    out = np.empty(scores.shape, np.float32)
    for start in range(0, len(scores), AT_ONCE):
        out[start : start + AT_ONCE] = scores[start : start + AT_ONCE]
    missing = np.flatnonzero(~known)
    if not len(missing):
        return out
    from sklearn.linear_model import RidgeCV

    places = np.flatnonzero(known)
    places = places[spread(len(places), FITTED)]
    if len(places) == 1:
        out[missing] = out[places]
        return out
    seen = np.asarray(vectors[places], np.float64)
    mean = seen.mean(axis=0)
    scale = float(np.square(seen - mean).sum(axis=1).mean()) ** 0.5 or 1.0
    fit = RidgeCV(alphas=RIDGES).fit((seen - mean) / scale, out[places].astype(np.float64))
    for start in range(0, len(missing), AT_ONCE):
        some = missing[start : start + AT_ONCE]
        predicted = fit.predict((np.asarray(vectors[some], np.float64) - mean) / scale)
        out[some] = predicted.reshape(len(some), -1)  # one anchor gives (m,)
    return out
