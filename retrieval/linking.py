"""The neighbour graph of an index: each document's nearest ones, found once and kept beside it.

    retrieval graph INDEX -> the nearest rows of every row -> commit, every minute
    what is added later is linked in its own commit; what is deleted is left out when the graph is read
    whose neighbours are mostly gone is linked anew by the next retrieval graph INDEX

A document's list is made once: what is added later is linked *with* it by its own list, for links count both ways
(`retrieval.geodesic.graph`). A rebuild moves all vectors, and makes all lists anew.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.bundle import Bundle
from indexes.errors import InputError
from indexes.files import write_array
from indexes.loaded import LoadedSegment
from indexes.manifest import Segment
from indexes.stored import NEIGHBOR, StoredVectors, blank
from indexes.writer import BundleWriter

from .making import batches
from .neighbors import is_unlinked, neighbor_lists, positioned
from .progress import Advance, progress_bar
from .provenance import made_by
from .waiting import when_free

Int64 = NDArray[np.int64]

NEIGHBORS, MOST = 16, 1000
"""Rows that a row is linked with, where nothing else is said, and at most."""

COMMIT_EVERY = 60.0
"""Seconds between two commits: what an interruption can cost."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Linking:
    """What came of it.

    Parameters
    ----------
    neighbors : int
        Nearest documents that each document is linked with.
    linked, documents : int
        Documents that were linked now, and all of the index.
    """

    neighbors: int
    linked: int
    documents: int


def link_documents(bundle: Bundle, *, neighbors: int | None, fresh: bool, progress: bool) -> Linking:
    """Give an index a neighbour graph, or go on with the one it has; see `Engine.build_graph`."""
    if neighbors is not None and (
        isinstance(neighbors, bool) or not isinstance(neighbors, int | np.integer) or not 1 <= neighbors <= MOST
    ):
        raise InputError(f"neighbors={neighbors!r}; expected a whole number from 1 to {MOST:,}")
    with progress_bar("linking", bundle.read(lambda: bundle.manifest.documents), progress) as advance:
        linked = done = _link_some(bundle, neighbors, fresh, advance)
        while done:  # others may write between two commits
            done = when_free(lambda: _link_some(bundle, None, False, advance))
            linked += done
    width, documents = bundle.read(lambda: (bundle.manifest.neighbors, bundle.manifest.documents))
    return Linking(neighbors=width or 0, linked=linked, documents=documents)


def _link_some(bundle: Bundle, neighbors: int | None, fresh: bool, advance: Advance) -> int:
    """Link as many documents as a minute is enough for, in one commit; how many."""
    with BundleWriter(bundle.folder, bundle) as writer:
        has, loaded = bundle.manifest.neighbors, bundle.loaded
        begin = fresh or has is None
        if not begin and neighbors not in (None, has):
            raise InputError(
                f"{bundle.folder} has a graph of {has} neighbors already; leave the number out to go on with it, or "
                "begin anew (fresh=True, --fresh)"
            )
        width = int(neighbors or has or NEIGHBORS)
        rows = bundle.live_rows() if begin else unlinked_rows(bundle)
        if not (len(rows) or begin):
            return 0
        values = _some_lists(loaded, rows, width, advance)
        segments = []
        for each in loaded:
            if begin:
                each = dataclasses.replace(each, segment=dataclasses.replace(each.segment, neighbors=None))
                before = blank(each.segment.count, width, NEIGHBOR)
            else:
                before = bundle.kept_of("neighbors", each.segment)
            segments.append(writer.with_values(each, "neighbors", before, rows[: len(values)], values))
        writer.commit(segments, made_by=made_by(), neighbors=width)
    bundle.refresh()
    return len(values)


def _some_lists(loaded: Sequence[LoadedSegment], rows: Int64, neighbors: int, advance: Advance) -> NDArray[Any]:
    """The lists of as many of some rows as a minute is enough for."""
    found, until = [blank(0, neighbors, NEIGHBOR)], time.monotonic() + COMMIT_EVERY
    for block in neighbor_lists(loaded, rows, neighbors, advance):
        found.append(block)
        if time.monotonic() > until:
            break
    return np.concatenate(found)


def drop_graph(bundle: Bundle) -> None:
    """Leave an index without its neighbour graph; see `Engine.drop_graph`."""
    with BundleWriter(bundle.folder, bundle) as writer:
        if bundle.manifest.neighbors is not None:
            segments = [dataclasses.replace(segment, neighbors=None) for segment in bundle.manifest.segments]
            writer.commit(segments, made_by=made_by(), neighbors=None)
    bundle.refresh()


def unlinked_rows(bundle: Bundle) -> Int64:
    """Live rows to be linked, of shape (m,), int64; within `Bundle.read`.

    Those that nobody has looked for neighbours of, and those that most of the neighbours were deleted of.
    """
    lists = bundle.kept("neighbors")
    assert lists is not None
    blocks: Iterator[NDArray[Any]] = batches(lists, lambda _: None)
    left = [is_unlinked(positioned(lists.rows, block), len(lists)) for block in blocks]
    rows: Int64 = lists.rows[np.concatenate([np.empty(0, np.bool_), *left])]
    return rows


def graph_record(bundle: Bundle) -> dict[str, Any] | None:
    """What `Engine.info` tells of an index's neighbour graph; within `Bundle.read`."""
    manifest = bundle.manifest
    if manifest.neighbors is None:
        return None
    return {"neighbors": manifest.neighbors, "documents": manifest.documents - len(unlinked_rows(bundle))}


def write_lists(
    writer: BundleWriter, new: LoadedSegment, others: Sequence[LoadedSegment], known: StoredVectors, progress: bool
) -> Segment:
    """A new segment with the nearest rows of its rows: the lists that are known, and those of the rows behind them.

    Parameters
    ----------
    writer : BundleWriter
    new : LoadedSegment
    others : sequence of LoadedSegment
        The rest of the index.
    known : StoredVectors
        Lists of the first rows of `new`, or of none.
    progress : bool
    """
    neighbors = known.shape[1]
    rows = new.rows[len(known) :]

    def blocks() -> Iterator[NDArray[Any]]:
        yield from batches(known, lambda _: None)
        with progress_bar("linking", len(rows), progress) as advance:
            yield from neighbor_lists([*others, new], rows, neighbors, advance)

    shape = (len(new.rows), neighbors)
    return writer.with_kept(
        new.segment, "neighbors", lambda path: write_array(path, "neighbors", blocks(), shape, NEIGHBOR)
    )
