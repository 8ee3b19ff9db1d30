"""The tables of README and docs, made from benchmarks/results.

    python benchmarks/tables.py         puts each table between its marks in README.md and docs/*.md

A mark is ``<!-- table: NAME -->`` before and ``<!-- end -->`` behind; a test holds the pages to the results.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Iterable, Iterator
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


# ---- training


def training_runs(**wanted: object) -> list[dict[str, Any]]:
    """The runs with these settings, a list of seeds each as one."""
    return [
        run
        for run in result("training")["runs"].values()
        if all(run["run"][name] == value for name, value in wanted.items())
    ]


def over_seeds(values: list[float]) -> str:
    """The mean, and half of the 95 % interval of the mean over seeds (Student's t) where there are several."""
    if len(values) < 2:
        return f"{values[0]:.2f}" if values else ""
    from scipy.stats import t

    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / (len(values) - 1)) ** 0.5
    return f"{mean:.2f} ± {t.ppf(0.975, len(values) - 1) * deviation / len(values) ** 0.5:.2f}"


def loss_name(run: dict[str, Any]) -> str:
    scale = run["scale"] or (20 if run["kind"] == "encoder" else 1)
    return f"cosent, lambda {scale:g}" if run["loss"] == "cosent" else str(run["loss"])


def training_table(kinds: tuple[str, ...], data: tuple[str, ...]) -> str:
    """A row for each start, data, loss and batch size: dev after epoch 1 and at the end, test, seeds."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    tests: list[str] = []
    for run in result("training")["runs"].values():
        of = run["run"]
        if of["kind"] in kinds and of["data"] in data and of["method"] == "full":
            what = (of["start"], of["data"], of["kind"], loss_name(of), str(of["batch_size"]))
            found.setdefault(what, []).append(run)
            tests += [name for name in run["test"] if name not in tests]
    starts = result("training")["starts"]
    rows = [["start", "trained on", "kind", "loss", "batch", "dev, epoch 1", "dev, best", *tests, "seeds"]]
    for what in sorted(found, key=lambda what: (data.index(what[1]), what[0])):
        before = [f"{starts[what[0]].get(test, 0):.2f}" for test in tests] if what[0] in starts else None
        label = [what[0], "nothing", "encoder", *[""] * 4]
        if before is not None and [*label, *before, ""] not in rows:
            rows.append([*label, *before, ""])
        runs = found[what]
        dev = [over_seeds([run["dev"][0] for run in runs]), over_seeds([max(run["dev"]) for run in runs])]
        test = [over_seeds([run["test"][test] for run in runs if test in run["test"]]) for test in tests]
        rows.append([*what, *dev, *test, str(len(runs))])
    return markdown(rows) if len(rows) > 1 else "Not run yet."


def at_least(full: float, seconds: list[float]) -> str:
    """How many times less the median is of values that may be off by half of their last digit; rounded down."""
    digits = min(len(str(value).partition(".")[2]) for value in seconds)
    times = full / (statistics.median(seconds) + 0.5 * 10**-digits)
    unit = 10 ** (len(str(int(times))) - 1)
    return f"> {int(times) // unit * unit:,}x"


def training_side() -> str:
    """Side networks beside full training from the same start on the same pairs."""
    head = [
        "start",
        "trained on",
        "what",
        "lambda",
        "features, s",
        "an epoch, s",
        "times less",
        "epochs",
        "in total, s",
    ]
    rows = [[*head, "times less", "test", "gain", "of full"]]
    cases: dict[tuple[str, str], dict[str, list[dict[str, Any]]]] = {}
    for run in result("training")["runs"].values():
        of = run["run"]
        if of["kind"] == "encoder" and of["loss"] == "cosent" and of["scale"] is None:
            cases.setdefault((of["start"], of["data"]), {}).setdefault(of["method"], []).append(run)
    for (start, data), methods in cases.items():
        if "ladder" not in methods:
            continue
        test_set = data.removesuffix("-2k")
        before = result("training")["starts"][start][test_set]
        full_gain = statistics.mean(run["test"][test_set] for run in methods["full"]) - before
        full_epoch = full_total = 0.0
        for method in ("full", "ladder", "linear"):
            runs = methods[method]
            epochs = runs[0]["run"]["epochs"]
            seconds = statistics.median(run["seconds_an_epoch"] for run in runs)
            features = statistics.median(run["seconds_before"] for run in runs)
            total = features + epochs * seconds
            if method == "full":
                full_epoch, full_total = seconds, total
                lambda_, waited, less_epoch, less_total = "20", "", "", ""
            else:
                lambda_, waited = "by spread", f"{features:.0f}"
                less_epoch, less_total = (
                    at_least(full_epoch, [run["seconds_an_epoch"] for run in runs]),
                    f"{full_total / total:.1f}x",
                )
            gain = statistics.mean(run["test"][test_set] for run in runs) - before
            test = over_seeds([run["test"][test_set] for run in runs])
            times = [waited, f"{seconds:.1f}", less_epoch, str(epochs), f"{total:.0f}", less_total]
            rows.append([start, data, method, lambda_, *times, test, less(gain), f"{gain / full_gain:.0%}"])
    return markdown(rows)


def reranker_sts() -> str:
    """The cross-encoder on STS-B, and what making it took."""
    found = result("reranker")
    low, high = found["interval"]
    return markdown(
        [
            ["STS-B test, Spearman x 100", "95 % (pairs drawn again)", "made in"],
            [f"{found['stsb-en']:.2f}", f"{low:.1f} to {high:.1f}", f"{found['minutes']:.0f} minutes"],
        ]
    )


def reranker() -> str:
    """nDCG@10 of the bi-encoder's first hits as they are, reranked, and by both scores."""
    rows = [["set", "queries", "bi-encoder", "cross-encoder", "sum"]]
    kinds = ("bi-encoder", "cross-encoder", "sum")
    for row in result("reranker")["rows"]:
        rows.append([row["set"], str(row["queries"]), *(f"{row[kind]:.2f}" for kind in kinds)])
    return markdown(rows)


