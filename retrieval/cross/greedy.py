"""Rows that stand for all others, chosen one after the other.

Greedy column subset selection (Farahat et al. 2011; as `l2-greedy` in Shevkunov et al. 2026, arXiv 2607.03515): each
step takes the row whose direction explains most of what is left of all rows.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def greedy_rows(rows: NDArray[np.floating], count: int) -> NDArray[np.int64]:
    """Positions of `count` rows, the most telling first; any beginning of them is the choice of that size.

    With the residual rows y_i and C = sum_i y_i y_i^T, row j explains sum_i (y_i . y_j)^2 / |y_j|^2 = y_j^T C y_j /
    |y_j|^2 of the squared length; both sides follow from step to step (Farahat et al., algorithm 1). Once nothing is
    left to explain the choice begins anew with the rows not taken.

    Parameters
    ----------
    rows : ndarray of shape (n, d), float
        n d^2 operations are spent once, and 4 n d on each row chosen.
    count : int
        At most n.

    Returns
    -------
    ndarray of shape (count,), int64

    Examples
    --------
    >>> greedy_rows(np.array([[2.0, 0.0], [2.0, 0.5], [2.0, -0.5], [0.0, 1.0]]), 2).tolist()
    [0, 1]
    """
    given = np.asarray(rows, np.float64)
    left, explained, lengths = _begun(given)
    floor = 1e-10 * float(lengths.mean()) if len(given) else 0.0
    free = np.ones(len(given), np.bool_)
    chosen: list[int] = []
    while len(chosen) < min(count, len(given)):
        able = free & (lengths > floor)
        if not able.any():
            left, explained, lengths = _begun(given)
            if floor == 0 or not (free & (lengths > floor)).any():
                chosen += np.flatnonzero(free)[: count - len(chosen)].tolist()  # rows of zeros, all alike
                break
            continue
        gain = np.full(len(given), -np.inf)
        gain[able] = explained[able] / lengths[able]
        best = int(gain.argmax())
        chosen.append(best)
        free[best] = False
        direction = left[best] / np.sqrt(lengths[best])
        along = left @ direction  # with K = left left^T: the column of `best`, over the root of its diagonal
        explained -= 2 * along * (left @ (left.T @ along)) - (along @ along) * along**2
        lengths -= along**2
        left -= np.outer(along, direction)
    return np.array(chosen, np.int64)


def _begun(given: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Residual rows, y^T C y and squared length of each, before anything is chosen."""
    explained = np.einsum("nd,nd->n", given @ (given.T @ given), given)
    return given.copy(), explained, np.square(given).sum(axis=1)
