"""A few kills and power cuts of each kind; `make torture` does thousands."""

from __future__ import annotations

from pathlib import Path

import pytest
from torture import kills, powercut, shim
from torture.children import End, in_child, in_fresh_process
from torture.result import Result
from torture.world import World, again, check

needs_shim = pytest.mark.skipif(bool(shim.why_not()), reason=shim.why_not())
SEED = 20


def faultless(results: list[Result]) -> bool:
    """Whether there were trials, and nothing was wrong; says what was."""
    for result in results:
        assert result.number, result.kind
        assert not result.violations, "\n".join([result.kind, *result.violations])
    return True


def test_a_kill_at_any_moment_leaves_the_old_or_the_new_index() -> None:
    assert faultless(in_fresh_process(kills.random_kills, 20, SEED))


def test_a_kill_at_any_named_step_leaves_the_old_or_the_new_index() -> None:
    assert faultless(in_fresh_process(kills.step_kills, 24, SEED))


def test_encoding_that_was_killed_goes_on_and_gives_the_same_bytes() -> None:
    assert faultless(in_fresh_process(kills.resumptions, 8, SEED))


@needs_shim
def test_a_power_cut_leaves_what_was_acknowledged() -> None:
    assert faultless(powercut.run(40, SEED))


def test_the_check_sees_what_is_wrong(tmp_path: Path) -> None:
    assert in_fresh_process(_wrongs, str(tmp_path)) == [
        [],
        "ids",
        "text",
        "a listed file is gone",
        "a file that nothing explains",
        "there is an index",
    ]


def _wrongs(where: str) -> list[object]:
    """The check of an index as it should be, and what it does not say of five that are not."""
    path = Path(where) / "index"
    world = World(SEED)
    operation = world.next("build")
    assert not again(path, operation, first=True)
    one, *_ = operation.after
    other = {**operation.after, one: ("another text", {})}
    fewer = {doc_id: document for doc_id, document in operation.after.items() if doc_id != one}
    found: list[object] = [check(path, operation.after, settled=True)]
    found += ["ids" if any("expected" in wrong for wrong in check(path, fewer, settled=True)) else None]
    found += ["text" if any("another text" in wrong for wrong in check(path, other, settled=True)) else None]
    (path / "segments" / "000001.raw.npy").rename(path / "segments" / "raw")
    end = in_child(lambda tell: tell(check(path, operation.after, settled=True)))
    found += ["a listed file is gone" if "missing" in end.error else None]
    (path / "segments" / "raw").rename(path / "segments" / "000001.raw.npy")
    (path / "segments" / "000002.faiss").touch()
    wrong = check(path, operation.after, settled=True)
    found += ["a file that nothing explains" if "000002.faiss" in wrong[0] else None]
    found += check(path, None, settled=False)[-1:]
    return found


def test_a_child_that_crashes_or_raises_is_told_apart() -> None:
    crashed, unknown, known = in_fresh_process(_ends)
    assert str(crashed) == "ended by SIGSEGV"
    assert "ZeroDivisionError" in unknown.error and not unknown.known
    assert "no space" in known.error and known.known


def _ends() -> list[End]:
    import os
    import signal

    def crash(_: object) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)

    def divide(_: object) -> None:
        1 / 0  # noqa: B018

    def fail(_: object) -> None:
        raise OSError("no space")

    return [in_child(crash), in_child(divide), in_child(fail)]
