"""Every parser against input that nobody would write: the errors we know, or the right answer; nothing else.

Corpora (`test_corpora.py`) and filters (`test_filters.py`) are fuzzed beside their other tests. Examples are drawn the
same in every run.
"""

from __future__ import annotations

import json
import math
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from commands import run
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.numpy import save
from storage import (
    CELLS,
    DOCUMENTS,
    PLAN,
    answers,
    build,
    cell,
    encode_staged,
    no_waiting_for_the_disk,
    records,
    refuse,
    rewrite_manifest,
)

from eval.retrieval import load_retrieval
from indexes.bundle import Bundle
from indexes.errors import (
    CorpusError,
    FilterError,
    IndexCorruptError,
    IndexLockedError,
    IndexVersionError,
    VectorError,
)
from indexes.lock import write_lock
from indexes.manifest import Manifest, checksum
from indexes.seal import SEAL, check_seal
from indexes.staging import Staging
from retrieval import Engine, Whitening
from retrieval.cli import cli
from retrieval.pairs import load_sts

fuzz = settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([2**31, 2**63, -(2**63) - 1, 10**30, 10**400, 1e308, 5e-324, math.nan, math.inf, -math.inf]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["\ud800", "\0", "../../x", "000001.faiss", "0", "nan"]),
)
JSON = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
)
DEEP = "[" * 20_000
NOTES = st.one_of(st.binary(max_size=60), JSON.map(lambda value: json.dumps(value).encode()), st.just(DEEP.encode()))


