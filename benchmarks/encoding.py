"""How quick texts become vectors, and a question an answer: compiled models against sentence-transformers as it comes.

    RETRIEVAL_MODELS=folder python benchmarks/encoding.py texts [--model NAME]  every way to run a model, alternating
    python benchmarks/encoding.py pairs MODEL                                   pairs a second of a cross-encoder
    python benchmarks/encoding.py cold                                          a process that answers one question

Medians of several rounds in one run on the same sentences; only their ratios mean anything on a busy machine. Writes
benchmarks/results/encoding.json, apart for each kind of processor. Data: RETRIEVAL_SHARED, default ../shared.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import click
import numpy as np
from candidates import CALIBRATION, NO_PROMPTS, candidates
from roofline import operations, products, rate, shape_of, where
from shared_data import SENTENCES, STS, known_here, lines_of, model_folder, write_here

from eval import STSSet, evaluate_sts, load_sts
from retrieval import Engine
from retrieval.compiled.encoder import compiled_encoder
from retrieval.compiled.scorer import compiled_scorer
from retrieval.console import note, say
from retrieval.models import locate
from retrieval.moments import unit_rows

MODELS = ("all-MiniLM-L6-v2", "all-mpnet-base-v2", "multilingual-e5-small-q4deq")
ROUNDS = 5
BASELINE = "SentenceTransformer.encode"
SETS = ("sts12", "sts13", "sts14", "sts15", "stsb-en")


def medians(ways: dict[str, Callable[[], object]], rounds: int = ROUNDS) -> dict[str, float]:
    """Seconds of each way, the median of rounds in which each has its turn."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            times[name].append(time.perf_counter() - start)
    return {name: statistics.median(values) for name, values in times.items()}


@click.group()
def main() -> None:
    """Measure."""
    say(quiet=False)


@main.command()
@click.argument("model")
@click.option("--pairs", default=600, show_default=True)
def pairs(model: str, pairs: int) -> None:
    """Pairs a second of a cross-encoder, against CrossEncoder.predict as it comes."""
    from sentence_transformers import CrossEncoder
    from torch import nn

    some = lines_of(SENTENCES, pairs + 1)
    firsts, seconds_ = some[:-1], some[1:]
    theirs = CrossEncoder(str(locate(model).folder), device="cpu")
    both = list(zip(firsts, seconds_, strict=True))

    def predicted() -> Any:
        return theirs.predict(both, activation_fn=nn.Identity(), show_progress_bar=False)

    ways: dict[str, Callable[[], Any]] = {"CrossEncoder.predict": predicted}
    for precision in ("float32", "bfloat16"):
        scorer = compiled_scorer(locate(model), precision)
        if scorer is not None and scorer.precision == precision:
            ways[f"compiled, {precision}"] = lambda s=scorer: s.scores(firsts, seconds_)
    expected, found = ways["CrossEncoder.predict"](), medians(ways)
    rows = [
        {
            "way": way, "pairs a second": round(pairs / seconds, 1),
            "times": round(found["CrossEncoder.predict"] / seconds, 2),
            "correlation": round(float(np.corrcoef(ways[way](), expected)[0, 1]), 6),
        }
        for way, seconds in found.items()
    ]  # fmt: skip
    for row in rows:
        note(str(row))
    write_here("encoding", {"pairs": rows})


@main.command()
@click.option("--documents", default=10_000, show_default=True)
def cold(documents: int) -> None:
    """Wall time of a process that answers one question, against one that only imports sentence_transformers."""
    with tempfile.TemporaryDirectory() as folder:
        index = Path(folder) / "index"
        Engine.build(lines_of(SENTENCES, documents), index, model=MODELS[0]).close()
        program = Path(sys.executable).with_name("retrieval")
        ways: dict[str, Callable[[], object]] = {
            "import sentence_transformers": lambda: subprocess.run(
                [sys.executable, "-c", "import sentence_transformers"], check=True
            ),
            "retrieval query": lambda: subprocess.run(
                [program, "query", index, "a whale in the sea"], check=True, capture_output=True
            ),
            "Engine.open and search": lambda: subprocess.run(
                [sys.executable, "-c", f"from retrieval import Engine; Engine.open({str(index)!r}).search('a whale')"],
                check=True,
            ),
        }
        found = {name: round(seconds, 3) for name, seconds in medians(ways).items()}
    note(str(found))
    write_here("encoding", {"cold, seconds": found, "documents": documents})


