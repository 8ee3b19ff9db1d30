"""Training with CoSENT: encoders and cross-encoders, from labelled pairs, on a CPU if need be.

The names below are loaded when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .losses import CoSENTLoss as CoSENTLoss
    from .losses import CrossEncoderCoSENTLoss as CrossEncoderCoSENTLoss
    from .losses import cosent_loss as cosent_loss
    from .training import Training as Training
    from .training import train_cross_encoder as train_cross_encoder
    from .training import train_encoder as train_encoder

_HOMES = {
    "CoSENTLoss": "losses",
    "CrossEncoderCoSENTLoss": "losses",
    "Training": "training",
    "cosent_loss": "losses",
    "train_cross_encoder": "training",
    "train_encoder": "training",
}
__all__ = ["CoSENTLoss", "CrossEncoderCoSENTLoss", "Training", "cosent_loss", "train_cross_encoder", "train_encoder"]


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"retrieval.train.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'retrieval.train' has no attribute {name!r}")
