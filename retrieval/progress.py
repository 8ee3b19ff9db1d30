"""Bars on a terminal's standard error, silence everywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[int], None]


@contextmanager
def progress_bar(what: str, total: int | None, shown: bool) -> Iterator[Advance]:
    """A bar with count, speed and time left; the yielded function moves it on.

    Parameters
    ----------
    what : str
        Said before the bar.
    total : int or None
        None if it is not known beforehand.
    shown : bool
        False, or a standard error that is not a terminal, shows nothing.

    Examples
    --------
    >>> with progress_bar("reading", None, shown=False) as advance:
    ...     advance(1)
    """
    if not shown or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description:>9}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TextColumn("left"), TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=total)
        yield lambda count: bar.advance(task, count)
