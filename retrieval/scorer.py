"""A pair of texts to a score: cross-encoders, which read both together.

A scorer is any `scorer(query, texts) -> scores`. `CrossEncoderScorer` is a real one; its scores are raw
logits, never a sigmoid of them, which saturates.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError, ModelError

from .encoder import TOKEN_BUDGET, pack, quiet_transformers
from .models import ModelFiles, fingerprint, is_cross_encoder, locate


class PairScorer(ABC):
    """A cross-encoder that scores many pairs at once.

    Attributes
    ----------
    name, source : str
    fingerprint : mapping
        All that decides a score: weights, tokenizer, modules, max_length, activation.
    """

    name: str
    source: str
    fingerprint: Mapping[str, Any]

    def __call__(self, query: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """The logit of the query with each of n texts, of shape (n,)."""
        return self.scores([query] * len(texts), texts)

    def scores(self, firsts: Sequence[str], seconds: Sequence[str]) -> NDArray[np.float32]:
        """The logits of n pairs, of shape (n,); batches are packed by token length.

        Raises
        ------
        InputError
            If there are not as many of both.
        """
        if len(firsts) != len(seconds):
            raise InputError(f"{len(firsts)} first texts and {len(seconds)} second ones; expected as many of both")
        return self._logits(firsts, seconds) if len(firsts) else np.empty(0, np.float32)

    @abstractmethod
    def _logits(self, firsts: Sequence[str], seconds: Sequence[str]) -> NDArray[np.float32]:
        """The same of one pair or more."""


class CrossEncoderScorer(PairScorer):
    """A sentence-transformers CrossEncoder with one output, on this machine.

    Parameters
    ----------
    model : str or ModelFiles
        A folder, an installed package that carries its weights, or a hub name.
    trainable : bool, default=False
        Also take a model without a trained output, such as an encoder, and give it a random one.

    Raises
    ------
    ModelError
        If it cannot be loaded, is no cross-encoder, or has several outputs.

    Attributes
    ----------
    model : CrossEncoder
    """

    def __init__(self, model: str | ModelFiles, *, trainable: bool = False) -> None:
        files = locate(model) if isinstance(model, str) else model
        if not trainable and not is_cross_encoder(files.folder):
            raise ModelError(
                f"model {files.name!r} is no cross-encoder: nothing in it was trained to score a pair; expected a "
                "folder that `retrieval train cross-encoder` or CrossEncoder.save wrote"
            )
        with quiet_transformers():
            from sentence_transformers import CrossEncoder

            try:
                self.model = CrossEncoder(
                    str(files.folder),
                    num_labels=1 if trainable else None,
                    trust_remote_code=False,
                    local_files_only=True,
                )
            except Exception as error:  # of many libraries and kinds, for a file that is missing, cut off or altered
                raise ModelError(
                    f"model {files.name!r} ({files.source}) cannot be loaded as a cross-encoder "
                    f"({type(error).__name__}: {error}); expected a folder that CrossEncoder.save wrote"
                ) from error
        if self.model.num_labels != 1:
            raise ModelError(f"cross-encoder {files.name!r} has {self.model.num_labels} outputs; expected one score")
        self.name, self.source = files.name, files.source
        self.fingerprint: Mapping[str, Any] = scorer_fingerprint(fingerprint(files.folder), self.max_length)

    @property
    def max_length(self) -> int | None:
        """Tokens of a pair that are read; None for all."""
        longest = self.model.max_seq_length
        return int(longest) if longest and longest != float("inf") else None

    def _logits(self, firsts: Sequence[str], seconds: Sequence[str]) -> NDArray[np.float32]:
        scores = np.empty(len(firsts), np.float32)
        from torch import nn

        longest, lengths = self.max_length, self._token_lengths(firsts) + self._token_lengths(seconds)
        limited = lengths if longest is None else np.minimum(lengths, longest)
        for batch in pack(limited, TOKEN_BUDGET):
            scores[batch] = self.model.predict(
                [(firsts[i], seconds[i]) for i in batch], batch_size=len(batch), activation_fn=nn.Identity(),
                show_progress_bar=False,
            )  # fmt: skip
        return scores

    def _token_lengths(self, texts: Sequence[str]) -> NDArray[np.int64]:
        distinct = list(dict.fromkeys(texts))
        tokenize = self.model.tokenizer
        ids = tokenize(distinct, truncation=False, padding=False, return_attention_mask=False, verbose=False)
        length = {text: len(tokens) for text, tokens in zip(distinct, ids["input_ids"], strict=True)}
        return np.array([length[text] for text in texts], np.int64)


def scorer_fingerprint(model: Mapping[str, Any], max_length: int | None) -> dict[str, Any]:
    """All that decides a cross-encoder's scores: its model's fingerprint, tokens read of a pair, no activation."""
    return {**model, "max_length": max_length, "activation": "identity"}
