"""A torch model as one graph: all of its modules, from tokens to the vector (or to what the last layer weighs)."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from indexes.errors import ModelError

NAMES = ("input_ids", "attention_mask", "token_type_ids")
"""Inputs, of those a model takes."""

MOST = 1 << 16
"""Texts in a batch."""


def export_encoder(model: Any, path: Path) -> None:
    """Write a SentenceTransformer as an ONNX graph that gives its vectors, of shape (n, dim).

    Parameters
    ----------
    model : SentenceTransformer
    path : Path

    Raises
    ------
    ModelError
        If it cannot be written as one graph.
    ImportError, OSError, MemoryError
        If this machine cannot do it now.
    """
    _export(
        model, lambda features: model(features)["sentence_embedding"], model.preprocess(["two texts", "words"]), path
    )


def export_scorer(model: Any, path: Path) -> tuple[list[float], float]:
    """Write a CrossEncoder with one output as a graph that gives what its last layer weighs, of shape (n, width).

    Returns
    -------
    weights : list of width float
    bias : float

    Raises
    ------
    ModelError
        If it cannot be written as one graph, or does not end in a linear layer.
    """
    import torch

    ends = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module.out_features == 1]
    if not ends:
        raise ModelError("it does not end in a linear layer with one output")
    seen: list[Any] = []

    def weighed(features: Mapping[str, Any]) -> Any:
        seen.clear()
        model(features)
        return seen[0]

    hook = ends[-1].register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    try:
        _export(model, weighed, model.preprocess([("two texts", "of words"), ("a", "pair")]), path)
    finally:
        hook.remove()
    bias = ends[-1].bias
    return ends[-1].weight.detach()[0].tolist(), 0.0 if bias is None else bias.detach().item()


def export_tokenizer(tokenizer: Any, longest: int | None, path: Path) -> int:
    """Write a tokenizer that cuts texts off as the model does; the number of its padding.

    Raises
    ------
    ModelError
        If it is not of the kind that runs alone.
    """
    fast = getattr(tokenizer, "backend_tokenizer", None)
    if fast is None or getattr(tokenizer, "padding_side", "right") != "right":
        raise ModelError("it has no tokenizer of the kind that is compiled")
    alone = type(fast).from_str(fast.to_str())
    alone.no_padding()
    alone.no_truncation() if longest is None else alone.enable_truncation(longest)
    alone.save(str(path))
    return int(tokenizer.pad_token_id or 0)


def _export(model: Any, output: Callable[[Any], Any], features: Mapping[str, Any], path: Path) -> None:
    import torch

    class Whole(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *tensors: Any) -> Any:
            return output(dict(zip(names, tensors, strict=True)))

    names = [name for name in NAMES if name in features]
    if "input_ids" not in names or not hasattr(model[0], "auto_model"):
        raise ModelError(f"{type(model[0]).__name__} is no transformer; only those are compiled")
    if any(getattr(module, "include_prompt", True) is False for module in model):
        raise ModelError("its pooling leaves the prompt out, which a graph cannot know")
    longest = model.max_seq_length
    most = int(longest) if longest and longest != float("inf") else MOST
    axes = {0: torch.export.Dim("texts", min=1, max=MOST), 1: torch.export.Dim("tokens", min=2, max=most)}
    training = model.training
    try:
        with _quiet():
            torch.onnx.export(
                Whole().eval(), tuple(features[name] for name in names), str(path), dynamo=True,
                dynamic_shapes=((axes,) * len(names),), input_names=names, output_names=["output"],
                external_data=False, verbose=False,
            )  # fmt: skip
    except Exception as error:  # of many libraries and kinds
        first = error
        while first.__cause__ is not None:
            first = first.__cause__  # type: ignore[assignment]
        if isinstance(first, ImportError | OSError | MemoryError):  # of this machine, not of the model
            raise first from error
        told = " ".join(str(first).split())
        raise ModelError(f"it cannot be written as a graph ({type(first).__name__}: {told:.200})") from error
    finally:
        model.train(training)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """What the exporter tells of itself is nothing to a user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
