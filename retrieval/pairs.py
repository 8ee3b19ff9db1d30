"""Labelled sentence pairs from files: what STS evaluation, tuning and training read.

A set is a TSV, CSV or JSONL file with two sentences and a score a row, or a folder
with one file a split (or a folder a split, whose files are its subsets, concatenated
as in MTEB's "all"); a folder of such sets is all of them.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.document import check_unicode
from indexes.errors import CorpusError, InputError

from .streams import LONGEST, decoded, inner_suffix, lines_of, open_stream

logger = logging.getLogger(__name__)

SUFFIXES = (".tsv", ".csv", ".jsonl")
ALIASES = ("validation", "valid")  # of the split "dev"
COLUMNS = (("sentence1", "text1", "sentence_a"), ("sentence2", "text2", "sentence_b"), ("score", "label", "similarity"))
WORDS = {"contradiction": 0.0, "neutral": 1.0, "entailment": 2.0}
"""Labels of natural language inference, as the scores they stand for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class STSSet:
    """Sentence pairs with a score each.

    Parameters
    ----------
    name : str
    sentences1, sentences2 : tuple of str, length n
    scores : ndarray of shape (n,), float64
        Higher is more alike; any scale, as only ranks and linear relation are measured. In a file they may all be
        contradiction (0), neutral (1) or entailment (2) instead.
    dev : STSSet, optional
        The development pairs of the same set, from which a 0/1 set's threshold is taken.
    """

    name: str
    sentences1: tuple[str, ...]
    sentences2: tuple[str, ...]
    scores: NDArray[np.float64]
    dev: STSSet | None = None

    def __post_init__(self) -> None:
        """Check that it is n pairs of sentences with n finite scores."""
        sizes = len(self.sentences1), len(self.sentences2), len(self.scores)
        if len(set(sizes)) > 1:
            raise InputError(
                f"set {self.name!r} has {sizes[0]} and {sizes[1]} sentences and {sizes[2]} scores; "
                "expected as many of each"
            )
        if not isinstance(self.scores, np.ndarray) or not np.isfinite(self.scores).all():
            raise InputError(
                f"the scores of set {self.name!r} are no array of finite numbers; expected np.array([...])"
            )
        for row, pair in enumerate(zip(self.sentences1, self.sentences2, strict=True)):
            for text in pair:
                if not isinstance(text, str) or not text.strip():
                    raise InputError(
                        f"pair {row} of set {self.name!r} has the sentence {text!r:.40}; expected some words"
                    )

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, rows: Sequence[int] | NDArray[np.integer[Any]]) -> STSSet:
        """Some of the pairs, in the order of `rows`."""
        return replace(
            self,
            sentences1=tuple(self.sentences1[i] for i in rows),
            sentences2=tuple(self.sentences2[i] for i in rows),
            scores=self.scores[np.asarray(rows, np.int64)],
        )

    def without(self, *others: STSSet) -> STSSet:
        """The pairs that are in none of the others, whichever sentence stands first, case and blanks aside.

        Examples
        --------
        >>> one = STSSet(name="a", sentences1=("x", "p"), sentences2=("y", "q"), scores=np.array([1.0, 0.0]))
        >>> two = STSSet(name="b", sentences1=("Y", "p"), sentences2=("x", "r"), scores=np.array([1.0, 0.0]))
        >>> one.without(two).sentences1
        ('p',)
        """
        seen = {key for other in others for key in other._keys()}
        return self.take([i for i, key in enumerate(self._keys()) if key not in seen])

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the sentences and their scores."""
        content = json.dumps([self.sentences1, self.sentences2, self.scores.tolist()])
        return hashlib.sha256(content.encode()).hexdigest()

    def _keys(self) -> list[frozenset[str]]:
        rows = zip(self.sentences1, self.sentences2, strict=True)
        return [frozenset(" ".join(text.lower().split()) for text in row) for row in rows]

    @property
    def binary(self) -> bool:
        """Whether all scores are 0 or 1."""
        return bool(np.isin(self.scores, (0.0, 1.0)).all())


Datasets = str | PathLike[str] | STSSet | Sequence[str | PathLike[str] | STSSet]


def load_sts(
    source: str | PathLike[str], *, split: str = "test", data: str | PathLike[str] | None = None
) -> list[STSSet]:
    """The labelled pairs of a file, a folder, a folder of those, or a name in the data folder.

    Parameters
    ----------
    source : path or str
        A file (.tsv, .csv, .jsonl; also .gz, .zst) with the columns sentence1, sentence2, score; a folder
        with a file SPLIT.tsv (or .csv, .jsonl; "dev" may be called validation or valid) or a folder SPLIT of
        subsets; a folder of such files or folders (those without the split are left out, and named); or a name, such as
        "stsb-en", that is looked up in `data` and its subfolder "sts".
    split : str, default="test"
    data : path, optional
        Default: the environment's RETRIEVAL_DATA.

    Returns
    -------
    list of STSSet
        One, or as many as the folder holds, by name.

    Raises
    ------
    CorpusError
        If nothing is found (the message says where it was looked for), or a row cannot be used.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "tiny.tsv"
    >>> _ = path.write_text("sentence1\\tsentence2\\tscore\\nA cat.\\tA dog.\\t2.5\\n")
    >>> load_sts(path)[0].scores
    array([2.5])
    """
    places = [Path(source)]
    root = data if data is not None else os.environ.get("RETRIEVAL_DATA")
    if root is not None and not Path(source).is_absolute():
        places += [Path(root) / source, Path(root) / "sts" / source]
    for place in places:
        if place.is_file():
            return [_read(place, _name_of(place))]
        if place.is_dir():
            found = _in_folder(place, split)
            if found:
                return found
            raise CorpusError(str(place), 0, f"no {split}.tsv (or .csv, .jsonl) in it or in a folder of it")
    hint = "" if root else "; names are looked up in --data FOLDER (data=FOLDER) or RETRIEVAL_DATA"
    raise CorpusError(str(source), 0, f"no such file, folder or set; looked at {', '.join(map(str, places))}{hint}")


def load_sets(datasets: Datasets, split: str, data: str | PathLike[str] | None) -> list[STSSet]:
    """The sets of one or more sources, see `load_sts`.

    Raises
    ------
    CorpusError
        See `load_sts`.
    InputError
        If there is none.
    """
    items = [datasets] if isinstance(datasets, str | PathLike | STSSet) else list(datasets)
    sets = [
        s for item in items for s in ([item] if isinstance(item, STSSet) else load_sts(item, split=split, data=data))
    ]
    if not sets:
        raise InputError("there are no pairs: expected at least one file, folder or set")
    return sets


def _in_folder(folder: Path, split: str) -> list[STSSet]:
    own = _of_split(folder, split)
    if own is not None:
        dev = _of_split(folder, "dev") if own.binary and split != "dev" else None
        return [own if dev is None else replace(own, dev=dev)]
    found: list[STSSet] = []
    for inner in sorted(folder.iterdir()):
        if inner.name.startswith("."):  # .git, .venv
            continue
        one = None
        if inner.is_dir():
            one = _in_folder(inner, split) if _of_split(inner, split, read=False) else None
        elif inner_suffix(inner) in SUFFIXES and not _is_split(inner):
            one = [_read(inner, _name_of(inner))]
        else:
            continue
        if one is None:
            logger.warning("%s was left out: no %s pairs in it", inner, split)
        else:
            found += one
    return found


def _of_split(folder: Path, split: str, *, read: bool = True) -> Any:
    """The pairs of one split of a set, subsets concatenated; None if it has no such split."""
    for name in (split, *(ALIASES if split == "dev" else ())):
        files = [folder / f"{name}{suffix}{packed}" for suffix in SUFFIXES for packed in ("", ".gz", ".zst")]
        files = [file for file in files if file.is_file()][:1]
        if not files and (folder / name).is_dir():
            files = sorted(file for file in (folder / name).iterdir() if inner_suffix(file) in SUFFIXES)
        if files:
            return _joined([_read(file, folder.name) for file in files]) if read else True
    return None


def _joined(parts: Sequence[STSSet]) -> STSSet:
    return STSSet(
        name=parts[0].name,
        sentences1=tuple(s for part in parts for s in part.sentences1),
        sentences2=tuple(s for part in parts for s in part.sentences2),
        scores=np.concatenate([part.scores for part in parts]),
    )


def _is_split(file: Path) -> bool:
    """Whether a file is one split of a set, never a set of its own: or a train file would pass for a test."""
    return _stem(file) in ("train", "test", "dev", *ALIASES)


def _stem(file: Path) -> str:
    name = file.name
    for suffix in (".gz", ".zst", *SUFFIXES):
        name = name[: -len(suffix)] if name.lower().endswith(suffix) else name
    return name


def _name_of(file: Path) -> str:
    """A split read by itself is named with its folder: two of one folder are then told apart."""
    return f"{file.resolve().parent.name}/{_stem(file)}" if _is_split(file) else _stem(file)


def _read(path: Path, name: str) -> STSSet:
    kind = inner_suffix(path)
    if kind not in SUFFIXES:
        raise CorpusError(str(path), 0, f"suffix {kind!r}; expected one of {', '.join(SUFFIXES)} (also .gz, .zst)")
    first, second, scores = [], [], []
    words: bool | None = None
    with open_stream(path) as stream:
        lines = lines_of(stream, str(path))
        for line, row in (_json_rows if kind == ".jsonl" else _table_rows)(lines, str(path)):
            try:
                one, two, score = (_column(row, names) for names in COLUMNS)
                first.append(_sentence(one))
                second.append(_sentence(two))
                scores.append(_score(score))
                word = _is_word(score)
                if words is not None and word != words:
                    raise InputError(
                        f"score {score!r:.40}, where the rows before have {'words' if words else 'numbers'}; expected "
                        "one kind in a file"
                    )
                words = word
            except InputError as error:
                raise CorpusError(str(path), line, str(error)) from None
    if not scores:
        raise CorpusError(str(path), 0, "no pairs in it; expected rows of sentence1, sentence2, score")
    return STSSet(name=name, sentences1=tuple(first), sentences2=tuple(second), scores=np.array(scores, np.float64))


def _table_rows(lines: Iterator[tuple[int, bytes]], source: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    csv.field_size_limit(max(csv.field_size_limit(), LONGEST))  # one for the process; 128 kB by default
    tabs = inner_suffix(Path(source)) == ".tsv"
    dialect: dict[str, Any] = {"delimiter": "\t", "quoting": csv.QUOTE_NONE} if tabs else {"strict": True}
    at = 0

    def texts() -> Iterator[str]:
        nonlocal at
        for at, raw in lines:  # noqa: B007
            try:
                yield decoded(at, raw)
            except InputError as error:
                raise CorpusError(source, at, str(error)) from None

    try:
        reader = csv.reader(texts(), **dialect)
        header: Sequence[str] = next(reader, [])
        for names in COLUMNS if at else ():  # an empty file has no header
            try:
                _column(dict.fromkeys(header), names)
            except InputError as error:
                raise CorpusError(source, at, str(error)) from None
        for row in reader:
            if row and len(row) != len(header):
                raise CorpusError(source, at, f"{len(row)} fields; expected {len(header)} as in the header")
            if row:
                yield at, dict(zip(header, row, strict=True))
    except csv.Error as error:
        raise CorpusError(source, at, f"{error}; expected fields quoted as in RFC 4180") from None


def _json_rows(lines: Iterator[tuple[int, bytes]], source: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, raw in lines:
        try:
            text = decoded(line, raw)
            row = json.loads(text) if text.strip() else None
        except json.JSONDecodeError as error:  # its own words count lines and columns in this line
            said = f"not JSON at character {error.pos} of the line (counted from 0): {error.msg}"
            raise CorpusError(source, line, f"{said}; expected one object a line") from None
        except (ValueError, RecursionError) as error:  # an InputError is a ValueError, too
            raise CorpusError(source, line, f"not JSON: {error}; expected one object a line") from None
        if row is not None and not isinstance(row, dict):
            raise CorpusError(source, line, f"a JSON {type(row).__name__}; expected one object a line")
        if row is not None:
            yield line, row


def _column(row: Mapping[str, Any], names: Sequence[str]) -> Any:
    for name in names:
        if name in row:
            return row[name]
    others = f"{names[0]!r} (or {', '.join(map(repr, names[1:]))})"
    raise InputError(f"no column {others}; the columns are {', '.join(map(str, row)) or 'none'}")


def _sentence(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"sentence {value!r:.40}; expected some words")
    check_unicode(f"sentence {value[:40]!r}", value)
    return value


def _is_word(value: Any) -> bool:
    return isinstance(value, str) and value.strip().lower() in WORDS


def _score(value: Any) -> float:
    if _is_word(value):
        return WORDS[value.strip().lower()]
    try:
        if isinstance(value, str) and "_" in value:  # Python reads 1_0 as 10
            raise ValueError(value)
        score = float(value)
    except (TypeError, ValueError):
        raise InputError(f"score {value!r:.40}; expected a number or one of {', '.join(WORDS)}") from None
    except OverflowError:  # an int beyond 1.8e308
        score = np.inf
    if not np.isfinite(score):
        raise InputError(f"score {value!r:.40}; expected a finite number")
    return score
