"""The commands that write: build, add, upsert, delete, compact, rebuild."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

import click

from .console import say

if TYPE_CHECKING:
    from .engine import Engine
    from .making import WhiteningChoice

logger = logging.getLogger(__name__)
F = TypeVar("F", bound=Callable[..., Any])
FORMATS = ["jsonl", "csv", "tsv", "text", "parquet", "beir"]

CORPUS_OPTIONS = [
    click.option(
        "--format", "format_", type=click.Choice(FORMATS), help="Format of the corpus.  [default: by its suffix]"
    ),
    click.option("--id-field", help="Field of the id.  [default: _id or id]"),
    click.option(
        "--text-field", multiple=True, help="Field of the text; several are joined.  [default: title and text]"
    ),
    click.option("--metadata-field", multiple=True, help="Field to keep as metadata.  [default: all others]"),
    click.option(
        "--on-error",
        type=click.Choice(["fail", "skip"]),
        default="fail",
        show_default=True,
        help="What to do with a bad record.",
    ),
    click.option(
        "--rejects", type=click.Path(dir_okay=False), help="File for the records left out (with --on-error skip)."
    ),
    click.option("--fresh", is_flag=True, help="Throw away what an interrupted run over other documents has done."),
]
WHITENING_OPTIONS = [
    click.option("--dim", type=int, help="Columns kept by whitening."),
    click.option("--beta", type=float, help="Share of the mean that is taken away, 0 to 1.  [default: 0]"),
    click.option("--gamma", type=float, help="Strength of whitening, 0 (PCA) to 1 (full).  [default: by the texts]"),
    click.option("--epsilon", type=float, help="Added to the eigenvalues, in units of their mean.  [default: 0.001]"),
    click.option(
        "--local", type=float, help="Share of nearest-neighbour differences in the fit, 0 to 1.  [default: 0.5]"
    ),
    click.option(
        "--whitening", type=click.Path(exists=True, dir_okay=False), help="A fitted whitening, such as tune writes."
    ),
    click.option("--no-whitening", is_flag=True, help="Search the model's own vectors."),
]
MODEL = click.option("-m", "--model", help="Another place of the model that made the index.")
QUIET = click.option("-q", "--quiet", is_flag=True, help="Say nothing but warnings and errors.")
INDEX = click.argument("index_path", metavar="INDEX")


def _options(*options: Callable[[F], F]) -> Callable[[F], F]:
    """Several options as one decorator, in this order."""

    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@click.command()
@click.argument("corpus", nargs=-1, required=True)
@click.option("-o", "--output", "index_path", required=True, metavar="INDEX", help="Folder of the new index.")
@click.option(
    "-m", "--model", default=None, help="Folder, installed package, hub name or hash:DIM.  [default: all-MiniLM-L6-v2]"
)
@click.option("--query-prompt", help="Put before every query, in place of the model's own.")
@click.option("--document-prompt", help="Put before every document, in place of the model's own.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16"]),
    help="Of the model's arithmetic.  [default: bfloat16 where the processor has it and the model is compiled]",
)
@click.option("--portable", is_flag=True, help="Put the compiled model into the index, for machines without it.")
@_options(*WHITENING_OPTIONS)
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
@_options(*CORPUS_OPTIONS)
@QUIET
def build(
    corpus: tuple[str, ...],
    index_path: str,
    model: str | None,
    query_prompt: str | None,
    document_prompt: str | None,
    precision: Any,
    portable: bool,
    factory: str,
    raw: str,
    quiet: bool,
    **options: Any,
) -> None:
    """Build an index over one or more corpora.

    CORPUS is a file (JSONL, CSV, TSV, plain text with a document a line, Parquet; also .gz and .zst), a BEIR
    folder, or - for standard input, which is JSONL if it begins with { and else text, unless --format says
    otherwise. A build that was interrupted goes on when the same command is run again.

    Without whitening options half of the model's columns are kept, if there are two documents for each.
    """
    say(quiet)
    from .engine import Engine
    from .models import DEFAULT_MODEL

    prompts = {"query": query_prompt, "document": document_prompt}
    start = time.perf_counter()
    chosen = _whitening(options)
    engine = Engine.build(
        [Path(path) for path in corpus],
        index_path,
        model=DEFAULT_MODEL if model is None else model,
        prompts={role: prompt for role, prompt in prompts.items() if prompt is not None},
        precision=precision,
        portable=portable,
        whitening="auto" if chosen == "unsaid" else chosen,
        index=factory,
        raw=None if raw == "none" else raw,  # type: ignore[arg-type]
        progress=not quiet,
        **_corpus(options),
    )
    with engine:
        info = engine.info()
    logger.info(
        f"{index_path}: {info['documents']:,} documents, {info['dim']} of {info['model_dim']} columns, "
        f"{_mb(info)}{', the model among them' if portable else ''}, {time.perf_counter() - start:.1f} s"
    )


@click.command()
@INDEX
@click.argument("corpus", nargs=-1, required=True)
@_options(*CORPUS_OPTIONS)
@MODEL
@QUIET
def add(index_path: str, corpus: tuple[str, ...], model: str | None, quiet: bool, **options: Any) -> None:
    """Add documents to an index.

    CORPUS is as in build. A document that is there already, just so, is counted as unchanged and left as it is; one
    whose id is there with another text or other metadata is an error (see upsert). The whitening stays as it was
    fitted; info tells the drift. An interrupted run goes on when the same command is run again.
    """
    say(quiet)
    from .engine import Engine

    with Engine.open(index_path, model=model) as engine, _told(index_path, engine) as tell:
        tell(engine.add([Path(path) for path in corpus], progress=not quiet, **_corpus(options)))


@click.command()
@INDEX
@click.argument("corpus", nargs=-1, required=True)
@click.option("--prune", is_flag=True, help="Delete the documents that CORPUS does not hold: INDEX becomes CORPUS.")
@_options(*CORPUS_OPTIONS)
@MODEL
@QUIET
def upsert(
    index_path: str, corpus: tuple[str, ...], prune: bool, model: str | None, quiet: bool, **options: Any
) -> None:
    """Add documents, in the place of those with the same ids.

    CORPUS is as in build. Only texts that are new or another are encoded. The counts: added; replaced (another text);
    with other metadata (nothing encoded); unchanged; deleted (by --prune). An interrupted run goes on when the same
    command is run again.
    """
    say(quiet)
    from .engine import Engine

    with Engine.open(index_path, model=model) as engine, _told(index_path, engine) as tell:
        tell(engine.upsert([Path(path) for path in corpus], prune=prune, progress=not quiet, **_corpus(options)))


@click.command()
@INDEX
@click.argument("ids", nargs=-1, metavar="[ID]...")
@click.option(
    "--ids",
    "file",
    metavar="FILE",
    help="File of ids, one a line (a line in double quotes is read as JSON); - is standard input.",
)
@click.option("--filter", "expression", metavar="EXPR", help="Delete what this metadata filter lets through.")
@QUIET
def delete(index_path: str, ids: tuple[str, ...], file: str | None, expression: str | None, quiet: bool) -> None:
    """Delete documents by their ids, by a file of ids, or by a filter.

    One of the three. Ids that are not there are counted and said. Write -- before ids that begin with a dash. Filters
    are as in query (docs/filters.md). The space is given back by compact.
    """
    if sum([bool(ids), file is not None, expression is not None]) != 1:
        raise click.UsageError("give either IDs, --ids FILE or --filter EXPR")
    say(quiet)
    from indexes.filters import parse_filter

    from .engine import Engine
    from .ids import read_ids

    if expression is not None:
        parse_filter(expression)  # a slip is told before anything is loaded
    wanted = read_ids(file) if file is not None else list(ids)
    with Engine.open(index_path) as engine, _told(index_path, engine) as tell:
        tell(engine.delete(filter=expression) if expression is not None else engine.delete(wanted))


@click.command()
@INDEX
@QUIET
def compact(index_path: str, quiet: bool) -> None:
    """Merge the parts of an index and give back the space of what was deleted.

    Nothing is encoded; documents and whitening stay as they are.
    """
    say(quiet)
    from .engine import Engine

    with Engine.open(index_path) as engine, _told(index_path, engine) as tell:
        engine.compact(progress=not quiet)
        after = engine.info()
        tell(f"segments: {after['segments']}, {_mb(after)}")


@click.command()
@INDEX
@_options(*WHITENING_OPTIONS)
@click.option("--auto", is_flag=True, help="Choose the whitening as build would now.")
@click.option("--index", "factory", help="Another FAISS factory string, or auto.  [default: as asked for before]")
@click.option("--portable", is_flag=True, help="Put the compiled model into the index, anew if it is there.")
@MODEL
@QUIET
def rebuild(
    index_path: str, auto: bool, factory: str | None, portable: bool, model: str | None, quiet: bool, **options: Any
) -> None:
    """Fit the whitening anew on all documents, from their stored raw vectors.

    Nothing is encoded, unless a choice has to be made (--auto, or --dim alone: some hundred halves of texts). Without
    options the parameters stay as they are. Search structure, whitening, row numbers and checksums of raw vectors are
    made anew by it where they are damaged, too; with --portable the model as well.
    """
    say(quiet)
    from .engine import Engine

    chosen: Any = _whitening(options)
    if auto and chosen != "unsaid":
        raise click.UsageError("--auto and other whitening options exclude each other")
    with Engine.open(index_path, model=model, searchable=False) as engine, _told(index_path, engine) as tell:
        whitening: Any = "auto" if auto else "same" if chosen == "unsaid" else chosen
        engine.rebuild(whitening=whitening, index=factory, portable=portable, progress=not quiet)
        after = engine.info()
        model = ", the model among them" if portable else ""
        tell(f"{after['dim']} of {after['model_dim']} columns, {after['index']}, {_mb(after)}{model}")


@contextmanager
def _told(index_path: str, engine: Engine) -> Iterator[Callable[[object], None]]:
    """Say what was done to an index, and how long it took."""
    start = time.perf_counter()

    def tell(what: object) -> None:
        seconds = time.perf_counter() - start
        logger.info("%s: %s; now %s documents, %.1f s", index_path, what, f"{len(engine):,}", seconds)

    yield tell


def _mb(info: dict[str, Any]) -> str:
    return f"{info['bytes'] / 1e6:.1f} MB"


def _corpus(options: dict[str, Any]) -> dict[str, Any]:
    """What the options of a corpus mean to the engine."""
    from .records import Fields

    names = ("id_field", "text_field", "metadata_field")
    doc_id, text, metadata = (options.pop(name) for name in names)
    options["format"] = options.pop("format_")
    return options | {"fields": Fields(doc_id=doc_id, text=text, metadata=metadata or None)}


def _whitening(options: dict[str, Any]) -> WhiteningChoice | Literal["unsaid"]:
    """What the options of a whitening ask for; they are taken out."""
    from .whitening import DEFAULTS, Whitening

    asked = {name: options.pop(name) for name in ("dim", "beta", "gamma", "epsilon", "local")}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    path, none = options.pop("whitening"), options.pop("no_whitening")
    ways = [*(["--no-whitening"] if none else []), *(["--whitening"] if path else [])]
    if len(ways := ways + [f"--{name}" for name in given][:1]) > 1:
        raise click.UsageError(f"{ways[0]} and {ways[1]} exclude each other")
    if none:
        return None
    if path is not None:
        return Whitening.load(path)
    if given.keys() == {"dim"}:
        return int(given["dim"])
    return Whitening(**(DEFAULTS | given)) if given else "unsaid"


COMMANDS = (build, add, upsert, delete, compact, rebuild)
