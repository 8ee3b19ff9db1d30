"""An ONNX graph, run by OpenVINO: the one door to it."""

from __future__ import annotations

import importlib.util
import os
from collections import deque
from collections.abc import Iterable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError, MissingPackageError

from ..encoder import Precision

HINTS = {"float32": "f32", "bfloat16": "bf16"}
Hint = Literal["THROUGHPUT", "LATENCY"]


def is_installed() -> bool:
    """Whether graphs can be run here."""
    return importlib.util.find_spec("openvino") is not None


@cache
def _core() -> Any:
    try:
        import openvino  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingPackageError("compiled models are run by OpenVINO; install it: pip install openvino") from error
    return openvino.Core()


@cache
def native_precision() -> Precision:
    """bfloat16 where the processor computes in it, else float32."""
    able: list[str] = _core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    return "bfloat16" if "BF16" in able else "float32"


def settings(precision: Precision, hint: Hint = "THROUGHPUT") -> dict[str, Any]:
    """What OpenVINO is told: several small inputs at once, or one as soon as can be, on OMP_NUM_THREADS threads."""
    how: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": hint}
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        how["INFERENCE_NUM_THREADS"] = int(threads)
    return how


class Graph:
    """A graph of int64 inputs of shape (n, t) and one float output.

    Parameters
    ----------
    path : Path
        An .onnx file.
    precision : {"float32", "bfloat16"}
        Of the arithmetic inside; what goes in and comes out stays as it is.

    Raises
    ------
    InputError
        If the precision is another.
    MissingPackageError
        If OpenVINO is not installed.

    Attributes
    ----------
    inputs : tuple of str
    """

    def __init__(self, path: Path, precision: Precision) -> None:
        if precision not in get_args(Precision):
            raise InputError(f"precision={precision!r}; expected one of {', '.join(get_args(Precision))}")
        self._read, self._precision = _core().read_model(path), precision
        self.inputs = tuple(each.get_any_name() for each in self._read.inputs)

    # each is made when it is first needed: who only asks needs one, who only builds the other

    @cached_property
    def _for_one(self) -> Any:
        return _core().compile_model(self._read, "CPU", settings(self._precision, "LATENCY"))

    @cached_property
    def _for_several(self) -> Any:
        return _core().compile_model(self._read, "CPU", settings(self._precision, "THROUGHPUT"))

    @cached_property
    def streams(self) -> int:
        """How many of several inputs are computed at the same time, each by its share of the threads."""
        return int(self._for_several.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def one(self, values: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """The output for one input, computed by all threads.

        Parameters
        ----------
        values : mapping of name to ndarray of shape (n, t), int64
            Those the graph has no input for are left out.
        """
        request = self._for_one.create_infer_request()
        self._start(request, values)
        return _output(request)

    def several(self, inputs: Iterable[Mapping[str, NDArray[np.int64]]]) -> list[NDArray[np.float32]]:
        """The outputs for several inputs, float32; inputs are taken while others are computed.

        Parameters
        ----------
        inputs : iterable of mappings
            As for `one`.
        """
        found: list[NDArray[np.float32]] = []
        # subtle: requests of its own, for threads may run the same graph at once; and no callbacks (AsyncInferQueue):
        # OpenVINO's threads drop them when the end has been told already, and abort a process that leaves Python then
        running: deque[Any] = deque()

        for values in inputs:
            if len(running) < 2 * self.streams:  # one waits for each that is computed
                request = self._for_several.create_infer_request()
            else:
                request = running.popleft()
                found.append(_output(request))
            self._start(request, values)
            running.append(request)
        return [*found, *map(_output, running)]

    def _start(self, request: Any, values: Mapping[str, NDArray[np.int64]]) -> None:
        request.start_async({name: values[name] for name in self.inputs})


def _output(request: Any) -> NDArray[np.float32]:
    """What it has computed, when it has."""
    request.wait()
    return np.array(request.get_output_tensor().data, np.float32)
