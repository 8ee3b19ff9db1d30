"""The one door to FAISS: unit rows in, nearest rows out, by inner product.

A `VectorIndex` is made once from a stream of rows, written once, and then only
read. It knows positions 0 .. n - 1 and nothing of documents. Any FAISS factory
string works that FAISS can search by inner product and filter; `choose` picks one.
A filter ("allowed" positions) is answered exactly when it is selective, whatever the
structure: graphs and lists that are searched approximately lose most of the right
rows behind a narrow selector (measured with HNSW32: recall 0.22 at 0.1 %).

The GPU path (`_to_gpu`) was written by the documentation and could not be run
where this project is developed; it is kept as small as that deserves.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import IndexCorruptError, InputError, MissingPackageError, VectorError

Float32 = NDArray[np.float32]
Int64 = NDArray[np.int64]
Bool = NDArray[np.bool_]

GPU_HITS = 2048
"""FAISS finds no more hits than this on a GPU."""

TRAINED, A_LIST = 65_536, 40
"""Rows that codebooks are trained on, or so many for each list, where there are more lists."""

PROBED = 1 / 8
"""benchmarks/searching.py: recall@10 0.987 with 3,098 lists over 600,000 rows."""

EXACT_SHARE = 0.2
"""A filter that leaves at most this share of the rows is answered by scanning those rows."""


def check_factory(factory: str, dim: int, n: int | None = None) -> Any:
    """An empty FAISS index of this factory string; costs next to nothing, so a typo is found before hours of work.

    Parameters
    ----------
    factory : str
    dim : int
    n : int, optional
        Rows that will come.

    Raises
    ------
    InputError
        If FAISS does not know the factory string, knows it not for this dim and inner product, or cannot train
        it on so few rows.
    MissingPackageError
        If no FAISS is installed.
    """
    faiss = _faiss()
    # subtle: FAISS takes these and ends the whole process later (HNSW1: SIGSEGV, PQ16x0: SIGFPE)
    if re.search(r"(?<!\d)0+(?!\d)|HNSW0*1(?!\d)", factory):
        raise InputError(f"index={factory!r} holds a size of 0 (or HNSW1); expected 1 or more, and 2 or more links")
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_INNER_PRODUCT)
    except (RuntimeError, TypeError) as error:  # TypeError: a lone surrogate
        raise InputError(
            f"index={factory!r} is not a FAISS factory string for {dim} dimensions and inner product "
            f"({_reason(error)}); expected one like Flat, SQ8, HNSW32,Flat, IVF1024,SQ8 or auto"
        ) from error
    core = _core(index)
    if isinstance(core, faiss.IndexIDMap):
        raise InputError(f"index={factory!r}: the catalogue keeps the ids; leave IDMap out")
    additive = faiss.IndexIVFAdditiveQuantizer | faiss.IndexIVFAdditiveQuantizerFastScan
    if isinstance(core, additive | faiss.Index2Layer | faiss.IndexLattice):
        raise InputError(
            f"index={factory!r}: FAISS cannot read back, or not filter, such an index; try IVF1024,PQ32 or HNSW32,SQ8"
        )
    needed = max(getattr(core, "nlist", 0), getattr(getattr(core, "pq", None), "ksub", 0))
    if n is not None and n < needed:
        raise InputError(
            f"index={factory!r} learns from {needed:,} documents or more, but there are {n:,}; try fewer lists, or Flat"
        )
    return index


class VectorIndex:
    """A FAISS index over unit rows, searched by inner product.

    Use `VectorIndex.build` or `VectorIndex.read`.

    Attributes
    ----------
    n, dim : int
    probed : float
        Share of the lists that a search looks at, in a structure of lists; may be set.
    """

    def __init__(self, index: Any) -> None:
        self._index, self.probed = index, PROBED
        self._gpu: Any = None
        self.n, self.dim = int(index.ntotal), int(index.d)

    @classmethod
    def build(
        cls, factory: str, dim: int, sample: Callable[[int], Float32], batches: Iterable[Float32], *, unit: bool = True
    ) -> VectorIndex:
        """Train on a sample if need be, then add every batch in order.

        Parameters
        ----------
        factory : str
            FAISS index factory string, such as "Flat", "HNSW32,SQ8", "IVF1024,PQ32", "RaBitQ".
        dim : int
        sample : callable
            Gives at most so many unit rows, of shape (m, dim), float32, that lists and codebooks are trained on; called
            only for structures that need training.
        batches : iterable of ndarray of shape (b, dim), float32
            Unit rows. The same batches give the same bytes.
        unit : bool, default=True
            Whether a row of another length than one is refused. Rows of any length must be finite, and their index
            is for inner products alone.

        Raises
        ------
        InputError
            If FAISS does not know the factory string or cannot train it on so few rows.
        VectorError
            If a row is not finite or not of length one.
        MissingPackageError
            If no FAISS is installed.
        """
        index = check_factory(factory, dim)
        _tune(index)
        check = check_unit if unit else check_finite
        if not index.is_trained:
            rows = check(sample(max(TRAINED, A_LIST * getattr(_core(index), "nlist", 0))), dim)
            try:
                index.train(rows)
            except RuntimeError as error:
                raise InputError(
                    f"index={factory!r} cannot be trained on {len(rows):,} rows ({_reason(error)}); "
                    "expected more documents, fewer lists, or Flat"
                ) from error
        try:
            for batch in batches:
                index.add(check(batch, dim))
        except RuntimeError as error:
            raise InputError(f"index={factory!r} cannot take rows: {_reason(error)}; try Flat") from error
        return cls(index)

    def write(self, path: Path) -> tuple[int, str]:
        """Write and fsync the index; its size in bytes and its SHA-256 (hex)."""
        faiss, digest, size = _faiss(), hashlib.sha256(), 0
        with path.open("wb") as file:

            def put(data: bytes) -> int:
                nonlocal size
                digest.update(data)
                size += len(data)
                return file.write(data)

            # subtle: no faiss.BufferedIOWriter, which flushes in its destructor, where "no space left" would be lost
            faiss.write_index(self._index, faiss.PyCallbackIOWriter(put))
            file.flush()
            os.fsync(file.fileno())
        return size, digest.hexdigest()

    @classmethod
    def read(cls, path: Path) -> VectorIndex:
        """Read an index. Its checksum must have been verified: FAISS loads a flipped bit without a word.

        Raises
        ------
        IndexCorruptError
            If FAISS cannot read the file.
        """
        faiss = _faiss()
        faiss.set_deserialization_vector_byte_limit(max(2 * path.stat().st_size, 1 << 20))
        try:
            loaded = cls(faiss.read_index(str(path)))
            core = _core(loaded._index)
            if isinstance(core, faiss.IndexIDMap):
                raise RuntimeError("it has ids of its own")
            if not loaded._index.is_trained:
                raise RuntimeError("it was not trained")
            if isinstance(core, faiss.IndexRaBitQ) and (
                core.rabitq.code_size != core.code_size or core.codes.size() != core.ntotal * core.code_size
            ):
                raise RuntimeError("its codes are of another size")
            if isinstance(core, faiss.IndexIVFPQFastScan):
                core.fine_quantizer = core.pq  # FAISS 1.15.1 does not, and decoding ends the process (SIGSEGV)
        except (RuntimeError, MemoryError) as error:
            raise IndexCorruptError(f"{path} cannot be read by FAISS: {_reason(error)}") from error
        loaded._gpu = _to_gpu(loaded._index)
        return loaded

    def search(
        self, queries: Float32, k: int, *, allowed: Bool | None = None, exact: bool = False
    ) -> tuple[Float32, Int64]:
        """The k rows with the largest inner products, best first.

        Parameters
        ----------
        queries : ndarray of shape (q, dim), float32
            Unit rows.
        k : int
        allowed : ndarray of shape (n,), bool, optional
            Only these positions may be found.
        exact : bool, default=False
            Look at every (allowed) row, whatever the structure.

        Returns
        -------
        scores : ndarray of shape (q, min(k, n)), float32
        positions : ndarray of shape (q, min(k, n)), int64
            -1 (and score -inf) where fewer rows than k are allowed.

        Raises
        ------
        VectorError
            If a query is not finite or not of length one.
        """
        faiss = _faiss()
        queries = check_unit(queries, self.dim)
        k = min(k, self.n)
        share = 1.0 if allowed is None or self.n == 0 else float(allowed.mean())
        if k == 0 or share == 0.0 or not len(queries):
            return np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64)
        exact = exact or share <= EXACT_SHARE
        if allowed is None and self._gpu is not None and k <= GPU_HITS:
            scores, positions = self._gpu.search(queries, k)
        elif (exact or allowed is not None) and not _takes_selector(self._index):
            everything = np.arange(self.n) if allowed is None else np.flatnonzero(allowed)
            scores, positions = self._scan(queries, k, everything)
        else:
            selector = None
            if allowed is not None:
                bits = np.packbits(allowed, bitorder="little")
                selector = faiss.IDSelectorBitmap(len(bits), faiss.swig_ptr(bits))
            with _threads_for(len(queries)):
                index, parameters = _plan(self._index, k, selector, share, exact, self.probed)
                scores, positions = index.search(queries, k, params=parameters)
            if positions.max(initial=-1) >= self.n:
                raise IndexCorruptError(f"the vectors' structure names row {positions.max():,} of {self.n:,}")
            if index.metric_type == faiss.METRIC_L2:
                scores = 1.0 - scores / 2.0  # the inner product of unit rows
        found = positions >= 0
        scores, positions = np.where(found, scores, np.float32(-np.inf)), np.where(found, positions, -1)
        short = ~found.all(axis=1)
        if short.any() and not exact:  # the lists or links that were followed hold fewer than k allowed rows
            scores[short], positions[short] = self.search(queries[short], k, allowed=allowed, exact=True)
        return scores, positions

    @property
    def bits(self) -> int:
        """Of each number as it is kept: 32 for the rows themselves, 8 for 8-bit codes, 1 for all coarser ones."""
        faiss, core = _faiss(), _core(self._index)
        if isinstance(faiss.downcast_index(self._index), faiss.IndexPreTransform):  # may drop columns
            return 1
        if isinstance(core, faiss.IndexFlat | faiss.IndexIVFFlat):
            return 32
        quantizer = getattr(core, "sq", None)
        return 8 if quantizer is not None and quantizer.bits >= 8 else 1

    def as_array(self) -> DecodedRows:
        """The rows as unit rows, decoded from their codes when they are asked for by position."""
        self._map()
        return DecodedRows(self._index)

    def scores(self, queries: Float32, positions: Int64) -> Float32:
        """The scores of some positions as `search` has them, by decoding the rows; of shape (q, m)."""
        self._map()
        rows = self._index.reconstruct_batch(np.asarray(positions, np.int64))
        products: Float32 = queries @ rows.T
        if self._index.metric_type == _faiss().METRIC_L2:
            products += (1.0 - np.einsum("nd,nd->n", rows, rows)) / 2.0  # 1 - |q - x|^2 / 2
        return products

    def _map(self) -> None:
        """Have the rows of a structure of lists found by position."""
        ivf = _faiss().try_extract_index_ivf(self._index)
        if ivf is not None:
            try:
                ivf.make_direct_map()
            except RuntimeError as error:
                raise IndexCorruptError(f"the lists of an IVF index name other rows ({_reason(error)})") from error

    def _scan(self, queries: Float32, k: int, positions: Int64) -> tuple[Float32, Int64]:
        """The best of these positions by decoding them: for structures that know no selector."""
        best = np.full((len(queries), k), -np.inf, np.float32)
        where = np.full((len(queries), k), -1, np.int64)
        for start in range(0, len(positions), 65_536):
            part = positions[start : start + 65_536]
            scores = np.hstack([best, self.scores(queries, part)])
            places = np.hstack([where, np.broadcast_to(part, (len(queries), len(part)))])
            order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
            best, where = np.take_along_axis(scores, order, 1), np.take_along_axis(places, order, 1)
        return best, where


class DecodedRows:
    """The rows of a FAISS index, read like an array of shape (n, dim), float32."""

    def __init__(self, index: Any) -> None:
        self._index = index

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def __getitem__(self, positions: Int64) -> Float32:
        try:
            rows: Float32 = self._index.reconstruct_batch(np.asarray(positions, np.int64))
        except RuntimeError as error:
            raise IndexCorruptError(
                f"the vectors' structure does not hold all of its rows ({_reason(error)})"
            ) from error
        unit: Float32 = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


def linear_transform(kernel: Float32, bias: Float32) -> Any:
    """``x -> x @ kernel + bias`` as a faiss.LinearTransform.

    Parameters
    ----------
    kernel : ndarray of shape (d, k), float32
    bias : ndarray of shape (k,), float32

    Raises
    ------
    MissingPackageError
        If no FAISS is installed.
    """
    faiss = _faiss()
    transform = faiss.LinearTransform(*kernel.shape, True)
    faiss.copy_array_to_vector(np.ascontiguousarray(kernel.T).ravel(), transform.A)
    faiss.copy_array_to_vector(bias, transform.b)
    transform.set_is_orthonormal()
    transform.is_trained = True
    return transform


@contextmanager
def _threads_for(queries: int) -> Iterator[None]:
    """FAISS searches a query by one thread; others that were woken for it would spin. The number is the caller's."""
    faiss = _faiss()
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(min(queries, threads))
    try:
        yield
    finally:
        faiss.omp_set_num_threads(threads)


