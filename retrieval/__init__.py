"""Search by meaning on your own machine: text in, ranked hits out.

The names below are loaded when they are first used, so that ``retrieval --help`` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from indexes.document import Document as Document
    from indexes.errors import RetrievalError as RetrievalError

    from .engine import Engine as Engine
    from .hit import Hit as Hit
    from .whitening import Whitening as Whitening

_HOMES = {
    "Document": "indexes.document",
    "Engine": "retrieval.engine",
    "Hit": "retrieval.hit",
    "RetrievalError": "indexes.errors",
    "Whitening": "retrieval.whitening",
}
__all__ = ["Document", "Engine", "Hit", "RetrievalError", "Whitening"]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'retrieval' has no attribute {name!r}")
