"""A few of the trials of `torture.rot`, and that what they look for would be seen; `make torture` makes thousands."""

from __future__ import annotations

import json
import random
import shutil
import signal
import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest
from storage import no_waiting_for_the_disk
from torture import rot
from torture.asking import Scene, ask, make_scene
from torture.children import End, in_fresh_process
from torture.damage import DAMAGES, STRAYS, Patient, files_of
from torture.result import Result
from torture.stranger import FORGERIES, entries, rewrite

from indexes.catalogue import document_checksum, text_hash
from indexes.files import sha256_of
from indexes.manifest import checksum

WELL = End(told=[], error="", known=True, signal=0)


@pytest.fixture(scope="module")
def results() -> list[Result]:
    return rot.run(50, seed=1)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    with no_waiting_for_the_disk():
        return make_scene(tmp_path_factory.mktemp("scenes") / "Flat", "Flat", "Flat")


def test_whatever_becomes_of_a_file_no_answer_is_wrong(results: list[Result]) -> None:
    mine = [result for result in results if result.kind.startswith("rot")]
    assert sum(result.number for result in mine) == 50
    assert [each for result in mine for each in result.violations] == []


def test_a_strangers_file_does_no_harm(results: list[Result]) -> None:
    mine = [result for result in results if result.kind.startswith("stranger")]
    assert sum(result.number for result in mine) == 25
    assert [each for result in mine for each in result.violations] == []


def test_an_undamaged_index_of_any_structure_answers_everything() -> None:
    in_fresh_process(answer_everything, ["PQ4x4fs", "IVF4,PQ4x4fs", "IVF4_HNSW8,Flat", "SQ8,RFlat"])


def answer_everything(factories: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder, no_waiting_for_the_disk():
        for number, factory in enumerate(factories):
            make_scene(Path(folder) / str(number), factory, factory)  # asks it everything


def test_a_wrong_answer_would_be_seen(scene: Scene, tmp_path: Path) -> None:
    shutil.copytree(scene.index, tmp_path / "i")
    rewrite(tmp_path / "i", lambda manifest: None)  # the seal goes
    with closing(sqlite3.connect(tmp_path / "i" / "catalogue.sqlite")) as database, database:
        row, text = database.execute("SELECT row, text FROM documents WHERE id = 'd001'").fetchone()
        metadata = json.dumps({"kind": "b", "year": 1900})
        check = document_checksum(row, "d001", metadata, text_hash(text))
        database.execute("UPDATE documents SET metadata = ?, checksum = ? WHERE row = ?", [metadata, check, row])
    outcome, wrong = rot.judge(scene.expected, WELL, ask(tmp_path / "i"), "", {"catalogue.sqlite"}, set())
    assert outcome == "WRONG"
    assert "get d000 ...: wrong answer" in wrong
    assert "search \"kind = 'b'\" exact=True: wrong answer" in wrong


@pytest.mark.parametrize(
    ("answers", "end"),
    [
        ({}, End(told=[], error="", known=True, signal=signal.SIGSEGV)),
        ({}, End(told=[], error="the child ended without a word", known=False, signal=0)),
        ({"open": ("raised", "TypeError: what")}, WELL),
        ({"open": ("refused", "IndexCorruptError: something is wrong")}, WELL),  # what?
        ({"verify": ("answer", [])}, WELL),
        ({"verify": ("answer", [("b", "b.npy is damaged")])}, WELL),
    ],
)
def test_a_bad_end_would_be_seen(scene: Scene, answers: rot.Answers, end: End) -> None:
    assert rot.judge(scene.expected, end, answers, "", {"segments/a.npy"}, {"segments/a.npy"})[0] == "WRONG"


@pytest.mark.parametrize("name", DAMAGES | STRAYS)
def test_every_damage_does_some(scene: Scene, tmp_path: Path, name: str) -> None:
    def state() -> dict[str, bytes | str]:
        paths = (path for path in sorted((tmp_path / "i").rglob("*")) if "segments" not in path.parts)
        return {str(path): path.read_bytes() if path.is_file() and not path.is_symlink() else "odd" for path in paths}

    shutil.copytree(scene.index, tmp_path / "i")
    (tmp_path / "outside").mkdir()
    patient = Patient(
        folder=tmp_path / "i",
        name="catalogue.sqlite",
        older=scene.older,
        other=scene.other,
        outside=tmp_path / "outside",
    )
    before = state()
    assert "catalogue.sqlite" in (DAMAGES | STRAYS)[name](patient, random.Random(1))
    assert state() != before


def test_every_role_of_file_is_there_to_be_damaged(scene: Scene) -> None:
    suffixes = {name.partition(".")[2] for name in files_of(scene.index)}
    assert suffixes >= {"sqlite", "seal", "faiss", "raw.npy", "sums", "rows.npy", "whitening.safetensors"}


@pytest.mark.parametrize("name", [name for name in FORGERIES if name.startswith("*")])
@pytest.mark.parametrize("seed", range(3))
def test_every_forged_file_fits_its_manifest(scene: Scene, tmp_path: Path, name: str, seed: int) -> None:
    shutil.copytree(scene.index, tmp_path / "i")
    FORGERIES[name][1](tmp_path / "i", random.Random(seed))
    with closing(sqlite3.connect(tmp_path / "i" / "catalogue.sqlite")) as database:
        text, sha256 = database.execute("SELECT manifest, sha256 FROM commits").fetchone()
    assert checksum(text) == sha256
    listed = entries(json.loads(text))
    assert len(listed) == len([path for path in files_of(tmp_path / "i") if path.startswith("segments/")])
    for entry in listed:
        path = tmp_path / "i" / "segments" / entry["name"]
        assert (entry["bytes"], entry["sha256"]) == (path.stat().st_size, sha256_of(path))
