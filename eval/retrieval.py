"""How well an index finds what people judged relevant, measured by ir_measures.

    BEIR folder -> RetrievalSet (queries, judgements) -> engine.search -> run -> ir_measures -> RetrievalReport

Leaves out the measures themselves: names such as nDCG@10, R@100, RR@10, AP are ir_measures' own.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from indexes.errors import CorpusError, InputError
from retrieval.corpora import read_corpus
from retrieval.progress import progress_bar
from retrieval.streams import decoded, lines_of

if TYPE_CHECKING:
    from retrieval import Engine
    from retrieval.cross.calls import Scorer
    from retrieval.cross.search import Method

logger = logging.getLogger(__name__)

MEASURES = ("nDCG@10", "R@100")
QUERIES_AT_ONCE = 256
_LARGEST = 2**31  # grades are C ints behind the measures


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalSet:
    """Queries and what is relevant to them.

    Parameters
    ----------
    name : str
    queries : mapping of query id to text
        Only queries that have a judgement.
    qrels : mapping of query id to mapping of document id to grade
        Grade 0 is judged and not relevant.
    """

    name: str
    queries: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class RetrievalReport:
    """Measures of one index on one set.

    Parameters
    ----------
    name : str
    measures : mapping of measure to its mean over all judged queries
        A query without hits counts as 0.
    per_query : mapping of measure to mapping of query id to value
    run : mapping of query id to mapping of document id to score
    geodesic : float or None
        The share of the cosine beside ways over the neighbour graph.
    rerank : mapping or None
        model, budget and method, where a cross-encoder decided.
    """

    name: str
    measures: Mapping[str, float]
    per_query: Mapping[str, Mapping[str, float]] = field(repr=False)
    run: Mapping[str, Mapping[str, float]] = field(repr=False)
    geodesic: float | None = None
    rerank: Mapping[str, Any] | None = None

    def __getitem__(self, measure: str) -> float:
        """The mean of a measure."""
        return self.measures[measure]

    def to_dict(self) -> dict[str, Any]:
        """Name, number of queries, the means, and who decided."""
        queries = max((len(values) for values in self.per_query.values()), default=0)
        return {
            "name": self.name, "queries": queries, "measures": dict(self.measures), "geodesic": self.geodesic,
            "rerank": self.rerank,
        }  # fmt: skip


def load_retrieval(folder: str | PathLike[str], split: str = "test") -> RetrievalSet:
    """The queries and judgements of a BEIR folder.

    Parameters
    ----------
    folder : path
        Holds queries.jsonl (or .gz, .zst) and qrels/SPLIT.tsv with the header query-id, corpus-id, score.
    split : str, default="test"

    Raises
    ------
    CorpusError
        If a file is missing or a line cannot be read.
    """
    place = Path(folder)
    found = [
        place / name for name in ("queries.jsonl", "queries.jsonl.gz", "queries.jsonl.zst") if (place / name).exists()
    ]
    if not found:
        raise CorpusError(str(place), 0, "no queries.jsonl in it; expected a BEIR folder (queries.jsonl, qrels/*.tsv)")
    texts = _read_queries(found[0])
    qrels = _read_qrels(place / "qrels" / f"{split}.tsv")
    if not qrels:
        raise CorpusError(str(place / "qrels" / f"{split}.tsv"), 0, "no judgements in it; expected a line for each")
    missing = [query_id for query_id in qrels if query_id not in texts]
    if missing:
        raise CorpusError(str(place), 0, f"qrels judge query {missing[0]!r}, which is not in {found[0].name}")
    return RetrievalSet(name=place.name, queries={query_id: texts[query_id] for query_id in qrels}, qrels=qrels)


def _read_queries(path: Path) -> dict[str, str]:
    queries: dict[str, str] = {}
    for record in read_corpus(path):
        query_id, text = record.document.doc_id, record.document.text
        if query_id is None:
            raise CorpusError(record.source, record.line, "a query without an id; expected one that qrels can name")
        if queries.setdefault(query_id, text) != text:
            raise CorpusError(record.source, record.line, f"query {query_id!r} was another text before; expected one")
    return queries


def _read_qrels(path: Path) -> dict[str, dict[str, int]]:
    try:
        stream = path.open("rb")
    except (OSError, ValueError) as error:
        splits = ", ".join(sorted(file.stem for file in path.parent.glob("*.tsv"))) or "none"
        raise CorpusError(str(path), 0, f"cannot be read ({error}); splits there are: {splits}") from error
    qrels: dict[str, dict[str, int]] = {}
    with stream:
        for line, raw in lines_of(stream, str(path)):
            try:
                row = decoded(line, raw).rstrip("\r\n").split("\t")
                if row == [""] or (line == 1 and row[0] == "query-id"):
                    continue
                if len(row) != 3:
                    raise InputError(f"{len(row)} fields; expected query-id, corpus-id, score and tabs")
                grade = _grade(row[2])
                if qrels.setdefault(row[0], {}).setdefault(row[1], grade) != grade:
                    raise InputError(f"document {row[1]!r} was judged otherwise before; expected one score for a pair")
            except InputError as error:
                raise CorpusError(str(path), line, str(error)) from None
    return qrels


def _grade(text: str) -> int:
    try:
        grade = int(text)
    except ValueError:
        grade = _LARGEST
    if abs(grade) >= _LARGEST:
        raise InputError(f"score {text!r:.40}; expected a whole number (below {_LARGEST:,})")
    return grade


def evaluate_retrieval(
    engine: Engine,
    dataset: str | PathLike[str] | RetrievalSet,
    *,
    measures: Sequence[str] = MEASURES,
    depth: int = 100,
    split: str = "test",
    geodesic: float | None = None,
    rerank: str | Scorer | None = None,
    budget: int | None = None,
    method: Method = "plain",
    progress: bool = False,
) -> RetrievalReport:
    """Search an index for every judged query and measure what comes back.

    Parameters
    ----------
    engine : Engine
        An index over the documents that were judged.
    dataset : path or RetrievalSet
        See `load_retrieval`.
    measures : sequence of str, default=("nDCG@10", "R@100")
        Measures in the notation of ir_measures.
    depth : int, default=100
        Hits asked for; measures with a larger cut-off (than the budget, too) would be too low and are refused.
    split : str, default="test"
    geodesic, rerank, budget, method
        What decides: see `Engine.search`.
    progress : bool, default=False
        A bar on standard error, if that is a terminal.

    Raises
    ------
    InputError
        If a measure is unknown or looks deeper than `depth`.
    CorpusError
        See `load_retrieval`.
    """
    import ir_measures

    from retrieval.reranking import BUDGET
    from retrieval.reranking import QUERIES_AT_ONCE as RERANKED_AT_ONCE

    judged = dataset if isinstance(dataset, RetrievalSet) else load_retrieval(dataset, split)
    deepest = depth if rerank is None else min(depth, BUDGET if budget is None else budget)
    wanted = []
    for name in measures:
        try:
            measure = ir_measures.parse_measure(name)
        except Exception as error:  # of many kinds, for what it cannot parse
            raise InputError(
                f"measure {name!r} is not known to ir_measures; expected one like nDCG@10 or R@100"
            ) from error
        if not 1 <= (cutoff := measure.params.get("cutoff", 1)) <= deepest:
            what = f"{depth} hits are asked for" if deepest == depth else f"{deepest} calls give as many hits"
            raise InputError(f"measure {name} looks {cutoff} deep, but {what}; expected 1 to {deepest}")
        wanted.append(measure)
    run: dict[str, dict[str, float]] = {}
    ids = list(judged.queries)
    at_once = QUERIES_AT_ONCE if rerank is None else RERANKED_AT_ONCE
    with progress_bar("searching", len(ids), progress) as advance:
        for start in range(0, len(ids), at_once):
            batch = ids[start : start + at_once]
            asked = [judged.queries[query_id] for query_id in batch]
            found = engine.search(asked, depth, geodesic=geodesic, rerank=rerank, budget=budget, method=method)
            for query_id, hits in zip(batch, found, strict=True):
                # subtle: measures break ties of score by id their own way; the rank is what we answer with
                run[query_id] = {hit.doc_id: -float(hit.rank) for hit in hits}
            advance(len(batch))
    if not any(run[query_id].keys() & judged.qrels[query_id].keys() for query_id in ids):
        logger.warning(
            "none of the documents judged in %s was found: is this an index over its documents, with their ids?",
            judged.name,
        )
    per_query: dict[str, dict[str, float]] = {str(measure): dict.fromkeys(ids, 0.0) for measure in wanted}
    try:
        values = list(ir_measures.iter_calc(wanted, judged.qrels, run))
    except Exception as error:  # of many kinds, by the library behind each measure
        raise InputError(f"{', '.join(measures)} cannot be computed here: {error}; try nDCG@10 or R@100") from error
    for value in values:
        per_query[str(value.measure)][value.query_id] = value.value
    means = {name: sum(values.values()) / len(values) for name, values in per_query.items()}
    decided = None
    if rerank is not None:
        model = rerank if isinstance(rerank, str) else getattr(rerank, "name", type(rerank).__name__)
        decided = {"model": model, "budget": BUDGET if budget is None else budget, "method": method}
    return RetrievalReport(
        name=judged.name, measures=means, per_query=per_query, run=run, geodesic=geodesic, rerank=decided
    )
