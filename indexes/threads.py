"""One thread for what is small.

One query's products take microseconds; the threads of BLAS and OpenMP that were woken for them then wait for more by
spinning, up to 20 ms, on the cores that the next query's encoder needs.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

LIMITING = threading.Lock()


@contextmanager
def one_blas_thread(wanted: bool = True) -> Iterator[None]:
    """BLAS computes with one thread meanwhile, if that is wanted.

    The number is the whole process's. So only one thread at a time lowers it, and puts it back; one that comes
    meanwhile computes with as many as there are.
    """
    if not wanted or not LIMITING.acquire(blocking=False):
        yield
        return
    try:
        with _blas().limit(limits=1):
            yield
    finally:
        LIMITING.release()


@cache
def _blas() -> Any:
    """The BLAS libraries that were loaded by the first use; numpy's is among them."""
    import numpy as np  # noqa: F401  # it must be there to be found
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(user_api="blas")


@contextmanager
def one_openmp_thread(faiss: Any, wanted: bool = True) -> Iterator[None]:
    """FAISS computes with one thread meanwhile, if that is wanted; the number is the calling thread's own."""
    before = faiss.omp_get_max_threads()
    if wanted:
        faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)
