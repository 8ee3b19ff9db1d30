"""CoSENT's three experiments, re-run with small models, and what a side network is worth: all on the same data.

    RETRIEVAL_MODELS=folder python benchmarks/training.py losses         encoders: CoSENT, cosine, softmax
    RETRIEVAL_MODELS=folder python benchmarks/training.py kinds          encoder against cross-encoder
    RETRIEVAL_MODELS=folder python benchmarks/training.py cross-losses   cross-encoders: CoSENT, cross-entropy
    RETRIEVAL_MODELS=folder python benchmarks/training.py side           side networks on a frozen encoder
    python benchmarks/training.py overlap                                test pairs among those that were trained on

Every run is kept in benchmarks/results/training.json as soon as it is done; a command that was interrupted goes on.
Runs of one seed come before those of the next. Data: RETRIEVAL_SHARED, default ../shared.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import click
import numpy as np
from shared_data import SHARED, STS, earlier, model_folder, overlap, write_result

from eval import STSReport, STSSet, evaluate_sts, load_sts
from retrieval.console import note, say
from retrieval.models import locate
from retrieval.train import train_cross_encoder, train_encoder
from retrieval.train.precision import autocast

SEEDS = (0, 1, 2)
SAMPLE, FEW = 1500, 2000
"""Pairs of a test set that are looked at, and pairs of a Chinese set that are trained on, drawn once."""
TESTS = {"en": ("stsb-en",), "zh": ("stsb-zh", "lcqmc", "bq", "pawsx-zh", "atec-ccks")}
STARTS = {
    "minilm": "all-MiniLM-L6-v2",
    "minilm-2": "the first 2 of its 6 layers: the mean of an inner layer",
    "minilm-4-random": "the first 4 of its layers, the upper 2 of them random",
    "e5": "multilingual-e5-small-q4deq",
}


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training."""

    kind: str
    start: str
    data: str
    loss: str
    seed: int
    epochs: int = 2
    batch_size: int = 32
    lr: float = 5e-5
    scale: float | None = None
    method: str = "full"

    @property
    def key(self) -> str:
        """As the results file has it."""
        return json.dumps(asdict(self), sort_keys=True)


def losses(seed: int) -> Iterator[Run]:
    """Experiment I."""
    cases = [(start, "stsb-en") for start in ("minilm-2", "minilm-4-random", "minilm")]
    for start, data in (*cases, ("e5", "stsb-zh-2k"), ("e5", "atec-2k")):
        # English grades are means over people: no classes
        other = ("cosent", 5.0) if data == "stsb-en" else ("softmax", None)
        for loss, scale in (("cosent", None), ("cosine", None), other):
            yield Run(kind="encoder", start=start, data=data, loss=loss, seed=seed, scale=scale)


def kinds(seed: int) -> Iterator[Run]:
    """Experiment II; the first of each pair is one of experiment I's."""
    english = (("minilm-2", "stsb-en"), ("minilm", "stsb-en"))
    cases = (*english, ("e5", "stsb-zh-2k"), ("e5", "atec-2k"), ("e5", "pawsx-zh"))
    for start, data in cases:
        yield Run(kind="encoder", start=start, data=data, loss="cosent", seed=seed)
        yield Run(kind="cross-encoder", start=start, data=data, loss="cosent", seed=seed, epochs=3)


def cross_losses(seed: int) -> Iterator[Run]:
    """Experiment III."""
    for start in ("minilm-2", "minilm"):
        one = {"kind": "cross-encoder", "start": start, "data": "stsb-en", "seed": seed, "epochs": 3}
        for batch_size in (32, 128) if start == "minilm-2" else (32,):
            for loss, scale in (("cosent", None), ("bce", None), ("cosent", 5.0)):
                yield Run(**one, loss=loss, scale=scale, batch_size=batch_size)


def side(seed: int) -> Iterator[Run]:
    """The training-efficient mode; what it is compared with are experiment I's."""
    for start, data in (("minilm", "stsb-en"), ("e5", "stsb-zh-2k")):
        yield Run(kind="encoder", start=start, data=data, loss="cosent", seed=seed)
        for method in ("ladder", "linear"):
            yield Run(
                kind="encoder", start=start, data=data, loss="cosent", seed=seed, method=method, epochs=10,
                batch_size=128, lr=3e-4,
            )  # fmt: skip


def start_folder(name: str, place: Path) -> str:
    """A model to start from, made of another if need be."""
    if name == "minilm":
        return STARTS[name]
    if name == "e5":
        return model_folder(STARTS[name])
    import torch
    from sentence_transformers import SentenceTransformer

    folder = place / name
    if not folder.exists():
        model = SentenceTransformer(str(locate(STARTS["minilm"]).folder))
        bert = model[0].auto_model
        kept = 4 if name == "minilm-4-random" else 2
        bert.encoder.layer = bert.encoder.layer[:kept]
        bert.config.num_hidden_layers = kept
        if name == "minilm-4-random":
            torch.manual_seed(0)
            for layer in bert.encoder.layer[2:]:
                for module in layer.modules():
                    if isinstance(module, torch.nn.Linear):
                        torch.nn.init.normal_(module.weight, std=bert.config.initializer_range)
                        torch.nn.init.zeros_(module.bias)
                    elif isinstance(module, torch.nn.LayerNorm):
                        module.reset_parameters()
        model.save_pretrained(str(folder), create_model_card=False)
    return str(folder)


