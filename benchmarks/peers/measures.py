"""How good answers are: against the exact nearest, and against judgements; and how long they took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ir_measures
import numpy as np
from numpy.typing import NDArray

TIE = 1e-6
Answers = Sequence[Sequence[str]]


def nearest(documents: NDArray[np.float32], queries: NDArray[np.float32], ids: Sequence[str], k: int) -> list[set[str]]:
    """Of each query (unit rows) the ids that may be among the k nearest: those that score as the k-th does, or more."""
    found = []
    for scores in queries @ documents.T:
        least = np.partition(scores, -min(k, len(scores)))[-min(k, len(scores))]
        found.append({ids[row] for row in np.flatnonzero(scores >= least - TIE)})
    return found


def recall(answers: Answers, near: Sequence[set[str]], k: int) -> float:
    """The share of k that is in the first k of an answer, mean over queries."""
    shares = [len(set(answer[:k]) & best) / min(k, len(best)) for answer, best in zip(answers, near, strict=True)]
    return float(np.mean(shares))


def ndcg(answers: Answers, query_ids: Sequence[str], qrels: Mapping[str, Mapping[str, int]]) -> float:
    """nDCG@10 over the judged queries, answers being in order."""
    run = {
        query_id: {doc_id: -float(rank) for rank, doc_id in enumerate(answer)}
        for query_id, answer in zip(query_ids, answers, strict=True)
    }
    return float(ir_measures.calc_aggregate([ir_measures.nDCG @ 10], qrels, run)[ir_measures.nDCG @ 10])


def times(turns: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Percentiles of milliseconds over the queries of all turns, and the median of each turn."""
    p50, p95 = np.percentile([ms for turn in turns for ms in turn], [50, 95])
    medians = [round(float(np.median(turn)), 3) for turn in turns]
    return {"p50 ms": round(float(p50), 3), "p95 ms": round(float(p95), 3), "p50 ms of each turn": medians}
