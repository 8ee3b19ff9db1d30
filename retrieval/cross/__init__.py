"""What a cross-encoder would rank first, found with a hundred calls: scores are predicted from those made so far.

basis.py       columns in which the scores of a query are nearly linear
fit.py         ridge regression of the scores made so far
greedy.py      rows that stand for all others
calls.py       the scorer, asked once for each pair
search.py      the rounds: score, fit, predict, pick
indexed.py     an index's vectors as a basis
anchors.py     queries that all documents are scored with beforehand
completion.py  scores of items that were not scored
pilot.py       what anchors would bring, tried on a sample
"""

from __future__ import annotations

from .basis import Basis
from .greedy import greedy_rows
from .search import CrossEncoderSearch, Found, Trace

__all__ = ["Basis", "CrossEncoderSearch", "Found", "Trace", "greedy_rows"]