def _takes_selector(index: Any) -> bool:
    """Whether FAISS can search just the allowed rows of this structure, all of them."""
    faiss = _faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexRefine):
        return _takes_selector(index.base_index) and _takes_selector(index.refine_index)
    if isinstance(index, faiss.IndexPreTransform):
        inner = faiss.downcast_index(index.index)
        return not isinstance(inner, faiss.IndexHNSW | faiss.IndexRefine) and _takes_selector(inner)
    if isinstance(index, faiss.IndexHNSW):
        return _takes_selector(index.storage)
    return isinstance(index, faiss.IndexFlat | faiss.IndexScalarQuantizer | faiss.IndexRaBitQ | faiss.IndexIVF)


def _plan(index: Any, k: int, selector: Any, share: float, exact: bool, probed: float) -> tuple[Any, Any]:
    """The index to ask and the parameters to ask it with."""
    faiss = _faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        _, inner = _plan(index.index, k, selector, share, exact, probed)
        return index, faiss.SearchParametersPreTransform(index_params=inner) if inner else None
    if isinstance(index, faiss.IndexRefine):
        if exact:  # the codes below would drop rows before their refined scores are known
            return _plan(index.refine_index, k, selector, share, exact, probed)
        _, inner = _plan(index.base_index, k, selector, share, exact, probed)
        return index, faiss.IndexRefineSearchParameters(k_factor=8, base_index_params=inner)
    if isinstance(index, faiss.IndexHNSW):
        if exact:  # the rows lie in a flat index below the graph
            return faiss.downcast_index(index.storage), selector and faiss.SearchParameters(sel=selector)
        return index, faiss.SearchParametersHNSW(efSearch=int(max(64, 2 * k) / share), sel=selector)
    if isinstance(index, faiss.IndexIVF):
        probes = index.nlist if exact else min(index.nlist, max(8, int(index.nlist * probed / share)))
        return index, faiss.SearchParametersIVF(nprobe=probes, sel=selector)
    return index, selector and faiss.SearchParameters(sel=selector)