def sampled(pairs: STSSet, size: int) -> STSSet:
    """Some of the pairs, always the same."""
    if len(pairs) <= size:
        return pairs
    return pairs.take(np.sort(np.random.default_rng(0).choice(len(pairs), size, replace=False)))


DATA = ("stsb-en", "stsb-zh-2k", "atec-2k", "pawsx-zh")


def data_of(name: str) -> tuple[STSSet, STSSet, list[STSSet]]:
    """Train, dev and test pairs; no test pair is trained on."""
    train, dev, tests = as_it_lies(name)
    return train.without(*tests), dev, tests


def as_it_lies(name: str) -> tuple[STSSet, STSSet, list[STSSet]]:
    """The same, with the test pairs that are among those to train on, as in runs whose "train_pairs" are not noted."""
    language = "en" if name.endswith("-en") else "zh"
    if name == "atec-2k":
        train = sampled(load_sts(SHARED / "data" / "pairs" / "para-atec-zh-train.tsv")[0], FEW)
        dev = load_sts(STS / "atec-ccks", split="dev")[0]
    elif name == "pawsx-zh":  # it has no train split: most of its dev pairs are trained on
        whole = load_sts(STS / name, split="dev")[0]
        rows = np.random.default_rng(0).permutation(len(whole))
        train, dev = whole.take(rows[:1600]), whole.take(rows[1600:])
    else:
        train, dev = (load_sts(STS / name.removesuffix("-2k"), split=split)[0] for split in ("train", "dev"))
        train = sampled(train, FEW) if name.endswith("-2k") else train
    tests = [sampled(load_sts(STS / test, split="test")[0], SAMPLE) for test in TESTS[language]]
    return train, sampled(dev, SAMPLE), tests


def trained(run: Run, place: Path) -> dict[str, Any]:
    """What a run comes to: dev Spearman after each epoch, test Spearman of the epoch kept."""
    train, dev, tests = data_of(run.data)
    train_it = partial(train_encoder, method=run.method) if run.kind == "encoder" else train_cross_encoder
    output = place / "model"
    training = train_it(
        train, output, model=start_folder(run.start, place), dev=dev, loss=run.loss, scale=run.scale, epochs=run.epochs,
        batch_size=run.batch_size, lr=run.lr, seed=run.seed, fresh=True,
        precision="bfloat16" if run.method == "full" else "float32",
    )  # fmt: skip
    report = scored(run.start, str(output), tests)
    shutil.rmtree(output)
    return {
        "run": asdict(run),
        "precision": training.precision,
        "dev": [round(100 * (epoch.dev_spearman or 0), 2) for epoch in training.epochs if epoch.number],
        "train_pairs": len(train),
        "seconds_an_epoch": round(np.mean([epoch.seconds for epoch in training.epochs if epoch.number]), 3),
        "seconds_before": round(sum(epoch.seconds for epoch in training.epochs if not epoch.number), 1),
        "kept": training.best_epoch,
        "test": {score.name: round(100 * score.spearman, 2) for score in report.scores},
    }


def scored(start: str, model: str, tests: list[STSSet]) -> STSReport:
    """Test pairs scored in float32, those of the largest start, three times as quickly, in bfloat16."""
    with autocast("bfloat16" if start == "e5" else "float32"):
        return evaluate_sts(model, tests, resamples=0)


def untrained(name: str, language: str, place: Path) -> dict[str, float]:
    """Test Spearman of a start."""
    tests = [sampled(load_sts(STS / test, split="test")[0], SAMPLE) for test in TESTS[language]]
    report = scored(name, start_folder(name, place), tests)
    return {score.name: round(100 * score.spearman, 2) for score in report.scores}


EXPERIMENTS = {"losses": losses, "kinds": kinds, "cross-losses": cross_losses, "side": side}


def overlaps() -> list[dict[str, Any]]:
    """What each test set shares with what was trained on, before its pairs were taken out of that."""
    found = []
    for name in DATA:
        train, _, tests = as_it_lies(name)
        found += [overlap(replace(train, name=name), test, "test") for test in tests]
    return found


@click.command()
@click.argument("experiment", type=click.Choice([*EXPERIMENTS, "all", "overlap"]))
@click.option("--seeds", type=click.IntRange(1, len(SEEDS)), default=len(SEEDS), show_default=True)
@click.option(
    "--start", multiple=True, type=click.Choice(list(STARTS)), default=list(STARTS), help="Only these starts."
)
def main(experiment: str, seeds: int, start: tuple[str, ...]) -> None:
    """Run one of the experiments, or all, or count test pairs among those that were trained on."""
    say(quiet=False)
    if experiment == "overlap":
        write_result("training", earlier("training") | {"overlap": overlaps()})
        return
    wanted = list(EXPERIMENTS) if experiment == "all" else [experiment]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for seed in SEEDS[:seeds]:
            for run in dict.fromkeys(run for name in wanted for run in EXPERIMENTS[name](seed)):
                result = earlier("training")
                starts, runs = result.get("starts", {}), result.get("runs", {})
                if run.key in runs or run.start not in start:
                    continue
                note(run.key)
                language = "en" if run.data.endswith("-en") else "zh"
                if run.start not in starts and run.kind == "encoder":
                    starts[run.start] = untrained(run.start, language, place)
                runs[run.key] = trained(run, place)
                write_result("training", result | {"sample": SAMPLE, "about": STARTS, "starts": starts, "runs": runs})


if __name__ == "__main__":
    main()
