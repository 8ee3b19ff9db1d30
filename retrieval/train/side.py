"""The training-efficient mode: features of a frozen encoder once, then a side network on them in seconds."""

from __future__ import annotations

import logging
import time
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ..pairs import STSSet
from ..progress import progress_bar
from ..similarity import Sentences, spearman
from .features import check_plain, layer_features
from .kinds import EncoderKind
from .ladder import SideNetwork, fit_side
from .ladder_folder import save_side
from .run_folder import Epoch, RunFolder, full_disk_said

logger = logging.getLogger(__name__)


def run_side(
    kind: EncoderKind,
    pairs: STSSet,
    dev: STSSet | None,
    folder: RunFolder,
    *,
    method: Literal["ladder", "linear"],
    scale: float | None,
    epochs: int,
    batch_size: int,
    lr: float,
    seed: int,
    progress: bool,
) -> tuple[list[Epoch], int, float]:
    """Train a side network to the end; the encoder with the best one is in the folder.

    Features that an interrupted run has computed are not computed again. See `fit_side` for what is not said here.

    Returns
    -------
    list of Epoch
        Number 0 is the frozen model; its seconds are those of the features.
    int
        The epoch that was kept.
    float
        CoSENT's lambda.

    Raises
    ------
    ModelError
        If the model is not made of a transformer and a pooling, or gives numbers that are not finite; TrainingError,
        one of these, if the network does, or cannot be written.
    """
    check_plain(kind.model, f"model {kind.encoder.name!r}")
    sides = [*pairs.sentences1, *pairs.sentences2, *(() if dev is None else (*dev.sentences1, *dev.sentences2))]
    row = {text: i for i, text in enumerate(dict.fromkeys(sides))}
    start = time.monotonic()
    with progress_bar("features", len(row), progress) as advance:
        features = layer_features(
            kind.model, list(row), folder.path / "features", prompt=kind.prompt or "", progress=advance
        )
    clock = time.monotonic()
    logger.info("features of %d texts, %.0f s", len(row), clock - start)
    logger.info("%d pairs, %d steps of %d", len(pairs), epochs * -(-len(pairs) // batch_size), batch_size)
    done: list[Epoch] = []

    def on_epoch(number: int, network: SideNetwork) -> float | None:
        nonlocal clock
        seconds = time.monotonic() - clock if number else clock - start
        score = None if dev is None else _spearman(network, features, row, dev)
        done.append(Epoch(number=number, loss=network.loss, dev_spearman=score, seconds=seconds))
        told = "" if score is None else f", dev Spearman {100 * score:.2f}"
        if number:
            logger.info("epoch %d of %d: loss %.4f%s, %.1f s", number, epochs, network.loss, told, seconds)
        elif score is not None:
            logger.info("before training: dev Spearman %.2f", 100 * score)
        clock = time.monotonic()
        return score if number else None

    first, second = ([row[text] for text in side] for side in (pairs.sentences1, pairs.sentences2))
    network = fit_side(
        features, first, second, pairs.scores, kind=method, scale=scale, epochs=epochs, batch_size=batch_size, lr=lr,
        seed=seed, on_epoch=on_epoch,
    )  # fmt: skip
    if scale is None:
        logger.info("the lambda of CoSENT, from the spread of the pairs' cosines, was %.2f", network.scale)
    with full_disk_said(folder.path):
        folder.keep_best(lambda path: save_side(kind.model, network, path))
    return done, network.best_epoch, network.scale


def _spearman(network: SideNetwork, features: NDArray[Any], row: dict[str, int], pairs: STSSet) -> float:
    texts = [*pairs.sentences1, *pairs.sentences2]
    vectors = Sentences(texts, lambda distinct: network.transform(features[[row[text] for text in distinct]]))
    return float(np.nan_to_num(spearman(vectors.cosines(pairs), pairs.scores)))  # 0 if all are equal
