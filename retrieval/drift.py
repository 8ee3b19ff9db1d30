"""How far the documents that were added lie from those that the whitening was fitted on."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.bundle import Bundle

from .moments import spread
from .whitening import Whitening

SAMPLE = 4096  # vectors of either side that are looked at, evenly spaced


def drift_of(bundle: Bundle, whitening: Whitening | None) -> dict[str, Any] | None:
    """The drift of an index since its whitening was fitted.

    None where there is no whitening, nothing was added, or no raw vectors are kept.

    Returns
    -------
    dict or None
        ``added``: documents that were not in the fit. ``shift``: the distance of their mean from that of the fit, in
        units of the fitted vectors' root-mean-square distance from their mean. ``kept`` and ``kept_at_fit``: share of
        the squared distance from the mean of the fit that lies in the kept columns, for added and fitted documents.
    """
    manifest = bundle.manifest
    if whitening is None or manifest.whitening is None or manifest.raw is None:
        return None
    fitted_below = int(manifest.whitening["fitted_below"])

    def sampled() -> tuple[int, NDArray[Any], NDArray[Any]] | None:
        live = bundle.live_rows()
        edge = int(np.searchsorted(live, fitted_below))
        if edge == len(live):
            return None
        raw = bundle.kept("raw", few=True)
        assert raw is not None
        return len(live) - edge, raw[edge + spread(len(live) - edge, SAMPLE)], raw[spread(edge, SAMPLE)]

    found = bundle.read(sampled)
    if found is None:
        return None
    count, added, old = found
    kept, shift = measured(whitening, added.astype(np.float64))
    kept_at_fit, _ = measured(whitening, old.astype(np.float64)) if len(old) else (None, None)
    size = np.sqrt(np.square(old - whitening.mean_).sum(axis=1).mean()) if len(old) else None
    return {
        "added": count,
        "shift": None if not size else round(float(shift / size), 3),
        "kept": round(kept, 3),
        "kept_at_fit": None if kept_at_fit is None else round(kept_at_fit, 3),
    }


def measured(whitening: Whitening, vectors: NDArray[np.float64]) -> tuple[float, float]:
    """Share of the squared distance from the fit's mean in the kept columns, and distance of the means."""
    away = vectors - whitening.mean_
    inside = away @ whitening.components_
    shift = float(np.linalg.norm(vectors.mean(axis=0) - whitening.mean_))
    total = np.square(away).sum()
    return float(np.square(inside).sum() / total) if total else 1.0, shift
