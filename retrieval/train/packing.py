"""A batch in groups of like length: the same mathematics, without the padding that a CPU pays for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Forward = Callable[..., dict[str, Any]]
GROUP = 16
"""Texts in a group. A batch of short texts has one long one often."""
RESULTS = ("sentence_embedding", "scores")


def by_length(forward: Forward) -> Forward:
    """A model's forward that takes a batch apart by length and puts what comes out together again.

    Only where gradients are asked for, and for texts that are padded on the right; everything else goes
    through as it is. Up to the places where dropout falls, the results are those of `forward`.

    Parameters
    ----------
    forward : callable
        From features (a dict with "attention_mask" of shape (n, t)) to the same with results of shape (n, ...).
    """

    def grouped(features: dict[str, Any], **options: Any) -> dict[str, Any]:
        mask = features.get("attention_mask")
        if not torch.is_grad_enabled() or mask is None or mask.ndim != 2 or len(mask) <= GROUP:
            return forward(features, **options)
        lengths = mask.sum(1)
        if not all(mask[row, : lengths[row]].all() for row in range(len(mask))):
            return forward(features, **options)
        order = torch.argsort(lengths, descending=True, stable=True)
        parts = [
            forward(_rows(features, mask.shape, rows, int(lengths[rows[0]])), **options) for rows in order.split(GROUP)
        ]
        back = torch.argsort(order)
        return {name: torch.cat([part[name] for part in parts])[back] for name in RESULTS if name in parts[0]}

    return grouped


def _rows(features: dict[str, Any], shape: torch.Size, rows: Tensor, longest: int) -> dict[str, Any]:
    """Some rows of a batch, cut to the longest of them."""
    cut: dict[str, Any] = {}
    for name, value in features.items():
        if isinstance(value, Tensor) and value.shape[:2] == shape:
            value = value[rows, :longest]
        elif isinstance(value, Tensor) and value.ndim and len(value) == shape[0]:
            value = value[rows]
        cut[name] = value
    return cut
