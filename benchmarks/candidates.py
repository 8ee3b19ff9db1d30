"""Other ways to run the same encoder: torch in bfloat16, ONNX Runtime, int8. All get batches packed as ours are.

ONNX Runtime (`pip install onnxruntime`) and NNCF (`pip install nncf`) are no part of the project's extras; what is not
installed is left out, and that is said.
"""

from __future__ import annotations

import copy
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval.compiled.encoder import CompiledEncoder
from retrieval.compiled.export import export_encoder
from retrieval.compiled.graph import Graph
from retrieval.console import note
from retrieval.encoder import SentenceTransformerEncoder
from retrieval.models import ModelFiles

CALIBRATION = 300
"""Texts that the static int8 graph is fitted on."""

NO_PROMPTS = {"query": "", "document": ""}
Encode = Callable[[Sequence[str]], NDArray[np.float32]]


class OnnxGraph:
    """What `retrieval.compiled.graph.Graph` is, by ONNX Runtime: as many batches at once as there are cores."""

    def __init__(self, path: Path) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.inputs = tuple(each.name for each in self._session.get_inputs())
        self.streams = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)

    def several(self, batches: Iterable[Mapping[str, NDArray[np.int64]]]) -> list[NDArray[np.float32]]:
        with ThreadPoolExecutor(self.streams) as pool:
            return list(pool.map(self.one, batches))

    def one(self, batch: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        return np.asarray(self._session.run(None, {name: batch[name] for name in self.inputs})[0], np.float32)


def candidates(
    files: ModelFiles, ours: CompiledEncoder, calibration: Sequence[str], folder: Path
) -> Iterator[tuple[str, Encode]]:
    """Each way that is installed and can be had, by name.

    Parameters
    ----------
    files : ModelFiles
    ours : CompiledEncoder
        Of the same model.
    calibration : sequence of str
        Texts that the static int8 graph is fitted on.
    folder : Path
        For the graphs that are made.
    """
    import torch

    if ours.precision == "bfloat16":  # without the processor's own it is many times slower
        halved = SentenceTransformerEncoder(files, NO_PROMPTS)
        halved.model.to(torch.bfloat16)
        yield "torch, bfloat16", lambda texts: halved.encode(texts).vectors
    if _installed("onnxruntime"):
        graph = folder / "graph.onnx"
        export_encoder(SentenceTransformerEncoder(files, NO_PROMPTS).model, graph)
        yield "ONNX Runtime, float32", _through(ours, OnnxGraph(graph))
        yield "ONNX Runtime, int8, dynamic", _through(ours, OnnxGraph(dynamic(graph, folder)))
    if _installed("nncf"):
        path = static(ours, calibration, folder)
        yield "OpenVINO, int8, static; else float32", _through(ours, Graph(path, "float32"))
        if ours.precision == "bfloat16":
            yield "OpenVINO, int8, static; else bfloat16", _through(ours, Graph(path, "bfloat16"))
            path = static(ours, calibration, folder, spared=True)
            yield (
                "OpenVINO, int8, static; second feed-forward layers and else bfloat16",
                _through(ours, Graph(path, "bfloat16")),
            )


def dynamic(graph: Path, folder: Path) -> Path:
    """Weights in int8, a scale for each channel; what they multiply is made int8 batch by batch."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    plain, path = folder / "plain.onnx", folder / "dynamic.onnx"
    model = onnx.load(graph)
    del model.graph.value_info[:]  # subtle: shapes noted by the exporter name its own axes, which trips shape inference
    onnx.save(model, plain)
    quantize_dynamic(
        plain, path, per_channel=True, weight_type=QuantType.QInt8, op_types_to_quantize=["MatMul", "Gemm"]
    )
    return path


def static(ours: CompiledEncoder, calibration: Sequence[str], folder: Path, *, spared: bool = False) -> Path:
    """Weights and what they multiply in int8 with fixed scales, outliers moved into the weights (SmoothQuant).

    `spared` leaves out what makes a layer of the feed-forward blocks narrow again.
    """
    import nncf
    import openvino

    nncf.set_log_level(40)
    inputs = ours._model._graph.inputs
    texts = []
    for read in ours._model._tokenizer.encode_batch(list(calibration)):
        one = {"input_ids": read.ids, "attention_mask": read.attention_mask, "token_type_ids": read.type_ids}
        texts.append({name: np.array([one[name]], np.int64) for name in inputs})
    graph = openvino.Core().read_model(ours.compiled.graph)
    kept = [each.get_friendly_name() for each in graph.get_ordered_ops() if spared and _narrows(each)]
    made = nncf.quantize(
        graph, nncf.Dataset(texts), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(texts),
        ignored_scope=nncf.IgnoredScope(names=kept),
    )  # fmt: skip
    path = folder / ("spared.xml" if spared else "static.xml")
    openvino.save_model(made, path, compress_to_fp16=False)
    return path


def _narrows(operation: Any) -> bool:
    """Whether it is a product with weights that has fewer columns than it is given."""
    if operation.get_type_name() != "MatMul" or not operation.input(1).get_partial_shape().is_static:
        return False
    given, out = operation.input(0).get_partial_shape()[-1], operation.output(0).get_partial_shape()[-1]
    return bool(given.is_static and out.is_static and out.get_length() < given.get_length())


def _through(ours: CompiledEncoder, graph: Any) -> Encode:
    """The same reading and packing, another graph."""
    other = copy.copy(ours)
    other._model = copy.copy(ours._model)
    other._model._graph = graph
    return lambda texts: other.encode(texts).vectors


def _installed(name: str) -> bool:
    there = importlib.util.find_spec(name) is not None
    if not there:
        note(f"{name} is not installed: its rows are left out")
    return there
