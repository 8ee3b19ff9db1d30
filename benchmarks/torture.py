"""Kills, power cuts, faults, rot and company: what is done to indexes on purpose, and what becomes of them.

    python benchmarks/torture.py [--trials N] [--seconds S] [--seed K] [--every] [KIND ...]

Kinds: kills, powercut, faults, rot, concurrency; all without an argument. With --every the faults are at each file
operation there is, not at an even sample (half an hour more). Writes benchmarks/results/torture.json, which
docs/reliability.md is made from; exits with 1 if anything was violated. Faults need a C compiler, full disks root.
"""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
from shared_data import earlier, write_result

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from torture import concurrency, faults, kills, powercut, rot

KINDS = {module.__name__.split(".")[-1]: module for module in (kills, powercut, faults, rot, concurrency)}


@click.command()
@click.argument("names", nargs=-1, metavar="[KIND]...", type=click.Choice(list(KINDS)))
@click.option("--trials", default=1000, show_default=True, help="About so many of each kind.")
@click.option("--seconds", default=60, show_default=True, help="Of readers beside a writer.")
@click.option("--seed", default=0, show_default=True)
@click.option("--every", is_flag=True, help="Faults at every file operation, not at an even sample.")
def main(names: tuple[str, ...], trials: int, seconds: int, seed: int, every: bool) -> None:
    rows: dict[str, list[dict[str, Any]]] = {}
    for row in earlier("torture").get("rows", []):
        rows.setdefault(row["of"], []).append(row)
    for name in names or KINDS:
        start = time.perf_counter()
        options = {"every": every} if name == "faults" else {}
        found = KINDS[name].run(seconds if name == "concurrency" else trials, seed, **options)
        rows[name] = [{"of": name, **asdict(result)} for result in found]
        print(f"{name}: {time.perf_counter() - start:.0f} s")
        for result in found:
            print(f"  {result.kind}: {result.number:,}, {len(result.violations)} violations")
            for violation in result.violations[:20]:
                print(f"    {violation}")
    flat = [row for name in KINDS for row in rows.get(name, [])]
    write_result("torture", {"seed": seed, "rows": flat})
    sys.exit(any(row["violations"] for row in flat))


if __name__ == "__main__":
    main()
