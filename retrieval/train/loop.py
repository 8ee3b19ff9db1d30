"""The training loop: sentence-transformers' trainer, with its dev scores, checkpoints and end looked after.

pairs -> batches with different labels -> loss -> AdamW, linear warm-up and decay
      -> after each epoch: Spearman on the dev pairs, the best model kept, a checkpoint
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import PrinterCallback, TrainerCallback

from indexes.errors import TrainingError

from ..encoder import Precision
from ..moments import spread
from ..pairs import STSSet
from ..progress import Advance
from ..similarity import spearman
from .batches import MixedLabels
from .examples import ONLY_ALIKE
from .kinds import Kind
from .precision import autocast
from .run_folder import Epoch, Progress, RunFolder, full_disk_said, mark_whole

logger = logging.getLogger(__name__)

SAVE_EVERY = 120.0
"""Seconds between two checkpoints: what a kill can cost."""
OWN_WEIGHTS = "loss.pt"
"""Weights of the loss that are not the model's (the softmax classifier), in a checkpoint."""
ASKED = 64
"""Pairs whose scores tell whether the model still tells pairs apart."""
APART = 1e-5
"""Scores that differ by less, as a share of the largest, are the same: MiniLM collapsed by too high a rate had
differences up to 1e-6 (in bfloat16), the least of models that learn was 0.02."""


def run_epochs(
    kind: Kind,
    loss: nn.Module,
    examples: Mapping[str, Any],
    pairs: STSSet,
    dev: STSSet | None,
    folder: RunFolder,
    *,
    loss_name: str,
    epochs: int,
    batch_size: int,
    lr: float,
    warmup: float,
    seed: int,
    precision: Precision,
    advance: Advance,
) -> list[Epoch]:
    """Train to the end, from the newest whole checkpoint if there is one; the best model is in the folder.

    Parameters
    ----------
    examples : mapping of str to datasets.Dataset
        Pairs of different sets never share a batch.
    pairs : STSSet
        Some that are trained on: if the model gives them all the same score after an epoch, it has collapsed.
    dev : STSSet, optional
        Without it the last epoch counts as the best.
    warmup : float
        Share of all steps in which the learning rate rises.
    advance : callable
        Told the number of steps done.

    Raises
    ------
    TrainingError
        If the loss, or what the model makes of the dev pairs, becomes NaN or infinite, or the same for all pairs.
    """
    found = folder.checkpoint()
    progress = Progress() if found is None else found[1]
    watch = _Watch(kind, loss, pairs, dev, folder, progress, epochs, precision, advance)
    if found is not None:
        _load_own_weights(kind, loss, found[0])
        logger.info("going on after step %s of an interrupted training", found[0].name.removeprefix("checkpoint-"))
        for epoch in progress.epochs:
            if epoch.dev_spearman is not None:
                logger.info("so far: epoch %d, dev Spearman %.2f", epoch.number, 100 * epoch.dev_spearman)
    elif dev is not None and kind.trained_before:
        before = watch.dev_spearman()
        progress.epochs.append(Epoch(number=0, dev_spearman=before))
        logger.info("before training: dev Spearman %.2f", 100 * before)
    arguments = kind.arguments(
        output_dir=str(folder.path),
        num_train_epochs=epochs,
        per_device_train_batch_size=batch_size,
        learning_rate=lr,
        warmup_steps=warmup,
        weight_decay=0.01,
        seed=seed,
        bf16=precision == "bfloat16",
        use_cpu=True,
        save_strategy="no",
        save_total_limit=2,
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        batch_sampler="no_duplicates" if loss_name in ONLY_ALIKE else MixedLabels,
        multi_dataset_batch_sampler="proportional",
        prompts=kind.prompt,
    )
    sets = list(examples.values())
    trainer = _watched(kind.trainer)(
        model=kind.model, args=arguments, loss=loss, callbacks=[watch],
        train_dataset=sets[0] if len(sets) == 1 else _dataset_dict(examples),
    )  # fmt: skip
    trainer.watch = watch
    trainer.remove_callback(PrinterCallback)  # it prints to standard output
    with full_disk_said(folder.path):
        trainer.train(resume_from_checkpoint=None if found is None else str(found[0]))
    return progress.epochs


def _dataset_dict(examples: Mapping[str, Any]) -> Any:
    from datasets import DatasetDict

    return DatasetDict(examples)


def _watched(trainer: Any) -> Any:
    """The library's trainer, each loss looked at, and no model card at every checkpoint."""

    class Watched(trainer):  # type: ignore[misc]
        watch: _Watch

        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            self.watch.saw_loss(float(loss.detach()), self.state.global_step)
            return loss

        def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
            self.model._create_model_card = lambda *args, **kwargs: None

    return Watched


