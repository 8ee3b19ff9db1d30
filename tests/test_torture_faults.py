"""A few faults of each kind; `make torture` tries every file operation of every operation."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from torture import faults, shim
from torture.children import in_child, in_fresh_process
from torture.result import Result

SEED = 30
pytestmark = pytest.mark.skipif(bool(shim.why_not()), reason=shim.why_not())


def faultless(results: list[Result]) -> bool:
    """Whether there were trials, and nothing was wrong; says what was."""
    for result in results:
        assert result.number, result.kind
        assert not result.violations, "\n".join([result.kind, *result.violations])
    return True


@pytest.mark.parametrize("kind", [faults.file_faults, faults.command_faults, faults.read_faults])
def test_a_file_operation_that_fails_leaves_the_old_or_the_new_index(kind: Callable[[int, int], list[Result]]) -> None:
    assert faultless(in_fresh_process(kind, 24, SEED, preload=shim.library()))


def test_little_memory_leaves_the_old_or_the_new_index() -> None:
    assert faultless(in_fresh_process(faults.little_memory, 10, SEED))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small disk")
@pytest.mark.parametrize("kind", [faults.full_disks, faults.read_only_folders])
def test_a_disk_that_takes_no_more_leaves_the_old_or_the_new_index(kind: Callable[[int, int], list[Result]]) -> None:
    assert faultless(in_fresh_process(kind, 8, SEED))


def test_a_file_that_cannot_grow_is_one_sentence_on_the_command_line(tmp_path: Path) -> None:
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_text("".join(json.dumps({"id": str(i), "text": f"text {i}"}) + "\n" for i in range(500)))

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 14, 1 << 14))

    command = [sys.executable, "-m", "retrieval", "build", str(corpus), "-o", str(tmp_path / "index"), "-m", "hash:16"]
    ended = subprocess.run([*command, "-q"], preexec_fn=small_files, capture_output=True, text=True)
    assert ended.returncode == 1 and not ended.stdout
    assert len(ended.stderr.splitlines()) == 1 and ended.stderr.startswith("Error: ")


def test_the_library_sees_what_python_sqlite_and_numpy_do_to_files(tmp_path: Path) -> None:
    assert in_fresh_process(_seen, str(tmp_path.resolve()), preload=shim.library()) == {
        "python": "CWSRU",
        "sqlite": "CW",
        "numpy": "CW",
        "elsewhere": "",
        "EIO": "Input/output error",
        "ENOSPC": "No space left on device",
        "kill": "ended by SIGKILL",
        "half": "0123456789",
        "read EIO": "Input/output error",
    }


def _seen(where: str) -> dict[str, str]:
    import sqlite3

    import numpy as np

    folder = Path(where) / "folder"
    folder.mkdir()

    def python(place: Path) -> None:
        with (place / "a").open("w") as file:
            file.write("text")
            file.flush()
            os.fsync(file.fileno())
        (place / "a").rename(place / "b")
        (place / "b").unlink()

    def sqlite(place: Path) -> None:
        connection = sqlite3.connect(place / "database")
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        connection.execute("CREATE TABLE t (a)")
        connection.close()

    def numpy(place: Path) -> None:
        np.zeros(3).tofile(place / "array")

    def recorded(work: Callable[[Path], None], place: Path) -> str:
        def recording(tell: Callable[[object], None]) -> None:
            shim.record(folder, Path(where) / "log")
            work(place)

        assert in_child(recording).well
        kinds = [one.kind for one in shim.read_record(Path(where) / "log")]
        return "".join(kind for kind, before in zip(kinds, ["", *kinds], strict=False) if kind != before)

    def faulted(mode: str, n: int, work: Callable[[], None]) -> str:
        def failing(tell: Callable[[object], None]) -> None:
            shim.arm(folder, n, mode)
            try:
                work()
            except OSError as error:
                tell(error.strerror)
            shim.disarm()
            tell("".join(path.read_text() for path in folder.glob("digits")))

        end = in_child(failing)
        return str(end.told[0]) if end.well else str(end)

    def write_digits() -> None:
        (folder / "digits").write_text("0123456789")

    return {
        "python": recorded(python, folder),
        "sqlite": recorded(sqlite, folder),
        "numpy": recorded(numpy, folder),
        "elsewhere": recorded(python, Path(where)),
        "EIO": faulted("EIO", 1, write_digits),
        "ENOSPC": faulted("ENOSPC", 2, write_digits),
        "kill": faulted("kill", 2, write_digits),
        "half": faulted("half", 2, write_digits),
        "read EIO": faulted("read EIO", 2, lambda: print((folder / "digits").read_text())),
    }
