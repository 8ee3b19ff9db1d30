"""The index folder, as a reader sees it (`indexes.writer` makes it).

    INDEX/catalogue.sqlite             documents and manifest: the commit point
    INDEX/segments/000001.faiss        search structure of the rows of commit 1
    INDEX/segments/000001.raw.npy      their raw vectors, memory-mapped when needed
    INDEX/segments/000001.whitening.safetensors
    INDEX/staging/                     a build in progress (see `indexes.staging`)
    INDEX/write.lock                   one writer at a time

Files are written and fsynced first, under names that no commit has listed before;
then one SQLite transaction lists them together with the documents. A reader sees
one committed state or the next. What no commit lists is swept by the next writer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .catalogue import Catalogue, StoredDocument
from .errors import IndexCorruptError, InputError
from .manifest import Manifest
from .vectors import VectorIndex

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]

DECIMALS = 6
"""Scores are rounded here: float32 arithmetic differs below it between one query and a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A document and its inner product with a query."""

    document: StoredDocument
    score: float


class Bundle:
    """An index folder, opened for reading.

    Parameters
    ----------
    folder : Path

    Raises
    ------
    IndexMissingError, IndexUnfinishedError, IndexVersionError, IndexCorruptError
        See `indexes.errors`; every file is held against its checksum before it is used.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._catalogue = Catalogue(folder)
        self._generation = -1
        try:
            with self._catalogue.snapshot() as manifest:
                self._load(manifest)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Let go of the files."""
        self._catalogue.close()

    @property
    def manifest(self) -> Manifest:
        """The state that is loaded."""
        return self._manifest

    @property
    def whitening_path(self) -> Path | None:
        """The whitening of this index, verified, or None."""
        entry = self._manifest.whitening_file
        return None if entry is None else entry.verify(self.folder / "segments")

    def truncated(self) -> int:
        """Number of live documents whose text was longer than the model reads."""
        with self._catalogue.snapshot():
            return self._catalogue.count("truncated = 1")

    def bytes_on_disk(self) -> int:
        """Size of the catalogue and of the files that the last commit lists."""
        return sum(file.bytes for file in self._manifest.files) + (self.folder / "catalogue.sqlite").stat().st_size

    def get(self, ids: Sequence[str]) -> list[StoredDocument]:
        """The documents of these ids, in this order.

        Raises
        ------
        InputError
            If an id is not in the index.
        """
        with self._catalogue.snapshot():
            rows = self._catalogue.rows_of(ids)
            if missing := [doc_id for doc_id in ids if doc_id not in rows]:
                raise InputError(f"id {missing[0]!r} is not in {self.folder}; expected ids of its documents")
            documents = self._catalogue.documents(list(rows.values()))
        return [documents[rows[doc_id]] for doc_id in ids]

    def raw_documents(self) -> tuple[list[str], NDArray[np.floating[Any]]]:
        """Ids and raw vectors of all live documents, in the order of rows.

        Returns
        -------
        ids : list of n str
        vectors : ndarray of shape (n, d)
            As they are kept; memory-mapped where the index is one segment without deletions.

        Raises
        ------
        InputError
            If the index was built without raw vectors.
        """
        with self._catalogue.snapshot() as manifest:
            rows, ids = self._catalogue.ids()
        parts = []
        for segment in manifest.segments:
            if segment.raw is None:
                raise InputError(f"{self.folder} was built without raw vectors; build it again with raw vectors kept")
            vectors = np.load(segment.raw.verify(self.folder / "segments"), mmap_mode="r", allow_pickle=False)
            live = rows[(rows >= segment.first_row) & (rows < segment.first_row + segment.count)] - segment.first_row
            parts.append(vectors if len(live) == len(vectors) else vectors[live])
        return ids, parts[0] if len(parts) == 1 else np.concatenate(parts)

    def search(
        self, vectors: Float32, k: int, *, filter: str | Mapping[str, Any] | None = None, exact: bool = False
    ) -> list[list[Found]]:
        """The k live documents nearest to each vector.

        Parameters
        ----------
        vectors : ndarray of shape (q, dim), float32
            Unit rows.
        k : int
            At least 1; fewer documents come back where there are fewer.
        filter : str or mapping, optional
            See `indexes.filters`.
        exact : bool, default=False
            Look at every row, whatever the structure.

        Returns
        -------
        list of q lists of Found
            Score descending (rounded to 6 decimals), then id; ties at the end of a list are
            settled by id too, not by chance.

        Raises
        ------
        InputError
            If k < 1, or a filter or vector cannot be used.
        """
        if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
            raise InputError(f"k={k!r}; expected the number of hits, 1 or more")
        with self._catalogue.snapshot() as manifest:
            self._load(manifest)
            wanted = None if filter is None else self._catalogue.rows_matching(filter)
            scores, rows = self._nearest(vectors, k + 8, wanted, exact)
            open_ended = np.arange(len(vectors))
            while len(open_ended := open_ended[_tied_at_end(scores[open_ended], rows[open_ended], k)]):
                depth = min(2 * rows.shape[1], manifest.next_row)
                deeper_scores, deeper_rows = self._nearest(vectors[open_ended], depth, wanted, exact)
                if deeper_rows.shape[1] <= rows.shape[1]:
                    break
                grown = ((0, 0), (0, deeper_rows.shape[1] - rows.shape[1]))
                scores, rows = np.pad(scores, grown, constant_values=-np.inf), np.pad(rows, grown, constant_values=-1)
                scores[open_ended], rows[open_ended] = deeper_scores, deeper_rows
            documents = self._catalogue.documents(np.unique(rows[rows >= 0]).tolist())
        return [
            sorted(
                (
                    Found(document=documents[row], score=score)
                    for row, score in zip(rows_of.tolist(), scores_of.tolist(), strict=True)
                    if row >= 0
                ),
                key=lambda found: (-found.score, found.document.doc_id),
            )[:k]
            for rows_of, scores_of in zip(rows, scores, strict=True)
        ]

    def _nearest(self, vectors: Float32, depth: int, wanted: Int64 | None, exact: bool) -> tuple[Float32, Int64]:
        """Rounded scores and rows over all segments, best first; both (q, at most depth)."""
        all_scores, all_rows = [], []
        for segment, index, alive in self._segments:
            allowed = alive
            if wanted is not None:
                allowed = np.zeros(segment.count, np.bool_)
                allowed[
                    wanted[(wanted >= segment.first_row) & (wanted < segment.first_row + segment.count)]
                    - segment.first_row
                ] = True
            scores, positions = index.search(vectors, depth, allowed=allowed, exact=exact)
            all_scores.append(scores.astype(np.float64).round(DECIMALS))
            all_rows.append(np.where(positions >= 0, positions + segment.first_row, -1))
        scores, rows = np.hstack(all_scores), np.hstack(all_rows)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)

    def _load(self, manifest: Manifest) -> None:
        if manifest.generation == self._generation:
            return
        deleted = self._catalogue.deleted_rows()
        segments, live = [], 0
        for segment in manifest.segments:
            index = VectorIndex.read(segment.vectors.verify(self.folder / "segments"))
            alive = None
            dead = deleted[(deleted >= segment.first_row) & (deleted < segment.first_row + segment.count)]
            if len(dead):
                alive = np.ones(segment.count, np.bool_)
                alive[dead - segment.first_row] = False
            segments.append((segment, index, alive))
            live += segment.count - len(dead)
        if live != manifest.documents:
            raise IndexCorruptError(
                f"{self.folder / 'catalogue.sqlite'} lists {manifest.documents:,} documents, but {live:,} vectors are "
                "not deleted; restore it from a copy or build the index again"
            )
        self._segments, self._manifest, self._generation = segments, manifest, manifest.generation


def _tied_at_end(scores: NDArray[np.floating[Any]], rows: Int64, k: int) -> NDArray[np.bool_]:
    """For each query: whether the last row found has the score of the k-th, so that more such rows may follow."""
    if scores.shape[1] <= k:
        return np.zeros(len(scores), np.bool_)
    tied: NDArray[np.bool_] = (rows[:, -1] >= 0) & (scores[:, -1] == scores[:, k - 1])
    return tied
