"""A whitened encoder for others: a plain sentence-transformers folder.

    model, whitening -> transformer | pooling | Dense (W, b, no activation) | Normalize -> folder

Nobody needs this project to use the result. For FAISS see `Whitening.to_faiss`.
"""

from __future__ import annotations

import shutil
import tempfile
from os import PathLike, fspath
from pathlib import Path

from indexes.errors import IndexExistsError, InputError

from .compiled.encoder import CompiledEncoder
from .encoder import Encoder, SentenceTransformerEncoder, find_model
from .models import ModelFiles, compare, locate
from .whitening import Whitening


def export_model(model: str | PathLike[str] | Encoder, whitening: Whitening, path: str | PathLike[str]) -> None:
    """Write a sentence-transformers folder whose ``encode`` gives whitened unit rows.

    Parameters
    ----------
    model : str, path or Encoder
        See `retrieval.encoder.load_encoder`; its prompts are taken along.
    whitening : Whitening
        Fitted on this model's vectors.
    path : path
        A new folder, or an empty one.

    Raises
    ------
    InputError
        If the whitening is not fitted, was fitted on another width, or there is no sentence-transformers model.
    IndexExistsError
        If something is at `path` already.
    ModelError
        See `load_encoder`.
    """
    encoder = _in_torch(model)
    if not isinstance(encoder, SentenceTransformerEncoder):
        raise InputError(f"{encoder.name} is no sentence-transformers model; expected one, such as all-MiniLM-L6-v2")
    d, k = whitening.kernel.shape
    if d != encoder.dim:
        raise InputError(
            f"the whitening was fitted on {d} columns, but the vectors of {encoder.name} have {encoder.dim}"
        )
    if encoder.model.truncate_dim is not None:
        raise InputError(f"{encoder.name} cuts vectors at {encoder.model.truncate_dim} columns; expected a whole model")
    folder = Path(path).resolve()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise IndexExistsError(f"{folder} holds something already; choose a new path for the model")

    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Dense, Normalize

    dense = Dense(
        d,
        k,
        activation_function=None,
        init_weight=torch.from_numpy(whitening.kernel.T.copy()),
        init_bias=torch.from_numpy(whitening.bias.copy()),
    )
    exported = SentenceTransformer(
        modules=[*encoder.model.children(), dense, Normalize()],
        prompts={**encoder.model.prompts, **encoder.prompts},
        default_prompt_name=encoder.model.default_prompt_name,
        device="cpu",
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        exported.save_pretrained(fspath(unfinished), create_model_card=False)
        unfinished.chmod(0o755)  # mkdtemp makes it private
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished)
        raise


def _in_torch(model: str | PathLike[str] | Encoder) -> Encoder:
    """The model itself, with its modules, where a compiled one stands for it."""
    found = find_model(model)
    if isinstance(found, CompiledEncoder):
        encoder = SentenceTransformerEncoder(locate(found.name), found.prompts)
        compare(found.fingerprint, encoder.fingerprint, encoder.name)
        return encoder
    return SentenceTransformerEncoder(found) if isinstance(found, ModelFiles) else found
