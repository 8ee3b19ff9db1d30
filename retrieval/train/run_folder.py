"""What a training leaves on disk while it goes on, so that the same command goes on after a kill.

MODEL.training/settings.json      what was asked for; another request is refused
               precision.json     what was measured to be faster
               checkpoint-N/      model, optimizer and random state after step N, by the trainer
                   progress.json  written last: a checkpoint without it is not whole
               best/              the model of the best epoch
               features/          of a side network, instead of checkpoints
MODEL/                            appears by renaming when all is done
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from indexes.errors import InputError, TrainingError
from indexes.files import sync_folder
from indexes.lock import write_lock

from ..encoder import Precision

logger = logging.getLogger(__name__)

OF_FEATURES = ("kind", "model", "fingerprint", "max_length", "train", "dev")
"""Settings that the features of a side network depend on; whatever else is changed, they are of use."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Epoch:
    """What one epoch came to.

    Parameters
    ----------
    number : int
        From 1; 0 is the model before training.
    loss : float or None
        Mean over the epoch's steps.
    dev_spearman : float or None
        x 1, on the dev pairs.
    seconds : float
        Training time of this epoch, without evaluation and without what a kill threw away.
    """

    number: int
    loss: float | None = None
    dev_spearman: float | None = None
    seconds: float = 0.0


@dataclass(slots=True)
class Progress:
    """Where a training is: finished epochs, and the sums of the one under way."""

    epochs: list[Epoch] = field(default_factory=list)
    loss_sum: float = 0.0
    steps: int = 0
    seconds: float = 0.0

    def to_json(self) -> str:
        """As `from_json` reads it."""
        return json.dumps(asdict(self))

    @staticmethod
    def from_json(text: str) -> Progress:
        """As `to_json` wrote it."""
        values = json.loads(text)
        return Progress(**values | {"epochs": [Epoch(**epoch) for epoch in values["epochs"]]})


