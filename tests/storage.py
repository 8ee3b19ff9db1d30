"""Small indexes for the tests of `indexes`: a vector is a function of the text, so that answers can be worked out.

Not a conftest: import what you need, ``from storage import build``.
"""

from __future__ import annotations

import hashlib
import json
import random
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from numpy.typing import NDArray

from indexes.bundle import Bundle
from indexes.document import Document
from indexes.manifest import checksum
from indexes.staging import Staging
from indexes.vectors import VectorIndex
from indexes.writer import BundleWriter

Float32 = NDArray[np.float32]
Record = tuple[Document, str, int]
Embed = Callable[[str], Float32]

DIM = 4
PLAN = {"model": {"name": "a test", "fingerprint": "00"}}
WHITENING = ({"dim": DIM, "beta": 1.0, "fitted_below": 0}, b"the whitening's bytes")

# 24 unit rows of dim 4 whose inner products are 0, +-1/2 and +-1, exactly, in float16 as in float32: ties abound
CELLS = np.array([*product((0.5, -0.5), repeat=4), *np.eye(4), *-np.eye(4)], np.float32)


@contextmanager
def no_waiting_for_the_disk() -> Iterator[None]:
    """Nothing is fsynced, which takes some 20 ms on a slow disk; it is a power cut that would tell, not a kill."""

    real = sqlite3.connect

    def connect(path: Any, **how: Any) -> sqlite3.Connection:
        connection = real(path, **how)
        if not how.get("uri"):  # readers wait for nothing
            connection.execute("PRAGMA synchronous = OFF")
        return connection

    with patch("os.fsync", lambda descriptor: None), patch("sqlite3.connect", connect):
        yield


@cache
def cell(text: str) -> Float32:
    """One of the 24 rows of `CELLS`, shape (4,)."""
    return CELLS[hashlib.sha256(text.encode()).digest()[0] % len(CELLS)]


def is_long(text: str) -> bool:
    """What these tests call truncated."""
    return len(text) > 10


def corpus(n: int) -> list[Document]:
    """Documents whose order of ids is not that of their rows; some texts stand there twice."""
    return [
        Document(doc_id=f"{n - i if i % 2 else i:03}", text=f"text {i % 29}", metadata={"kind": "abc"[i % 3], "n": i})
        for i in range(n)
    ]


DOCUMENTS = corpus(40)


def records(documents: Iterable[Document | str], source: str = "corpus.txt") -> Iterator[Record]:
    """Documents as `Staging.add` takes them; a str is a text without an id."""
    for line, each in enumerate(documents, 1):
        yield (Document(text=each) if isinstance(each, str) else each), source, line


def refuse(document: Document, source: str, line: int, reason: str) -> None:
    """For corpora without duplicates."""
    raise AssertionError(f"{source}:{line}: {reason}")


def encode(texts: Sequence[str], embed: Embed = cell) -> tuple[Float32, NDArray[np.bool_]]:
    """Raw vectors (n, dim) and truncated flags (n,)."""
    return np.stack([embed(text) for text in texts]), np.array([is_long(text) for text in texts])


def encode_staged(staging: Staging, embed: Embed = cell, chunks: int | None = None) -> list[list[str]]:
    """Encode what is left, or so many chunks of it; the texts that were asked for, chunk by chunk."""
    asked: list[list[str]] = []
    if chunks != 0:
        for texts in staging.chunks():
            staging.put(*encode(texts, embed))
            asked.append(texts)
            if len(asked) == chunks:
                break
    return asked


def staged(folder: Path) -> list[tuple[int, str, str]]:
    """Row, id and text of what is staged."""
    with closing(sqlite3.connect(folder / "documents.sqlite")) as db:
        return db.execute("SELECT row, id, text FROM documents ORDER BY row").fetchall()


def build(
    folder: Path,
    documents: Iterable[Document | str],
    *,
    embed: Embed = cell,
    dim: int = DIM,
    dtype: str = "float16",
    factory: str = "Flat",
    keep_raw: bool = True,
    whitening: tuple[dict[str, Any], bytes] | None = WHITENING,
) -> list[str]:
    """Build an index whose searched rows are the raw vectors; the texts that were asked for."""
    with BundleWriter(folder) as writer:
        staging = writer.staging
        staging.add(records(documents), refuse)
        staging.begin_vectors(dim, dtype, PLAN)
        asked = encode_staged(staging, embed)
        vectors = staging.raw().astype(np.float32)
        index = VectorIndex.build(factory, dim, lambda most: vectors, [vectors])
        publish = staging.publish_raw if keep_raw else None
        segment = writer.write_segment(
            index, factory, np.arange(staging.count), {} if publish is None else {"raw": publish}
        )
        parameters, data = (None, None) if whitening is None else whitening
        writer.commit(
            [segment],
            model={"name": "a test", "source": "none", "dim": dim, "prompts": {}, "fingerprint": {}},
            dim=dim,
            whitening=parameters,
            whitening_file=None if data is None else writer.write_whitening(data),
            index={"requested": factory, "factory": factory, "reason": "as asked for"},
            raw=dtype if keep_raw else None,
            made_by={"numpy": "2"},
        )
    return [text for texts in asked for text in texts]


def delete(folder: Path, ids: Iterable[str]) -> int:
    """Delete documents in one commit; the new generation."""
    with closing(Bundle(folder)) as bundle, BundleWriter(folder, bundle) as writer:
        rows = np.array(sorted(bundle.rows_of(list(ids)).values()), np.int64)
        return writer.commit(bundle.manifest.segments, dead=rows, made_by={"numpy": "2"}).generation


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Alter a manifest as a stranger could who knows about checksums; the seal goes, as it would not fit any more."""
    with closing(sqlite3.connect(folder / "catalogue.sqlite")) as db, db:
        values = json.loads(db.execute("SELECT manifest FROM commits").fetchone()[0])
        change(values)
        text = json.dumps(values)
        db.execute("UPDATE commits SET manifest = ?, sha256 = ?", [text, checksum(text)])
    (folder / "catalogue.seal").unlink(missing_ok=True)


def nearest(documents: Sequence[Document], query: Float32, k: int, embed: Embed = cell) -> list[tuple[str, float]]:
    """The oracle: (id, score) of the k nearest, score descending, then id; no FAISS, no SQLite."""
    scored = [(str(each.doc_id), round(float(embed(each.text) @ query), 6)) for each in documents]
    return sorted(scored, key=lambda pair: (-pair[1], pair[0]))[:k]


def answers(bundle: Bundle, queries: Float32, k: int, **how: Any) -> list[list[tuple[str, float]]]:
    """(id, score) of what is found for each query."""
    return [[(found.document.doc_id, found.score) for found in hits] for hits in bundle.search(queries, k, **how)]


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its bytes; the lock file holds nothing."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != "write.lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def flips(data: bytes, count: int, seed: int) -> Iterator[tuple[int, bytes]]:
    """The same bytes with one bit flipped, at so many random places of what is not zero, and where (in bits)."""
    written = [position for position in range(8 * len(data)) if data[position // 8]]
    for position in random.Random(seed).sample(written, count):
        damaged = bytearray(data)
        damaged[position // 8] ^= 1 << position % 8
        yield position, bytes(damaged)
