"""What a search gives back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from indexes.bundle import Found


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """A document that was found.

    Parameters
    ----------
    rank : int
        1 is the best.
    doc_id : str
    score : float
        Cosine of the whitened vectors, or a cross-encoder's raw score; rounded to 6 decimals, higher is better.
    text : str
    metadata : mapping
    scores : mapping
        What the score is made of: "dense", and of a cross-encoder's hit "cross_encoder", the "round" it was found in
        and the score "predicted" for it before; of a geodesic search the "way" to the document, in radians.
    path : sequence of mapping
        Of a geodesic search: "id" and "text" of the documents that the way leads over.
    """

    rank: int
    doc_id: str
    score: float
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    path: Sequence[Mapping[str, str]] = ()


def hits_of(found: Sequence[Found]) -> list[Hit]:
    """What the index found, best first, as hits."""
    return [
        Hit(
            rank=rank,
            doc_id=one.document.doc_id,
            score=one.score,
            text=one.document.text,
            metadata=one.document.metadata,
            scores={"dense": one.score},
        )
        for rank, one in enumerate(found, start=1)
    ]
