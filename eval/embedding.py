"""Whatever can make vectors, made into one function from texts to an array; and sentences encoded once."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from indexes.errors import InputError
from retrieval.encoder import Encoder, Role, find_model, load_encoder
from retrieval.models import ModelFiles, is_cross_encoder
from retrieval.moments import unit_rows
from retrieval.pairs import STSSet
from retrieval.scorer import CrossEncoderScorer
from retrieval.whitening import Whitening

if TYPE_CHECKING:
    from retrieval import Engine

DECIMALS = 10
"""Cosines are rounded here, so that equal ones tie; what is below is rounding of the arithmetic."""

Embed = Callable[[list[str]], ArrayLike]
ModelOrEmbed: TypeAlias = Any  # str, path, SentenceTransformer, Encoder, Engine or Embed: told apart by `as_embed`


@contextmanager
def opened(model_or_embed: ModelOrEmbed) -> Iterator[ModelOrEmbed]:
    """The index of a path, opened for the while; anything else as it is."""
    if isinstance(model_or_embed, str | PathLike) and (Path(model_or_embed) / "catalogue.sqlite").is_file():
        from retrieval import Engine

        with Engine.open(model_or_embed) as engine:
            yield engine
    else:
        yield model_or_embed


def scorer_or_model(candidate: ModelOrEmbed) -> ModelOrEmbed:
    """A cross-encoder's scorer, if this is a cross-encoder or names one; else the candidate, a name looked up."""
    if isinstance(candidate, str | PathLike):
        candidate = find_model(candidate)
        if isinstance(candidate, ModelFiles) and is_cross_encoder(candidate.folder):
            return CrossEncoderScorer(candidate)
    return candidate


def is_engine(candidate: ModelOrEmbed) -> bool:
    """Whether this is an opened index."""
    return hasattr(candidate, "raw_documents") and hasattr(candidate, "search")


def as_embed(model_or_embed: ModelOrEmbed, *, raw: bool = False, role: Role = "query") -> tuple[str, Embed]:
    """A name and a function from texts to vectors.

    Parameters
    ----------
    model_or_embed : str, path, SentenceTransformer, Encoder, Engine or callable
        An index is an opened one (see `opened`).
    raw : bool, default=False
        Of an index, the model's vectors before its whitening.
    role : {"query", "document"}
        Whose prompt a model of ours puts before the texts.

    Raises
    ------
    InputError
        If it is none of these.
    """
    if is_engine(model_or_embed):
        engine: Engine = model_or_embed
        name = str(engine.info()["path"])
        return _embed_of_encoder(engine.encoder, role, name) if raw else (name, lambda texts: engine.embed(texts, role))
    if isinstance(model_or_embed, str | PathLike | ModelFiles) or _is_encoder(model_or_embed):
        return _embed_of_encoder(load_encoder(model_or_embed), role)
    library = sys.modules.get("sentence_transformers")  # loaded already, if this is one of its models
    if library is not None and isinstance(model_or_embed, library.SentenceTransformer):
        name = getattr(model_or_embed.model_card_data, "base_model", None) or type(model_or_embed).__name__
        return str(name), lambda texts: model_or_embed.encode(texts, show_progress_bar=False)
    if callable(model_or_embed):
        return getattr(model_or_embed, "__name__", type(model_or_embed).__name__), model_or_embed
    raise InputError(
        f"cannot make vectors with {model_or_embed!r}; expected a model's name or folder, a SentenceTransformer, "
        "an Engine, or a function from a list of texts to an array (n, d)"
    )


def encoder_of(model: ModelOrEmbed) -> tuple[str, Encoder]:
    """A name and the encoder of an index, of a model's name or folder, or an encoder itself.

    Raises
    ------
    InputError
        If it is none of these: a bare function does not tell queries from documents.
    """
    if is_engine(model):
        return str(model.info()["path"]), model.encoder
    if isinstance(model, str | PathLike) or _is_encoder(model):
        encoder = load_encoder(model)
        return encoder.name, encoder
    raise InputError(f"{model!r} is no model, Encoder or index; expected one, to encode queries and documents")


def _is_encoder(model: ModelOrEmbed) -> bool:
    return hasattr(model, "fingerprint") and hasattr(model, "encode")


def _embed_of_encoder(encoder: Encoder, role: Role, name: str | None = None) -> tuple[str, Embed]:
    return name or encoder.name, lambda texts: encoder.encode(texts, role).vectors


class Sentences:
    """Distinct sentences and their unit vectors: encoded once, however often they are compared.

    Parameters
    ----------
    sentences : sequence of str
    embed : callable
        From a list of n texts to an array of shape (n, d).
    """

    def __init__(self, sentences: Sequence[str], embed: Embed) -> None:
        distinct = list(dict.fromkeys(sentences))
        self.raw: NDArray[Any] = np.asarray(embed(distinct))
        if self.raw.ndim != 2 or len(self.raw) != len(distinct):
            raise InputError(
                f"{len(distinct)} texts gave vectors of shape {self.raw.shape}; expected ({len(distinct)}, d)"
            )
        self._place = {sentence: i for i, sentence in enumerate(distinct)}
        self._unit = _unit_rows(self.raw)

    def whitened(self, whitening: Whitening) -> Sentences:
        """The same sentences, transformed."""
        other = object.__new__(Sentences)
        other.raw, other._place = self.raw, self._place
        other._unit = _unit_rows(whitening.transform(self.raw))
        return other

    def rows(self, sentences: Sequence[str]) -> NDArray[np.int64]:
        """Positions of sentences among the distinct ones."""
        return np.array([self._place[sentence] for sentence in sentences], np.int64)

    def cosines(self, pairs: STSSet) -> NDArray[np.float64]:
        """The cosine of every pair, of shape (n,)."""
        one, two = self._unit[self.rows(pairs.sentences1)], self._unit[self.rows(pairs.sentences2)]
        cosines: NDArray[np.float64] = np.einsum("nd,nd->n", one, two).round(DECIMALS)
        return cosines


def _unit_rows(vectors: NDArray[Any]) -> NDArray[np.float64]:
    """In float64, or the cosine of a vector with itself would differ from one vector to the next."""
    unit_rows(vectors)  # refuses what has no direction
    rows = np.asarray(vectors, np.float64)
    unit: NDArray[np.float64] = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit
