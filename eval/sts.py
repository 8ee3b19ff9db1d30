"""Semantic textual similarity: how well cosines follow people's scores.

    pairs -> distinct sentences, encoded once -> cosines -> Spearman and Pearson -> STSReport

The numbers are those of sentence-transformers' EmbeddingSimilarityEvaluator (same keys,
equal to 1e-6 on the same vectors). Leaves out how pairs are read (`eval.pairs`) and how a
report is shown (`eval.report`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from indexes.errors import InputError
from retrieval.encoder import Encoder, load_encoder
from retrieval.whitening import Whitening, unit_rows

from .pairs import STSSet, load_sts
from .report import STSReport, STSScore
from .statistics import best_threshold, bootstrap_interval, spearman

if TYPE_CHECKING:
    from retrieval import Engine

Embed = Callable[[list[str]], ArrayLike]
Datasets = str | PathLike[str] | STSSet | Sequence[str | PathLike[str] | STSSet]


def evaluate_sts(
    model_or_embed: str | PathLike[str] | Encoder | Engine | Embed | Any,
    datasets: Datasets,
    *,
    whitening: Whitening | str | PathLike[str] | None = None,
    split: str = "test",
    data: str | PathLike[str] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> STSReport:
    """Spearman and Pearson of cosine against people's scores, with confidence intervals.

    Parameters
    ----------
    model_or_embed : str, path, SentenceTransformer, Encoder, Engine or callable
        A model's name or folder, an index (its vectors are whitened as they are searched), or any
        function from a list of n texts to an array of shape (n, d). Models with prompts get their query
        prompt on both sides; a SentenceTransformer is asked as it is.
    datasets : path, name, STSSet, or a sequence of those
        See `load_sts`.
    whitening : Whitening or path, optional
        Fitted; put between the vectors and their cosine.
    split, data
        See `load_sts`.
    resamples : int, default=1000
        Bootstrap samples of pairs behind each 95 % interval (percentiles); 0 leaves intervals out.
    seed : int, default=0

    Returns
    -------
    STSReport

    Raises
    ------
    InputError
        Constant scores, one pair only, vectors of the wrong shape, a whitening on top of an index's own.
    CorpusError, ModelError
        See `load_sts` and `load_encoder`.

    Examples
    --------
    >>> pairs = STSSet(name="toy", sentences1=("a b", "a b", "a b"), sentences2=("a b", "a c", "d e"),
    ...                scores=np.array([5.0, 2.0, 0.0]))
    >>> evaluate_sts("hash:256", pairs)["toy"].spearman
    1.0
    """
    items = [datasets] if isinstance(datasets, str | PathLike | STSSet) else list(datasets)
    sets = [
        s for item in items for s in ([item] if isinstance(item, STSSet) else load_sts(item, split=split, data=data))
    ]
    if not sets:
        raise InputError("there is no data set to evaluate on; expected at least one")
    name, embed = as_embed(model_or_embed)
    fitted = Whitening.load(whitening) if isinstance(whitening, str | PathLike) else whitening
    if fitted is not None and _is_engine(model_or_embed):
        raise InputError("the index whitens its vectors already; evaluate its model to try another whitening")
    vectors = Sentences([s for pairs in sets for s in _sentences(pairs)], embed)
    if fitted is not None:
        vectors = vectors.whitened(fitted)
    return STSReport(
        model=name,
        whitening=None if fitted is None else repr(fitted),
        scores=tuple(_score(pairs, vectors, resamples, seed) for pairs in sets),
    )


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
        self._unit = unit_rows(self.raw).astype(np.float64)

    def whitened(self, whitening: Whitening) -> Sentences:
        """The same sentences, transformed."""
        other = object.__new__(Sentences)
        other.raw, other._place = self.raw, self._place
        other._unit = whitening.transform(self.raw).astype(np.float64)
        return other

    def rows(self, sentences: Sequence[str]) -> NDArray[np.int64]:
        """Positions of sentences among the distinct ones."""
        return np.array([self._place[sentence] for sentence in sentences], np.int64)

    def cosines(self, pairs: STSSet) -> NDArray[np.float64]:
        """The cosine of every pair, of shape (n,)."""
        one, two = self._unit[self.rows(pairs.sentences1)], self._unit[self.rows(pairs.sentences2)]
        return cast("NDArray[np.float64]", np.einsum("nd,nd->n", one, two))


def as_embed(model_or_embed: Any) -> tuple[str, Embed]:
    """A name and a function from texts to vectors, for whatever can make vectors."""
    if isinstance(model_or_embed, str | PathLike):
        path = fspath(model_or_embed)
        if (Path(path) / "catalogue.sqlite").is_file():
            from retrieval import Engine

            return path, _embed_of_engine(Engine.open(path))
        return _embed_of_encoder(load_encoder(path))
    if _is_engine(model_or_embed):
        return str(model_or_embed.info()["path"]), _embed_of_engine(model_or_embed)
    if hasattr(model_or_embed, "fingerprint") and hasattr(model_or_embed, "encode"):
        return _embed_of_encoder(model_or_embed)
    if type(model_or_embed).__module__.split(".")[0] == "sentence_transformers":
        name = getattr(model_or_embed.model_card_data, "base_model", None) or type(model_or_embed).__name__
        return str(name), lambda texts: model_or_embed.encode(texts, show_progress_bar=False)
    if callable(model_or_embed):
        return getattr(model_or_embed, "__name__", type(model_or_embed).__name__), model_or_embed
    raise InputError(
        f"cannot make vectors with {model_or_embed!r}; expected a model's name or folder, a SentenceTransformer, "
        "an Engine, or a function from a list of texts to an array (n, d)"
    )


def _is_engine(candidate: Any) -> bool:
    if isinstance(candidate, str | PathLike):
        return (Path(candidate) / "catalogue.sqlite").is_file()
    return hasattr(candidate, "embed") and hasattr(candidate, "search")


def _embed_of_engine(engine: Engine) -> Embed:
    return lambda texts: engine.embed(texts, role="query")


def _embed_of_encoder(encoder: Encoder) -> tuple[str, Embed]:
    return encoder.name, lambda texts: encoder.encode(texts, "query").vectors


def _sentences(pairs: STSSet) -> list[str]:
    own = [*pairs.sentences1, *pairs.sentences2]
    return own if pairs.dev is None else own + _sentences(pairs.dev)


def _score(pairs: STSSet, vectors: Sentences, resamples: int, seed: int) -> STSScore:
    from scipy.stats import pearsonr

    if len(pairs) < 2 or np.ptp(pairs.scores) == 0:
        raise InputError(
            f"set {pairs.name!r}: all {len(pairs)} scores are the same; expected different ones to correlate with"
        )
    cosines = vectors.cosines(pairs)
    accuracy, threshold = None, None
    if pairs.binary and pairs.dev is not None:
        threshold = best_threshold(vectors.cosines(pairs.dev), pairs.dev.scores)
        accuracy = float(((cosines >= threshold) == (pairs.scores == 1)).mean())
    return STSScore(
        name=pairs.name,
        n=len(pairs),
        spearman=spearman(cosines, pairs.scores),
        pearson=float(pearsonr(cosines, pairs.scores).statistic),
        interval=bootstrap_interval(cosines, pairs.scores, resamples, seed) if resamples else None,
        accuracy=accuracy,
        threshold=threshold,
        cosines=cosines,
        labels=pairs.scores,
    )
