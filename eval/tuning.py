"""Which whitening is good: every cell of a grid judged on labelled data, and what to take from it.

    model, dev data -> raw vectors, encoded once -> grid of (k, beta, gamma, epsilon, local) -> WhiteningTuning

Dev data are sentence pairs with people's scores (Spearman of cosine decides) or queries with
judged documents (nDCG@10). The fit is on vectors without labels. No cell is recommended that is
worse than no transform at all: k = d, beta = gamma = 0 is always in the grid.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice, product
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError
from retrieval.corpora import read_corpus
from retrieval.grid import BETAS, GAMMAS, LOCALS, FindObjective, Objective, Rotation, default_dims, judge
from retrieval.halves import HAYSTACK, HalvesObjective, judged_by_halves
from retrieval.moments import BLOCK, Float64, Moments, spread
from retrieval.pairs import Datasets, STSSet, load_sets
from retrieval.similarity import DECIMALS, Sentences, spearman
from retrieval.whitening import Whitening

from .embedding import ModelOrEmbed, as_embed, encoder_of, is_engine, opened
from .retrieval import RetrievalSet, load_retrieval
from .tuned import WhiteningTuning

logger = logging.getLogger(__name__)

Own = Callable[[], NDArray[Any]]  # what is fitted on if nothing else is given
Fit = NDArray[Any] | Moments | str | PathLike[str] | Iterable[str]
RANDOM_PROJECTIONS = 5  # whose mean is the rival


def tune_whitening(
    model_or_embed: ModelOrEmbed,
    dev: Datasets | RetrievalSet | None = None,
    *,
    fit: Fit | None = None,
    dims: Sequence[int] | None = None,
    betas: Sequence[float] = BETAS,
    gammas: Sequence[float] = GAMMAS,
    epsilons: Sequence[float] = (0.0,),
    locals_: Sequence[float] = LOCALS,
    split: str = "dev",
    data: str | PathLike[str] | None = None,
) -> WhiteningTuning:
    """Every whitening of a grid, judged on dev data; the best for each k and the smallest that loses nothing.

    Parameters
    ----------
    model_or_embed : str, path, SentenceTransformer, Encoder, Engine or callable
        As in `evaluate_sts`. Of an index the model's raw vectors are meant, before its own whitening.
    dev : pairs or queries
        Pairs: as the datasets of `evaluate_sts`, each counting the same. Queries: a `RetrievalSet` or a BEIR
        folder (the one with qrels/SPLIT.tsv); its documents come from the index, else from the folder.
        None, where there are no labels: how well halves of the texts find each other decides
        (`retrieval.halves`), over gamma alone, and no k is recommended. Then `fit` must be texts, or the model an
        index; all texts of `fit` are held in memory.
    fit : array (n, d), Moments, corpus path or texts, optional
        What the whitenings are fitted on, no labels needed: your own texts. By default the documents of the
        index or of the BEIR folder, and for pairs the dev sentences themselves.
    dims : sequence of int, optional
        By default d and 2/3, 1/2, 1/3, 1/4, 1/6, 1/8, 1/12 of it. d is always tried.
    betas, gammas, epsilons, locals_ : sequence of float
        See `retrieval.Whitening`. beta = 0 and gamma = 0 are always tried.
    split : str, default="dev"
        Which file of a folder.
    data : path, optional
        Where names of sets are looked up, see `load_sts`.

    Returns
    -------
    WhiteningTuning

    Raises
    ------
    InputError
        Constant labels or cosines, fewer than two pairs, a hyperparameter out of its range, an index without
        raw vectors.
    VectorError
        NaN, infinite or zero vectors, or of another dim.
    CorpusError, ModelError
        See `load_sts` and `load_encoder`.

    Notes
    -----
    Cost: one encode, one d x d eigendecomposition for each (beta, local), and one product of the dev
    vectors with it. With pairs a cell costs a weighted sum: at 1,500 pairs and d = 384 about a thousand cells take a
    few seconds. With queries it costs a search, among the judged documents and a sample of at most 20,000 others.
    The best of many cells looks better on dev than it is elsewhere, by some tenths of a point.

    Examples
    --------
    >>> pairs = STSSet(name="toy", sentences1=("a b", "a b", "a c"), sentences2=("a b", "a c", "d e"),
    ...                scores=np.array([5.0, 2.0, 0.0]))
    >>> tuning = tune_whitening("hash:16", pairs, dims=[16, 2], betas=[0, 1], gammas=[0], locals_=[0])
    >>> tuning.raw, tuning.best.score >= tuning.raw
    (1.0, True)
    """
    grid = tuple(map(tuple, (betas, gammas, epsilons, locals_)))
    for beta, gamma, epsilon, local in product(*grid):
        Whitening(None, beta, gamma, epsilon, local)  # a slip is told before anything is encoded
    if not all(grid):
        raise InputError("betas, gammas, epsilons and locals_ need a value each; expected numbers, such as [0.0]")
    with opened(model_or_embed) as source:
        if (folder := _beir_folder(dev)) is not None:
            dev = load_retrieval(folder, split)
        if dev is None:
            if grid != (BETAS, GAMMAS, (0.0,), LOCALS):
                raise InputError("without dev data only dims can be given: halves of texts choose gamma alone")
            return _untuned(source, fit, dims)
        if isinstance(dev, RetrievalSet):
            measure, (name, objective, own) = "nDCG@10", _find_documents(source, dev, folder)
        else:
            measure, (name, objective, own) = "Spearman", _compare_pairs(source, load_sets(dev, split, data))
        moments = _moments(own() if fit is None else fit, source, local=any(locals_))
    d = len(moments.mean)
    wanted = _dims(d, dims)
    betas, gammas = (sorted({0.0, *map(float, values)}) for values in (betas, gammas))
    cells = tuple(judge(moments, objective, wanted, betas, gammas, epsilons, locals_))
    return WhiteningTuning(
        model=name,
        labelled=True,
        measure=measure,
        raw=_score(objective, np.eye(d), [d])[0],
        cells=cells,
        rivals=_rivals(objective, moments, wanted),
        moments=moments,
    )


class PairObjective:
    """How well cosines follow people's scores: the mean of Spearman over sets of pairs.

    Parameters
    ----------
    sets : sequence of (one, two, labels)
        Raw vectors of shape (n, d) on both sides and n scores; at least one set.

    Attributes
    ----------
    dim : int
        d.
    """

    def __init__(self, sets: Sequence[tuple[NDArray[Any], NDArray[Any], Float64]]) -> None:
        for _, _, labels in sets:
            if len(labels) < 2 or np.ptp(labels) == 0:
                raise InputError(f"all {len(labels)} dev scores are the same; expected different ones to tune by")
        self._sets = sets
        self.dim = int(sets[0][0].shape[1])
        for one, two, labels in sets:
            (alone,) = self._cosines(one.astype(float), two.astype(float), np.ones((1, self.dim)), np.array([0]))
            if np.ptp(alone) == 0:
                raise InputError(f"all {len(labels)} cosines of a dev set are the same; its vectors tell nothing apart")

    def scores(self, rotate: Rotation, scales: Float64, dims: Sequence[int]) -> Float64:
        """Mean Spearman, of shape (s, len(dims)): cosines at every k from running sums over the columns.

        A set whose cosines become constant counts as 0.
        """
        kept, back = np.unique(dims, return_inverse=True)
        edges = np.concatenate([[0], kept[:-1]])
        table = np.zeros((len(scales), len(kept)))
        for one, two, labels in self._sets:
            a, b = rotate(one)[:, : kept[-1]], rotate(two)[:, : kept[-1]]
            for i, cosines in enumerate(self._cosines(a, b, scales[:, : kept[-1]], edges)):
                # constant cosines tell nothing apart: no correlation
                table[i] += [0.0 if np.ptp(column) == 0 else spearman(column, labels) for column in cosines.T]
        found: Float64 = (table / len(self._sets))[:, back]
        return found

    @staticmethod
    def _cosines(a: NDArray[Any], b: NDArray[Any], scales: Float64, edges: NDArray[Any]) -> Iterator[Float64]:
        """For each scale the cosines up to every edge, of shape (n, len(edges))."""
        products = [a * b, a * a, b * b]
        for scale in scales:
            dot, aa, bb = (np.add.reduceat(p * scale**2, edges, axis=1).cumsum(axis=1) for p in products)
            norms = np.sqrt(aa * bb)
            yield np.divide(dot, norms, out=np.zeros_like(dot), where=norms > 0).round(DECIMALS)


def _compare_pairs(model_or_embed: ModelOrEmbed, sets: Sequence[STSSet]) -> tuple[str, Objective, Own]:
    name, embed = as_embed(model_or_embed, raw=True)
    sentences = Sentences([s for pairs in sets for s in (*pairs.sentences1, *pairs.sentences2)], embed)
    rows = ((sentences.rows(p.sentences1), sentences.rows(p.sentences2), p.scores) for p in sets)
    objective = PairObjective([(sentences.raw[one], sentences.raw[two], labels) for one, two, labels in rows])
    if is_engine(model_or_embed):
        return name, objective, lambda: model_or_embed.raw_documents()[1]
    return name, objective, lambda: sentences.raw


def _find_documents(
    model_or_embed: ModelOrEmbed, judged: RetrievalSet, folder: Path | None
) -> tuple[str, Objective, Own]:
    ids: Sequence[str]
    if is_engine(model_or_embed):
        ids, documents = model_or_embed.raw_documents()
    elif folder is None:
        raise InputError("queries without documents: expected an index over them, or the BEIR folder itself")
    else:
        records = [record.document for record in read_corpus(folder)]
        ids = [str(document.doc_id) for document in records]
        documents = np.asarray(as_embed(model_or_embed, raw=True, role="document")[1]([d.text for d in records]))
    name, embed = as_embed(model_or_embed, raw=True)
    asked = [query for query, grades in judged.qrels.items() if any(grade > 0 for grade in grades.values())]
    wanted = {doc for query in asked for doc, grade in judged.qrels[query].items() if grade > 0}
    places = {doc_id: i for i, doc_id in enumerate(ids) if doc_id in wanted}
    if not places:
        raise InputError(f"none of the documents judged relevant in {judged.name!r} is in the index; expected its ids")
    if gone := len(wanted) - len(places):
        logger.warning("%s of %s relevant documents are not in the index; they count as not found", gone, len(wanted))
    rows = np.union1d(sorted(places.values()), spread(len(ids), HAYSTACK)).astype(np.int64)
    if len(rows) < len(ids):
        logger.info("searching %s of %s documents: the relevant ones and a sample", f"{len(rows):,}", f"{len(ids):,}")
    among = {doc_id: int(np.searchsorted(rows, row)) for doc_id, row in places.items()}
    relevant = [
        {
            among.get(doc, -1 - i): float(grade)
            for i, (doc, grade) in enumerate(judged.qrels[query].items())
            if grade > 0
        }
        for query in asked
    ]
    queries = np.asarray(embed([judged.queries[query] for query in asked]))
    return name, FindObjective(queries, np.array(documents[rows], np.float32), relevant), lambda: documents


def _beir_folder(dev: Any) -> Path | None:
    return Path(dev) if isinstance(dev, str | PathLike) and (Path(dev) / "qrels").is_dir() else None


def _untuned(source: ModelOrEmbed, fit: Fit | None, dims: Sequence[int] | None) -> WhiteningTuning:
    """Without labels: halves of the texts themselves are to be found (`retrieval.halves`)."""
    if isinstance(fit, np.ndarray | Moments) or (fit is None and not is_engine(source)):
        raise InputError("without dev data there must be texts to halve; give fit (--fit CORPUS) or an index")
    name, encoder = encoder_of(source)
    if fit is None:
        ids, vectors = source.raw_documents()
        texts_of = lambda rows: [document.text for document in source.get([ids[row] for row in rows])]  # noqa: E731
    else:
        texts = list(_texts(fit))
        vectors = encoder.encode(texts).vectors
        texts_of = lambda rows: [texts[row] for row in rows]  # noqa: E731
    moments = Moments.of(vectors, local=True)
    wanted = _dims(len(moments.mean), dims)
    objective = HalvesObjective(vectors, texts_of, encoder)
    return WhiteningTuning(
        model=name,
        labelled=False,
        measure="nDCG@10 of halves",
        raw=_score(objective, np.eye(objective.dim), [objective.dim])[0],
        cells=tuple(judged_by_halves(moments, objective, wanted)),
        rivals=_rivals(objective, moments, wanted),
        moments=moments,
    )


def _dims(d: int, dims: Sequence[int] | None) -> list[int]:
    return sorted({d, *(default_dims(d) if dims is None else dims)}, reverse=True)


def _moments(fit: Fit, model_or_embed: ModelOrEmbed, *, local: bool) -> Moments:
    if isinstance(fit, Moments):
        return fit
    if isinstance(fit, np.ndarray):
        return Moments.of(fit, local=local)
    texts, (_, embed) = _texts(fit), as_embed(model_or_embed, raw=True, role="document")
    batches = iter(lambda: list(islice(texts, BLOCK)), [])
    return Moments.of((np.asarray(embed(batch)) for batch in batches), local=local)


def _texts(fit: str | PathLike[str] | Iterable[str]) -> Iterator[str]:
    """The texts of a corpus, or of an iterable."""
    if isinstance(fit, str | PathLike):
        return (record.document.text for record in read_corpus(fspath(fit)))
    return iter(fit)


def _rivals(objective: Objective, moments: Moments, dims: Sequence[int]) -> dict[str, tuple[float, ...]]:
    """What else keeps k columns, for every k: PCA, the first k columns as they are, a random projection."""
    d = len(moments.mean)
    _, components = moments.spectrum(1.0)
    rng = np.random.default_rng(0)
    random = [np.linalg.qr(rng.standard_normal((d, d)))[0] for _ in range(RANDOM_PROJECTIONS)]
    return {
        "PCA": tuple(_score(objective, components, dims, moments.mean)),
        "first columns": tuple(_score(objective, np.eye(d), dims)),
        "random projection": tuple(np.mean([_score(objective, q, dims) for q in random], axis=0).tolist()),
    }


def _score(objective: Objective, columns: Float64, dims: Sequence[int], offset: Float64 | None = None) -> list[float]:
    d = len(columns)
    rotation = Rotation(np.zeros(d) if offset is None else offset, columns)
    scores: list[float] = objective.scores(rotation, np.ones((1, d)), dims)[0].tolist()
    return scores
