"""Which search structure suits an index: a rule of size and memory, and its reason in words."""

from __future__ import annotations

import os
from dataclasses import dataclass

FLAT_COMPONENTS = 25_000_000
"""Up to this many numbers (n * dim) a full scan takes about 5 ms on one core."""

FEW = 1000
"""Fewer rows than this are kept as float32: 8-bit codes learn their range from the rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """A FAISS factory string and the reason for it."""

    factory: str
    reason: str

    def record(self, requested: str) -> dict[str, str]:
        """What a manifest notes of it, with what was asked for."""
        return {"requested": requested, "factory": self.factory, "reason": self.reason}


def choose(n: int, dim: int, memory: int) -> Choice:
    """The structure that suits n rows of dim numbers within some memory.

    Parameters
    ----------
    n, dim : int
    memory : int
        Bytes that are free; half of them may be used.

    Examples
    --------
    >>> choose(500, 192, 8 << 30).factory
    'Flat'
    >>> choose(5_000, 192, 8 << 30).factory
    'SQ8'
    >>> choose(1_000_000, 192, 8 << 30).factory
    'HNSW32,SQ8'
    >>> choose(10_000_000, 192, 8 << 30).factory
    'IVF12649,SQ8'
    """
    if n < FEW:
        return Choice(factory="Flat", reason=f"{n:,} documents are few: their vectors need not be made smaller")
    if n * dim <= FLAT_COMPONENTS:
        return Choice(factory="SQ8", reason=f"{n:,} x {dim} numbers of 8 bits are all scanned in milliseconds")
    need = n * (dim + 2 * 32 * 4 + 16)
    if need <= memory // 2:
        reason = f"{n:,} x {dim}: a graph over 8-bit rows is quickest and its {need / 2**30:.1f} GiB fit in memory"
        return Choice(factory="HNSW32,SQ8", reason=reason)
    lists = int(4 * n**0.5)
    return Choice(
        factory=f"IVF{lists},SQ8",
        reason=f"{n:,} x {dim}: a graph would not fit in half of {memory / 2**30:.1f} GiB; lists of 8-bit rows do",
    )


def free_memory() -> int:
    """Bytes of memory that are free on this machine (Linux; 4 GiB are assumed where the system does not say)."""
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError, AttributeError):
        return 4 << 30
