"""What made an index, as its manifest records it."""

from __future__ import annotations

import importlib.metadata
from datetime import datetime, timezone
from typing import Any

from .encoder import Encoder
from .whitening import Whitening


def model_record(encoder: Encoder) -> dict[str, Any]:
    """The encoder, so that another one can be refused."""
    return {
        "name": encoder.name,
        "source": encoder.source,
        "dim": encoder.dim,
        "precision": "float32",
        "max_tokens": encoder.max_tokens,
        "prompts": dict(encoder.prompts),
        "fingerprint": dict(encoder.fingerprint),
    }


def whitening_record(whitening: Whitening) -> dict[str, Any]:
    """The parameters of a fitted whitening."""
    return whitening.parameters | {"n_fitted": whitening.n_fitted_}


def made_by() -> dict[str, str]:
    """Versions of what computed the vectors, and the time (UTC)."""
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:  # of the two FAISS there is one
            continue
    return versions | {"time": datetime.now(timezone.utc).isoformat(timespec="seconds")}


LIBRARIES = (
    "sentence-retrieval", "sentence-transformers", "transformers", "tokenizers", "torch", "numpy",
    "faiss-cpu", "faiss-gpu",
)  # fmt: skip
