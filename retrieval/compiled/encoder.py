"""An encoder without torch: tokenizer and graph, ready in a fraction of a second.

It gives the vectors of the model that it was made from: to 1e-4 of a cosine in float32, which is looked at when it
is made, and to about as much in bfloat16, the quicker one where the processor has it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import ModelError

from ..encoder import Encoded, Precision, Role, SentenceTransformerEncoder, chosen_prompts, each_once
from ..models import ModelFiles, fingerprint
from . import store
from .graph import convert, is_installed
from .making import make
from .model import CompiledModel
from .store import Compiled, compiled_in

AGREEMENT = 0.9999
"""Cosine of a compiled model's vectors, in float32, to those of the model."""


class CompiledEncoder:
    """A compiled sentence-transformers model.

    Parameters
    ----------
    compiled : Compiled
    name, source : str
    prompts : mapping, optional
        See `retrieval.encoder.SentenceTransformerEncoder`.
    precision : {"float32", "bfloat16"}, optional
        See `CompiledModel`.

    Attributes
    ----------
    dim : int
    max_tokens : int or None
    prompts, fingerprint : mapping
        Those of the model.
    """

    def __init__(
        self,
        compiled: Compiled,
        *,
        name: str,
        source: str,
        prompts: Mapping[str, str] | None = None,
        precision: Precision | None = None,
    ) -> None:
        settings = compiled.settings
        self.name, self.source = name, source
        self.dim, self.max_tokens = int(settings["dim"]), settings["max_tokens"]
        self.prompts: Mapping[str, str] = chosen_prompts(settings["prompts"], prompts)
        self.fingerprint: Mapping[str, Any] = {
            **settings["fingerprint"], "prompts": json.dumps(self.prompts, sort_keys=True),
        }  # fmt: skip
        self.compiled = compiled
        self._model = CompiledModel(compiled, precision)
        self.precision = self._model.precision

    def encode(self, texts: Sequence[str], role: Role = "document") -> Encoded:
        """Raw vectors; identical texts are encoded once, batches are packed by token length."""
        prompt = self.prompts[role]
        return each_once(texts, lambda some: Encoded(*self._model.run([prompt + text for text in some])), self.dim)


def compiled_before(
    fingerprint: Mapping[str, Any],
    carried: Compiled | None,
    *,
    name: str,
    source: str,
    prompts: Mapping[str, str],
    precision: Precision,
) -> CompiledEncoder | None:
    """The encoder of a fingerprint, if an index carries it or it was compiled before: its model need not be here."""
    if not is_installed():
        return None
    found = carried or store.find("encoder", fingerprint)
    if not isinstance(found, Compiled):
        return None
    return CompiledEncoder(found, name=name, source=source, prompts=prompts, precision=precision)


def compiled_encoder(
    files: ModelFiles, *, prompts: Mapping[str, str] | None, precision: Precision | None
) -> CompiledEncoder | None:
    """The compiled encoder of a model, made now if it was not before; None where there can be none.

    Raises
    ------
    ModelError
        If the model itself cannot be loaded.
    """
    compiled = make("encoder", files.name, fingerprint(files.folder), lambda: _writer(files))
    if compiled is None:
        return None
    return CompiledEncoder(compiled, name=files.name, source=files.source, prompts=prompts, precision=precision)


def _writer(files: ModelFiles) -> Any:
    encoder = SentenceTransformerEncoder(files)

    def write(folder: Path) -> dict[str, Any]:
        from .export import export_encoder, export_tokenizer
        from .making import TRIED

        export_encoder(encoder.model, folder / "graph.onnx")
        convert(folder / "graph.onnx")
        settings = {
            "dim": encoder.dim,
            "max_tokens": encoder.max_tokens,
            "prompts": dict(encoder.model.prompts),
            "fingerprint": dict(encoder.fingerprint),
            "pad": export_tokenizer(encoder.model.tokenizer, encoder.max_tokens, folder / "tokenizer.json"),
        }
        compiled = compiled_in(folder, settings)
        ours = CompiledEncoder(compiled, name="", source="", precision="float32").encode(TRIED)
        theirs = encoder.encode(TRIED)
        cosines = np.einsum("nd,nd->n", _unit(ours.vectors), _unit(theirs.vectors))
        if not cosines.min() >= AGREEMENT or not np.array_equal(ours.truncated, theirs.truncated):
            raise ModelError(f"its graph gives other vectors (a cosine of {cosines.min():.5f} to the model's)")
        return settings

    return write


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float64]:
    return np.asarray(vectors / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True))
