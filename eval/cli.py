"""``retrieval eval`` and ``retrieval tune``: the commands that `retrieval.cli` finds through entry points."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from retrieval.cli_read import BUDGET, GEODESIC, METHOD, RERANK, check_reranking
from retrieval.console import say

from .retrieval import MEASURES, evaluate_retrieval

_Number = TypeVar("_Number", int, float)


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
@click.option(
    "--resamples",
    type=click.IntRange(min=0),
    default=1000,
    show_default=True,
    help="Bootstrap samples behind an interval; 0 for none.",
)
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
    _check_picture(plot)
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
@GEODESIC
@RERANK
@BUDGET
@METHOD
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)
def retrieval(
    index_path: str, dataset: str, split: str, measure: tuple[str, ...], depth: int, alpha: float | None,
    reranker: str | None, budget: int | None, method: Any, format_: str,
) -> None:  # fmt: skip
    """Search INDEX for the judged queries of DATASET, a BEIR folder."""
    from retrieval import Engine

    check_reranking(reranker, budget, method)
    say(quiet=False)
    with Engine.open(index_path) as engine:
        report = evaluate_retrieval(
            engine, dataset, measures=measure, depth=depth, split=split, geodesic=alpha, rerank=reranker,
            budget=budget, method=method or "plain", progress=True,
        )  # fmt: skip
    values = report.to_dict()
    if format_ == "json":
        click.echo(json.dumps(values, indent=2))
    else:
        how = report.rerank
        asked = "" if how is None else f", {how['model']} asked {how['budget']} times a query ({how['method']})"
        asked = asked if report.geodesic is None else f", geodesic {report.geodesic:g}"
        click.echo(f"{report.name}, {values['queries']} queries{asked}")
        for name, value in report.measures.items():
            click.echo(f"{name:<10} {value:.4f}")


@click.command()
@click.argument("model", metavar="MODEL|INDEX")
@click.option(
    "--dev", multiple=True, metavar="DATA", help="Scored pairs (as in eval sts), or a BEIR folder of queries."
)
@click.option(
    "--fit", metavar="CORPUS", help="Texts to fit on.  [default: those of INDEX or BEIR folder; else of the pairs]"
)
@click.option("--split", default="dev", show_default=True, help="Which file of a folder: SPLIT.tsv, qrels/SPLIT.tsv.")
@click.option(
    "--data",
    type=click.Path(exists=True, file_okay=False),
    help="Where names are looked up.  [default: RETRIEVAL_DATA]",
)
@click.option(
    "--dims", metavar="K,K,...", help="Columns to try.  [default: d and 2/3, 1/2, 1/3, 1/4, 1/6, 1/8, 1/12 of it]"
)
@click.option("--epsilons", metavar="E,E,...", default="0", show_default=True, help="Values of epsilon to try.")
@click.option("--dim", type=int, help="Columns to write.  [default: the fewest that lose nothing on --dev]")
@click.option(
    "-o", "--output", type=click.Path(dir_okay=False), help="Write the fitted whitening, for build --whitening."
)
@click.option("--save", type=click.Path(dir_okay=False), help="Write every cell as JSON.")
@click.option("--plot", type=click.Path(dir_okay=False), help="Write a picture (PNG, SVG, PDF).")
@click.option(
    "--format", "format_", type=click.Choice(["table", "json", "markdown"]), default="table", show_default=True
)
def tune(
    model: str, dev: tuple[str, ...], fit: str | None, split: str, data: str | None, dims: str | None, epsilons: str,
    dim: int | None, output: str | None, save: str | None, plot: str | None, format_: str,
) -> None:  # fmt: skip
    """Find the whitening that keeps the fewest columns and loses nothing.

    Every k, beta, gamma and share of nearest-neighbour differences is judged on --dev from one encode. Without
    --dev, gamma is chosen at each k by how well halves of the texts find each other, and nothing is said of what a k
    loses.
    """
    from .tuning import tune_whitening

    say(quiet=False)
    _check_picture(plot)
    tried = None if dims is None else _numbers("--dims", dims, int)
    if tried is not None and dim is not None and dim not in tried:
        raise click.UsageError(f"--dim {dim} is not among --dims {dims}")
    if output is not None and dim is None and not dev:
        raise click.UsageError("-o needs --dim K without --dev: nothing says how many columns are enough")
    for path in (output, save, plot):
        if path is not None and not Path(path).absolute().parent.is_dir():
            raise click.UsageError(f"the folder of {path!r} is not there; make it first")
    data_sets = dev[0] if len(dev) == 1 else dev or None
    tuning = tune_whitening(
        model,
        data_sets,
        fit=fit,
        dims=tried,
        epsilons=_numbers("--epsilons", epsilons, float),
        split=split,
        data=data,
    )
    if output is not None:
        tuning.whitening(dim).save(output)
    if save is not None:
        tuning.save(save)
    if plot is not None:
        tuning.plot(plot, dim=dim)
    if format_ == "json":
        click.echo(json.dumps(tuning.to_dict(), indent=2, ensure_ascii=False))
    else:
        click.echo(tuning.to_markdown() if format_ == "markdown" else tuning.to_text())


def _numbers(option: str, text: str, kind: Callable[[str], _Number]) -> list[_Number]:
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise click.UsageError(f"{option} is {text!r}; expected numbers with commas between them") from None


def _check_picture(path: str | None) -> None:
    if path is not None and not path.lower().endswith((".png", ".svg", ".pdf")):
        raise click.UsageError(f"--plot is {path!r}; expected a name that ends in .png, .svg or .pdf")
