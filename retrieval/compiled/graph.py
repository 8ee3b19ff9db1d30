"""A graph, run by OpenVINO: the one door to it."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections import deque
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from threading import Lock
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError, MissingPackageError, ModelError

from ..encoder import Precision

HINTS = {"float32": "f32", "bfloat16": "bf16"}
Hint = Literal["THROUGHPUT", "LATENCY"]


def is_installed() -> bool:
    """Whether graphs can be run here."""
    return importlib.util.find_spec("openvino") is not None


# subtle: before it is imported anywhere here; it would tell a server of each import, and note it in the user's home
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]


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
    """What OpenVINO is told: several small batches at once, or one as soon as can be, on OMP_NUM_THREADS threads."""
    how: dict[str, Any] = {"INFERENCE_PRECISION_HINT": HINTS[precision], "PERFORMANCE_HINT": hint}
    if (threads := os.environ.get("OMP_NUM_THREADS", "")).isdigit():
        how["INFERENCE_NUM_THREADS"] = int(threads)
    return how


def convert(path: Path) -> None:
    """Put OpenVINO's own form of a graph (.xml, and .bin beside it) in the place of an .onnx file.

    Raises
    ------
    ModelError
        If it cannot be read.
    OSError
        If the other form cannot be written.
    """
    import openvino

    model, place = _read(path), path.with_suffix(".xml")
    try:
        openvino.save_model(model, place, compress_to_fp16=False)
        _core().read_model(place)  # what does not fit on a disk is left out without a word
    except RuntimeError as error:
        raise OSError(f"{place} cannot be written ({_told(error)})") from error
    path.unlink()


def _read(path: Path) -> Any:
    core = _core()
    try:
        return core.read_model(path)
    except RuntimeError as error:
        import openvino

        raise ModelError(
            f"the graph {path} cannot be read by OpenVINO {openvino.__version__.split('-')[0]} ({_told(error)}); "
            "upgrade it (pip install -U openvino), or say where the model itself is (--model); what lies in the cache "
            "may be removed, and is made again"
        ) from error


def _told(error: Exception) -> str:
    return f"{' '.join(str(error).split()):.200}"


class Graph:
    """A graph of int64 inputs of shape (n, t) and one float output.

    Parameters
    ----------
    path : Path
        An .xml file, whose .bin lies beside it, or an .onnx file; it is read at once.
    precision : {"float32", "bfloat16"}
        Of the arithmetic inside; what goes in and comes out stays as it is.

    Raises
    ------
    InputError
        If the precision is another.
    ModelError
        If it cannot be read.
    MissingPackageError
        If OpenVINO is not installed.
    """

    def __init__(self, path: Path, precision: Precision) -> None:
        if precision not in get_args(Precision):
            raise InputError(f"precision={precision!r}; expected one of {', '.join(get_args(Precision))}")
        self._model, self._precision = _read(path), precision
        self._made: dict[Hint, Any] = {}
        self._making = Lock()

    def _compiled(self, hint: Hint) -> Any:
        """Made when it is first needed: who only asks needs the one, who only builds the other."""
        with self._making:
            if hint not in self._made:
                self._made[hint] = _core().compile_model(self._model, "CPU", settings(self._precision, hint))
            return self._made[hint]

    @property
    def inputs(self) -> tuple[str, ...]:
        """Their names."""
        return _names(self._compiled("THROUGHPUT"))

    @property
    def streams(self) -> int:
        """How many of several batches are computed at the same time, each by its share of the threads."""
        return int(self._compiled("THROUGHPUT").get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS"))

    def one(self, batch: Mapping[str, NDArray[np.int64]]) -> NDArray[np.float32]:
        """The output for one batch, of shape (n, width), computed by all threads.

        Parameters
        ----------
        batch : mapping of name to ndarray of shape (n, t), int64
            Those the graph has no input for are left out.
        """
        compiled = self._compiled("LATENCY")
        request = compiled.create_infer_request()
        request.start_async({name: batch[name] for name in _names(compiled)})
        return _output(request)

    def several(self, batches: Iterable[Mapping[str, NDArray[np.int64]]]) -> list[NDArray[np.float32]]:
        """The outputs for several batches, in their order; batches are taken while others are computed.

        Parameters
        ----------
        batches : iterable of mappings
            As for `one`.
        """
        compiled, most = self._compiled("THROUGHPUT"), 2 * self.streams
        names = _names(compiled)
        found: list[NDArray[np.float32]] = []
        # subtle: requests of its own, for threads may run the same graph at once; and no callbacks (AsyncInferQueue):
        # OpenVINO's threads drop them when the end has been told already, and abort a process that leaves Python then
        running: deque[Any] = deque()
        for batch in batches:
            if len(running) < most:
                request = compiled.create_infer_request()
            else:
                request = running.popleft()
                found.append(_output(request))
            request.start_async({name: batch[name] for name in names})
            running.append(request)
        return [*found, *map(_output, running)]


def _names(compiled: Any) -> tuple[str, ...]:
    return tuple(each.get_any_name() for each in compiled.inputs)


def _output(request: Any) -> NDArray[np.float32]:
    """What it has computed, when it has."""
    request.wait()
    return np.array(request.get_output_tensor().data, np.float32)
