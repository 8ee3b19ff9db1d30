"""How far texts lie apart along the ways that lead from near to near, and what that is good for.

graph.py      a graph of near neighbours, and shortest paths in it
scoring.py    cosine and way of the documents that a query is for, in one score
indexed.py    both in an index
"""

from __future__ import annotations

from .graph import NeighborGraph, Reached

__all__ = ["NeighborGraph", "Reached"]
