"""Whitening on sentence pairs: what is kept at each k, by what it was fitted on.

    python benchmarks/whitening_sts.py [MODEL ...]

MODEL: all-MiniLM-L6-v2, all-mpnet-base-v2, multilingual-e5-small-q4deq (default: those that are there; the last two
are looked up in the folder RETRIEVAL_MODELS). Needs the test data (RETRIEVAL_SHARED, default ../shared).

For each fit the cell of each k is the one that is best on the dev pairs of STS-B (stsb-zh for Chinese), and
is reported on the test pairs of five sets that were not looked at. Writes benchmarks/results/whitening_sts.json
and docs/images/whitening-*.png.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
from remembering import Remembering
from shared_data import SENTENCES, SHARED, STS, earlier, has_model, lines_of, model_folder, sentences_of, write_result

from eval import STSSet, evaluate_sts, load_sts, tune_whitening
from eval.tuning import PairObjective
from retrieval.encoder import load_encoder
from retrieval.grid import Rotation
from retrieval.halves import HalvesObjective, judged_by_halves
from retrieval.moments import Moments
from retrieval.whitening import Whitening

IMAGES = Path(__file__).resolve().parent.parent / "docs" / "images"
ENGLISH = ("stsb-en", "sts12", "sts13", "sts14", "sts15")
CHINESE = ("stsb-zh", "lcqmc", "bq", "pawsx-zh", "atec-ccks")
PAIRS, TEXT = SHARED / "data" / "pairs", SHARED / "data" / "text"
HOME = "all-MiniLM-L6-v2"  # comes as a package
SAMPLE = 30_000  # lines of a text file that are fitted on

Texts = Callable[[], list[list[str]]]  # one list a corpus; several are blended, each with the same weight
FITS: dict[str, dict[str, Texts]] = {
    "english": {
        "own sentences (stsb-en train)": lambda: [sentences_of(STS / "stsb-en" / "train.tsv")],
        "SNLI": lambda: [sentences_of(PAIRS / "nli-snli-en-devtest.tsv")],
        "general": lambda: [lines_of(SENTENCES, SAMPLE)],
        "SNLI + general": lambda: [
            sentences_of(PAIRS / "nli-snli-en-devtest.tsv"),
            lines_of(SENTENCES, SAMPLE),
        ],
    },
    "chinese": {
        "own sentences (train or dev of the five)": lambda: [
            sentences_of(STS / "stsb-zh" / "train.tsv"),
            *(sentences_of(STS / name / "dev.tsv") for name in CHINESE[1:]),
        ],
        "SNLI-zh": lambda: [sentences_of(PAIRS / "nli-snli-zh-devtest.tsv")],
        "general": lambda: [lines_of(TEXT / "zh-sentences.txt.gz", SAMPLE)],
        "SNLI-zh + general": lambda: [
            sentences_of(PAIRS / "nli-snli-zh-devtest.tsv"),
            lines_of(TEXT / "zh-sentences.txt.gz", SAMPLE),
        ],
    },
}
MODELS = {
    "all-MiniLM-L6-v2": ("english", ENGLISH),
    "all-mpnet-base-v2": ("english", ENGLISH),
    "multilingual-e5-small-q4deq": ("chinese", CHINESE),
}


@click.command()
@click.argument("models", nargs=-1, type=click.Choice(list(MODELS)))
def main(models: tuple[str, ...]) -> None:
    done = {result["model"]: result for result in earlier("whitening_sts").get("models", [])}
    for name in models or MODELS:
        if not models and name != HOME and not has_model(name):
            click.echo(f"{name} was left out: RETRIEVAL_MODELS names no folder that holds it", err=True)
            continue
        done[name] = of_model(name)
        write_result("whitening_sts", {"models": [done[each] for each in MODELS if each in done]})


def of_model(name: str) -> dict[str, Any]:
    language, names = MODELS[name]
    encoder = Remembering(load_encoder(name if name == HOME else model_folder(name)))
    sets = [pairs for set_name in names for pairs in load_sts(STS / set_name)]
    raw = evaluate_sts(encoder, sets)
    print(f"\n{name}\n{raw.to_text()}", flush=True)
    fits = {
        fit: of_fit(name, encoder, fit, texts(), sets, raw.mean, STS / names[0])
        for fit, texts in FITS[language].items()
    }
    return {"model": name, "raw": raw.to_dict() | {"model": name}, "fits": fits}


def of_fit(
    name: str, encoder: Any, fit: str, corpora: list[list[str]], sets: list[STSSet], raw: float, dev: Path
) -> dict[str, Any]:
    parts = [encoder.encode(texts, "query").vectors for texts in corpora]  # in the order of the file, as a build has it
    moments = Moments.blend([Moments.of(vectors, local=True) for vectors in parts])
    tuning = tune_whitening(encoder, dev, fit=moments)
    d = encoder.dim
    fitted = {text for texts in corpora for text in texts}
    unseen = [some for pairs in sets if (some := without(pairs, fitted))]
    vectors = {text: None for pairs in (*sets, *unseen) for text in (*pairs.sentences1, *pairs.sentences2)}
    encoder.encode(list(vectors), "query")
    everything, rest = (objective(encoder, some) for some in (sets, unseen))
    rest_raw = score(rest, None)
    rng = np.random.default_rng(0)
    texts = [text for some in corpora for text in some]
    halves = HalvesObjective(np.concatenate(parts), lambda rows: [texts[i] for i in rows], encoder)
    by_halves = judged_by_halves(moments, halves, tuning.dims)
    random = [Rotation(np.zeros(d), np.linalg.qr(rng.standard_normal((d, d)))[0]) for _ in range(5)]
    rows = []
    for cell in tuning.per_dim:
        k = cell.dim
        whitening = cell.whitening().fit(moments)
        pca = Whitening(k, beta=1.0).fit(moments)
        chosen = max((c for c in by_halves if c.dim == k), key=lambda c: (round(c.score, 6), -c.gamma))
        unlabelled = chosen.whitening().fit(moments)
        cut = Rotation(np.zeros(d), np.eye(d))
        chance = np.mean([everything.scores(r, np.ones((1, d)), [k]) for r in random])
        rows.append(
            {
                "dim": k, "beta": cell.beta, "gamma": cell.gamma, "local": cell.local,
                "dev_less_raw": hundredths(cell.score - tuning.raw),
                "mean": hundredths(score(everything, whitening)),
                "less_raw": hundredths(score(everything, whitening) - raw),
                "unseen_less_raw": hundredths(score(rest, whitening) - rest_raw),
                "without_labels_gamma": chosen.gamma,
                "without_labels_less_raw": hundredths(score(everything, unlabelled) - raw),
                "pca_less_raw": hundredths(score(everything, pca) - raw),
                "first_columns_less_raw": hundredths(everything.scores(cut, np.ones((1, d)), [k])[0, 0] - raw),
                "random_less_raw": hundredths(chance - raw),
            }
        )  # fmt: skip
        print(f"{fit:<34} {rows[-1]}", flush=True)
    return {
        "n_fitted": moments.count,
        "unseen_pairs": sum(map(len, unseen)),
        "rows": rows,
        **certainty(encoder, sets, moments, tuning, name, fit),
    }


def certainty(encoder: Any, sets: list[STSSet], moments: Moments, tuning: Any, name: str, fit: str) -> dict[str, Any]:
    """A paired bootstrap at a third of the columns, and the picture, where the fit is on the set's own sentences."""
    if not fit.startswith("own"):
        return {}
    IMAGES.mkdir(exist_ok=True)
    third = min(tuning.dims, key=lambda k: abs(k - encoder.dim / 3))
    tuning.plot(IMAGES / f"whitening-{name}.png", dim=third)
    whitening = tuning.whitening(third)
    one, other = (evaluate_sts(encoder, sets, whitening=w, resamples=0) for w in (whitening, None))
    found = one.compare(other)
    interval = [hundredths(bound) for bound in found.interval]
    print(f"k = {third} less raw: {hundredths(found.difference)}, 95 % {interval}, p {found.p_value}", flush=True)
    return {"dim": third, "interval": interval, "p_value": found.p_value}


