"""Which search structure suits an index: a rule of size, and its reason in words."""

from __future__ import annotations

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


def choose(n: int, dim: int) -> Choice:
    """The structure that suits n rows of dim numbers.

    A graph over the same rows (HNSW32,SQ8) answers sooner, but takes three times the memory and finds less
    (docs/speed.md).

    Parameters
    ----------
    n, dim : int

    Examples
    --------
    >>> choose(500, 192).factory
    'Flat'
    >>> choose(5_000, 192).factory
    'SQ8'
    >>> choose(1_000_000, 192).factory
    'IVF4000,SQ8'
    """
    if n < FEW:
        return Choice(factory="Flat", reason=f"{n:,} documents are few: their vectors need not be made smaller")
    if n * dim <= FLAT_COMPONENTS:
        return Choice(factory="SQ8", reason=f"{n:,} x {dim} numbers of 8 bits are all scanned in milliseconds")
    lists = int(4 * n**0.5)
    return Choice(
        factory=f"IVF{lists},SQ8", reason=f"{n:,} x {dim}: an eighth of {lists:,} lists of 8-bit rows is scanned"
    )
