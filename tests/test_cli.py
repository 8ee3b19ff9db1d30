"""The command line, run as a person runs it: exit codes, data on stdout, sentences on stderr."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

RETRIEVAL = [sys.executable, "-c", "from retrieval.cli import main; main()"]
CORPUS = [
    {"id": "007", "text": "the red fox jumps over the fence", "kind": "animal", "year": 1953},
    {"id": "b-2", "text": "a blue whale swims in the sea", "kind": "animal", "year": 1990, "tags": ["big", "sea"]},
    {"id": "c 3", "text": "the sea is blue", "kind": "place", "year": 2001},
]


def run(*arguments: object, stdin: str | None = None, check: int | None = 0) -> subprocess.CompletedProcess[str]:
    result = subprocess.run(
        [*RETRIEVAL, *map(str, arguments)], input=stdin, capture_output=True, text=True, timeout=120, check=False
    )
    assert "Traceback" not in result.stderr, result.stderr
    if check is not None:
        assert result.returncode == check, result.stderr
    return result


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "animals.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in CORPUS))
    return path


@pytest.fixture(scope="module")
def index(corpus: Path) -> Path:
    path = corpus.parent / "index"
    run("build", corpus, "-o", path, "-m", "hash:64")
    return path


def test_help_names_every_command_and_loads_nothing_heavy() -> None:
    code = "import sys; sys.argv = ['retrieval', '--help']\nfrom retrieval.cli import main\ntry: main()\nfinally: print(sorted({'torch','transformers','sentence_transformers','numpy','faiss','sqlite_utils'} & set(sys.modules)), file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "[]"
    for command in ("build", "query", "info", "eval"):
        assert re.search(rf"^  {command} ", result.stdout, re.MULTILINE)


def test_query_loads_no_torch_with_a_model_that_needs_none(index: Path) -> None:
    code = f"import sys; sys.argv = ['retrieval', 'query', {str(index)!r}, 'fox']\nfrom retrieval.cli import main\ntry: main()\nfinally: print('torch' in sys.modules, file=sys.stderr)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stderr.strip() == "False"


def test_table_shows_rank_score_id_and_text(index: Path) -> None:
    lines = run("query", index, "red fox", "-k", 2).stdout.splitlines()
    assert lines[0].strip() == "red fox"
    assert lines[1].split() == ["rank", "score", "id", "text"]
    assert re.fullmatch(r" +1 +0\.\d{3} +007 +the red fox jumps over the fence *", lines[2])
    assert re.match(r" +2 +-?0\.\d{3} +", lines[3])


def test_jsonl_is_the_documented_object(index: Path) -> None:
    result = run("query", index, "red fox", "-k", 1, "--format", "jsonl")
    (line,) = result.stdout.splitlines()
    answer = json.loads(line)
    (hit,) = answer["hits"]
    assert (answer["query"], hit["id"], hit["rank"], hit["text"]) == ("red fox", "007", 1, CORPUS[0]["text"])
    assert hit["metadata"] == {"kind": "animal", "year": 1953}
    assert hit["scores"] == {"dense": hit["score"]}
    assert answer["stats"]["cross_encoder_calls"] == 0
    assert set(answer["stats"]["ms"]) == {"encode", "search"}
    assert result.stderr == ""


def test_json_is_one_array_of_the_same_objects(index: Path) -> None:
    answers = json.loads(run("query", index, "-i", "-", "--format", "json", stdin="fox\nwhale\n").stdout)
    assert [(answer["query_id"], answer["query"], answer["hits"][0]["id"]) for answer in answers] == [
        ("1", "fox", "007"),
        ("2", "whale", "b-2"),
    ]


def test_many_queries_equal_one_by_one(index: Path, tmp_path: Path) -> None:
    queries = ["red fox", "blue sea", "whale", "fence"]
    (tmp_path / "q.jsonl").write_text(
        "".join(json.dumps({"_id": f"q{i}", "text": q}) + "\n" for i, q in enumerate(queries))
    )
    lines = run("query", index, "-i", tmp_path / "q.jsonl", "--format", "jsonl").stdout.splitlines()
    answers = [json.loads(line) for line in lines]
    assert [answer["query_id"] for answer in answers] == ["q0", "q1", "q2", "q3"]
    for query, answer in zip(queries, answers, strict=True):
        alone = json.loads(run("query", index, query, "--format", "jsonl").stdout)
        assert alone["hits"] == answer["hits"]


def test_equal_query_ids_are_refused(index: Path) -> None:
    """Two rankings under one id are no TREC run."""
    queries = '{"id": "1", "text": "fox"}\n{"id": "1", "text": "sea"}\n'
    result = run("query", index, "-", "--format", "trec", stdin=queries, check=1)
    assert "<stdin>:2: query id '1' was used before, in line 1" in result.stderr


def test_the_format_of_queries_can_be_said(index: Path) -> None:
    result = run("query", index, "-", "--input-format", "csv", "--format", "trec", "-k", 1, stdin="id,text\nq,fox\n")
    assert result.stdout.split()[:3] == ["q", "Q0", "007"]


def test_a_table_obeys_no_control_characters(tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text(json.dumps({"id": "a\nb", "text": "red \x1b[31m fox"}) + "\n")
    run("build", tmp_path / "c.jsonl", "-o", tmp_path / "i", "-m", "hash:8")
    result = run("query", tmp_path / "i", "fox")
    assert "\x1b" not in result.stdout and "a b" in result.stdout and "\N{REPLACEMENT CHARACTER}[31m" in result.stdout


def test_trec_run(index: Path) -> None:
    lines = run("query", index, "red fox", "-k", 1, "--format", "trec").stdout.splitlines()
    assert re.fullmatch(r"1 Q0 007 1 0\.\d{6} sentence-retrieval", lines[0])
    refused = run("query", index, "the sea is blue", "--format", "trec", check=1)
    assert "'c 3' holds white space" in refused.stderr


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("kind = 'animal'", {"007", "b-2"}),
        ("kind = 'animal' AND year >= 1990", {"b-2"}),
        ('{"kind": "place"}', {"c 3"}),
        ("tags = 'sea'", {"b-2"}),
        ("NOT kind = 'animal' OR year < 1960", {"007", "c 3"}),
        ("year > 3000", set()),
    ],
)
def test_filters(index: Path, expression: str, expected: set[str]) -> None:
    answer = json.loads(run("query", index, "blue", "--filter", expression, "--format", "jsonl").stdout)
    assert {hit["id"] for hit in answer["hits"]} == expected


def test_a_misspelt_field_is_named(index: Path) -> None:
    error = run("query", index, "blue", "--filter", "knd = 'animal'", check=1).stderr
    assert error.startswith("Error: no document has a field 'knd'; among the fields there are: kind, tags, year (")


def test_info_has_the_promised_fields(index: Path) -> None:
    info = json.loads(run("info", index, "--format", "json").stdout)
    assert {"documents", "dim", "model", "whitening", "index", "bytes", "format_version"} <= set(info)
    assert (info["documents"], info["dim"], info["model"], info["index"]) == (3, 64, "hash:64", "Flat")
    assert "documents" in run("info", index).stdout


def test_whitening_options_reach_the_index(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_text("".join(f"word{i} word{i % 7} word{i % 3}\n" for i in range(200)))
    run("build", tmp_path / "c.txt", "-o", tmp_path / "i", "-m", "hash:16", "--dim", 8, "--beta", 0.5, "--gamma", 0.25)
    whitening = json.loads(run("info", tmp_path / "i", "--format", "json").stdout)["whitening"]
    assert whitening == {"dim": 8, "beta": 0.5, "gamma": 0.25, "epsilon": 0.001, "local": 0.5, "n_fitted": 200}


def test_a_bad_line_stops_the_build_and_leaves_nothing(tmp_path: Path) -> None:
    corpus = tmp_path / "bad.jsonl"
    corpus.write_text('{"id": "a", "text": "fine"}\n{"id": "b", "text": \n')
    error = run("build", corpus, "-o", tmp_path / "i", "-m", "hash:8", check=1).stderr
    assert error.startswith(f"Error: {corpus}:2: ")
    assert not (tmp_path / "i").exists()


def test_bad_lines_can_be_written_aside_and_are_counted(tmp_path: Path) -> None:
    corpus, rejects = tmp_path / "bad.jsonl", tmp_path / "rejects.jsonl"
    corpus.write_text(
        '{"id": "a", "text": "fine"}\n{"id": "b", "text": \n{"id": "a", "text": "again"}\n{"id": "c", "text": "ok"}\n'
    )
    said = run("build", corpus, "-o", tmp_path / "i", "-m", "hash:8", "--on-error", "skip", "--rejects", rejects).stderr
    assert "records left out: 2; they are in" in said
    assert "2 documents" in said
    found = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert [(reject["line"], "a" in reject["raw"]) for reject in found] == [(2, False), (3, True)]
    assert f"{corpus}:1" in found[1]["reason"]


def test_duplicate_ids_name_both_lines(tmp_path: Path) -> None:
    corpus = tmp_path / "twice.jsonl"
    corpus.write_text('{"id": "x", "text": "one"}\n{"id": "y", "text": "two"}\n{"id": "x", "text": "three"}\n')
    error = run("build", corpus, "-o", tmp_path / "i", "-m", "hash:8", check=1).stderr
    assert f"{corpus}:3" in error
    assert f"{corpus}:1" in error
    assert not (tmp_path / "i").exists()


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["build", "{missing}", "-o", "{out}", "-m", "hash:8"], 1, "missing.jsonl"),
        (["build", "{corpus}", "-o", "{out}", "-m", "no-such-model-here"], 1, "no folder 'no-such-model-here'"),
        (["build", "{corpus}", "-o", "{out}", "-m", "hash:8", "--index", "Flatt"], 1, "'Flatt' is not a FAISS factory string"),
        (["build", "{corpus}", "-o", "{out}", "-m", "hash:8", "--dim", "9"], 1, "expected dim <= 8"),
        (["build", "{corpus}", "-o", "{out}", "-m", "hash:8", "--dim", "0"], 1, "dim=0"),
        (["build", "{corpus}", "-o", "{out}", "-m", "hash:8", "--dim", "4", "--no-whitening"], 2, "exclude each other"),
        (["build", "{corpus}", "-o", "{out}", "-m", "hash:8", "--rejects", "{out}.r"], 1, "--on-error skip"),
        (["build", "{corpus}", "-o", "{index}", "-m", "hash:8"], 1, "is an index already"),
        (["build", "-o", "{out}"], 2, "Missing argument"),
        (["query", "{index}"], 2, "give either TEXT or -i FILE"),
        (["query", "{index}", "fox", "-k", "0"], 2, "0 is not in the range"),
        (["query", "{index}", " "], 1, "expected some words"),
        (["query", "{out}", "fox"], 1, "make one with: retrieval build"),
        (["query", "{index}", "fox", "-m", "hash:32"], 1, "differ from those of 'hash:32'"),
        (["query", "{index}", "fox", "--filter", "kind =="], 1, "filter"),
        (["nonsense"], 2, "No such command"),
    ],
)  # fmt: skip
def test_errors_are_one_sentence(
    corpus: Path, index: Path, tmp_path: Path, arguments: list[str], code: int, said: str
) -> None:
    places = {"corpus": corpus, "index": index, "out": tmp_path / "out", "missing": tmp_path / "missing.jsonl"}
    result = run(*(argument.format(**places) for argument in arguments), check=code)
    assert said in result.stderr
    assert result.stdout == ""
    assert code == 2 or result.stderr.count("\n") == result.stderr[: result.stderr.index("Error: ")].count("\n") + 1
    assert not (tmp_path / "out").exists()


def test_a_reader_that_goes_away_is_no_error(index: Path, tmp_path: Path) -> None:
    (tmp_path / "q.txt").write_text("fox\n" * 20000)
    command = " ".join(
        [*(f"'{part}'" for part in RETRIEVAL), "query", str(index), "-i", str(tmp_path / "q.txt"), "--format", "jsonl"]
    )
    result = subprocess.run(
        f"{{ {command}; echo $? >&2; }} | head -n 1", shell=True, capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith("{")
    assert result.stderr.strip() == "0"


def interruptible() -> None:
    """A group of its own, in which Ctrl-C is not ignored, as it is below a shell's background jobs."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def test_ctrl_c_exits_130_and_the_same_command_finishes(tmp_path: Path) -> None:
    corpus = tmp_path / "c.txt"
    corpus.write_text("".join(f"document {i} about {i * 7919 % 1009}\n" for i in range(20_000)))
    build = ["build", str(corpus), "-o", str(tmp_path / "i"), "-m", "hash:256"]
    process = subprocess.Popen([*RETRIEVAL, *build], stderr=subprocess.PIPE, text=True, preexec_fn=interruptible)
    progress = tmp_path / "i" / "staging" / "progress.json"
    while not (progress.exists() and json.loads(progress.read_text())["encoded"] >= 2048):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert "Traceback" not in said
    assert "interrupted" in said
    assert "was interrupted" in run("query", tmp_path / "i", "x", check=1).stderr
    assert "going on: " in run(*build).stderr
    assert json.loads(run("info", tmp_path / "i", "--format", "json").stdout)["documents"] == 20_000


