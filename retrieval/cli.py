"""The command line: one group of all commands, and what becomes of errors.

Standard output is data; everything else goes to standard error. Exit code 0 also
without hits, 1 for an error that we know (one line), 2 for wrong usage, 130 for
Ctrl-C. Heavy imports wait until a command runs. Other packages add commands through
the entry point group ``retrieval.commands``.
"""

from __future__ import annotations

import io
import os
import sqlite3
import sys
from collections.abc import Sequence
from importlib.metadata import entry_points

import click

from indexes.errors import RetrievalError

from . import cli_cross, cli_graph, cli_read, cli_train, cli_write
from .console import note


class _Commands(click.Group):
    """A group that also holds the commands of other packages."""

    def list_commands(self, context: click.Context) -> list[str]:
        return sorted({*super().list_commands(context), *entry_points(group="retrieval.commands").names})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        own = super().get_command(context, name)
        if own is None:
            for entry in entry_points(group="retrieval.commands", name=name):
                loaded: click.Command = entry.load()
                return loaded
        return own


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sentence-retrieval")
def cli() -> None:
    """Search by meaning on your own machine."""


for command in (*cli_write.COMMANDS, *cli_read.COMMANDS, *cli_cross.COMMANDS, *cli_graph.COMMANDS, *cli_train.COMMANDS):
    cli.add_command(command)


def _open_what_is_closed() -> None:
    """Closed outputs (>&-) lead nowhere, instead of into a file of the index that gets their number."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    if sys.stdout is None:
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = open(2, "w", encoding="utf-8", closefd=False)  # noqa: SIM115


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its code; no error ends in a traceback that we know of."""
    _open_what_is_closed()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and (stream.encoding or "").lower().replace("-", "") != "utf8":
            stream.reconfigure(encoding="utf-8")
    try:
        if "_RETRIEVAL_COMPLETE" in os.environ:  # the shell asks what could follow
            cli.main(prog_name="retrieval")
        with cli.make_context("retrieval", list(sys.argv[1:] if arguments is None else arguments)) as context:
            cli.invoke(context)
        sys.stdout.flush()
        code = 0
    except click.exceptions.Exit as ended:  # --help, --version
        code = ended.exit_code
    except BrokenPipeError:  # the reader of our output has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        note("interrupted; nothing stored is lost, and what was being stored goes on with the same command")
        code = 130
    except RetrievalError as error:
        note("Error: " + " ".join(str(error).split()))
        code = 1
    except MemoryError as error:
        note(f"Error: memory does not suffice ({' '.join(str(error).split()) or 'none is left'}); free some and retry")
        code = 1
    except (sqlite3.Error, UnicodeError) as error:
        what = "the disk or a file of the index fails" if isinstance(error, sqlite3.Error) else "this is not UTF-8"
        note(f"Error: {what} ({error}); check the free space, the permissions and the names")
        code = 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        what = " ".join(f"{where}{error.strerror or error}".split())
        note(f"Error: {what}; check the path, the permissions and the free space")
        code = 1
    sys.exit(code)
