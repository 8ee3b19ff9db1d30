"""The docstrings of this machine's Python standard library, as JSON lines to index and search.

    python examples/stdlib_docstrings.py -o stdlib.jsonl

One object a line, sorted by id: ``{"id": "threading.Timer.cancel", "text": first paragraph,
"module": "threading", "kind": "module" | "class" | "function" | "method"}``.

Python sources are parsed, never imported: ``import antigravity`` opens a browser. Compiled modules
(``math``) are imported and inspected. A name that a public module takes from a hidden one
(``collections.deque`` from ``_collections``, ``os.listdir`` from ``posix``) gets its public id.
Leaves out private names, tests and names made at run time (``random.choice``, see ``random.Random``).
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import inspect
import json
import re
import signal
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

Entry = tuple[str, str, str | None]  # name inside its module ("" for the module), kind, docstring

STDLIB = Path(sysconfig.get_path("stdlib"))
HIDDEN = re.compile(r"(^|\.)(_|(idlelib|turtledemo|tests?|idle_test|posix|nt|ntpath)(\.|$))")  # have no documents
PUBLIC_NAME = {"genericpath": "os.path", "posixpath": "os.path"}  # where people look for them
CALL = r"(\w+ = |\| )?[\w.]*\(.*\)"
SIGNATURE = re.compile(rf"({CALL})?(\s*-+>\s*(\(.*\)|[^.,]*))?")  # but "D.pop(k) -> v, remove key" is a sentence
NOTHING_SAID = re.compile(rf"Internal.*|>>>.*|(?!.*(->|: )){CALL}|\S*( \S+)?")


def first_paragraph(doc: str) -> str:
    """First paragraph on one line, without the signature lines (``f(x) -> y``) that some C functions begin with."""
    unfolded = re.sub(r"(?<=\S)\n[ \t]+(?=\S)", " ", inspect.cleandoc(doc))  # an indented line continues the last one
    lines = unfolded.split("\n")
    while lines and SIGNATURE.fullmatch(lines[0].strip()):
        lines.pop(0)
    paragraphs = re.split(r"\n\s*\n", "\n".join(lines) or unfolded)
    is_title = len(paragraphs[0].split()) < 3  # "Temporary files.": the next one says more
    return " ".join(" ".join(paragraphs[: 1 + is_title]).split())


def from_body(body: Iterable[ast.AST], prefix: str = "") -> Iterator[Entry]:
    """Entries of the public classes and functions that the body of a module or class defines."""
    for node in body:
        if isinstance(node, (ast.If, ast.Try, ast.ExceptHandler, ast.With)):
            yield from from_body(ast.iter_child_nodes(node), prefix)
        elif isinstance(node, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)) and not node.name.startswith("_"):
            kind = "class" if isinstance(node, ast.ClassDef) else "method" if prefix else "function"
            yield prefix + node.name, kind, ast.get_docstring(node)
            if isinstance(node, ast.ClassDef):
                yield from from_body(node.body, f"{prefix}{node.name}.")


def from_compiled(module: str) -> Iterator[Entry]:
    """Entries of a module without Python source; none if this machine does not have it."""
    spec = importlib.util.find_spec(module) if module in sys.stdlib_module_names else None
    if spec is None or not f"{spec.origin}".endswith(("built-in", *EXTENSION_SUFFIXES)):
        return
    try:
        loaded = importlib.import_module(module)
    except ImportError:  # built, but a library it needs (Tk, curses) is gone
        return
    yield "", "module", loaded.__doc__
    for name, value in vars(loaded).items():
        if name.startswith("_") or (module != "builtins" == getattr(value, "__module__", "")):
            continue  # select.error is OSError
        if inspect.isclass(value):
            yield name, "class", value.__doc__
            members = [(key, getattr(value, key)) for key in vars(value) if not key.startswith("_")]
            yield from ((f"{name}.{key}", "method", x.__doc__) for key, x in members if inspect.isroutine(x))
        elif inspect.isroutine(value):
            yield name, "function", value.__doc__


def from_hidden(tree: ast.Module, package: str) -> Iterator[Entry]:
    """Entries of names from hidden modules: ``from _bisect import *``, ``get_ident = _thread.get_ident``."""
    outside = [node for node in tree.body if not isinstance(node, (ast.ClassDef, ast.FunctionDef))]
    lists = [node for node in outside if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"]
    listed = {item.value for node in lists for item in ast.walk(node) if isinstance(item, ast.Constant)}
    alias: dict[str, str] = {}
    for node in ast.walk(ast.Module(outside, [])):
        source, names = "", {}  # a module, and what the names there are here
        if isinstance(node, ast.ImportFrom):
            source = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = {item.name: item.asname or item.name for item in node.names}
        elif isinstance(node, ast.Assign) and isinstance(node.value, (ast.Name, ast.Attribute)):
            here, there = ast.unparse(node.targets[0]), ast.unparse(node.value)
            alias[here] = alias.get(there, there)  # Lock = _allocate_lock = _thread.allocate_lock
            source, _, there = alias[here].rpartition(".")
            names = {there: here}
        for name, kind, doc in entries(source, follow=False) if HIDDEN.search(source) else ():
            head, dot, rest = name.partition(".")
            here = head if "*" in names else names.get(head, "_")  # head is "" for the docstring of the module
            if not here.startswith("_") and ("*" in names or not lists or here in listed):
                yield here + dot + rest, kind, doc


def entries(module: str, follow: bool = True) -> Iterator[Entry]:
    """Entries of one module; with ``follow`` also of the names it takes from hidden modules."""
    path = STDLIB.joinpath(*module.split("."))
    sources = [source for source in (path / "__init__.py", path.with_name(f"{path.name}.py")) if source.is_file()]
    if not sources:
        yield from from_compiled(module)
        return
    tree = ast.parse(sources[0].read_bytes())
    yield "", "module", ast.get_docstring(tree)
    yield from from_body(tree.body)
    if follow:
        yield from from_hidden(tree, module if sources[0].stem == "__init__" else module.rpartition(".")[0])


def corpus() -> list[dict[str, str]]:
    """Every document, sorted by id; an id that comes twice (a property and its setter) keeps its first telling text."""
    found: dict[str, dict[str, str]] = {}
    for top in sorted(sys.stdlib_module_names):
        files = [path.relative_to(STDLIB).with_suffix("").parts for path in (STDLIB / top).rglob("*.py")]
        for module in sorted({top, *(".".join(parts).removesuffix(".__init__") for parts in files)}):
            public = PUBLIC_NAME.get(module, module)
            for name, kind, doc in entries(module) if not HIDDEN.search(module) else ():
                doc_id, text = f"{public}.{name}".rstrip("."), first_paragraph(doc or "")
                if not NOTHING_SAID.fullmatch(text):
                    found.setdefault(doc_id, {"id": doc_id, "text": text, "module": public, "kind": kind})
    return [found[doc_id] for doc_id in sorted(found)]


def main() -> None:
    """Write the corpus to a file or standard output, its size to standard error."""
    parser = argparse.ArgumentParser(description="The docstrings of the Python standard library as JSON lines.")
    parser.add_argument("-o", "--output", metavar="FILE", default="-", help="default: standard output")
    output = parser.parse_args().output
    warnings.simplefilter("ignore")  # deprecated modules have docstrings too
    documents = corpus()
    lines = "".join(json.dumps(document) + "\n" for document in documents)
    sys.stdout.write(lines) if output == "-" else Path(output).write_text(lines, encoding="utf-8")
    print(f"{len(documents):,} docstrings of Python {sys.version.split()[0]}", file=sys.stderr)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # for ... | head
    main()
