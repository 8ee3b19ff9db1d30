"""``retrieval eval``: the command that `retrieval.cli` finds through its entry point."""

from __future__ import annotations

import json

import click

from retrieval.cli import say

from .retrieval import MEASURES, evaluate_retrieval


@click.group(name="eval")
def evaluate() -> None:
    """Measure how good a model or an index is."""


@evaluate.command()
@click.argument("model", metavar="MODEL|INDEX")
@click.argument("datasets", nargs=-1, required=True, metavar="DATA...")
@click.option("--whitening", type=click.Path(exists=True, dir_okay=False), help="File of a fitted whitening.")
@click.option("--split", default="test", show_default=True, help="Which file of a folder: SPLIT.tsv.")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False),
    help="Where names are looked up.  [default: RETRIEVAL_DATA]",
)
@click.option("--resamples", default=1000, show_default=True, help="Bootstrap samples behind an interval; 0 for none.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Also write a picture (PNG, SVG, PDF).")
@click.option(
    "--format", "format_", type=click.Choice(["table", "json", "markdown"]), default="table", show_default=True
)
def sts(
    model: str, datasets: tuple[str, ...], whitening: str | None, split: str, data: str | None, resamples: int,
    plot: str | None, format_: str,
) -> None:  # fmt: skip
    """How well cosines follow people's scores of sentence pairs.

    DATA is a file with the columns sentence1, sentence2, score (TSV, CSV, JSONL), a folder with SPLIT.tsv, a
    folder of those, or a name in the data folder.
    """
    from .sts import evaluate_sts

    say(quiet=False)
    report = evaluate_sts(model, datasets, whitening=whitening, split=split, data=data, resamples=resamples)
    if plot is not None:
        report.plot(plot)
    if format_ == "json":
        click.echo(json.dumps(report.to_dict(), indent=2, ensure_ascii=False))
    else:
        click.echo(report.to_markdown() if format_ == "markdown" else report.to_text())


@evaluate.command()
@click.argument("index_path", metavar="INDEX")
@click.argument("dataset", type=click.Path(exists=True, file_okay=False))
@click.option("--split", default="test", show_default=True, help="Which judgements: qrels/SPLIT.tsv.")
@click.option("--measure", multiple=True, default=MEASURES, show_default=True, help="In the notation of ir_measures.")
@click.option("--depth", default=100, show_default=True, help="Hits asked for.")
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)
def retrieval(index_path: str, dataset: str, split: str, measure: tuple[str, ...], depth: int, format_: str) -> None:
    """Search INDEX for the judged queries of DATASET, a BEIR folder."""
    from retrieval import Engine

    say(quiet=False)
    with Engine.open(index_path) as engine:
        report = evaluate_retrieval(engine, dataset, measures=measure, depth=depth, split=split)
    values = report.to_dict()
    if format_ == "json":
        click.echo(json.dumps(values, indent=2))
    else:
        click.echo(f"{report.name}, {values['queries']} queries")
        for name, value in report.measures.items():
            click.echo(f"{name:<10} {value:.4f}")