def scored_pairs(path: Path) -> Path:
    rows = [f"w{i} w{i % 7} w{i % 3}\tw{i % 5} w{i % 7} w{i + 1}\t{i % 7 % 5}" for i in range(60)]
    path.write_text("sentence1\tsentence2\tscore\n" + "\n".join(rows) + "\n")
    return path


def test_tune_writes_what_build_and_eval_take(tmp_path: Path) -> None:
    pairs = scored_pairs(tmp_path / "p.tsv")
    (tmp_path / "c.txt").write_text("".join(f"w{i} w{i % 7} w{i % 3}\n" for i in range(200)))
    options = ["--fit", tmp_path / "c.txt", "--dims", "8,4", "--epsilons", "0,0.1"]
    files = ["-o", tmp_path / "w", "--save", tmp_path / "t.json", "--plot", tmp_path / "t.png"]
    run("tune", "hash:16", "--dev", pairs, *options, *files, "--dim", 4, "--format", "json")
    values = json.loads((tmp_path / "t.json").read_text())
    assert {(cell["dim"], cell["epsilon"]) for cell in values["cells"]} == {
        (k, e) for k in (16, 8, 4) for e in (0, 0.1)
    }
    best = next(cell for cell in values["per_dim"] if cell["dim"] == 4)
    scored = run(
        "eval", "sts", "hash:16", pairs, "--whitening", tmp_path / "w", "--resamples", 0, "--format", "json"
    ).stdout
    assert json.loads(scored)["mean_spearman_cosine"] == pytest.approx(best["score"], abs=1e-3)
    run("build", tmp_path / "c.txt", "-o", tmp_path / "i", "-m", "hash:16", "--whitening", tmp_path / "w")
    whitening = json.loads(run("info", tmp_path / "i", "--format", "json").stdout)["whitening"]
    assert whitening == {name: best[name] for name in ("dim", "beta", "gamma", "epsilon", "local")} | {"n_fitted": 200}
    assert "| k | beta |" in run("tune", tmp_path / "i", "--dev", pairs, "--dims", "8", "--format", "markdown").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["tune", "hash:8", "--dev", "{pairs}", "--dims", "9"], 1, "each from 1 to 8"),
        (["tune", "hash:8", "--dev", "{pairs}", "--dims", "a"], 2, "numbers with commas"),
        (
            ["tune", "hash:8", "--dev", "{pairs}", "--dims", "4", "--dim", "5", "-o", "{out}"],
            2,
            "--dim 5 is not among --dims",
        ),
        (["tune", "hash:8", "--dev", "{pairs}", "--epsilons", "-1"], 1, "epsilon=-1"),
        (["tune", "hash:8", "--dev", "{pairs}", "--plot", "{out}.foo"], 2, "expected a name that ends in"),
        (["tune", "hash:8"], 1, "there must be texts to halve"),
        (["tune", "{index}", "-o", "{out}"], 2, "-o needs --dim K without --dev"),
        (["tune", "hash:8", "--dev", "{pairs}", "--save", "{out}/x.json"], 2, "is not there; make it first"),
        (["eval", "sts", "hash:8", "{pairs}", "--plot", "{out}.foo"], 2, "expected a name that ends in"),
        (["eval", "sts", "hash:8", "{pairs}", "--resamples", "-1"], 2, "not in the range"),
        (["export-model", "hash:8", "-o", "{out}"], 2, "MODEL needs --whitening"),
        (["export-model", "{index}", "-o", "{out}"], 1, "was built without whitening"),
        (["build", "{pairs}", "-o", "{out}", "--whitening", "{pairs}", "--dim", "3"], 2, "exclude each other"),
        (["build", "{pairs}", "-o", "{out}", "--whitening", "{pairs}"], 1, "is not a whitening"),
    ],
)
def test_errors_of_tuning_and_export(index: Path, tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    places = {"pairs": scored_pairs(tmp_path / "p.tsv"), "index": index, "out": tmp_path / "out"}
    result = run(*(argument.format(**places) for argument in arguments), check=code)
    assert said in result.stderr and result.stdout == ""
    assert not (tmp_path / "out").exists()


# ---- commands that change an index


@pytest.fixture
def small(tmp_path: Path) -> Path:
    lines = [{"id": f"d{i}", "text": f"text number {i}", "metadata": {"n": i}} for i in range(6)]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    run("build", tmp_path / "c.jsonl", "-o", tmp_path / "i", "-m", "hash:16")
    return tmp_path / "i"


def documents(path: Path) -> dict[str, str]:
    """All documents of an index, as it exports them."""
    return {d["id"]: d["text"] for d in map(json.loads, run("export", path).stdout.splitlines())}


def test_an_index_is_changed_from_the_command_line(small: Path, tmp_path: Path) -> None:
    assert list(documents(small)) == [f"d{i}" for i in range(6)]
    (tmp_path / "more.csv").write_text("id,text\nx,new text\nd1,another text\n")
    refused = run("add", small, tmp_path / "more.csv", check=1)
    assert refused.stdout == "" and "Error: " in refused.stderr and "upsert would replace it" in refused.stderr
    assert "1 added, 1 replaced; now 7 documents" in run("upsert", small, tmp_path / "more.csv").stderr
    assert "2 unchanged" in run("upsert", small, tmp_path / "more.csv").stderr
    assert "1 added; now 8" in run("add", small, "-", stdin="a text without an id\n").stderr
    told = run("delete", small, "d2", "nobody")
    assert told.stdout == "" and "'nobody'" in told.stderr and "1 deleted, 1 missing; now 7" in told.stderr
    assert "1 deleted" in run("delete", small, "--filter", "n = 3").stderr
    assert "2 deleted" in run("delete", small, "--ids", "-", stdin='\ufeffd4\r\n\n"d5"\n').stderr
    made = next(doc_id for doc_id in documents(small) if doc_id.startswith("text:"))
    left = {"d0": "text number 0", "d1": "another text", "x": "new text", made: "a text without an id"}
    assert documents(small) == left
    assert "segments: 1, " in run("compact", small).stderr
    assert "4 of 16 columns" in run("rebuild", small, "--dim", "4", "--gamma", "0").stderr
    assert json.loads(run("info", small, "--format", "json").stdout)["whitening"]["gamma"] == 0
    run("rebuild", small)
    assert json.loads(run("info", small, "--format", "json").stdout)["whitening"]["dim"] == 4
    assert documents(small) == left
    assert (
        "4 deleted; now 1"
        in run("upsert", small, "-", "--prune", "--format", "jsonl", stdin='{"id":"q","text":"q"}\n').stderr
    )
    assert documents(small) == {"q": "q"}
    assert {line.split()[-1] for line in run("verify", small, "--deep").stdout.splitlines()} == {"ok"}


def test_verify_names_what_is_wrong_and_exits_with_1(small: Path) -> None:
    raw = small / "segments" / "000001.raw.npy"
    raw.write_bytes(raw.read_bytes()[:-1] + b"\1")
    assert run("verify", small).returncode == 0  # sizes are right
    told = run("verify", small, "--deep", "--format", "json", check=1)
    (bad,) = [check for check in json.loads(told.stdout) if check["problem"]]
    assert bad["name"] == raw.name and "SHA-256" in bad["problem"]
    assert told.stderr == f"Error: {small}: 1 of 6 checks failed; see above\n"


def test_vectors_are_exported_from_the_command_line(small: Path, tmp_path: Path) -> None:
    run("export", small, "--format", "npy", "-o", tmp_path / "v.npy", "--filter", "n < 2")
    assert (tmp_path / "v.npy.ids.jsonl").read_text() == '"d0"\n"d1"\n' and (tmp_path / "v.npy").stat().st_size > 128
    assert "name a file with -o FILE" in run("export", small, "--format", "npy", check=1).stderr


@pytest.mark.parametrize(
    "arguments, code, said",
    [
        (["delete", "{i}"], 2, "give either IDs, --ids FILE or --filter EXPR"),
        (["delete", "{i}", "d1", "--filter", "n = 1"], 2, "give either"),
        (["delete", "{i}", "--filter", "n ="], 1, "Error: "),
        (["delete", "{i}", "--ids", "{tmp}/nothing"], 1, "cannot be opened"),
        (["rebuild", "{i}", "--auto", "--dim", "3"], 2, "exclude each other"),
        (["rebuild", "{i}", "--index", "Nonsense"], 1, "is not a FAISS factory string"),
        (["rebuild", "{i}", "--dim", "99"], 1, "expected dim <= 16"),
        (["add", "{i}", "{tmp}/nothing.txt"], 1, "cannot be opened"),
        (["add", "{tmp}/nothing", "{tmp}/c.jsonl"], 1, "make one with: retrieval build"),
        (["add", "{i}", "{tmp}/c.jsonl", "-m", "hash:8"], 0, "6 unchanged"),  # no model is needed
        (["compact", "{tmp}/c.jsonl"], 1, "is not a folder"),
        (["verify", "{tmp}"], 1, "holds no index"),
    ],
)
def test_errors_of_changing(small: Path, tmp_path: Path, arguments: list[str], code: int, said: str) -> None:
    result = run(*(a.replace("{i}", str(small)).replace("{tmp}", str(tmp_path)) for a in arguments), check=code)
    assert said in result.stderr and "Traceback" not in result.stderr
    assert len(documents(small)) == 6
