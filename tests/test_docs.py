"""Documents that cannot drift: README runs, its numbers are the benchmark's, the help pages are the program's."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
import sys
from pathlib import Path

import click
import pytest

from retrieval.cli import cli

MODULES = sorted(
    f"{package}.{module.name}"
    for package in (
        "indexes",
        "retrieval",
        "retrieval.compiled",
        "retrieval.cross",
        "retrieval.geodesic",
        "retrieval.train",
        "eval",
    )
    for module in pkgutil.iter_modules(importlib.import_module(package).__path__)
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_run(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


@pytest.mark.model
def test_the_tour_in_the_readme_runs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (root / "README.md").read_text(), re.DOTALL)
    assert len(blocks) >= 5
    test = doctest.DocTestParser().get_doctest("\n".join(blocks), {}, "README.md", "README.md", 0)
    assert test.examples
    report: list[str] = []
    runner = doctest.DocTestRunner()
    runner.run(test, out=report.append)
    assert runner.summarize().failed == 0, "".join(report)


def test_tables_are_made_from_the_results(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    tables = importlib.import_module("tables")
    used = set()
    for page in tables.PAGES:
        text = page.read_text()
        assert tables.filled(text) == text, f"{page.name}: run python benchmarks/tables.py"
        used |= {name for _, name, _ in tables.MARKED.findall(text)}
    assert used == set(tables.TABLES)


def test_files_named_in_the_readme_are_there(root: Path) -> None:
    text = (root / "README.md").read_text()
    for link in re.findall(r"\]\((?!http)([^)]+)\)", text):
        assert (root / link).exists(), link
    house = text.split("## The house")[1].split("\n\n")[2]
    named = set(re.findall(r"\b\w+\.py\b", house))
    there = {
        path.name
        for package in (
            "indexes",
            "retrieval",
            "retrieval/compiled",
            "retrieval/cross",
            "retrieval/geodesic",
            "retrieval/train",
            "eval",
        )
        for path in (root / package).glob("[a-z]*.py")
    }
    assert named == there


def help_page() -> str:
    """docs/cli.md, made from the program: python tests/test_docs.py > docs/cli.md."""

    def pages(command: click.Command, path: str) -> list[str]:
        context = click.Context(
            command, info_name=path, max_content_width=100, terminal_width=100, help_option_names=["-h", "--help"]
        )
        own = [f"## {path}\n\n```text\n{command.get_help(context)}\n```\n"]
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                found = command.get_command(context, name)
                assert found is not None
                own += pages(found, f"{path} {name}")
        return own

    return "# The command line\n\nMade from the program itself; a test holds it to it.\n\n" + "\n".join(
        pages(cli, "retrieval")
    )


def test_the_help_pages_are_the_program_s(root: Path) -> None:
    assert (root / "docs" / "cli.md").read_text() == help_page()


if __name__ == "__main__":
    sys.stdout.write(help_page())