def check_unit(rows: Float32, dim: int) -> Float32:
    """The rows, contiguous and in float32, once they are known to be unit rows of this dim.

    Raises
    ------
    VectorError
        If the shape is another one, or a row is not finite or not of length one.
    """
    _check_shape(rows, dim)
    lengths = np.einsum("nd,nd->n", rows, rows)
    bad = ~(np.abs(lengths - 1.0) < 1e-3)  # NaN too
    if bad.any():
        raise VectorError(
            f"vector {int(bad.argmax())} has squared length {lengths[bad.argmax()]}; expected unit rows (length 1)"
        )
    return np.ascontiguousarray(rows, dtype=np.float32)


def check_finite(rows: Float32, dim: int) -> Float32:
    """As `check_unit`, for rows of any length.

    Raises
    ------
    VectorError
        If the shape is another one, or a row is not finite.
    """
    _check_shape(rows, dim)
    bad = ~np.isfinite(rows).all(axis=1)
    if bad.any():
        raise VectorError(f"vector {int(bad.argmax())} holds a number that is not finite")
    return np.ascontiguousarray(rows, dtype=np.float32)


def _check_shape(rows: Float32, dim: int) -> None:
    if rows.ndim != 2 or rows.shape[1] != dim:
        raise VectorError(f"vectors have shape {rows.shape}, but this index holds dim {dim}; expected (n, {dim})")
    if rows.dtype.kind not in "fiub":
        raise VectorError(f"vectors have dtype {rows.dtype}; expected float32")


