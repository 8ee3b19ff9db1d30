"""Diffusion: what a walk in the neighbour graph comes to that begins at a query's nearest documents.

    (I - alpha S) f = y,    S = D^-1/2 A D^-1/2,    A = cosine^gamma of linked documents

y holds cosine^gamma of the documents that the walk begins at. (Zhou et al. 2003, "Ranking on data manifolds", eq. 4;
Iscen et al. 2017, "Efficient diffusion on region manifolds", eq. 7, arXiv 1611.05113: solved by conjugate gradients.)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import cg

from indexes.errors import InputError
from retrieval.geodesic import NeighborGraph

Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]

TOLERANCE, STEPS = 1e-6, 100


class Diffusion:
    """Walks in a graph whose links are angles.

    Parameters
    ----------
    graph : NeighborGraph
        With ``length="angle"``; ``join="mutual"`` is usual.
    alpha : float, default=0.9
        Share of the walk that goes on; below 1.
    gamma : float, default=3.0
        How much nearer links count more.

    Raises
    ------
    InputError
        If a value cannot be used.

    Examples
    --------
    >>> around = np.deg2rad([0.0, 10.0, 20.0, 90.0, 100.0])
    >>> rows = np.stack([np.cos(around), np.sin(around)], axis=1)
    >>> walk = Diffusion(NeighborGraph.build(rows, 2, join="mutual"))
    >>> scores = walk.scores([0], [1.0])
    >>> bool(scores[2] > scores[3])  # the third is reached over the second
    True
    """

    def __init__(self, graph: NeighborGraph, *, alpha: float = 0.9, gamma: float = 3.0) -> None:
        if not 0.0 <= alpha < 1.0:
            raise InputError(f"alpha={alpha!r}; expected 0 or more, and less than 1")
        if not 0.0 < gamma < np.inf:
            raise InputError(f"gamma={gamma!r}; expected more than 0")
        links = graph.matrix.astype(np.float64)
        links.data = np.cos(links.data).clip(0.0) ** gamma
        degree = np.asarray(links.sum(axis=1)).ravel()
        scale = sparse.diags_array(np.where(degree > 0.0, degree, 1.0) ** -0.5)
        self._system = sparse.eye_array(graph.n, format="csr") - alpha * (scale @ links @ scale)
        self.n, self.gamma = graph.n, gamma

    def scores(self, starts: Int64 | list[int], cosines: Float64 | list[float]) -> Float64:
        """What the walk comes to at each position, of shape (n,), float64.

        Parameters
        ----------
        starts : sequence of m int
            Where it begins.
        cosines : sequence of m float
            With the query; negative ones count as 0.

        Raises
        ------
        ArithmeticError
            If the system is not solved within a hundred steps.
        """
        begin = np.zeros(self.n)
        begin[np.asarray(starts)] = np.asarray(cosines, np.float64).clip(0.0) ** self.gamma
        found, left = cg(self._system, begin, rtol=TOLERANCE, maxiter=STEPS)
        if left:
            raise ArithmeticError(f"the walk was not known after {STEPS} steps; take a smaller alpha")
        scores: Float64 = found
        return scores
