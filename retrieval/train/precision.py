"""Whether this machine trains faster in bfloat16: measured at the start, for it may also be a hundred times slower."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from ..encoder import Precision

GAIN = 0.9
"""bfloat16 is taken if a step takes at most this share of float32's time."""
PATIENCE = 5.0
"""A first bfloat16 step slower than this many float32 steps settles it."""


def autocast(precision: Precision) -> torch.autocast:
    """What a model does within is done in this precision."""
    return torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bfloat16")


def choose_precision(model: nn.Module, loss: Callable[[], Tensor], rounds: int = 3) -> Precision:
    """The faster of float32 and bfloat16 autocast for one step forward and back, by the median of a few.

    Parameters
    ----------
    model : Module
        Its gradients are cleared; its weights stay as they are.
    loss : callable
        The loss of one batch, computed anew at each call.
    rounds : int, default=3
    """

    def step(bfloat16: bool) -> float:
        start = time.perf_counter()
        with autocast("bfloat16" if bfloat16 else "float32"):
            value = loss()
        value.backward()
        model.zero_grad()
        return time.perf_counter() - start

    step(False)  # memory is allocated, kernels are chosen
    first = step(False)
    if step(True) > PATIENCE * first:
        return "float32"
    times = [(step(False), step(True)) for _ in range(rounds)]
    full, half = (statistics.median(column) for column in zip(*times, strict=True))
    return "bfloat16" if half <= GAIN * full else "float32"
