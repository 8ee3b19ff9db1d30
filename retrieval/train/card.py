"""What is written beside a trained model: its card, for people, and the same as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .run_folder import Epoch
    from .training import Training

EXAMPLES = {
    "encoder": (
        "An encoder",
        "sentence-similarity",
        'SentenceTransformer("{name}").encode(["a text", "another"])',
    ),
    "cross-encoder": (
        "A cross-encoder",
        "text-ranking",
        'CrossEncoder("{name}").predict([("a text", "another")])  # raw logits, higher is more alike',
    ),
}
SHOWN = ("method", "loss", "epochs", "batch_size", "lr", "warmup", "max_length", "seed")
WORSE = "**On the dev pairs the model that it was trained from is better.**\n\n"


def card(training: Training) -> str:
    """A model card in Markdown, with the front matter that model hubs read."""
    settings, name = training.settings, training.path.name
    what, task, example = EXAMPLES[settings["kind"]]
    dev = settings["dev"]
    return f"""---
library_name: sentence-transformers
pipeline_tag: {task}
tags: [sentence-transformers, {settings["kind"]}]
---

# {name}

{what} trained from `{settings["model"]}` with the loss `{settings["loss"]}`.

```python
from sentence_transformers import {example.split("(")[0]}

{example.format(name=name)}
```

## Data

| set | pairs | labels | SHA-256 of pairs and labels (first 16 digits) |
|---|---|---|---|
{_rows([s["name"], s["pairs"], s["labels"], s["digest"]] for s in [*settings["train"], *([dev] if dev else [])])}

{f"The last is for choosing the epoch; {training.leaked} of its pairs are also trained on." if dev else ""}

## Settings

| | |
|---|---|
{_rows([key.replace("_", " "), settings[key]] for key in SHOWN if settings[key] is not None)}
{_rows([["scale", training.scale], ["precision", training.precision]])}

## Epochs

| epoch | loss | dev Spearman x 100 | seconds |
|---|---|---|---|
{_rows(_epoch(epoch, training.best_epoch) for epoch in training.epochs)}

{WORSE if training.worse else ""}Versions: {", ".join(f"{key} {value}" for key, value in training.made_by.items())}.
"""


def _rows(cells: Iterable[Iterable[object]]) -> str:
    return "\n".join("| " + " | ".join(map(str, row)) + " |" for row in cells)


def _epoch(epoch: Epoch, kept: int) -> tuple[str, str, str, str]:
    return (
        "before" if epoch.number == 0 else f"{epoch.number}{' (kept)' if epoch.number == kept else ''}",
        "" if epoch.loss is None else f"{epoch.loss:.4f}",
        "" if epoch.dev_spearman is None else f"{100 * epoch.dev_spearman:.2f}",
        f"{epoch.seconds:.0f}",
    )


def record(training: Training) -> str:
    """The same as JSON."""
    return json.dumps(training.to_dict(), indent=2, ensure_ascii=False) + "\n"
