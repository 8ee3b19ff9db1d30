"""An encoder that encodes each text once, across benchmarks and runs; vectors lie in benchmarks/cache."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retrieval.encoder import Encoded, Encoder, Role

CACHE = Path(__file__).resolve().parent / "cache"
CHUNK = 4096  # texts that are encoded and made durable together


class Remembering:
    """Another encoder's vectors, kept in one SQLite file for each fingerprint.

    Parameters
    ----------
    encoder : Encoder
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        for name in ("name", "source", "dim", "max_tokens", "prompts", "fingerprint"):
            setattr(self, name, getattr(encoder, name))
        CACHE.mkdir(exist_ok=True)
        mark = hashlib.sha256(json.dumps(dict(encoder.fingerprint), sort_keys=True).encode()).hexdigest()[:16]
        self._database = sqlite3.connect(CACHE / f"{Path(encoder.name).name}-{mark}.sqlite", timeout=600)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB, truncated INT)")

    def encode(self, texts: Sequence[str], role: Role = "document") -> Encoded:
        keys = {text: self._key(text, role) for text in dict.fromkeys(texts)}
        known = self._known(list(keys.values()))
        new = [text for text, key in keys.items() if key not in known]
        for start in range(0, len(new), CHUNK):
            part = new[start : start + CHUNK]
            vectors, truncated = self._encoder.encode(part, role)
            fresh = {keys[t]: (v, bool(c)) for t, v, c in zip(part, vectors, truncated, strict=True)}
            with self._database:
                self._database.executemany(
                    "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?)",
                    ((key, vector.tobytes(), cut) for key, (vector, cut) in fresh.items()),
                )
            known |= fresh
        rows = [known[keys[text]] for text in texts]
        vectors = np.array([vector for vector, _ in rows], np.float32).reshape(len(rows), self._encoder.dim)
        return Encoded(vectors, np.array([cut for _, cut in rows], np.bool_))

    def _known(self, keys: list[bytes]) -> dict[bytes, tuple[np.ndarray, bool]]:
        found = {}
        for start in range(0, len(keys), 10_000):
            part = keys[start : start + 10_000]
            marks = ",".join("?" * len(part))
            rows = self._database.execute(f"SELECT * FROM vectors WHERE key IN ({marks})", part)
            found |= {key: (np.frombuffer(vector, np.float32), bool(cut)) for key, vector, cut in rows}
        return found

    def _key(self, text: str, role: Role) -> bytes:
        prompt = self._encoder.prompts.get(role, "")
        return hashlib.sha256((prompt + "\0" + text).encode("utf-8", "surrogatepass")).digest()
