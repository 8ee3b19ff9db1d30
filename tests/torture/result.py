"""What a run of trials found."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Trials of one kind.

    Parameters
    ----------
    kind : str
        What was done, and what came of it.
    number : int
        How often.
    violations : list of str
        What must not have come of it, each with what is needed to see it again.
    """

    kind: str
    number: int
    violations: list[str]
