"""The example corpus: what one run of the script writes, and the functions that read docstrings, by hand."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent / "examples" / "stdlib_docstrings.py"

SOURCE = '''
"""A till."""

class Till:
    """Money of one day.

    Opened in the morning.
    """

    class Drawer:
        """Coins by value."""

        def open(self):
            """Open the drawer."""

    def close(self):
        """Count the money
        and lock the till."""

    def __len__(self):
        """Number of coins."""

    def _audit(self):
        """Private."""

    def silent(self):
        return 1

async def wait_for_customer():
    """Sleep until somebody comes."""
    def inner():
        """Not reachable from outside."""

try:
    from _till import fast
except ImportError:
    def fast():
        """Slow but sure."""

def _hidden():
    """Private."""

PRICE = 3
'''


RUN_THEN_LIST_IMPORTS = """
import runpy, sys
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
print(*sys.modules, file=sys.stderr)
"""


def run(*args: str, seed: str) -> subprocess.CompletedProcess[str]:
    """What Python prints, with sets in the order that this hash seed gives."""
    return subprocess.run(
        [sys.executable, *args], capture_output=True, text=True, check=True, env={**os.environ, "PYTHONHASHSEED": seed}
    )


@pytest.fixture(scope="module")
def finished() -> subprocess.CompletedProcess[str]:
    """One run of the script; the last line of its standard error names every module then imported."""
    return run("-c", RUN_THEN_LIST_IMPORTS, str(SCRIPT), seed="1")


@pytest.fixture(scope="module")
def documents(finished: subprocess.CompletedProcess[str]) -> list[dict[str, str]]:
    """The objects that the run wrote."""
    return [json.loads(line) for line in finished.stdout.splitlines()]


@pytest.fixture
def script() -> ModuleType:
    """The script as a module: examples is no package."""
    spec = importlib.util.spec_from_file_location("stdlib_docstrings", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_corpus_is_sound(documents: list[dict[str, str]]) -> None:
    """Thousands of documents, sorted by unique ids, each with a text on one line and its module."""
    ids = [document["id"] for document in documents]
    assert len(ids) > 4000
    assert ids == sorted(set(ids))
    assert {document["kind"] for document in documents} == {"module", "class", "function", "method"}
    for document in documents:
        assert list(document) == ["id", "text", "module", "kind"]
        assert document["text"] == " ".join(document["text"].split())
        assert len(document["text"].split()) >= 3
        if document["kind"] == "module":
            assert document["id"] == document["module"]
        else:
            assert document["id"].startswith(document["module"] + ".")


def test_private_names_and_tests_are_left_out(documents: list[dict[str, str]]) -> None:
    """No id has a private or dunder part, no module is a test package or one that nobody imports by name."""
    assert [document["id"] for document in documents if re.search(r"(^|\.)_", document["id"])] == []
    assert "select.error" not in {document["id"] for document in documents}  # an alias of OSError
    modules = {part for document in documents for part in document["module"].split(".")}
    assert modules.isdisjoint({"test", "tests", "idle_test", "idlelib", "turtledemo", "posix", "nt"})


@pytest.mark.parametrize(
    ("doc_id", "module", "kind", "words"),
    [
        ("threading.Timer", "threading", "class", "Call a function after a specified number of seconds"),
        ("threading.Timer.cancel", "threading", "method", "Stop the timer"),
        ("tempfile", "tempfile", "module", "Temporary files. This module"),  # a title and what follows
        ("tempfile.TemporaryDirectory", "tempfile", "class", "Create and return a temporary directory"),
        ("difflib", "difflib", "module", "computing deltas"),
        ("difflib.unified_diff", "difflib", "function", "Compare two sequences of lines"),
        ("argparse", "argparse", "module", "Command-line parsing library"),
        ("getopt", "getopt", "module", "Parser for command line options"),
        ("collections.Counter", "collections", "class", "counting hashable items"),
        ("asyncio.tasks.sleep", "asyncio.tasks", "function", "Coroutine that completes after a given time"),
        ("json.loads", "json", "function", "JSON document"),
        ("math", "math", "module", "mathematical functions"),  # compiled from here on
        ("math.gcd", "math", "function", "Greatest Common Divisor"),
        ("builtins.str.split", "builtins", "method", "list of the substrings"),
        ("itertools.chain", "itertools", "class", "chain object"),
        ("collections.deque", "collections", "class", "A list-like sequence"),  # public name, compiled elsewhere
        ("datetime.datetime.strptime", "datetime", "method", "parsed from a string"),
        ("heapq.heappush", "heapq", "function", "Push item onto heap"),
        ("os.listdir", "os", "function", "names of the files in the directory"),
        ("os.path.join", "os.path", "function", "Join two or more pathname components"),
        ("os.path.exists", "os.path", "function", "Test whether a path exists"),
        ("pathlib.Path.mkdir", "pathlib", "method", "Create a new directory"),  # 3.13: from pathlib._local
        ("threading.get_ident", "threading", "function", "identifies the current thread"),  # = _thread.get_ident
    ],
)
def test_named_document(documents: list[dict[str, str]], doc_id: str, module: str, kind: str, words: str) -> None:
    """What a newcomer asks for is there, under the name to import it by."""
    (document,) = [document for document in documents if document["id"] == doc_id]
    assert (document["module"], document["kind"]) == (module, kind)
    assert words in document["text"]


def test_parsed_modules_are_not_imported(
    finished: subprocess.CompletedProcess[str], documents: list[dict[str, str]]
) -> None:
    """``antigravity`` would open a browser and ``this`` print a poem; both have sources, so they are only read."""
    imported = set(finished.stderr.splitlines()[-1].split())
    assert {"argparse", "_bisect", "unicodedata"} <= imported  # the list works: compiled modules are imported
    assert "antigravity.geohash" in {document["id"] for document in documents}
    assert imported.isdisjoint({"antigravity", "this", "tkinter", "turtle", "pydoc"})


def test_two_runs_write_the_same_bytes(finished: subprocess.CompletedProcess[str], tmp_path: Path) -> None:
    """Standard output and ``-o FILE`` agree, whatever the hash seed; standard error has the one-line summary."""
    output = tmp_path / "stdlib.jsonl"
    second = run(str(SCRIPT), "-o", str(output), seed="2")
    assert second.stdout == ""
    assert output.read_text(encoding="utf-8") == finished.stdout
    count = len(finished.stdout.splitlines())
    assert second.stderr == f"{count:,} docstrings of Python {platform.python_version()}\n"


def test_from_body_worked_example(script: ModuleType) -> None:
    """Classes, nested ones, methods, coroutines and fallbacks; not private names, inner functions or silent methods."""
    entries = [
        (name, kind, script.first_paragraph(doc)) for name, kind, doc in script.from_body(ast.parse(SOURCE).body) if doc
    ]
    assert entries == [
        ("Till", "class", "Money of one day."),
        ("Till.Drawer", "class", "Coins by value."),
        ("Till.Drawer.open", "method", "Open the drawer."),
        ("Till.close", "method", "Count the money and lock the till."),
        ("wait_for_customer", "function", "Sleep until somebody comes."),
        ("fast", "function", "Slow but sure."),
    ]


def test_names_from_hidden_modules_get_public_ids(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A star brings every public name and the module's docstring; a named import or alias what ``__all__`` lists."""
    sources = {
        "_till.py": '"A till."\nclass Till:\n  "Money."\n  def close(self): "Lock it."\ndef count(): "Count it."\n',
        "__init__.py": "from ._till import *\n",
        "market.py": (
            '"A market."\n__all__ = ["Stall", "tally"]\nfrom ._till import Till as Stall, count\nfrom .open import *\n'
            "_tally = shop._till.count\ntally = _tally\n"
        ),
        "kiosk.py": "from ._till import count\n",
        "open.py": 'class Till:\n  "Has an id of its own."\n',
    }
    (tmp_path / "shop").mkdir()
    for name, source in sources.items():
        (tmp_path / "shop" / name).write_text(source, encoding="utf-8")
    monkeypatch.setattr(script, "STDLIB", tmp_path)

    assert [entry for entry in script.entries("shop") if entry[2]] == [
        ("", "module", "A till."),
        ("Till", "class", "Money."),
        ("Till.close", "method", "Lock it."),
        ("count", "function", "Count it."),
    ]
    assert list(script.entries("shop.market")) == [
        ("", "module", "A market."),
        ("Stall", "class", "Money."),
        ("Stall.close", "method", "Lock it."),
        ("tally", "function", "Count it."),
    ]
    assert list(script.entries("shop.kiosk")) == [("", "module", None), ("count", "function", "Count it.")]


