"""The door to FAISS: numpy as the oracle, every structure by name, narrow filters, files that are none, refusals."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError
from functools import cache
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from indexes.errors import IndexCorruptError, InputError, MissingPackageError, VectorError
from indexes.vectors import EXACT_SHARE, FLAT_COMPONENTS, Choice, VectorIndex, check_factory, choose, free_memory

Array = NDArray[Any]

N, DIM, K = 3000, 32, 10
GIB = 1 << 30


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """On a busy machine FAISS's threads wait for each other: 1.5 s instead of 0.1 s for one k-means."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    yield
    faiss.omp_set_num_threads(before)


# ---- helpers: rows in 60 clusters -> an index of them, built once -> answers, compared with a table of all scores


def unit(rows: Array) -> Array:
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def clustered(n: int, dim: int = DIM, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).standard_normal((60, dim))
    return unit(centres[rng.integers(60, size=n)] + 0.35 * rng.standard_normal((n, dim)))


ROWS = clustered(N)
QUERIES = clustered(40, seed=1)
TRUE = QUERIES @ ROWS.T  # (40, 3000)


@cache
def built(factory: str) -> VectorIndex:
    return build(factory)


def build(factory: str, rows: Array = ROWS) -> VectorIndex:
    batches = [rows[:700], rows[700:701], rows[701:]]
    if factory.startswith("NSG"):  # which takes rows only once
        batches = [rows]
    sample = rows[:300] if "OPQ" in factory else rows  # 300 rows: OPQ trains 240 times
    return VectorIndex.build(factory, rows.shape[1], lambda: sample, batches)


@cache
def own_scores(factory: str) -> Array:
    """The score that this structure gives to each query and row, of shape (40, 3000)."""
    scores, positions = built(factory).search(QUERIES, N, exact=True)
    table = np.full((len(QUERIES), N), np.nan, np.float32)
    np.put_along_axis(table, positions, scores, axis=1)
    assert not np.isnan(table).any()
    return table


def are_the_best(found: tuple[Array, Array], table: Array, k: int, allowed: Array | None = None) -> None:
    """Whether these are the k best of the table: rows with the same score (to 1e-5) are interchangeable."""
    scores, positions = found
    usable = np.arange(table.shape[1]) if allowed is None else np.flatnonzero(allowed)
    best = -np.sort(-table[:, usable], axis=1)[:, :k]
    m = best.shape[1]
    assert scores.dtype == np.float32 and positions.dtype == np.int64
    assert scores.shape == positions.shape == (len(table), min(k, table.shape[1]))
    assert np.isin(positions[:, :m], usable).all()
    assert all(len(set(row)) == m for row in positions[:, :m].tolist())
    np.testing.assert_allclose(scores[:, :m], best, atol=1e-5)
    np.testing.assert_allclose(scores[:, :m], np.take_along_axis(table, positions[:, :m], axis=1), atol=1e-5)
    assert (positions[:, m:] == -1).all() and (scores[:, m:] == -np.inf).all()


def recall(found: Array, table: Array, k: int = K) -> float:
    best = np.argsort(-table, axis=1)[:, :k]
    return float(np.mean([len(set(a) & set(b)) / k for a, b in zip(found.tolist(), best.tolist(), strict=True)]))


def mask(share: float, seed: int = 0) -> Array:
    allowed = np.zeros(N, bool)
    allowed[np.random.default_rng(seed).choice(N, round(share * N), replace=False)] = True
    return allowed


def python(code: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own, because FAISS may end it."""
    root = Path(__file__).resolve().parent.parent
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120, check=False)


# factory: (lowest top-10 recall, largest mean error of a score); measured values are about 0.1 better, and half
STRUCTURES: dict[str, tuple[float, float]] = {
    "Flat": (1, 1e-6),
    "SQ8": (0.9, 0.005),
    "SQ4": (0.5, 0.05),
    "SQfp16": (0.98, 1e-3),
    "HNSW32": (0.98, 1e-6),
    "HNSW32,SQ8": (0.9, 0.005),
    "IVF16,Flat": (0.9, 1e-6),
    "IVF16,SQ8": (0.9, 0.005),
    "IVF16_HNSW8,Flat": (0.9, 1e-6),
    "PQ16": (0.5, 0.05),
    "IVF16,PQ16": (0.5, 0.05),
    "OPQ16,IVF16,PQ16": (0.5, 0.05),
    "PQ16x4fs": (0.3, 0.1),
    "IVF16,PQ16x4fs": (0.3, 0.1),
    "HNSW16,PQ16": (0.5, 0.1),
    "OPQ16,HNSW16,PQ16": (0.5, 0.1),
    "NSG16,PQ16": (0.5, 0.1),
    "RaBitQ": (0.3, 0.2),
    "RaBitQ4": (0.6, 0.05),
    "RaBitQfs": (0.3, 0.2),
    "IVF16,RaBitQ": (0.3, 0.2),
    "IVF16,RaBitQfs": (0.3, 0.2),
    "PCA24,Flat": (0.5, 0.1),
    "PCA24,HNSW16,SQ8": (0.5, 0.1),
    "Flat,Refine(Flat)": (1, 1e-6),
    "PQ16x4fs,Refine(SQ8)": (0.8, 0.005),
    "IVF16,PQ4x4,Refine(Flat)": (0.5, 1e-6),
    "HNSW16,SQ8,Refine(Flat)": (0.9, 1e-6),
}
every_structure = pytest.mark.parametrize("factory", STRUCTURES)


if __name__ == "__main__":
    import time

    faiss.omp_set_num_threads(1)
    for factory in STRUCTURES:
        t = time.time()
        index = built(factory)
        t1 = time.time() - t
        s, p = index.search(QUERIES, K)
        err = np.abs(s - np.take_along_axis(TRUE, p, 1))
        a = mask(0.5)
        s2, p2 = index.search(QUERIES, K, allowed=a)
        print(
            f"{factory:28} build {t1:.2f} recall {recall(p, TRUE):.3f} err {err.mean():.4f} max {err.max():.3f} half {recall(p2, np.where(a, TRUE, -9)):.3f} {recall(p2, np.where(a, own_scores(factory), -9)):.3f} total {time.time() - t:.2f}",
            flush=True,
        )
