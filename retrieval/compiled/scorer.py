"""A cross-encoder without torch. Its last layer, which makes one number of a vector, is computed in float64.

In bfloat16 that number would have 8 bits, and the best of many texts would be a tie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import ModelError

from ..encoder import Precision
from ..models import ModelFiles, fingerprint, is_cross_encoder, locate
from ..scorer import CrossEncoderScorer, PairScorer, scorer_fingerprint
from .graph import convert
from .making import TRIED, make
from .model import CompiledModel
from .store import Compiled, compiled_in

AGREEMENT = 1e-3
"""Largest difference of a compiled model's scores, in float32, to those of the model."""


class CompiledScorer(PairScorer):
    """A compiled cross-encoder.

    Parameters
    ----------
    compiled : Compiled
    name, source : str
    precision : {"float32", "bfloat16"}, optional
        See `CompiledModel`.
    """

    def __init__(self, compiled: Compiled, *, name: str, source: str, precision: Precision | None = None) -> None:
        settings = compiled.settings
        self.name, self.source = name, source
        self.max_length: int | None = settings["max_tokens"]
        self.fingerprint: Mapping[str, Any] = scorer_fingerprint(settings["fingerprint"], self.max_length)
        self._weights, self._bias = np.array(settings["weights"], np.float64), float(settings["bias"])
        self._model = CompiledModel(compiled, precision)
        self.precision = self._model.precision

    def _logits(self, firsts: Sequence[str], seconds: Sequence[str]) -> NDArray[np.float32]:
        vectors, _ = self._model.run(list(zip(firsts, seconds, strict=True)))
        return np.asarray(vectors @ self._weights + self._bias, np.float32)


def compiled_scorer(files: ModelFiles, precision: Precision | None = None) -> CompiledScorer | None:
    """The compiled cross-encoder of a model, made now if it was not before; None where there can be none.

    Raises
    ------
    ModelError
        If the model itself cannot be loaded.
    """
    if not is_cross_encoder(files.folder):
        return None  # torch's says what is wrong
    compiled = make("cross-encoder", files.name, fingerprint(files.folder), lambda: _writer(files))
    return (
        None
        if compiled is None
        else CompiledScorer(compiled, name=files.name, source=files.source, precision=precision)
    )


def load_scorer(model: str | ModelFiles) -> PairScorer:
    """The cross-encoder of a name or a place: compiled where that can be, else in torch.

    Raises
    ------
    ModelError
        If it cannot be found or loaded, or is none.
    """
    files = locate(model) if isinstance(model, str) else model
    return compiled_scorer(files) or CrossEncoderScorer(files)


def _writer(files: ModelFiles) -> Any:
    scorer = CrossEncoderScorer(files)

    def write(folder: Path) -> dict[str, Any]:
        from .export import export_scorer, export_tokenizer

        weights, bias = export_scorer(scorer.model, folder / "graph.onnx")
        convert(folder / "graph.onnx")
        settings = {
            "max_tokens": scorer.max_length,
            "weights": weights,
            "bias": bias,
            "fingerprint": dict(scorer.fingerprint),
            "pad": export_tokenizer(scorer.model.tokenizer, scorer.max_length, folder / "tokenizer.json"),
        }
        compiled = compiled_in(folder, settings)
        pairs = (TRIED, TRIED[1:] + TRIED[:1])
        ours = CompiledScorer(compiled, name="", source="", precision="float32").scores(*pairs)
        furthest = float(np.abs(ours - scorer.scores(*pairs)).max())
        if not furthest <= AGREEMENT:
            raise ModelError(f"its graph gives other scores (by {furthest:.5f})")
        return settings

    return write
