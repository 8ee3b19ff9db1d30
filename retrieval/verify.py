"""Whether an index is what was committed, down to its vectors being those of its whitening."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from indexes.bundle import Bundle
from indexes.checks import Check, check, check_folder
from indexes.errors import IndexCorruptError

from .making import batches, whiten
from .whitening import Whitening

COARSEST = 0.5
"""Cosine of a searched row to the vector it was made of that the coarsest of codes still keep."""


def verify(folder: Path, *, deep: bool) -> list[Check]:
    """What `indexes.checks.check_folder` looks at; if deep, also the whitening and the vectors.

    Raises
    ------
    IndexMissingError, IndexUnfinishedError, IndexVersionError
        If there is no index that could be looked at.
    """
    checks = check_folder(folder, deep=deep)
    if deep and all(each.problem is None for each in checks):
        checks.append(check("vectors", lambda: _check_vectors(folder)))
    return checks


def _check_vectors(folder: Path) -> None:
    """Every raw vector is finite, and its row is what the whitening makes of it, as closely as codes allow."""
    bundle = Bundle(folder)
    try:
        path = bundle.whitening_path
        whitening = None if path is None else Whitening.load(path)
        raw = bundle.raw_vectors()
        if raw is None:
            return
        searched, start = bundle.searched_vectors(), 0
        for batch in batches(raw, lambda _: None):
            expected = whiten(batch, whitening)
            cosines = np.einsum("nd,nd->n", expected, searched[start : start + len(batch)])
            if cosines.min() < COARSEST:
                row = raw.rows[start + int(cosines.argmin())]
                raise IndexCorruptError(
                    f"{folder}: the searched vector of row {row} is not that of its raw vector (cosine "
                    f"{cosines.min():.3f}); restore the index from a copy, or make it anew by rebuild"
                )
            start += len(batch)
    finally:
        bundle.close()
