"""Answers on standard output: a table for people, JSON for programs, TREC runs for evaluation tools."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from indexes.errors import InputError

from .hit import Hit


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A query, its hits and what they cost.

    Parameters
    ----------
    query_id : str
    query : str
    hits : sequence of Hit
    stats : mapping
        "cross_encoder_calls" and "ms": milliseconds of each stage, a batch's time shared out evenly.
    """

    query_id: str
    query: str
    hits: Sequence[Hit]
    stats: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """The answer as one JSON object."""
        hits = [
            {
                ("id" if name == "doc_id" else name): value
                for name, value in asdict(hit).items()
                if name != "path" or value
            }
            for hit in self.hits
        ]
        return {"query_id": self.query_id, "query": self.query, "hits": hits, "stats": self.stats}


_CONTROLS: Final = dict.fromkeys([*range(32), *range(127, 160)], "\N{REPLACEMENT CHARACTER}")


def write_table(answers: Iterable[Answer], explain: bool = False) -> None:
    """One table a query: rank, score, id, text; explained, also what each score is made of, and what it cost."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=io.StringIO(), width=None if sys.stdout.isatty() else 100, highlight=False)
    for answer in answers:
        table = Table(
            title=Text(_plain(answer.query)),
            title_justify="left",
            title_style="bold",
            box=None,
            pad_edge=False,
            expand=True,
        )
        table.add_column("rank", justify="right", min_width=4)
        table.add_column("score", justify="right", min_width=6)
        names = dict.fromkeys(name for hit in answer.hits for name in hit.scores) if explain else {}
        parts = [name for name in names if name != "cross_encoder"]  # that is the score
        for name in parts:
            table.add_column(name, justify="right")
        table.add_column(
            "id", overflow="fold", min_width=min(40, max((len(hit.doc_id) for hit in answer.hits), default=2))
        )
        table.add_column("text", no_wrap=True, overflow="ellipsis", ratio=1)
        for hit in answer.hits:
            made_of = [_part(hit.scores.get(name)) for name in parts]
            table.add_row(str(hit.rank), f"{hit.score:.3f}", *made_of, Text(_plain(hit.doc_id)), Text(_plain(hit.text)))
            for depth, step in enumerate(hit.path if explain else ()):
                over = Text(f"{'  ' * depth}over {_plain(step['id'])}: {_plain(step['text'])}", style="dim")
                table.add_row("", "", *("" for _ in parts), "", over)
        with console.capture() as captured:
            console.print(table if answer.hits else Text(f"{_plain(answer.query)}\nno hits"))
        sys.stdout.write("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")
        sys.stdout.write(f"{_cost(answer.stats)}\n\n" if explain else "\n")


def _part(value: float | None) -> str:
    return "" if value is None else str(value) if isinstance(value, int) else f"{value:.3f}"


def _cost(stats: dict[str, Any]) -> str:
    """What an answer cost, in a line."""
    ms = ", ".join(f"{name} {value:.1f} ms" for name, value in stats["ms"].items())
    counts = [
        f"{name.replace('cross_encoder_', 'cross-encoder ')} {value}" for name, value in stats.items() if name != "ms"
    ]
    return f"{', '.join(counts)}; {ms}"


def _plain(text: str) -> str:
    """On one line, and without characters that a terminal would obey."""
    return " ".join(text.split()).translate(_CONTROLS)


def write_json(answers: Iterable[Answer], explain: bool = False) -> None:
    """All answers as one JSON array."""
    json.dump([answer.to_dict() for answer in answers], sys.stdout, ensure_ascii=False, indent=2)
    sys.stdout.write("\n")


def write_jsonl(answers: Iterable[Answer], explain: bool = False) -> None:
    """One JSON object a query and line, as soon as it is known."""
    for answer in answers:
        sys.stdout.write(json.dumps(answer.to_dict(), ensure_ascii=False) + "\n")
        sys.stdout.flush()


def write_trec(answers: Iterable[Answer], explain: bool = False) -> None:
    """A TREC run: query id, Q0, document id, rank, score, tag.

    Raises
    ------
    InputError
        If an id holds white space, which the format cannot hold.
    """
    for answer in answers:
        for hit in answer.hits:
            for what, value in (("query", answer.query_id), ("document", hit.doc_id)):
                if value.split() != [value]:
                    raise InputError(
                        f"{what} id {value!r} holds white space, which a TREC run cannot; use --format jsonl"
                    )
            sys.stdout.write(f"{answer.query_id} Q0 {hit.doc_id} {hit.rank} {hit.score:.6f} sentence-retrieval\n")


WRITERS: Final[dict[str, Callable[[Iterable[Answer], bool], None]]] = {
    "table": write_table,
    "json": write_json,
    "jsonl": write_jsonl,
    "trec": write_trec,
}