def objective(encoder: Any, sets: list[STSSet]) -> PairObjective:
    sides = ((encoder.encode(s.sentences1, "query"), encoder.encode(s.sentences2, "query"), s.scores) for s in sets)
    return PairObjective([(one.vectors, two.vectors, scores) for one, two, scores in sides])


def score(pairs: PairObjective, whitening: Whitening | None) -> float:
    """The mean Spearman of the sets by a fitted whitening, or of the vectors as they are."""
    if whitening is None:
        d = pairs.dim
        return float(pairs.scores(Rotation(np.zeros(d), np.eye(d)), np.ones((1, d)), [d])[0, 0])
    rotation = Rotation(whitening.beta * whitening.mean_, whitening.kernel.astype(np.float64))
    k = whitening.kernel.shape[1]
    return float(pairs.scores(rotation, np.ones((1, k)), [k])[0, 0])


def without(pairs: STSSet, fitted: set[str]) -> STSSet | None:
    """The pairs of which neither sentence was fitted on."""
    keep = [i for i in range(len(pairs)) if not {pairs.sentences1[i], pairs.sentences2[i]} & fitted]
    if len(keep) < 100:
        return None
    return STSSet(
        name=pairs.name,
        sentences1=tuple(pairs.sentences1[i] for i in keep),
        sentences2=tuple(pairs.sentences2[i] for i in keep),
        scores=pairs.scores[keep],
    )


def hundredths(value: float) -> float:
    return round(100 * float(value), 2)


if __name__ == "__main__":
    main()
