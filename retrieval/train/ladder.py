"""Ladder side-tuning: the encoder stays frozen, a small network beside it reads its layers.

    v = own(text) + D (own(text) - mu) + sum over rungs l of D_l (mean(hidden_l(text)) - mu_l)

with every D zero at the start and mu the means over the training texts (they end up in one bias).

It is trained with CoSENT on features computed once (`retrieval.train.features`), a second an epoch, and
never passes a gradient through the encoder. As "linear" only D is there. Rungs with gates and
non-linearities (the original ladder) were tried on STS-B, one seed and a setting or two each: they gained
less, and a non-linear layer over all layers as much as a linear one for several times its time. Leaves
out the folder: see `retrieval.train.ladder_folder`.

References
----------
.. [1] Sung, Cho, Bansal, "LST: Ladder Side-Tuning for Parameter and Memory Efficient Transfer Learning", 2022,
   arXiv 2206.06522.
.. [2] Su Jianlin, https://kexue.fm/archives/9138.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from indexes.errors import InputError, TrainingError, VectorError

from ..moments import spread, unit_rows

SPREAD = 1.25
"""CoSENT's lambda is this over the standard deviation of the training pairs' cosines. Where
those lie close together, 20 lets few badly ordered pairs rule a batch. Chosen on the dev pairs of STS-B English."""
_BLOCK = 8192  # rows looked at together


@dataclass(frozen=True, slots=True, kw_only=True)
class SideNetwork:
    """A linear map of a model's own vector and of some of its layers.

    Attributes
    ----------
    layers : tuple of int
        The rungs, ascending, and last the own vector: columns of `layer_features`.
    weights : ndarray of shape (len(layers), d, d), float32
        Applied as ``weights[i] @ vector``.
    bias : ndarray of shape (d,), float32
    scale : float
        CoSENT's lambda that it was trained with.
    scores : tuple of float
        What `on_epoch` gave, from epoch 0 (the frozen model) on.
    best_epoch : int
        The epoch these weights are of.
    loss : float or None
        The mean over that epoch's steps; None of the frozen model.
    """

    layers: tuple[int, ...]
    weights: NDArray[np.float32]
    bias: NDArray[np.float32]
    scale: float
    scores: tuple[float, ...] = ()
    best_epoch: int = 0
    loss: float | None = None

    def transform(self, features: NDArray[Any]) -> NDArray[np.float32]:
        """Vectors of shape (n, d), float32, not normalised, of features of shape (n, L + 1, d)."""
        vectors = np.empty((len(features), self.weights.shape[1]), np.float32)
        flat = np.concatenate(list(self.weights), axis=1).T  # (len(layers) * d, d)
        for start in range(0, len(features), _BLOCK):
            rows = np.asarray(features[start : start + _BLOCK][:, list(self.layers)], np.float32)
            vectors[start : start + _BLOCK] = rows.reshape(len(rows), -1) @ flat + self.bias
        return vectors


def fit_side(
    features: NDArray[Any],
    rows1: ArrayLike,
    rows2: ArrayLike,
    labels: ArrayLike,
    *,
    kind: Literal["ladder", "linear"] = "ladder",
    rungs: Sequence[int] | None = None,
    scale: float | None = None,
    epochs: int = 10,
    batch_size: int = 128,
    lr: float = 3e-4,
    seed: int = 0,
    on_epoch: Callable[[int, SideNetwork], float | None] | None = None,
) -> SideNetwork:
    """A side network trained with CoSENT on pairs of texts; the same seed gives the same weights.

    Parameters
    ----------
    features : ndarray of shape (n, L + 1, d), float16 or float32
        From `layer_features`; a memory-mapped file is read batch by batch.
    rows1, rows2 : array-like of shape (m,), int
        The rows of `features` that the pairs are made of.
    labels : array-like of shape (m,)
        Only their order counts.
    kind : {"ladder", "linear"}
        "linear" reads the own vector alone.
    rungs : sequence of int, optional
        The layers that a ladder reads beside the own vector, each from 0 to L - 1; by default those at
        one third and two thirds of the way up (all of them gained no more on STS-B; each
        slows encoding a little).
    scale : float, optional
        CoSENT's lambda; by default from the spread of the cosines, see `SPREAD`.
    epochs, batch_size, lr, seed
        Adam, its rate falling linearly to zero. A step of b pairs takes O(b^2) memory.
    on_epoch : callable, optional
        Called with the epoch (0: untrained) and the network so far; if it returns scores (of dev pairs, say),
        the network with the highest is the result, else the last one.

    Returns
    -------
    SideNetwork

    Raises
    ------
    InputError
        If there are no pairs, all labels are equal, or rows, rungs or settings are out of range.
    VectorError
        If features have another shape, or are NaN or infinite.
    TrainingError
        If the loss or the weights become NaN or infinite, or too large for the lengths of vectors to be floats.

    Examples
    --------
    >>> features = np.random.default_rng(0).standard_normal((6, 3, 4)).astype(np.float32)  # of a model of 2 layers
    >>> side = fit_side(features, rows1=[0, 2, 4], rows2=[1, 3, 5], labels=[0, 1, 2])
    >>> side.layers, side.transform(features).shape
    ((0, 1, 2), (6, 4))
    """
    import torch

    from .losses import cosent_loss

    first, second, grades = _pairs(features, rows1, rows2, labels)
    layers = (*_rungs(kind, rungs, features.shape[1] - 1), features.shape[1] - 1)
    for name, value in {"scale": scale, "epochs": epochs, "batch_size": batch_size, "lr": lr}.items():
        if value is not None and not 0 < value < float("inf"):
            raise InputError(f"{name}={value!r}; expected a number above 0")
    inputs = _Inputs.of(features, layers, np.union1d(first, second))
    scale = scale or SPREAD / _spread(inputs, first, second)
    change = torch.zeros(features.shape[2], len(layers) * features.shape[2], requires_grad=True)
    optimizer = torch.optim.Adam([change], lr=lr)
    order = torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, epochs * -(-len(grades) // batch_size))

    def vectors(rows: NDArray[np.int64]) -> torch.Tensor:
        own, centred = (torch.from_numpy(part) for part in inputs.read(rows))
        mapped: torch.Tensor = own + centred @ change.T
        return mapped

    scores: list[float] = []
    step = 0
    best, best_epoch = inputs.network(change.detach().numpy(), scale), 0
    for epoch in range(epochs + 1):
        losses: list[float] = []
        if epoch:
            shuffled = torch.randperm(len(grades), generator=order).numpy()
            for batch in np.split(shuffled, range(batch_size, len(grades), batch_size)):
                cosines = torch.cosine_similarity(vectors(first[batch]), vectors(second[batch]))
                loss = cosent_loss(cosines, torch.from_numpy(grades[batch]), scale)
                step += 1
                if not loss.isfinite():
                    raise TrainingError(
                        f"the loss became {loss.item()} at step {step}; try a lower learning rate or a lower scale"
                    )
                losses.append(loss.item())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        if not change.detach().square().sum().isfinite():  # lengths of vectors are computed in float32, too
            raise TrainingError("the weights are no finite numbers any more, or too large; try a lower learning rate")
        network = inputs.network(change.detach().numpy(), scale)
        network = replace(network, loss=float(np.mean(losses)) if losses else None)
        score = on_epoch(epoch, network) if on_epoch else None
        if score is None or score > max(scores, default=-float("inf")):
            best, best_epoch = network, epoch
        scores += [] if score is None else [float(score)]
    return replace(best, scores=tuple(scores), best_epoch=best_epoch)


@dataclass(frozen=True, slots=True)
class _Inputs:
    """Features as they are trained on: centred, each layer of mean length 1, so that one rate fits all models."""

    features: NDArray[Any]
    layers: tuple[int, ...]
    mean: NDArray[np.float32]  # (layers, d)
    length: NDArray[np.float32]  # (layers, 1), root mean square of the centred vectors

    @classmethod
    def of(cls, features: NDArray[Any], layers: tuple[int, ...], rows: NDArray[np.int64]) -> _Inputs:
        total, squares = np.zeros((len(layers), features.shape[2])), np.zeros((len(layers), 1))
        for start in range(0, len(rows), _BLOCK):
            block = np.asarray(features[rows[start : start + _BLOCK]][:, list(layers)], np.float64)
            if not np.isfinite(block).all():
                bad = int(rows[start + np.flatnonzero(~np.isfinite(block).all(axis=(1, 2)))[0]])
                raise VectorError(
                    f"features of text {bad} are NaN or infinite; expected finite ones: compute them again"
                )
            total += block.sum(axis=0)
            squares += np.square(block).sum(axis=(0, 2))[:, None]
        mean = total / len(rows)
        length = np.sqrt((squares / len(rows) - np.square(mean).sum(axis=1, keepdims=True)).clip(min=0.0))
        if not length[-1] > 1e-6 * np.linalg.norm(mean[-1]):
            raise VectorError("all vectors of the model are the same; expected texts that differ")
        return cls(features, layers, mean.astype(np.float32), np.where(length > 0, length, 1).astype(np.float32))

    def read(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Own vectors (b, d), and centred layers side by side (b, layers * d)."""
        block = np.asarray(self.features[rows][:, list(self.layers)], np.float32)
        return block[:, -1] / self.length[-1], ((block - self.mean) / self.length).reshape(len(rows), -1)

    def network(self, change: NDArray[np.float32], scale: float) -> SideNetwork:
        """What `change` (d, layers * d) does to centred features, as a map of the features themselves."""
        parts = np.stack(np.split(change.astype(np.float64), len(self.layers), axis=1))  # (layers, d, d)
        weights = parts * (self.length[-1] / self.length)[:, :, None]
        bias = -np.einsum("lij,lj->i", weights, self.mean)
        weights[-1] += np.eye(len(change))
        return SideNetwork(
            layers=self.layers, weights=weights.astype(np.float32), bias=bias.astype(np.float32), scale=scale
        )