def _faiss() -> Any:
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise MissingPackageError(
            "FAISS is not installed; install one of its two packages: pip install 'sentence-retrieval[cpu]' "
            "(or, with an NVIDIA GPU, 'sentence-retrieval[gpu]')"
        ) from error
    return faiss


def _to_gpu(index: Any) -> Any:
    """A copy of a flat index on the GPUs; None for other structures and where there is no GPU."""
    faiss = _faiss()
    if not hasattr(faiss, "index_cpu_to_all_gpus") or faiss.get_num_gpus() == 0:
        return None
    return faiss.index_cpu_to_all_gpus(index) if isinstance(faiss.downcast_index(index), faiss.IndexFlat) else None


def _core(index: Any) -> Any:
    """The structure that holds the rows, below transforms, refinements and graphs."""
    faiss = _faiss()
    index = faiss.downcast_index(index)
    if isinstance(index, faiss.IndexPreTransform):
        return _core(index.index)
    if isinstance(index, faiss.IndexRefine):
        return _core(index.base_index)
    return _core(index.storage) if isinstance(index, faiss.IndexHNSW | faiss.IndexNSG) else index


def _tune(index: Any) -> None:
    """Train on few rows without a warning for every codebook on the process's own stderr, and only what is searched."""
    core = _core(index)
    for owner in (core, getattr(core, "pq", None)):
        clustering = getattr(owner, "cp", None)
        if clustering is not None:
            clustering.min_points_per_centroid = 1
    if hasattr(core, "do_polysemous_training"):  # orders PQ codes for Hamming distances: 70 s of 71 (PQ16, 2,000 rows)
        core.do_polysemous_training = False


def _reason(error: Exception) -> str:
    """FAISS's own words, without the C++ signature and source line before them."""
    return re.sub(r"^.*\.(?:cpp|h):\d+:\s*(?:Error: )?", "", str(error).strip(), flags=re.DOTALL)
