"""Whatever can make vectors, made into one function from texts to an array; and sentences encoded once."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from indexes.errors import InputError
from retrieval.compiled.scorer import load_scorer
from retrieval.encoder import Encoder, Role, find_model, load_encoder
from retrieval.models import ModelFiles, is_cross_encoder
from retrieval.similarity import Embed

if TYPE_CHECKING:
    from retrieval import Engine

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
            return load_scorer(candidate)
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