@pytest.mark.parametrize(
    ("doc", "text"),
    [
        ("", ""),
        ("One  line\n    folded.\n\n    Second paragraph.", "One line folded."),
        ("Wait here:\n\n    t = Timer(30.0)", "Wait here: t = Timer(30.0)"),  # two words are a title
        ("Wait here please:\n\n    t = Timer(30.0)\n\nOr not.", "Wait here please:"),
        ("upper(s) -> str\n\nMake it loud.", "Make it loud."),
        ("iter(a) -> iterator\niter(b, c) -> iterator\n\nWalk over it.", "Walk over it."),
        ("recv(sock,\n     flags) -> (data, flags)\n\nRead from it.", "Read from it."),
        ("lock() -> lock object\n(allocate() is an obsolete synonym)\n\nMake a lock.", "Make a lock."),
        ("D.copy() -> a shallow copy of D", "D.copy() -> a shallow copy of D"),  # nothing follows: kept
        ("D.pop(k) -> v, remove the key.\n\nOr raise.", "D.pop(k) -> v, remove the key."),  # a sentence: kept
    ],
)
def test_first_paragraph(script: ModuleType, doc: str, text: str) -> None:
    """The truth table of folding, titles and signature lines."""
    assert script.first_paragraph(doc) == text


@pytest.mark.parametrize(
    ("text", "says_nothing"),
    [
        ("", True),
        ("Two words.", True),
        ("Just three words.", False),
        ("Internal helper of the parser.", True),
        (">>> 1 + 1 2", True),
        ("BinOp(expr left, operator op, expr right)", True),
        ("D.copy() -> a shallow copy of D", False),
        ("unregister(signum): undo the effect of register()", False),
    ],
)
def test_texts_that_say_nothing(script: ModuleType, text: str, says_nothing: bool) -> None:
    """The truth table of what is worth a document."""
    assert (script.NOTHING_SAID.fullmatch(text) is not None) == says_nothing
