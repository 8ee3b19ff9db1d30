"""What made an index, as its manifest records it."""

from __future__ import annotations

import importlib.metadata
import logging
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from indexes.errors import InputError
from indexes.files import FileEntry

from .compiled.encoder import CompiledEncoder, compiled_before
from .compiled.graph import is_installed
from .compiled.store import Compiled
from .encoder import Encoder, find_model, load_encoder
from .models import ModelFiles, compare
from .whitening import Whitening

logger = logging.getLogger(__name__)


def model_record(encoder: Encoder) -> dict[str, Any]:
    """The encoder, so that another one can be refused."""
    return {
        "name": encoder.name,
        "source": encoder.source,
        "dim": encoder.dim,
        "precision": getattr(encoder, "precision", "float32"),
        "max_tokens": encoder.max_tokens,
        "prompts": dict(encoder.prompts),
        "fingerprint": dict(encoder.fingerprint),
    }


def encoder_of(record: Mapping[str, Any], place: str | Encoder | None, carried: Compiled | None = None) -> Encoder:
    """The encoder that a record tells of, in its precision: carried along, compiled before, or from where it lies.

    Parameters
    ----------
    record : mapping
        See `model_record`.
    place : str or Encoder, optional
        Another place of the same model.
    carried : Compiled, optional
        What lies in the index.

    Raises
    ------
    ModelError
        If it cannot be found or loaded.
    FingerprintError
        If what is there is another model.
    """
    how: Any = {"prompts": record["prompts"], "precision": record.get("precision", "float32")}
    if place is None:
        known = compiled_before(record["fingerprint"], carried, name=record["name"], source=record["source"], **how)
        if known is not None:
            return known
        if carried is not None and not is_installed():
            logger.warning(
                "the index carries its compiled model, but nothing here runs it: pip install 'sentence-retrieval[fast]'"
            )
    found = find_model(record["name"] if place is None else place)
    encoder = load_encoder(found, **how) if isinstance(found, ModelFiles) else found
    compare(record["fingerprint"], encoder.fingerprint, encoder.name)
    return encoder


def compiled_fields(
    compiled: Compiled | None, write: Callable[[Mapping[str, Path], Mapping[str, Any]], dict[str, Any]]
) -> dict[str, Any]:
    """The fields of a manifest that tell of an encoder carried along, once its files are written."""
    if compiled is None:
        return {}
    return write(compiled.files, compiled.settings)


def compiled_of(encoder: Encoder) -> Compiled:
    """What an index carries of an encoder.

    Raises
    ------
    InputError
        If it is not a compiled one.
    """
    if not isinstance(encoder, CompiledEncoder):
        raise InputError(
            f"the model {encoder.name!r} is not compiled here, and only a compiled one can go into an index; install "
            "what compiles it (pip install 'sentence-retrieval[fast]'), or leave portable out"
        )
    return encoder.compiled


def whitening_fields(
    whitening: Whitening | None, write: Callable[[bytes], FileEntry], *, fitted_below: int
) -> dict[str, Any]:
    """The fields of a manifest that tell of a whitening, once its file is written.

    Parameters
    ----------
    whitening : fitted Whitening or None
    write : callable
        Writes the file (`BundleWriter.write_whitening`).
    fitted_below : int
        Rows below this number were in the fit.
    """
    if whitening is None:
        return {"whitening": None, "whitening_file": None}
    record = whitening.parameters | {"n_fitted": whitening.n_fitted_, "fitted_below": fitted_below}
    return {"whitening": record, "whitening_file": write(whitening.to_bytes())}


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
    "faiss-cpu", "faiss-gpu", "openvino",
)  # fmt: skip
