"""What a build costs as a corpus grows: time against encoding alone, peak memory, bytes on the disk.

    python benchmarks/building.py measure [--texts N ...]      each build in a process of its own
    python benchmarks/building.py plot                         docs/images/building.png, of what was measured

Distinct English sentences by all-MiniLM-L6-v2, 128 columns. The indexes stay in benchmarks/cache, where
`benchmarks/searching.py` finds them. Writes benchmarks/results/building.json. Data: RETRIEVAL_SHARED, default
../shared.
"""

from __future__ import annotations

import gzip
import json
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from shared_data import HERE, SENTENCES, earlier, write_result

from retrieval import Engine, Whitening
from retrieval.console import note, say
from retrieval.encoder import Encoded, Role, load_encoder

CACHE = HERE / "cache" / "building"
SIZES = (10_000, 100_000, 600_000)


class Timed:
    """An encoder, and the seconds that it took."""

    def __init__(self, encoder: Any) -> None:
        self._encoder, self.seconds = encoder, 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._encoder, name)

    def encode(self, texts: Sequence[str], role: Role = "document") -> Encoded:
        start = time.perf_counter()
        found = self._encoder.encode(texts, role)
        self.seconds += time.perf_counter() - start
        return found


def corpus(size: int) -> Path:
    """A file of the first so many distinct sentences."""
    path = CACHE / f"{size}.txt"
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        seen: set[str] = set()
        with gzip.open(SENTENCES, "rt", encoding="utf-8") as lines, path.open("w", encoding="utf-8") as file:
            for line in lines:
                if len(seen) < size and line.strip() and line not in seen:
                    seen.add(line)
                    file.write(line)
    return path


@click.group()
def main() -> None:
    """Measure."""
    say(quiet=False)


@main.command(hidden=True)
@click.argument("path", type=Path)
@click.argument("index", type=Path)
def one(path: Path, index: Path) -> None:
    """One build, and what it took, as JSON."""
    start = time.perf_counter()
    encoder = Timed(load_encoder("all-MiniLM-L6-v2"))
    loaded = time.perf_counter()
    with Engine.build(path, index, model=encoder, whitening=Whitening(128, beta=0.5, gamma=0.25)) as engine:
        built = time.perf_counter()
        parts: dict[str, int] = {}
        for file in engine._bundle.manifest.files:
            parts[file.role] = parts.get(file.role, 0) + file.bytes
        info = engine.info()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    click.echo(json.dumps({
        "texts": info["documents"], "index": info["index"], "loading the model, s": round(loaded - start, 1),
        "encoding, s": round(encoder.seconds, 1), "build, s": round(built - loaded, 1),
        "times encoding": round((built - loaded) / encoder.seconds, 3),
        "texts a second": round(info["documents"] / (built - loaded)),
        "peak MiB": round(peak), "bytes": {**parts, "catalogue": info["bytes"] - sum(parts.values())},
    }))  # fmt: skip


@main.command()
@click.option("--texts", "sizes", type=int, multiple=True, default=SIZES, show_default=True)
def measure(sizes: tuple[int, ...]) -> None:
    """Builds of several sizes."""
    for size in sizes:
        index = CACHE / str(size)
        shutil.rmtree(index, ignore_errors=True)
        done = subprocess.run(
            [sys.executable, __file__, "one", corpus(size), index], check=True, stdout=subprocess.PIPE, text=True
        )
        found = json.loads(done.stdout)
        note(str(found))
        kept = {row["texts"]: row for row in [*earlier("building").get("rows", []), found]}
        write_result("building", {"rows": [kept[size] for size in sorted(kept)]})


@main.command()
def plot() -> None:
    """Seconds, memory and bytes against the number of sentences."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    rows = earlier("building")["rows"]
    sizes = [row["texts"] for row in rows]
    panels: dict[str, dict[str, list[float]]] = {
        "seconds": {
            "whole build": [row["build, s"] for row in rows],
            "encoding alone": [row["encoding, s"] for row in rows],
        },
        "peak MiB": {"whole build": [row["peak MiB"] for row in rows]},
        "MiB on the disk": {
            "whole index": [sum(row["bytes"].values()) / 2**20 for row in rows],
            "raw vectors": [row["bytes"]["raw"] / 2**20 for row in rows],
            "catalogue": [row["bytes"]["catalogue"] / 2**20 for row in rows],
            "searched": [row["bytes"]["vectors"] / 2**20 for row in rows],
        },
    }
    figure, axes = plt.subplots(1, len(panels), figsize=(3.4 * len(panels), 3.4))
    for axis, (unit, curves) in zip(axes, panels.items(), strict=True):
        first = next(iter(curves.values()))[0]
        axis.plot(sizes, [first * size / sizes[0] for size in sizes], ":", color="0.6", label="in proportion")
        colours = ("tab:blue", "tab:orange", "tab:green", "tab:red")
        for colour, (label, values) in zip(colours, curves.items(), strict=False):
            axis.plot(sizes, values, "o-", color=colour, label=label, markersize=3)
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=8)
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        axis.set_xlabel("sentences")
        axis.set_title(unit, fontsize=9)
        axis.legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(HERE.parent / "docs" / "images" / "building.png", dpi=130)
    plt.close(figure)


if __name__ == "__main__":
    main()
