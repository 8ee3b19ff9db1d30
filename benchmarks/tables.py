"""The tables of README and docs, made from benchmarks/results.

    python benchmarks/tables.py         puts each table between its marks in README.md and docs/*.md

A mark is ``<!-- table: NAME -->`` before and ``<!-- end -->`` behind; a test holds the pages to the results.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eval.table import markdown

HERE = Path(__file__).resolve().parent
PAGES = (HERE.parent / "README.md", *sorted((HERE.parent / "docs").glob("*.md")))
MARKED = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def result(name: str) -> dict[str, Any]:
    return dict(json.loads((HERE / "results" / f"{name}.json").read_text()))


def hundredfold(value: float, digits: int = 1, sign: str = "") -> str:
    return f"{100 * value:{sign}.{digits}f}"


def less(value: float) -> str:
    return f"{value:+.2f}"


# ---- collections


def by_set() -> dict[str, dict[str, Any]]:
    sets: dict[str, dict[str, Any]] = {}
    for row in result("retrieval_quality")["rows"]:
        sets.setdefault(row["set"], {})[row["vectors"]] = row
    return sets


def retrieval_default() -> str:
    rows = [["set", "documents", "nDCG@10 raw", "default", "R@100 raw", "default", "gamma", "smaller"]]
    sets = by_set()
    for name, of_set in sets.items():
        raw, own = of_set["raw"], of_set["default"]
        scores = [hundredfold(row[m]) for m in ("nDCG@10", "R@100") for row in (raw, own)]
        rows.append([name, f"{own['documents']:,}", *scores, f"{own['gamma']:g}", f"{own['smaller']:g}x"])
    means = [
        hundredfold(sum(of_set[v][m] for of_set in sets.values()) / len(sets))
        for m in ("nDCG@10", "R@100")
        for v in ("raw", "default")
    ]
    rows.append(["mean", "", *means, "", ""])
    return markdown(rows)


def retrieval_all(measure: str) -> str:
    sets = by_set()
    rows = [["vectors", *sets, "mean", "- raw", "worst", "smaller"]]
    for label in next(iter(sets.values())):
        values = [of_set[label][measure] for of_set in sets.values()]
        losses = [value - of_set["raw"][measure] for value, of_set in zip(values, sets.values(), strict=True)]
        mean, smaller = sum(values) / len(values), next(iter(sets.values()))[label]["smaller"]
        rows.append(
            [
                label, *(hundredfold(value) for value in values), hundredfold(mean, 2),
                hundredfold(sum(losses) / len(losses), 2, "+"), hundredfold(min(losses), 2, "+"), f"{smaller:g}x",
            ]
        )  # fmt: skip
    return markdown(rows)


# ---- sentence pairs


def models() -> list[dict[str, Any]]:
    return list(result("whitening_sts")["models"])


def sts_known() -> str:
    rows = []
    for model in models():
        sets = model["raw"]["sets"]
        head = ["model", *(s["name"] for s in sets), "mean"]
        if not rows or rows[-1][1] != head:
            rows.append(("head", head))
        row = [model["model"], *(hundredfold(s["spearman_cosine"], 2) for s in sets)]
        rows.append(("row", [*row, hundredfold(model["raw"]["mean_spearman_cosine"], 2)]))
    tables: list[list[list[str]]] = []
    for kind, cells in rows:
        if kind == "head" and not (tables and tables[-1][0] == cells):
            tables.append([cells])
        elif kind == "row":
            tables[-1].append(cells)
    return "\n\n".join(markdown(table) for table in tables)


def sts_own() -> str:
    """Fitted on the sets' own sentences, at the k that people will ask for."""
    rows = [["model", "k", "smaller", "- raw", "unseen", "no labels", "PCA", "first columns", "random"]]
    for model in models():
        fit = next(fit for name, fit in model["fits"].items() if name.startswith("own"))
        rows += [[model["model"], *cells] for cells in _of_fit(fit)]
    return markdown(rows)


def sts_fits() -> str:
    rows = [["model", "fitted on", "k", "smaller", "- raw", "unseen", "no labels", "PCA", "first columns", "random"]]
    for model in models():
        for name, fit in model["fits"].items():
            rows += [[model["model"], name, *cells] for cells in _of_fit(fit)]
    return markdown(rows)


def _of_fit(fit: dict[str, Any]) -> list[list[str]]:
    d = max(row["dim"] for row in fit["rows"])
    names = ("less_raw", "unseen_less_raw", "without_labels_less_raw", "pca_less_raw", "first_columns_less_raw")
    return [
        [str(row["dim"]), f"{d / row['dim']:g}x", *(less(row[name]) for name in names), less(row["random_less_raw"])]
        for row in fit["rows"]
        if d / row["dim"] in (1.5, 2, 3, 4, 6, 12)
    ]


# ---- indexes that change


def drift() -> str:
    rows = [["fitted on", "then added", "k", "shift", "kept, fit", "kept, added", "as fitted", "rebuilt", "raw"]]
    for row in result("drift")["rows"]:
        names = ("fitted_on", "then", "dim", "shift", "kept_at_fit", "kept", "as fitted", "rebuilt", "raw")
        rows.append([str(row[name]) for name in names])
    return markdown(rows)


FAULTED = {"call": "in a write", "command": "in a command", "ask": "in a search", "problems": "in verify --deep"}


def torture() -> str:
    """A row for what was done and what came of it; the kinds of damage are too many to show."""
    sums: dict[str, list[int]] = {}
    last = ""
    for row in result("torture")["rows"]:
        done, _, came_of_it = re.sub(r" \([^)]*\)", "", row["kind"]).partition(": ")
        if row["of"] == "faults" and ", " in done:
            where, how = done.split(", ")
            done = f"file operation fails ({how}) {FAULTED[where]}"
        elif row["of"] in ("rot", "concurrency"):
            done = done.split(", ")[0]
        done = f"{last} {done}" if done.startswith("...") else done  # how many of the row before
        last = done.partition(" ...")[0]
        name = f"{done}: {came_of_it}" if came_of_it else done
        number, violations = sums.setdefault(name, [0, 0])
        sums[name] = [number + row["number"], violations + len(row["violations"])]
    rows = [["what was done", "number", "violations"]]
    return markdown(rows + [[name, f"{number:,}", str(bad)] for name, (number, bad) in sums.items()])


TABLES: dict[str, Callable[[], str]] = {
    "retrieval-default": retrieval_default,
    "retrieval-ndcg": lambda: retrieval_all("nDCG@10"),
    "retrieval-recall": lambda: retrieval_all("R@100"),
    "sts-known": sts_known,
    "sts-own": sts_own,
    "sts-fits": sts_fits,
    "drift": drift,
    "torture": torture,
}


def filled(text: str) -> str:
    """The text of a page with every table made anew."""
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def main() -> None:
    for page in PAGES:
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
