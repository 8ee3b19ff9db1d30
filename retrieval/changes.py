"""What changes an index that is there: add, upsert, delete, compact, rebuild; each one atomic commit.

An addition becomes a segment of its own, together with those at the end that are no larger than it
grows to be; so three hundred additions of one document leave nine segments, not three hundred.
The whitening stays as it was fitted until `rebuild`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from indexes.bundle import Bundle
from indexes.errors import InputError
from indexes.files import FileEntry, write_array
from indexes.loaded import LoadedSegment
from indexes.manifest import Segment
from indexes.stored import NEIGHBOR, Role, StoredVectors, blank
from indexes.writer import BundleWriter, Write

from .corpora import Fields, Format
from .encoder import Encoder
from .intake import Corpus, stage_corpus
from .linking import write_lists
from .making import (
    WhiteningChoice,
    auto_dim,
    batches,
    check_whitening,
    dim_after,
    encode_staged,
    fitted,
    index_rows,
    is_fitted,
    structure,
    structure_or_auto,
)
from .provenance import compiled_fields, compiled_of, made_by, whitening_fields
from .whitening import Whitening

logger = logging.getLogger(__name__)

Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """What a write did, in documents.

    Parameters
    ----------
    added : int
        New ones.
    replaced : int
        Ones whose text is another now; they were encoded, like those added.
    relabelled : int
        Ones of which the metadata alone is another now.
    unchanged : int
        Ones that were there just so.
    deleted : int
    missing : int
        Ids that were to be deleted and were not there.
    """

    added: int = 0
    replaced: int = 0
    relabelled: int = 0
    unchanged: int = 0
    deleted: int = 0
    missing: int = 0

    def __str__(self) -> str:
        words = {name: name for name in self.__slots__} | {"relabelled": "with other metadata"}
        counts = {words[name]: getattr(self, name) for name in self.__slots__}
        return ", ".join(f"{count:,} {what}" for what, count in counts.items() if count) or "nothing to do"


def put_documents(
    bundle: Bundle,
    encoder: Callable[[], Encoder],
    whitening: Callable[[], Whitening | None],
    corpus: Corpus,
    *,
    replace: bool,
    prune: bool,
    fresh: bool,
    format: Format | None,
    fields: Fields,
    on_error: Literal["fail", "skip"],
    rejects: str | PathLike[str] | None,
    progress: bool,
) -> Changes:
    """Bring a corpus into an index; see `Engine.add` and `Engine.upsert`."""
    if prune and on_error == "skip":
        raise InputError(
            "prune=True (--prune) with on_error='skip' (--on-error skip) would delete the documents whose records are "
            "bad; mend those, or do one after the other"
        )
    if bundle.manifest.neighbors is not None and not bundle.searchable:
        raise InputError(
            f"{bundle.folder} has a neighbour graph, and what is added is linked in it; open it with its search "
            "structures"
        )
    with BundleWriter(bundle.folder, bundle, replace=replace, fresh=fresh) as writer:
        staging = writer.staging
        stage_corpus(
            staging, corpus, format=format, fields=fields, on_error=on_error, rejects=rejects, progress=progress
        )
        superseded = staging.superseded()
        absent = staging.absent() if prune else superseded[:0]
        changes = Changes(
            added=staging.count - staging.replaced,
            replaced=staging.replaced,
            relabelled=staging.relabelled,
            unchanged=staging.unchanged,
            deleted=len(absent),
        )
        if not (staging.count or staging.relabelled or len(absent)):
            return changes
        dead, segments = np.union1d(superseded, absent), list(bundle.manifest.segments)
        differing: dict[str, Any] = {}
        if staging.count:
            encode_staged(staging, encoder(), bundle.manifest.raw or "float16", progress)
            absorbed = _no_larger(bundle, staging.count, dead)
            segments = segments[: len(segments) - len(absorbed)]
            choice, new = _addition(writer, bundle, absorbed, dead, whitening(), progress)
            segments.append(new)
            if len(segments) == 1:
                differing["index"] = choice
        before = bundle.manifest
        after = writer.commit(segments, dead=dead, made_by=made_by(), **differing)
    if after.whitening is None and before.documents < 2 * before.model["dim"] <= after.documents:
        logger.info("%s is large enough for a whitening now: rebuild --auto would choose one", bundle.folder)
    return changes


def _no_larger(bundle: Bundle, count: int, dead: Int64) -> list[Segment]:
    """The segments at the end that an addition of so many documents takes in, one after the other."""
    absorbed: list[Segment] = []
    if bundle.manifest.raw is None:  # their rows would lose a little with each new coding
        return absorbed
    for segment in reversed(bundle.manifest.segments):
        live = len(bundle.rows(segment, dead))
        if live > count:
            break
        absorbed.insert(0, segment)
        count += live
    return absorbed


def _addition(
    writer: BundleWriter,
    bundle: Bundle,
    absorbed: Sequence[Segment],
    dead: Int64,
    whitening: Whitening | None,
    progress: bool,
) -> tuple[Mapping[str, Any], Segment]:
    manifest, staging = bundle.manifest, writer.staging
    rows = np.arange(manifest.next_row, manifest.next_row + staging.count)
    vectors = StoredVectors.of(staging.raw(), rows)
    kept: dict[Role, Write] = {"raw": staging.publish_raw} if manifest.raw else {}
    if absorbed:
        before = bundle.kept("raw", absorbed, dead)
        assert before is not None
        vectors = before + vectors
        kept["raw"] = _copier("raw", vectors)
        if any(segment.scores is not None for segment in absorbed):
            scored = bundle.kept("scores", absorbed, dead)
            assert scored is not None
            unscored = blank(len(rows), scored.shape[1], scored.dtype)
            kept["scores"] = _copier("scores", scored + StoredVectors.of(unscored, rows))
    requested = str(manifest.index["requested"])
    choice = structure_or_auto(requested, len(vectors), manifest.dim)
    index = index_rows(choice, vectors, whitening, manifest.dim, progress)
    segment = writer.write_segment(index, choice.factory, vectors.rows, kept)
    if (linked := bundle.kept("neighbors", absorbed, dead)) is not None:
        gone = np.union1d(bundle.deleted_rows(), dead)
        others = [each.without(gone) for each in bundle.loaded if each.segment not in absorbed]
        new = LoadedSegment(segment=segment, structure=index, rows=vectors.rows)
        segment = write_lists(writer, new, others, linked, progress)
    return choice.record(requested), segment


def _copier(role: Role, vectors: StoredVectors) -> Write:
    return lambda path: write_array(path, role, batches(vectors, lambda _: None), vectors.shape, vectors.dtype)


def check_ids(ids: Iterable[str]) -> list[str]:
    """The ids as a list, once they are known to be strings.

    Raises
    ------
    InputError
        If they are one string, or hold anything else.
    """
    listed = [ids] if isinstance(ids, str) or not isinstance(ids, Iterable) else list(ids)
    if isinstance(ids, str) or not all(isinstance(each, str) for each in listed):
        raise InputError(f"ids={ids!r}; expected a list of ids, each of them a string")
    return listed


def delete_documents(bundle: Bundle, ids: Sequence[str] | None, filter: str | Mapping[str, Any] | None) -> Changes:
    """Take documents out of an index; see `Engine.delete`."""
    if (ids is None) == (filter is None):
        raise InputError("give either ids or a filter of what is to be deleted")
    if filter is not None and not filter:
        raise InputError(f"filter={filter!r} lets everything through; to empty an index remove it, or name what goes")
    if ids is not None:
        ids = check_ids(ids)
    with BundleWriter(bundle.folder, bundle) as writer:
        missing: list[str] = []
        if ids is not None:
            known = bundle.rows_of(wanted := list(dict.fromkeys(ids)))
            missing = [doc_id for doc_id in wanted if doc_id not in known]
            dead = np.array(sorted(known.values()), np.int64)
        else:
            assert filter is not None
            dead = np.sort(bundle.rows_matching(filter))
        if missing:
            logger.warning(
                "not in the index, so not deleted: %s (%s)",
                f"{len(missing):,} of {len(wanted):,} ids",
                ", ".join(map(repr, missing[:3])) + (", ..." if len(missing) > 3 else ""),
            )
        if len(dead):
            writer.commit(bundle.manifest.segments, dead=dead, made_by=made_by())
    return Changes(deleted=len(dead), missing=len(missing))


def compact(bundle: Bundle, whitening: Callable[[], Whitening | None], progress: bool) -> None:
    """One segment without deleted rows, in a structure that suits it; see `Engine.compact`."""
    with BundleWriter(bundle.folder, bundle) as writer:
        manifest = bundle.manifest
        if len(manifest.segments) <= 1 and not len(bundle.deleted_rows()):
            writer.tidy()
            logger.info("%s has one segment or none, without deletions, already", bundle.folder)
            return
        vectors = bundle.kept("raw")
        raw_kept = vectors is not None
        if vectors is None:
            vectors = bundle.searched_vectors()
        choice, segments = _rewritten(
            writer, bundle, vectors, whitening() if raw_kept else None, manifest.dim, None, progress, moved=False
        )
        writer.commit(segments, made_by=made_by(), vacuum=True, index=choice or manifest.index)


def rebuild(
    bundle: Bundle,
    encoder: Callable[[], Encoder],
    *,
    whitening: WhiteningChoice | Literal["same"],
    index: str | None,
    portable: bool,
    progress: bool,
) -> None:
    """Whiten and index all documents anew from their raw vectors; see `Engine.rebuild`."""
    check_whitening(whitening, "same", "auto")
    with BundleWriter(bundle.folder, bundle) as writer:
        manifest = bundle.manifest
        vectors = bundle.kept("raw")
        if vectors is None:
            raise InputError(
                f"{bundle.folder} was built without raw vectors; build it again, of its documents (retrieval export "
                "INDEX), with raw vectors kept"
            )
        if not len(vectors):
            raise InputError(f"{bundle.folder} holds no document to fit a whitening on; add some first")
        fields = compiled_fields(compiled_of(encoder()) if portable else None, writer.write_compiled)
        n, d = vectors.shape
        if whitening == "same":
            whitening = _same(manifest.whitening)
        elif whitening == "auto":
            whitening = auto_dim(n, d)
        dim = dim_after(whitening, d)
        if index is not None:
            structure(index, n, dim)  # a slip is told before the work
        own = not is_fitted(whitening)
        rows = vectors.rows
        fit = fitted(whitening, vectors, lambda places: bundle.texts(rows[places].tolist()), encoder, progress)
        choice, segments = _rewritten(writer, bundle, vectors, fit, dim, index, progress, moved=True)
        fields |= whitening_fields(fit, writer.write_whitening, fitted_below=manifest.next_row if own else 0)
        writer.commit(segments, made_by=made_by(), vacuum=True, index=choice, dim=dim, **fields)


def _same(record: Mapping[str, Any] | None) -> Whitening | None:
    """A whitening of the same parameters, to be fitted again."""
    if record is None:
        return None
    return Whitening(**{name: record[name] for name in ("dim", "beta", "gamma", "epsilon", "local")})


def _rewritten(
    writer: BundleWriter,
    bundle: Bundle,
    vectors: StoredVectors,
    whitening: Whitening | None,
    dim: int,
    index: str | None,
    progress: bool,
    *,
    moved: bool,
) -> tuple[Mapping[str, Any] | None, list[Segment]]:
    """All of an index in one new segment, and what to note of its structure; nothing of an empty index.

    If the vectors have moved, they have other neighbours, too.
    """
    manifest = bundle.manifest
    if not len(vectors):
        return None, []
    requested = str(manifest.index["requested"]) if index is None else index
    choice = (structure_or_auto if index is None else structure)(requested, len(vectors), dim)
    rows = index_rows(choice, vectors, whitening, dim, progress)
    only = manifest.segments[0] if len(manifest.segments) == 1 else None
    whole = only if only is not None and only.count == len(vectors) else None

    def copied(role: Role, values: StoredVectors) -> Write:
        file: FileEntry | None = None if whole is None else getattr(whole, role)
        return _copier(role, values) if file is None else partial(_as_it_is, file)

    kept: dict[Role, Write] = {}
    roles: tuple[Role, ...] = ("raw", "scores") if moved else ("raw", "scores", "neighbors")
    for role in roles:
        values = bundle.kept(role)
        if values is not None and any(getattr(segment, role) is not None for segment in manifest.segments):
            kept[role] = copied(role, values)
    segment = writer.write_segment(rows, choice.factory, vectors.rows, kept)
    if moved and manifest.neighbors is not None:
        new = LoadedSegment(segment=segment, structure=rows, rows=vectors.rows)
        nothing = StoredVectors([], manifest.neighbors, NEIGHBOR)
        segment = write_lists(writer, new, [], nothing, progress)
    return choice.record(requested), [segment]


def _as_it_is(entry: FileEntry, path: Path) -> FileEntry:
    """A file that stays in the index under its old name."""
    return entry
