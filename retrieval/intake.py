"""A corpus into the staging area: every record read, checked and counted before a model runs.

Leaves out how files are read (`retrieval.corpora`) and how documents are staged
(`indexes.staging`); decides what happens to a bad record.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from os import PathLike, fspath
from pathlib import Path
from typing import Any, Literal, cast

from indexes.document import Document
from indexes.errors import DuplicateIdError, InputError
from indexes.staging import Staging

from .corpora import Fields, Format, file_of, read_corpus, read_records
from .progress import progress_bar
from .records import OnReject, Record, Reject
from .streams import written_aside

logger = logging.getLogger(__name__)

Corpus = str | PathLike[str] | Iterable[Any]


def stage_corpus(
    staging: Staging,
    corpus: Corpus,
    *,
    format: Format | None,
    fields: Fields,
    on_error: Literal["fail", "skip"],
    rejects: str | PathLike[str] | None,
    progress: bool,
) -> None:
    """Put every document of a corpus into the staging area.

    Parameters
    ----------
    corpus : path, list of Path, or iterable of documents
        A str is a path; a list of str is a list of texts.
    on_error, rejects
        "fail" raises at the first bad record; "skip" leaves it out, counts it, and writes it
        to the JSON Lines file `rejects` (source, line, reason, raw), if one is given.

    Raises
    ------
    CorpusError
        A bad record, or one whose id was used before.
    InputError
        If no document is left.
    """
    if on_error not in ("fail", "skip"):
        raise InputError(f"on_error={on_error!r}; expected 'fail' or 'skip'")
    if rejects is not None and on_error == "fail":
        raise InputError("rejects are written only with on_error='skip' (--on-error skip); give both or neither")
    if rejects is not None and any(_same_file(Path(rejects), path) for path in _paths(corpus)):
        raise InputError(f"{fspath(rejects)} is the corpus itself; give another file for the rejects")
    rejected = 0
    with ExitStack() as stack:
        file = None if rejects is None else stack.enter_context(written_aside(Path(rejects)))

        def reject(bad: Reject) -> None:
            nonlocal rejected
            rejected += 1
            if file is not None:
                file.write(json.dumps(asdict(bad), ensure_ascii=False).encode() + b"\n")

        def duplicate(document: Document, source: str, line: int, reason: str) -> None:
            if on_error == "fail":
                raise DuplicateIdError(source, line, reason)
            raw = json.dumps({"id": document.doc_id, "text": document.text, **document.metadata}, ensure_ascii=False)
            reject(Reject(source=source, line=line, reason=reason, raw=raw))

        advance = stack.enter_context(progress_bar("reading", None, progress))
        records = _records(corpus, format, fields, reject if on_error == "skip" else None)
        staging.add(_counted(((r.document, r.source, r.line) for r in records), advance), duplicate)
    if rejected:
        kept = "rejects=FILE (--rejects FILE) would keep them" if rejects is None else f"they are in {fspath(rejects)}"
        logger.warning("records left out: %s; %s", f"{rejected:,}", kept)
    read = staging.count + staging.relabelled + staging.unchanged
    if not read:
        why = f"all {rejected:,} records were rejected" if rejected else "it is empty"
        raise InputError(f"there is no document in the corpus: {why}; expected at least one")
    logger.info("%s documents read", f"{read:,}")


def _records(corpus: Corpus, format: Format | None, fields: Fields, on_reject: OnReject | None) -> Iterator[Record]:
    paths = _paths(corpus)
    for path in paths:
        yield from read_corpus(fspath(path), format=format, fields=fields, on_reject=on_reject)
    if not paths:
        yield from read_records(cast("Iterable[Any]", corpus), fields=fields, on_reject=on_reject)


def _paths(corpus: Corpus) -> list[str | PathLike[str]]:
    """The files of a corpus that is given by path; empty if it is given as documents."""
    if isinstance(corpus, str | PathLike):
        return [corpus]
    if isinstance(corpus, list | tuple) and all(isinstance(path, PathLike) for path in corpus):
        return list(corpus)
    return []


def _same_file(rejects: Path, corpus: str | PathLike[str]) -> bool:
    try:
        return rejects.samefile(file_of(corpus))
    except (OSError, ValueError):  # one of them is not there; who reads it says so
        return False


def _counted(items: Iterable[Any], advance: Any) -> Iterator[Any]:
    for item in items:
        yield item
        advance(1)
