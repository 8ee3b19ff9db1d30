"""Text to raw vectors: the one place where a model runs.

An `Encoder` is anything with a name, a width, a fingerprint and `encode`. There
are two: `SentenceTransformerEncoder` for real models, and `HashEncoder`, a real
function of the text without any model, for tests and first tries. Leaves out
where a model's files lie (`retrieval.models`) and whitening.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from os import PathLike, fspath
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError, ModelError, VectorError

from .models import DEFAULT_MODEL, ModelFiles, fingerprint, is_cross_encoder, locate
from .moments import check_vectors

logger = logging.getLogger(__name__)

Role = Literal["query", "document"]
Precision = Literal["float32", "bfloat16"]
TOKEN_BUDGET = 8192
"""Tokens, padding included, in one batch: packed by length, a batch costs about the same time whatever it holds."""


class Encoded(NamedTuple):
    """What an encoder makes of n texts."""

    vectors: NDArray[np.float32]  # (n, dim), not normalised
    truncated: NDArray[np.bool_]  # (n,), whose text was longer than the model reads


class Encoder(Protocol):
    """Turns texts into raw vectors."""

    name: str
    source: str
    dim: int
    max_tokens: int | None
    prompts: Mapping[str, str]
    fingerprint: Mapping[str, Any]

    def encode(self, texts: Sequence[str], role: Role = "document") -> Encoded:
        """Raw vectors of shape (n, dim), float32; the same text gives the same vector."""
        ...  # pragma: no cover


class SentenceTransformerEncoder:
    """A sentence-transformers model on this machine.

    Parameters
    ----------
    files : ModelFiles
        From `retrieval.models.locate`.
    prompts : mapping, optional
        "query" and "document" texts put before every text; by default those the model
        itself records ("passage" and "corpus" count as "document").

    Raises
    ------
    ModelError
        If the folder cannot be loaded. Code that comes with a model is never run.

    Attributes
    ----------
    model : SentenceTransformer
    """

    def __init__(self, files: ModelFiles, prompts: Mapping[str, str] | None = None) -> None:
        if is_cross_encoder(files.folder):
            raise ModelError(
                f"model {files.name!r} is a cross-encoder: it scores pairs and has no vectors; expected an encoder"
            )
        with quiet_transformers():
            from sentence_transformers import SentenceTransformer

            try:
                self.model = SentenceTransformer(str(files.folder), trust_remote_code=False, local_files_only=True)
            except Exception as error:  # of many libraries and kinds, for a file that is missing, cut off or altered
                raise ModelError(
                    f"model {files.name!r} ({files.source}) cannot be loaded ({type(error).__name__}: {error}); "
                    "fetch or copy the model's folder again"
                ) from error
        self.name, self.source = files.name, files.source
        self.prompts: Mapping[str, str] = chosen_prompts(self.model.prompts, prompts)
        self.dim = int(self.model.get_embedding_dimension() or 0)
        limit = self.model.max_seq_length
        self.max_tokens = None if limit is None or limit == float("inf") else int(limit)
        self.fingerprint: Mapping[str, Any] = fingerprint(files.folder) | {
            "prompts": json.dumps(self.prompts, sort_keys=True)
        }

    def encode(self, texts: Sequence[str], role: Role = "document") -> Encoded:
        """Raw vectors; identical texts are encoded once, batches are packed by token length.

        Parameters
        ----------
        texts : sequence of str
        role : {"query", "document"}
            Which prompt goes before the texts.

        Returns
        -------
        Encoded
        """
        return each_once(texts, lambda distinct: self._encoded(distinct, self.prompts[role]), self.dim)

    def _encoded(self, distinct: list[str], prompt: str) -> Encoded:
        lengths = self._token_lengths([prompt + text for text in distinct])
        limit = self.max_tokens or int(lengths.max())
        vectors = np.empty((len(distinct), self.dim), np.float32)
        for batch in pack(np.minimum(lengths, limit), TOKEN_BUDGET):
            vectors[batch] = self.model.encode(
                [distinct[i] for i in batch], prompt=prompt, batch_size=len(batch), show_progress_bar=False
            )
        return Encoded(vectors, lengths > limit)

    def _token_lengths(self, texts: list[str]) -> NDArray[np.int64]:
        """Tokens of each text, special ones included, before anything is cut off."""
        tokenizer = self.model.tokenizer
        if hasattr(tokenizer, "encode_batch"):  # a bare tokenizer, as static embeddings have
            return np.array([len(encoding.ids) for encoding in tokenizer.encode_batch(texts)])
        ids = tokenizer(texts, truncation=False, padding=False, return_attention_mask=False, verbose=False)["input_ids"]
        return np.array([len(tokens) for tokens in ids])


class HashEncoder:
    """A vector that is a sum of one fixed random vector for each word: words in common, nothing learned.

    Parameters
    ----------
    dim : int, default=64
    max_tokens : int, optional
        Words after this many are cut off, and counted.

    Examples
    --------
    >>> vectors, truncated = HashEncoder(8).encode(["red fox", "fox red"])
    >>> bool(np.allclose(vectors[0], vectors[1]))
    True
    """

    def __init__(self, dim: int = 64, max_tokens: int | None = None) -> None:
        if not 1 <= dim <= 65_536:
            raise InputError(f"hash:{dim}; expected hash:DIM with DIM from 1 to 65536, such as hash:64")
        self.name, self.source, self.dim, self.max_tokens = (
            f"hash:{dim}",
            "a hash of the words, no model",
            dim,
            max_tokens,
        )
        self.prompts: Mapping[str, str] = {}
        self.fingerprint: Mapping[str, Any] = {"hash": f"words, {dim}, {max_tokens}, version 1"}

    def encode(self, texts: Sequence[str], role: Role = "document") -> Encoded:
        """Raw vectors; `role` makes no difference."""
        words = [re.findall(r"[^\W_]+", text.lower()) or [text] for text in texts]
        truncated = np.array([self.max_tokens is not None and len(w) > self.max_tokens for w in words], np.bool_)
        rows = [np.sum([_word_vector(word, self.dim) for word in w[: self.max_tokens]], axis=0) for w in words]
        return Encoded(np.array(rows, np.float32).reshape(len(texts), self.dim), truncated)


@lru_cache(maxsize=100_000)
def _word_vector(word: str, dim: int) -> NDArray[np.float64]:
    seed = int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")
    return np.random.default_rng(seed).standard_normal(dim)


Model = str | PathLike[str] | Encoder | ModelFiles


def find_model(model: Model) -> Encoder | ModelFiles:
    """Where a model is, said aloud, before anything costly begins; an encoder is given back as it is.

    Raises
    ------
    ModelError
        If there is no such model.
    """
    if not isinstance(model, str | PathLike):
        return model
    if match := re.fullmatch(r"hash:(\d{1,9})", fspath(model)):
        return HashEncoder(int(match[1]))
    files = locate(fspath(model))
    logger.info("model %s from %s", files.name, files.source)
    return files


def load_encoder(
    model: Model = DEFAULT_MODEL,
    *,
    prompts: Mapping[str, str] | None = None,
    precision: Precision | None = None,
) -> Encoder:
    """The encoder of a name or a place: compiled (`retrieval.compiled`) where that can be, else in torch.

    Parameters
    ----------
    model : str, path, ModelFiles or Encoder
        A folder, an installed package that carries its weights, a hub name, or "hash:DIM".
    prompts : mapping, optional
        See `SentenceTransformerEncoder`; other encoders have their own.
    precision : {"float32", "bfloat16"}, optional
        Of a compiled model; by default the quickest that this machine computes in.

    Raises
    ------
    ModelError
        If there is no such model or it cannot be loaded.
    InputError
        If prompts are given to an encoder that takes none.
    """
    found = find_model(model)
    if isinstance(found, ModelFiles):
        from .compiled.encoder import compiled_encoder

        compiled = compiled_encoder(found, prompts=prompts, precision=precision)
        return SentenceTransformerEncoder(found, prompts) if compiled is None else compiled
    if precision not in (None, own := getattr(found, "precision", "float32")):
        raise InputError(f"precision={precision!r}: the encoder {found.name} has {own}")
    if prompts and dict(prompts) != dict(found.prompts):
        raise InputError(f"prompts={dict(prompts)!r}: the encoder {found.name} takes none from outside")
    return found


def check_encoded(encoded: Encoded, n: int, dim: int) -> Encoded:
    """What an encoder (of the user's own, perhaps) made of n texts, as arrays of the right shape and kind.

    Raises
    ------
    VectorError
        If the shapes are others, or vectors are no finite numbers, or zero.
    """
    try:
        vectors, truncated = encoded
        flags = np.asarray(truncated)
    except (TypeError, ValueError) as error:
        raise VectorError(f"the model gave no pair of vectors and truncated flags ({error})") from error
    rows = check_vectors(vectors, dim)
    if len(rows) != n or flags.shape != (n,) or flags.dtype.kind not in "biu":
        raise VectorError(
            f"the model gave vectors of shape {rows.shape} and truncated flags of shape {flags.shape} and dtype "
            f"{flags.dtype}; expected {(n, dim)} and {(n,)}, bool"
        )
    if not (lengths := rows.any(axis=1)).all():
        raise VectorError(f"the model gave a vector of zeros for text {int(lengths.argmin()) + 1}; it has no direction")
    return Encoded(rows, flags.astype(np.bool_))


def each_once(texts: Sequence[str], encode: Callable[[list[str]], Encoded], dim: int) -> Encoded:
    """What a function makes of the distinct texts (if there are any), for all of them."""
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return Encoded(np.empty((0, dim), np.float32), np.empty(0, np.bool_))
    vectors, truncated = encode(distinct)
    place = {text: i for i, text in enumerate(distinct)}
    back = np.array([place[text] for text in texts])
    return Encoded(vectors[back], truncated[back])


def pack(lengths: NDArray[np.int64], budget: int) -> Iterator[NDArray[np.int64]]:
    """Batches of positions, of texts of about equal length, each at most `budget` tokens with padding.

    The same lengths give the same batches. A text longer than the budget is a batch of its own.

    Examples
    --------
    >>> [batch.tolist() for batch in pack(np.array([5, 2, 9, 2]), budget=10)]
    [[2], [0, 1], [3]]
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, int(budget // max(1, lengths[order[start]])))
        yield order[start : start + size]
        start += size


def chosen_prompts(recorded: Mapping[str, str | None], given: Mapping[str, str] | None) -> dict[str, str]:
    """The prompts of both roles: those given, else those that a model records under one of the usual names.

    Raises
    ------
    InputError
        If another role is given.
    """
    given = given or {}
    unknown = set(given) - {"query", "document"}
    if unknown:
        raise InputError(f"prompts has {sorted(unknown)}; expected 'query' and 'document'")
    names = {"query": ("query",), "document": ("document", "passage", "corpus")}
    own = {
        role: next((recorded[name] or "" for name in tried if recorded.get(name)), "") for role, tried in names.items()
    }
    return own | dict(given)


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep the library's progress bars and load reports off the user's terminal while a model loads."""
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    library = logging.getLogger("sentence_transformers")
    level = library.level
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    library.setLevel(logging.ERROR)
    try:
        yield
    finally:
        library.setLevel(level)
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()
