"""Files as bytes and lines: compression undone, damage told from the disk's faults; files written aside until whole.

Leaves out what stands in a line (`retrieval.corpora`).
"""

from __future__ import annotations

import gzip
import importlib
import io
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NoReturn, TypeAlias

from indexes.errors import CorpusError, InputError, MissingPackageError

Lines: TypeAlias = Iterator[tuple[int, bytes]]

LONGEST: Final = 2**28  # bytes of a line or a CSV record; more is taken for a file of another kind


def open_stream(file: Path) -> IO[bytes]:
    """The bytes of a file, with .gz and .zst undone."""
    return OPENERS.get(file.suffix.lower(), _open_plain)(file)


def inner_suffix(file: Path) -> str:
    """The suffix that says the format, behind which .gz or .zst may stand."""
    return (file.with_suffix("") if file.suffix.lower() in OPENERS else file).suffix.lower()


def _open_plain(file: Path) -> IO[bytes]:
    return file.open("rb")


def _open_gzip(file: Path) -> IO[bytes]:
    return gzip.open(file, "rb")  # type: ignore[return-value]  # a GzipFile is an IO[bytes] in all that we use


def _open_zstd(file: Path) -> IO[bytes]:
    zstandard = optional_package("zstandard", extra="zstd", what=".zst")
    return io.BufferedReader(_ZstdFile(file.open("rb"), zstandard))


class _ZstdFile(io.RawIOBase):
    """Decompressed bytes of all frames, with an EOFError if the last is cut off.

    zstandard.open stops after the first frame, and takes a file that is cut off for one that ends there.
    """

    def __init__(self, file: IO[bytes], zstandard: Any) -> None:
        self._file, self._zstandard = file, zstandard
        self._frame: Any = None
        self._ready = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        # 1 kB in is at most 32 MB out: a block is 128 kB of one byte, told in 4 bytes
        while not self._ready and (chunk := self._file.read(1024)):
            self._ready = memoryview(self._decompressed(chunk))
        if not self._ready and self._frame is not None:
            raise EOFError("the last zstd frame does not end")
        size = min(len(target), len(self._ready))
        target[:size], self._ready = self._ready[:size], self._ready[size:]
        return size

    def _decompressed(self, chunk: bytes) -> bytes:
        parts = []
        while chunk:
            self._frame = self._frame or self._zstandard.ZstdDecompressor().decompressobj()
            try:
                parts.append(self._frame.decompress(chunk))
            except self._zstandard.ZstdError as error:
                raise EOFError(str(error)) from None
            chunk, self._frame = (self._frame.unused_data, None) if self._frame.eof else (b"", self._frame)
        return b"".join(parts)

    def close(self) -> None:
        self._file.close()
        super().close()


def optional_package(module: str, *, extra: str, what: str) -> Any:
    """A module of an extra, or a sentence on how to install it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise MissingPackageError(
            f"{what} files need the package {name}, which is not installed; "
            f"install it with: pip install 'sentence-retrieval[{extra}]'"
        ) from None


def lines_of(stream: IO[bytes], source: str) -> Lines:
    """Numbered lines, ends included; damaged data raises a CorpusError with the line that was reached."""
    number = 0
    try:
        while raw := stream.readline(LONGEST + 1):
            number += 1
            if len(raw) > LONGEST:
                raise CorpusError(source, number, f"line is longer than {LONGEST} bytes; expected one record a line")
            yield number, raw
    except (OSError, EOFError, zlib.error) as error:
        unreadable(error, source, number)


def unreadable(error: Exception, source: str, line: int) -> NoReturn:
    """Raise what a failing read means to a person."""
    where = f"after line {line}" if line else "from the start"
    if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)):
        what, remedy = "compressed data is corrupt or cut off", "make or fetch the file again"
    else:
        what, remedy = "cannot be read", "check the file and its disk"
    raise CorpusError(source, line, f"{what} {where} ({error}); {remedy}") from None


def decoded(number: int, raw: bytes) -> str:
    """The text of a line in UTF-8; a byte order mark before the first is dropped."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        if number == 1 and raw.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd")):
            raise InputError(
                "compressed data without the suffix that says so; decompress it first (gunzip -c, zstd -dc)"
            ) from None
        raise InputError(
            f"byte {error.start} of the line (counted from 0) is 0x{raw[error.start]:02x}, which is not UTF-8 there; "
            "convert the file, such as with: iconv -f ITS-ENCODING -t UTF-8 (GB18030, LATIN1, ...)"
        ) from None
    return text.removeprefix("\ufeff") if number == 1 else text


@contextmanager
def written_aside(path: Path) -> Iterator[IO[bytes]]:
    """A file to write that takes its name when the block is left without an error; else the name is what it was.

    What is there and no regular file (/dev/null, a pipe) is written as it is; a link stays, and leads to the new file.
    """
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            yield file
        return
    path = path.resolve()
    aside = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with aside.open("xb") as file:  # never over a file of somebody else's
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


OPENERS: Final[Mapping[str, Callable[[Path], IO[bytes]]]] = {".gz": _open_gzip, ".zst": _open_zstd}