@st.composite
def altered(draw: st.DrawFn, value: Any) -> Any:
    """A JSON value with one to three places of it replaced, removed, or joined by another."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        place = value
        while isinstance(place, dict | list) and place:
            key = draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
            if isinstance(place[key], dict | list) and place[key] and draw(st.integers(0, 3)):
                place = place[key]
                continue
            change = draw(st.sampled_from(["replace", "remove", "add"]))
            if change == "replace":
                place[key] = draw(JSON)
            elif change == "remove":
                del place[key]
            elif isinstance(place, dict):
                place[draw(st.text(max_size=4))] = draw(JSON)
            else:
                place.insert(key, draw(JSON))
            break
    return value


# --- the index's own notes ------------------------------------------------------------------------------------------


@cache
def template() -> Path:
    """A small index that no test changes."""
    folder = Path(tempfile.mkdtemp()) / "index"
    with no_waiting_for_the_disk():
        build(folder, DOCUMENTS)
    return folder


@cache
def manifest() -> dict[str, Any]:
    with closing(sqlite3.connect(template() / "catalogue.sqlite")) as db:
        (text,) = db.execute("SELECT manifest FROM commits").fetchone()
    values: dict[str, Any] = json.loads(text)
    return values


@fuzz
@given(st.deferred(lambda: altered(manifest())) | JSON)
@example([])
@example({"format_version": 99})
def test_a_manifest_is_read_or_refused(values: Any) -> None:
    text = json.dumps(values)
    with suppress(IndexCorruptError, IndexVersionError):
        Manifest.from_json(text, checksum(text))


@settings(fuzz, max_examples=60)
@given(st.deferred(lambda: altered(manifest())))
def test_an_index_with_an_altered_manifest_answers_the_same_or_is_refused(values: Any) -> None:
    with closing(Bundle(template())) as bundle:
        expected = answers(bundle, CELLS[:3], 5)
    with tempfile.TemporaryDirectory() as name, no_waiting_for_the_disk():
        shutil.copytree(template(), folder := Path(name) / "index")
        rewrite_manifest(folder, lambda old: (old.clear(), old.update(values)))
        with suppress(IndexCorruptError, IndexVersionError), closing(Bundle(folder)) as bundle:
            assert answers(bundle, CELLS[:3], 5) == expected


@pytest.mark.parametrize("text", ["", "{", DEEP, "9" * 5000, '{"format_version": ' + "9" * 5000 + "}"])
def test_a_manifest_that_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(IndexCorruptError):
        Manifest.from_json(text, checksum(text))


@fuzz
@given(NOTES)
@example(b'{"bytes": 1, "sha256": ""}')
def test_a_seal_that_is_none_is_found(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (folder := Path(name)).joinpath("catalogue.sqlite").write_bytes(b"some bytes")
        (folder / SEAL).write_bytes(data)
        with pytest.raises(IndexCorruptError, match="is not what was committed"):
            check_seal(folder)


@settings(fuzz, max_examples=15)  # a refusal waits for a name that can be read
@given(NOTES)
def test_a_second_writer_is_refused_whatever_the_first_one_left_as_its_name(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name, write_lock(Path(name)):
        (Path(name) / "write.lock.json").write_bytes(data)
        with pytest.raises(IndexLockedError, match="is being written by"), write_lock(Path(name)):
            pass


TEXTS = [f"text {i % 9}" for i in range(13)]


def stage(folder: Path) -> Staging:
    staging = Staging(folder)
    staging.add(records(TEXTS), refuse)
    staging.begin_vectors(4, "float16", PLAN)
    return staging


@settings(fuzz, max_examples=80)
@given(st.data())
def test_a_note_of_progress_that_does_not_fit_is_not_believed(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch, no_waiting_for_the_disk():
        patch.setattr("indexes.staging.CHUNK", 4)
        with closing(stage(folder := Path(name) / "staging")) as staging:
            encode_staged(staging, chunks=2)
        note = folder / "progress.json"
        values = json.loads(note.read_bytes())
        note.write_bytes(data.draw(NOTES | altered(values).map(lambda value: json.dumps(value).encode())))
        with closing(stage(folder)) as staging:
            assert staging.encoded in (0, 8)
            encode_staged(staging)
            np.testing.assert_array_equal(staging.raw(), np.stack([cell(text) for text in TEXTS]))


FITTED = Whitening(dim=3, beta=0.5, gamma=0.25).fit(np.random.default_rng(0).standard_normal((40, 5)))
HEADER = FITTED.parameters | {"n_fitted": 40}
TENSORS = {"mean": FITTED.mean_, "eigenvalues": FITTED.eigenvalues_, "components": FITTED.components_}


@st.composite
def tensors(draw: st.DrawFn) -> dict[str, Any]:
    made = dict(TENSORS)
    for name in draw(st.sets(st.sampled_from(sorted(made)), max_size=2)):
        how = draw(
            st.sampled_from(["gone", "cut", "flat", "float32", "int64", "bool", "nan", "inf", "zero", "negative"])
        )
        value = made.pop(name)
        if how in ("nan", "inf", "zero", "negative"):
            value = value.copy()
            value.flat[draw(st.integers(0, value.size - 1))] = {
                "nan": np.nan,
                "inf": np.inf,
                "zero": 0,
                "negative": -9,
            }[how]
        if how != "gone":
            kinds = {"cut": lambda v: v[:-1].copy(), "flat": np.ravel}
            made[name] = kinds[how](value) if how in kinds else value.astype(how if how[-1] in "24l" else "float64")
    return made


@fuzz
@given(st.one_of(st.just(HEADER), altered(HEADER), JSON).map(json.dumps), tensors())
@example(json.dumps(HEADER), TENSORS)
@example(json.dumps(HEADER | {"n_fitted": math.inf}), TENSORS)
@example(json.dumps(HEADER | {"epsilon": 10**400}), TENSORS)
@example(DEEP, TENSORS)
def test_a_whitening_is_loaded_or_refused(header: str, parts: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "w.safetensors"
        path.write_bytes(save(parts, metadata={"whitening": header}))
        with suppress(IndexCorruptError):
            loaded = Whitening.load(path)
            with suppress(VectorError):  # rows without a direction, if the columns are such
                rows = loaded.transform(np.random.default_rng(1).standard_normal((4, 5)))
                np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
            assert Whitening.load(path).to_bytes() == loaded.to_bytes()


# --- filters, with what the catalogue says of fields ----------------------------------------------------------------

PIECES = st.sampled_from(
    ["kind", "n", "id", "text", " = ", " != ", " < ", " LIKE ", " IN (", ")", "(", " AND ", " OR ", "NOT ", " IS NULL"]
    + ["'a'", "'", '"', "`", "1", "-1", "1e999", "TRUE", "NULL", ",", ".", "\0", "\ud800", "--", "/*", ";", "{", "}"]
    + ["no_such", " BETWEEN ", "'%'", "\\", "\n", "🦊", "''", "kind = 'a'", "n > 3", '"a b"', "a.b"]
)


@fuzz
@given(st.lists(PIECES, max_size=9).map("".join) | st.text(max_size=30) | st.dictionaries(st.text(max_size=4), JSON))
def test_a_filter_is_refused_or_finds_documents(expression: Any) -> None:
    with closing(Bundle(template())) as bundle, suppress(FilterError):
        found = answers(bundle, CELLS[:1], 50, filter=expression)
        assert {doc_id for doc_id, _ in found[0]} <= {document.doc_id for document in DOCUMENTS}


# --- labelled data --------------------------------------------------------------------------------------------------

LINES = st.sampled_from(
    [b"sentence1", b"sentence2", b"score", b"\t", b",", b"\n", b"\r\n", b"\r", b'"', b"a", b"1.5", b"nan", b"1e999", b"\0"]
    + [b"sentence1\tsentence2\tscore\n", b"sentence1,sentence2,score\n", b"a\tb\t1\n", b"a,b,1\n", b"\xff", b"\xef\xbb\xbf"]
    + [b'{"sentence1": "a", "sentence2": "b", "score": 1}\n', b'{"sentence1": "\\ud800"', b"{}", b"[]", b"NaN", b" "]
    + [b'{"text1": "a", "text2": "b", "label": ' + b"9" * 400 + b"}\n", b"[" * 20_000, b"\xed\xa0\x80", b"9" * 5000]
    + [b"query-id\tcorpus-id\tscore\n", b"q1\td1\t1\n", b"q1\td1\t2\n", b"q2\td\t-1\n", b"q1\t\t0\n", b"q1\td2\t99999999999\n"]
    + [b'{"_id": "q1", "text": "one"}\n', b'{"_id": "q2", "text": "two"}\n', b'{"text": "no id"}\n', b'{"_id": "q1"']
)  # fmt: skip
BYTES = st.lists(LINES, max_size=10).map(b"".join) | st.binary(max_size=100)


@settings(fuzz, max_examples=300)
@given(BYTES, st.sampled_from([".tsv", ".csv", ".jsonl"]))
@example(b"[" * 20_000, ".jsonl")
@example(b'{"text1": "a", "text2": "b", "label": ' + b"9" * 400 + b"}\n", ".jsonl")
@example(b"sentence1\tsentence2\tscore\n" + b"a" * 200_000 + b"\tb\t1\n", ".tsv")
def test_pairs_are_read_or_refused(data: bytes, suffix: str) -> None:
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / f"pairs{suffix}"
        path.write_bytes(data)
        with suppress(CorpusError):
            (pairs,) = load_sts(path)
            assert 1 <= len(pairs) <= data.count(b"\n") + data.count(b"\r") + 1
            assert all(sentence.strip() for sentence in (*pairs.sentences1, *pairs.sentences2))
            assert np.isfinite(pairs.scores).all()


SENTENCES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n\t"), min_size=1).filter(
    str.strip
)


@fuzz
@given(
    st.lists(st.tuples(SENTENCES, SENTENCES, st.floats(allow_nan=False, allow_infinity=False)), min_size=1, max_size=4)
)
def test_pairs_come_back_as_they_were_written(rows: list[tuple[str, str, float]]) -> None:
    with tempfile.TemporaryDirectory() as name:
        tsv, jsonl = Path(name) / "pairs.tsv", Path(name) / "pairs.jsonl"
        tsv.write_text("sentence1\tsentence2\tscore\n" + "".join(f"{a}\t{b}\t{s!r}\n" for a, b, s in rows), "utf-8")
        named = (dict(zip(("sentence1", "sentence2", "score"), row, strict=True)) for row in rows)
        jsonl.write_text("".join(json.dumps(row) + "\n" for row in named), "utf-8")
        for path in (tsv, jsonl):
            (pairs,) = load_sts(path)
            read = list(zip(pairs.sentences1, pairs.sentences2, pairs.scores.tolist(), strict=True))
            assert read == rows


@settings(fuzz, max_examples=300)
@given(BYTES, BYTES)
@example(b'{"_id": "q1", "text": "one"}\n', b"query-id\tcorpus-id\tscore\nq1\td1\t1\n")
@example(b'{"_id": "q1", "text": "one"}\n', b"\xef\xbb\xbfquery-id\tcorpus-id\tscore\r\nq1\td1\t1\r\n\r\n")
@example(b'{"text": "one"}\n', b"None\td1\t1\n")
@example(b'{"_id": "q1", "text": "one"}\n', b"q1\t" + b"d" * 200_000 + b"\t1\n")
@example(b'{"_id": "q1", "text": "one"}\n', b"q1\td\r1\t1\n")
def test_judgements_are_read_or_refused(queries: bytes, qrels: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        (folder := Path(name)).joinpath("qrels").mkdir()
        (folder / "queries.jsonl").write_bytes(queries)
        (folder / "qrels" / "test.tsv").write_bytes(qrels)
        with suppress(CorpusError):
            judged = load_retrieval(folder)
            assert judged.queries.keys() == judged.qrels.keys()
            assert all(text.strip() for text in judged.queries.values())
            lines = {
                tuple(line.rstrip(b"\r").split(b"\t")) for line in qrels.removeprefix(b"\xef\xbb\xbf").split(b"\n")
            }
            found = {(query, doc, grade) for query, docs in judged.qrels.items() for doc, grade in docs.items()}
            stated = {
                (line[0].decode(), line[1].decode(), int(line[2]))
                for line in lines
                if len(line) == 3 and line[0] != b"query-id"
            }
            assert found == stated


# --- the command line -----------------------------------------------------------------------------------------------

WORDS = [
    "",
    " ",
    "fox",
    "-",
    "0",
    "-1",
    "3",
    "1e400",
    "nan",
    "hash:8",
    "hash:0",
    "none",
    "\udcff",
    "🦊",
    "a\nb",
    "--",
    "x" * 300,
]
WORDS += [
    "kind = 'a'",
    '{"n": {"$gt": 3}}',
    "Flat",
    "HNSW4",
    "IVF2,Flat",
    "Flatt",
    "PQ4",
    "id",
    "text",
    "nDCG@10",
    "7,3",
]
PATHS = [
    "index",
    "c.jsonl",
    "bad.jsonl",
    "q.txt",
    "beir",
    ".",
    "new",
    "new/er",
    "c.jsonl/x",
    "missing",
    "w",
    "",
    "-",
    "\udcff",
    "a\nb",
]
MODELS = ["hash:8", "hash:8", "hash:8", "hash:16", "hash:0", "hash:" + "9" * 5000, "index", "missing", "", "\udcff"]
LIKELY = {"index_path": "index", "corpus": "c.jsonl", "dataset": "beir", "datasets": "w", "dev": "beir"}


def commands(group: click.Group, *before: str) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    """Every command there is, those of other packages too."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        if isinstance(command, click.Group):
            yield from commands(command, *before, name)
        else:
            yield (*before, name), command


