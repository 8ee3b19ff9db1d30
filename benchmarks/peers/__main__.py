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
from shared_data import earlier, known_here, write_here

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
        first = steps.first_use(system)  # also where it is known: the timed builds that follow need it done
        known = known_here("peers").get("systems", {})
        row = first | known.get(system.name, {}) | {"packages": packages}
        write_here("peers", {"systems": known | {system.name: row}})
    for size in sizes or (*SIZES, 0):
        fitting = [system for system in chosen if system.most is None or size <= system.most]
        measure_on(corpora.of_sentences(size) if size else corpora.scifact(), fitting, again)


def measure_on(corpus: corpora.Corpus, systems: list[System], again: bool) -> None:
    """What is not measured yet on one corpus."""

    def missing(system: System, figure: str) -> bool:
        return again or figure not in measured().get(corpus.name, {}).get(system.name, {})

    for system in systems:
        if missing(system, "build s") or not steps.files_of(steps.index_of(system, corpus)):
            record(corpus, system, steps.build(system, corpus))
    for figure, step in (("cold s", steps.cold), ("p50 ms", steps.warm)):
        waiting = [system for system in systems if missing(system, figure)]
        found = step(waiting, corpus) if waiting else {}
        for system in waiting:
            record(corpus, system, found[system.name])


def measured() -> dict[str, dict[str, dict[str, Any]]]:
    """By corpus and system, what is known on a processor of this kind."""
    return dict(known_here("peers").get("corpora", {}))


def record(corpus: corpora.Corpus, system: System, found: dict[str, Any]) -> None:
    """Put figures into the result."""
    note(f"{corpus.name}, {system.name}: {found}")
    rows = measured().get(corpus.name, {})
    rows = rows | {system.name: rows.get(system.name, {}) | found}
    write_here("peers", {"corpora": measured() | {corpus.name: rows}})


@main.command()
def plot() -> None:
    """Draw the figures of every system."""
    picture.draw({name: found["corpora"] for name, found in earlier("peers").get("processors", {}).items()})


if __name__ == "__main__":
    main()
