"""Anchor queries: what their scores say of any other query is why they are asked for all documents beforehand."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import RESTORE, IndexCorruptError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Anchors:
    """Some queries and the encoder's vectors of them.

    Parameters
    ----------
    queries : tuple of k_q str
    vectors : ndarray of shape (k_q, d), float32
        As the encoder gives them, before any whitening.

    Examples
    --------
    >>> anchors = Anchors(queries=("red", "blue"), vectors=np.eye(2, dtype=np.float32))
    >>> len(anchors), len(anchors.to_bytes()) > 16
    (2, True)
    """

    queries: tuple[str, ...]
    vectors: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.queries)

    def to_bytes(self) -> bytes:
        """A safetensors file; the same anchors give the same bytes."""
        from safetensors.numpy import save

        # the queries as bytes, not as metadata, whose length safetensors bounds
        text = np.frombuffer(json.dumps(self.queries, ensure_ascii=False).encode(), np.uint8)
        return save({"queries": text, "vectors": np.ascontiguousarray(self.vectors, np.float32)})

    @classmethod
    def load(cls, path: Path) -> Anchors:
        """Read what `to_bytes` gave.

        Raises
        ------
        IndexCorruptError
            If the file is something else.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            tensors: dict[str, Any] = load(path.read_bytes())
            queries, vectors = json.loads(tensors["queries"].tobytes()), tensors["vectors"]
            if not all(isinstance(query, str) for query in queries):
                raise ValueError("queries that are no strings")
            if vectors.ndim != 2 or len(vectors) != len(queries) or vectors.dtype != np.float32:
                raise ValueError(f"vectors of shape {vectors.shape} and dtype {vectors.dtype}")
        except (SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise IndexCorruptError(f"{path} does not hold anchor queries ({error}); {RESTORE}") from error
        return cls(queries=tuple(queries), vectors=vectors)
