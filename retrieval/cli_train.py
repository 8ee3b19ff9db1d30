"""``retrieval train``: encoders and cross-encoders from labelled pairs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from .console import note, say

F = TypeVar("F", bound=Callable[..., Any])


def _shared(losses: list[str], epochs: str, batch_size: str, lr: str) -> Callable[[F], F]:
    """The options of both kinds."""
    options = [
        click.argument("pairs", nargs=-1, required=True, metavar="PAIRS..."),
        click.option("-o", "--output", required=True, type=click.Path(), metavar="MODEL", help="The new folder."),
        click.option("--from", "model", metavar="M", help="Model to start from.  [default: all-MiniLM-L6-v2]"),
        click.option("--dev", metavar="DATA", help="Pairs whose Spearman chooses the epoch that is kept."),
        click.option("--loss", type=click.Choice(losses), default="cosent", show_default=True),
        click.option("--scale", type=float, help="The loss's lambda.  [default: the loss's own]"),
        click.option(
            "--epochs", type=click.IntRange(min=1), help=f"Times that all pairs are seen.  [default: {epochs}]"
        ),
        click.option("--batch-size", type=click.IntRange(min=2), help=f"Pairs in a step.  [default: {batch_size}]"),
        click.option(
            "--lr", type=click.FloatRange(min=0, min_open=True), help=f"Highest learning rate.  [default: {lr}]"
        ),
        click.option("--warmup", type=float, default=0.1, show_default=True, help="Share of the steps it rises in."),
        click.option("--max-length", type=int, help="Tokens read of a text.  [default: the model's own limit]"),
        click.option(
            "--seed",
            type=click.IntRange(min=0),
            default=0,
            show_default=True,
            help="The same seed and the same --precision give the same model.",
        ),
        click.option(
            "--precision",
            type=click.Choice(["auto", "float32", "bfloat16"]),
            default="auto",
            show_default=True,
            help="auto measures which is faster here, anew each time.",
        ),
        click.option(
            "--data",
            type=click.Path(exists=True, file_okay=False),
            help="Where names are looked up.  [default: RETRIEVAL_DATA]",
        ),
        click.option("--fresh", is_flag=True, help="Throw away what an interrupted training has done."),
        click.option("-q", "--quiet", is_flag=True, help="Warnings only."),
    ]

    def decorate(command: F) -> F:
        for option in reversed(options):
            command = option(command)
        return command

    return decorate


@click.group()
def train() -> None:
    """Train a model on labelled pairs of texts.

    PAIRS are files with the columns sentence1, sentence2, score (TSV, CSV, JSONL) or folders with train.tsv;
    scores are grades, 0/1, or contradiction, neutral and entailment. The same command goes on after an interruption.
    """


@train.command()
@_shared(["cosent", "cosine", "softmax", "mnrl", "cosent+mnrl"], "4; 10", "32; 128", "2e-5; 3e-4")
@click.option(
    "--method",
    type=click.Choice(["full", "ladder", "linear"]),
    default="full",
    show_default=True,
    help="ladder, linear: the model stays as it is, a small network beside it is trained in seconds (second defaults).",
)
def encoder(pairs: tuple[str, ...], quiet: bool, **options: Any) -> None:
    """Train a sentence encoder, for indexes."""
    _run("encoder", pairs, quiet, options)


@train.command()
@_shared(["cosent", "bce", "mnrl"], "4", "32", "5e-5")
def cross_encoder(pairs: tuple[str, ...], quiet: bool, **options: Any) -> None:
    """Train a cross-encoder, which reads both texts of a pair and scores them."""
    _run("cross-encoder", pairs, quiet, options)


def _run(kind: str, pairs: tuple[str, ...], quiet: bool, options: dict[str, Any]) -> None:
    say(quiet)
    from .models import DEFAULT_MODEL
    from .train import train_cross_encoder, train_encoder

    options = {name: value for name, value in options.items() if value is not None} | {
        "model": options["model"] or DEFAULT_MODEL
    }
    run = train_encoder if kind == "encoder" else train_cross_encoder
    training = run(pairs, progress=not quiet, **options)
    if not quiet:
        note(f"{training.path}: epoch {training.best_epoch} was kept; what it was made from stands in its README.md")


COMMANDS = (train,)
