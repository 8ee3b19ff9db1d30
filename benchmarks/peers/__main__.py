"""Builds and asks the same texts with each system, and writes benchmarks/results/peers.json after every step,
apart for each kind of processor.

    PYTHONPATH=benchmarks python -m peers measure    makes each system's environment, then what is not measured yet
    PYTHONPATH=benchmarks python -m peers plot       docs/images/peers.png, of what was measured

Environments, texts and indexes lie in RETRIEVAL_CACHE (by default benchmarks/cache); data: RETRIEVAL_SHARED, default
../shared. Cold and warm queries of one run alternate; a build is measured once.
"""

from __future__ import annotations

from typing import Any

import click
from shared_data import earlier, processor, write_result

from retrieval.console import note, say

from . import corpora, picture, steps
from .systems import SYSTEMS, System, environment

SIZES = (20_000, 100_000)


@click.group()
def main() -> None:
    """Measure."""
    say(quiet=False)


@main.command()
@click.option("--texts", "sizes", type=int, multiple=True, help="Sentences; 0: scifact.  [default: all]")
@click.option("--system", "clients", multiple=True, help="As in worker.CLIENTS.  [default: all]")
@click.option("--again", is_flag=True, help="Also what has been measured.")
def measure(sizes: tuple[int, ...], clients: tuple[str, ...], again: bool) -> None:
    """Builds, cold and warm queries of each system on each corpus."""
    chosen = [system for system in SYSTEMS if not clients or system.client in clients]
    for system in chosen:
        note(f"{system.name}: its environment")
        packages = environment(system)
        known = earlier("peers").get("systems", {}).get(system.name, {})
        first = {} if "first use s" in known or system.home or system.other else steps.first_use(system)
        keep("systems", {system.name: known | {"packages": packages} | first})
    for size in sizes or (*SIZES, 0):
        fitting = [system for system in chosen if system.most is None or size <= system.most]
        measure_on(corpora.of_sentences(size) if size else corpora.scifact(), fitting, again)


def measure_on(corpus: corpora.Corpus, systems: list[System], again: bool) -> None:
    """What is not measured yet on one corpus."""

    def missing(system: System, figure: str) -> bool:
        return again or figure not in measured(corpus, system)

    for system in systems:
        if missing(system, "build s") or not steps.files_of(steps.index_of(system, corpus)):
            record(corpus, system, steps.build(system, corpus))
    for figure, step in (("cold s", steps.cold), ("p50 ms", steps.warm)):
        waiting = [system for system in systems if missing(system, figure)]
        found = step(waiting, corpus) if waiting else {}
        for system in waiting:
            record(corpus, system, found[system.name])


def measured(corpus: corpora.Corpus, system: System) -> dict[str, Any]:
    """The row of a system on a corpus, as far as it goes."""
    return dict(on_this_processor().get(corpus.name, {}).get(system.name, {}))


def record(corpus: corpora.Corpus, system: System, found: dict[str, Any]) -> None:
    """Put figures into the result."""
    note(f"{corpus.name}, {system.name}: {found}")
    corpora = on_this_processor()
    rows = corpora.get(corpus.name, {}) | {system.name: measured(corpus, system) | found}
    keep("processors", {processor(): corpora | {corpus.name: rows}})


def on_this_processor() -> dict[str, Any]:
    """The rows of each corpus, measured on a processor of this kind."""
    return dict(earlier("peers").get("processors", {}).get(processor(), {}))


def keep(part: str, found: dict[str, Any]) -> None:
    """Write the result with one part of it renewed."""
    result = earlier("peers")
    write_result("peers", result | {part: result.get(part, {}) | found})


@main.command()
def plot() -> None:
    """Draw the figures of every system."""
    picture.draw(earlier("peers")["processors"])


if __name__ == "__main__":
    main()
