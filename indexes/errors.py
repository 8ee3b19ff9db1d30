"""Every error that a person can meet, in one tree.

    RetrievalError
    |-- InputError (ValueError)             a value, a record or a query that cannot be used
    |   |-- CorpusError                     ... at this file and line, for this reason
    |   |   `-- DuplicateIdError            ... its id was seen before, at that file and line
    |   |-- FilterError                     a metadata filter that cannot be understood
    |   `-- VectorError                     NaN, infinite, zero or wrongly shaped vectors
    |-- ModelError                          a model that cannot be found or loaded
    |   |-- FingerprintError                ... or is not the one that made the index
    |   `-- TrainingError                   ... or came to nothing in training
    |-- IndexError_                         an index folder that cannot be used
    |   |-- IndexMissingError (FileNotFoundError)
    |   |-- IndexExistsError (FileExistsError)
    |   |-- IndexUnfinishedError            a build that was interrupted
    |   |-- IndexVersionError               written by a newer version
    |   |-- IndexCorruptError               a file that is not what the catalogue says
    |   `-- IndexLockedError                another writer is at work
    `-- MissingPackageError (ImportError)   an optional package that is not installed

A message says what is wrong, what was expected and what to do. The command line
prints it in one line and exits with 1.
"""

from __future__ import annotations

RESTORE = "restore it from a copy or build the index again"
"""What to do about damage that cannot be made good."""

ENCODE_AGAIN = "restore it from a copy, or build an index again from its documents (retrieval export INDEX)"
"""What to do about raw vectors that are lost, of documents that are not."""


class RetrievalError(Exception):
    """Base of every error raised on purpose by this project."""


class InputError(RetrievalError, ValueError):
    """A value, a record or a query that cannot be used."""


class CorpusError(InputError):
    """A record of a corpus that cannot be used.

    Parameters
    ----------
    source : str
        Name of the file the record stands in ("<stdin>", "<iterable>" for others).
    line : int
        1-based line (or record) number; 0 speaks of the whole file.
    reason : str
        What is wrong, what was expected, what to do.
    """

    def __init__(self, source: str, line: int, reason: str) -> None:
        self.source, self.line, self.reason = source, line, reason
        super().__init__(f"{source}:{line}: {reason}" if line else f"{source}: {reason}")


class DuplicateIdError(CorpusError):
    """An id that was seen before in the same corpus."""


class FilterError(InputError):
    """A metadata filter that cannot be understood."""


class VectorError(InputError):
    """Vectors that are NaN, infinite, zero or of the wrong shape."""


class ModelError(RetrievalError):
    """A model that cannot be found or loaded."""


class TrainingError(ModelError):
    """A training that came to nothing, such as a loss that is no number."""


class FingerprintError(ModelError):
    """The model at hand is not the one that made the index."""


class IndexError_(RetrievalError):
    """An index folder that cannot be used."""


class IndexMissingError(IndexError_, FileNotFoundError):
    """There is no index at this path."""


class IndexExistsError(IndexError_, FileExistsError):
    """There is something at this path already."""


class IndexUnfinishedError(IndexError_):
    """The build of this index was interrupted."""


class IndexVersionError(IndexError_):
    """The index was written by a newer version of this project."""


class IndexCorruptError(IndexError_):
    """A file of the index is not what its catalogue says."""


class IndexLockedError(IndexError_):
    """Another process is writing to the index."""


class MissingPackageError(RetrievalError, ImportError):
    """An optional package that is not installed."""
