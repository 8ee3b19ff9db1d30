"""Pictures of a tuning: the curve over k against its rivals, and the map of beta and gamma."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from indexes.errors import InputError, MissingPackageError

if TYPE_CHECKING:
    from .tuned import WhiteningTuning


def plot_tuning(tuning: WhiteningTuning, dim: int) -> Any:
    """Both pictures side by side.

    Raises
    ------
    InputError
        If `dim` was not tried.
    MissingPackageError
        If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackageError("plot needs matplotlib: pip install 'sentence-retrieval[plot]'") from error
    if dim not in tuning.dims:
        raise InputError(f"dim={dim} was not tried; expected one of {', '.join(map(str, tuning.dims))}")
    figure = Figure(figsize=(12, 4.8), layout="constrained")
    curve, heat = figure.subplots(1, 2, width_ratios=[1.25, 1])
    _curve(curve, tuning, dim)
    _map(figure, heat, tuning, dim)
    figure.suptitle(f"{Path(tuning.model).name}, whitening fitted on {tuning.moments.count:,} vectors", fontsize=11)
    return figure


def _curve(axes: Any, tuning: WhiteningTuning, dim: int) -> None:
    scores = [100 * cell.score for cell in tuning.per_dim]
    for (name, rival), marker in zip(tuning.rivals.items(), "s^vx", strict=False):
        axes.plot(tuning.dims, [100 * score for score in rival], marker=marker, markersize=4, linewidth=1, label=name)
    axes.plot(tuning.dims, scores, color="black", marker="o", linewidth=2, label="whitening, best cell")
    axes.axhline(100 * tuning.raw, color="#b04040", linestyle="--", linewidth=1, label=f"raw {100 * tuning.raw:.2f}")
    axes.axvline(dim, color="grey", linestyle=":", linewidth=1)
    axes.set_xscale("log", base=2)
    axes.set_xticks(tuning.dims, [str(k) for k in tuning.dims])
    axes.minorticks_off()
    low = min(scores)
    axes.set_ylim(low - 0.6 * (max(scores) - low) - 0.5, max(*scores, 100 * tuning.raw) + 0.5)
    axes.set_xlabel("kept columns k")
    axes.set_ylabel(f"{tuning.measure} x 100")
    axes.legend(fontsize=8)


def _map(figure: Any, axes: Any, tuning: WhiteningTuning, dim: int) -> None:
    """The best over epsilon and local in each square, as the difference to raw."""
    cells = [cell for cell in tuning.cells if cell.dim == dim]
    betas, gammas = sorted({c.beta for c in cells}), sorted({c.gamma for c in cells})
    grid = np.full((len(betas), len(gammas)), np.nan)
    for cell in cells:
        i, j = betas.index(cell.beta), gammas.index(cell.gamma)
        grid[i, j] = np.nanmax([grid[i, j], 100 * (cell.score - tuning.raw)])
    size = float(np.nanmax(np.abs(grid))) or 1.0
    image = axes.imshow(grid, cmap="RdBu", vmin=-size, vmax=size, aspect="auto", origin="lower")
    for (i, j), value in np.ndenumerate(grid):
        if np.isfinite(value):
            colour = "white" if abs(value) > 0.6 * size else "black"
            axes.text(j, i, f"{value:+.1f}", ha="center", va="center", fontsize=8, color=colour)
    axes.set_xticks(range(len(gammas)), [f"{g:g}" for g in gammas])
    axes.set_yticks(range(len(betas)), [f"{b:g}" for b in betas])
    axes.set_xlabel("gamma")
    axes.set_ylabel("beta")
    axes.set_title(f"{tuning.measure} x 100 less raw, at k = {dim}", fontsize=10)
    figure.colorbar(image, ax=axes)
