"""A write that waits for its turn: as soon as no other process is writing."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

from indexes.errors import IndexLockedError

logger = logging.getLogger(__name__)

T = TypeVar("T")


def when_free(write: Callable[[], T]) -> T:
    """What a write gives, once it is not refused because another process is writing."""
    told = False
    while True:
        try:
            return write()
        except IndexLockedError as error:
            if not told:
                logger.info("waiting to commit: %s", error)
            told = True
            time.sleep(1.0)
