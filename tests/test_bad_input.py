"""Bad input at both doors: what it ends in, and that nothing stored is lost by it.

Readers of files have their own tests (`test_corpora.py`); here the whole way is walked, from a command (or a call)
to the index folder, which must be what it was, byte for byte.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Ran, run
from storage import content, no_waiting_for_the_disk

from indexes.errors import (
    CorpusError,
    IndexMissingError,
    InputError,
    RetrievalError,
    VectorError,
)
from indexes.steps import STEPS
from retrieval import Document, Engine, Hit, Whitening
from retrieval.encoder import Encoded, HashEncoder, Role

ROOT = Path(__file__).resolve().parent.parent
RETRIEVAL = f"{sys.executable} -m retrieval"
GOOD = [{"id": f"d{i}", "text": f"fox {i} w{i % 5}", "kind": "ab"[i % 2], "n": i} for i in range(12)]
NEW = [b'{"id": "new1", "text": "a new fox"}\n', b'{"id": "new2", "text": "a new whale"}\n']


@pytest.fixture(autouse=True)
def quick() -> Iterator[None]:
    with no_waiting_for_the_disk():
        yield


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template")
    Engine.build(GOOD, folder / "index", model="hash:8", whitening=None).close()
    (folder / "c.jsonl").write_text("".join(json.dumps(record) + "\n" for record in GOOD))
    (folder / "q.txt").write_text("fox\n")
    (folder / "beir").mkdir()
    shutil.copy(folder / "c.jsonl", folder / "beir" / "corpus.jsonl")
    return folder


@pytest.fixture
def here(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with ``index``, the ``c.jsonl`` it was made of, and more."""
    folder = tmp_path / "here"
    shutil.copytree(template, folder)
    monkeypatch.chdir(folder)
    return folder


def state(index: Path | str = "index") -> tuple[list[Hit], list[str], dict[str, bytes]]:
    """Answers, documents and files of an index."""
    with Engine.open(index) as engine:
        hits = engine.search("fox w3", 100)
        documents = engine.get(sorted(hit.doc_id for hit in hits))
    return hits, [repr(document) for document in documents], files(index)


def files(index: Path | str) -> dict[str, bytes]:
    """What lies in an index folder, but for SQLite's log, which readers leave empty."""
    return {name: data for name, data in content(Path(index)).items() if not name.endswith(("-wal", "-shm"))}


def refused(*arguments: object, said: str, code: int = 1, stdin: bytes = b"") -> Ran:
    """Run what must fail: one sentence, the code that fits, nothing on standard output."""
    ran = run(*arguments, stdin=stdin)
    assert (ran.code, len(ran.errors), ran.out) == (code, 1, ""), (arguments, ran)
    assert said in ran.errors[0], (arguments, ran.errors)
    if code == 1:  # of wrong usage, click shows the usage first
        assert ran.err.endswith(ran.errors[0] + "\n"), ran.err
    return ran


def done(*arguments: object, said: str = "", stdin: bytes = b"") -> Ran:
    """Run what must succeed."""
    ran = run(*arguments, stdin=stdin)
    assert (ran.code, ran.errors) == (0, []), (arguments, ran)
    assert said in ran.err, (arguments, ran.err)
    return ran