def overlaps(name: str) -> str:
    """What held-out pairs share with those that were trained on, if anything."""
    found = [row for row in result(name)["overlap"] if row["trained on too"] or row["share a sentence"]]
    return markdown([list(found[0]), *([f"{x:,}" if isinstance(x, int) else x for x in row.values()] for row in found)])


SHOWN = ((1, 50), (10, 50), (10, 100), (10, 500), (100, 200), (100, 500))
"""Of the scorer's first k, with so many calls."""


def cross_rows(case: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["method"], row["budget"]): row for row in case["rows"]}


def cross_search() -> str:
    """What each method finds, by case; 95 % for two of them."""
    rows = [["documents", "method", *(f"first {k}, {calls} calls" for k, calls in SHOWN), "fell back, 100 calls"]]
    for name, case in result("cross_search")["cases"].items():
        found = cross_rows(case)
        for method in dict.fromkeys(method for method, calls in found if calls == SHOWN[0][1]):
            cells = []
            for k, calls in SHOWN:
                row = found[method, calls]
                low, high = row[f"interval@{k}"]
                told = f" ({low:.0f}-{high:.0f})" if (k, calls) in ((10, 100), (100, 200)) else ""
                cells.append(f"{row[f'recall@{k}']:.1f}{told}")
            fell = found[method, 100]["fallbacks"]
            rows.append([f"{name} ({case['documents']:,})", method, *cells, f"{fell:.0f} %" if fell else ""])
    return markdown(rows)


def cross_ndcg() -> str:
    """nDCG@10 where people judged: following the scorer more closely is not always better."""
    rows = [["documents", "scorer", "bi-encoder", "every pair scored", "calls", "plain", "ADACUR", "AXN", "both"]]
    for name, case in result("cross_search")["cases"].items():
        found = cross_rows(case)
        whole = found["every pair scored", case["documents"]]["nDCG@10"]
        if whole is None:
            continue
        before = found["bi-encoder alone", 0]["nDCG@10"]
        for calls in (50, 100, 500):
            methods = [found[method, calls]["nDCG@10"] for method in ("plain", "ADACUR", "AXN", "both")]
            rows.append(
                [name, case["scorer"], f"{before:.1f}", f"{whole:.1f}", str(calls), *(f"{x:.1f}" for x in methods)]
            )
    return markdown(rows)


