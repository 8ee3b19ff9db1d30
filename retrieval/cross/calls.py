"""The scorer, asked once for each pair and looked at: what it gives must be one finite raw score a text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError

Scorer = Callable[[Any, Sequence[Any]], Any]
"""scorer(query, texts) -> as many scores; higher is better. Its method scores(queries, texts), if any, takes pairs."""

TIES, MANY = 0.01, 3
"""At most this share of a query's scores, and fewer than so many, may be the same maximum of a probability."""


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
    found = np.asarray(scores, np.float64)
    if found.shape != (len(texts),):
        raise InputError(f"the scorer gave scores of shape {found.shape} for {len(texts)} texts; expected one for each")
    if not np.isfinite(found).all():
        text = texts[int(np.flatnonzero(~np.isfinite(found))[0])]
        raise InputError(f"the scorer gave a score that is not finite for {str(text)!r:.100}; expected numbers")
    return found


def check_saturation(scores: NDArray[np.float64], texts: Sequence[Any]) -> None:
    """Refuse probabilities that are flat at their end: the best cannot be told apart, nor fitted.

    Raises
    ------
    InputError
        If all scores lie between 0 and 1 and several different texts share the highest, or the lowest.
    """
    if not len(scores) or scores.min() < 0.0 or scores.max() > 1.0 or scores.min() == scores.max():
        return
    for end, share in ((scores.max(), 1.0), (scores.min(), 0.0)):
        tied = {texts[int(i)] for i in np.flatnonzero(scores == end)}
        if abs(end - share) < 1e-3 and len(tied) >= max(MANY, TIES * len(scores)):
            raise InputError(
                f"{len(tied)} of {len(scores)} different texts share the score {end:.6g}: the scorer gives "
                "probabilities that are flat at their end; expected raw logits (CrossEncoder.predict with "
                "activation_fn=torch.nn.Identity(), in float32)"
            )
