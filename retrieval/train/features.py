"""What a frozen encoder knows of each text, computed once: the pooled output of every layer.

    texts -> transformer -> L hidden layers, averaged over tokens | the model's own pooled vector -> features.npy

A side network (`retrieval.train.ladder`) is trained on these in seconds, without the encoder. What is not
finished goes on where it was. Leaves out token-level features: they are some 15 times as large.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError, ModelError

from ..encoder import TOKEN_BUDGET, pack

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

SAVE_EVERY = 16
"""Batches between two notes of how far it is; so many are computed again after an interruption."""


def layer_features(
    model: SentenceTransformer,
    texts: Sequence[str],
    folder: str | PathLike[str],
    *,
    prompt: str = "",
    dtype: Literal["float16", "float32"] = "float16",
    token_budget: int = TOKEN_BUDGET,
    progress: Callable[[int], object] = lambda count: None,
) -> NDArray[Any]:
    """The pooled outputs of every layer, one row a text, in a memory-mapped file.

    Parameters
    ----------
    model : SentenceTransformer
        A transformer and a pooling, perhaps a normalisation; see `check_plain`.
    texts : sequence of str
        Distinct ones, best: each is computed.
    folder : path
        Where features.npy and features.json are kept. Features of the same model, texts, prompt and dtype that
        are there already are not computed again; others are replaced.
    prompt : str, default=""
        Put before every text.
    dtype : {"float16", "float32"}
        Of the file: 2 or 4 bytes a number, (L + 1) d numbers a text (5 KB for 7 x 384 in float16).
    token_budget : int
        Tokens, padding included, in one batch.
    progress : callable
        Told how many texts more are done.

    Returns
    -------
    ndarray of shape (n, L + 1, d), float16 or float32, memory-mapped, read-only
        ``[:, l]`` for l < L is the mean over tokens of what enters layer l (0: the word embeddings);
        ``[:, L]`` is the model's own pooled vector, before any normalisation.

    Raises
    ------
    InputError
        If there are no texts.
    ModelError
        If the model has other modules, or gives numbers that are not finite in this dtype.
    """
    if not texts:
        raise InputError("there are no texts to compute features of; expected at least one")
    n_layers, dim = check_plain(model)
    place = Path(folder)
    place.mkdir(parents=True, exist_ok=True)
    file, note = place / "features.npy", place / "features.json"
    wanted = {"digest": _digest(model, texts, prompt), "dtype": dtype, "token_budget": token_budget}
    done = _batches_done(note, wanted) if file.exists() else 0
    shape = (len(texts), n_layers + 1, dim)
    rows = np.lib.format.open_memmap(file, mode="r+" if done else "w+", dtype=dtype, shape=shape)
    tokens = model.tokenizer([prompt + text for text in texts], truncation=False, padding=False, verbose=False)
    lengths = np.array([len(ids) for ids in tokens["input_ids"]])
    limit = model.max_seq_length or int(lengths.max())
    batches = list(pack(np.minimum(lengths, int(min(limit, lengths.max()))), token_budget))
    progress(sum(map(len, batches[:done])))
    for number, values in enumerate(_computed(model, texts, prompt, batches[done:]), start=done + 1):
        batch = batches[number - 1]
        with np.errstate(over="ignore"):  # looked at in the next line
            rows[batch] = values
        if not np.isfinite(rows[batch]).all():
            raise ModelError(
                f"the model gives numbers for {texts[int(batch[0])]!r} or texts near it that are no finite {dtype}; "
                "check its weights" + (", or use float32" if dtype == "float16" else "")
            )
        if number % SAVE_EVERY == 0 or number == len(batches):
            rows.flush()
            note.write_text(json.dumps(wanted | {"batches": number}))
        progress(len(batch))
    del rows
    finished: NDArray[Any] = np.load(file, mmap_mode="r")
    return finished


def check_plain(model: SentenceTransformer, name: str = "the model") -> tuple[int, int]:
    """The layers L and the width d of a model that is a transformer, a pooling of that width and nothing else.

    Raises
    ------
    ModelError
        If it has other modules than Transformer, Pooling and, perhaps, Normalize.
    """
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    modules = list(model.children())
    kinds = (Transformer, Pooling, Normalize)
    named = ", ".join(type(module).__name__ for module in modules)
    if len(modules) not in (2, 3) or not all(map(isinstance, modules, kinds)):
        raise ModelError(
            f"{name} is made of {named}; expected Transformer, Pooling and perhaps Normalize: begin from such a model, "
            "or train all weights (method full)"
        )
    config = modules[0].model.config
    if not hasattr(config, "num_hidden_layers") or modules[1].get_embedding_dimension() != config.hidden_size:
        raise ModelError(
            f"the pooling of {name} gives {modules[1].get_embedding_dimension()} numbers and the transformer's layers "
            f"{getattr(config, 'hidden_size', 'an unknown number')}; expected one pooling mode, such as mean"
        )
    return int(config.num_hidden_layers), int(config.hidden_size)


def _computed(
    model: SentenceTransformer, texts: Sequence[str], prompt: str, batches: Sequence[NDArray[np.int64]]
) -> Iterator[NDArray[np.float32]]:
    """For each batch of m texts, an array of shape (m, L + 1, d)."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Pooling
    from sentence_transformers.util import batch_to_device

    transformer, own = model[0], model[1]
    mean = Pooling(own.embedding_dimension, "mean", include_prompt=own.include_prompt)
    trained = model.training
    model.eval()
    try:
        with torch.inference_mode(), _every_layer(transformer):
            for batch in batches:
                inputs = model.preprocess([texts[i] for i in batch], prompt=prompt or None)
                out = transformer(batch_to_device(inputs, model.device))
                pooled = [
                    mean({**out, "token_embeddings": layer})["sentence_embedding"]
                    for layer in out["all_layer_embeddings"][:-1]
                ]
                pooled.append(own(out)["sentence_embedding"])
                yield torch.stack(pooled, dim=1).float().cpu().numpy()
    finally:
        model.train(trained)


@contextmanager
def _every_layer(transformer: Any) -> Iterator[None]:
    """The transformer gives "all_layer_embeddings" too."""
    config = transformer.model.config
    before, config.output_hidden_states = config.output_hidden_states, True
    try:
        yield
    finally:
        config.output_hidden_states = before


def _digest(model: SentenceTransformer, texts: Sequence[str], prompt: str) -> str:
    """SHA-256 (hex) of weights, modules, token limit, texts and prompt."""
    import torch

    sha = hashlib.sha256(repr([str(model), model.max_seq_length, prompt]).encode())
    for name, weight in model.state_dict().items():
        if ".pooler." in name:  # plays no part here, and is random where the files have none, as those of E5
            continue
        sha.update(name.encode())
        sha.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    for text in texts:
        sha.update(json.dumps(text).encode())
    return sha.hexdigest()


def _batches_done(note: Path, wanted: dict[str, Any]) -> int:
    """How many batches of the same work are in the file."""
    try:
        found = json.loads(note.read_text())
        batches = int(found.pop("batches"))
        return batches if found == wanted else 0
    except (FileNotFoundError, ValueError, KeyError, AttributeError):
        return 0
