"""Labelled data in, numbers out: how good vectors and a search are, by measures everybody knows.

The names below are loaded when they are first used, so that ``retrieval --help`` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from retrieval.pairs import STSSet as STSSet
    from retrieval.pairs import load_sts as load_sts

    from .report import STSReport as STSReport
    from .retrieval import RetrievalReport as RetrievalReport
    from .retrieval import RetrievalSet as RetrievalSet
    from .retrieval import evaluate_retrieval as evaluate_retrieval
    from .retrieval import load_retrieval as load_retrieval
    from .sts import evaluate_sts as evaluate_sts
    from .tuned import WhiteningTuning as WhiteningTuning
    from .tuning import tune_whitening as tune_whitening

_HOMES = {
    "RetrievalReport": "eval.retrieval",
    "RetrievalSet": "eval.retrieval",
    "STSReport": "eval.report",
    "STSSet": "retrieval.pairs",
    "WhiteningTuning": "eval.tuned",
    "evaluate_retrieval": "eval.retrieval",
    "evaluate_sts": "eval.sts",
    "load_retrieval": "eval.retrieval",
    "load_sts": "retrieval.pairs",
    "tune_whitening": "eval.tuning",
}
__all__ = [
    "RetrievalReport",
    "RetrievalSet",
    "STSReport",
    "STSSet",
    "WhiteningTuning",
    "evaluate_retrieval",
    "evaluate_sts",
    "load_retrieval",
    "load_sts",
    "tune_whitening",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'eval' has no attribute {name!r}")