class _Watch(TrainerCallback):  # type: ignore[misc]
    """What happens around the steps."""

    def __init__(
        self, kind: Kind, loss: nn.Module, pairs: STSSet, dev: STSSet | None, folder: RunFolder, progress: Progress,
        epochs: int, precision: Precision, advance: Advance,
    ) -> None:  # fmt: skip
        self.kind, self.loss, self.dev, self.folder, self.progress = kind, loss, dev, folder, progress
        self.sample = pairs.take(spread(len(pairs), ASKED))
        self.epochs, self.precision, self.advance = epochs, precision, advance
        self.last_save = self.last_clock = time.monotonic()

    def saw_loss(self, value: float, step: int) -> None:
        """Add a loss to the epoch's mean, or say that training has come to nothing."""
        if not np.isfinite(value):
            raise TrainingError(
                f"the loss became {value} at step {step + 1}; try a lower learning rate or precision float32"
            )
        self.progress.loss_sum += value
        self.progress.steps += 1

    def dev_spearman(self) -> float:
        """Spearman on the dev pairs, scored in the precision of the training."""
        if self.dev is None:
            raise ValueError("there are no dev pairs")
        with autocast(self.precision):
            scores = self.kind.scores(self.dev)
        if not np.isfinite(scores).all():
            raise TrainingError("the model's scores of the dev pairs are no finite numbers; try a lower learning rate")
        return float(np.nan_to_num(spearman(np.asarray(scores, np.float64), self.dev.scores)))  # 0 if all are equal

    def check_apart(self, epoch: int) -> None:
        """Say so if the model no longer tells pairs apart: such a model has a loss, and may have a dev score."""
        with autocast(self.precision):
            scores = np.asarray(self.kind.scores(self.sample), np.float64)
        if np.ptp(scores) <= APART * np.abs(scores).max():
            raise TrainingError(
                f"after epoch {epoch} the model gives all pairs the same score ({scores[0]:.4g}); "
                "try a lower learning rate"
            )

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.advance(state.global_step)
        self.last_save = self.last_clock = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count, and ask for a checkpoint now and then; not at the end of an epoch, which has its own, scored one."""
        self.advance(1)
        within = state.global_step * self.epochs % state.max_steps != 0
        if within and time.monotonic() - self.last_save > SAVE_EVERY:
            control.should_save = True

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Score the dev pairs, keep the best model, ask for a checkpoint."""
        self._count_seconds()
        if not all(parameter.isfinite().all() for parameter in self.kind.model.parameters()):
            raise TrainingError("the model's weights are no finite numbers any more; try a lower learning rate")
        progress = self.progress
        spearman = None if self.dev is None else self.dev_spearman()
        self.check_apart(round(state.epoch))
        done = Epoch(
            number=round(state.epoch),
            loss=progress.loss_sum / max(1, progress.steps),
            dev_spearman=spearman,
            seconds=progress.seconds,
        )
        progress.epochs.append(done)
        if is_best := best_epoch(progress.epochs) is done:
            self.folder.keep_best(self.kind.save)
        progress.loss_sum, progress.steps, progress.seconds = 0.0, 0, 0.0
        before = next((epoch.dev_spearman for epoch in progress.epochs if epoch.number == 0), None)
        better = spearman is not None and is_best and (before is None or spearman > before)
        told = "" if spearman is None else f", dev Spearman {100 * spearman:.2f}{' (best so far)' if better else ''}"
        logger.info("epoch %d of %d: loss %.4f%s, %.0f s", done.number, self.epochs, done.loss, told, done.seconds)
        self.last_clock = time.monotonic()
        control.should_save = True

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make the checkpoint whole."""
        self._count_seconds()
        checkpoint = self.folder.path / f"checkpoint-{state.global_step}"
        torch.save(_own_weights(self.kind, self.loss), checkpoint / OWN_WEIGHTS)
        mark_whole(checkpoint, self.progress)
        self.last_save = time.monotonic()

    def _count_seconds(self) -> None:
        now = time.monotonic()
        self.progress.seconds += now - self.last_clock
        self.last_clock = now


def _own_weights(kind: Kind, loss: nn.Module) -> dict[str, Any]:
    models = {id(parameter) for parameter in kind.model.parameters()}
    return {name: p.detach() for name, p in loss.named_parameters() if id(p) not in models}


def _load_own_weights(kind: Kind, loss: nn.Module, checkpoint: Path) -> None:
    own = torch.load(checkpoint / OWN_WEIGHTS, weights_only=True)
    loss.load_state_dict(own, strict=False)


def best_epoch(epochs: Sequence[Epoch]) -> Epoch:
    """The trained epoch with the highest dev score, the earliest of equals; the last one without dev pairs."""
    trained = [epoch for epoch in epochs if epoch.number]
    scored = [(epoch.dev_spearman, -epoch.number, epoch) for epoch in trained if epoch.dev_spearman is not None]
    return max(scored)[2] if scored else trained[-1]
