"""The pilot on an index: queries to choose anchors from, scored with some documents (`retrieval.cross.pilot`)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from indexes.bundle import Bundle
from indexes.errors import InputError

from .cross.anchors import Anchors
from .cross.calls import Scorer, check_saturation, score_pairs
from .cross.pilot import Pilot, calls_in, try_anchors
from .making import whiten
from .moments import Float32
from .progress import progress_bar
from .whitening import Whitening

logger = logging.getLogger(__name__)

Int64 = NDArray[np.int64]
Encode = Callable[[Sequence[str]], Float32]

SIZES = (10, 25, 50, 100)
"""Numbers of anchors that are tried."""

HELD_OUT, DOCUMENTS = 20, 256
"""Queries that are searched for, and documents that are searched."""

PAIRS = 4096
"""Pairs that are scored together."""


class Trial:
    """Candidate queries of an index, some of its documents, and their scores.

    Attributes
    ----------
    calls : int
    seconds_a_call : float
    """

    def __init__(
        self, bundle: Bundle, encode: Encode, whitening: Callable[[], Whitening | None], scorer: Scorer
    ) -> None:
        self._bundle, self._encode, self._whitening, self._scorer = bundle, encode, whitening, scorer
        self.calls, self.seconds_a_call = 0, 0.0

    def run(self, anchors: int | None, queries: Sequence[str] | None, progress: bool) -> tuple[int, Pilot]:
        """How many anchors there should be, and what the pilot said."""
        bundle, chance = self._bundle, np.random.default_rng(0)
        most = anchors or max(SIZES)

        def sampled() -> tuple[int, Int64, list[str], Float32, list[str], Whitening | None]:
            vectors = bundle.searched_vectors()
            rows = chance.permutation(len(vectors))
            some = np.sort(rows[:DOCUMENTS])
            scored = vectors.rows[some]
            wanted = min(len(rows), max(2 * most, most + HELD_OUT))
            own = queries is None
            asked = bundle.texts(vectors.rows[rows[-wanted:]].tolist()) if own else []
            given = np.asarray(vectors[some], np.float32)
            return len(rows), scored, bundle.texts(scored.tolist()), given, asked, self._whitening()

        documents, self._rows, texts, vectors, own, whitening = bundle.read(sampled)
        candidates = list(dict.fromkeys(own if queries is None else queries))
        if queries is not None and anchors is not None and len(candidates) < anchors:
            raise InputError(f"{len(candidates)} different queries for {anchors} anchors; give more, or fewer anchors")
        if queries is not None:
            room = max(2 * most, most + HELD_OUT)
            candidates = [candidates[i] for i in chance.permutation(len(candidates))[:room]]
        if len(candidates) < 2:
            raise InputError(f"{len(candidates)} different queries to choose anchors from; expected 2 or more")
        held_out = min(HELD_OUT, len(candidates) // 2)
        self._candidates, self._raw = candidates, self._encode(candidates)
        query_vectors = whiten(self._raw, whitening)
        pairs = len(candidates) * len(texts)
        logger.info(f"pilot: {len(candidates)} queries with {len(texts)} documents, {pairs:,} calls")
        start = time.perf_counter()
        self._scores = scores = self._scored(candidates, texts, progress)
        self.calls = scores.size
        self.seconds_a_call = (time.perf_counter() - start) / max(1, scores.size)
        for row in scores:
            check_saturation(row, texts)
        able = len(candidates) - held_out
        sizes = [size for size in sorted({*SIZES, most}) if size <= min(able, most)] or [min(able, most)]
        count = min(most, len(candidates))
        budget = calls_in(len(texts), documents)
        pilot = try_anchors(scores, vectors, query_vectors, held_out, sizes, count, budget)
        return (count if anchors is not None else pilot.best), pilot

    def anchors(self, order: Sequence[int]) -> Anchors:
        """Some of the candidates, as they are stored."""
        return Anchors(queries=tuple(self._candidates[i] for i in order), vectors=self._raw[np.asarray(order)])

    def known(self, order: Sequence[int]) -> tuple[Int64, NDArray[np.float64]]:
        """The rows of the documents, and their scores with some of the candidates, of shape (m, queries)."""
        return self._rows, self._scores[np.asarray(order)].T

    def _scored(self, queries: list[str], texts: list[str], progress: bool) -> NDArray[np.float64]:
        step, parts = max(1, PAIRS // len(texts)), []
        with progress_bar("pilot", len(queries) * len(texts), progress) as advance:
            for start in range(0, len(queries), step):
                some = queries[start : start + step]
                parts += score_pairs(self._scorer, some, [texts] * len(some))
                advance(len(some) * len(texts))
        return np.stack(parts)


def tell(pilot: Pilot, count: int, *, asked: bool, seconds: float) -> None:
    """Say what a pilot found, how many anchors it comes to, and what scoring takes."""
    logger.info(
        "of the first 10 by the cross-encoder %.0f %% are found with %d calls without anchors (%.0f %% by plain "
        "reranking)",
        pilot.outlooks[0].found, pilot.budget, pilot.plain,
    )  # fmt: skip
    for outlook in pilot.outlooks[1:]:
        logger.info("  with %d anchors: %.0f %%", outlook.anchors, outlook.found)
    shares = [f"{100 * pilot.spectrum[r - 1]:.0f} % in {r}" for r in (1, 5, 20, 50) if r <= len(pilot.spectrum)]
    logger.info("  the scores' variance by directions: %s", ", ".join(shares))
    if count:
        logger.info("%d anchors%s; scoring takes about %s", count, "" if asked else " are enough", _hours(seconds))
    else:
        logger.info("anchors would not help here: none are made; --anchors N takes N nevertheless")


def _hours(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 7200 else f"{seconds / 3600:.1f} hours"
