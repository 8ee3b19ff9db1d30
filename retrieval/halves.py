"""How well whitened vectors find a text by a half of it: what can be known of a corpus without labels.

    some texts -> first half, second half -> encoded -> nDCG@10 of (first half -> second half among other texts)
                                                    and of (first half -> whole text among other texts)

A whitening that draws apart what belongs together is seen by it: gamma = 0.375 gains 1.0 points of true
nDCG@10 on cranfield and costs 3.0 on medquad-qa (docs/whitening.md), and it is chosen for the first and
not for the second. It favours strong whitening, so it is asked only about gamma <= 0.375.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError

from .encoder import Encoder
from .grid import Cell, FindObjective, Rotation, judge
from .moments import Float64, Moments, spread
from .whitening import DEFAULTS, Whitening

logger = logging.getLogger(__name__)

HAYSTACK = 20_000
"""Documents, evenly spaced over the corpus, among which is searched."""
HALVED = 500
"""Of these, evenly spaced, at most so many are halved, and at most a quarter: their halves are encoded once more."""
FEWEST = 20
GAMMAS = (0.0, 0.125, 0.25, 0.375)

_SENTENCE_END = re.compile(r"[.!?]\s+|[\u3002\uff01\uff1f\n]\s*")
_SPACE = re.compile(r"\s+")


class TooFewTextsError(InputError):
    """A corpus has too few texts that can be halved."""


def halves(text: str) -> tuple[str, str] | None:
    """A text cut between two sentences if that can be done near its middle, else between two words or characters.

    None, if one half would be shorter than four characters.

    Examples
    --------
    >>> halves("A spy drinks. He is in a casino.")
    ('A spy drinks.', 'He is in a casino.')
    >>> halves("where can I get a new card?")
    ('where can I', 'get a new card?')
    """
    middle = len(text) / 2
    for pattern in (_SENTENCE_END, _SPACE):
        cuts = [m.end() for m in pattern.finditer(text) if middle / 2 <= m.end() <= 1.5 * middle]
        if cuts:
            cut = min(cuts, key=lambda place: abs(place - middle))
            break
    else:
        cut = len(text) // 2
    one, two = text[:cut].strip(), text[cut:].strip()
    return (one, two) if min(len(one), len(two)) >= 4 else None


class HalvesObjective:
    """The mean nDCG@10 of finding the second half, and the whole text, by the first half.

    Parameters
    ----------
    documents : ndarray of shape (n, d)
        Raw vectors of the corpus; memory-mapped is fine, at most `HAYSTACK` rows are read.
    texts_of : callable
        From row numbers, ascending, to their texts.
    encoder : Encoder

    Attributes
    ----------
    n_texts : int
        Texts that were halved.

    Raises
    ------
    TooFewTextsError
        If fewer than `FEWEST` texts can be halved.
    """

    def __init__(
        self, documents: NDArray[Any], texts_of: Callable[[Sequence[int]], Sequence[str]], encoder: Encoder
    ) -> None:
        rows = spread(len(documents), HAYSTACK)
        places = spread(len(rows), min(HALVED, len(rows) // 4))
        texts = texts_of(rows[places].tolist()) if len(places) else []
        pairs = [(place, cut) for place, text in zip(places.tolist(), texts, strict=True) if (cut := halves(text))]
        if len(pairs) < FEWEST:
            raise TooFewTextsError(f"{len(pairs)} of {len(places)} texts can be halved; expected {FEWEST} or more")
        first = encoder.encode([cut[0] for _, cut in pairs], "query").vectors
        second = encoder.encode([cut[1] for _, cut in pairs], "document").vectors
        whole = np.array(documents[rows], np.float32)
        halved = whole.copy()
        answers = [{place: 1.0} for place, _ in pairs]
        halved[[place for place, _ in pairs]] = second
        self._parts = [FindObjective(first, haystack, answers) for haystack in (halved, whole)]
        self.dim, self.n_texts = whole.shape[1], len(pairs)

    def scores(self, rotate: Rotation, scales: Float64, dims: Sequence[int]) -> Float64:
        """Mean nDCG@10, of shape (s, len(dims))."""
        found: Float64 = np.mean([part.scores(rotate, scales, dims) for part in self._parts], axis=0)
        return found


def choose_whitening(
    moments: Moments,
    documents: NDArray[Any],
    texts_of: Callable[[Sequence[int]], Sequence[str]],
    encoder: Encoder,
    dim: int,
) -> Whitening:
    """The whitening with `dim` columns by which halves of the corpus's own texts are found best, fitted.

    beta, epsilon and local are `DEFAULTS`; gamma is one of `GAMMAS`. A corpus of which too few texts can be
    halved gets `DEFAULTS`.

    Parameters
    ----------
    moments : Moments
        Of all documents, with neighbour differences.
    documents, texts_of, encoder
        See `HalvesObjective`.
    dim : int
    """
    try:
        objective = HalvesObjective(documents, texts_of, encoder)
    except TooFewTextsError as error:
        logger.info("whitening: %s columns, the defaults (%s)", dim, error)
        return Whitening(dim, **DEFAULTS).fit(moments)
    cells = judged_by_halves(moments, objective, [dim])
    best = max(cells, key=lambda cell: (round(cell.score, 6), -cell.gamma))
    logger.info(
        "whitening: %s columns, gamma %g finds texts by a half of them best (nDCG@10 %s at gamma %s, over %s texts)",
        dim,
        best.gamma,
        ", ".join(f"{cell.score:.3f}" for cell in cells),
        ", ".join(f"{cell.gamma:g}" for cell in cells),
        objective.n_texts,
    )
    return best.whitening().fit(moments)


def judged_by_halves(moments: Moments, objective: HalvesObjective, dims: Sequence[int]) -> list[Cell]:
    """A cell for each dim and each of `GAMMAS`; all else is `DEFAULTS`."""
    others = ([DEFAULTS[name]] for name in ("epsilon", "local"))
    return list(judge(moments, objective, dims, [DEFAULTS["beta"]], GAMMAS, *others))
