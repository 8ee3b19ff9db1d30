"""The two kinds of models that are trained, as one interface: encoders and cross-encoders."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from sentence_transformers import CrossEncoderTrainer, SentenceTransformerTrainer
from sentence_transformers.cross_encoder import CrossEncoderTrainingArguments
from sentence_transformers.sentence_transformer import SentenceTransformerTrainingArguments
from torch import Tensor, nn

from indexes.errors import InputError

from ..encoder import SentenceTransformerEncoder
from ..models import ModelFiles, is_cross_encoder
from ..pairs import STSSet
from ..scorer import CrossEncoderScorer
from ..similarity import Sentences
from .losses import CROSS_ENCODER_LOSSES, ENCODER_LOSSES, Builder
from .packing import by_length


class Kind(Protocol):
    """What the training loop asks of a model."""

    losses: dict[str, Builder]
    trainer: Any
    arguments: Any
    model: Any
    trained_before: bool
    prompt: str | None

    def scores(self, pairs: STSSet) -> NDArray[np.floating[Any]]:
        """How alike the model finds n pairs, of shape (n,)."""
        ...  # pragma: no cover

    def loss_of(self, loss: nn.Module, firsts: Sequence[str], seconds: Sequence[str], labels: Tensor | None) -> Tensor:
        """The loss of one batch of texts, with gradient."""
        ...  # pragma: no cover

    def save(self, folder: Path) -> None:
        """Write the model so that plain sentence-transformers loads it."""
        ...  # pragma: no cover


class EncoderKind:
    """An encoder: pairs are compared by the cosine of their vectors, each with the model's query prompt."""

    losses = ENCODER_LOSSES
    trainer, arguments = SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    trained_before = True

    def __init__(self, files: ModelFiles, max_length: int | None) -> None:
        self.encoder = SentenceTransformerEncoder(files)
        self.model = self.encoder.model
        self.model.forward = by_length(self.model.forward)
        self.prompt = self.encoder.prompts["query"] or None
        if max_length is not None:
            _check_length(max_length, self.model)
            self.model.max_seq_length = self.encoder.max_tokens = max_length

    def scores(self, pairs: STSSet) -> NDArray[np.floating[Any]]:
        """Cosines, in float64."""
        texts = [*pairs.sentences1, *pairs.sentences2]
        return Sentences(texts, lambda distinct: self.encoder.encode(distinct, "query").vectors).cosines(pairs)

    def loss_of(self, loss: nn.Module, firsts: Sequence[str], seconds: Sequence[str], labels: Tensor | None) -> Tensor:
        """The loss of one batch."""
        features = [self.model.preprocess(list(texts), prompt=self.prompt) for texts in (firsts, seconds)]
        return _summed(loss(features, labels))

    def save(self, folder: Path) -> None:
        """A SentenceTransformer's folder, without a card."""
        self.model.save_pretrained(str(folder), create_model_card=False)


class CrossEncoderKind:
    """A cross-encoder: pairs are read together, their score is one raw logit."""

    losses = CROSS_ENCODER_LOSSES
    trainer, arguments = CrossEncoderTrainer, CrossEncoderTrainingArguments
    prompt: str | None = None

    def __init__(self, files: ModelFiles, max_length: int | None) -> None:
        self.trained_before = is_cross_encoder(files.folder)
        self.scorer = CrossEncoderScorer(files, trainable=True)
        self.model = self.scorer.model
        self.model.forward = by_length(self.model.forward)
        self.model.activation_fn = nn.Identity()  # what is saved gives logits wherever it is loaded
        if max_length is not None:
            _check_length(max_length, self.model)
            self.model.max_seq_length = max_length

    def scores(self, pairs: STSSet) -> NDArray[np.floating[Any]]:
        """Logits, float32."""
        return self.scorer.scores(pairs.sentences1, pairs.sentences2)

    def loss_of(self, loss: nn.Module, firsts: Sequence[str], seconds: Sequence[str], labels: Tensor | None) -> Tensor:
        """The loss of one batch."""
        return _summed(loss([list(firsts), list(seconds)], labels))

    def save(self, folder: Path) -> None:
        """A CrossEncoder's folder, without a card."""
        self.model.save_pretrained(str(folder), create_model_card=False)


def _summed(loss: Any) -> Any:
    return sum(loss.values()) if isinstance(loss, dict) else loss


def _check_length(max_length: int, model: Any) -> None:
    if not hasattr(model[0], "auto_model"):
        raise InputError(f"max_length={max_length}; this model reads texts of any length, leave it out")
    most = _most_tokens(model[0].auto_model)
    if max_length < 3 or (most is not None and max_length > most):
        raise InputError(f"max_length={max_length}; expected from 3 to {most or 'what the model reads'} tokens")


def _most_tokens(transformer: Any) -> int | None:
    """What the position embeddings allow; RoBERTa's kind (XLM-R, MPNet) counts from behind the padding's number on."""
    most = getattr(getattr(transformer, "config", None), "max_position_embeddings", None)
    if most is None:
        return None
    tables = [module for name, module in transformer.named_modules() if name.endswith("position_embeddings")]
    unused = [table.padding_idx + 1 for table in tables if getattr(table, "padding_idx", None) is not None]
    return int(most) - max(unused, default=0)