def cross_errors() -> str:
    """What is missed, against plain reranking with as many calls, in percent; and the worst loss to it anywhere."""
    wanted = (("AXN", 10, 500), ("AXN", 100, 500), ("both", 10, 100), ("both", 100, 200))
    rows = [["documents", "scorer", *(f"{method}: first {k}, {calls} calls" for method, k, calls in wanted),
             "furthest below plain"]]  # fmt: skip
    for name, case in result("cross_search")["cases"].items():
        found, cells = cross_rows(case), []
        for method, k, calls in wanted:
            plain, ours = (100 - found[one, calls][f"recall@{k}"] for one in ("plain", method))
            cells.append(f"{plain:.1f} to {ours:.1f}" + (f" (-{100 * (1 - ours / plain):.0f} %)" if plain else ""))
        budgets = sorted({calls for one, calls in found if one == "plain"})
        gap, method, k, calls = min(
            (found[method, calls][f"recall@{k}"] - found["plain", calls][f"recall@{k}"], method, k, calls)
            for method in ("AXN", "both") for calls in budgets for k in (1, 10, 100)
        )  # fmt: skip
        worst = f"{gap:.1f} ({method}, first {k}, {calls} calls)" if gap < 0 else "never"
        rows.append([name, case["scorer"], *cells, worst])
    return markdown(rows)


def cross_anchors() -> str:
    """What anchors find by how they are chosen, how many they are, and how many documents were scored with them."""
    rows = [["documents", "anchors chosen", "anchors", "documents scored", "calls, once", "first 10 (100 calls)",
             "first 100 (200 calls)"]]  # fmt: skip
    for name, found in result("cross_search").get("anchors", {}).items():
        for row in found:
            recalls = [
                f"{row[f'recall@{k}']:.1f} ({'-'.join(f'{x:.0f}' for x in row[f'interval@{k}'])})" for k in (10, 100)
            ]
            rows.append([name, row["choice"], str(row["anchors"]), f"{row['scored']:,}", f"{row['calls']:,}", *recalls])
    return markdown(rows) if len(rows) > 1 else "Not run yet."


def gained(row: dict[str, Any], measure: str) -> str:
    low, high = row[f"{measure} interval"]
    return f"{row[f'{measure} gain']:+.1f} ({low:+.1f} to {high:+.1f})"


def geodesic_relevance() -> str:
    """Points over the cosine, by set; of the geodesic rows the one that is best on the other sets."""
    found = result("geodesic")["relevance"]
    measures = ("nDCG@10", "R@100", "R@1000")
    rows = [["set", "documents", "way", "neighbors, alpha", *measures]]
    means: dict[str, list[list[float]]] = {}
    for name, of_set in found.items():
        cosine = of_set["rows"][0]
        rows.append([name, f"{of_set['documents']:,}", "cosine", "", *(hundredfold(cosine[m]) for m in measures)])
        neighbors, alpha = best_elsewhere(found, name)
        for row in of_set["rows"]:
            tuned = row["way"] == "geodesic" and (row["neighbors"], row["alpha"]) == (neighbors, alpha)
            if tuned or row["way"] in ("diffusion", "maniscope"):
                how = f"{neighbors}, {alpha:g}" if tuned else ""
                rows.append([name, f"{of_set['documents']:,}", row["way"], how, *(gained(row, m) for m in measures)])
                means.setdefault(row["way"], []).append([row[f"{m} gain"] for m in measures])
    for way, gains in means.items():
        shown = (f"{statistics.mean(column):+.1f}" for column in zip(*gains, strict=True))
        rows.append(["mean of the sets", "", way, "", *shown])
    return markdown(rows)


def best_elsewhere(found: dict[str, Any], name: str) -> tuple[int, float]:
    """The neighbors and alpha that gain most R@100 on all sets but one."""
    gains: dict[tuple[int, float], list[float]] = {}
    for other, of_set in found.items():
        for row in of_set["rows"]:
            if other != name and row["way"] == "geodesic":
                gains.setdefault((row["neighbors"], row["alpha"]), []).append(row["R@100 gain"])
    return max(gains, key=lambda how: (statistics.mean(gains[how]), how))


