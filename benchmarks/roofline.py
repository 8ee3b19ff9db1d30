"""How near encoding comes to the processor's own speed: operations counted, and a matrix product's rate beside them.

Counted is what a text needs, without padding: a product with every weight of the linear layers, and attention. What is
not a product (softmax, normalisation, activation, looking words up) counts as nothing, so that a share of 100 % cannot
be reached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.compiled.graph import HINTS, settings
from retrieval.compiled.model import TOKENS

ROWS = 2048
AT_LEAST = 2.4e11
"""Operations between two looks at the clock: what is shorter is easily disturbed."""
ATTENTION = (
    "MatMul",
    "Softmax",
    "Select",
    "IsNaN",
    "ScaledDotProductAttention",
    "ScaledDotProductAttentionWithKVCache",
)


def operations(lengths: Sequence[int], *, linear: int, layers: int, width: int) -> int:
    """Additions and multiplications of the matrix products for texts of so many tokens each.

    A token of a text of L tokens takes 2 for each weight of the linear layers, and in each layer 2 L width for the
    scores of attention and as many for the sum that they weigh.
    """
    return sum(tokens * (2 * linear + layers * 4 * tokens * width) for tokens in lengths)


def shape_of(model: Any) -> dict[str, int]:
    """`linear`, `layers` and `width` of a SentenceTransformer's encoder stack."""
    from torch import nn

    stack = model[0].auto_model.encoder
    linear = [module.weight.numel() for module in stack.modules() if isinstance(module, nn.Linear)]
    return {"linear": sum(linear), "layers": len(stack.layer), "width": model[0].auto_model.config.hidden_size}


def products(width: int, precisions: Sequence[str]) -> dict[str, Callable[[], object]]:
    """`repeats` products of 2048 x width x 4 width, or as many operations with rows as a batch of ours has tokens.

    Named by precision, library and rows. Numbers go in and come out in the precision itself, as between layers:
    making them float32 for each product would be measured, too.
    """
    import torch

    times = repeats(width)
    rng = np.random.default_rng(0)
    right = rng.standard_normal((4 * width, width), np.float32)
    ways: dict[str, Callable[[], object]] = {}
    for precision in precisions:
        for rows in (ROWS, TOKENS):
            left = rng.standard_normal((rows, width), np.float32)
            ways[f"{precision}, OpenVINO, {rows} rows"] = _by_openvino(left, right, precision, times * ROWS // rows)
        x, y = (
            torch.from_numpy(values).to(getattr(torch, precision))
            for values in (rng.standard_normal((ROWS, width), np.float32), right)
        )

        def by_torch(x: Any = x, y: Any = y) -> None:
            for _ in range(times):
                torch.nn.functional.linear(x, y)

        ways[f"{precision}, torch, {ROWS} rows"] = by_torch
    return ways


def _by_openvino(
    left: NDArray[np.float32], right: NDArray[np.float32], precision: str, times: int
) -> Callable[[], object]:
    import openvino
    from openvino import opset13

    kind = openvino.Type.bf16 if precision == "bfloat16" else openvino.Type.f32
    given = opset13.parameter([-1, left.shape[1]], kind)
    weights = opset13.convert(opset13.constant(right), HINTS[precision])
    graph = openvino.Model([opset13.matmul(given, weights, False, True)], [given])
    compiled = openvino.Core().compile_model(graph, "CPU", settings(precision))
    tensor = openvino.Tensor(kind, openvino.Shape(left.shape))
    if precision == "bfloat16":  # subtle: numpy has none; it is the upper half of a float32
        tensor.data.view(np.uint16)[:] = left.view(np.uint32) >> 16
    else:
        tensor.data[:] = left

    def run() -> None:
        queue = openvino.AsyncInferQueue(compiled)
        for _ in range(times):
            queue.start_async([tensor])
        queue.wait_all()

    return run


def repeats(width: int) -> int:
    """How many products of 2048 rows `products` makes at once."""
    return -int(-AT_LEAST // (2 * ROWS * width * 4 * width))


def rate(width: int, seconds: float) -> float:
    """GFLOP/s of what `products` gives."""
    return repeats(width) * 2 * ROWS * width * 4 * width / seconds / 1e9


class Taken:
    """In the place of a graph: keeps the batches, computes nothing."""

    def __init__(self, graph: Any) -> None:
        self.inputs, self.streams = graph.inputs, graph.streams
        self.batches: list[dict[str, NDArray[np.int64]]] = []

    def several(self, batches: Any) -> list[NDArray[np.float32]]:
        self.batches = list(batches)
        return [np.zeros((len(batch["input_ids"]), 1), np.float32) for batch in self.batches]


def where(encoder: Any, texts: list[str], shape: dict[str, int]) -> dict[str, Any]:
    """Where the time of a compiled encoder goes: padding, reading, and inside of the graph by kind of layer."""
    import openvino

    graph = encoder._model._graph
    encoder._model._graph = taken = Taken(graph)
    try:
        start = time.perf_counter()
        encoder.encode(texts)
        reading = time.perf_counter() - start
    finally:
        encoder._model._graph = graph
    compiled = openvino.Core().compile_model(
        encoder.compiled.graph, "CPU", settings(encoder.precision) | {"PERF_COUNT": True}
    )
    each, requests = [], [compiled.create_infer_request() for _ in taken.batches]
    for _ in range(4):  # the counters are means of all times
        start = time.perf_counter()
        for request, batch in zip(requests, taken.batches, strict=True):
            request.start_async({name: batch[name] for name in graph.inputs})
        for request in requests:
            request.wait()
        each.append(time.perf_counter() - start)
    seconds = float(np.mean(each))
    spent: dict[str, float] = {}
    for one in (one for request in requests for one in request.get_profiling_info()):
        spent[one.node_type] = spent.get(one.node_type, 0.0) + one.real_time.total_seconds()
    real = sum(int(batch["attention_mask"].sum()) for batch in taken.batches)
    padded = sum(batch["input_ids"].size for batch in taken.batches)
    whole = graph.streams * seconds
    linear, attention = spent.pop("FullyConnected"), sum(spent.pop(kind, 0.0) for kind in ATTENTION)
    return {
        "precision": encoder.precision, "padding, %": round(100 * (1 - real / padded), 1),
        "reading, s": round(reading, 4), "graph, s": round(seconds, 4),
        "linear layers, %": round(100 * linear / whole, 1), "attention, %": round(100 * attention / whole, 1),
        "others, %": round(100 * sum(spent.values()) / whole, 1),
        "between layers, %": round(100 * (1 - (linear + attention + sum(spent.values())) / whole), 1),
        "linear layers, GFLOP/s": round(2 * padded * shape["linear"] * graph.streams / linear / 1e9, 1),
        "others by kind, %": {
            kind: round(100 * value / whole, 1) for kind, value in sorted(spent.items(), key=lambda item: -item[1])[:8]
        },
    }  # fmt: skip
