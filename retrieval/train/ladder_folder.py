"""A model with its side network as a plain sentence-transformers folder.

    transformer (all layers) | own pooling | Dense -+- for each rung: one layer | pooling | Dense -+-> Normalize

Every module is one that sentence-transformers has: nobody needs this project, or code that comes with
a model, to load it.
"""

from __future__ import annotations

import copy
import shutil
import tempfile
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from indexes.errors import IndexExistsError, InputError

from .features import check_plain
from .ladder import SideNetwork

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer
    from torch import nn


def side_modules(model: SentenceTransformer, side: SideNetwork) -> list[nn.Module]:
    """The model with the side network, as modules that sentence-transformers has.

    A Dense maps the own pooled vector and puts it by under the key that a Pooling in mode "cls" reads. A rung
    is then three modules: WeightedLayerPooling (all weight on one layer), Pooling in modes cls and mean (what
    was put by | the mean of that layer) and a Dense of [I | D_l] which adds the two.
    "token_embeddings" are then those of the last rung, no longer the model's last layer.

    Parameters
    ----------
    model : SentenceTransformer
        The one whose features the network was trained on; it stays as it is.

    Raises
    ------
    ModelError
        See `check_plain`.
    InputError
        If the network is of another model.
    """
    import torch
    from sentence_transformers.base.modules import Dense
    from sentence_transformers.sentence_transformer.modules import Pooling, WeightedLayerPooling

    n_layers, dim = check_plain(model)
    if side.weights.shape[1] != dim or side.layers[-1] != n_layers:
        raise InputError(
            f"the side network is of a model of {side.layers[-1]} layers x {side.weights.shape[1]}, this one has "
            f"{n_layers} x {dim}; give the model that the features are of"
        )
    transformer, own, *rest = (copy.deepcopy(module) for module in model.children())
    steps: list[tuple[list[nn.Module], NDArray[np.float32]]] = [([own], side.weights[-1])]
    for layer, weight in zip(side.layers[:-1], side.weights[:-1], strict=True):
        one = torch.nn.Parameter(torch.eye(n_layers + 1)[layer].clone(), requires_grad=False)
        chosen = WeightedLayerPooling(dim, num_hidden_layers=n_layers, layer_start=0, layer_weights=one)
        both = Pooling(dim, ("cls", "mean"), include_prompt=own.include_prompt)
        steps.append(([chosen, both], np.concatenate([np.eye(dim, dtype=np.float32), weight], axis=1)))
    transformer.model.config.output_hidden_states = len(steps) > 1
    modules: list[nn.Module] = [transformer]
    for number, (before, weight) in enumerate(steps, start=1):
        last = number == len(steps)
        modules += before
        modules.append(
            Dense(
                weight.shape[1],
                dim,
                bias=last,
                activation_function=None,
                init_weight=torch.from_numpy(weight.copy()),
                init_bias=torch.from_numpy(side.bias.copy()),
                module_output_name="sentence_embedding" if last else "cls_token_embeddings",
            )
        )
    return [*modules, *rest]


def save_side(model: SentenceTransformer, side: SideNetwork, path: str | PathLike[str]) -> None:
    """Write a folder that ``SentenceTransformer(path)`` loads, without this project and without remote code.

    Parameters
    ----------
    model : SentenceTransformer
        The frozen one; its prompts are taken along.
    side : SideNetwork
    path : path
        A new folder, or an empty one.

    Raises
    ------
    IndexExistsError
        If something is at `path` already.
    InputError, ModelError
        See `side_modules`.
    """
    from sentence_transformers import SentenceTransformer

    modules = side_modules(model, side)
    folder = Path(path).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise IndexExistsError(f"{folder} holds something already; choose a new path for the model")
    made = SentenceTransformer(
        modules=modules, prompts=dict(model.prompts), default_prompt_name=model.default_prompt_name, device="cpu",
        similarity_fn_name=model.similarity_fn_name,
    )  # fmt: skip
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        made.save_pretrained(str(unfinished), create_model_card=False)
        unfinished.chmod(0o755)  # mkdtemp makes it private
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished)
        raise