@main.command()
@click.option("--model", "name", type=click.Choice(MODELS), default=MODELS[0], show_default=True)
@click.option("--texts", default=1000, show_default=True)
@click.option("--rounds", default=ROUNDS, show_default=True)
@click.option("--set", "sets", multiple=True, type=click.Choice(SETS), default=SETS, help="Of STS; all by default.")
def texts(name: str, texts: int, rounds: int, sets: Sequence[str]) -> None:
    """Every way to run one model on the same texts, what each loses, and how near it comes to a matrix product."""
    from sentence_transformers import SentenceTransformer

    lines = lines_of(SENTENCES, texts + CALIBRATION)
    some, calibration = lines[:texts], lines[texts:]
    files = locate(name if name == MODELS[0] else model_folder(name))
    model = SentenceTransformer(str(files.folder), device="cpu")
    ways: dict[str, Callable[[Sequence[str]], Any]] = {BASELINE: lambda given: model.encode(list(given))}
    ours = {}
    for precision in ("float32", "bfloat16"):
        encoder = compiled_encoder(files, prompts=NO_PROMPTS, precision=precision)
        if encoder is None:
            raise click.ClickException("it is not compiled here; install OpenVINO and onnxscript")
        if encoder.precision == precision:
            ours[precision] = encoder
            ways[f"OpenVINO, {precision}"] = lambda given, e=encoder: e.encode(given).vectors
        else:
            note(f"{precision}: not on this machine")
    best = list(ours.values())[-1]
    with tempfile.TemporaryDirectory() as folder:
        ways |= candidates(files, best, calibration, Path(folder))
        shape = shape_of(model)
        beside = products(shape["width"], list(ours))
        found = medians({way: lambda w=way: ways[w](some) for way in ways} | beside, rounds)
        theirs = unit_rows(ways[BASELINE](some))
        cosines = {way: float((unit_rows(run(some)) * theirs).sum(axis=1).min()) for way, run in ways.items()}
        spearman = {}
        english: list[STSSet] = [load_sts(STS / one, split="test")[0] for one in sets]
        for way, run in ways.items():
            spearman[way] = 100 * evaluate_sts(run, english, resamples=0).mean
            note(f"{name}, {way}: {texts / found[way]:.0f} texts a second, Spearman {spearman[way]:.3f}")
    rates = {one: round(rate(shape["width"], found[one]), 1) for one in beside}
    roofline = {precision: max(rates[one] for one in rates if one.startswith(precision)) for precision in ours}
    lengths = [len(ids) for ids in model.tokenizer(some, truncation=True, max_length=model.max_seq_length)["input_ids"]]
    needed = operations(lengths, **shape) / 1e9
    rows = []
    for way, run_in in ((way, found[way]) for way in ways):
        row: dict[str, Any] = {
            "way": way, "texts a second": round(texts / run_in, 1), "times": round(found[BASELINE] / run_in, 2),
            "least cosine": round(cosines[way], 6), "mean Spearman": round(spearman[way], 3),
            "loss": round(spearman[BASELINE] - spearman[way], 3), "GFLOP/s": round(needed / run_in, 1),
        }  # fmt: skip
        kind = way.removeprefix("OpenVINO, ")
        rows.append(row | ({"of the roofline": round(needed / run_in / roofline[kind], 3)} if kind in ours else {}))
    made = {
        "texts": texts, "tokens a text": round(float(np.mean(lengths)), 2), "GFLOP a text": round(needed / texts, 4),
        "shape": shape, "sets": list(sets), "rounds": rounds, "calibration": CALIBRATION, "rows": rows,
        "product": [shape["width"], 4 * shape["width"]], "products, GFLOP/s": rates, "roofline": roofline,
        "where": where(best, some, shape), "versions": installed("openvino", "onnxruntime", "nncf"),
    }  # fmt: skip
    note(str({name: value for name, value in made.items() if name != "rows"}))
    write_here("encoding", {"texts": known_here("encoding").get("texts", {}) | {name: made}})


def installed(*packages: str) -> dict[str, str]:
    """Their versions, of those that are."""
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