def geodesic_part(part: str) -> str:
    """Rows of one part as they are."""
    found = result("geodesic").get(part)
    if not found:
        return "Not run yet."
    return markdown(
        [list(found[0]), *([f"{v:,}" if isinstance(v, int) else str(v) for v in row.values()] for row in found)]
    )


def cross_search_speed() -> str:
    """What the search costs besides the scorer."""
    found = result("cross_search")["speed"]
    rows = [["documents", "ms a query, p50", "p95", "made once in"]]
    for row in found["rows"]:
        rows.append([f"{row['documents']:,}", f"{row['p50']:.1f}", f"{row['p95']:.1f}", f"{row['made in s']:.0f} s"])
    scorer = "100 short pairs by the cross-encoder, ms"
    return markdown([*rows, [scorer.removesuffix(", ms"), f"{found[scorer]:.0f}", "", ""]])


def encoding() -> Iterable[tuple[str, dict[str, Any]]]:
    """What was measured on each kind of processor."""
    return result("encoding").get("processors", {}).items() if (HERE / "results" / "encoding.json").exists() else ()


def speed_pairs() -> str:
    """How quickly a cross-encoder runs, by way."""
    rows = [["processor", "how", "pairs a second", "times", "correlation"]]
    for processor, measured in encoding():
        rows += [
            [processor, row["way"], f"{row['pairs a second']:.0f}", f"{row['times']:.1f}x", f"{row['correlation']:.5f}"]
            for row in measured.get("pairs", [])
        ]
    return markdown(rows) if len(rows) > 1 else "Not run yet."


