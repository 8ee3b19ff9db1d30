"""The outcome of a tuning as people want to see it: the cells to take, a table, JSON, pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

from indexes.errors import InputError, MissingPackageError
from retrieval.grid import Cell
from retrieval.moments import Moments
from retrieval.whitening import Whitening

from . import table


@dataclass(frozen=True, slots=True, kw_only=True)
class WhiteningTuning:
    """Every cell of a grid with its score.

    Parameters
    ----------
    model : str
    labelled : bool
        Whether people's labels gave the scores. If not, they choose between whitenings of one k, not k.
    measure : str
        What the scores are: "Spearman" or "nDCG@10".
    raw : float
        Score of the vectors as they are.
    cells : tuple of Cell
    rivals : mapping of name to a score for each of `dims`
    moments : Moments
        What the whitenings are fitted on.
    """

    model: str
    labelled: bool
    measure: str
    raw: float
    cells: tuple[Cell, ...] = field(repr=False)
    rivals: Mapping[str, tuple[float, ...]] = field(repr=False)
    moments: Moments = field(repr=False)

    @property
    def dims(self) -> tuple[int, ...]:
        """The dimensions that were tried, largest first."""
        return tuple(sorted({cell.dim for cell in self.cells}, reverse=True))

    @property
    def best(self) -> Cell:
        """The best cell of all; of equal ones the smallest, then the mildest."""
        return min(self.cells, key=_rank)

    @property
    def per_dim(self) -> tuple[Cell, ...]:
        """The best cell of each k, largest k first."""
        return tuple(min((c for c in self.cells if c.dim == k), key=_rank) for k in self.dims)

    def smallest(self, loss: float = 0.0) -> Cell:
        """The best cell of the smallest k that loses no more than `loss` (in units of the measure) against raw.

        There always is one: k = d with beta = gamma = 0 changes no cosine.

        Raises
        ------
        InputError
            If there were no labels: what loses nothing by halves of texts may lose points by people.
        """
        if not self.labelled:
            raise InputError("without labels nothing says how many columns are enough; choose k (dim=..., --dim K)")
        # subtle: a rotation moves a cosine by rounding, which may swap two pairs
        good = [cell for cell in self.per_dim if cell.score >= self.raw - loss - 1e-6]
        return good[-1] if good else self._identity

    @property
    def _identity(self) -> Cell:
        return Cell(dim=self.dims[0], beta=0.0, gamma=0.0, epsilon=0.0, local=0.0, score=self.raw)

    def whitening(self, dim: int | None = None) -> Whitening:
        """The fitted whitening of the best cell with `dim` columns; by default of `smallest`.

        Raises
        ------
        InputError
            If `dim` was not tried, or is not given and there were no labels.
        """
        if dim is not None and dim not in self.dims:
            raise InputError(f"dim={dim} was not tried; expected one of {', '.join(map(str, self.dims))}")
        cell = self.smallest() if dim is None else self.per_dim[self.dims.index(dim)]
        return cell.whitening().fit(self.moments)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the moments."""
        rivals = {name: dict(zip(self.dims, scores, strict=True)) for name, scores in self.rivals.items()}
        return {
            "model": self.model,
            "measure": self.measure,
            "n_fitted": self.moments.count,
            "raw": self.raw,
            "best": asdict(self.best),
            "smallest_without_loss": asdict(self.smallest()) if self.labelled else None,
            "per_dim": [asdict(cell) for cell in self.per_dim],
            "rivals": rivals,
            "cells": [asdict(cell) for cell in self.cells],
        }

    def to_frame(self) -> Any:
        """A pandas DataFrame, a row a cell."""
        try:
            import pandas
        except ImportError as error:
            raise MissingPackageError("to_frame needs pandas: pip install pandas") from error
        return pandas.DataFrame([asdict(cell) for cell in self.cells])

    def to_markdown(self) -> str:
        """The best cell of each k beside its rivals; scores x 100."""
        return table.markdown(self._rows())

    def to_text(self) -> str:
        """The same table for a terminal, and what to take from it."""
        raw = f"raw {100 * self.raw:.2f} ({self.measure} x 100, {self.model})"
        if self.labelled:
            advice = f"smallest k that loses nothing on these data: {self.smallest().dim}"
        else:
            advice = "without labels this chooses gamma at a k, and says nothing of what a k loses"
        return f"{table.text(self._rows())}\n{raw}; {advice}"

    def _rows(self) -> list[list[str]]:
        head = ["k", "beta", "gamma", "epsilon", "local", self.measure, "- raw", *self.rivals]
        rows = [head]
        for i, cell in enumerate(self.per_dim):
            parameters = [f"{value:g}" for value in (cell.beta, cell.gamma, cell.epsilon, cell.local)]
            scores = [f"{100 * cell.score:.2f}", f"{100 * (cell.score - self.raw):+.2f}"]
            rivals = [f"{100 * scores_[i]:.2f}" for scores_ in self.rivals.values()]
            rows.append([str(cell.dim), *parameters, *scores, *rivals])
        return rows

    def save(self, path: str | PathLike[str]) -> None:
        """Write `to_dict` as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def plot(self, path: str | PathLike[str] | None = None, *, dim: int | None = None) -> Any:
        """The curve over k with its rivals, and the beta x gamma map at one k; the matplotlib Figure.

        Parameters
        ----------
        path : path, optional
            Where the picture is written, too (PNG, SVG, PDF).
        dim : int, optional
            The k of the map; by default that of `smallest`, or one in the middle if there were no labels.
        """
        from .tuned_plot import plot_tuning

        chosen = self.smallest().dim if self.labelled else self.dims[len(self.dims) // 2]
        figure = plot_tuning(self, chosen if dim is None else dim)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure


def _rank(cell: Cell) -> tuple[float, ...]:
    return (-round(cell.score, 9), cell.dim, cell.local, cell.gamma, cell.epsilon, cell.beta)