@st.composite
def value_of(draw: st.DrawFn, parameter: click.Parameter) -> str:
    name = parameter.name or ""
    if name in ("model", "source"):
        return draw(st.sampled_from(MODELS))
    if name in LIKELY and draw(st.booleans()):
        return LIKELY[name]
    if isinstance(parameter.type, click.Choice) and draw(st.integers(0, 9)):
        return str(draw(st.sampled_from(list(parameter.type.choices))))
    if isinstance(parameter.type, click.types.IntParamType | click.types.FloatParamType) and draw(st.integers(0, 9)):
        return str(draw(st.sampled_from([0, 1, 2, 4, 8, 9, -1, 0.5, 1.5, 10**12, 10**400])))
    return draw(st.sampled_from(PATHS + WORDS))


@st.composite
def command_lines(draw: st.DrawFn, path: tuple[str, ...], command: click.Command) -> list[str]:
    line: list[str] = []
    for parameter in command.params:
        model = parameter.name == "model"  # always named: the default one is costly to load
        if isinstance(parameter, click.Argument):
            continue
        if not (parameter.required or model) and draw(st.integers(0, 3)):
            continue
        line.append(draw(st.sampled_from(parameter.opts)))
        if not getattr(parameter, "is_flag", False):
            line.append(draw(value_of(parameter)))
    for parameter in command.params:
        if isinstance(parameter, click.Argument) and (parameter.required or draw(st.booleans())):
            line.append(draw(value_of(parameter)))
    return [*path, *line]


