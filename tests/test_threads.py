"""One query is answered by one thread, and then everything is as it was. (With one core there is nothing to see.)"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import faiss
import numpy as np
import pytest
from test_geodesic import texts
from threadpoolctl import threadpool_info

from indexes.errors import InputError
from indexes.threads import one_blas_thread, one_openmp_thread
from retrieval import Engine, engine


def threads() -> tuple[int, int]:
    """Of numpy's BLAS and, in this thread, of FAISS, as they say now."""
    blas = {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas" and "numpy" in one["filepath"]}
    return max(blas, default=1), faiss.omp_get_max_threads()


ALL = threads()


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    yield
    assert threads() == ALL


def test_one_thread_meanwhile_and_all_again_after() -> None:
    with one_blas_thread(), one_openmp_thread(faiss):
        assert threads() == (1, 1)
        with one_blas_thread():
            assert threads() == (1, 1)
        assert threads() == (1, 1)
    assert threads() == ALL
    with one_blas_thread(wanted=False), one_openmp_thread(faiss, wanted=False):
        assert threads() == ALL
    with pytest.raises(ValueError), one_blas_thread(), one_openmp_thread(faiss):
        raise ValueError
    assert threads() == ALL


@pytest.mark.parametrize("leaves_first", [0, 1])
def test_it_is_put_back_whoever_leaves_first(leaves_first: int) -> None:
    """Two that lower it: the second must not take the first's one thread for what was there before."""
    came, leave = [threading.Event(), threading.Event()], [threading.Event(), threading.Event()]

    def use(at: int) -> None:
        with one_blas_thread():
            came[at].set()
            leave[at].wait(30)

    with ThreadPoolExecutor() as pool:
        users = []
        for at in (0, 1):
            users.append(pool.submit(use, at))
            came[at].wait(30)
            assert threads()[0] == 1
        for at in (leaves_first, 1 - leaves_first):
            leave[at].set()
            users[at].result()
    assert threads() == ALL


def test_many_at_once() -> None:
    def use(_: int) -> None:
        with one_blas_thread(), one_openmp_thread(faiss):
            assert threads()[1] == 1

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(use, range(300)))


def test_a_single_query_is_whitened_and_found_by_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    whiten = engine.whiten

    def watched(*given: object) -> object:
        seen.append(threads()[0])
        return whiten(*given)  # type: ignore[arg-type]

    with Engine.build(texts(80), tmp_path / "i", model="hash:32", whitening=8, index="SQ8") as built:
        built.build_graph(4)
        monkeypatch.setattr(engine, "whiten", watched)
        alone = [built.search(query)[0].doc_id for query in ("red fox", "river")]
        built.search("red fox", geodesic=0.5)
        built.search(np.eye(8, dtype=np.float32)[:1])
        assert set(seen) == {1} and len(seen) >= 4
        seen.clear()
        assert [hits[0].doc_id for hits in built.search(["red fox", "river"])] == alone
        assert set(seen) == {ALL[0]}
        with pytest.raises(InputError, match="k=0"):
            built.search("red fox", 0)
