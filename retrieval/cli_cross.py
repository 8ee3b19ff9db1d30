"""The command that scores an index's documents with anchor queries: cross."""

from __future__ import annotations

import logging
import time
from typing import Any

import click

from .cli_write import FORMATS, INDEX, QUIET
from .console import say

logger = logging.getLogger(__name__)


@click.command()
@INDEX
@click.option(
    "-m", "--model", "reranker", metavar="MODEL", help="The cross-encoder.  [default: of the index's anchors]"
)
@click.option(
    "--anchors", type=click.IntRange(min=1), metavar="N", help="Number of anchor queries.  [default: by the pilot]"
)
@click.option("--queries", metavar="FILE", help="Queries to choose from, or -.  [default: the documents themselves]")
@click.option("--input-format", type=click.Choice(FORMATS), help="Format of FILE.  [default: by its suffix]")
@click.option(
    "--documents", type=click.IntRange(min=1), metavar="M", help="Score M documents, by chance.  [default: all]"
)
@click.option("--pilot", is_flag=True, help="Say what anchors would bring and cost, and store nothing.")
@click.option("--fresh", is_flag=True, help="Others in the place of the anchors that the index has.")
@click.option("--drop", is_flag=True, help="Take the anchors and their scores out of the index.")
@QUIET
def cross(
    index_path: str, reranker: str | None, anchors: int | None, queries: str | None, input_format: Any,
    documents: int | None, pilot: bool, fresh: bool, drop: bool, quiet: bool,
) -> None:  # fmt: skip
    """Score documents with anchor queries, for query --rerank --method adaptive.

    A pilot over a few documents says first what anchors would bring, and what they cost: N x M calls of the
    cross-encoder. Scores are committed every few minutes, and searches use what is there; retrieval cross
    INDEX alone goes on, and scores what was added since. Nobody is kept from writing meanwhile.
    """
    if drop and (reranker or anchors or queries or documents or pilot or fresh):
        raise click.UsageError("--drop takes the anchors out of the index; leave the other options out")
    if pilot and quiet:
        raise click.UsageError("--pilot is there to say something; leave --quiet out")
    say(quiet)
    from .engine import Engine

    start = time.perf_counter()
    if drop:
        with Engine.open(index_path, searchable=False) as engine:  # before rebuild, where both are damaged
            engine.drop_anchors()
        logger.info("%s has no anchors now", index_path)
        return
    with Engine.open(index_path) as engine:
        done = engine.score_anchors(
            reranker,
            anchors=anchors,
            queries=None if queries is None else _texts(queries, input_format),
            documents=documents,
            pilot_only=pilot,
            fresh=fresh,
            progress=not quiet,
        )
    if pilot:
        logger.info(f"{index_path}: nothing was stored; {done.calls:,} calls, {time.perf_counter() - start:.1f} s")
        return
    logger.info(
        f"{index_path}: {done.anchors} anchors, {done.scored:,} of {done.documents:,} documents scored, "
        f"{done.calls:,} calls, {time.perf_counter() - start:.1f} s"
    )


def _texts(path: str, format_: Any) -> list[str]:
    from .corpora import read_corpus

    return [record.document.text for record in read_corpus(path, format=format_)]


COMMANDS = (cross,)
