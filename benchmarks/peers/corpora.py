"""The texts and the queries: English sentences, asked with others of the same file; and scifact with judgements."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from shared_data import RETRIEVAL, SENTENCES

from eval import load_retrieval

from .systems import CACHE

QUERIES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """A file of documents, and what is asked of them.

    Parameters
    ----------
    name : str
        Also of its folder.
    path : Path
        JSON lines of id and text.
    queries : dict of str to str
        Texts by id.
    qrels : dict of dicts
        Judgements by query and document; empty, if nobody judged.
    """

    name: str
    path: Path
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]

    @property
    def folder(self) -> Path:
        return self.path.parent


@cache
def sentences() -> list[str]:
    """The distinct lines of the file, in an order of chance (seed 0)."""
    with gzip.open(SENTENCES, "rt", encoding="utf-8") as file:
        lines = list(dict.fromkeys(line.strip() for line in file))
    found = [line for line in lines if line]
    random.Random(0).shuffle(found)
    return found


def of_sentences(size: int) -> Corpus:
    """The first so many sentences behind those that are the queries."""
    asked, texts = sentences()[:QUERIES], sentences()[QUERIES : QUERIES + size]
    queries = {f"q{i}": query for i, query in enumerate(asked)}
    path = written(str(size), ({"id": str(i), "text": text} for i, text in enumerate(texts)))
    return Corpus(name=f"{size:,} sentences", path=path, queries=queries, qrels={})


def scifact() -> Corpus:
    """Abstracts with their titles, and the judged claims."""
    judged = load_retrieval(RETRIEVAL / "scifact")
    with (RETRIEVAL / "scifact" / "corpus.jsonl").open(encoding="utf-8") as lines:
        documents = [json.loads(line) for line in lines]
    rows = ({"id": row["_id"], "text": f"{row['title']} {row['text']}".strip()} for row in documents)
    qrels = {query_id: dict(of) for query_id, of in judged.qrels.items()}
    return Corpus(name="scifact", path=written("scifact", rows), queries=dict(judged.queries), qrels=qrels)


def written(name: str, rows: Iterable[dict[str, str]]) -> Path:
    """The file of a corpus, in a folder of its own."""
    path = CACHE / name / "corpus.jsonl"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