@cache
def places() -> Path:
    """A folder with an index and everything a command may be given."""
    folder = Path(tempfile.mkdtemp())
    lines = [json.dumps({"id": f"d{i}", "text": f"fox {i} w{i % 5}", "kind": "ab"[i % 2], "n": i}) for i in range(12)]
    (folder / "c.jsonl").write_text("\n".join(lines))
    (folder / "bad.jsonl").write_text("\n".join([lines[0], "{", '{"id": "new", "text": "a new fox"}', lines[1]]))
    (folder / "q.txt").write_text("fox\n\nw1 w2\n")
    (folder / "w").write_text("no whitening\n")
    (folder / "beir" / "qrels").mkdir(parents=True)
    (folder / "beir" / "corpus.jsonl").write_text("\n".join(lines))
    (folder / "beir" / "queries.jsonl").write_text('{"_id": "q", "text": "w3"}\n')
    (folder / "beir" / "qrels" / "test.tsv").write_text("q\td3\t1\n")
    with no_waiting_for_the_disk():
        Engine.build(folder / "c.jsonl", folder / "index", model="hash:8").close()
    return folder


@pytest.mark.parametrize(("path", "command"), [pytest.param(*each, id=" ".join(each[0])) for each in commands(cli)])
@settings(fuzz, max_examples=50)
@given(st.data())
def test_any_options_end_in_an_answer_or_one_sentence(
    path: tuple[str, ...], command: click.Command, data: st.DataObject
) -> None:
    line = data.draw(command_lines(path, command))
    with (
        tempfile.TemporaryDirectory() as name,
        pytest.MonkeyPatch.context() as patch,
        no_waiting_for_the_disk(),
    ):
        here = Path(name) / "here"
        shutil.copytree(places(), here)
        patch.chdir(here)
        ran = run(*line, stdin=data.draw(st.sampled_from([b"", b"fox\n", b'{"id": "s", "text": "fox"}\n', b"\xff"])))
        assert ran.code in (0, 1, 2), line
        assert len(ran.errors) == (ran.code != 0), (line, ran.err)
        if path[0] not in WRITING or ran.code:  # what is not there to write, or failed, changes nothing in the index
            with Engine.open("index") as engine, Engine.open(places() / "index") as before:
                assert engine.search("fox", 20) == before.search("fox", 20), line


WRITING = ("add", "upsert", "delete", "compact", "rebuild")
