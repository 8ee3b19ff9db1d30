"""Labelled data in, numbers out: how good a search is, by measures everybody knows."""

from .retrieval import RetrievalReport, RetrievalSet, evaluate_retrieval, load_retrieval

__all__ = ["RetrievalReport", "RetrievalSet", "evaluate_retrieval", "load_retrieval"]
