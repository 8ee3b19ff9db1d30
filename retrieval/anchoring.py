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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from indexes.bundle import Bundle
from indexes.errors import IndexLockedError, InputError
from indexes.files import FileEntry, write_array
from indexes.manifest import Segment
from indexes.writer import BundleWriter

from .anchor_trial import PAIRS, Encode, Trial, tell
from .cross.anchors import Anchors
from .cross.calls import Scorer, score_pairs
from .cross.completion import is_scored
from .cross.pilot import Pilot
from .making import batches
from .progress import progress_bar
from .provenance import made_by
from .reranking import check_scorer
from .whitening import Whitening

logger = logging.getLogger(__name__)

Int64 = NDArray[np.int64]
Float16 = NDArray[np.float16]
T = TypeVar("T")

COMMIT_EVERY = 300.0
"""Seconds of scoring between two commits: what a kill can cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchoring:
    """What came of it.

    Parameters
    ----------
    anchors : int
        Anchor queries of the index; 0 if the pilot found none worth it, or was all that was asked for.
    scored, documents : int
        Documents with scores, and all of the index.
    calls : int
        How often the cross-encoder was asked, the pilot's calls among them.
    pilot : Pilot or None
        None where the index had its anchors already.
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
    if not getattr(scorer, "fingerprint", None):
        raise InputError(
            "the scorer has no fingerprint, so its scores could not be told from another's; name a cross-encoder, or "
            "give the scorer an attribute `fingerprint`: a mapping of all that decides its scores"
        )
    calls, pilot = 0, None
    manifest = bundle.read(lambda: bundle.manifest)
    has, live = manifest.anchors, manifest.documents
    if has is not None and not fresh:
        check_scorer(has, scorer)
        if pilot_only or queries is not None or anchors not in (None, has["count"]):
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
        bill = trial.seconds_a_call * count * min(documents or live, live)
        tell(pilot, count, asked=anchors is not None, seconds=bill)
        if pilot_only or not count:
            return Anchoring(anchors=0, scored=0, documents=live, calls=calls, pilot=pilot)
        chosen = trial.anchors(pilot.order[:count])
        _when_free(lambda: _commit_anchors(bundle, manifest.anchors_file, chosen, scorer))
    calls += _score_documents(bundle, scorer, documents, progress)
    scored, live, count = bundle.read(lambda: _standing(bundle))
    return Anchoring(anchors=count, scored=scored, documents=live, calls=calls, pilot=pilot)


def _standing(bundle: Bundle) -> tuple[int, int, int]:
    """Documents scored, all documents, anchor queries."""
    scores = bundle.anchor_scores()
    if scores is None:
        return 0, bundle.manifest.documents, 0
    return int(is_scored(scores).sum()), len(scores), scores.shape[1]


def anchors_record(bundle: Bundle) -> dict[str, Any] | None:
    """What `Engine.info` tells of an index's anchors; within `Bundle.read`."""
    record = bundle.manifest.anchors
    if record is None:
        return None
    return {"queries": record["count"], "model": record["name"], "documents": _standing(bundle)[0]}


def _commit_anchors(bundle: Bundle, before: FileEntry | None, anchors: Anchors, scorer: Any) -> None:
    record = {
        "count": len(anchors),
        "name": getattr(scorer, "name", type(scorer).__name__),
        "source": getattr(scorer, "source", ""),
        "fingerprint": dict(scorer.fingerprint),
    }
    with BundleWriter(bundle.folder, bundle) as writer:
        if bundle.manifest.anchors_file != before:
            raise InputError(
                f"{bundle.folder} got other anchor queries meanwhile; begin anew with fresh=True (--fresh)"
            )
        segments = [dataclasses.replace(segment, scores=None) for segment in bundle.manifest.segments]
        file = writer.write_anchors(anchors.to_bytes())
        writer.commit(segments, made_by=made_by(), anchors=record, anchors_file=file)
    bundle.refresh()


@dataclass
class _Pending:
    """Rows and their scores that are not committed yet."""

    scored: list[tuple[Int64, Float16]] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)


