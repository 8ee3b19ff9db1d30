"""Work in forked children, which may be killed, may crash and may hang without harm to who asked.

A child costs some milliseconds, because all is imported already. Forking is safe only where no thread runs, so
whoever forks does it in a fresh process (`in_fresh_process`) that imports everything, searches nothing and counts
on one thread.
"""

from __future__ import annotations

import importlib
import io
import json
import logging
import os
import pickle
import resource
import select
import signal
import sqlite3
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import indexes
from indexes.errors import RetrievalError

PATIENCE = 60.0
"""Seconds after which a child is taken to hang."""

KNOWN = (RetrievalError, OSError, sqlite3.Error, MemoryError)
"""What the Python API may raise when files or memory fail."""

Tell = Callable[[Any], None]
"""What a child's work is given to say something to its parent at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """How a child ended.

    Attributes
    ----------
    told : list
        What it said, in order.
    error : str
        The traceback of what it raised; empty if it raised nothing.
    known : bool
        Whether that is an error that may be raised.
    signal : int
        What killed it, or 0; SIGALRM if it hung.
    """

    told: list[Any]
    error: str
    known: bool
    signal: int

    @property
    def well(self) -> bool:
        """Whether the work came to its end."""
        return not self.error and not self.signal

    def __str__(self) -> str:
        if self.signal:
            return "hung" if self.signal == signal.SIGALRM else f"ended by {signal.Signals(self.signal).name}"
        return self.error.strip() or "ended well"


class Child:
    """A forked child at its work; `end` must be called.

    Parameters
    ----------
    work : callable
        Called with `Tell` in the child; what it raises is told, too.
    """

    def __init__(self, work: Callable[[Tell], None]) -> None:
        self._from, to = os.pipe()
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid:
            os.close(to)
            return
        try:
            os.close(self._from)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            if "faiss" in sys.modules:  # the threads that the parent may have searched with are not here
                sys.modules["faiss"].omp_set_num_threads(1)
            with os.fdopen(to, "wb", buffering=0) as pipe:

                def tell(kind: str, value: Any) -> None:
                    pipe.write(pickle.dumps((kind, value)))

                try:
                    work(lambda value: tell("told", value))
                except BaseException as error:
                    tell("raised", (traceback.format_exc(), isinstance(error, KNOWN)))
                else:
                    tell("well", None)
        finally:
            os._exit(0)

    def kill(self) -> None:
        """End it at once, if it has not ended."""
        os.kill(self.pid, signal.SIGKILL)

    def end(self) -> End:
        """Wait until it has ended; one that hangs is killed."""
        data, hung, until = b"", False, time.monotonic() + PATIENCE
        with os.fdopen(self._from, "rb", buffering=0) as pipe:
            while True:
                ready = select.select([pipe], [], [], max(0.0, until - time.monotonic()))[0]
                if not ready:
                    hung = True
                    self.kill()
                    break
                if not (piece := pipe.read(1 << 16)):
                    break
                data += piece
        _, status = os.waitpid(self.pid, 0)
        told, error, known, well = [], "", True, False
        for kind, value in _messages(data):
            if kind == "told":
                told.append(value)
            elif kind == "raised":
                error, known = value
            else:
                well = True
        ended_by = signal.SIGALRM if hung else os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
        if not (ended_by or error or well):
            error, known = "the child ended without a word", False
        return End(told=told, error=error, known=known, signal=ended_by)


def in_child(work: Callable[[Tell], None]) -> End:
    """Do some work in a child and wait for its end."""
    return Child(work).end()


def in_fresh_process(function: Callable[..., Any], *arguments: Any, preload: Path | None = None) -> Any:
    """What a function of one of our modules gives when it is called in a fresh interpreter.

    Parameters
    ----------
    function : callable
        Of a module; what it gives must be something that can be pickled.
    *arguments
        Things that JSON knows.
    preload : Path, optional
        A library for LD_PRELOAD.
    """
    here = [str(Path(__file__).parent.parent), str(Path(indexes.__file__).parent.parent)]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    environment = os.environ | threads | {"PYTHONPATH": os.pathsep.join(here)}
    if preload is not None:
        environment["LD_PRELOAD"] = str(preload)
    command = [sys.executable, "-c", f"from {__name__} import _answer; _answer()"]
    asked = [function.__module__, function.__qualname__, json.dumps(arguments)]
    done = subprocess.run([*command, *asked], env=environment, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL)
    if done.returncode:
        raise RuntimeError(f"{function.__module__}.{function.__qualname__} ended with {done.returncode}; see above")
    return pickle.loads(done.stdout)  # our own child's


def _answer() -> None:
    """The other side of `in_fresh_process`."""
    out = os.dup(1)
    os.dup2(2, 1)  # what anyone prints is not the answer
    for late in (
        "faiss", "filelock", "retrieval.cli", "safetensors.numpy", "scipy.stats", "sqlglot.dialects.sqlite", "sqlite_utils",
    ):  # fmt: skip
        importlib.import_module(late)  # once, and not in every child
    logging.disable(logging.WARNING)
    module, name, arguments = sys.argv[1:]
    given = getattr(importlib.import_module(module), name)(*json.loads(arguments))
    with os.fdopen(out, "wb") as file:
        file.write(pickle.dumps(given))


def _messages(data: bytes) -> list[tuple[str, Any]]:
    """The messages of a child, without one that it was killed at."""
    file, found = io.BytesIO(data), []
    while file.tell() < len(data):
        try:
            found.append(pickle.load(file))
        except (EOFError, pickle.UnpicklingError):
            break
    return found
