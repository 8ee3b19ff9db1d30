"""The figures of every system as bars, one panel a figure."""

from __future__ import annotations

from typing import Any

from shared_data import HERE

from .systems import MODEL, SYSTEMS, THREADS

PANELS = {
    "build s": "build, seconds", "peak MiB": "build, peak MiB", "disk MiB": "on the disk, MiB",
    "cold s": "cold query, seconds", "p50 ms": "warm query, p50 ms", "nDCG@10": "nDCG@10 x 100, scifact",
}  # fmt: skip
OURS, OTHERS = "tab:blue", "0.75"


def label(value: float) -> str:
    """Three digits."""
    return "not measured" if not value else f"{value:.3g}" if value < 100 else f"{value:,.0f}"


def draw(corpora: dict[str, dict[str, dict[str, Any]]]) -> None:
    """Of the most sentences that were measured, and how good the answers are on scifact."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    sentences = [name for name in corpora if name.endswith("sentences")]
    largest = max(sentences or corpora, key=lambda name: int(name.split()[0].replace(",", "")) if sentences else 0)
    names = [system.name for system in SYSTEMS if not system.other]
    figure, axes = plt.subplots(2, 3, figsize=(11, 4.8), sharey=True)
    for axis, (figure_name, title) in zip(axes.flat, PANELS.items(), strict=True):
        rows = corpora.get("scifact", {}) if figure_name == "nDCG@10" else corpora[largest]
        values = [rows.get(name, {}).get(figure_name, 0.0) for name in names]
        values = [100 * value for value in values] if figure_name == "nDCG@10" else values
        bars = axis.barh(names, values, color=[OURS, *[OTHERS] * (len(names) - 1)])
        axis.bar_label(bars, [label(value) for value in values], padding=2, fontsize=8)
        axis.set_title(title, fontsize=9)
        axis.set_xlim(0, 1.2 * max(*values, 1e-9))
        axis.tick_params(labelsize=8, length=0)
        axis.set_xticks([])
        axis.spines[["top", "right", "bottom"]].set_visible(False)
    axes[0, 0].invert_yaxis()
    for name in (one for axis in axes[:, 0] for one in axis.get_yticklabels()):
        name.set_fontweight("bold" if name.get_text() == names[0] else "normal")
    figure.suptitle(f"{largest}, {MODEL}, {THREADS} threads; shorter is better but for nDCG", fontsize=10)
    figure.tight_layout()
    figure.savefig(HERE.parent / "docs" / "images" / "peers.png", dpi=130)
    plt.close(figure)