def _spread(inputs: _Inputs, first: NDArray[np.int64], second: NDArray[np.int64]) -> float:
    """The standard deviation of the frozen model's cosines over at most `_BLOCK` training pairs."""
    chosen = spread(len(first), _BLOCK)
    one, two = (unit_rows(inputs.read(rows[chosen])[0]) for rows in (first, second))
    return max(float(np.einsum("nd,nd->n", one, two).std()), 1e-3)


def _rungs(kind: str, rungs: Sequence[int] | None, n_layers: int) -> tuple[int, ...]:
    if kind not in ("ladder", "linear"):
        raise InputError(f"kind={kind!r}; expected 'ladder' or 'linear'")
    if rungs is None:
        return () if kind == "linear" else tuple(sorted({n_layers // 3, 2 * n_layers // 3}))
    chosen = tuple(sorted(set(rungs)))
    if kind == "linear" or not chosen or not 0 <= chosen[0] <= chosen[-1] < n_layers:
        raise InputError(f"rungs={list(rungs)}; expected layers from 0 to {n_layers - 1} and kind='ladder'")
    return chosen


def _pairs(
    features: NDArray[Any], rows1: ArrayLike, rows2: ArrayLike, labels: ArrayLike
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Rows and ranks of labels."""
    if features.ndim != 3 or features.shape[1] < 2 or not features.size or features.dtype.kind != "f":
        raise VectorError(
            f"features have shape {features.shape} and dtype {features.dtype}; expected (texts, layers + 1, d) floats, "
            "as layer_features makes them"
        )
    first, second, grades = np.asarray(rows1), np.asarray(rows2), np.asarray(labels, np.float64)
    if first.ndim != 1 or not first.shape == second.shape == grades.shape or not len(first):
        raise InputError(
            f"there are {first.shape}, {second.shape} rows and {grades.shape} labels; expected one a pair each"
        )
    for rows in (first, second):
        if rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= len(features):
            raise InputError(f"a pair names a row that is not there; expected integers from 0 to {len(features) - 1}")
    if not np.isfinite(grades).all() or (grades == grades[0]).all():
        raise InputError(
            f"the {len(grades)} labels are all {grades[0]:g} or not finite; expected different ones to learn from"
        )
    return first.astype(np.int64), second.astype(np.int64), np.unique(grades, return_inverse=True)[1]
