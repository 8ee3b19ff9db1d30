"""Anchor queries of an index: chosen, and all documents scored with them by a cross-encoder, in the background.

    candidate queries -> pilot on a few documents -> the most telling ones -> commit
    documents without scores, in an order of chance -> scores -> commit, every few minutes

A document without scores, new or not reached yet, has them predicted from its vector meanwhile
(`retrieval.cross.completion`). So whatever was scored counts at once, an interruption loses minutes, and what came to
the index later is scored by the same call. Nobody is kept from writing while the model runs.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from indexes.bundle import Bundle
from indexes.errors import IndexLockedError, InputError
from indexes.files import FileEntry
from indexes.writer import BundleWriter

from .anchor_trial import PAIRS, Encode, Trial, tell
from .cross.anchors import Anchors
from .cross.calls import Scorer, score_pairs
from .cross.completion import is_scored
from .cross.pilot import Pilot
from .progress import progress_bar
from .provenance import made_by
from .reranking import check_scorer, scorer_record
from .waiting import when_free
from .whitening import Whitening

logger = logging.getLogger(__name__)

Int64 = NDArray[np.int64]
Float16 = NDArray[np.float16]
T = TypeVar("T")

FIRST_PAIRS, SECONDS = 256, 5.0
"""Pairs that are scored together at first; twice as many as long as it takes less time than this."""

COMMIT_EVERY = 300.0
"""Seconds of scoring between two commits: what a kill can cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchoring:
    """What came of it.

    Parameters
    ----------
    anchors : int
        Anchor queries that the index has now.
    scored, documents : int
        Documents with scores, and all of the index.
    calls : int
        How often the cross-encoder was asked, the pilot's calls among them.
    pilot : Pilot or None
        None where it went on with the anchors of the index.
    """

    anchors: int
    scored: int
    documents: int
    calls: int
    pilot: Pilot | None


