"""The scorer, asked once for each pair and looked at: what it gives must be one finite raw score a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError

Scorer = Callable[[Any, Sequence[Any]], Any]
"""scorer(query, texts) -> as many scores; higher is better. Its method scores(queries, texts), if any, takes pairs."""

LARGEST = 1e100
"""Squares of scores must be finite, too."""

TIES, MANY = 0.01, 3
"""So many different texts, and this share of a query's scores, at a probability of 1 are flat."""


def check_callable(scorer: Any) -> None:
    """Refuse what cannot be asked for scores.

    Raises
    ------
    InputError
        If it is not callable.
    """
    if not callable(scorer):
        raise InputError(f"scorer={scorer!r:.60}; expected scorer(query, texts) -> scores")


def score_pairs(scorer: Scorer, queries: Sequence[Any], texts: Sequence[Sequence[Any]]) -> list[NDArray[np.float64]]:
    """The scores of some texts for each query; one call for all, if the scorer takes pairs.

    Raises
    ------
    InputError
        If the scorer gives another number of scores, or one that is not finite.
    """
    of_pairs = getattr(scorer, "scores", None)
    if of_pairs is not None:
        firsts = [query for query, some in zip(queries, texts, strict=True) for _ in some]
        seconds = [text for some in texts for text in some]
        found = _checked(of_pairs(firsts, seconds), seconds) if seconds else np.empty(0)
        return np.split(found, np.cumsum([len(some) for some in texts])[:-1])
    return [
        _checked(scorer(query, some), some) if some else np.empty(0) for query, some in zip(queries, texts, strict=True)
    ]


def _checked(scores: Any, texts: Sequence[Any]) -> NDArray[np.float64]:
    try:
        found = np.asarray(scores)
        if found.dtype.kind not in "fiub" and len(texts):
            raise TypeError(f"of dtype {found.dtype}")
        found = found.astype(np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the scorer gave {scores!r:.60}, which are no numbers ({error}); expected one for each text"
        ) from error
    if found.shape != (len(texts),):
        raise InputError(f"the scorer gave scores of shape {found.shape} for {len(texts)} texts; expected one for each")
    if not np.isfinite(found).all():
        text = texts[int(np.flatnonzero(~np.isfinite(found))[0])]
        raise InputError(f"the scorer gave a score that is not finite for {str(text)!r:.100}; expected numbers")
    if (np.abs(found) > LARGEST).any():
        raise InputError(
            f"the scorer gave a score of {found[np.abs(found).argmax()]:g}; expected less than {LARGEST:g}"
        )
    return found


def check_saturation(scores: NDArray[np.float64], texts: Sequence[Any]) -> None:
    """Refuse probabilities that are flat at their end: the best cannot be told apart, nor fitted.

    A grader of few grades is none of those: most of a saturated scorer's scores differ.

    Raises
    ------
    InputError
        If all scores lie between 0 and 1, most of them differ, and several different texts share a highest one of 1.
    """
    if not len(scores) or scores.min() < 0.0 or not 1.0 - 1e-3 < scores.max() <= 1.0:
        return
    tied = {str(texts[int(i)]) for i in np.flatnonzero(scores == scores.max())}
    others = scores[scores < scores.max()]
    if len(tied) >= max(MANY, TIES * len(scores)) and len(np.unique(others)) > 0.9 * len(others) and len(others):
        raise InputError(
            f"{len(tied)} of {len(scores)} different texts share the score {scores.max():.6g}: the scorer gives "
            "probabilities that are flat at their end; expected raw logits (CrossEncoder.predict with "
            "activation_fn=torch.nn.Identity(), in float32)"
        )
