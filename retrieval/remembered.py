"""A scorer that is asked about no pair twice: its scores are kept in a file.

A score is found again by who gave it, the query and the text, whatever index or document the text stands in. A model's
logits differ in their last digits with the batch that a pair is in; what is kept is the first that was given.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError
from indexes.pair_scores import PairScores

from .cross.calls import Scorer, score_pairs


def unremembered(scorer: Scorer) -> Scorer:
    """The scorer itself, where its scores are kept elsewhere or are not to be believed as its pace."""
    return scorer.scorer if isinstance(scorer, RememberedScorer) else scorer


class RememberedScorer:
    """The scores of a scorer, which is asked only for those that are not kept yet.

    Parameters
    ----------
    scorer : callable
        ``scorer(query, texts) -> scores``, with a mapping `fingerprint` of all that decides a score.
    pairs : PairScores
        Where they are kept.

    Attributes
    ----------
    name, fingerprint
        Those of the scorer.
    asked : int
        Pairs that the scorer was asked about.
    remembered : int
        All others: found in the file, or twice in one call.

    Raises
    ------
    InputError
        If the scorer has no fingerprint that JSON could hold.

    Examples
    --------
    >>> from pathlib import Path
    >>> class Lengths:
    ...     fingerprint = {"scores": "how long a text is"}
    ...     def __call__(self, query, texts):
    ...         return [float(len(text)) for text in texts]
    >>> scorer = RememberedScorer(Lengths(), PairScores(Path("pairs.sqlite")))
    >>> scorer("a query", ["one", "three"]).tolist()
    [3.0, 5.0]
    >>> scorer("a query", ["three", "four", "three"]).tolist(), scorer.asked, scorer.remembered
    ([5.0, 4.0, 5.0], 3, 2)
    """

    def __init__(self, scorer: Scorer, pairs: PairScores) -> None:
        fingerprint: Any = getattr(scorer, "fingerprint", None)
        try:
            precision = getattr(scorer, "precision", None)  # of a compiled model: the last digits depend on it
            decides = dict(fingerprint or {}) | ({"precision": precision} if precision else {})
            made_by = json.dumps(decides, sort_keys=True) if fingerprint else ""
        except (TypeError, ValueError):
            made_by = ""
        if not made_by:
            raise InputError(
                f"scores of {scorer!r:.100} cannot be told from those of another scorer by its fingerprint "
                f"{fingerprint!r:.100}; give it a `fingerprint`, a mapping that JSON can hold of all that decides a "
                "score (weights, tokenizer, longest text), or take the scorer as it is"
            )
        self.scorer, self.pairs = scorer, pairs
        self.name: str | None = getattr(scorer, "name", None)
        self.fingerprint: Mapping[str, Any] = fingerprint
        self.asked = self.remembered = 0
        self._made_by = made_by

    def __call__(self, query: str, texts: Sequence[str]) -> NDArray[np.float64]:
        """The score of the query with each of n texts, of shape (n,)."""
        return self.scores([query] * len(texts), texts)

    def scores(self, firsts: Sequence[str], seconds: Sequence[str]) -> NDArray[np.float64]:
        """The scores of n pairs, of shape (n,): the numbers that the scorer gave, as float64.

        Raises
        ------
        InputError
            If there are not as many of both, or what the scorer gives cannot be used (then none of it is kept).
        """
        if len(firsts) != len(seconds):
            raise InputError(f"{len(firsts)} first texts and {len(seconds)} second ones; expected as many of both")
        keys = [self._key(first, second) for first, second in zip(firsts, seconds, strict=True)]
        place = {key: i for i, key in enumerate(keys)}
        found = dict(zip(place, self.pairs.get(list(place)), strict=True))
        missing: dict[str, list[bytes]] = {}  # by query
        for key, score in found.items():
            if score is None:
                missing.setdefault(firsts[place[key]], []).append(key)
        new = list(chain.from_iterable(missing.values()))
        if new:
            texts = [[seconds[place[key]] for key in some] for some in missing.values()]
            given = np.concatenate(score_pairs(self.scorer, list(missing), texts)).tolist()
            self.pairs.put(new, given)
            found |= zip(new, given, strict=True)
        self.asked += len(new)
        self.remembered += len(keys) - len(new)
        return np.array([found[key] for key in keys], np.float64)

    def _key(self, query: str, text: str) -> bytes:
        """16 bytes that stand for who scores, the query and the text; each goes in behind its length."""
        made = hashlib.blake2b(digest_size=16)
        for part in (self._made_by, query, text):
            if not isinstance(part, str):
                raise InputError(f"a pair holds {part!r:.100}; only scores of texts can be remembered")
            data = part.encode("utf-8", "surrogatepass")  # half a character is the scorer's to refuse
            made.update(len(data).to_bytes(8, "big") + data)
        return made.digest()
