"""``retrieval eval``: the command that `retrieval.cli` finds through its entry point."""

from __future__ import annotations

import json

import click

from .retrieval import MEASURES, evaluate_retrieval


@click.group(name="eval")
def evaluate() -> None:
    """Measure how good an index is."""


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

    with Engine.open(index_path) as engine:
        report = evaluate_retrieval(engine, dataset, measures=measure, depth=depth, split=split)
    values = report.to_dict()
    if format_ == "json":
        click.echo(json.dumps(values, indent=2))
    else:
        click.echo(f"{report.name}, {values['queries']} queries")
        for name, value in report.measures.items():
            click.echo(f"{name:<10} {value:.4f}")
