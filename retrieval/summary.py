"""What an index is, in one mapping: its documents, its model, how it is searched, what it weighs."""

from __future__ import annotations

from typing import Any

from indexes.bundle import Bundle

from .anchoring import anchors_record
from .drift import drift_of
from .linking import graph_record
from .whitening import Whitening


def summary(bundle: Bundle, whitening: Whitening | None) -> dict[str, Any]:
    """What `Engine.info` gives; to be used within `Bundle.read`.

    Parameters
    ----------
    bundle : Bundle
    whitening : Whitening or None
        Of this index.
    """
    manifest = bundle.manifest
    record = None if manifest.whitening is None else dict(manifest.whitening)
    if record is not None:
        del record["fitted_below"]
    return {
        "path": str(bundle.folder),
        "documents": manifest.documents,
        "deleted": len(bundle.deleted_rows()),
        "segments": len(manifest.segments),
        "truncated": bundle.truncated(),
        "unfinished": bundle.waiting(),
        "dim": manifest.dim,
        "model": manifest.model["name"],
        "model_source": manifest.model["source"],
        "model_dim": manifest.model["dim"],
        "precision": manifest.model.get("precision", "float32"),
        "portable": manifest.compiled is not None,
        "fingerprint": dict(manifest.model["fingerprint"]),
        "whitening": record,
        "index": manifest.index["factory"],
        "index_reason": manifest.index["reason"],
        "raw_vectors": manifest.raw,
        "anchors": anchors_record(bundle),
        "graph": graph_record(bundle),
        "drift": drift_of(bundle, whitening),
        "bytes": bundle.bytes_on_disk(),
        "generation": manifest.generation,
        "format_version": manifest.format_version,
        "made_by": dict(manifest.made_by),
    }
