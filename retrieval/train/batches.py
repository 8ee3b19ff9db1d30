"""Batches whose pairs have different labels: CoSENT learns nothing from one in which all are equal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sentence_transformers.base.sampler import DefaultBatchSampler


def mixed_batches(labels: ArrayLike, batch_size: int, rng: np.random.Generator) -> list[NDArray[np.int64]]:
    """Positions of all examples in random batches, the labels spread evenly over them.

    Every label is shuffled and laid out at even distances with a random start, and the whole is cut into
    batches of nearly equal size. A batch with one label only then swaps an example with another batch, or,
    where the other labels are too rare for that, gets one of their examples a second time.

    Parameters
    ----------
    labels : array of shape (n,)
    batch_size : int
        At most this many in a batch (one more where an example is repeated).
    rng : numpy.random.Generator

    Returns
    -------
    list of ndarray of int64
        ceil(n / batch_size) batches; each holds two different labels if there are two.

    Examples
    --------
    >>> labels = [0] * 9 + [1] * 3
    >>> [sorted(np.take(labels, batch).tolist()) for batch in mixed_batches(labels, 4, np.random.default_rng(0))]
    [[0, 0, 0, 1], [0, 0, 0, 1], [0, 0, 0, 1]]
    """
    values, kinds = np.unique(np.asarray(labels), return_inverse=True)
    n = len(kinds)
    if n == 0:
        return []
    place = np.empty(n)
    for kind in range(len(values)):
        rows = rng.permutation(np.flatnonzero(kinds == kind))
        place[rows] = (np.arange(len(rows)) + rng.random()) / len(rows)
    batches = np.array_split(np.lexsort((rng.random(n), place)), -(-n // batch_size))
    if len(values) > 1:
        for poor in batches_of_one(batches, kinds):
            _mend(batches, poor, kinds, rng)
    return [batches[i] for i in rng.permutation(len(batches))]


def batches_of_one(batches: list[NDArray[np.int64]], kinds: NDArray[Any]) -> list[int]:
    """Numbers of the batches in which all labels are equal."""
    return [i for i, batch in enumerate(batches) if (kinds[batch] == kinds[batch[0]]).all()]


def _mend(batches: list[NDArray[np.int64]], poor: int, kinds: NDArray[Any], rng: np.random.Generator) -> None:
    """Give one batch a second label."""
    mine = kinds[batches[poor][0]]
    if len(batches[poor]) > 1:
        for other in batches:
            spare = np.flatnonzero(kinds[other] != mine)
            if len(spare) > 1:
                other[spare[0]], batches[poor][0] = batches[poor][0], other[spare[0]]
                return
    extra = rng.choice(np.flatnonzero(kinds != mine))
    batches[poor] = np.append(batches[poor], extra)


class MixedLabels(DefaultBatchSampler):  # type: ignore[misc]
    """`mixed_batches` of a data set's column "label", anew each epoch; for the trainers' `batch_sampler`."""

    def __init__(
        self, dataset: Any, batch_size: int, drop_last: bool, valid_label_columns: list[str] | None = None,
        generator: torch.Generator | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        super().__init__(dataset, batch_size, drop_last, valid_label_columns, generator, seed)
        self.labels = np.asarray(dataset["label"])

    def __iter__(self) -> Iterator[list[int]]:
        rng = np.random.default_rng((self.seed, self.epoch))
        yield from (batch.tolist() for batch in mixed_batches(self.labels, self.batch_size, rng))

    def __len__(self) -> int:
        return int(-(-len(self.labels) // self.batch_size))
