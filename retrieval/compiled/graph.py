"""An ONNX graph, run by OpenVINO: the one door to it."""

from __future__ import annotations

import importlib.util
import os
from collections import deque
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError, MissingPackageError

from ..encoder import Precision

HINTS = {"float32": "f32", "bfloat16": "bf16"}


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


def settings(precision: Precision) -> dict[str, Any]:
    """What OpenVINO is told: several small inputs at once, on as many threads as OMP_NUM_THREADS says."""
    how: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": "THROUGHPUT"}
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
    streams : int
        How many inputs are computed at the same time.
    """

    def __init__(self, path: Path, precision: Precision) -> None:
        if precision not in get_args(Precision):
            raise InputError(f"precision={precision!r}; expected one of {', '.join(get_args(Precision))}")
        core = _core()
        self._model = core.compile_model(core.read_model(path), "CPU", settings(precision))
        self.inputs = tuple(each.get_any_name() for each in self._model.inputs)
        self.streams: int = self._model.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")

    def run(self, several: Iterable[Mapping[str, NDArray[np.int64]]]) -> list[NDArray[np.float32]]:
        """The outputs for several inputs, float32; inputs are taken while others are computed.

        Parameters
        ----------
        several : iterable of mappings of name to ndarray of shape (n, t), int64
            Those the graph has no input for are left out.
        """
        found: list[NDArray[np.float32]] = []
        # subtle: requests of its own, for threads may run the same graph at once; and no callbacks (AsyncInferQueue):
        # OpenVINO's threads drop them when the end has been told already, and abort a process that leaves Python then
        running: deque[Any] = deque()

        def oldest() -> Any:
            request = running.popleft()
            request.wait()
            found.append(np.array(request.get_output_tensor().data, np.float32))
            return request

        for values in several:  # one waits for each that is computed
            request = oldest() if len(running) == 2 * self.streams else self._model.create_infer_request()
            request.start_async({name: values[name] for name in self.inputs})
            running.append(request)
        while running:
            oldest()
        return found
