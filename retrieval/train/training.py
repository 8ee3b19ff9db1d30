"""Train an encoder or a cross-encoder from labelled pairs.

    train_encoder("pairs.tsv", "my-model", dev="dev.tsv")

Leaves out the loop (`loop`), what lies on disk meanwhile (`run_folder`) and the losses (`losses`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from indexes.errors import InputError, MissingPackageError

from ..encoder import Precision, find_model, quiet_transformers
from ..models import DEFAULT_MODEL, ModelFiles, fingerprint
from ..pairs import Datasets, STSSet
from ..progress import progress_bar
from ..provenance import made_by
from .examples import ONLY_ALIKE, class_count, examples_of, read_pairs
from .kinds import CrossEncoderKind, EncoderKind, Kind
from .loop import best_epoch, run_epochs
from .losses import CROSS_ENCODER_LOSSES, CROSS_ENCODER_SCALE, ENCODER_LOSSES, ENCODER_SCALE
from .precision import choose_precision
from .run_folder import Epoch, RunFolder
from .side import run_side

logger = logging.getLogger(__name__)

Method = Literal["full", "ladder", "linear"]
METHODS = ("full", "ladder", "linear")
SCALED = {"encoder": ("cosent", "mnrl", "cosent+mnrl"), "cross-encoder": ("cosent",)}
"""Losses with a lambda."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What a training came to.

    Parameters
    ----------
    path : Path
        The model's folder; plain sentence-transformers loads it.
    settings : dict
        What was asked for: kind, model, data with digests, loss, epochs, ...
    scale : float or None
        The loss's lambda in use, if it has one.
    precision : {"float32", "bfloat16"}
        What it was trained in; the weights are float32 either way.
    epochs : tuple of Epoch
        Number 0, if there, is the model before.
    best_epoch : int
        The one that was kept.
    leaked : int
        Dev pairs that are also trained on.
    made_by : dict
        Versions of the libraries, and the time.
    """

    path: Path
    settings: dict[str, Any]
    scale: float | None
    precision: Precision
    epochs: tuple[Epoch, ...]
    best_epoch: int
    leaked: int
    made_by: dict[str, str]

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self) | {"path": str(self.path)}

    def scores(self) -> tuple[float | None, float | None]:
        """Dev Spearman of the model before and of the one kept, as far as they were measured."""
        found = {epoch.number: epoch.dev_spearman for epoch in self.epochs}
        return found.get(0), found[self.best_epoch]

    @property
    def worse(self) -> bool:
        """Whether the dev pairs speak for the model before."""
        before, after = self.scores()
        return before is not None and after is not None and after < before


def train_encoder(
    pairs: Datasets,
    output: str | PathLike[str],
    *,
    model: str | PathLike[str] = DEFAULT_MODEL,
    dev: str | PathLike[str] | STSSet | None = None,
    method: Method = "full",
    loss: str = "cosent",
    scale: float | None = None,
    epochs: int | None = None,
    batch_size: int | None = None,
    lr: float | None = None,
    warmup: float = 0.1,
    max_length: int | None = None,
    seed: int = 0,
    precision: Precision | Literal["auto"] = "auto",
    data: str | PathLike[str] | None = None,
    fresh: bool = False,
    progress: bool = False,
) -> Training:
    """Train a sentence encoder on labelled pairs; the folder it writes loads in plain sentence-transformers.

    Parameters
    ----------
    pairs : path, name, STSSet, or a sequence of those
        See `load_sts` (of a folder, the split "train"). Labels are grades, 0/1, or contradiction, neutral and
        entailment. Pairs of different sets are never compared with each other.
    output : path
        The model's folder; must not exist. "<output>.training" beside it holds what an interrupted training needs
        to go on: the same call goes on.
    model : str or path
        What to start from.
    dev : path, name or STSSet, optional
        Pairs whose Spearman chooses the epoch that is kept; without them the last one is.
    method : {"full", "ladder", "linear"}
        "full" changes all weights. The others leave the encoder as it is and train a small network beside it in
        seconds, on what its layers make of each text, computed once: "ladder" reads three layers, "linear" the
        last. They take one set of pairs and the loss "cosent".
    loss : {"cosent", "cosine", "softmax", "mnrl", "cosent+mnrl"}
        "cosine": squared error of the cosine against the label; "softmax": classes from [u, v, |u - v|], as in
        Sentence-BERT; "mnrl": every alike pair against the other second sentences of the batch, labels not read.
    scale : float, optional
        Of "cosent" and "mnrl" (the papers' lambda); 20 by default, for side networks from the spread of the cosines.
    epochs, batch_size, lr : optional
        AdamW, linear decay. By default 4, 32 and 2e-5; for side networks 10, 128 and 3e-4.
    seed : int, default=0
        The same seed on the same machine with the same number of threads and precision gives the same model.
    warmup : float, default=0.1
        Share of the steps in which the learning rate rises from 0.
    max_length : int, optional
        Tokens read of a text; the model's own limit by default.
    precision : {"auto", "float32", "bfloat16"}
        "auto" measures which is faster here.
    data : path, optional
        Where names are looked up, see `load_sts`.
    fresh : bool, default=False
        Throw away what an interrupted training of this output has done.
    progress : bool, default=False
        A bar with the time left, on a terminal.

    Returns
    -------
    Training

    Raises
    ------
    InputError
        A value out of its range, labels that are all equal, an output that exists, an interrupted training with
        other settings.
    CorpusError
        A row that cannot be used (empty sentence, a label that is neither number nor word), with its line.
    ModelError
        No such model; TrainingError if the loss becomes NaN or infinite, or the score of all pairs the same.
    MissingPackageError
        The extra "train" is not installed.

    References
    ----------
    .. [1] Huang et al., "CoSENT: Consistent Sentence Embedding via Similarity Ranking", TASLP 32, 2024.
    """
    usual = {"full": (4, 32, 2e-5)}.get(method, (10, 128, 3e-4))
    options = _Options(
        kind="encoder", model=str(model), method=method, loss=loss, scale=scale,
        epochs=usual[0] if epochs is None else epochs, batch_size=usual[1] if batch_size is None else batch_size,
        lr=usual[2] if lr is None else lr, warmup=warmup, max_length=max_length, seed=seed, precision=precision,
    )  # fmt: skip
    return _train(options, EncoderKind, pairs, output, dev, data, fresh, progress)


def train_cross_encoder(
    pairs: Datasets,
    output: str | PathLike[str],
    *,
    model: str | PathLike[str] = DEFAULT_MODEL,
    dev: str | PathLike[str] | STSSet | None = None,
    loss: str = "cosent",
    scale: float | None = None,
    epochs: int = 4,
    batch_size: int = 32,
    lr: float = 5e-5,
    warmup: float = 0.1,
    max_length: int | None = None,
    seed: int = 0,
    precision: Precision | Literal["auto"] = "auto",
    data: str | PathLike[str] | None = None,
    fresh: bool = False,
    progress: bool = False,
) -> Training:
    """Train a cross-encoder on labelled pairs; the folder it writes loads in plain sentence-transformers.

    It reads both texts together and gives one raw logit, higher for pairs that are more alike.

    Parameters
    ----------
    model : str or path
        A cross-encoder, or an encoder, which gets a new output.
    loss : {"cosent", "bce", "mnrl"}
        "bce": binary cross-entropy against the label on a scale from 0 to 1; "mnrl": every alike pair against other
        second sentences of the batch.
    scale : float, optional
        Of "cosent"; 1 by default.
    pairs, output, dev, epochs, batch_size, lr, warmup, max_length, seed, precision, data, fresh, progress
        See `train_encoder`.

    Returns
    -------
    Training

    Raises
    ------
    InputError, CorpusError, ModelError, MissingPackageError
        See `train_encoder`.

    References
    ----------
    .. [1] Su Jianlin, https://kexue.fm/archives/9341.
    """
    options = _Options(
        kind="cross-encoder", model=str(model), loss=loss, scale=scale, epochs=epochs, batch_size=batch_size, lr=lr,
        warmup=warmup, max_length=max_length, seed=seed, precision=precision,
    )  # fmt: skip
    return _train(options, CrossEncoderKind, pairs, output, dev, data, fresh, progress)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Options:
    """What was asked for, looked over."""

    kind: str
    model: str
    method: Method = "full"
    loss: str
    scale: float | None
    epochs: int
    batch_size: int
    lr: float
    warmup: float
    max_length: int | None
    seed: int
    precision: Precision | Literal["auto"]

    def __post_init__(self) -> None:
        known = ENCODER_LOSSES if self.kind == "encoder" else CROSS_ENCODER_LOSSES
        if self.loss not in known:
            raise InputError(f"loss={self.loss!r} for {self.kind}s; expected one of {', '.join(known)}")
        if self.method not in METHODS:
            raise InputError(f"method={self.method!r}; expected one of {', '.join(METHODS)}")
        if self.method != "full" and self.loss != "cosent":
            raise InputError(f"method={self.method!r} with loss={self.loss!r}; side networks are trained with 'cosent'")
        if self.method != "full" and self.precision == "bfloat16":
            raise InputError(f"method={self.method!r} with precision='bfloat16'; side networks are trained in float32")
        if self.scale is not None and self.loss not in SCALED[self.kind]:
            raise InputError(
                f"scale={self.scale:g} with loss={self.loss!r}; only {', '.join(SCALED[self.kind])} has one"
            )
        for name, value, least in (
            ("epochs", self.epochs, 1),
            ("batch_size", self.batch_size, 2),
            ("seed", self.seed, 0),
        ):
            if not isinstance(value, int) or isinstance(value, bool) or not least <= value < 2**32:
                raise InputError(f"{name}={value!r}; expected a whole number from {least} on")
        if not 0 < self.lr <= 1e30:
            raise InputError(f"lr={self.lr!r}; expected a number above 0, such as 2e-5")
        if not 0 <= self.warmup < 1:
            raise InputError(f"warmup={self.warmup!r}; expected a share of the steps, from 0 to below 1")
        if self.scale is not None and not (np.isfinite(self.scale) and self.scale > 0):
            raise InputError(f"scale={self.scale!r}; expected a number above 0")
        if self.precision not in ("auto", "float32", "bfloat16"):
            raise InputError(f"precision={self.precision!r}; expected auto, float32 or bfloat16")


def _train(
    options: _Options,
    make_kind: Callable[..., Kind],
    pairs: Datasets,
    output: str | PathLike[str],
    dev: str | PathLike[str] | STSSet | None,
    data: str | PathLike[str] | None,
    fresh: bool,
    progress: bool,
) -> Training:
    _check_installed()
    run = RunFolder(Path(output))
    run.check_output()
    sets = read_pairs(pairs, "train", data)
    dev_set = None if dev is None else _one(read_pairs(dev, "dev", data))
    examples = examples_of(sets, options.loss, options.batch_size)
    if options.method != "full" and len(sets) > 1:
        raise InputError(
            f"method={options.method!r} with {len(sets)} sets of pairs; expected one (labels are compared)"
        )
    if dev_set is not None and dev_set.name in {s.name for s in sets}:  # a folder with both splits
        dev_set = replace(dev_set, name=f"{dev_set.name}/dev")
    leaks = 0 if dev_set is None else len(dev_set) - len(dev_set.without(*sets))
    if dev_set is None:
        logger.info("no dev pairs: the last epoch will be kept, unmeasured")
    if leaks:
        said = "%d of %d dev pairs are also trained on: the dev scores look better than they are"
        logger.warning(said, leaks, len(dev_set or ()))
    files = find_model(options.model)
    if not isinstance(files, ModelFiles):
        raise InputError(f"model={options.model!r} has no weights to train; expected a folder, a package or a hub name")
    settings = (
        asdict(options)
        | ({} if options.method == "full" else {"warmup": None})
        | {
            "model": files.name,
            "fingerprint": fingerprint(files.folder),
            "train": [_about(pairs) for pairs in sets],
            "dev": None if dev_set is None else _about(dev_set),
        }
    )
    with run.opened(settings, fresh), quiet_transformers():
        torch.manual_seed(options.seed)
        kind = make_kind(files, options.max_length)
        scale: float | None
        if isinstance(kind, EncoderKind) and options.method != "full":
            precision: Precision = "float32"
            epochs, best, scale = run_side(
                kind, sets[0], dev_set, run, method=options.method, scale=options.scale, epochs=options.epochs,
                batch_size=options.batch_size, lr=options.lr, seed=options.seed, progress=progress,
            )  # fmt: skip
        else:
            precision, epochs = _full(options, kind, sets, examples, dev_set, run, progress)
            best, scale = best_epoch(epochs).number, _scale(options)
        training = Training(
            path=Path(output), settings=settings, scale=scale, precision=precision, epochs=tuple(epochs),
            best_epoch=best, leaked=leaks, made_by=made_by(),
        )  # fmt: skip
        _tell_if_worse(training)
        from .card import card, record

        run.finish({"README.md": card(training), "training.json": record(training)})
    return training


def _full(
    options: _Options, kind: Kind, sets: list[STSSet], examples: dict[str, Any], dev: STSSet | None, run: RunFolder,
    progress: bool,
) -> tuple[Precision, list[Epoch]]:  # fmt: skip
    """All weights are trained."""
    loss = kind.losses[options.loss](kind.model, class_count(sets), options.scale)
    precision = run.precision(lambda: _precision(options, kind, loss, examples))
    steps = options.epochs * sum(-(-len(part) // options.batch_size) for part in examples.values())
    total = sum(len(part) for part in examples.values())
    logger.info("%d pairs, %d steps of %d, %s", total, steps, options.batch_size, precision)
    with progress_bar("training", steps, progress) as advance:
        epochs = run_epochs(
            kind, loss, examples, max(sets, key=len), dev, run, loss_name=options.loss, epochs=options.epochs,
            batch_size=options.batch_size, lr=options.lr, warmup=options.warmup, seed=options.seed,
            precision=precision, advance=advance,
        )  # fmt: skip
    return precision, epochs


def _check_installed() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("accelerate", "datasets") if find_spec(name) is None]
    if missing:
        raise MissingPackageError(
            f"training needs the extra 'train' ({' and '.join(missing)} missing): "
            "pip install -c constraints.txt '.[train]' in a clone of the project"
        )


def _one(sets: list[STSSet]) -> STSSet:
    if len(sets) != 1:
        raise InputError(f"dev is {len(sets)} sets ({', '.join(s.name for s in sets)}); expected one")
    if len(sets[0]) < 2 or np.ptp(sets[0].scores) == 0:
        many = "there is 1 dev pair" if len(sets[0]) == 1 else f"all {len(sets[0])} dev labels are the same"
        raise InputError(f"{many}; expected pairs with different labels, to correlate with")
    return sets[0]


def _scale(options: _Options) -> float | None:
    """The lambda in full training."""
    if options.scale is not None or options.loss not in SCALED[options.kind]:
        return options.scale
    return ENCODER_SCALE if options.kind == "encoder" else CROSS_ENCODER_SCALE


def _about(pairs: STSSet) -> dict[str, Any]:
    low, high = pairs.scores.min(), pairs.scores.max()
    return {
        "name": pairs.name,
        "pairs": len(pairs),
        "labels": f"{low:g} to {high:g}, {len(np.unique(pairs.scores))} different",
        "digest": pairs.digest[:16],
    }


def _precision(options: _Options, kind: Kind, loss: torch.nn.Module, examples: dict[str, Any]) -> Precision:
    if options.precision != "auto":
        return options.precision
    largest = max(examples.values(), key=len)
    batch = largest[: options.batch_size]
    labels = None if options.loss in ONLY_ALIKE else torch.tensor(batch["label"])
    kind.model.train()
    return choose_precision(loss, lambda: kind.loss_of(loss, batch["sentence1"], batch["sentence2"], labels))


def _tell_if_worse(training: Training) -> None:
    if training.worse:
        said = (
            "no epoch is as good on the dev pairs as the model was before (%.2f, now %.2f): better use that, or try "
            "a lower learning rate, more pairs or another method"
        )
        logger.warning(said, *(100 * (score or 0) for score in training.scores()))
