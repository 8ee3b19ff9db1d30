"""A model compiled once, where it was not before."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import store
from .graph import is_installed
from .store import Compiled

logger = logging.getLogger(__name__)

TRIED = (
    "A red fox jumps over the river.", "  Spaces before,\tand behind \n", "UPPER and Lower, ÄÖÜ ß é ñ",
    "一只红色的狐狸跳过河。", "1234567890 3.14 -1e-5 #%&*", "emoji 🦊🐋 and \u200bnothing", "x", "a long text " * 400,
)  # fmt: skip
"""Texts that a compiled model is held against its model with."""

Write = Callable[[Path], Mapping[str, Any]]


def make(kind: str, name: str, fingerprint: Mapping[str, Any], writer: Callable[[], Write]) -> Compiled | None:
    """The compiled model of a fingerprint, made now if it was not before.

    Parameters
    ----------
    kind, name : str
    fingerprint : mapping
    writer : callable
        Loads the model, and gives what writes its files (see `store.keep`).

    Returns
    -------
    Compiled or None
        None where there can be none, which is said.
    """
    if not is_installed():
        return None
    found = store.find(kind, fingerprint)
    if found is None:
        logger.info("compiling model %s, once: ten to thirty seconds", name)
        write, start = writer(), time.perf_counter()
        try:
            found = store.keep(kind, fingerprint, write)
        except (ImportError, OSError) as error:  # no exporter, no place, no space: another time
            found = f"it cannot be compiled here now ({error})"
        if isinstance(found, Compiled):
            logger.info("model %s compiled, in %.1f s", name, time.perf_counter() - start)
    if isinstance(found, str):
        logger.info("model %s runs in torch, which is slower: %s", name, found)
        return None
    return found
