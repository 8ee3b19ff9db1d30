"""An STS evaluation as people want to see it: table, JSON, picture, and against another one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.errors import InputError, MissingPackageError
from retrieval.similarity import spearman

from . import table


@dataclass(frozen=True, slots=True, kw_only=True)
class STSScore:
    """One set's result.

    Parameters
    ----------
    name : str
    n : int
        Pairs.
    spearman, pearson : float
        Of cosine and people's scores, -1 to 1.
    interval : (float, float) or None
        95 % bootstrap interval of `spearman`.
    accuracy, threshold : float or None
        For 0/1 labels with a dev set: share of right answers, and the cosine from dev that decides.
    cosines, labels : ndarray of shape (n,), float64
    digest : str
        SHA-256 of sentences and labels: which pairs these are.
    """

    name: str
    n: int
    spearman: float
    pearson: float
    interval: tuple[float, float] | None
    accuracy: float | None
    threshold: float | None
    cosines: NDArray[np.float64] = field(repr=False)
    labels: NDArray[np.float64] = field(repr=False)
    digest: str = field(repr=False)

    def to_dict(self) -> dict[str, Any]:
        """The numbers, keys as in sentence-transformers' EmbeddingSimilarityEvaluator."""
        return {
            "name": self.name,
            "n": self.n,
            "spearman_cosine": self.spearman,
            "pearson_cosine": self.pearson,
            "spearman_interval": None if self.interval is None else list(self.interval),
            "accuracy": self.accuracy,
            "threshold": self.threshold,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Mean Spearman of one system less that of another, on the same pairs.

    Parameters
    ----------
    difference : float
    interval : (float, float)
        95 % paired bootstrap interval.
    p_value : float
        Two-sided: how often resampled differences fall on the other side of zero.
    """

    difference: float
    interval: tuple[float, float]
    p_value: float


@dataclass(frozen=True, slots=True, kw_only=True)
class STSReport:
    """Results over one or more sets.

    Parameters
    ----------
    model : str
    whitening : str or None
    scores : tuple of STSScore
    """

    model: str
    whitening: str | None
    scores: tuple[STSScore, ...]

    @property
    def mean(self) -> float:
        """Mean Spearman over the sets."""
        return float(np.mean([score.spearman for score in self.scores]))

    def __getitem__(self, name: str) -> STSScore:
        for score in self.scores:
            if score.name == name:
                return score
        raise KeyError(f"{name!r}; sets there are: {', '.join(score.name for score in self.scores)}")

    def __iter__(self) -> Iterator[STSScore]:
        return iter(self.scores)

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single pairs."""
        sets = [score.to_dict() for score in self.scores]
        return {"model": self.model, "whitening": self.whitening, "mean_spearman_cosine": self.mean, "sets": sets}

    def to_frame(self) -> Any:
        """A pandas DataFrame, a row a set."""
        try:
            import pandas
        except ImportError as error:
            raise MissingPackageError("to_frame needs pandas: pip install pandas") from error
        return pandas.DataFrame([score.to_dict() for score in self.scores]).set_index("name")

    def to_markdown(self) -> str:
        """A table, correlations x 100."""
        return table.markdown(self._cells())

    def to_text(self) -> str:
        """The same table for a terminal."""
        return table.text(self._cells())

    def _cells(self) -> list[list[str]]:
        binary = any(score.accuracy is not None for score in self.scores)
        rows = [["set", "n", "Spearman", "95 %", "Pearson", *(["accuracy"] if binary else [])]]
        for score in self.scores:
            between = "" if score.interval is None else f"{100 * score.interval[0]:.2f} - {100 * score.interval[1]:.2f}"
            row = [score.name, str(score.n), f"{100 * score.spearman:.2f}", between, f"{100 * score.pearson:.2f}"]
            if binary:
                row.append("" if score.accuracy is None else f"{100 * score.accuracy:.2f}")
            rows.append(row)
        mean = ["mean", str(sum(score.n for score in self.scores)), f"{100 * self.mean:.2f}"]
        return [*rows, mean + [""] * (len(rows[0]) - 3)]

    def save(self, path: str | PathLike[str]) -> None:
        """Write `to_dict` as JSON."""
        Path(path).write_text(json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def plot(self, path: str | PathLike[str] | None = None) -> Any:
        """Spearman of each set with its interval; the matplotlib Figure, written to `path` if given."""
        try:
            from matplotlib.figure import Figure
        except ImportError as error:
            raise MissingPackageError("plot needs matplotlib: pip install 'sentence-retrieval[plot]'") from error
        figure = Figure(figsize=(7, 1.2 + 0.4 * len(self.scores)), layout="constrained")
        axes = figure.subplots()
        values = [100 * score.spearman for score in self.scores]
        places = range(len(values))
        axes.barh(places, values, color="#4878a8")
        for place, score in zip(places, self.scores, strict=True):
            if score.interval is not None:
                axes.plot([100 * bound for bound in score.interval], [place, place], color="black", linewidth=1.5)
            axes.text(1, place, f"{100 * score.spearman:.2f}", va="center", color="white", fontsize=9)
        axes.axvline(100 * self.mean, color="#b04040", linestyle="--", linewidth=1, label=f"mean {100 * self.mean:.2f}")
        axes.set_yticks(list(places), [f"{score.name} ({score.n:,})" for score in self.scores])
        axes.invert_yaxis()
        axes.set_xlabel("Spearman x 100, 95 % bootstrap interval")
        axes.set_title(self.model + (f", {self.whitening}" if self.whitening else ""), fontsize=10)
        axes.legend(loc="lower right", fontsize=8)
        if path is not None:
            figure.savefig(path, dpi=150)
        return figure

    def compare(self, other: STSReport, *, resamples: int = 1000, seed: int = 0) -> Comparison:
        """How sure it is that this system is better than another on the same pairs (paired bootstrap).

        Raises
        ------
        InputError
            If the reports are not of the same pairs, or a set is too small to be resampled. With a handful of
            positive labels a bootstrap says too often that a difference is sure.
        """
        if resamples < 1:
            raise InputError(f"resamples={resamples}; expected 1 or more")
        for mine, theirs in zip(self.scores, other.scores, strict=False):
            if (mine.name, mine.digest) != (theirs.name, theirs.digest):
                raise InputError(f"sets {mine.name!r} and {theirs.name!r} differ; compare reports of the same pairs")
        if len(self.scores) != len(other.scores):
            raise InputError(f"reports of {len(self.scores)} and {len(other.scores)} sets; expected the same sets")
        rng, differences = np.random.default_rng(seed), []
        for _ in range(resamples):
            of_sets = []
            for mine, theirs in zip(self.scores, other.scores, strict=True):
                of_sets.append(_resampled(rng, mine, theirs))
            differences.append(np.mean(of_sets))
        low, high = np.percentile(differences, [2.5, 97.5])
        tail = min(np.sum(np.array(differences) <= 0), np.sum(np.array(differences) >= 0))
        p_value = min(1.0, 2 * (float(tail) + 1) / (resamples + 1))
        return Comparison(difference=self.mean - other.mean, interval=(float(low), float(high)), p_value=p_value)


def _resampled(rng: np.random.Generator, mine: STSScore, theirs: STSScore) -> float:
    """The difference on pairs drawn with replacement, drawn again while a correlation is undefined."""
    for _ in range(100):
        rows = rng.integers(mine.n, size=mine.n)
        labels = mine.labels[rows]
        difference = spearman(mine.cosines[rows], labels) - spearman(theirs.cosines[rows], labels)
        if np.isfinite(difference):
            return difference
    raise InputError(f"set {mine.name!r} is too small or too uniform to be resampled; leave it out of the comparison")
