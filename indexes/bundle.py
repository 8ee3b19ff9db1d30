"""The index folder, as a reader sees it (`indexes.writer` makes it).

    INDEX/catalogue.sqlite             documents and manifest: the commit point
    INDEX/catalogue.seal               its SHA-256, while nobody writes
    INDEX/segments/000001.faiss        search structure of the rows of commit 1
    INDEX/segments/000001.raw.npy      their raw vectors, memory-mapped when needed
    INDEX/segments/000001.sums         SHA-256 of each block of them (see `indexes.blocks`)
    INDEX/segments/000001.rows.npy     their row numbers, where some were deleted before they were merged
    INDEX/segments/000001.whitening.safetensors
    INDEX/segments/000002.anchors.safetensors       queries that a cross-encoder scores the documents with
    INDEX/segments/000003.000000.scores.npy         these scores, where some were made
    INDEX/segments/000004.000000.neighbors.npy      the nearest rows of each row, where there is a neighbour graph
    INDEX/segments/000001.graph.xml, 000001.graph.bin, 000001.tokenizer.json     the compiled encoder, if portable
    INDEX/staging/                     a build in progress (see `indexes.staging`)
    INDEX/write.lock                   one writer at a time
    INDEX/pairs.sqlite                 scores of a cross-encoder, of no commit (see `indexes.pair_scores`)

Files are written and fsynced first, under names that no commit has listed before;
then one SQLite transaction lists them together with the documents. A reader sees
one committed state or the next. What no commit lists is swept by the next writer.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .blocks import CheckedRows
from .catalogue import Catalogue, StoredDocument
from .errors import RESTORE, IndexCorruptError, IndexError_, InputError
from .files import FileEntry, map_array
from .loaded import LoadedSegment, nearest, row_scores, searched
from .manifest import Manifest, Segment
from .rescoring import AT_ONCE, Rescoring, Unit, depth_of
from .spool import waiting
from .stored import NEIGHBOR, Role, Rows, StoredVectors, blank
from .vectors import check_unit

T = TypeVar("T")

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A document and its inner product with a query."""

    document: StoredDocument
    score: float


def checked_hits(k: int) -> int:
    """The number of hits that are asked for.

    Raises
    ------
    InputError
        If it is none.
    """
    if isinstance(k, bool) or not isinstance(k, int | np.integer) or k < 1:
        raise InputError(f"k={k!r}; expected the number of hits, 1 or more")
    return int(k)