class RunFolder:
    """The folder beside a model that is being trained.

    Parameters
    ----------
    output : Path
        Where the model will be; the run's folder is its name with ".training".
    """

    def __init__(self, output: Path) -> None:
        if not output.name:
            raise InputError(f"the output {str(output)!r} has no name of its own; name a new folder for the model")
        self.output, self.path = output, output.with_name(output.name + ".training")

    def check_output(self) -> None:
        """Nothing, if the output can be made.

        Raises
        ------
        InputError
            If it exists, or the folder that it is to be in does not.
        """
        if self.output.exists() or self.output.is_symlink():
            self._clear_if_done()
            raise InputError(f"{str(self.output)!r} exists; remove it or name another folder for the model")
        if not self.output.absolute().parent.is_dir():
            raise InputError(f"the folder of {str(self.output)!r} is not there; make it first")

    @contextmanager
    def opened(self, settings: Mapping[str, Any], fresh: bool) -> Iterator[RunFolder]:
        """Hold the folder, made or found again, for one process.

        Raises
        ------
        InputError
            If the output exists, or an interrupted training of other settings lies there and `fresh` is false.
        IndexLockedError
            If another process trains this model.
        """
        self.check_output()
        self.path.mkdir(exist_ok=True)
        with write_lock(self.path):
            if fresh:
                self._empty()
            self._check(settings)
            try:
                yield self
            except BaseException as error:
                if not self._has_work():  # nothing to go on from: nothing is left, as if refused before
                    shutil.rmtree(self.path)
                    if isinstance(error, KeyboardInterrupt):
                        logger.warning("nothing was stored yet: the same command begins anew")
                raise

    def _clear_if_done(self) -> None:
        """Remove what a training left that was killed when its model was there already."""
        try:
            made = json.loads((self.output / "training.json").read_text())["settings"]
            asked = json.loads((self.path / "settings.json").read_text())
        except (OSError, ValueError, KeyError, TypeError):
            return
        if made == asked:
            with write_lock(self.path):
                shutil.rmtree(self.path)

    def _check(self, settings: Mapping[str, Any]) -> None:
        kept = self.path / "settings.json"
        wanted = json.loads(json.dumps(settings))
        try:
            found = json.loads(kept.read_text())
        except (OSError, ValueError):  # none yet, or cut off before anything was trained
            self._empty()
            _write(kept, json.dumps(wanted, indent=2))
            return
        differ = [name for name in wanted if found.get(name) != wanted[name]]
        lost = [name for name in differ if name in OF_FEATURES or self._has_checkpoint()]
        if lost and self._has_work():
            name = lost[0]
            raise InputError(
                f"an interrupted training in {self.path} has {name} {_shown(found.get(name))}, now it is "
                f"{_shown(wanted[name])}; run it as it was to go on, or begin anew with --fresh (fresh=True)"
            )
        if differ:  # all that was done, if anything, is features that do not depend on it
            self._empty(but="" if lost else "features")
            _write(kept, json.dumps(wanted, indent=2))

    def _has_checkpoint(self) -> bool:
        return any(self.path.glob("checkpoint-*/progress.json"))

    def _has_work(self) -> bool:
        return (self.path / "features" / "features.json").is_file() or self._has_checkpoint()

    def _empty(self, but: str = "") -> None:
        for entry in self.path.iterdir():
            if entry.name == but:
                continue
            if entry.is_dir():
                shutil.rmtree(entry)
            elif not entry.name.startswith("write.lock"):
                entry.unlink()

    def precision(self, choose: Callable[[], Precision]) -> Precision:
        """What an interrupted training was begun in, or what `choose` says now."""
        kept = self.path / "precision.json"
        if not kept.is_file():
            _write(kept, json.dumps(choose()))
        chosen: Precision = json.loads(kept.read_text())
        return chosen

    def checkpoint(self) -> tuple[Path, Progress] | None:
        """The newest whole checkpoint, or None."""
        whole = []
        for folder in self.path.glob("checkpoint-*"):
            number = folder.name.removeprefix("checkpoint-")
            if number.isdecimal() and (folder / "progress.json").is_file():
                whole.append((int(number), folder))
            else:
                shutil.rmtree(folder)
        if not whole:
            return None
        _, newest = max(whole)
        progress = Progress.from_json((newest / "progress.json").read_text())
        kept = any((self.path / name).is_dir() for name in ("best", "best.new"))  # the latter: cut off in `keep_best`
        if not kept and any(epoch.number for epoch in progress.epochs):  # killed in `finish`, its result then removed
            for _, folder in whole:  # or the trainer takes its next checkpoint for the older one, and deletes that
                shutil.rmtree(folder)
            return None
        return newest, progress

    def keep_best(self, save: Callable[[Path], None]) -> None:
        """Replace the best model by the one that `save` writes into a folder."""
        new, best = self.path / "best.new", self.path / "best"
        shutil.rmtree(new, ignore_errors=True)
        save(new)
        shutil.rmtree(best, ignore_errors=True)
        new.rename(best)

    def finish(self, files: Mapping[str, str]) -> None:
        """Make the best model the output, with text files of these names added, and remove the folder."""
        best = self.path / "best"
        for name, content in files.items():
            _write(best / name, content)
        for place in [best, *(inner for inner in best.rglob("*"))]:
            sync_folder(place)  # files alike
        best.rename(self.output)
        sync_folder(self.output.absolute().parent)
        shutil.rmtree(self.path)


@contextmanager
def full_disk_said(place: Path) -> Iterator[None]:
    """What the libraries raise in many ways when a file cannot be written, as one error with what to do."""
    from safetensors import SafetensorError

    try:
        yield
    except (SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not any(mark in str(error) for mark in _TORCH_CANNOT_WRITE):
            raise
        reason = " ".join(str(error).split())[:200]
        raise TrainingError(
            f"the model cannot be written to {place} ({reason}); free some space there, the same command goes on"
        ) from error


_TORCH_CANNOT_WRITE = ("PytorchStreamWriter", "inline_container", "unexpected pos")


def mark_whole(checkpoint: Path, progress: Progress) -> None:
    """Say that a checkpoint is whole."""
    _write(checkpoint / "progress.json", progress.to_json())


def _shown(value: Any) -> str:
    """A setting as a person reads it; sets of pairs by name, size and the beginning of their SHA-256."""
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    if isinstance(value, dict):
        return f"{value['name']} ({value['pairs']} pairs, SHA-256 {value['digest']}...)"
    return "none" if value is None else repr(value)


def _write(path: Path, content: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(content, encoding="utf-8")
    new.replace(path)
