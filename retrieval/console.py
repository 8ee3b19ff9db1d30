"""What a person at a terminal is told: on standard error, because standard output is data."""

from __future__ import annotations

import logging

import click


def note(message: str) -> None:
    """A line on standard error."""
    click.echo(message, err=True)


class _OnStderr(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(self.format(record))


def say(quiet: bool) -> None:
    """Bring what the library logs to standard error."""
    for name in ("retrieval", "indexes", "eval"):
        logger = logging.getLogger(name)
        logger.handlers = [_OnStderr()]
        logger.setLevel(logging.WARNING if quiet else logging.INFO)
