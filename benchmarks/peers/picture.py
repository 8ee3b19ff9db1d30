"""The figures of every system as bars, one panel a figure."""

from __future__ import annotations

from itertools import cycle
from typing import Any

import click
import numpy as np
from shared_data import HERE

from .systems import MODEL, SYSTEMS, THREADS

PANELS = {
    "build s": "build, seconds", "peak MiB": "build, peak MiB", "disk MiB": "on the disk, MiB",
    "cold s": "cold query, seconds", "p50 ms": "warm query, p50 ms", "nDCG@10": "nDCG@10 x 100, scifact",
}  # fmt: skip
SHADES = (("tab:blue", "0.65"), ("lightsteelblue", "0.85"), ("midnightblue", "0.45"))
"""Of a bar of ours and of another's, by processor."""


def label(value: float) -> str:
    """Three digits."""
    return "not measured" if not value else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def draw(processors: dict[str, dict[str, dict[str, dict[str, Any]]]]) -> None:
    """Of the most sentences that were measured on every processor, and how good the answers are on scifact."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt
    from matplotlib.patches import Patch

    first, *others = processors.values() or [{}]
    everywhere = [name for name in first if name != "scifact" and all(name in other for other in others)]
    if not everywhere:
        raise click.ClickException(
            "no number of sentences was measured on every processor: peers measure --texts 20000"
        )
    largest = max(everywhere, key=lambda name: int(name.split()[0].replace(",", "")))
    names = [system.name for system in SYSTEMS if not system.other]
    places, thick = np.arange(len(names)), 0.8 / len(processors)
    figure, axes = plt.subplots(2, 3, figsize=(11, 2.4 + 2.4 * len(processors)), sharey=True)
    for axis, (figure_name, title) in zip(axes.flat, PANELS.items(), strict=True):
        most = 1e-9
        for turn, (corpora, (ours, theirs)) in enumerate(zip(processors.values(), cycle(SHADES))):
            rows = corpora.get("scifact" if figure_name == "nDCG@10" else largest, {})
            values = [rows.get(name, {}).get(figure_name, 0.0) for name in names]
            values = [100 * value for value in values] if figure_name == "nDCG@10" else values
            colours = [ours, *[theirs] * (len(names) - 1)]
            bars = axis.barh(places + (turn + 0.5) * thick - 0.4, values, 0.9 * thick, color=colours)
            axis.bar_label(bars, [label(value) for value in values], padding=2, fontsize=8)
            most = max(most, *values)
        axis.set_title(title, fontsize=9)
        axis.set_xlim(0, 1.2 * most)
        axis.set_yticks(places, names)
        axis.tick_params(labelsize=8, length=0)
        axis.set_xticks([])
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    axes[0, 0].invert_yaxis()
    for name in (one for axis in axes[:, 0] for one in axis.get_yticklabels()):
        name.set_fontweight("bold" if name.get_text() == names[0] else "normal")
    figure.suptitle(f"{largest}, {MODEL}, {THREADS} threads; shorter is better but for nDCG", fontsize=10)
    shown = [Patch(color=ours, label=name) for name, (ours, _) in zip(processors, cycle(SHADES))]
    figure.legend(handles=shown, loc="lower center", ncols=len(shown), frameon=False, fontsize=8)
    figure.tight_layout(rect=(0, 0.04, 1, 1))
    figure.savefig(HERE.parent / "docs" / "images" / "peers.png", dpi=130)
    plt.close(figure)