class Bundle:
    """An index folder, opened for reading.

    Parameters
    ----------
    folder : Path
    searchable : bool, default=True
        Whether search structures and row numbers are read. Without them (the catalogue has the numbers, too) documents
        and raw vectors can still be, and the rest made anew, where it is damaged.

    Raises
    ------
    IndexMissingError, IndexUnfinishedError, IndexVersionError, IndexCorruptError
        See `indexes.errors`; every file is held against its checksum before it is used.
    """

    def __init__(self, folder: Path, *, searchable: bool = True) -> None:
        self.searchable = searchable
        self.folder = folder = folder.absolute()  # the process may go elsewhere
        self._catalogue = Catalogue(folder)
        self._loaded: list[LoadedSegment] = []
        self._rescoring = Rescoring(self._few_raw)
        self._good: set[FileEntry] = set()  # what is verified whole when it is first used, not when it is loaded
        self._generation = -1
        try:
            self.refresh()
        except BaseException:
            self.close()
            raise

    @contextmanager
    def hold(self, prepare: Callable[[], T]) -> Iterator[T]:
        """One committed state, the newest, for as long as the block lasts; gives what a function reads of it first.

        If files are missing because a writer committed the next state meanwhile and swept them away, that function is
        called again, in the next state; so it should do nothing but read. Within another block it has that one's state.
        """
        if self._catalogue.in_snapshot:  # the outer block looks for changes, and begins again
            yield prepare()
            return
        while True:
            lost = None
            with self._catalogue.snapshot() as manifest:
                try:
                    self._load(manifest)
                    prepared = prepare()
                except IndexCorruptError as error:
                    lost = error
                except FileNotFoundError as error:  # between its check and its use
                    lost = IndexCorruptError(f"{self.folder}: a file is missing ({error}); {RESTORE}")
                if lost is None and not self._catalogue.changed_meanwhile():
                    yield prepared
                    if self._catalogue.changed_meanwhile():
                        raise IndexError_(f"{self.folder} was changed while it was read; do it again")
                    return
            if lost is not None:
                self._catalogue.check_place()
                with self._catalogue.snapshot() as newest:
                    if newest.generation == manifest.generation:
                        raise lost

    def read(self, what: Callable[[], T]) -> T:
        """What a function reads from one committed state, the newest; see `hold`.

        Examples
        --------
        ``bundle.read(lambda: (bundle.manifest, bundle.search(vectors, 10)))``: both of the same state.
        """
        with self.hold(what) as found:
            return found

    def check_place(self) -> None:
        """See whether the index that was opened is still the one at its path.

        Raises
        ------
        IndexMissingError
            If it was removed, or another one put in its place.
        """
        self._catalogue.check_place()

    def refresh_to_write(self) -> None:
        """Load the newest state, and make sure that it is the newest: a reader of a folder that cannot be written to
        sees no commits.

        Raises
        ------
        IndexMissingError
            If the folder was removed or replaced since it was opened.
        sqlite3.OperationalError
            If the catalogue can only be read as it once was.
        """
        self._catalogue.check_place()
        self._catalogue.thaw()
        self.refresh()

    def refresh(self) -> None:
        """Load the newest state."""
        self.read(lambda: None)

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
        return None if entry is None else self._verified(entry)

    def _verified(self, entry: FileEntry) -> Path:
        return entry.verify(self.folder / "segments")

    def _verified_once(self, entry: FileEntry) -> Path:
        path = entry.verify(self.folder / "segments", content=entry not in self._good)
        self._good.add(entry)
        return path

    def waiting(self) -> int:
        """Number of vectors of an addition that has not ended; the same addition goes on behind them."""
        return waiting(self.folder / "staging", self._manifest.next_row)

    def truncated(self) -> int:
        """Number of live documents whose text was longer than the model reads."""
        return self.read(lambda: self._catalogue.count("truncated = 1"))

    def deleted_rows(self) -> Int64:
        """Rows that have a vector and no document any more, of shape (m,), int64."""
        return self.read(self._catalogue.deleted_rows)

    def rows_of(self, ids: Sequence[str]) -> dict[str, int]:
        """The rows of those of some ids that are there."""
        return self.read(lambda: self._catalogue.rows_of(ids))

    def rows_matching(self, expression: str | Mapping[str, Any]) -> Int64:
        """Rows of the documents that a filter lets through, of shape (m,), int64."""
        return self.read(lambda: self._catalogue.rows_matching(expression))

    def documents(self, rows: Sequence[int]) -> list[StoredDocument]:
        """The documents of these rows, in this order."""
        found = self.read(lambda: self._catalogue.documents(rows))
        return [found[row] for row in rows]

    def texts(self, rows: Sequence[int]) -> list[str]:
        """The texts of the documents of these rows, in this order."""
        return [document.text for document in self.documents(rows)]

    def live_rows(self) -> Int64:
        """Rows of all documents, ascending, of shape (n,), int64."""
        return self.read(self._catalogue.rows)

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

        def found() -> list[StoredDocument]:
            rows = self._catalogue.rows_of(ids)
            if missing := [doc_id for doc_id in ids if doc_id not in rows]:
                raise InputError(f"id {missing[0]!r} is not in {self.folder}; expected ids of its documents")
            documents = self._catalogue.documents(list(rows.values()))
            return [documents[rows[doc_id]] for doc_id in ids]

        return self.read(found)

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

        def all_of_them() -> tuple[list[str], NDArray[np.floating[Any]]]:
            _, ids = self._catalogue.ids()
            stored = self.kept("raw")
            if stored is None:
                raise InputError(f"{self.folder} was built without raw vectors; build it again with raw vectors kept")
            return ids, stored.whole()

        return self.read(all_of_them)

    def kept(
        self,
        role: Role,
        segments: Sequence[Segment] | None = None,
        dead: Int64 | None = None,
        *,
        few: bool = False,
    ) -> StoredVectors | None:
        """What is kept of each live row beside the search structure, verified; None if the index does not keep that.

        Parameters
        ----------
        role : {"raw", "scores", "neighbors"}
            Its raw vector, (n, d); what it scores with the anchor queries, (n, anchors), float16, NaN where it was not
            scored; its nearest rows, (n, neighbors), `indexes.stored.NEIGHBOR`.
        segments : sequence of Segment, optional
            Only of these.
        dead : ndarray of shape (m,), int64, optional
            Rows to be left out besides those deleted.
        few : bool, default=False
            Some rows of raw vectors will be read, not all: they are verified by then, and no others.
        """
        if (form := self._form(role)) is None:
            return None
        of_these = [loaded for loaded in self._loaded if segments is None or loaded.segment in segments]
        rows_of = self._rescoring.rows_of if few and role == "raw" else partial(self.kept_of, role)
        parts = [(rows_of(loaded.segment), *loaded.live(dead)) for loaded in of_these]
        return StoredVectors(parts, *form)

    def kept_of(self, role: Role, segment: Segment) -> NDArray[Any]:
        """`kept` of all rows of one segment, the dead ones too, memory-mapped."""
        form = self._form(role)
        assert form is not None
        (width, dtype), file = form, getattr(segment, role)
        shape = (segment.count, width)
        return blank(*shape, dtype) if file is None else map_array(self._verified_once(file), shape, dtype)

    def _few_raw(self, segment: Segment) -> Rows:
        """The raw vectors of a segment, of which those that are read are verified: all at once, if it has no sums."""
        if segment.sums is None:
            return self.kept_of("raw", segment)
        form, place = self._form("raw"), self.folder / "segments"
        assert form is not None and segment.raw is not None
        (width, dtype), path = form, segment.raw.verify(place, content=False)
        return CheckedRows(path, (segment.count, width), dtype, segment.sums.verify(place).read_bytes())

    def _form(self, role: Role) -> tuple[int, Any] | None:
        """How many of which dtype are kept of each row."""
        manifest = self._manifest
        if role == "raw":
            return None if manifest.raw is None else (manifest.model["dim"], manifest.raw)
        if role == "scores":
            return None if manifest.anchors is None else (manifest.anchors["count"], "float16")
        return None if manifest.neighbors is None else (manifest.neighbors, NEIGHBOR)

    @property
    def anchors_path(self) -> Path | None:
        """The anchor queries of this index, verified, or None."""
        entry = self._manifest.anchors_file
        return None if entry is None else self._verified(entry)

    @property
    def compiled(self) -> dict[str, Any] | None:
        """Settings of the encoder that lies in this index and verified paths of its graph, weights and tokenizer."""
        manifest = self._manifest
        if manifest.compiled is None:
            return None
        files = {"graph": manifest.graph_file, "weights": manifest.weights_file, "tokenizer": manifest.tokenizer_file}
        paths = {name: None if file is None else self._verified(file) for name, file in files.items()}
        return paths | {"settings": manifest.compiled}

    def searched_vectors(self) -> StoredVectors:
        """The unit rows of all live rows that are searched, as the structures hold them (8-bit codes decoded)."""
        return searched(self._loaded, self.manifest.dim)

    @property
    def loaded(self) -> tuple[LoadedSegment, ...]:
        """The segments of the state that is loaded; they stay as they are, whatever is committed later."""
        return tuple(self._loaded)

    def rows(self, segment: Segment, dead: Int64) -> Int64:
        """The live rows of a segment, without those that are about to be deleted."""
        (loaded,) = (loaded for loaded in self._loaded if loaded.segment == segment)
        return loaded.live(dead)[1]

    def search(
        self,
        vectors: Float32,
        k: int,
        *,
        filter: str | Mapping[str, Any] | None = None,
        exact: bool = False,
        unit: Unit | None = None,
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
        unit : callable, optional
            Makes the rows that are searched from raw ones: what the structures find is then scored by the raw vectors
            themselves, where there are some and the structures hold codes of them.

        Returns
        -------
        list of q lists of Found
            Score descending (rounded to 6 decimals), then id; ties at the end of a list are
            settled by id too, not by chance.

        Raises
        ------
        InputError
            If k < 1, or a filter or vector cannot be used.
        IndexCorruptError
            If raw vectors are not what was committed.
        """
        k = checked_hits(k)

        def found() -> list[list[Found]]:
            wanted = None if filter is None else self.rows_matching(filter)
            return self.found(list(self.nearest(vectors, k, wanted=wanted, exact=exact, unit=unit)), k)

        return self.read(found)

    def nearest(
        self, vectors: Float32, k: int, *, wanted: Int64 | None = None, exact: bool = False, unit: Unit | None = None
    ) -> Iterator[tuple[Int64, Float64]]:
        """The rows of `search` and their scores for each vector: k, best first, and those that tie with the last.

        To be used within `read`; `wanted` are the rows that may be found, all other parameters those of `search`.
        """
        check_unit(vectors, self._manifest.dim)
        coded, depth = depth_of(self._loaded, k)
        rescored = coded and unit is not None and self._manifest.raw is not None
        step = max(1, AT_ONCE // depth)
        for start in range(0, len(vectors), step):
            yield from self._nearest(vectors[start : start + step], k, depth, wanted, exact, unit if rescored else None)

    def found(self, nearest: Sequence[tuple[Int64, Float64]], k: int) -> list[list[Found]]:
        """The documents of the rows and scores of each query, the first k by score, then id; within `read`."""
        rows = np.unique(np.concatenate([np.empty(0, np.int64), *(rows for rows, _ in nearest)]))
        documents = self._catalogue.documents(rows.tolist())
        return [
            sorted(
                (
                    Found(document=documents[row], score=score)
                    for row, score in zip(rows.tolist(), scores.tolist(), strict=True)
                ),
                key=lambda found: (-found.score, found.document.doc_id),
            )[:k]
            for rows, scores in nearest
        ]

    def cosines(self, vector: Float32, rows: Int64, unit: Unit | None = None) -> Float64:
        """The scores of some live rows for one vector, (dim,), of shape (m,), float64, on the scale of `search`."""
        found: Float64 = np.empty(len(rows))
        rescored = depth_of(self._loaded, 1)[0]
        for start in range(0, len(rows), AT_ONCE):
            some = rows[start : start + AT_ONCE]
            if rescored and unit is not None and self._manifest.raw is not None:
                shape = self._manifest.model["dim"], self._manifest.raw
                scores = self._rescoring.scores(self._loaded, shape, vector[None], some[None], unit)[0]
            else:
                scores = row_scores(self._loaded, vector, some)
            found[start : start + AT_ONCE] = scores
        return found

    def _nearest(
        self, vectors: Float32, k: int, depth: int, wanted: Int64 | None, exact: bool, unit: Unit | None
    ) -> Iterator[tuple[Int64, Float64]]:
        def scored(some: Float32, depth: int) -> tuple[NDArray[np.float64], NDArray[np.float64], Int64]:
            codes, rows = nearest(self._loaded, some, depth, wanted, exact)
            if unit is None or self._manifest.raw is None:
                return codes, codes, rows
            shape = self._manifest.model["dim"], self._manifest.raw
            return codes, self._rescoring.scores(self._loaded, shape, some, rows, unit), rows

        codes, scores, rows = scored(vectors, depth)
        open_ended = np.arange(len(vectors))

        def still_open() -> Int64:
            return open_ended[_open_ended(codes[open_ended], scores[open_ended], rows[open_ended], k)]

        while len(open_ended := still_open()):
            deeper = scored(vectors[open_ended], min(2 * rows.shape[1], self._manifest.next_row))
            if deeper[2].shape[1] <= rows.shape[1]:
                break
            grown = ((0, 0), (0, deeper[2].shape[1] - rows.shape[1]))
            codes, scores = (np.pad(part, grown, constant_values=-np.inf) for part in (codes, scores))
            rows = np.pad(rows, grown, constant_values=-1)
            codes[open_ended], scores[open_ended], rows[open_ended] = deeper
        for rows_of, scores_of in zip(rows, scores, strict=True):
            order = np.lexsort((rows_of, -scores_of))
            kth = scores_of[order[:k][-1:]]
            best = order[(rows_of[order] >= 0) & (scores_of[order] >= kth)]
            yield rows_of[best], scores_of[best]

    def _load(self, manifest: Manifest) -> None:
        if manifest.generation == self._generation:
            return
        deleted, live = self._catalogue.deleted_rows(), 0
        before = {loaded.segment.vectors: loaded for loaded in self._loaded}
        now = []
        ends = [*(segment.first_row for segment in manifest.segments[1:]), manifest.next_row]
        for segment, end in zip(manifest.segments, ends, strict=False):
            loaded = before.get(segment.vectors) or self._read(segment, manifest, end)
            now.append(dataclasses.replace(loaded, segment=segment).without(deleted))
            live += now[-1].count
        if live != manifest.documents:
            raise IndexCorruptError(
                f"{self.folder / 'catalogue.sqlite'} lists {manifest.documents:,} documents, but {live:,} vectors are "
                f"not deleted; {RESTORE}"
            )
        self._loaded, self._manifest, self._generation = now, manifest, manifest.generation
        self._rescoring.keep(now)

    def _read(self, segment: Segment, manifest: Manifest, end: int) -> LoadedSegment:
        """A segment whose rows lie below `end`."""
        if self.searchable:
            return LoadedSegment.read(segment, self.folder / "segments", manifest.dim)
        if segment.rows is None:
            rows = np.arange(segment.first_row, segment.first_row + segment.count)
        else:
            rows = self._catalogue.rows_between(segment.first_row, end)
        if len(rows) != segment.count:
            raise IndexCorruptError(
                f"{self.folder / 'catalogue.sqlite'} has {len(rows):,} rows from {segment.first_row} on, but "
                f"{segment.count:,} vectors were committed; {RESTORE}"
            )
        return LoadedSegment(segment=segment, structure=None, rows=rows)


def _open_ended(
    codes: NDArray[np.floating[Any]], scores: NDArray[np.floating[Any]], rows: Int64, k: int
) -> NDArray[np.bool_]:
    """For each query: whether the last row found may be among the best k, so that more such rows may follow."""
    if rows.shape[1] <= k:
        return np.zeros(len(rows), np.bool_)
    kth = -np.partition(-scores, k - 1, axis=1)[:, k - 1]
    open_: NDArray[np.bool_] = (rows[:, -1] >= 0) & ((codes[:, -1] == codes[:, k - 1]) | (scores[:, -1] >= kth))
    return open_
