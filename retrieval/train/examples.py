"""Labelled pairs as a trainer takes them: read, looked over, scaled.

What cannot be learnt from is refused before a model is loaded: labels that are all equal, dev pairs that
are trained on are counted. Pairs of different sets are never compared: their labels need not mean the same.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError

from ..pairs import Datasets, STSSet, load_sets
from .losses import ALIKE

logger = logging.getLogger(__name__)

ONLY_ALIKE = ("mnrl",)
"""Losses that know no label: of the pairs they get, the alike ones are taken."""


def read_pairs(pairs: Datasets, split: str, data: str | PathLike[str] | None) -> list[STSSet]:
    """The sets of one or more sources, see `load_sets`, each with a name of its own."""
    sets: dict[str, STSSet] = {}
    for found in load_sets(pairs, split, data):
        name, again = found.name, 2
        while name in sets:
            name, again = f"{found.name}-{again}", again + 1
        sets[name] = replace(found, name=name, dev=None)
    first: dict[str, str] = {}
    for name, found in sets.items():
        if (same := first.setdefault(found.digest, name)) != name:
            logger.warning("%s has the same pairs and labels as %s: they count again", name, same)
    return list(sets.values())


def scaled(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Labels on a scale from 0 (the least of them) to 1; labels that are all equal become 1.

    Examples
    --------
    >>> scaled(np.array([0.0, 2.0, 5.0])).tolist()
    [0.0, 0.4, 1.0]
    """
    with np.errstate(over="ignore"):  # looked at in the next lines
        span = np.ptp(scores)
    if not np.isfinite(span):
        raise InputError(f"labels go from {scores.min():g} to {scores.max():g}; expected a scale that floats can span")
    if span == 0:
        return np.ones_like(scores)
    values: NDArray[np.float64] = (scores - scores.min()) / span
    return values


def examples_of(sets: Sequence[STSSet], loss: str, batch_size: int) -> dict[str, Any]:
    """A `datasets.Dataset` a set: the columns "sentence1" and "sentence2", and "label" if the loss reads it.

    Parameters
    ----------
    sets : sequence of STSSet
    loss : str
        What reads only the order of labels, and "softmax", gets the number of each among the different ones, int64;
        for "cosent+mnrl" counted from the first alike one on (from `ALIKE` of the range), so that those are not below
        zero. "mnrl" gets the alike pairs without labels; the others get float32 from 0 to 1.
    batch_size : int
        Of "mnrl", whose batches hold no text twice.

    Raises
    ------
    InputError
        If all labels of a set are equal; for "mnrl", if fewer than two pairs are alike, or a text is in more of them
        than there are batches; for "softmax", if there are several sets.
    """
    from datasets import Dataset

    if loss == "softmax" and len(sets) > 1:
        raise InputError(f"the loss 'softmax' with {len(sets)} sets of pairs; expected one, in which labels agree")
    examples = {}
    for pairs in sets:
        labels = scaled(pairs.scores)
        if loss in ONLY_ALIKE:
            kept = np.flatnonzero(labels >= ALIKE)
            if len(kept) < len(pairs):
                logger.info("%s: %d of %d pairs are alike and used by %s", pairs.name, len(kept), len(pairs), loss)
            if len(kept) < 2:
                raise InputError(
                    f"{len(kept)} of the {len(pairs)} pairs of {pairs.name!r} is alike; the loss {loss!r} needs two at "
                    "least, whose second sentences are each other's negatives"
                )
            alike = pairs.take(kept)
            _check_repeats(alike, loss, batch_size)
            columns: dict[str, Any] = {"sentence1": list(alike.sentences1), "sentence2": list(alike.sentences2)}
        else:
            if np.ptp(pairs.scores) == 0:
                n, name = len(pairs), repr(pairs.name)
                said = f"the only label of {name} is" if n == 1 else f"all {n} labels of {name} are"
                raise InputError(
                    f"{said} {pairs.scores[0]:g}; the loss {loss!r} learns from "
                    "pairs with different labels: add pairs that are less alike, or use the loss 'mnrl' for alike ones"
                )
            columns = {"sentence1": list(pairs.sentences1), "sentence2": list(pairs.sentences2)}
            columns["label"] = _labels_for(loss, pairs.scores, labels)
        examples[pairs.name] = Dataset.from_dict(columns)
    return examples


def _labels_for(loss: str, scores: NDArray[np.float64], labels: NDArray[np.float64]) -> NDArray[Any]:
    """Labels as a loss reads them; float32 would make equal what is close, so where the order counts it is numbers."""
    order: NDArray[np.int64] = np.unique(scores, return_inverse=True)[1]
    if loss == "cosent+mnrl":
        return order - int(order[labels >= ALIKE].min())
    return order if loss in ("cosent", "softmax") else labels.astype(np.float32)


def _check_repeats(pairs: STSSet, loss: str, batch_size: int) -> None:
    """A batch holds no text twice, so each row of one text takes a batch of its own.

    Below that limit the library's sampler still leaves out a few rows, others each epoch: 0 to 4 of 160 were measured.
    """
    rows = Counter(text for row in zip(pairs.sentences1, pairs.sentences2, strict=True) for text in set(row))
    text, most = rows.most_common(1)[0]
    batches = -(-len(pairs) // batch_size)
    if most > batches:
        raise InputError(
            f"{text!r:.60} is in {most} of the {len(pairs)} alike pairs of {pairs.name!r}, and batches of the loss "
            f"{loss!r} hold no text twice: the {batches} of {batch_size} would leave pairs out; use a smaller "
            "batch size, fewer repeats or another loss"
        )


def class_count(sets: Sequence[STSSet]) -> int:
    """How many different labels there are."""
    return len(np.unique(np.concatenate([pairs.scores for pairs in sets])))