def score_anchors(
    bundle: Bundle,
    encode: Encode,
    whitening: Callable[[], Whitening | None],
    scorer: Scorer,
    writing: Lock,
    *,
    anchors: int | None,
    queries: Sequence[str] | None,
    documents: int | None,
    pilot_only: bool,
    fresh: bool,
    progress: bool,
) -> Anchoring:
    """Give an index anchor queries, or go on scoring documents with those it has; see `Engine.score_anchors`."""
    for name, value in (("anchors", anchors), ("documents", documents)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise InputError(f"{name}={value!r}; expected a whole number of 1 or more")
    if isinstance(queries, str | bytes):
        raise InputError(f"queries are {queries!r:.40}; expected a sequence of texts")
    record = scorer_record(scorer)
    calls, pilot, commits = 0, None, _Commits(bundle, writing)
    manifest = bundle.read(lambda: bundle.manifest)
    has, live = manifest.anchors, manifest.documents
    if has is not None and not fresh and not pilot_only:
        check_scorer(has, scorer)
        if queries is not None or anchors not in (None, has["count"]):
            raise InputError(
                f"{bundle.folder} has {has['count']} anchor queries already; leave out the choice of others to score "
                "what is not scored yet, or begin anew with fresh=True (--fresh)"
            )
    else:
        if not live:
            raise InputError(f"{bundle.folder} holds no document to be scored; add some first")
        trial = Trial(bundle, encode, whitening, scorer)
        count, pilot = trial.run(anchors, queries, progress)
        calls = trial.calls
        left = min(documents or live, live) - pilot.documents  # those of the pilot are scored
        bill = trial.seconds_a_call * count * max(0, left)
        tell(pilot, count, asked=anchors is not None, seconds=bill)
        if count and not pilot_only:
            chosen = trial.anchors(pilot.order[:count])
            rows, scores = trial.known(pilot.order[:count])
            known = _as_kept(scores)
            when_free(lambda: commits.anchors(chosen, record))
            some = np.random.default_rng(0).permutation(len(rows))[:documents]
            commits.add(rows[some], known[some])
            when_free(commits.scores)
    if pilot is None or (count and not pilot_only):
        calls += _score_documents(commits, scorer, documents, progress)
    scored, live, count = bundle.read(lambda: _standing(bundle))
    return Anchoring(anchors=count, scored=scored, documents=live, calls=calls, pilot=pilot)


def drop_anchors(bundle: Bundle) -> None:
    """Leave an index without anchors and their scores; see `Engine.drop_anchors`."""
    with BundleWriter(bundle.folder, bundle) as writer:
        if bundle.manifest.anchors is not None:
            _replace_anchors(bundle, writer, None, None)
    bundle.refresh()


def _replace_anchors(
    bundle: Bundle, writer: BundleWriter, record: Mapping[str, Any] | None, file: FileEntry | None
) -> None:
    """Commit other anchors, or none; scores of the ones before go."""
    segments = [dataclasses.replace(segment, scores=None) for segment in bundle.manifest.segments]
    writer.commit(segments, made_by=made_by(), anchors=record, anchors_file=file)


def _standing(bundle: Bundle) -> tuple[int, int, int]:
    """Documents scored, all documents, anchor queries."""
    scores = bundle.kept("scores")
    if scores is None:
        return 0, bundle.manifest.documents, 0
    return int(is_scored(scores).sum()), len(scores), scores.shape[1]


def anchors_record(bundle: Bundle) -> dict[str, Any] | None:
    """What `Engine.info` tells of an index's anchors; within `Bundle.read`."""
    record = bundle.manifest.anchors
    if record is None:
        return None
    return {"queries": record["count"], "model": record["name"], "documents": _standing(bundle)[0]}


class _Commits:
    """The commits of one scoring, and the scores that wait for the next.

    Parameters
    ----------
    bundle : Bundle
    writing : Lock
        Held by the thread of this process that writes.
    """

    def __init__(self, bundle: Bundle, writing: Lock) -> None:
        self.bundle, self._writing = bundle, writing
        self._file = bundle.read(lambda: bundle.manifest.anchors_file)
        self._waiting: list[tuple[Int64, Float16]] = []
        self._since = time.monotonic()

    def add(self, rows: Int64, scores: Float16) -> None:
        """Have some rows' scores wait; every few minutes commit them, if nobody else is writing."""
        self._waiting.append((rows, scores))
        if time.monotonic() - self._since > COMMIT_EVERY:
            with suppress(IndexLockedError):  # another time
                self.scores()

    def anchors(self, anchors: Anchors, record: Mapping[str, Any]) -> None:
        """Put anchors in the place of those that the index had, whose scores go."""
        with self._writer() as writer:
            file = writer.write_anchors(anchors.to_bytes())
            _replace_anchors(self.bundle, writer, {"count": len(anchors), **record}, file)
        self.bundle.refresh()
        self._file = file

    def scores(self) -> None:
        """Put what waits beside the documents that are still there."""
        if not self._waiting:
            return
        rows, scores = map(np.concatenate, zip(*self._waiting, strict=True))
        order = np.argsort(rows)
        rows, scores = rows[order], scores[order]
        with self._writer() as writer:
            before = list(self.bundle.manifest.segments)
            segments = [
                writer.with_values(each, "scores", self.bundle.kept_of("scores", each.segment), rows, scores)
                for each in self.bundle.loaded
            ]
            if segments != before:
                writer.commit(segments, made_by=made_by())
        self.bundle.refresh()
        self._waiting.clear()
        self._since = time.monotonic()

    def check(self) -> None:
        """Nothing, if the state that is loaded has the anchors of these scores.

        Raises
        ------
        InputError
        """
        if self.bundle.manifest.anchors_file != self._file:
            raise InputError(
                f"{self.bundle.folder} got other anchor queries meanwhile, or none, not those of these scores; "
                "begin anew with fresh=True (--fresh), or go on with those"
            )

    @contextmanager
    def _writer(self) -> Iterator[BundleWriter]:
        if not self._writing.acquire(blocking=False):
            raise IndexLockedError(f"{self.bundle.folder} is being written by another thread")
        try:
            with BundleWriter(self.bundle.folder, self.bundle) as writer:
                self.check()
                yield writer
        finally:
            self._writing.release()


def _score_documents(commits: _Commits, scorer: Scorer, documents: int | None, progress: bool) -> int:
    """Score what is not scored yet, until so many documents are; the number of calls."""
    bundle = commits.bundle

    def to_do() -> tuple[Sequence[str], Int64]:
        commits.check()
        scores, path = bundle.kept("scores"), bundle.anchors_path
        assert scores is not None and path is not None
        known = is_scored(scores)
        left = np.random.default_rng(0).permutation(scores.rows[~known])  # whatever is reached is a fair sample
        most = len(scores) if documents is None else documents
        return Anchors.load(path).queries, left[: max(0, most - int(known.sum()))]

    queries, rows = bundle.read(to_do)
    rows = np.random.default_rng().permutation(rows)  # two processes that score at once meet late
    calls, start, pairs = 0, 0, min(FIRST_PAIRS, PAIRS)
    with progress_bar("scoring", len(rows), progress) as advance:
        try:
            while start < len(rows):
                step, began = max(1, pairs // len(queries)), time.perf_counter()
                some, texts = _still_to_do(commits, rows[start : start + step])
                if texts:
                    scores = np.stack(score_pairs(scorer, queries, [texts] * len(queries)), axis=1)
                    calls += scores.size
                    commits.add(some, _as_kept(scores))
                if time.perf_counter() - began < SECONDS:
                    pairs = min(PAIRS, 2 * pairs)
                advance(min(step, len(rows) - start))
                start += step
            when_free(commits.scores)
        except BaseException:  # Ctrl-C, or a text that the scorer cannot take: what was paid for is kept
            try:
                commits.scores()
            except Exception as error:  # noqa: BLE001  # what stopped the scoring is what is to be told
                logger.warning("the last scores are lost: %s", error)
            raise
    return calls


def _still_to_do(commits: _Commits, rows: Int64) -> tuple[Int64, list[str]]:
    """Those of some rows that were not deleted meanwhile, nor scored by another process, and their texts."""
    bundle = commits.bundle

    def found() -> tuple[Int64, list[str]]:
        commits.check()
        scores = bundle.kept("scores")
        assert scores is not None
        at = np.flatnonzero(np.isin(scores.rows, rows))
        left = scores.rows[at[~is_scored(scores[at])]]
        return left, bundle.texts(left.tolist())

    return bundle.read(found)


def _as_kept(scores: NDArray[np.floating[Any]]) -> Float16:
    """Scores as they are stored.

    Raises
    ------
    InputError
        If one is too large.
    """
    with np.errstate(over="ignore"):
        kept = scores.astype(np.float16)
    if not np.isfinite(kept).all():
        raise InputError(f"the scorer gave a score of {scores[~np.isfinite(kept)][0]:g}; expected less than 65,504")
    return kept
