"""Whether an index is what was committed, down to its vectors being those of its whitening."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from indexes.bundle import Bundle
from indexes.checks import Check, check_folder
from indexes.errors import IndexCorruptError

from .making import batches, whiten
from .whitening import Whitening

COARSEST = 0.5
"""Mean cosine of searched rows to the vectors they were made of that every structure keeps, RaBitQ and small PQ too."""


def verify(folder: Path, *, deep: bool) -> list[Check]:
    """What `indexes.checks.check_folder` looks at; if deep, also the whitening and the vectors.

    Raises
    ------
    IndexMissingError, IndexUnfinishedError, IndexVersionError
        If there is no index that could be looked at.
    """
    return check_folder(folder, deep=deep, inspect=_check_vectors)


def _check_vectors(bundle: Bundle) -> None:
    """The rows that are searched are what the whitening makes of the raw vectors, as closely as codes allow."""
    path = bundle.whitening_path
    whitening = None if path is None else Whitening.load(path)
    raw = bundle.kept("raw")
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
