"""The commands that read: query, info, verify, export, export-model."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from indexes.errors import CorpusError, IndexCorruptError, InputError

from .cli_write import FORMATS, INDEX, MODEL, QUIET
from .console import say

if TYPE_CHECKING:
    from .engine import Engine
    from .output import Answer
    from .records import Fields
    from .reranking import Reranking

logger = logging.getLogger(__name__)

QUERIES_AT_ONCE = 256

GEODESIC = click.option(
    "--geodesic",
    "alpha",
    type=click.FloatRange(0, 1),
    metavar="ALPHA",
    help="Score by the ways over the neighbour graph, too: 1 is the cosine alone, 0 the way.",
)
RERANK = click.option("--rerank", "reranker", metavar="MODEL", help="A cross-encoder whose scores decide.")
BUDGET = click.option("--budget", type=click.IntRange(min=1), help="Most calls of it for a query.  [default: 100]")
METHOD = click.option(
    "--method",
    type=click.Choice(["plain", "anchors", "adaptive", "graph"]),
    help="What the calls are spent on: the first hits, or what they show to be promising.  [default: plain]",
)


@click.command()
@INDEX
@click.argument("text", required=False)
@click.option(
    "-i", "--input", "queries", metavar="FILE", help="File of queries (JSONL, CSV, TSV or text), - for standard input."
)
@click.option("--input-format", type=click.Choice(FORMATS), help="Format of FILE.  [default: by its suffix]")
@click.option("--id-field", help="Field of a query's id in FILE.  [default: _id or id; else its line]")
@click.option("--text-field", multiple=True, help="Field of a query's text in FILE.  [default: title and text]")
@click.option("-k", type=click.IntRange(min=1), default=10, show_default=True, help="Number of hits.")
@click.option(
    "--filter", "expression", metavar="EXPR", help="Metadata filter: \"kind = 'class' AND year >= 1990\" or JSON."
)
@click.option("--exact", is_flag=True, help="Look at every vector, whatever the index.")
@GEODESIC
@MODEL
@RERANK
@BUDGET
@click.option(
    "--budget-ms",
    "milliseconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Time for them that is aimed at, by the pace of the first 8; --budget holds besides.",
)
@METHOD
@click.option("--explain", is_flag=True, help="Show what each score is made of.")
@click.option(
    "--format", "format_", type=click.Choice(["table", "json", "jsonl", "trec"]), default="table", show_default=True
)
@QUIET
def query(
    index_path: str, text: str | None, queries: str | None, input_format: Any, id_field: str | None,
    text_field: tuple[str, ...], k: int, expression: str | None, exact: bool, alpha: float | None, model: str | None,
    reranker: str | None, budget: int | None, milliseconds: float | None, method: Any, explain: bool, format_: str,
    quiet: bool,
) -> None:  # fmt: skip
    """Find the documents nearest in meaning to TEXT.

    TEXT may be - for standard input, a query a line; -i reads queries from a file.
    """
    if text == "-":
        text, queries = None, "-" if queries is None else queries
    if (text is None) == (queries is None):
        raise click.UsageError("give either TEXT or -i FILE")
    check_reranking(reranker, budget, milliseconds, method)
    if reranker is not None and (exact or alpha is not None):
        name = "--exact" if exact else "--geodesic"
        raise click.UsageError(f"{name} says how vectors are compared: leave it or --rerank out")
    if explain and format_ == "trec":
        raise click.UsageError("--explain: a TREC run has no place for it; the other formats have")
    say(quiet)
    from indexes.filters import parse_filter

    from .engine import Engine
    from .output import WRITERS
    from .records import Fields
    from .reranking import BUDGET as CALLS
    from .reranking import Reranking

    if expression is not None:
        parse_filter(expression)  # a slip is told before the model is loaded
    with Engine.open(index_path, model=model) as engine:
        engine.encoder  # noqa: B018  # loaded now, so that its time is not taken for a query's
        asked = _queries(text, queries, Fields(doc_id=id_field, text=text_field), input_format)
        if reranker is None:
            answers = _answers(engine, asked, k, expression, exact, alpha)
        else:
            how = Reranking(
                scorer=engine.scorer(reranker), budget=budget or CALLS, method=method or "plain",
                milliseconds=milliseconds,
            )  # fmt: skip
            if how.budget < k:
                logger.warning(
                    "%d calls for a query give %d hits at most; -k %d asks for more", how.budget, how.budget, k
                )
            answers = _reranked(engine, asked, k, expression, how)
        WRITERS[format_](answers, explain)


@click.command()
@INDEX
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)
def info(index_path: str, format_: str) -> None:
    """Say what an index is: model, size, structure."""
    from .engine import Engine

    with Engine.open(index_path) as engine:
        values = engine.info()
    if format_ == "json":
        click.echo(json.dumps(values, ensure_ascii=False, indent=2))
    else:
        width = max(map(len, values))
        for name, value in values.items():
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            click.echo(f"{name:<{width}}  {shown}")


@click.command()
@INDEX
@click.option("--deep", is_flag=True, help="Read every byte: checksums of all files and documents, and all vectors.")
@click.option("--format", "format_", type=click.Choice(["table", "json"]), default="table", show_default=True)
def verify(index_path: str, deep: bool, format_: str) -> None:
    """Look whether an index is what was committed; exit code 1 if it is not."""
    from .verify import verify as look

    checks = look(Path(index_path), deep=deep)
    if format_ == "json":
        values = [{"name": check.name, "problem": check.problem} for check in checks]
        click.echo(json.dumps(values, ensure_ascii=False, indent=2))
    else:
        width = max(len(check.name) for check in checks)
        for check in checks:
            click.echo(f"{check.name:<{width}}  {'ok' if check.problem is None else check.problem}")
    if bad := sum(check.problem is not None for check in checks):
        raise IndexCorruptError(f"{index_path}: {bad} of {len(checks)} checks failed; see above")


@click.command()
@INDEX
@click.option(
    "-o", "--output", default="-", show_default=True, help="File to write; - is standard output (jsonl only)."
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["jsonl", "npy", "parquet"]),
    help="jsonl: documents. npy: vectors, and their ids in OUTPUT.ids.jsonl. parquet: both.  [default: by the suffix]",
)
@click.option(
    "--vectors",
    type=click.Choice(["whitened", "raw"]),
    default="whitened",
    show_default=True,
    help="The unit rows that are searched, or the model's own vectors.",
)
@click.option("--filter", "expression", metavar="EXPR", help="Only what this metadata filter lets through.")
@QUIET
def export(index_path: str, output: str, format_: Any, vectors: Any, expression: str | None, quiet: bool) -> None:
    """Write documents or vectors for other programs."""
    say(quiet)
    from .engine import Engine
    from .export_index import format_of

    vectors_too = format_of(output, format_) != "jsonl"
    with Engine.open(index_path, searchable=vectors_too) as engine:  # documents come out of a damaged index, too
        n = engine.export(output, format=format_, vectors=vectors, filter=expression, progress=not quiet)
    logger.info("%s: %s documents", "standard output" if output == "-" else output, f"{n:,}")


@click.command(name="export-model")
@click.argument("source", metavar="MODEL|INDEX")
@click.option("-o", "--output", required=True, type=click.Path(), help="Folder of the new model.")
@click.option(
    "--whitening",
    type=click.Path(exists=True, dir_okay=False),
    help="A fitted whitening, such as tune writes.  [default: that of INDEX]",
)
def export_model(source: str, output: str, whitening: str | None) -> None:
    """Write a whitened encoder as a plain sentence-transformers folder.

    Its encode gives the same vectors, and needs nothing of this program.
    """
    say(quiet=False)
    from .engine import Engine
    from .export_model import export_model as export
    from .whitening import Whitening

    if (Path(source) / "catalogue.sqlite").is_file():
        with Engine.open(source) as engine:
            fitted = engine.whitening if whitening is None else Whitening.load(whitening)
            if fitted is None:
                raise InputError(f"{source} was built without whitening; name a fitted one with --whitening")
            export(engine.encoder, fitted, output)
    elif whitening is None:
        raise click.UsageError("MODEL needs --whitening FILE (INDEX has its own)")
    else:
        export(source, Whitening.load(whitening), output)
    logger.info("%s: load it with SentenceTransformer(%r)", output, output)


def check_reranking(reranker: str | None, *of_it: object) -> None:
    """Refuse what says how a cross-encoder is asked where none is named.

    Raises
    ------
    click.UsageError
    """
    if reranker is None and any(value is not None for value in of_it):
        raise click.UsageError("--budget and --method say how a cross-encoder is asked: name it with --rerank MODEL")


def _queries(text: str | None, path: str | None, fields: Fields, format_: Any) -> Iterator[tuple[str, str]]:
    """Pairs of query id and query; a query without an id gets its line number."""
    if text is not None:
        yield "1", text
        return
    from .corpora import read_corpus

    assert path is not None
    seen: dict[str, int] = {}
    for record in read_corpus(path, format=format_, fields=fields):
        query_id = record.document.doc_id or str(record.line)
        if (before := seen.setdefault(query_id, record.line)) != record.line:
            raise CorpusError(
                record.source, record.line, f"query id {query_id!r} was used before, in line {before}; ids must differ"
            )
        yield query_id, record.document.text


def _answers(
    engine: Engine,
    queries: Iterator[tuple[str, str]],
    k: int,
    expression: str | None,
    exact: bool,
    alpha: float | None,
) -> Iterator[Answer]:
    from .output import Answer

    while batch := list(islice(queries, QUERIES_AT_ONCE)):
        start = time.perf_counter()
        raw = engine.encode([text for _, text in batch], role="query")
        encoded = time.perf_counter()
        hits = engine.search_encoded(raw, k, filter=expression, exact=exact, geodesic=alpha)
        found = time.perf_counter()
        ms = {"encode": _ms(encoded - start, batch), "search": _ms(found - encoded, batch)}
        for (query_id, text), of_query in zip(batch, hits, strict=True):
            stats = {"cross_encoder_calls": 0, "ms": dict(ms)}
            yield Answer(query_id=query_id, query=text, hits=of_query, stats=stats)


def _reranked(
    engine: Engine, queries: Iterator[tuple[str, str]], k: int, expression: str | None, how: Reranking
) -> Iterator[Answer]:
    from .output import Answer
    from .reranking import QUERIES_AT_ONCE as AT_ONCE

    while batch := list(islice(queries, AT_ONCE)):
        start = time.perf_counter()
        texts = [text for _, text in batch]
        raw = engine.encode(texts, role="query")
        encoded = time.perf_counter()
        known = getattr(how.scorer, "remembered", 0)
        found = engine.reranked(texts, raw, k, how, filter=expression)
        known = getattr(how.scorer, "remembered", 0) - known
        ms = {"encode": _ms(encoded - start, batch), "rerank": _ms(time.perf_counter() - encoded, batch)}
        for (query_id, text), one in zip(batch, found, strict=True):
            stats = {
                "cross_encoder_calls": one.calls, "rounds": one.rounds, "fallbacks": one.fallbacks,
                "remembered": round(known / len(batch), 1), "ms": dict(ms),
            }  # fmt: skip
            yield Answer(query_id=query_id, query=text, hits=one.hits, stats=stats)


def _ms(seconds: float, batch: Sequence[object]) -> float:
    return round(1000 * seconds / len(batch), 3)


COMMANDS = (query, info, verify, export, export_model)
