"""A tokenizer and a graph: texts, or pairs of them, to what the graph gives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..encoder import TOKEN_BUDGET, Precision, pack
from .graph import Graph, native_precision
from .store import Compiled

Texts = Sequence[str] | Sequence[tuple[str, str]]


class CompiledModel:
    """A compiled model, loaded.

    Parameters
    ----------
    compiled : Compiled
    precision : {"float32", "bfloat16"}, optional
        By default the quickest that this machine computes in; bfloat16 is float32 where it cannot.
    """

    def __init__(self, compiled: Compiled, precision: Precision | None = None) -> None:
        from tokenizers import Tokenizer

        native = native_precision()
        self.precision: Precision = precision if precision is not None and native == "bfloat16" else native
        self._pad = int(compiled.settings["pad"])
        self._tokenizer = Tokenizer.from_file(str(compiled.folder / "tokenizer.json"))
        self._graph = Graph(compiled.folder / "graph.onnx", self.precision)

    def run(self, texts: Texts) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """What the graph makes of n texts or pairs, of shape (n, width), and which were longer than it reads, (n,).

        Batches are packed by token length.
        """
        read = self._tokenizer.encode_batch(list(texts))
        out: Any = None
        for batch in pack(np.array([len(one.ids) for one in read]), TOKEN_BUDGET):
            made = self._graph.run(self._batch([read[i] for i in batch]))
            out = np.empty((len(read), made.shape[1]), np.float32) if out is None else out
            out[batch] = made
        return out, np.array([bool(one.overflowing) for one in read])

    def _batch(self, rows: Sequence[Any]) -> dict[str, NDArray[np.int64]]:
        shape = (len(rows), max(2, *(len(row.ids) for row in rows)))
        ids, mask, types = (np.full(shape, fill, np.int64) for fill in (self._pad, 0, 0))
        for i, row in enumerate(rows):
            length = len(row.ids)
            ids[i, :length], mask[i, :length], types[i, :length] = row.ids, 1, row.type_ids
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
