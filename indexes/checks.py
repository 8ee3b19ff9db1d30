"""Whether an index folder is what was committed: every file, every document, and that they fit together.

Unlike opening, which stops at the first fault, this looks at every file of an index whose catalogue can be believed.
Leaves out what only a whitening could tell (`retrieval.verify`).
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .blocks import sums_of
from .bundle import Bundle
from .catalogue import Catalogue
from .errors import RESTORE, IndexCorruptError, RetrievalError
from .files import map_array
from .manifest import Manifest
from .seal import CATALOGUE

Int64 = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Parameters
    ----------
    name : str
        A file of the index, or what else was held against what.
    problem : str or None
        What is wrong and what to do; None if nothing is.
    """

    name: str
    problem: str | None


def check(name: str, look: Callable[[], object]) -> Check:
    """The outcome of a function that raises what is wrong."""
    try:
        look()
    except RetrievalError as error:
        return Check(name=name, problem=str(error))
    except FileNotFoundError as error:  # between its check and its use
        return Check(name=name, problem=f"a file is missing ({error}); {RESTORE}")
    return Check(name=name, problem=None)


def check_folder(folder: Path, *, deep: bool, inspect: Callable[[Bundle], None]) -> list[Check]:
    """Look at an index folder; once more, if a writer committed and swept files away meanwhile.

    Parameters
    ----------
    folder : Path
    deep : bool
        Read every byte; else what opening reads, the sizes of the rest, and how rows and documents fit together.
    inspect : callable
        If deep and nothing else is wrong, called with the index, opened; raises what is wrong with its vectors.

    Raises
    ------
    IndexMissingError, IndexUnfinishedError, IndexVersionError
        If there is no index that could be looked at.
    """
    while True:
        try:
            catalogue = Catalogue(folder)
        except IndexCorruptError as error:
            return [Check(name=CATALOGUE, problem=str(error))]
        with closing(catalogue):
            with catalogue.snapshot() as manifest:
                checks = _checks(folder, catalogue, manifest, deep, inspect)
            with catalogue.snapshot() as newest:
                if newest.generation == manifest.generation or all(each.problem is None for each in checks):
                    return checks


def _checks(
    folder: Path, catalogue: Catalogue, manifest: Manifest, deep: bool, inspect: Callable[[Bundle], None]
) -> list[Check]:
    checks = [
        check(CATALOGUE, lambda: catalogue.check_integrity(deep)),
        check("rows and documents", lambda: _check_rows(folder, catalogue, manifest)),
    ]
    for file in manifest.files:
        every_byte = deep or file.role != "raw"
        checks.append(check(file.name, partial(file.verify, folder / "segments", content=every_byte)))
    if deep:
        checks.append(check("documents", lambda: _check_documents(catalogue)))
    if all(each.problem is None for each in checks):

        def look() -> None:
            with closing(Bundle(folder)) as bundle:
                if deep:
                    _check_sums(folder / "segments", manifest)
                    bundle.read(lambda: inspect(bundle))

        checks.append(check("vectors", look))
    return checks


def _check_rows(folder: Path, catalogue: Catalogue, manifest: Manifest) -> None:
    """Each row of a segment is a document or deleted, never both, and each document has its vector."""
    rows, deleted = catalogue.rows(), np.sort(catalogue.deleted_rows())
    parts = [np.empty(0, np.int64)]
    for segment in manifest.segments:
        if segment.rows is None:
            parts.append(np.arange(segment.first_row, segment.first_row + segment.count))
        else:
            parts.append(map_array(segment.rows.verify(folder / "segments"), (segment.count,), "int64"))
    vectors = np.concatenate(parts)
    problem = None
    if len(rows) != manifest.documents:
        problem = f"{len(rows):,} documents are there, but {manifest.documents:,} were committed"
    elif not np.array_equal(np.sort(np.concatenate([rows, deleted])), vectors):
        problem = "the documents and the deleted rows are not those of the segments"
    elif len(vectors) and vectors[-1] >= manifest.next_row:
        problem = f"row {vectors[-1]} was never given; the next one is {manifest.next_row}"
    if problem:
        raise IndexCorruptError(f"{folder / CATALOGUE}: {problem}; {RESTORE}")


def _check_sums(folder: Path, manifest: Manifest) -> None:
    """Raw vectors and the sums of their blocks were committed together."""
    for segment in manifest.segments:
        if segment.raw is not None and segment.sums is not None:
            path, sums = folder / segment.raw.name, folder / segment.sums.name
            if sums_of(path, segment.raw.sha256) != sums.read_bytes():
                raise IndexCorruptError(f"{sums} holds the checksums of another file than {path}; {RESTORE}")


def _check_documents(catalogue: Catalogue) -> None:
    rows = catalogue.rows()
    for start in range(0, len(rows), 1024):
        catalogue.documents(rows[start : start + 1024].tolist())
