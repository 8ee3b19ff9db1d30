"""Semantic textual similarity: how well cosines follow people's scores.

    pairs -> distinct sentences, encoded once -> cosines -> Spearman and Pearson -> STSReport

The numbers are those of sentence-transformers' EmbeddingSimilarityEvaluator (same keys, equal
to 1e-6 on the same vectors, but for cosines that are equal: here they tie, there float32 tells
them apart). Leaves out how pairs are read (`retrieval.pairs`) and how a
report is shown (`eval.report`).
"""

from __future__ import annotations

from collections.abc import Callable
from os import PathLike

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError
from retrieval.pairs import Datasets, STSSet, load_sets
from retrieval.scorer import PairScorer
from retrieval.similarity import Sentences, spearman
from retrieval.whitening import Whitening

from .embedding import ModelOrEmbed, as_embed, is_engine, opened, scorer_or_model
from .report import STSReport, STSScore
from .statistics import best_threshold, bootstrap_interval

Similarity = Callable[[STSSet], NDArray[np.float64]]


def evaluate_sts(
    model_or_embed: ModelOrEmbed,
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
        A model's name or folder (a cross-encoder's scores stand in for cosines), an index (its vectors are whitened
        as they are searched), or any
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
        Constant scores or cosines, one pair only, vectors of the wrong shape, a whitening on top of an index's own.
    CorpusError, ModelError
        See `load_sts` and `load_encoder`.

    Examples
    --------
    >>> pairs = STSSet(name="toy", sentences1=("a b", "a b", "a b"), sentences2=("a b", "a c", "d e"),
    ...                scores=np.array([5.0, 2.0, 0.0]))
    >>> evaluate_sts("hash:256", pairs)["toy"].spearman
    1.0
    """
    sets = load_sets(datasets, split, data)
    fitted = Whitening.load(whitening) if isinstance(whitening, str | PathLike) else whitening
    with opened(model_or_embed) as source:
        if fitted is not None and is_engine(source):
            raise InputError("the index whitens its vectors already; evaluate its model to try another whitening")
        if isinstance(scorer := scorer_or_model(source), PairScorer):
            if fitted is not None:
                raise InputError(f"{scorer.name} is a cross-encoder: it has no vectors to whiten")
            name, similarity = scorer.name, _similarity_of(scorer)
        else:
            name, embed = as_embed(scorer)
            vectors = Sentences([s for pairs in sets for s in _sentences(pairs)], embed)
            similarity = (vectors if fitted is None else vectors.whitened(fitted)).cosines
    return STSReport(
        model=name,
        whitening=None if fitted is None else repr(fitted),
        scores=tuple(_score(pairs, similarity, resamples, seed) for pairs in sets),
    )


def _similarity_of(scorer: PairScorer) -> Similarity:
    return lambda pairs: scorer.scores(pairs.sentences1, pairs.sentences2).astype(np.float64)


def _sentences(pairs: STSSet) -> list[str]:
    own = [*pairs.sentences1, *pairs.sentences2]
    return own if pairs.dev is None else own + _sentences(pairs.dev)


def _score(pairs: STSSet, similarity: Similarity, resamples: int, seed: int) -> STSScore:
    from scipy.stats import pearsonr

    if len(pairs) < 2 or np.ptp(pairs.scores) == 0:
        raise InputError(
            f"set {pairs.name!r}: all {len(pairs)} scores are the same; expected different ones to correlate with"
        )
    cosines = similarity(pairs)
    if np.ptp(cosines) == 0:
        raise InputError(
            f"set {pairs.name!r}: all similarities are {cosines[0]:g}; a model that tells nothing apart has no score"
        )
    accuracy, threshold = None, None
    if pairs.binary and pairs.dev is not None and pairs.dev.binary and np.ptp(pairs.dev.scores) > 0:
        threshold = best_threshold(similarity(pairs.dev), pairs.dev.scores)
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
        digest=pairs.digest,
    )
