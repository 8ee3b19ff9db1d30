"""Geodesic scores over the neighbour graph of an index."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from indexes.bundle import Bundle, checked_hits
from indexes.errors import InputError
from indexes.loaded import DECIMALS
from indexes.rescoring import Unit
from indexes.vectors import check_unit

from ..hit import Hit
from ..moments import Float32, unit_rows
from ..neighbors import is_unlinked, positioned
from .graph import NeighborGraph
from .scoring import ENTRIES, Blended, Float64, Int64, Ranked, angles_of, best_blended, best_first, blend, check_alpha

logger = logging.getLogger(__name__)


class GeodesicSearch:
    """Searches an index along its neighbour graph, which is held from one search to the next.

    Parameters
    ----------
    bundle : Bundle
    unit : callable
        Makes the rows that are searched of raw ones.
    """

    def __init__(self, bundle: Bundle, unit: Unit) -> None:
        self._bundle, self._unit = bundle, unit
        self._held: tuple[int, NeighborGraph, Int64] | None = None

    def graph(self) -> tuple[NeighborGraph, Int64]:
        """The graph of the state that is loaded, and the rows of its positions; within `Bundle.read`.

        Raises
        ------
        InputError
            If the index has no graph.
        """
        bundle, generation = self._bundle, self._bundle.manifest.generation
        if self._held is None or self._held[0] != generation:
            lists = bundle.kept("neighbors")
            if lists is None:
                raise InputError(
                    f"{bundle.folder} has no neighbour graph; make one with: retrieval graph {bundle.folder}"
                )
            near = positioned(lists.rows, lists[:])
            if left := int(np.count_nonzero(is_unlinked(near, len(near)))):
                logger.warning(
                    "%s of %s documents are not linked, or no more; go on with: retrieval graph %s",
                    f"{left:,}", f"{len(lists):,}", bundle.folder,
                )  # fmt: skip
            self._held = generation, NeighborGraph(near), lists.rows
        return self._held[1:]

    def search(
        self,
        vectors: Float32,
        k: int,
        alpha: float,
        *,
        filter: str | Mapping[str, Any] | None = None,
        exact: bool = False,
    ) -> list[list[Hit]]:
        """The k documents with the best scores of cosine and way, for each query; see `Engine.search`.

        Parameters
        ----------
        vectors : ndarray of shape (q, dim), float32
            Unit rows.
        k : int
        alpha : float
            From 0 to 1.
        filter, exact
            See `Engine.search`.
        """
        k = checked_hits(k)
        check_alpha(alpha)

        def found() -> list[list[Hit]]:
            graph, rows = self.graph()
            wanted = None if filter is None else self._bundle.rows_matching(filter)
            return [
                self._search(vector, graph, rows, k, alpha, wanted, exact)
                for vector in check_unit(vectors, self._bundle.manifest.dim)
            ]

        return self._bundle.read(found)

    def _search(
        self,
        vector: Float32,
        graph: NeighborGraph,
        rows: Int64,
        k: int,
        alpha: float,
        wanted: Int64 | None,
        exact: bool,
    ) -> list[Hit]:
        def nearest(depth: int, wanted: Int64 | None) -> Ranked:
            ((found, cosines),) = self._bundle.nearest(vector[None], depth, wanted=wanted, exact=exact, unit=self._unit)
            return np.searchsorted(rows, found), cosines

        def ranked(depth: int) -> Ranked:
            return entries if wanted is None and depth <= ENTRIES else nearest(depth, wanted)

        def cosines_of(positions: Int64) -> Float64:
            return self._bundle.cosines(vector, rows[positions], self._unit)

        if not len(rows) or (wanted is not None and not len(wanted)):
            return []
        entries = nearest(ENTRIES, None)
        allowed = None if wanted is None else np.isin(rows, wanted)
        return self._hits(best_blended(graph, entries, ranked, cosines_of, k, alpha, allowed=allowed), rows, k)

    def rank_by_topic(
        self, vectors: Float32, k: int | None, *, centre: bool, filter: str | Mapping[str, Any] | None
    ) -> list[Hit]:
        """All documents by their way from a topic; see `Engine.rank_by_topic`."""
        most = None if k is None else checked_hits(k)

        def found() -> list[Hit]:
            graph, rows = self.graph()
            points = unit_rows(vectors.mean(axis=0, keepdims=True)) if centre else vectors
            wanted = rows if filter is None else np.sort(self._bundle.rows_matching(filter))
            if not len(wanted):
                return []
            near = list(self._bundle.nearest(points, ENTRIES, unit=self._unit))
            starts = np.searchsorted(rows, np.concatenate([found for found, _ in near]))
            lengths = angles_of(np.concatenate([cosines for _, cosines in near]))
            shortest = np.full(graph.n, np.inf)
            np.minimum.at(shortest, starts, lengths)
            first = np.flatnonzero(np.isfinite(shortest))
            reached = graph.reach(first, shortest[first])
            cosines = np.max([self._bundle.cosines(point, wanted, self._unit) for point in points], axis=0)
            ways = np.full(graph.n, np.nan)
            ways[reached.positions] = reached.distances
            positions = np.searchsorted(rows, wanted)
            ways = np.where(np.isnan(ways[positions]), angles_of(cosines), ways[positions])
            scores = blend(cosines, ways, 0.0)
            kept = best_first(scores, most or len(scores))
            best = Blended(
                positions=positions[kept], scores=scores[kept], cosines=cosines[kept], ways=ways[kept], reached=reached
            )
            return self._hits(best, rows, most or len(kept))

        return self._bundle.read(found)

    def _hits(self, best: Blended, rows: Int64, k: int) -> list[Hit]:
        """The first k documents by score, then id, with what their scores are made of and the way to them."""
        (found,) = self._bundle.found([(rows[best.positions], best.scores.round(DECIMALS))], k)
        place_of = {row: place for place, row in enumerate(rows[best.positions].tolist())}
        at = [place_of[one.document.row] for one in found]
        reached = set(best.reached.positions.tolist())
        ways = [best.reached.path(at_) if (at_ := int(best.positions[place])) in reached else [] for place in at]
        between = np.unique(np.array([step for way in ways for step in way[:-1]], np.int64))
        known = dict(zip(between.tolist(), self._bundle.documents(rows[between].tolist()), strict=True))
        return [
            Hit(
                rank=rank, doc_id=one.document.doc_id, score=one.score, text=one.document.text,
                metadata=one.document.metadata,
                scores={
                    "dense": round(float(best.cosines[place]), DECIMALS),
                    "way": round(float(best.ways[place]), DECIMALS),
                },
                path=tuple({"id": known[step].doc_id, "text": known[step].text} for step in way[:-1]),
            )
            for rank, (one, place, way) in enumerate(zip(found, at, ways, strict=True), start=1)
        ]  # fmt: skip