def sh(command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A shell's command line with `retrieval` as a person has it; its exit code is its last line."""
    ran = subprocess.run(
        ["bash", "-c", f"retrieval() {{ {RETRIEVAL} \"$@\"; }}\n{command}"],
        capture_output=True, text=True, timeout=120, check=False, errors="backslashreplace",
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
    )  # fmt: skip
    assert "Traceback" not in ran.stderr, ran.stderr
    return ran


# --- records --------------------------------------------------------------------------------------------------------

BAD_RECORDS = {
    "cut off": b'{"id": "x", "text": ',
    "no JSON": b"a fox",
    "an array": b'["x", "a fox"]',
    "not UTF-8": b'{"id": "x", "text": "\xff"}',
    "UTF-16": '{"id": "x", "text": "a fox"}'.encode("utf-16-le"),
    "a NUL": b"\0",
    "a lone surrogate": b'{"id": "x", "text": "\xed\xa0\x80"}',
    "a lone surrogate, escaped": b'{"id": "x", "text": "fox \\ud800"}',
    "a lone surrogate in the id": b'{"id": "x\\udfff", "text": "fox"}',
    "a lone surrogate in the metadata": b'{"id": "x", "text": "fox", "n": {"\\ud800": 1}}',
    "a NUL in the id": b'{"id": "x\\u0000", "text": "fox"}',
    "an empty id": b'{"id": "", "text": "fox"}',
    "a fraction as id": b'{"id": 1.5, "text": "fox"}',
    "true as id": b'{"id": true, "text": "fox"}',
    "an object as id": b'{"id": {}, "text": "fox"}',
    "an id of 5,000 digits": b'{"id": ' + b"9" * 5000 + b', "text": "fox"}',
    "an empty text": b'{"id": "x", "text": ""}',
    "a blank text": b'{"id": "x", "text": " \\n\\t\\u3000"}',
    "no text": b'{"id": "x", "body": "fox"}',
    "null as text": b'{"id": "x", "text": null}',
    "a number as text": b'{"id": "x", "text": 7}',
    "NaN": b'{"id": "x", "text": "fox", "n": NaN}',
    "a number beyond all": b'{"id": "x", "text": "fox", "n": 1e999}',
    "nested too deeply": b'{"id": "x", "text": "fox", "n": ' + b"[" * 200 + b"]" * 200 + b"}",
    "nested beyond all": b'{"id": "x", "text": "fox", "n": ' + b"[" * 100_000,
    "an id used before": b'{"id": "new1", "text": "another"}',
}


@pytest.mark.parametrize("bad", BAD_RECORDS)
def test_a_bad_record_is_named_and_changes_nothing(here: Path, bad: str) -> None:
    before = state()
    places = (0, 1, 2) if bad != "an id used before" else (1, 2)
    for place in places:
        lines = list(NEW)
        lines.insert(place, BAD_RECORDS[bad] + b"\n")
        corpus = here / "new.jsonl"
        corpus.write_bytes(b"".join(lines) if place < 2 else b"".join(lines).removesuffix(b"\n"))
        where = f"new.jsonl:{place + 1}: "
        refused("build", "new.jsonl", "-o", "other", "-m", "hash:8", "-q", said=where)
        assert not (here / "other").exists()
        for command in ("add", "upsert"):
            refused(command, "index", "new.jsonl", "-q", said=where)
        refused("upsert", "index", "new.jsonl", "--prune", "-q", said=where)
        assert state() == before


def test_bad_records_left_out_are_counted_and_kept(here: Path) -> None:
    lines = [NEW[0].rstrip(), *BAD_RECORDS.values(), NEW[1].rstrip()]
    (here / "new.jsonl").write_bytes(b"\n".join(lines))
    skip = ["--on-error", "skip", "--rejects", "rejects.jsonl"]
    counted = f"records left out: {len(BAD_RECORDS)}; they are in rejects.jsonl"
    done("build", "new.jsonl", "-o", "other", "-m", "hash:8", *skip, said=counted)
    done("add", "index", "new.jsonl", *skip, said=counted)
    rejects = [json.loads(line) for line in (here / "rejects.jsonl").read_text("utf-8").splitlines()]
    assert [reject["line"] for reject in rejects] == list(range(2, len(BAD_RECORDS) + 2))
    ran = done("upsert", "index", "new.jsonl", "--on-error", "skip", said="records left out: 26; rejects=FILE")
    assert "index: 2 unchanged; now 14 documents" in ran.err
    assert {json.loads(line)["id"] for line in done("export", "other").out.splitlines()} == {"new1", "new2"}


def test_an_id_that_is_there_with_another_text_is_no_addition(here: Path) -> None:
    before = state()
    (here / "new.jsonl").write_bytes(NEW[0] + b'{"id": "d3", "text": "another fox"}\n' + NEW[1])
    refused("add", "index", "new.jsonl", "-q", said="new.jsonl:2: id 'd3' is in the index already, with another text")
    assert state() == before
    done("add", "index", "new.jsonl", "--on-error", "skip", said="index: 2 added; now 14 documents")
    with Engine.open("index") as engine:
        assert engine.get(["d3"])[0].text == GOOD[3]["text"]


EMPTY = {
    "nothing": b"",
    "blank lines": b"\n \n\r\n",
    "a BOM": b"\xef\xbb\xbf",
    "a BOM and a line end": b"\xef\xbb\xbf\r\n",
}


@pytest.mark.parametrize("data", EMPTY.values(), ids=EMPTY)
def test_a_corpus_without_documents_prunes_nothing(here: Path, data: bytes) -> None:
    before = state()
    (here / "new.jsonl").write_bytes(data)
    for command in (["add", "index"], ["upsert", "index", "--prune"], ["build", "-o", "other", "-m", "hash:8"]):
        refused(*command, "new.jsonl", said="there is no document in the corpus: it is empty")
        refused(*command, "-", said="there is no document in the corpus: it is empty", stdin=data)
    refused("delete", "index", "--ids", "-", said="holds no id", stdin=data)
    assert state() == before


def test_a_byte_order_mark_and_windows_line_ends_change_nothing(here: Path) -> None:
    text = (here / "c.jsonl").read_text()
    for data in ("\ufeff" + text, text.replace("\n", "\r\n"), "\ufeff" + text.replace("\n", "\r\n").rstrip()):
        (here / "again.jsonl").write_bytes(data.encode())
        done("upsert", "index", "again.jsonl", "--prune", said="index: 12 unchanged; now 12 documents")
    (here / "ids.txt").write_bytes(b'\xef\xbb\xbfd1\r\n\r\n"d2"\r\nd3')
    done("delete", "index", "--ids", "ids.txt", said="index: 3 deleted; now 9 documents")


ODD_IDS = [
    "a\nb",
    "a\r\nb",
    "\t",
    " ",
    "🦊",
    "שלום \u202e",
    "\x01\x1b[31m",
    "01234",
    "1234",
    "NaN",
    "null",
    "true",
    "-o",
    "--help",
]
ODD_IDS += [
    "../../etc",
    "'; DROP TABLE documents; --",
    "%",
    "_",
    "*",
    '"',
    '"quoted"',
    "\\",
    "\ufeff",
    "é",
    "e\u0301",
    "\u2028",
]
ODD_IDS += ["text:0123456789abcdef", "x" * 100_000, "1e5", "0x10", "٣"]
ODD_METADATA: list[dict[str, Any]] = [
    {"": "no name", "a.b": 1, "a": {"b": 2, "": None}, '"': "quote", "\\": "back", "\0": "nul", "\n": "line"},
    {"huge": 2**70, "small": -(2**63) - 1, "digits": int("9" * 4000), "float": 1.7976931348623157e308, "tiny": 5e-324},
    {
        "zero": -0.0,
        "true": True,
        "null": None,
        "list": [[], {}, [None]],
        "🦊": "שלום",
        "text": "mine",
        "long": "x" * 100_000,
    },
    {"deep": json.loads("[" * 99 + "]" * 99)},
]
ODD_TEXTS = [
    "\0",
    "a\0b",
    "\x1b[2J",
    "\ufeff",
    "\u202e fox",
    "a\r\nb\rc\u2028d",
    "🦊" * 1000,
    "é",
    "e\u0301",
    "x" * 1_000_000,
]


def test_odd_documents_come_back_as_they_were(here: Path) -> None:
    n = max(len(ODD_IDS), len(ODD_TEXTS))
    records = [
        {"id": ODD_IDS[i], "text": ODD_TEXTS[i % len(ODD_TEXTS)], "metadata": ODD_METADATA[i % len(ODD_METADATA)]}
        for i in range(n)
    ]  # fmt: skip
    spelled = [
        {**record, "metadata": {k: v for k, v in record["metadata"].items() if k != "text"}} for record in records
    ]
    (here / "odd.jsonl").write_text("".join(json.dumps(record) + "\n" for record in spelled))
    done("build", "odd.jsonl", "-o", "odd", "-m", "hash:8", said=f"odd: {n} documents")
    exported = [json.loads(line) for line in done("export", "odd").out.split("\n")[:-1]]
    assert exported == spelled
    with Engine.open("odd") as engine:
        assert engine.get(ODD_IDS) == [
            Document(doc_id=one["id"], text=one["text"], metadata=one["metadata"]) for one in spelled
        ]
        for hit in engine.search("fox", 100):
            assert hit.metadata == spelled[ODD_IDS.index(hit.doc_id)]["metadata"]
    assert done("verify", "odd", "--deep").out.count(" ok\n") == done("verify", "odd", "--deep").out.count("\n")
    (here / "exported.jsonl").write_text(done("export", "odd").out)
    done("upsert", "odd", "exported.jsonl", "--prune", said=f"odd: {n} unchanged; now {n} documents")
    for format_ in ("table", "json", "jsonl"):
        done("query", "odd", "fox \x1b[31m", "--format", format_, "-k", "100")
    refused_ids = run("query", "odd", "fox", "--format", "trec", "-k", "100")
    assert refused_ids.code == 1 and "holds white space, which a TREC run cannot" in refused_ids.errors[0]
    quoted = "".join(json.dumps(doc_id) + "\n" for doc_id in ODD_IDS).encode()
    done("delete", "odd", "--ids", "-", said=f"odd: {n} deleted; now 0 documents", stdin=quoted)


def test_ids_are_given_on_the_command_line_as_they_are(here: Path) -> None:
    done(
        "delete",
        "index",
        "--",
        "d1",
        "-o",
        "d2",
        "",
        "🦊",
        "\udcff",
        said="index: 2 deleted, 4 missing; now 10 documents",
    )
    done("delete", "index", "d1", "d1", said="index: 1 missing; now 10 documents")


def test_a_line_of_100_megabytes_is_a_record_like_others(here: Path) -> None:
    with (here / "long.jsonl").open("wb") as file:
        file.write(NEW[0] + b'{"id": "long", "text": "' + b"x" * 100_000_000 + b'"}\n' + NEW[1])
    ran = sh("retrieval add index long.jsonl; retrieval delete index long")
    assert "index: 3 added; now 15 documents" in ran.stderr, ran.stderr
    assert "index: 1 deleted; now 14 documents" in ran.stderr


# --- queries and numbers of hits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", " ", "\n", "\u3000"])
def test_a_blank_query_is_refused(here: Path, query: str) -> None:
    refused("query", "index", query, said="expected some words")


@pytest.mark.parametrize(
    "query", ["\x01", "...", "🦊", "w " * 500_000, "x" * 1_000_000, "שלום \u202e", "' OR 1=1", "--"]
)
def test_any_other_query_has_an_answer(here: Path, query: str) -> None:
    answer = json.loads(done("query", "index", "--format", "jsonl", "-k", "3", "--", query).out)
    assert answer["query"] == query and len(answer["hits"]) == 3


def test_queries_of_a_file_are_checked_line_by_line(here: Path) -> None:
    done("query", "index", "-", stdin="a\0b\n\n\ufefffox\n".encode())
    refused("query", "index", "-", said="<stdin>:2: byte 0 of the line", stdin=b"fox\n\xff\n")
    refused("query", "index", "-", said="<stdin>:2: not JSON", stdin=b'{"text": "fox"}\nfox\n')
    refused("query", "index", "fox \udcff", said="query 1 holds a lone surrogate")
    for empty in (b"", b"\n\n"):
        assert done("query", "index", "-", "--format", "jsonl", stdin=empty).out == ""


def test_numbers_of_hits(here: Path) -> None:
    for k in ("0", "-1", "x", "1.5", "", "nan"):
        refused("query", "index", "fox", "-k", k, said="'-k'", code=2)
    for k in (12, 13, 10**12, 10**30):
        assert done("query", "index", "fox", "-k", k, "--format", "trec").out.count("\n") == 12
        assert (
            done("query", "index", "fox", "-k", k, "--exact", "--filter", "n < 5", "--format", "trec").out.count("\n")
            == 5
        )


def test_an_index_without_documents_is_an_index(here: Path) -> None:
    done("delete", "index", "--filter", "n >= 0", said="index: 12 deleted; now 0 documents")
    for _ in range(2):
        assert json.loads(done("query", "index", "fox", "--format", "jsonl").out)["hits"] == []
        assert "no hits" in done("query", "index", "fox", "--filter", "anything = 1").out
        assert done("export", "index").out == ""
        assert json.loads(done("info", "index", "--format", "json").out)["documents"] == 0
        done("verify", "index", "--deep")
        done("delete", "index", "d1", said="1 missing; now 0 documents")
        done("delete", "index", "--filter", "n = 1", said="nothing to do; now 0 documents")
        refused("rebuild", "index", "-q", said="holds no document")
        done("compact", "index", said="now 0 documents")
    done("add", "index", "c.jsonl", said="index: 12 added; now 12 documents")
    assert json.loads(done("query", "index", "fox 3 w3", "--format", "jsonl").out)["hits"][0]["id"] == "d3"


# --- places ---------------------------------------------------------------------------------------------------------

ON_AN_INDEX = [
    ["query", "{}", "fox"], ["info", "{}"], ["verify", "{}"], ["export", "{}"], ["add", "{}", "c.jsonl"],
    ["upsert", "{}", "c.jsonl", "--prune"], ["delete", "{}", "d1"], ["compact", "{}"], ["rebuild", "{}"],
]  # fmt: skip


@pytest.mark.parametrize(
    "place", ["missing", "c.jsonl", "c.jsonl/index", "beir", "", "index/segments", "a\nb", "\udcff", "x" * 300]
)
def test_where_no_index_is_none_is_made(here: Path, place: str) -> None:
    before = files(here)
    for command in ON_AN_INDEX:
        refused(*(part.format(place) for part in command), said="")
    assert files(here) == before


@pytest.mark.parametrize(
    "corpus", ["missing.jsonl", ".", "index", "c.jsonl/x.jsonl", "index/catalogue.sqlite", "", "x" * 300 + ".txt"]
)
def test_what_is_no_corpus_changes_nothing(here: Path, corpus: str) -> None:
    before = state()
    for command in (["add", "index"], ["upsert", "index", "--prune"], ["build", "-o", "other", "-m", "hash:8"]):
        refused(*command, corpus, said="")
        refused(*command, "c.jsonl" if command[0] != "add" else "beir", corpus, said="")  # the first one is fine
    assert state() == before and not (here / "other").exists()


@pytest.mark.parametrize("name", ["with blank", "a\nb", "o'brien", "%41", "#?&", "🦊", "-", "'\"; --", "c.sqlite"])
def test_any_name_will_do(here: Path, name: str) -> None:
    (here / name).mkdir()
    shutil.copy(here / "c.jsonl", here / name / "c.jsonl")
    index, corpus = f"./{name}/index", f"./{name}/c.jsonl"
    done("build", corpus, "-o", index, "-m", "hash:8", "--dim", "4")
    done("delete", index, "d1")
    done("add", index, corpus, said="1 added, 11 unchanged; now 12 documents")
    done("compact", index)
    done("rebuild", index, "--dim", "3")
    done("verify", index, "--deep")
    done("export", index, "-o", f"./{name}/out.jsonl")
    assert json.loads(done("query", index, "fox 3 w3", "--format", "jsonl").out)["hits"][0]["id"] == "d3"
    assert json.loads(done("info", index, "--format", "json").out)["documents"] == 12
    (here / name / "bad.jsonl").write_text("{")
    refused("add", index, f"./{name}/bad.jsonl", said="bad.jsonl:1: ")


def test_a_corpus_whose_name_is_not_utf8_is_read(here: Path) -> None:
    name = os.fsdecode(b"c\xff.jsonl")
    shutil.copy(here / "c.jsonl", name)
    done("build", name, "-o", "other", "-m", "hash:8", said="other: 12 documents")
    done("add", "index", name, said="12 unchanged")
    with Path(name).open("ab") as file:
        file.write(b"{\n")
    refused("add", "index", name, "-q", said="c\\udcff.jsonl:13: not JSON")
    done("add", "index", name, "--on-error", "skip", "--rejects", "rejects", said="records left out: 1")
    assert json.loads((here / "rejects").read_text("utf-8"))["source"] == "c\\udcff.jsonl"


def test_an_index_whose_name_is_not_utf8_is_refused_before_any_work(here: Path) -> None:
    refused("build", "c.jsonl", "-o", "i\udcff", "-m", "hash:8", said="UTF-8")
    assert not Path("i\udcff").exists()


@pytest.mark.parametrize("output", ["missing/out", "c.jsonl/out", "beir", "index/out", "", "x" * 300, "/proc/none/out"])
def test_what_cannot_be_written_to_is_left_alone(here: Path, output: str) -> None:
    before, all_files = state(), files(here)
    refused("export", "index", "-o", output, "-q", said="")
    if output != "beir":  # wrong usage, to click
        refused("add", "index", "c.jsonl", "--on-error", "skip", "--rejects", output, "-q", said="")
    if output not in ("missing/out", "", "index/out"):  # folders are made
        refused("build", "c.jsonl", "-o", output, "-m", "hash:8", "-q", said="")
    assert state() == before
    assert files(here) == all_files


def test_errors_of_the_system_are_one_line_whatever_the_name(here: Path) -> None:
    refused("build", "c.jsonl", "-o", "c.jsonl/a\nb", "-m", "hash:8", said="c.jsonl/a b: Not a directory")
    refused("export", "index", "-o", "missing/a\nb", "-q", said="missing/a b")


# --- files of other people ------------------------------------------------------------------------------------------


def test_rejects_and_exports_overwrite_nothing_that_was_not_named(here: Path) -> None:
    shutil.copy(here / "c.jsonl", here / "out.tmp")
    before = (here / "out.tmp").read_bytes()
    done(
        "build", "out.tmp", "--format", "jsonl", "-o", "other", "-m", "hash:8", "--on-error", "skip", "--rejects", "out"
    )
    assert (here / "out.tmp").read_bytes() == before
    done("export", "index", "-o", "out")
    assert (here / "out.tmp").read_bytes() == before
    assert sorted(path.name for path in here.iterdir() if path.name.startswith("out")) == ["out", "out.tmp"]


def test_rejects_do_not_replace_the_corpus_of_a_folder(here: Path) -> None:
    skip = ["--on-error", "skip", "--rejects", "beir/corpus.jsonl"]
    refused("add", "index", "beir", *skip, said="is the corpus itself")
    refused("build", "beir", "-o", "other", "-m", "hash:8", *skip, said="is the corpus itself")
    ran = sh("retrieval add index - --on-error skip --rejects c.jsonl < c.jsonl; echo $?")
    assert ran.stdout == "1\n" and "is the corpus itself" in ran.stderr
    assert (here / "beir" / "corpus.jsonl").read_bytes() == (here / "c.jsonl").read_bytes() != b""


def test_a_link_stays_one(here: Path) -> None:
    (here / "elsewhere").write_text("old")
    for name in ("rejects", "out"):
        (here / name).symlink_to("elsewhere")
    (here / "new.jsonl").write_bytes(b"{\n" + NEW[0])
    done("add", "index", "new.jsonl", "--on-error", "skip", "--rejects", "rejects")
    assert (here / "rejects").is_symlink() and json.loads((here / "elsewhere").read_text())["line"] == 1
    done("export", "index", "-o", "out")
    assert (here / "out").is_symlink() and (here / "elsewhere").read_text().count("\n") == 13


@pytest.mark.parametrize("command", ["rejects", "export"])
def test_what_is_no_regular_file_is_written_as_it_is(here: Path, command: str) -> None:
    os.mkfifo(here / "pipe")
    read: list[bytes] = []
    reader = threading.Thread(target=lambda: read.append((here / "pipe").read_bytes()), daemon=True)
    reader.start()
    (here / "new.jsonl").write_bytes(b"{\n" + NEW[0])
    if command == "rejects":
        done("add", "index", "new.jsonl", "--on-error", "skip", "--rejects", "pipe")
    else:
        done("export", "index", "-o", "pipe")
    reader.join(30)
    assert read[0].count(b"\n") == (1 if command == "rejects" else 12)
    assert (here / "pipe").is_fifo()


# --- standard input and output --------------------------------------------------------------------------------------


def test_a_closed_standard_input_is_an_error(here: Path) -> None:
    before = state()
    commands = [
        "build - -o other -m hash:8",
        "add index -",
        "upsert index - --prune",
        "query index -",
        "delete index --ids -",
    ]
    ran = sh("\n".join(f"retrieval {command} <&-; echo $?" for command in commands))
    assert ran.stdout == "1\n" * len(commands)
    assert ran.stderr.count("\n") == ran.stderr.count("Error: <stdin>: standard input is closed") == len(commands)
    assert state() == before and not (here / "other").exists()


def test_an_input_that_ends_early_changes_nothing(here: Path) -> None:
    before = state()
    for command in (["add", "index"], ["upsert", "index", "--prune"]):
        refused(*command, "-", "-q", said="<stdin>:2: not JSON", stdin=NEW[0] + NEW[1][:20])
    assert state() == before


READS = ["query index fox", "query index fox --format json", "query index -i q.txt --format jsonl", "info index",
         "info index --format json", "verify index --deep", "export index", "--help", "build --help", "--version"]  # fmt: skip


def test_a_reader_of_our_output_that_goes_away_is_no_error(here: Path) -> None:
    ran = sh("\n".join(f"{{ retrieval {command}; echo $? >&2; }} | true" for command in READS))
    assert [line for line in ran.stderr.splitlines() if not line.startswith("standard output:")] == ["0"] * len(READS)


def test_an_output_that_is_full_is_an_error(here: Path) -> None:
    ran = sh("\n".join(f"retrieval {command} > /dev/full; echo $?" for command in READS))
    assert ran.stdout == "1\n" * len(READS)
    assert ran.stderr.count("\n") == ran.stderr.count("Error: ") == ran.stderr.count("No space left") == len(READS)


def test_closed_outputs_are_as_good_as_none(here: Path) -> None:
    """Nothing is written into a file that got the number of a closed descriptor."""
    reads = ["query index fox", "query index fox --format json", "info index", "export index", "--help"]
    ran = sh("\n".join(f"retrieval {command} >&-; echo $?" for command in reads))
    assert ran.stdout == "0\n" * len(reads), ran.stderr
    writes = ["build c.jsonl -o other -m hash:8", "add index q.txt --format text", "upsert index beir", "compact index"]
    ran = sh("\n".join(f"retrieval {command} <&- >&- 2>&-; echo $?" for command in writes))
    assert ran.stdout == "0\n" * len(writes)
    for index in ("index", "other"):
        done("verify", index, "--deep")


# --- interruptions --------------------------------------------------------------------------------------------------


def documents_of(index: str) -> dict[str, str]:
    with Engine.open(index) as engine:
        return {hit.doc_id: hit.text for hit in engine.search("fox", 1000)}


@pytest.mark.parametrize("command", ["upsert", "compact", "rebuild", "delete"])
@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_at_any_step_loses_nothing(here: Path, monkeypatch: pytest.MonkeyPatch, step: str, command: str) -> None:
    monkeypatch.setattr("indexes.staging.CHUNK", 4)
    done("delete", "index", "d0")
    (here / "new.jsonl").write_text(
        "".join(json.dumps(record | {"text": f"new {record['text']}"}) + "\n" for record in GOOD[2:])
    )
    line = {
        "upsert": ["upsert", "index", "new.jsonl", "--prune"],
        "delete": ["delete", "index", "d1", "d5"],
    }.get(command, [command, "index"])
    old = documents_of("index")
    shutil.copytree("index", "whole")
    done(*("whole" if part == "index" else part for part in line))
    new = documents_of("whole")
    reached: list[str] = []

    def interrupt(name: str) -> None:
        reached.append(name)
        if name == step:
            monkeypatch.setattr("indexes.steps.on_step", None)
            raise KeyboardInterrupt

    monkeypatch.setattr("indexes.steps.on_step", interrupt)
    ran = run(*line)
    monkeypatch.setattr("indexes.steps.on_step", None)
    if step not in reached:
        assert (ran.code, ran.errors) == (0, [])
        assert documents_of("index") == new
        return
    assert (ran.code, ran.errors) == (
        130,
        [],
    ) and "nothing stored is lost, and what was being stored goes on with the same command" in ran.err
    assert documents_of("index") == (new if "committed" in reached else old)
    done("verify", "index", "--deep")
    done(*line)
    assert documents_of("index") == new
    done("add", "index", "-", said="1 added", stdin=b"one more\n")  # nothing passes for unfinished
    done("verify", "index", "--deep")
    assert not (here / "index" / "staging").exists()


def may_be_interrupted() -> None:
    """Undo what a shell does to what it starts in the background: Ctrl-C is ignored there, and by its children."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_while_vectors_are_made_loses_nothing(here: Path, sent: signal.Signals, code: int) -> None:
    before = state()
    (here / "new.txt").write_text("".join(f"new text {i}\n" for i in range(40)))
    program = (
        "import os\nfrom indexes import staging, steps\nfrom retrieval.cli import main\nstaging.CHUNK = 8\n"
        f"steps.on_step = lambda name: name == 'chunk noted' and os.kill(os.getpid(), {int(sent)})\n"
        "main(['add', 'index', 'new.txt'])\n"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT)}, preexec_fn=may_be_interrupted,
    )  # fmt: skip
    assert (ran.returncode, "Traceback" in ran.stderr) == (code, False), ran.stderr
    assert [part for part in state() if not isinstance(part, dict)] == list(before[:2])
    (here / "other.txt").write_text("another text\n")
    refused("add", "index", "other.txt", "-q", said="--fresh")
    done("add", "index", "new.txt", said="going on")
    assert json.loads(done("info", "index", "--format", "json").out)["documents"] == 52


# --- the Python face ------------------------------------------------------------------------------------------------


@pytest.fixture
def engine(here: Path) -> Iterator[Engine]:
    with Engine.open("index") as opened:
        yield opened


def ids(engine: Engine, query: Any, **how: Any) -> list[list[str]]:
    return [[hit.doc_id for hit in hits] for hits in engine.search(query, 4, **how)]


SAME: dict[str, Callable[[Any], Any]] = {
    "float64": lambda v: v.astype(np.float64),
    "float16": lambda v: v.astype(np.float16),
    "big-endian": lambda v: v.astype(">f4"),
    "Fortran's order": np.asfortranarray,
    "strided": lambda v: np.repeat(v, 3, axis=1)[:, ::3],
    "a negative stride": lambda v: v[::-1].copy()[::-1],
    "read-only": lambda v: np.frombuffer(v.tobytes(), np.float32).reshape(v.shape),
    "masked": np.ma.masked_array,
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME)
def test_the_same_vectors_in_another_dress_find_the_same(engine: Engine, change: Callable[[Any], Any]) -> None:
    vectors = engine.embed(["fox 3", "w1"])
    assert ids(engine, change(vectors)) == ids(engine, vectors)


ROWS = np.eye(8, dtype=np.float32)[:2]
BAD_VECTORS: dict[str, Any] = {
    "NaN": ROWS * np.nan, "infinite": np.where(ROWS, np.inf, 0).astype(np.float32), "zero": ROWS * 0, "long": ROWS * 2,
    "short": ROWS * 0.9, "too wide": np.eye(9, dtype=np.float32), "too narrow": ROWS[:, :7], "one row": ROWS[0],
    "three axes": ROWS[None], "a number": np.array(1.0), "nothing": np.empty(0, np.float32),
    "no columns": np.empty((2, 0), np.float32), "complex": ROWS.astype(complex), "text": np.array([["a"] * 8]),
    "dates": np.zeros((1, 8), "datetime64[s]"), "NaN in one": np.vstack([ROWS, [np.nan] * 8]).astype(np.float32),
}  # fmt: skip


@pytest.mark.parametrize("vectors", BAD_VECTORS.values(), ids=BAD_VECTORS)
@pytest.mark.parametrize("how", [{}, {"exact": True}, {"filter": "n < 3"}], ids=["", "exact", "filter"])
def test_vectors_that_are_no_unit_rows_are_refused(engine: Engine, vectors: Any, how: dict[str, Any]) -> None:
    with pytest.raises(VectorError):
        engine.search(vectors, 3, **how)


def test_no_vectors_have_no_answers(engine: Engine) -> None:
    assert engine.search(np.empty((0, 8), np.float32)) == [] == engine.search([])


@pytest.mark.parametrize(
    "k", [np.int64(3), np.uint8(3), np.int8(3), np.uint8(255), np.int8(127), 2**63, np.int64(2**62), 10**30]
)
def test_k_may_be_any_whole_number(engine: Engine, k: Any) -> None:
    assert len(engine.search("fox", k)) == min(int(k), 12)
    assert len(engine.search("fox", k, filter="n < 5", exact=True)) == min(int(k), 5)


@pytest.mark.parametrize(
    "k", [0, -1, True, 1.0, np.float64(3), "3", None, [3], float("nan"), np.array([3]), np.bool_(True)]
)
def test_any_other_k_is_refused(engine: Engine, k: Any) -> None:
    with pytest.raises(InputError, match="expected the number of hits"):
        engine.search("fox", k)


@pytest.mark.parametrize(
    "queries",
    [
        [None],
        [b"fox"],
        [3],
        [["fox"]],
        ["fox", ""],
        [np.ones(8)],
        b"fox",
        ["\ud800"],
        "\udfff",
        None,
        7,
        {"fox"},
        {"fox": 1},
    ],
)
def test_queries_that_are_no_texts_are_refused(engine: Engine, queries: Any) -> None:
    with pytest.raises(
        InputError, match="query 1 is|query 2 is|query 1 holds a lone surrogate|expected a sequence of texts"
    ):
        engine.search(queries)


def test_one_text_is_no_sequence_of_texts(engine: Engine) -> None:
    with pytest.raises(InputError, match="expected a sequence of texts"):
        engine.embed("fox")


def test_numpy_s_own_strings_are_strings(engine: Engine) -> None:
    assert ids(engine, np.array(["fox 3", "w1"]).tolist()) == ids(engine, [np.str_("fox 3"), np.str_("w1")])
    assert engine.get([np.str_("d3")]) == engine.get(["d3"])
    assert engine.add([(np.str_("s"), np.str_("a text")), {"id": np.str_("t"), "text": np.str_("another")}]).added == 2
    assert engine.delete([np.str_("s")]).deleted == 1
    assert type(engine.get(["t"])[0].text) is str


BAD_IDS: list[Any] = [[1], [None], [b"d1"], [["d1"]], [1.5], "d1", b"d1", 5, [np.int64(1)]]


@pytest.mark.parametrize("wanted", BAD_IDS, ids=repr)
def test_ids_that_are_no_texts_are_refused(engine: Engine, wanted: Any) -> None:
    before = state()
    for act in (engine.get, engine.delete):
        with pytest.raises(InputError):
            act(wanted)
    assert state() == before


@pytest.mark.parametrize("unknown", ["", "\0", "\ud800", "D1", "d1 ", "d1\0"])
def test_an_id_that_nobody_has_is_missing(engine: Engine, unknown: str) -> None:
    with pytest.raises(InputError, match="is not in"):
        engine.get(["d1", unknown])
    assert engine.delete([unknown]).missing == 1
    assert len(engine) == 12


def test_ids_may_come_from_a_generator(engine: Engine) -> None:
    assert [document.doc_id for document in engine.get(doc_id for doc_id in ("d1", "d2"))] == ["d1", "d2"]  # type: ignore[arg-type]
    assert engine.delete(doc_id for doc_id in ("d1", "nobody")).missing == 1  # type: ignore[arg-type]
    assert len(engine) == 11


def test_delete_wants_to_know_what(engine: Engine) -> None:
    for how in ({}, {"ids": ["d1"], "filter": "n = 1"}):
        with pytest.raises(InputError, match="either"):
            engine.delete(**how)  # type: ignore[arg-type]
    for expression in ("", "n =", "no_such_field = 1", {"n": {"$no": 1}}, {"n": float("nan")}, 5, []):
        with pytest.raises(InputError):
            engine.delete(filter=expression)  # type: ignore[arg-type]
    assert engine.delete([]).deleted == 0 and len(engine) == 12


BAD_ITEMS: dict[str, Any] = {
    "None": None, "bytes": b"fox", "a number": 5, "a triple": ("a", "b", "c"), "a list": ["a", "fox"], "text None": ("x", None),
    "text bytes": ("x", b"fox"), "id a float": (1.5, "fox"), "id bytes": (b"x", "fox"), "id a bool": (True, "fox"),
    "id a date": (np.datetime64("2020-01-01"), "fox"), "metadata bytes": {"id": "x", "text": "fox", "n": b"x"},
    "metadata NaN": {"id": "x", "text": "fox", "n": float("nan")}, "metadata array": {"id": "x", "text": "fox", "n": np.ones(2)},
    "metadata set": {"id": "x", "text": "fox", "n": {1}}, "a key": {"id": "x", "text": "fox", 1: 2}, "surrogate": ("x", "\ud800"),
    "blank": "\n", "twice": ("d1", "another text"),
}  # fmt: skip


@pytest.mark.parametrize("item", BAD_ITEMS.values(), ids=BAD_ITEMS)
def test_python_objects_that_are_no_documents_are_named(engine: Engine, item: Any) -> None:
    before = state()
    with pytest.raises(CorpusError, match="^<iterable>:2: "):
        engine.add([("new", "a new text"), item])
    assert state() == before
    if item != ("d1", "another text"):
        with pytest.raises(CorpusError, match="^<iterable>:2: "):
            engine.upsert(iter([("new", "a new text"), item]), prune=True)
    assert state() == before
    assert engine.add([("new", "a new text"), item], on_error="skip").added == 1


class Mine(Exception):
    """The caller's own error."""


@pytest.mark.parametrize(
    "error", [Mine, KeyError, RecursionError, MemoryError, KeyboardInterrupt, GeneratorExit, OSError]
)
@pytest.mark.parametrize("after", [0, 1, 3000])
def test_an_error_of_the_corpus_comes_through_and_nothing_is_lost(
    engine: Engine, error: type[BaseException], after: int
) -> None:
    def corpus() -> Iterator[Any]:
        yield from ((f"new{i}", f"text {i}") for i in range(after))
        raise error("from the caller")

    before = state()
    for act in (engine.add, engine.upsert, lambda items: engine.upsert(items, prune=True)):
        with pytest.raises(error, match="from the caller"):
            act(corpus())
        assert state() == before
    with pytest.raises(error, match="from the caller"):
        Engine.build(corpus(), "other", model="hash:8")
    assert not Path("other").exists()


# --- encoders of others ---------------------------------------------------------------------------------------------


class Own(HashEncoder):
    """An encoder of the user's own, which gives what `change` makes of the vectors and the flags."""

    def __init__(self, change: Callable[[Any, Any], Any], role: Role = "document", after: int = 0) -> None:
        super().__init__(8)
        self._change, self._role, self._left = change, role, after

    def encode(self, texts: Sequence[str], role: Role = "document") -> Encoded:
        made = super().encode(texts, role)
        if role == self._role:
            self._left -= 1
            if self._left < 0:
                changed: Encoded = self._change(*made)
                return changed
        return made


def with_row(value: float) -> Callable[[Any, Any], Any]:
    def change(vectors: Any, truncated: Any) -> Any:
        vectors = vectors.copy()
        vectors[-1] = value
        return vectors, truncated

    return change


FINE: dict[str, Callable[[Any, Any], Any]] = {
    "float64": lambda v, t: (v.astype(np.float64), t), "lists": lambda v, t: (v.tolist(), t.tolist()),
    "Fortran's order": lambda v, t: (np.asfortranarray(v), t), "flags as int": lambda v, t: (v, t.astype(int)),
    "a bare tuple": lambda v, t: (v, t),
}  # fmt: skip
BAD: dict[str, Callable[[Any, Any], Any]] = {
    "NaN": with_row(np.nan), "infinite": with_row(-np.inf), "zero": with_row(0), "complex": lambda v, t: (v.astype(complex), t),
    "objects": lambda v, t: (v.astype(object), t), "strings": lambda v, t: (v.astype(str), t), "words": lambda v, t: (np.full(v.shape, "x"), t),
    "fewer": lambda v, t: (v[:-1], t[:-1]), "fewer rows": lambda v, t: (v[:-1], t), "more": lambda v, t: (np.vstack([v, v]), np.hstack([t, t])),
    "wider": lambda v, t: (np.hstack([v, v]), t), "flat": lambda v, t: (v.ravel(), t), "three axes": lambda v, t: (v[None], t),
    "ragged": lambda v, t: ([row[: i % 3] for i, row in enumerate(v.tolist())], t), "no flags": lambda v, t: (v, None),
    "flags as text": lambda v, t: (v, t.astype(str)), "flags NaN": lambda v, t: (v, t * np.nan),
}  # fmt: skip


@pytest.mark.parametrize("change", FINE.values(), ids=FINE)
def test_an_encoder_may_give_vectors_in_any_form(here: Path, change: Callable[[Any, Any], Any]) -> None:
    with (
        Engine.build(GOOD, "plain", model=HashEncoder(8)) as plain,
        Engine.build(GOOD, "own", model=Own(change)) as own,
    ):
        assert own.search("fox 3", 12) == plain.search("fox 3", 12)
        for built in (plain, own):
            built.add([("new", "fox fox")])
        assert own.search("fox 3", 13) == plain.search("fox 3", 13)
    with Engine.open("own", model=Own(change, "query")) as asked, Engine.open("plain") as plain:
        assert asked.search(["fox 3", "w1"]) == plain.search(["fox 3", "w1"])


@pytest.mark.parametrize("whitening", [None, 4], ids=["raw", "whitened"])
@pytest.mark.parametrize("change", BAD.values(), ids=BAD)
def test_an_encoder_that_gives_anything_else_is_told_so(
    here: Path, change: Callable[[Any, Any], Any], whitening: Any
) -> None:
    with pytest.raises(VectorError):
        Engine.build(GOOD, "own", model=Own(change), whitening=whitening)
    assert not Path("own").exists()
    Engine.build(GOOD, "own", model=HashEncoder(8), whitening=whitening).close()
    before = state("own")
    with Engine.open("own", model=Own(change)) as engine:
        for act in (engine.add, engine.upsert):
            with pytest.raises(VectorError):
                act([("new1", "new fox"), ("new2", "new whale"), ("new3", "new sea")])
            assert state("own") == before
    with Engine.open("own", model=Own(change, "query")) as engine:
        with pytest.raises(VectorError):
            engine.search(["fox", "w1", "w2"])
        with pytest.raises(VectorError):
            engine.embed(["fox", "w1", "w2"], role="query")


@pytest.mark.parametrize("error", [Mine, KeyError, MemoryError, KeyboardInterrupt])
def test_an_encoder_that_fails_midway_loses_nothing(here: Path, monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    monkeypatch.setattr("indexes.staging.CHUNK", 2)

    def fails(vectors: Any, truncated: Any) -> Any:
        raise error("of the encoder")

    before = state()
    new = [(f"new{i}", f"new text {i}") for i in range(9)]
    with Engine.open("index", model=Own(fails, after=2)) as engine:
        with pytest.raises(error, match="of the encoder"):
            engine.add(new)
        assert state()[:2] == before[:2] and len(engine) == 12
    with Engine.open("index") as engine:
        assert engine.add(new).added == 9
        assert engine.search("new text 7", 1)[0].doc_id == "new7"


def test_whitenings_that_do_not_fit_are_refused(here: Path) -> None:
    rng = np.random.default_rng(0)
    narrow, wide = (Whitening(dim=2).fit(rng.standard_normal((50, d))) for d in (4, 16))
    for whitening in (narrow, wide, Whitening(dim=9), 9, 0, -1, True, "some", 2.5, [4], Whitening):
        with pytest.raises(InputError, match="fitted on|dim|whitening="):
            Engine.build(GOOD, "other", model="hash:8", whitening=whitening)
        assert not Path("other").exists()
    before = state()
    with Engine.open("index") as engine:
        for whitening in (narrow, wide, Whitening(dim=9), 9, 0, "some", 2.5):
            with pytest.raises(InputError, match="fitted on|dim|whitening="):
                engine.rebuild(whitening=whitening)  # type: ignore[arg-type]
        for index in ("Flatt", "", "IVF1000,Flat", "\0", "\ud800", "HNSW0"):
            with pytest.raises(InputError, match="index="):
                engine.rebuild(index=index)
        assert state() == before


def test_a_model_of_another_name_is_refused_before_anything_is_written(here: Path) -> None:
    before = state()
    with Engine.open("index", model="hash:16") as engine:
        for act in (engine.add, engine.upsert):
            with pytest.raises(RetrievalError, match="hash:16"):
                act([("new", "a text")])
    assert state() == before
    for name in ("hash:0", "hash:-1", "hash:65537", "hash:" + "9" * 5000, "hash:x", "", ".", "\0", "\ud800", "a\nb"):
        with pytest.raises((RetrievalError, OSError)):  # a name may be too long for the system
            Engine.build(["fox"], "other", model=name)
        assert not Path("other").exists()


@pytest.mark.parametrize("format_", ["npy", "parquet"])
def test_vectors_that_were_not_kept_are_not_exported(here: Path, format_: Any) -> None:
    with Engine.build(GOOD, "without", model="hash:8", raw=None) as without:
        with pytest.raises(InputError, match="without raw vectors"):
            without.export("out", format=format_, vectors="raw")
        assert not list(here.glob("out*"))
        assert without.export("documents") == without.export("out", format=format_) == 12


def test_paths_that_are_none_are_refused(here: Path) -> None:
    with pytest.raises(InputError, match="NUL"):
        Engine.build(["fox"], "a\0b", model="hash:8")
    with pytest.raises(IndexMissingError):
        Engine.open("a\0b")
