"""nDCG@10 and recall@100 of whole indexes on BEIR folders, by whitening, columns and precision.

    python benchmarks/retrieval_quality.py [FOLDER ...] [-m MODEL] [--only WORD]

Without folders: seven sets of the test data (RETRIEVAL_SHARED, default ../shared). Every row is an index that was
built and searched. Writes benchmarks/results/retrieval_quality.json; rows that were not made again stay in it.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import click
from remembering import Remembering
from shared_data import RETRIEVAL, earlier, write_result

from eval import evaluate_retrieval, load_retrieval
from retrieval import Engine, Whitening
from retrieval.encoder import load_encoder
from retrieval.halves import GAMMAS
from retrieval.whitening import DEFAULTS

SETS = ("scifact", "cranfield", "med", "npl-vaswani", "medquad-qa", "bq-dup", "lcqmc-dup")


def variants(d: int) -> dict[str, tuple[Whitening | int | None, str]]:
    """What is compared: a whitening and a structure each."""
    transforms: dict[str, Whitening | int | None] = {"raw": None}
    for k in (round(2 * d / 3), d // 2, round(d / 3), round(d / 6)):
        transforms[f"PCA {k}"] = Whitening(k, beta=1.0)
        transforms[f"whitening {k}"] = k  # all else is chosen from the texts
    for gamma in GAMMAS:  # nothing is chosen
        transforms[f"gamma {gamma:g}, {d // 2}"] = Whitening(d // 2, **(DEFAULTS | {"gamma": gamma}))
    return {
        f"{name}{label}": (whitening, structure)
        for name, whitening in transforms.items()
        for label, structure in (("", "Flat"), (" SQ8", "SQ8"))
    }


@click.command()
@click.argument("folders", nargs=-1, type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("-m", "--model", default="all-MiniLM-L6-v2")
@click.option("--only", default="", help="Only vectors whose name holds this.")
def main(folders: tuple[Path, ...], model: str, only: str) -> None:
    encoder = Remembering(load_encoder(model))
    before = earlier("retrieval_quality")
    kept = before["rows"] if before.get("model") == model else []
    rows: dict[tuple[str, str], dict[str, Any]] = {(row["set"], row["vectors"]): row for row in kept}
    for folder in folders or [RETRIEVAL / name for name in SETS]:
        judged = load_retrieval(folder)
        asked = {"default": ("auto", "auto"), **variants(encoder.dim)}
        for label, (whitening, structure) in asked.items():
            if only not in label:
                continue
            with tempfile.TemporaryDirectory() as temporary:
                index = Path(temporary) / "index"
                with Engine.build(folder, index, model=encoder, whitening=whitening, index=structure) as engine:
                    report, info = evaluate_retrieval(engine, judged), engine.info()
            bits = 8 if info["index"].endswith("SQ8") else 32
            row = {
                "set": folder.name,
                "vectors": label,
                "documents": info["documents"],
                "dim": info["dim"],
                "gamma": (info["whitening"] or {}).get("gamma"),
                "index": info["index"],
                "smaller": round(32 * encoder.dim / (bits * info["dim"]), 1),
                **{name: round(value, 4) for name, value in report.measures.items()},
            }
            rows[row["set"], row["vectors"]] = row
            print(row, flush=True)
    write_result("retrieval_quality", {"model": model, "rows": list(rows.values())})


if __name__ == "__main__":
    main()
