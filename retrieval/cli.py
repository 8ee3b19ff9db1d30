"""The command line: build an index, query it, look at it.

Standard output is data; everything else goes to standard error. Exit code 0 also
without hits, 1 for an error that we know (one line), 2 for wrong usage, 130 for
Ctrl-C. Heavy imports wait until a command runs. Other packages add commands through
the entry point group ``retrieval.commands``.
"""

from __future__ import annotations

import io
import json
import logging
import os
import sqlite3
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import entry_points
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from indexes.errors import CorpusError, InputError, RetrievalError

if TYPE_CHECKING:
    from .engine import Engine
    from .output import Answer
    from .records import Fields

FORMATS = ["jsonl", "csv", "tsv", "text", "parquet", "beir"]
QUERIES_AT_ONCE = 256


class _Commands(click.Group):
    """A group that also holds the commands of other packages."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted({*super().list_commands(context), *entry_points(group="retrieval.commands").names})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        own = super().get_command(context, name)
        if own is None:
            for entry in entry_points(group="retrieval.commands", name=name):
                loaded: click.Command = entry.load()
                return loaded
        return own


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sentence-retrieval")
def cli() -> None:
    """Search by meaning on your own machine."""


@cli.command()
@click.argument("corpus", nargs=-1, required=True)
@click.option("-o", "--output", "index_path", required=True, metavar="INDEX", help="Folder of the new index.")
@click.option(
    "-m", "--model", default=None, help="Folder, installed package, hub name or hash:DIM.  [default: all-MiniLM-L6-v2]"
)
@click.option("--query-prompt", help="Put before every query, in place of the model's own.")
@click.option("--document-prompt", help="Put before every document, in place of the model's own.")
@click.option("--dim", type=int, help="Columns kept by whitening.  [default: half, if there are documents enough]")
@click.option("--beta", type=float, help="Share of the mean that is taken away, 0 to 1.  [default: 0]")
@click.option("--gamma", type=float, help="Strength of whitening, 0 (PCA) to 1 (full).  [default: by the texts]")
@click.option("--epsilon", type=float, help="Added to the eigenvalues, in units of their mean.  [default: 0.001]")
@click.option("--local", type=float, help="Share of nearest-neighbour differences in the fit, 0 to 1.  [default: 0.5]")
@click.option(
    "--whitening", type=click.Path(exists=True, dir_okay=False), help="A fitted whitening, such as tune writes."
)
@click.option("--no-whitening", is_flag=True, help="Search the model's own vectors.")
@click.option(
    "--index",
    "factory",
    default="auto",
    show_default=True,
    help="FAISS factory string (Flat, HNSW32, IVF1024,SQ8, ...).",
)
@click.option(
    "--raw",
    type=click.Choice(["float16", "float32", "none"]),
    default="float16",
    show_default=True,
    help="How raw vectors are kept.",
)
@click.option("--format", "format_", type=click.Choice(FORMATS), help="Format of the corpus.  [default: by its suffix]")
@click.option("--id-field", help="Field of the id.  [default: _id or id]")
@click.option("--text-field", multiple=True, help="Field of the text; several are joined.  [default: title and text]")
@click.option("--metadata-field", multiple=True, help="Field to keep as metadata.  [default: all others]")
@click.option(
    "--on-error",
    type=click.Choice(["fail", "skip"]),
    default="fail",
    show_default=True,
    help="What to do with a bad record.",
)
@click.option(
    "--rejects", type=click.Path(dir_okay=False), help="File for the records left out (with --on-error skip)."
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings and errors.")
def build(
    corpus: tuple[str, ...], index_path: str, model: str | None, query_prompt: str | None, document_prompt: str | None,
    dim: int | None, beta: float | None, gamma: float | None, epsilon: float | None, local: float | None,
    whitening: str | None, no_whitening: bool, factory: str, raw: str, format_: Any, id_field: str | None,
    text_field: tuple[str, ...], metadata_field: tuple[str, ...], on_error: Any, rejects: str | None, quiet: bool,
) -> None:  # fmt: skip
    """Build an index over one or more corpora.

    CORPUS is a file (JSONL, CSV, TSV, plain text with a document a line, Parquet; also .gz and .zst), a BEIR
    folder, or - for standard input, which is JSONL if it begins with { and else text, unless --format says
    otherwise. A build that was interrupted goes on when the same command is run again.
    """
    say(quiet)
    from .engine import Engine
    from .models import DEFAULT_MODEL
    from .records import Fields
    from .whitening import DEFAULTS, Whitening

    asked = {"dim": dim, "beta": beta, "gamma": gamma, "epsilon": epsilon, "local": local}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    ways = [*(["--no-whitening"] if no_whitening else []), *(["--whitening"] if whitening else [])]
    if len(ways := ways + [f"--{name}" for name in given][:1]) > 1:
        raise click.UsageError(f"{ways[0]} and {ways[1]} exclude each other")
    chosen: Whitening | int | Literal["auto"] | None = "auto"
    if no_whitening:
        chosen = None
    elif whitening is not None:
        chosen = Whitening.load(whitening)
    elif given.keys() == {"dim"}:
        chosen = given["dim"]
    elif given:
        chosen = Whitening(**(DEFAULTS | given))
    prompts = {"query": query_prompt, "document": document_prompt}
    start = time.perf_counter()
    engine = Engine.build(
        [Path(path) for path in corpus],
        index_path,
        model=DEFAULT_MODEL if model is None else model,
        prompts={role: prompt for role, prompt in prompts.items() if prompt is not None},
        whitening=chosen,
        index=factory,
        raw=None if raw == "none" else raw,  # type: ignore[arg-type]
        format=format_,
        fields=Fields(doc_id=id_field, text=text_field, metadata=metadata_field or None),
        on_error=on_error,
        rejects=rejects,
        progress=not quiet,
    )
    with engine:
        info = engine.info()
    logging.getLogger(__name__).info(
        f"{index_path}: {info['documents']:,} documents, {info['dim']} of {info['model_dim']} columns, "
        f"{info['bytes'] / 1e6:.1f} MB, {time.perf_counter() - start:.1f} s"
    )


@cli.command()
@click.argument("index_path", metavar="INDEX")
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
@click.option("-m", "--model", help="Another place of the model that made the index.")
@click.option(
    "--format", "format_", type=click.Choice(["table", "json", "jsonl", "trec"]), default="table", show_default=True
)
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings and errors.")
def query(
    index_path: str, text: str | None, queries: str | None, input_format: Any, id_field: str | None,
    text_field: tuple[str, ...], k: int, expression: str | None, exact: bool, model: str | None, format_: str,
    quiet: bool,
) -> None:  # fmt: skip
    """Find the documents nearest in meaning to TEXT.

    TEXT may be - for standard input, a query a line; -i reads queries from a file.
    """
    if text == "-":
        text, queries = None, "-" if queries is None else queries
    if (text is None) == (queries is None):
        raise click.UsageError("give either TEXT or -i FILE")
    say(quiet)
    from indexes.filters import parse_filter

    from .engine import Engine
    from .output import WRITERS
    from .records import Fields

    if expression is not None:
        parse_filter(expression)  # a slip is told before the model is loaded
    with Engine.open(index_path, model=model) as engine:
        engine.encoder  # noqa: B018  # loaded now, so that its time is not taken for a query's
        fields = Fields(doc_id=id_field, text=text_field)
        try:
            WRITERS[format_](_answers(engine, _queries(text, queries, fields, input_format), k, expression, exact))
            sys.stdout.flush()
        except BrokenPipeError:  # the reader of our output has gone, as `head` does
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@cli.command()
@click.argument("index_path", metavar="INDEX")
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


@cli.command(name="export-model")
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
    from .export import export_model as export
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
    logging.getLogger(__name__).info("%s: load it with SentenceTransformer(%r)", output, output)


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
    engine: Engine, queries: Iterator[tuple[str, str]], k: int, expression: str | None, exact: bool
) -> Iterator[Answer]:
    from .output import Answer

    while batch := list(islice(queries, QUERIES_AT_ONCE)):
        start = time.perf_counter()
        vectors = engine.embed([text for _, text in batch], role="query")
        encoded = time.perf_counter()
        hits = engine.search(vectors, k, filter=expression, exact=exact)
        found = time.perf_counter()
        ms = {"encode": _ms(encoded - start, batch), "search": _ms(found - encoded, batch)}
        for (query_id, text), of_query in zip(batch, hits, strict=True):
            stats = {"cross_encoder_calls": 0, "ms": dict(ms)}
            yield Answer(query_id=query_id, query=text, hits=of_query, stats=stats)


def _ms(seconds: float, batch: Sequence[object]) -> float:
    return round(1000 * seconds / len(batch), 3)


def _note(message: str) -> None:
    click.echo(message, err=True)


class _OnStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        _note(self.format(record))


def say(quiet: bool) -> None:
    """Bring what the library logs to standard error."""
    for name in ("retrieval", "indexes", "eval"):
        logger = logging.getLogger(name)
        logger.handlers = [_OnStderr()]
        logger.setLevel(logging.WARNING if quiet else logging.INFO)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; no error ends in a traceback that we know of."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (stream.encoding or "").lower().replace("-", "") != "utf8":
            stream.reconfigure(encoding="utf-8")
    try:
        code = cli.main(args=arguments, prog_name="retrieval", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _note("interrupted; nothing is lost: a build goes on where it was when the same command is run again")
        code = 130
    except RetrievalError as error:
        _note("Error: " + " ".join(str(error).split()))
        code = 1
    except (sqlite3.Error, UnicodeError) as error:
        what = "the disk or a file of the index fails" if isinstance(error, sqlite3.Error) else "this is not UTF-8"
        _note(f"Error: {what} ({error}); check the free space, the permissions and the names")
        code = 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        _note(f"Error: {where}{error.strerror or error}; check the path, the permissions and the free space")
        code = 1
    sys.exit(code)