def _score_documents(bundle: Bundle, scorer: Scorer, documents: int | None, progress: bool) -> int:
    """Score what is not scored yet, until so many documents are; the number of calls."""

    def to_do() -> tuple[Any, Sequence[str], Int64]:
        scores, path = bundle.anchor_scores(), bundle.anchors_path
        assert scores is not None and path is not None
        known = is_scored(scores)
        left = np.random.default_rng(0).permutation(scores.rows[~known])  # whatever is reached is a fair sample
        most = len(scores) if documents is None else documents
        return bundle.manifest.anchors_file, Anchors.load(path).queries, left[: max(0, most - int(known.sum()))]

    file, queries, rows = bundle.read(to_do)
    step, pending, calls = max(1, PAIRS // len(queries)), _Pending(), 0
    with progress_bar("scoring", len(rows), progress) as advance:
        try:
            for start in range(0, len(rows), step):
                some, texts = _still_there(bundle, rows[start : start + step])
                if texts:
                    calls += len(some) * len(queries)
                    pending.scored.append((some, _scored(scorer, queries, texts)))
                advance(min(step, len(rows) - start))
                if time.monotonic() - pending.since > COMMIT_EVERY:
                    with suppress(IndexLockedError):  # another time
                        _commit_scores(bundle, file, pending)
            _when_free(lambda: _commit_scores(bundle, file, pending))
        except KeyboardInterrupt:
            try:
                _commit_scores(bundle, file, pending)
            except IndexLockedError as error:
                logger.warning("the last scores are lost, another process is writing: %s", error)
            raise
    return calls


def _still_there(bundle: Bundle, rows: Int64) -> tuple[Int64, list[str]]:
    """Those of some rows that were not deleted meanwhile, and their texts."""

    def found() -> tuple[Int64, list[str]]:
        live = [loaded.live()[1] for loaded in bundle.loaded]
        alive = rows[np.isin(rows, np.concatenate([rows[:0], *live]))]
        return alive, bundle.texts(alive.tolist())

    return bundle.read(found)


def _scored(scorer: Scorer, queries: Sequence[str], texts: list[str]) -> Float16:
    scores = np.stack(score_pairs(scorer, queries, [texts] * len(queries)), axis=1)
    with np.errstate(over="ignore"):
        kept = scores.astype(np.float16)
    if not np.isfinite(kept).all():
        raise InputError(f"the scorer gave a score of {scores[~np.isfinite(kept)][0]:g}; expected less than 65,504")
    return kept


def _when_free(commit: Callable[[], T]) -> T:
    """A commit, as soon as no other process is writing."""
    told = False
    while True:
        try:
            return commit()
        except IndexLockedError as error:
            if not told:
                logger.info("waiting to commit: %s", error)
            told = True
            time.sleep(1.0)


def _commit_scores(bundle: Bundle, file: FileEntry, pending: _Pending) -> None:
    """Put the scores beside the documents that are still there, in one commit."""
    if not pending.scored:
        return
    rows, scores = map(np.concatenate, zip(*pending.scored, strict=True))
    order = np.argsort(rows)
    rows, scores = rows[order], scores[order]
    with BundleWriter(bundle.folder, bundle) as writer:
        if bundle.manifest.anchors_file != file:
            raise InputError(f"{bundle.folder} got other anchor queries meanwhile; these scores are of no use any more")
        segments = [_with_scores(writer, bundle, segment, rows, scores) for segment in bundle.manifest.segments]
        if segments != list(bundle.manifest.segments):
            writer.commit(segments, made_by=made_by())
    bundle.refresh()
    pending.scored.clear()
    pending.since = time.monotonic()


def _with_scores(writer: BundleWriter, bundle: Bundle, segment: Segment, rows: Int64, scores: Float16) -> Segment:
    """A segment with the scores of those of some rows (ascending) that it has."""
    (loaded,) = (each for each in bundle.loaded if each.segment == segment)
    new = np.isin(rows, loaded.rows)
    if not new.any():
        return segment
    places, values = loaded.positions_of(rows), scores[new]
    before = bundle.segment_scores(segment)

    def blocks() -> Iterator[Float16]:
        start = 0
        for block in batches(before, lambda _: None):
            block = np.array(block)
            here = (places >= start) & (places < start + len(block))
            block[places[here] - start] = values[here]
            yield block
            start += len(block)

    return writer.with_scores(segment, lambda path: write_array(path, "scores", blocks(), before.shape, np.float16))
