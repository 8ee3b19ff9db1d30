"""Whether an index is what was committed, down to its vectors being those of its whitening."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from indexes.bundle import Bundle
from indexes.catalogue import Catalogue
from indexes.checks import Check, check, check_folder
from indexes.errors import IndexCorruptError, RetrievalError

from .making import batches, whiten
from .whitening import Whitening

COARSEST = 0.5
"""Mean cosine of searched rows to the vectors they were made of that the coarsest of codes still keep (RaBitQ: 0.8)."""


def verify(folder: Path, *, deep: bool) -> list[Check]:
    """What `indexes.checks.check_folder` looks at; if deep, also the whitening and the vectors.

    Raises
    ------
    IndexMissingError, IndexUnfinishedError, IndexVersionError
        If there is no index that could be looked at.
    """
    while True:
        before = _generation(folder)
        checks = check_folder(folder, deep=deep)
        if deep and all(each.problem is None for each in checks):
            checks.append(check("vectors", lambda: _check_vectors(folder)))
        if all(each.problem is None for each in checks) or _generation(folder) == before:
            return checks  # else a writer swept files away meanwhile


def _generation(folder: Path) -> int | None:
    try:
        catalogue = Catalogue(folder)
    except RetrievalError:
        return None
    try:
        with catalogue.snapshot() as manifest:
            return manifest.generation
    except RetrievalError:
        return None
    finally:
        catalogue.close()


def _check_vectors(folder: Path) -> None:
    """The rows that are searched are what the whitening makes of the raw vectors, as closely as codes allow."""
    bundle = Bundle(folder)
    try:
        bundle.read(lambda: _check_vectors_of(bundle))
    finally:
        bundle.close()


def _check_vectors_of(bundle: Bundle) -> None:
    path = bundle.whitening_path
    whitening = None if path is None else Whitening.load(path)
    raw = bundle.raw_vectors()
    if raw is None:
        return
    searched, start, own, other = bundle.searched_vectors(), 0, 0.0, 0.0
    for batch in batches(raw, lambda _: None):
        expected = whiten(batch, whitening)
        found = searched[start : start + len(batch)]
        own += float(np.einsum("nd,nd->", expected, found))
        other += float(np.einsum("nd,nd->", expected, np.roll(found, 1, axis=0)))
        start += len(batch)
    if start and (own / start < COARSEST or own < other - 1e-3 * start):
        raise IndexCorruptError(
            f"{bundle.folder}: the vectors that are searched are not those of the raw vectors (mean cosine "
            f"{own / start:.3f}; to those of other documents {other / start:.3f}); restore the index from a copy, "
            "or make it anew by rebuild"
        )