def encoded() -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Processor, model and what was measured."""
    for processor, measured in encoding():
        for name, found in measured.get("texts", {}).items():
            yield processor, name, found


def speed_texts() -> str:
    """Every way to run a model, and the matrix products that the last columns are held against."""
    rows = [["processor", "model", "how", "texts a second", "times", "least cosine", "mean Spearman", "loss", "GFLOP/s",
             "of the roofline"]]  # fmt: skip
    for processor, name, found in encoded():
        for row in found["rows"]:
            share = row.get("of the roofline")
            rows.append([
                processor, name, row["way"], f"{row['texts a second']:.0f}", f"{row['times']:.1f}x",
                f"{row['least cosine']:.4f}", f"{row['mean Spearman']:.2f}", f"{row['loss'] + 0.0:.2f}",
                f"{row['GFLOP/s']:.0f}", "" if share is None else f"{share:.0%}",
            ])  # fmt: skip
        product = " x ".join(str(size) for size in found["product"])
        for precision, rate in found["roofline"].items():
            rates = {way: value for way, value in found["products, GFLOP/s"].items() if way.startswith(precision)}
            best = max(rates, key=lambda way: rates[way])
            rows.append([processor, name, f"a product by {product}: {best}", *[""] * 5, f"{rate:.0f}", "100%"])
    return markdown(rows) if len(rows) > 1 else "Not run yet."


def speed_where() -> str:
    """Where the time of the quickest way goes that loses nothing."""
    parts = ("linear layers, %", "attention, %", "others, %", "between layers, %")
    rows = [["processor", "model", "in", "padding", *(part.removesuffix(", %") for part in parts),
             "linear layers, GFLOP/s", "of the roofline", "reading, of the whole"]]  # fmt: skip
    for processor, name, found in encoded():
        if "where" not in found:
            continue
        where, precision = found["where"], found["where"]["precision"]
        whole = next(found["texts"] / row["texts a second"] for row in found["rows"] if precision in row["way"])
        rate = where["linear layers, GFLOP/s"]
        rows.append([
            processor, name, precision, f"{where['padding, %']:.0f} %", *(f"{where[part]:.0f} %" for part in parts),
            f"{rate:.0f}", f"{rate / found['roofline'][precision]:.0%}", f"{where['reading, s'] / whole:.0%}",
        ])  # fmt: skip
    return markdown(rows) if len(rows) > 1 else "Not run yet."


def speed_cold() -> str:
    """A cold process."""
    rows = [["processor", "a process that ...", "seconds"]]
    for processor, measured in encoding():
        rows += [[processor, name, f"{seconds:.2f}"] for name, seconds in measured.get("cold, seconds", {}).items()]
    return markdown(rows) if len(rows) > 1 else "Not run yet."


def building() -> str:
    """How a build grows."""
    rows = [["sentences", "structure", "encoding, s", "whole build, s", "times encoding", "peak MiB",
             "bytes a document: searched", "raw", "catalogue"]]  # fmt: skip
    for row in result("building")["rows"]:
        n, parts = row["texts"], row["bytes"]
        rows.append([
            f"{n:,}", row["index"], f"{row['encoding, s']:,.0f}", f"{row['build, s']:,.0f}",
            f"{row['times encoding']:.2f}", f"{row['peak MiB']:,}",
            *(f"{parts[part] / n:.0f}" for part in ("vectors", "raw", "catalogue")),
        ])  # fmt: skip
    return markdown(rows)


def searching() -> str:
    """600,000 sentences by structure."""
    rows = [["structure", "made in, s", "bytes a document", "smaller", "recall@10", "p50, ms", "p95, ms",
             "queries a second, 1 and 2 threads", "filter: 1 %, 10 %, 50 %, ms"]]  # fmt: skip
    for row in result("searching")["rows"]:
        filters = ", ".join(f"{one['p50 ms']:.1f} ({one['recall in 18']:.0f} %)" for one in row["filters"].values())
        rows.append([
            row["index"], f"{row['rebuilt in s']:.0f}", f"{row['bytes a document']:.0f}",
            f"{row['times smaller than float32 x 384']:.1f}x", f"{row['recall@10']:.1f}", f"{row['p50 ms']:.2f}",
            f"{row['p95 ms']:.2f}", f"{row['queries a second']:,}, {row['queries a second, 2 threads']:,}", filters,
        ])  # fmt: skip
    return markdown(rows)


# ---- other systems

PEER_FIGURES = {
    "build s": "build, s", "peak MiB": "build, peak MiB", "disk MiB": "disk, MiB", "cold s": "cold query, s",
    "p50 ms": "warm p50, ms", "p95 ms": "p95, ms", "recall@10": "recall@10", "nDCG@10": "nDCG@10",
}  # fmt: skip
"""Of benchmarks/peers; the two last are better when they are more."""

THIS, OTHERS = "this project", ("this project, not whitened", "this project, without fast")

WHY_NOT_FIRST = {
    "recall@10": "half of the columns, whitened: another order than the raw cosine's",
    "nDCG@10": "half of the columns, whitened; in torch, where another whitening is chosen, as the others (below)",
    "disk MiB": "texts lie in SQLite as they are (LanceDB compresses them), and raw vectors (16 bits) beside what is "
    "searched",
}
"""What is known of the figures that another is first in."""


def peers_result() -> dict[str, dict[str, Any]]:
    """By processor, its systems and corpora."""
    return dict(result("peers")["processors"]) if (HERE / "results" / "peers.json").exists() else {}


def peer_corpora() -> Iterator[tuple[str, str, dict[str, dict[str, Any]]]]:
    """Processor, corpus and the rows of the systems, always in the same order."""
    for processor, measured in peers_result().items():
        for corpus, found in measured.get("corpora", {}).items():
            yield processor, corpus, {name: found[name] for name in [*measured["systems"], *found] if name in found}


def peer_number(figure: str, value: float) -> str:
    if figure in ("recall@10", "nDCG@10"):
        return hundredfold(value)
    digits = {"build s": 0, "peak MiB": 0, "disk MiB": 1, "cold s": 2, "p50 ms": 1, "p95 ms": 1}[figure]
    return f"{value:,.{digits}f}"


def peer_best(rows: dict[str, dict[str, Any]], figure: str) -> str:
    """The best of a figure as it is shown; the rows of the main table only."""
    values = [row[figure] for name, row in rows.items() if name not in OTHERS and figure in row]
    more = figure in ("recall@10", "nDCG@10")
    return peer_number(figure, max(values) if more else min(values)) if values else ""


def peers(others: bool = False) -> str:
    """A row for each system on each corpus; the first of each figure in bold (in the table of all systems)."""
    rows = [["processor", "texts", "system", *PEER_FIGURES.values()]]
    for processor, corpus, found in peer_corpora():
        for name, row in found.items():
            if (name in OTHERS) is not others:
                continue
            cells = [peer_number(figure, row[figure]) if figure in row else "" for figure in PEER_FIGURES]
            best = [peer_best(found, figure) for figure in PEER_FIGURES]
            marked = [f"**{x}**" if x and x == y and not others else x for x, y in zip(cells, best, strict=True)]
            rows.append([processor, corpus, name, *marked])
    return markdown(rows) if len(rows) > 1 else "Not run yet."


def peers_why() -> str:
    """The figures in which another system is first."""
    rows = [["processor", "texts", "figure", "first", "its", "ours", "why"]]
    corpora = list(peer_corpora())
    for processor, corpus, found in corpora:
        for figure, title in PEER_FIGURES.items():
            if figure not in found.get(THIS, {}):
                continue
            best, ours = peer_best(found, figure), peer_number(figure, found[THIS][figure])
            if ours != best:
                names = [
                    name
                    for name, row in found.items()
                    if name not in OTHERS and figure in row and peer_number(figure, row[figure]) == best
                ]
                why = WHY_NOT_FIRST.get(figure, "not explained")
                rows.append([processor, corpus, title, ", ".join(names), best, ours, why])
    return markdown(rows) if len(rows) > 1 else "None." if corpora else "Not run yet."


def peers_versions() -> str:
    """What was installed, and how long a first build over a few texts takes."""
    shown = ("sentence-retrieval", "txtai", "chromadb", "lancedb", "milvus-lite", "pymilvus", "sentence-transformers",
             "transformers", "torch", "openvino", "onnxruntime", "faiss-cpu", "numpy")  # fmt: skip
    rows = [["processor", "system", "packages", "of them", "first use, s"]]
    for processor, measured in peers_result().items():
        for name, found in measured["systems"].items():
            packages = ", ".join(f"{one} {found['packages'][one]}" for one in shown if one in found["packages"])
            first = f"{found['first use s']:.0f}" if "first use s" in found else ""
            rows.append([processor, name, packages, str(len(found["packages"])), first])
    return markdown(rows) if len(rows) > 1 else "Not run yet."


TABLES: dict[str, Callable[[], str]] = {
    "retrieval-default": retrieval_default,
    "retrieval-ndcg": lambda: retrieval_all("nDCG@10"),
    "retrieval-recall": lambda: retrieval_all("R@100"),
    "sts-known": sts_known,
    "sts-own": sts_own,
    "sts-fits": sts_fits,
    "drift": drift,
    "torture": torture,
    "training-english": lambda: training_table(("encoder",), ("stsb-en",)),
    "training-chinese": lambda: training_table(("encoder", "cross-encoder"), ("stsb-zh-2k", "atec-2k", "pawsx-zh")),
    "training-side": training_side,
    "training-overlap": lambda: overlaps("training"),
    "reranker": reranker,
    "reranker-sts": reranker_sts,
    "reranker-overlap": lambda: overlaps("reranker"),
    "cross-search": cross_search,
    "cross-ndcg": cross_ndcg,
    "cross-errors": cross_errors,
    "cross-anchors": cross_anchors,
    "speed-texts": speed_texts,
    "speed-pairs": speed_pairs,
    "speed-cold": speed_cold,
    "speed-where": speed_where,
    "building": building,
    "searching": searching,
    "geodesic-relevance": geodesic_relevance,
    "geodesic-far": lambda: geodesic_part("far"),
    "geodesic-topics": lambda: geodesic_part("topics"),
    "geodesic-rerank": lambda: geodesic_part("rerank"),
    "geodesic-speed": lambda: geodesic_part("speed"),
    "cross-search-speed": cross_search_speed,
    "peers": peers,
    "peers-other": lambda: peers(others=True),
    "peers-why": peers_why,
    "peers-versions": peers_versions,
    "training-cross": lambda: training_table(("cross-encoder",), ("stsb-en",)),
}


def filled(text: str) -> str:
    """The text of a page with every table made anew."""
    return MARKED.sub(lambda found: f"{found[1]}{TABLES[found[2]]()}\n{found[3]}", text)


def main() -> None:
    for page in PAGES:
        page.write_text(filled(page.read_text()))


if __name__ == "__main__":
    main()
