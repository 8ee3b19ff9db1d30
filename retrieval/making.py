"""Raw vectors into what is searched: encoded, whitened, indexed.

Building, adding, compacting and rebuilding all come through here, so that a row is made in one way only.
Leaves out where documents come from (`retrieval.intake`) and the commit (`indexes.writer`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from indexes.choice import Choice, choose
from indexes.errors import InputError
from indexes.staging import Staging
from indexes.stored import StoredVectors
from indexes.vectors import VectorIndex, check_factory

from .encoder import Encoder, check_encoded
from .halves import choose_whitening
from .moments import Float32, Moments, spread, unit_rows
from .progress import Advance, progress_bar
from .whitening import Whitening

logger = logging.getLogger(__name__)

BATCH = 8192  # rows that are whitened and added together; fixed, so that a build gives the same bytes again
LONGER = "%s longer than %s tokens: %s; what is beyond was not read"

Vectors = NDArray[np.floating[Any]] | StoredVectors
WhiteningChoice = Whitening | int | Literal["auto"] | None


def encode_staged(staging: Staging, encoder: Encoder, dtype: str, progress: bool) -> None:
    """Give every staged document its raw vector, going on where an interrupted run was.

    Raises
    ------
    IndexUnfinishedError
        If vectors of other documents or another model wait to be gone on with.
    """
    staging.begin_vectors(encoder.dim, dtype, _plan(encoder), drop_others=False)
    if staging.encoded:
        logger.info("going on: %s of %s texts were encoded before", f"{staging.encoded:,}", f"{staging.count:,}")
    with progress_bar("encoding", staging.count, progress) as advance:
        advance(done := staging.encoded)
        for texts in staging.chunks():
            staging.put(*check_encoded(encoder.encode(texts), len(texts), encoder.dim))
            advance(staging.encoded - done)
            done = staging.encoded
    if cut := int(staging.truncated().sum()):
        logger.info(LONGER, "documents", encoder.max_tokens, f"{cut:,}")


def _plan(encoder: Encoder) -> dict[str, Any]:
    """What decides the raw vectors of documents: an interrupted build goes on only with the same."""
    parts = {name: value for name, value in encoder.fingerprint.items() if name != "prompts"}
    precision = getattr(encoder, "precision", "float32")
    return {"model": parts, "prompt": encoder.prompts.get("document", ""), "precision": precision}


def check_whitening(whitening: object, *names: str) -> None:
    """Refuse what is neither a whitening, nor a number of columns, nor one of the names, nor None.

    Raises
    ------
    InputError
    """
    known = whitening is None or isinstance(whitening, Whitening | int) and not isinstance(whitening, bool)
    if not known and whitening not in names:
        raise InputError(
            f"whitening={whitening!r}; expected a Whitening, a number of columns, {', '.join(map(repr, names))} or None"
        )


def auto_dim(n: int, d: int) -> int | None:
    """Columns of d that a new index of n documents keeps when nothing was asked for: half of them.

    None where the documents are too few (under two for each column) to tell directions from chance.
    """
    if n < 2 * d:
        logger.info("no whitening: %s documents are fewer than two for each of %s columns", f"{n:,}", d)
        return None
    return max(1, d // 2)


def is_fitted(whitening: Whitening | int | None) -> bool:
    """Whether a whitening comes from elsewhere, fitted."""
    return isinstance(whitening, Whitening) and whitening.is_fitted


def dim_after(whitening: Whitening | int | None, d: int) -> int:
    """Columns that are left of d, known before anything is fitted.

    Raises
    ------
    InputError
        If the whitening is not for vectors of d columns.
    """
    if whitening is None:
        return d
    if isinstance(whitening, int):
        whitening = Whitening(whitening)
    if whitening.is_fitted and len(whitening.mean_) != d:
        raise InputError(
            f"the whitening was fitted on {len(whitening.mean_)} columns, but the model's vectors have {d}"
        )
    k = whitening.dim or d
    if k > d:
        raise InputError(f"dim={k} but the model's vectors have {d} columns; expected dim <= {d}")
    return k


def fitted(
    whitening: Whitening | int | None,
    vectors: Vectors,
    texts_of: Callable[[Sequence[int]], Sequence[str]],
    encoder: Callable[[], Encoder],
    progress: bool,
) -> Whitening | None:
    """The whitening, fitted on the vectors unless it was fitted before; the caller's stays as it is.

    A number of columns is chosen for by the texts (`retrieval.halves`), which the encoder is needed for.
    """
    if whitening is None or (isinstance(whitening, Whitening) and whitening.is_fitted):
        return whitening
    with progress_bar("whitening", len(vectors), progress) as advance:
        if isinstance(whitening, Whitening):
            return whitening.unfitted().fit(batches(vectors, advance))
        moments = Moments.of(batches(vectors, advance), local=True)
    return choose_whitening(moments, vectors, texts_of, encoder(), whitening)  # type: ignore[arg-type]


def structure(requested: str, n: int, dim: int) -> Choice:
    """The FAISS structure of n rows: what was asked for, or what suits them.

    Raises
    ------
    InputError
        If FAISS cannot make what was asked for, or not of so few rows.
    """
    choice = choose(n, dim) if requested == "auto" else Choice(factory=requested, reason="as asked for")
    check_factory(choice.factory, dim, n)
    return choice


def structure_or_auto(requested: str, n: int, dim: int) -> Choice:
    """As `structure`; where the rows are too few for what was asked for, what suits them."""
    try:
        return structure(requested, n, dim)
    except InputError:
        return structure("auto", n, dim)


def index_rows(choice: Choice, vectors: Vectors, whitening: Whitening | None, dim: int, progress: bool) -> VectorIndex:
    """The search structure of some vectors, whitened."""
    with progress_bar("indexing", len(vectors), progress) as advance:
        return VectorIndex.build(
            choice.factory,
            dim,
            lambda most: _sample(vectors, most, whitening, dim),
            (whiten(batch, whitening) for batch in batches(vectors, advance)),
        )


def whiten(raw: NDArray[np.floating[Any]], whitening: Whitening | None) -> Float32:
    """Raw vectors (n, d) as the unit rows (n, k) that are searched."""
    return unit_rows(raw) if whitening is None else whitening.transform(raw)


def batches(vectors: Vectors, advance: Advance) -> Iterator[NDArray[np.floating[Any]]]:
    """The rows, `BATCH` at a time."""
    for start in range(0, len(vectors), BATCH):
        batch = vectors[start : start + BATCH]
        yield batch
        advance(len(batch))


def _sample(vectors: Vectors, most: int, whitening: Whitening | None, dim: int) -> Float32:
    """Evenly spaced rows, whitened piece by piece."""
    chosen = spread(len(vectors), most)
    rows = np.empty((len(chosen), dim), np.float32)
    for at in range(0, len(chosen), BATCH):
        rows[at : at + BATCH] = whiten(vectors[chosen[at : at + BATCH]], whitening)
    return rows
