"""A tokenizer and a graph: texts, or pairs of them, to what the graph gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..encoder import Precision, pack
from .graph import Graph, native_precision
from .store import Compiled

Texts = Sequence[str] | Sequence[tuple[str, str]]

TOKENS, FEWEST = 1024, 128
"""Most tokens in one batch, padding included, and the fewest that are worth one: larger ones are padded more, and the
processor's caches hold less of what is computed."""

AT_ONCE = 1024
"""Texts that are read together, while those before are computed; what fills no batch goes on to the next ones."""


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
        self._most = compiled.settings["max_tokens"]
        self._pad = int(compiled.settings["pad"])
        self._tokenizer = Tokenizer.from_file(str(compiled.tokenizer))
        self._graph = Graph(compiled.graph, self.precision)

    def run(self, texts: Texts) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """What the graph makes of n texts or pairs, of shape (n, width), and which were longer than it reads, (n,).

        Batches are packed by token length.
        """
        cut = np.zeros(len(texts), np.bool_)
        if len(texts) == 1:
            (read,) = self._tokenizer.encode_batch(list(texts))
            cut[0] = bool(read.overflowing)
            (length,) = rounded(np.array([len(read.ids)]), self._most)
            return self._graph.one(self._batch([read], length)), cut
        rows: list[NDArray[np.int64]] = []

        def batches() -> Iterator[dict[str, NDArray[np.int64]]]:
            order = np.argsort([-_size(text) for text in texts], kind="stable")
            left: list[tuple[int, Any]] = []
            for start in range(0, len(order), AT_ONCE):
                some = order[start : start + AT_ONCE]
                read = self._tokenizer.encode_batch([texts[i] for i in some])
                cut[some] = [bool(one.overflowing) for one in read]
                left += zip(some.tolist(), read, strict=True)
                lengths = rounded(np.array([len(one.ids) for _, one in left]), self._most)
                budget = min(TOKENS, max(FEWEST, int(lengths.sum()) // self._graph.streams))
                *full, last = pack(lengths, budget)
                if start + AT_ONCE >= len(order):
                    full.append(last)
                for batch in full:
                    rows.append(np.array([left[i][0] for i in batch]))
                    yield self._batch([left[i][1] for i in batch], lengths[batch[0]])
                left = [left[i] for i in last]

        made = np.concatenate(self._graph.several(batches()))
        out = np.empty_like(made)
        out[np.concatenate(rows)] = made
        return out, cut

    def _batch(self, rows: Sequence[Any], longest: int) -> dict[str, NDArray[np.int64]]:
        shape = (len(rows), longest)
        ids, mask, types = (np.full(shape, fill, np.int64) for fill in (self._pad, 0, 0))
        for i, row in enumerate(rows):
            length = len(row.ids)
            ids[i, :length], mask[i, :length], types[i, :length] = row.ids, 1, row.type_ids
        return {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}


def rounded(lengths: NDArray[np.int64], most: int | None) -> NDArray[np.int64]:
    """Numbers of tokens, up to a sixteenth more: for each shape of a batch the runtime keeps a plan of its own.

    Examples
    --------
    >>> rounded(np.array([1, 2, 31, 33, 65, 197]), most=198).tolist()
    [2, 2, 31, 34, 68, 198]
    """
    steps = 1 << np.maximum(np.frexp(lengths)[1] - 5, 0)
    more = np.maximum(2, -(-lengths // steps) * steps)
    return np.asarray(more if most is None else np.minimum(more, max(2, most)), np.int64)


def _size(text: str | tuple[str, str]) -> int:
    """Of a text or both of a pair, in characters."""
    return len(text) if isinstance(text, str) else sum(map(len, text))
