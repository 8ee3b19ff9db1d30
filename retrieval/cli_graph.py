"""The command that links an index's documents with those nearest to them: graph."""

from __future__ import annotations

import logging
import time

import click

from .cli_write import INDEX, QUIET
from .console import say

logger = logging.getLogger(__name__)


@click.command()
@INDEX
@click.option(
    "-n",
    "--neighbors",
    type=click.IntRange(min=1, max=1000),
    metavar="N",
    help="Links that each document makes.  [default: 16, or those of the graph that is there]",
)
@click.option(
    "--fresh",
    is_flag=True,
    help="Another graph in the place of the one that is there; to go on with it, leave this out.",
)
@click.option("--drop", is_flag=True, help="Take the graph out of the index.")
@QUIET
def graph(index_path: str, neighbors: int | None, fresh: bool, drop: bool, quiet: bool) -> None:
    """Link every document with those nearest to it, for query --geodesic.

    No model is needed. Links are committed every minute, and the same command goes on where an interrupted one was.
    What is added to the index later is linked as it comes.
    """
    if drop and (neighbors or fresh):
        raise click.UsageError("--drop takes the graph out of the index; leave the other options out")
    say(quiet)
    from .engine import Engine

    start = time.perf_counter()
    with Engine.open(index_path) as engine:
        if drop:
            engine.drop_graph()
            logger.info("%s has no neighbour graph now", index_path)
            return
        done = engine.build_graph(neighbors, fresh=fresh, progress=not quiet)
    logger.info(
        f"{index_path}: {done.linked:,} of {done.documents:,} documents linked now, each with the nearest "
        f"{min(done.neighbors, max(0, done.documents - 1))}, "
        f"{time.perf_counter() - start:.1f} s"
    )


COMMANDS = (graph,)
