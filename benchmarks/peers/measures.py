"""How good answers are: against the exact nearest, and against judgements; and how long they took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ir_measures
import numpy as np
from numpy.typing import NDArray

TIE = 1e-6
Answers = Sequence[Sequence[str]]


@dataclass(frozen=True, slots=True)
class Nearest:
    """The ids that are among the k nearest, and those that tie with the k-th: any of them fill what is left."""

    surely: set[str]
    tied: set[str]


def nearest(documents: NDArray[np.float32], queries: NDArray[np.float32], ids: Sequence[str], k: int) -> list[Nearest]:
    """The k nearest of each query; unit rows."""
    found = []
    k = min(k, len(documents))
    for scores in queries @ documents.T:
        least = np.partition(scores, -k)[-k]
        surely, tied = scores > least + TIE, np.abs(scores - least) <= TIE
        found.append(Nearest(*({ids[row] for row in np.flatnonzero(of)} for of in (surely, tied))))
    return found


def recall(answers: Answers, near: Sequence[Nearest], k: int) -> float:
    """The share of the k nearest that is in the first k of an answer, mean over queries."""
    shares = []
    for answer, best in zip(answers, near, strict=True):
        given, wanted = set(answer[:k]), min(k, len(best.surely | best.tied))
        of_tied = min(len(given & best.tied), wanted - len(best.surely))
        shares.append((len(given & best.surely) + of_tied) / wanted)
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
