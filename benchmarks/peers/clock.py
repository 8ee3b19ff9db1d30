"""Runs a command and writes its wall seconds and peak bytes to a file. Run with `python -I -S`.

A process of its own, for a child's peak is counted from the size of what it was forked from.
"""

from __future__ import annotations

import json
import os
import sys
import time


def main(path: str, *command: str) -> int:
    """The command's exit code."""
    start = time.perf_counter()
    child = os.spawnv(os.P_NOWAIT, command[0], command)
    _, status, usage = os.wait4(child, 0)
    with open(path, "w") as file:  # noqa: PTH123  # pathlib is bigger than this process
        json.dump({"s": time.perf_counter() - start, "peak": 1024 * usage.ru_maxrss}, file)
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
