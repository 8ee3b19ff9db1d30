"""The index folder: searching against an oracle, commits that fail, writers that die, files that rot."""

from __future__ import annotations

import dataclasses
import errno
import itertools
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage import (
    CELLS,
    DIM,
    DOCUMENTS,
    PLAN,
    WHITENING,
    answers,
    build,
    cell,
    content,
    corpus,
    delete,
    encode_staged,
    flips,
    nearest,
    no_waiting_for_the_disk,
    records,
    refuse,
)

import indexes.staging
from indexes.bundle import Bundle
from indexes.document import Document
from indexes.errors import (
    FilterError,
    IndexCorruptError,
    IndexError_,
    IndexExistsError,
    IndexLockedError,
    IndexMissingError,
    IndexUnfinishedError,
    IndexVersionError,
    InputError,
    VectorError,
)
from indexes.files import FileEntry, sha256_of
from indexes.lock import write_lock
from indexes.manifest import FORMAT_VERSION, Manifest, Segment, checksum
from indexes.writer import BundleWriter

TESTS = Path(__file__).parent


@pytest.fixture(autouse=True, scope="module")
def quick() -> Iterator[None]:
    """Hundreds of builds; a second thread would only wait for the first over so few rows."""
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    with no_waiting_for_the_disk():
        yield
    faiss.omp_set_num_threads(threads)


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chunks of three rows."""
    monkeypatch.setattr(indexes.staging, "CHUNK", 3)


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index of `DOCUMENTS`; do not write to it."""
    folder = tmp_path_factory.mktemp("template") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexes.staging, "CHUNK", 3)
        build(folder, DOCUMENTS)
    return folder


@pytest.fixture
def index(template: Path, tmp_path: Path) -> Path:
    """A copy of it that may be damaged."""
    return Path(shutil.copytree(template, tmp_path / "index"))


# ---- searching


@settings(max_examples=30, deadline=None)
@given(data=st.data(), n=st.integers(1, 30), k=st.integers(1, 40), factory=st.sampled_from(["Flat", "HNSW8,Flat"]))
def test_search_agrees_with_the_oracle(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, n: int, k: int, factory: str
) -> None:
    folder = tmp_path_factory.mktemp("index")
    order = data.draw(st.permutations(range(n)))
    documents = [
        Document(
            doc_id=str(order[row]),  # "10" stands before "9"
            text=f"text {data.draw(st.integers(0, n))}",
            metadata={"kind": data.draw(st.sampled_from("abc")), "n": row},
        )
        for row in range(n)
    ]
    build(folder, documents, factory=factory)
    gone = data.draw(st.sets(st.sampled_from(documents).map(lambda each: each.doc_id)))
    with closing(Bundle(folder)) as bundle:
        for ids in (set(), gone):
            delete(folder, ids)
            live = [each for each in documents if each.doc_id not in ids]
            assert answers(bundle, CELLS, k, exact=True) == [nearest(live, query, k) for query in CELLS]
            for keep in ("a", "b"):
                kept = [each for each in live if each.metadata["kind"] == keep]
                filter = data.draw(st.sampled_from([f"kind = '{keep}'", {"kind": keep}]))
                if kept:
                    found = answers(bundle, CELLS, k, filter=filter, exact=True)
                    assert found == [nearest(kept, query, k) for query in CELLS]


def test_scores_are_inner_products(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((200, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    embed = {f"text {i}": row for i, row in enumerate(rows)}.__getitem__
    documents = [Document(doc_id=f"{i:03}", text=f"text {i}") for i in range(200)]
    build(tmp_path / "index", documents, embed=embed, dim=16, dtype="float32")
    queries, k = rows[:20], 10
    with closing(Bundle(tmp_path / "index")) as bundle:
        found = answers(bundle, queries, k)
        one_by_one = [answers(bundle, query[None], k)[0] for query in queries]
    scores = queries.astype(np.float64) @ rows.T.astype(np.float64)
    for hits, alone, truth in zip(found, one_by_one, scores, strict=True):
        assert [doc_id for doc_id, _ in hits] == [f"{i:03}" for i in np.argsort(-truth)[:k]]
        np.testing.assert_allclose([score for _, score in hits], -np.sort(-truth)[:k], atol=1e-6)
        assert hits[0][1] == 1.0 and all(score == round(score, 6) for _, score in hits)
        assert [doc_id for doc_id, _ in alone] == [doc_id for doc_id, _ in hits]


@pytest.mark.parametrize("k", [1, 3, 41, 42, 49, 50, 51, 1000])
@pytest.mark.parametrize("factory", ["Flat", "HNSW8,Flat"])
def test_ties_are_settled_by_id_also_at_the_end(tmp_path: Path, factory: str, k: int) -> None:
    ids = [f"{i:02}" for i in range(50)]
    random.Random(0).shuffle(ids)
    documents = [Document(doc_id=each, text="the same") for each in ids]
    build(tmp_path / "index", documents, factory=factory)
    with closing(Bundle(tmp_path / "index")) as bundle:
        expected = [(each, 1.0) for each in sorted(ids)[:k]]
        # one query ties to the end, the other nowhere
        assert answers(bundle, cell("the same")[None], k, exact=True) == [expected]
        delete(tmp_path / "index", sorted(ids)[:2])
        assert answers(bundle, cell("the same")[None], k, exact=True) == [[(each, 1.0) for each in sorted(ids)[2:][:k]]]


def test_ties_are_settled_for_each_query_by_itself(tmp_path: Path) -> None:
    # 30 rows tie for the first query, none for the second
    rows = {
        f"text {i}": CELLS[16] if i < 30 else np.array([0, np.cos(i / 40), np.sin(i / 40), 0], np.float32)
        for i in range(60)
    }
    documents = [Document(doc_id=f"{59 - i:02}", text=f"text {i}") for i in range(60)]
    build(tmp_path / "index", documents, embed=rows.__getitem__, dtype="float32")
    queries = np.stack([rows["text 0"], rows["text 59"]])
    with closing(Bundle(tmp_path / "index")) as bundle:
        first, second = answers(bundle, queries, 4)
    assert first == [("30", 1.0), ("31", 1.0), ("32", 1.0), ("33", 1.0)]
    assert [doc_id for doc_id, _ in second] == ["00", "01", "02", "03"]


def test_scores_that_differ_behind_the_sixth_decimal_tie(tmp_path: Path) -> None:
    near = np.array([1.0, 2e-4, 0, 0], np.float32)  # its inner product with (1, 0, 0, 0) is 1 - 2e-8
    rows = {"a": np.array([1, 0, 0, 0], np.float32), "b": near / np.linalg.norm(near)}
    documents = [Document(doc_id="2", text="a"), Document(doc_id="1", text="b")]
    build(tmp_path / "index", documents, embed=rows.__getitem__, dtype="float32")
    with closing(Bundle(tmp_path / "index")) as bundle:
        assert answers(bundle, rows["a"][None], 2) == [[("1", 1.0), ("2", 1.0)]]


def test_what_is_found_is_the_document_as_it_was_given(tmp_path: Path) -> None:
    metadata = {"z": [1, {"a": None}], "a": "é🦊", "": True, "x": 1.5}
    documents = [
        Document(doc_id="007", text="a\0b\n🦊", metadata=metadata),
        Document(doc_id="1e5", text=" x "),
        Document(doc_id="a\nb", text="a text that is long"),
    ]
    build(tmp_path / "index", documents)
    with closing(Bundle(tmp_path / "index")) as bundle:
        found = {hit.document.doc_id: hit.document for hit in bundle.search(CELLS[:1], 3)[0]}
        assert [(found[each.doc_id].text, found[each.doc_id].metadata) for each in documents] == [
            (each.text, each.metadata) for each in documents
        ]
        assert list(found["007"].metadata) == list(metadata)
        assert bundle.truncated() == 1


def test_edges_of_a_search(template: Path) -> None:
    with closing(Bundle(template)) as bundle:
        for k in (0, -1):
            with pytest.raises(InputError, match=f"k={k}; expected the number of hits, 1 or more"):
                bundle.search(CELLS, k)
        assert bundle.search(np.empty((0, DIM), np.float32), 3) == []
        assert [len(hits) for hits in bundle.search(CELLS, 10**6)] == [40] * 24
        for vectors in (CELLS[:, :3], 2 * CELLS, np.full((1, DIM), np.nan, np.float32), CELLS[0]):
            with pytest.raises(VectorError):
                bundle.search(vectors, 3)
        assert len(bundle.search(CELLS, 3)) == 24  # it goes on


def test_edges_of_a_filter(template: Path) -> None:
    with closing(Bundle(template)) as bundle:
        assert answers(bundle, CELLS[:2], 3, filter="kind = 'z'") == [[], []]
        assert answers(bundle, CELLS[:1], 3, filter="id = '007'") == [nearest([DOCUMENTS[33]], CELLS[0], 3)]
        with pytest.raises(FilterError, match=r"no document has a field 'sort'; among the fields there are: kind, n "):
            bundle.search(CELLS, 3, filter={"sort": "a"})
        with pytest.raises(FilterError):
            bundle.search(CELLS, 3, filter="kind = ")
        assert len(bundle.search(CELLS, 3)) == 24


def test_a_bundle_sees_what_is_deleted_while_it_is_open(index: Path) -> None:
    with closing(Bundle(index)) as bundle, closing(Bundle(index)) as other:
        live = list(DOCUMENTS)
        assert answers(bundle, CELLS, 3) == [nearest(live, query, 3) for query in CELLS]
        while live:
            gone, live = live[:13], live[13:]
            delete(index, [str(each.doc_id) for each in gone])
            for k in (3, 50):
                assert answers(bundle, CELLS, k) == [nearest(live, query, k) for query in CELLS]
            with closing(Bundle(index)) as fresh:
                assert fresh.manifest == bundle.manifest and fresh.manifest.documents == len(live)
        assert answers(other, CELLS, 3, exact=True) == [[]] * 24
        assert other.manifest.generation == 5


def test_what_a_bundle_tells_of_itself(template: Path, tmp_path: Path) -> None:
    with closing(Bundle(template)) as bundle:
        assert (bundle.manifest.generation, bundle.manifest.documents, bundle.manifest.next_row) == (1, 40, 40)
        assert bundle.manifest.format_version == FORMAT_VERSION and bundle.manifest.dim == DIM
        assert bundle.whitening_path is not None and bundle.whitening_path.read_bytes() == WHITENING[1]
        ids, raw = bundle.raw_documents()
        assert ids == [each.doc_id for each in DOCUMENTS]
        np.testing.assert_array_equal(raw, [cell(each.text) for each in DOCUMENTS])
        assert raw.dtype == np.float16 and not raw.flags.writeable
        files = content(template)
        assert bundle.bytes_on_disk() == sum(
            len(data) for name, data in files.items() if name[-4:] not in ("-shm", "-wal", "seal")
        )
        assert not (template / "staging").exists()
    build(tmp_path / "index", DOCUMENTS, keep_raw=False, whitening=None)
    with closing(Bundle(tmp_path / "index")) as bundle:
        assert bundle.whitening_path is None and bundle.truncated() == 0
        with pytest.raises(InputError, match="was built without raw vectors"):
            bundle.raw_documents()


@pytest.mark.parametrize("name", ["o'brien", 'a "b"', "a b", "100%", "a?b#c", "🦊", "a;b", "[a]", "a\nb", "-"])
def test_any_name_of_a_folder(tmp_path: Path, name: str) -> None:
    build(tmp_path / name / "index", DOCUMENTS)
    with closing(Bundle(tmp_path / name / "index")) as bundle:
        assert answers(bundle, CELLS, 3) == [nearest(DOCUMENTS, query, 3) for query in CELLS]
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_searching_while_generations_change(index: Path) -> None:
    ids = [str(each.doc_id) for each in DOCUMENTS[:12]]
    live = [[each for each in DOCUMENTS if each.doc_id not in ids[:gone]] for gone in range(len(ids) + 1)]
    states = [[nearest(each, query, 5) for query in CELLS] for each in live]
    seen: list[list[int]] = [[], []]
    errors: list[BaseException] = []
    done = threading.Event()

    with closing(Bundle(index)) as bundle:

        def work(mine: list[int]) -> None:
            try:
                while not done.is_set():
                    mine.append(states.index(answers(bundle, CELLS, 5)))
                mine.append(states.index(answers(bundle, CELLS, 5)))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=[mine]) for mine in seen]
        for thread in threads:
            thread.start()
        for doc_id in ids:
            delete(index, [doc_id])
            time.sleep(0.02)
        done.set()
        for thread in threads:
            thread.join()
    assert not errors
    for mine in seen:  # one committed state or a later one, and the last one at last
        assert mine == sorted(mine) and mine[-1] == states.index(states[-1]) and len(set(mine)) > 2


# ---- the manifest

ENTRY = FileEntry(name="000001.faiss", role="vectors", bytes=10**12, sha256="0" * 64)
MANIFEST = Manifest(
    generation=3,
    documents=5,
    next_row=9,
    dim=4,
    model={"name": "é🦊", "source": "here", "dim": 8, "prompts": {"query": "q: "}, "fingerprint": {}},
    whitening={"dim": 4, "beta": 0.1, "fitted_below": 5},
    whitening_file=dataclasses.replace(ENTRY, role="whitening"),
    index={"requested": "auto", "factory": "Flat", "reason": "few"},
    raw="float16",
    segments=(
        Segment(
            first_row=0, count=7, factory="Flat", vectors=ENTRY, raw=dataclasses.replace(ENTRY, role="raw"), rows=None
        ),
        Segment(
            first_row=7,
            count=2,
            factory="SQ8",
            vectors=ENTRY,
            raw=dataclasses.replace(ENTRY, role="raw"),
            rows=dataclasses.replace(ENTRY, role="rows"),
        ),
    ),
    made_by={"numpy": "2"},
)


@pytest.mark.parametrize("change", [{}, {"whitening": None, "whitening_file": None}, {"segments": ()}], ids=repr)
def test_a_manifest_comes_back(change: dict[str, Any]) -> None:
    manifest = dataclasses.replace(MANIFEST, **change)
    text = manifest.to_json()
    assert Manifest.from_json(text, checksum(text)) == manifest
    assert Manifest.from_json(text, checksum(text)).to_json() == text


def test_a_manifest_lists_its_files() -> None:
    assert [file.role for file in MANIFEST.files] == ["whitening", "vectors", "raw", "vectors", "raw", "rows"]
    assert [file.role for file in dataclasses.replace(MANIFEST, whitening_file=None).files] == [
        "vectors",
        "raw",
        "vectors",
        "raw",
        "rows",
    ]


def test_a_manifest_that_was_altered_is_refused() -> None:
    text = MANIFEST.to_json()
    for place in range(len(text)):
        with pytest.raises(IndexCorruptError, match="manifest .* is damaged"):
            Manifest.from_json(text[:place] + "\0" + text[place + 1 :], checksum(text))
    with pytest.raises(IndexCorruptError):
        Manifest.from_json(text, checksum(text)[:-1] + "x")


def test_a_manifest_of_a_newer_version_asks_for_an_upgrade(index: Path) -> None:
    values = json.loads(MANIFEST.to_json()) | {"format_version": FORMAT_VERSION + 1, "segments": "of another kind"}
    text = json.dumps(values)
    with pytest.raises(IndexVersionError, match=f"format version {FORMAT_VERSION + 1}.* upgrade with: pip install -U"):
        Manifest.from_json(text, checksum(text))
    with closing(sqlite3.connect(index / "catalogue.sqlite")) as db, db:
        db.execute("UPDATE commits SET manifest = ?, sha256 = ?", [text, checksum(text)])
    (index / "catalogue.seal").unlink()
    with pytest.raises(IndexVersionError, match="upgrade"):
        Bundle(index)
    with pytest.raises(IndexExistsError):
        build(index, DOCUMENTS)


# ---- files


def test_a_file_is_held_against_its_entry(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"content")
    entry = FileEntry(name="f", role="x", bytes=7, sha256=sha256_of(tmp_path / "f"))
    assert entry.verify(tmp_path) == tmp_path / "f"
    for change, message in [
        ({"bytes": 8}, "has 7 bytes, but 8 were"),
        ({"sha256": "0" * 64}, "SHA-256"),
        ({"name": "g"}, "missing"),
    ]:
        with pytest.raises(IndexCorruptError, match=message):
            dataclasses.replace(entry, **change).verify(tmp_path)
    (tmp_path / "g").symlink_to(tmp_path / "f")
    with pytest.raises(IndexCorruptError, match="not a regular file"):
        dataclasses.replace(entry, name="g").verify(tmp_path)


@pytest.mark.parametrize("whitening", [WHITENING, None], ids=["whitening", "none"])
def test_everything_is_durable_before_the_commit_lists_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whitening: Any
) -> None:
    synced: set[tuple[int, int]] = set()

    def sync(descriptor: int) -> None:
        stat = os.fstat(descriptor)
        synced.add((stat.st_ino, stat.st_size))  # a file that grew after its fsync is not there

    def write_commit(*arguments: Any) -> None:
        for path in [tmp_path / "index", tmp_path / "index" / "segments", *(tmp_path / "index" / "segments").iterdir()]:
            assert (path.stat().st_ino, path.stat().st_size) in synced, path.name
        checked.append(True)
        real(*arguments)

    checked: list[bool] = []
    real = indexes.writer.write_commit
    monkeypatch.setattr("os.fsync", sync)
    monkeypatch.setattr("indexes.writer.write_commit", write_commit)
    build(tmp_path / "index", DOCUMENTS, whitening=whitening)
    assert checked


# ---- commits that do not come about

POINTS = [
    "indexes.writer.VectorIndex.write",
    "indexes.writer.Staging.publish_raw",
    "indexes.writer.write_durably",
    "indexes.writer.sync_folder",
    "indexes.writer.open_database",
    "indexes.writer.Staging.attach",
    "indexes.writer.create_tables",
    "indexes.writer.Staging.publish_documents",
    "indexes.writer.write_commit",
]


def same_index(folder: Path, template: Path) -> None:
    """An index that answers as the template does, from the same bytes."""
    with closing(Bundle(folder)) as bundle:
        assert answers(bundle, CELLS, 5) == [nearest(DOCUMENTS, query, 5) for query in CELLS]
        assert bundle.truncated() == 0
        with closing(Bundle(template)) as other:
            assert bundle.manifest == other.manifest
    assert content(folder / "segments") == content(template / "segments")
    assert not (folder / "staging").exists() and not (folder / "write.lock.json").exists()


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left"), KeyboardInterrupt()], ids=["OSError", "Ctrl-C"]
)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("point", POINTS)
def test_a_commit_that_fails_leaves_a_build_to_go_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: Path, point: str, after: bool, error: BaseException
) -> None:
    owner, name = point.rsplit(".", 1)
    target: Any = {"indexes.writer": indexes.writer}.get(owner) or getattr(indexes.writer, owner.rsplit(".", 1)[1])
    real = getattr(target, name)

    def fail(*arguments: Any) -> None:
        if after:
            result = real(*arguments)
            if name == "open_database":
                result.conn.close()
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(target, name, fail)
        with pytest.raises(type(error)):
            build(tmp_path / "index", DOCUMENTS)
    with pytest.raises(IndexUnfinishedError, match="run the same build again"):
        Bundle(tmp_path / "index")
    assert build(tmp_path / "index", DOCUMENTS) == []  # no text is encoded twice
    same_index(tmp_path / "index", template)


def test_an_index_whose_staging_could_not_be_removed_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: Path
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr("indexes.writer.Staging.leave", fail)
        with pytest.raises(OSError):
            build(tmp_path / "index", DOCUMENTS)
    with closing(Bundle(tmp_path / "index")) as bundle:
        assert answers(bundle, CELLS, 5) == [nearest(DOCUMENTS, query, 5) for query in CELLS]
    with pytest.raises(IndexExistsError):
        build(tmp_path / "index", DOCUMENTS)
    assert content(tmp_path / "index" / "segments") == content(template / "segments")


def test_a_commit_that_failed_may_be_followed_by_another_build(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr("indexes.writer.write_commit", fail)
        with pytest.raises(OSError):
            build(tmp_path / "index", DOCUMENTS)
    others = corpus(8)
    assert build(tmp_path / "index", others, whitening=None, keep_raw=False) == [each.text for each in others]
    with closing(Bundle(tmp_path / "index")) as bundle:
        assert answers(bundle, CELLS, 9) == [nearest(others, query, 9) for query in CELLS]
    assert list(content(tmp_path / "index" / "segments")) == ["000001.faiss"]


# ---- writers that die

KILLED = """
import os, signal, sys
from pathlib import Path
import indexes.writer, indexes.spool, indexes.staging, storage

folder, owner, name, when, call = Path(sys.argv[1]), *sys.argv[2:5], int(sys.argv[5])
indexes.staging.CHUNK = 3
target = {"bundle": indexes.writer, "spool": indexes.spool, "Staging": indexes.staging.Staging,
          "VectorIndex": indexes.writer.VectorIndex, "shutil": indexes.staging.shutil}[owner]
real, calls = getattr(target, name), []

def die(*arguments):
    calls.append(arguments)
    if len(calls) < call:
        return real(*arguments)
    if when == "after":
        real(*arguments)
    os.kill(os.getpid(), signal.SIGKILL)

setattr(target, name, die)
storage.build(folder, storage.DOCUMENTS)
"""

ENVIRONMENT = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
ENVIRONMENT["PYTHONPATH"] = os.pathsep.join([str(TESTS.parent), str(TESTS)])


@pytest.mark.parametrize(
    "owner, name, when, call, encoded",
    [
        ("spool", "_write_at", "after", 9, 12),  # the vectors of the fifth chunk, not their flags
        ("spool", "write_durably", "before", 4, 9),
        ("Staging", "publish_raw", "after", 1, 40),
        ("bundle", "write_commit", "after", 1, 40),  # inside of the transaction
    ],
)
def test_a_killed_build_goes_on(
    tmp_path: Path, template: Path, owner: str, name: str, when: str, call: int, encoded: int
) -> None:
    folder = tmp_path / "index"
    child = subprocess.run(
        [sys.executable, "-c", KILLED, folder, owner, name, when, str(call)],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    with pytest.raises(IndexUnfinishedError, match="run the same build again"):
        Bundle(folder)
    texts = [each.text for each in DOCUMENTS]
    assert build(folder, DOCUMENTS) == [
        text for row, text in enumerate(texts) if row >= encoded and text not in texts[:row]
    ]
    same_index(folder, template)


def test_a_build_that_is_killed_behind_its_commit_is_whole(tmp_path: Path, template: Path) -> None:
    folder = tmp_path / "index"
    child = subprocess.run(
        [sys.executable, "-c", KILLED, folder, "shutil", "rmtree", "before", "1"],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr
    with closing(Bundle(folder)) as bundle:
        assert answers(bundle, CELLS, 5) == [nearest(DOCUMENTS, query, 5) for query in CELLS]
    with pytest.raises(IndexExistsError):
        build(folder, DOCUMENTS)
    assert content(folder / "segments") == content(template / "segments")


# ---- bad data


def stage(folder: Path, error: BaseException, *, chunks: int = 0, documents: list[Document] = DOCUMENTS) -> None:
    """A build that ends by an error, before its first vector or after some chunks."""
    with BundleWriter(folder) as writer:
        writer.staging.add(records(documents[:10]), refuse)
        if chunks:
            writer.staging.add(records(documents[10:]), refuse)
            writer.staging.begin_vectors(DIM, "float16", PLAN)
            encode_staged(writer.staging, chunks=chunks)
        raise error


@pytest.mark.parametrize("error", [InputError("bad data"), KeyboardInterrupt()], ids=["InputError", "Ctrl-C"])
def test_an_error_before_any_vector_leaves_nothing_behind(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)):
        stage(tmp_path / "made" / "index", error)
    assert list((tmp_path / "made").iterdir()) == []
    (tmp_path / "yours").mkdir()
    with pytest.raises(type(error)):
        stage(tmp_path / "yours", error)
    assert list((tmp_path / "yours").iterdir()) == []
    assert len(build(tmp_path / "yours", DOCUMENTS)) == 29


@pytest.mark.parametrize("error", [InputError("bad data"), KeyboardInterrupt()], ids=["InputError", "Ctrl-C"])
def test_an_error_keeps_the_vectors_of_an_interrupted_build(
    tmp_path: Path, template: Path, error: BaseException
) -> None:
    # hours of work were lost to a slip in the next call, once
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path / "index", KeyboardInterrupt(), chunks=4)
    with pytest.raises(type(error)):
        stage(tmp_path / "index", error)
    with pytest.raises(IndexUnfinishedError):
        Bundle(tmp_path / "index")
    assert build(tmp_path / "index", DOCUMENTS) == [f"text {i}" for i in range(12, 29)]
    same_index(tmp_path / "index", template)


def test_an_error_before_the_first_vector_of_another_plan_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: Any) -> None:
        raise OSError

    with monkeypatch.context() as patch:
        patch.setattr("indexes.writer.write_commit", fail)
        with pytest.raises(OSError):
            build(tmp_path / "index", DOCUMENTS)
    assert {"catalogue.sqlite", "segments", "staging"} <= {path.name for path in (tmp_path / "index").iterdir()}
    with pytest.raises(InputError), BundleWriter(tmp_path / "index") as writer:
        writer.staging.add(records(["another text"]), refuse)
        writer.staging.begin_vectors(DIM, "float16", PLAN)
        raise InputError("no such model")
    assert list((tmp_path / "index").iterdir()) == []


# ---- what is there already


def test_building_onto_an_index_is_refused(index: Path) -> None:
    before = content(index)
    with closing(Bundle(index)) as bundle:
        with pytest.raises(IndexExistsError, match="is an index already"):
            build(index, corpus(6))
        assert answers(bundle, CELLS, 3) == [nearest(DOCUMENTS, query, 3) for query in CELLS]
    after = content(index)
    assert {name: after.get(name) for name in before} == before
    assert {name for name in after.keys() - before.keys() if not name.startswith("catalogue.sqlite-")} == set()


@pytest.mark.parametrize(
    "files",
    [
        ["notes.txt"],
        ["notes.txt", "segments/000001.faiss"],
        [".hidden"],
        ["staging/photo.jpg"],  # folders of other people may have our names
        ["staging/a/b/photo.jpg"],
        ["segments/photo.jpg"],
        ["segments-of-mine/photo.jpg"],
        ["staging/documents.sqlite", "segments/photo.jpg"],
        ["segments/000001.faiss"],
        ["staging"],
        ["segments"],
        ["catalogue.sqlite"],
        ["catalogue.sqlite/photo.jpg"],
    ],
    ids=" ".join,
)
def test_building_onto_what_is_not_ours_is_refused(tmp_path: Path, files: list[str]) -> None:
    for name in files:
        (tmp_path / "folder" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(b"mine")
    with pytest.raises(IndexExistsError):
        build(tmp_path / "folder", DOCUMENTS)
    assert content(tmp_path / "folder") == dict.fromkeys(files, b"mine")


def test_building_onto_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with pytest.raises(IndexExistsError, match="is a file"):
            build(tmp_path / name, DOCUMENTS)
    assert content(tmp_path) == {"file": b"mine"}


@pytest.mark.parametrize("data", [b"", b"not a catalogue", None], ids=["empty", "text", "truncated"])
def test_building_onto_a_damaged_index_is_refused(index: Path, data: bytes | None) -> None:
    path, before = index / "catalogue.sqlite", content(index / "segments")
    path.write_bytes(path.read_bytes()[:5000] if data is None else data)
    with pytest.raises(IndexCorruptError):
        Bundle(index)
    with pytest.raises(IndexExistsError):
        build(index, DOCUMENTS)
    assert content(index / "segments") == before


def test_where_there_is_no_index(tmp_path: Path) -> None:
    with pytest.raises(IndexMissingError, match="holds no index .* retrieval build CORPUS -o"):
        Bundle(tmp_path)
    with pytest.raises(IndexMissingError, match="is not a folder"):
        Bundle(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError):
        Bundle(tmp_path / "nowhere")


# ---- one writer

HOLDER = """
import sys
from pathlib import Path
from indexes.lock import write_lock

with write_lock(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_writer_is_told_at_once_who_is_at_work(index: Path, tmp_path: Path) -> None:
    folder = tmp_path / "new"
    folder.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, folder],
        env=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "held\n"
        begun = time.perf_counter()
        with pytest.raises(IndexLockedError, match=f"written by process {child.pid} on {socket.gethostname()}; wait"):
            build(folder, DOCUMENTS)
        assert time.perf_counter() - begun < 2
        assert {path.name for path in folder.iterdir()} == {"write.lock", "write.lock.json"}
        child.kill()
    assert (folder / "write.lock.json").exists()  # of a process that is no more
    build(folder, DOCUMENTS)
    with closing(Bundle(folder)) as bundle:
        assert answers(bundle, CELLS, 3) == [nearest(DOCUMENTS, query, 3) for query in CELLS]
    assert not (folder / "write.lock.json").exists()


def test_a_second_writer_of_the_same_process_is_refused(tmp_path: Path) -> None:
    with BundleWriter(tmp_path / "index") as writer:
        for _ in range(2):
            with pytest.raises(IndexLockedError, match=f"process {os.getpid()} on "):
                build(tmp_path / "index", DOCUMENTS)
        writer.staging.add(records(["it goes on"]), refuse)
        assert writer.staging.count == 1


def test_readers_are_not_hindered_by_a_writer(index: Path) -> None:
    with write_lock(index), closing(Bundle(index)) as bundle:
        assert len(bundle.search(CELLS, 3)) == 24
    with write_lock(index):
        pass


@pytest.mark.parametrize("note", ["", "{", "[]", "null", '{"pid": 1}'])
def test_a_writer_that_left_no_name_is_still_one(tmp_path: Path, note: str) -> None:
    with write_lock(tmp_path):
        (tmp_path / "write.lock.json").write_text(note)
        with pytest.raises(IndexLockedError, match="written by another process; wait"), write_lock(tmp_path):
            pass


def test_a_lock_ends_with_an_error(tmp_path: Path) -> None:
    with pytest.raises(KeyError), write_lock(tmp_path):
        raise KeyError
    assert not (tmp_path / "write.lock.json").exists()
    with write_lock(tmp_path):
        assert json.loads((tmp_path / "write.lock.json").read_text()) == {
            "pid": os.getpid(),
            "host": socket.gethostname(),
        }


# ---- rot

FILES = [
    "catalogue.sqlite",
    "segments/000001.faiss",
    "segments/000001.raw.npy",
    "segments/000001.whitening.safetensors",
]


def everything(folder: Path) -> Any:
    """All that an index can tell, but for filters and the number of truncated texts."""
    with closing(Bundle(folder)) as bundle:
        found = [
            [
                (hit.score, hit.document.row, hit.document.doc_id, hit.document.text, dict(hit.document.metadata))
                for hit in hits
            ]
            for hits in bundle.search(CELLS, 100)
        ]
        ids, vectors = bundle.raw_documents()
        raw = dict(zip(ids, np.array(vectors).tolist(), strict=True))
        whitening = bundle.whitening_path
        return found, raw, whitening and whitening.read_bytes(), bundle.manifest


@pytest.fixture(scope="module")
def rotting(template: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """An index with deletions, and all that it tells; put back what you damage."""
    folder = Path(shutil.copytree(template, tmp_path_factory.mktemp("rot") / "index"))
    delete(folder, ["002", "004", "037"])
    return folder, everything(folder)


def right_or_refused(folder: Path, expected: Any, what: str) -> bool:
    """Never a wrong answer, never another error; whether it was refused."""
    try:
        found = everything(folder)
    except IndexCorruptError:
        return True
    except Exception as error:
        raise AssertionError(f"{what}: {error!r}") from error
    assert found == expected, what
    return False


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_or_does_no_harm(rotting: tuple[Path, Any], name: str) -> None:
    folder, expected = rotting
    good, refused = (folder / name).read_bytes(), 0
    try:
        for position, damaged in flips(good, 50, seed=len(name)):
            (folder / name).write_bytes(damaged)
            refused += right_or_refused(folder, expected, f"bit {position} of {name}")
    finally:
        (folder / name).write_bytes(good)
    assert refused == 50
    assert everything(folder) == expected


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_found(rotting: tuple[Path, Any], name: str) -> None:
    folder, expected = rotting
    good = (folder / name).read_bytes()
    try:
        for size in [0, 1, 100, len(good) // 2, len(good) - 1]:
            if size < len(good):
                (folder / name).write_bytes(good[:size])
                assert right_or_refused(folder, expected, f"{size} bytes of {name}")
        (folder / name).write_bytes(good + b"\0")
        assert right_or_refused(folder, expected, f"{name} and a byte")
    finally:
        (folder / name).write_bytes(good)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_found(index: Path, name: str) -> None:
    (index / name).unlink()
    with pytest.raises(IndexMissingError if name == "catalogue.sqlite" else IndexCorruptError):
        everything(index)


@pytest.mark.parametrize("name", FILES)
def test_a_link_is_no_file_of_an_index(index: Path, tmp_path: Path, name: str) -> None:
    expected = everything(index)
    (index / name).rename(tmp_path / "elsewhere")
    (index / name).symlink_to(tmp_path / "elsewhere")
    assert right_or_refused(index, expected, name)


@pytest.mark.parametrize("one, other", list(itertools.combinations(FILES, 2)))
def test_files_that_were_swapped_are_found(index: Path, one: str, other: str) -> None:
    (index / one).rename(index / "third")
    (index / other).rename(index / one)
    (index / "third").rename(index / other)
    with pytest.raises(IndexCorruptError):
        everything(index)


def test_the_files_of_another_index_are_found(index: Path, tmp_path: Path) -> None:
    build(tmp_path / "other", [dataclasses.replace(each, text=each.text + "!") for each in DOCUMENTS])
    for name in FILES[:3]:
        good = (index / name).read_bytes()
        (index / name).write_bytes((tmp_path / "other" / name).read_bytes())
        with pytest.raises(IndexCorruptError):
            everything(index)
        (index / name).write_bytes(good)


@pytest.mark.parametrize(
    "damage, message",
    [
        ("UPDATE documents SET text = 'another' WHERE row = 7", "document '033' .row 7. is damaged"),
        ("UPDATE documents SET id = 'another' WHERE row = 7", "document 'another' .row 7. is damaged"),
        ("UPDATE documents SET metadata = '{}' WHERE row = 7", "document '033' .row 7. is damaged"),
        ("UPDATE documents SET text_hash = x'00' WHERE row = 7", "document '033' .row 7. is damaged"),
        ("UPDATE documents SET checksum = x'00' WHERE row = 7", "document '033' .row 7. is damaged"),
        ("UPDATE documents SET text = CAST(text AS BLOB) WHERE row = 7", "is damaged"),
        ("UPDATE documents SET id = x'00' WHERE row = 7", "is damaged"),
        ("UPDATE documents SET text_hash = 'x' WHERE row = 7", "is damaged"),
        ("UPDATE documents SET row = 77 WHERE row = 7", "document of row 7 is missing"),
        ("DELETE FROM documents WHERE row = 7", "document of row 7 is missing"),
        ("INSERT INTO deletions VALUES (7)", "lists 40 documents, but 39 vectors"),
        ("DROP TABLE deletions; CREATE TABLE deletions (row); INSERT INTO deletions VALUES (NULL)", "cannot be read"),
        ("DELETE FROM commits", "lists no commit"),
        ("DROP TABLE commits", "lists no commit"),
        ("DROP TABLE documents", "cannot be read"),
        ("DROP TABLE deletions", "cannot be read"),
        ("ALTER TABLE documents RENAME COLUMN checksum TO sum", "cannot be read"),
        ("UPDATE commits SET manifest = replace(manifest, '000001', '000002')", "manifest .* is damaged"),
        ("UPDATE commits SET sha256 = NULL", "manifest .* is damaged"),
        ("UPDATE commits SET manifest = NULL", "manifest .* is damaged"),
        ("UPDATE commits SET manifest = CAST(manifest AS BLOB)", "manifest .* is damaged"),
    ],
)
def test_what_rot_or_a_stranger_does_to_the_catalogue_is_found(index: Path, damage: str, message: str) -> None:
    with closing(sqlite3.connect(index / "catalogue.sqlite")) as db, db:
        db.executescript(damage)
    with pytest.raises(IndexCorruptError, match="catalogue.sqlite is not what was committed"):
        Bundle(index)
    (index / "catalogue.seal").unlink()  # as a writer leaves it that is killed: then the checksums inside must do
    with pytest.raises(IndexCorruptError, match=message):
        everything(index)


@pytest.mark.parametrize(
    "damage, message",
    [
        ("UPDATE documents SET metadata = '{' WHERE row = 7", "malformed"),
        ("ALTER TABLE documents RENAME COLUMN metadata TO data", "no such column"),
        ("CREATE TABLE d AS SELECT * FROM documents; UPDATE d SET row = NULL; DROP TABLE documents; "
         "ALTER TABLE d RENAME TO documents", "cannot be read"),
    ],
)  # fmt: skip
def test_a_filter_over_a_damaged_catalogue_is_refused(index: Path, damage: str, message: str) -> None:
    with closing(sqlite3.connect(index / "catalogue.sqlite")) as db, db:
        db.executescript(damage)
    (index / "catalogue.seal").unlink()
    with closing(Bundle(index)) as bundle, pytest.raises(IndexCorruptError, match=message):
        bundle.search(CELLS, 3, filter="kind = 'a'")


# ---- copies that cannot be written to


def refuse_shared_memory(folder: Path) -> None:
    """SQLite cannot make the file beside its log: what it meets in a folder that is read-only, and for root too."""
    (folder / "catalogue.sqlite-shm").unlink(missing_ok=True)
    (folder / "catalogue.sqlite-shm").symlink_to("nowhere/at/all")
    uri = f"file:{folder / 'catalogue.sqlite'}?mode=ro"
    with closing(sqlite3.connect(uri, uri=True)) as db, pytest.raises(sqlite3.OperationalError, match="unable to open"):
        db.execute("SELECT * FROM commits")


def test_an_index_opens_where_no_log_can_be_written(index: Path) -> None:
    refuse_shared_memory(index)
    with closing(Bundle(index)) as bundle:
        assert answers(bundle, CELLS, 3) == [nearest(DOCUMENTS, query, 3) for query in CELLS]
        assert answers(bundle, CELLS, 3, filter="kind = 'a'") == [nearest(DOCUMENTS[::3], query, 3) for query in CELLS]


def test_changes_in_a_log_that_cannot_be_read_are_not_passed_over(index: Path, tmp_path: Path) -> None:
    with closing(sqlite3.connect(index / "catalogue.sqlite")) as db:
        db.execute("BEGIN")
        db.execute("SELECT * FROM commits").fetchall()
        delete(index, ["003"])  # stays in the log while somebody reads the state before
        copy = Path(shutil.copytree(index, tmp_path / "copy"))
    refuse_shared_memory(copy)
    with pytest.raises(IndexUnfinishedError, match="catalogue.sqlite-wal that cannot be read"):
        Bundle(copy)
    (copy / "catalogue.sqlite-shm").unlink()
    with closing(Bundle(copy)) as bundle:
        assert bundle.manifest.generation == 2


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_index_opens_in_a_folder_without_write_permission(index: Path) -> None:
    folders = [index, index / "segments"]
    for folder in folders:
        folder.chmod(0o555)
    try:
        with closing(Bundle(index)) as bundle:
            assert answers(bundle, CELLS, 3) == [nearest(DOCUMENTS, query, 3) for query in CELLS]
    finally:
        for folder in folders:
            folder.chmod(0o755)


def test_a_reader_that_cannot_write_sees_one_state_beside_a_writer_who_can(
    index: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no locks, so pages of two states could be seen as one."""

    def refuse(path: Path) -> sqlite3.Connection:
        raise sqlite3.OperationalError("unable to open database file")

    monkeypatch.setattr("indexes.connection._connect", refuse)
    asked: list[tuple[int, int]] = []
    with closing(Bundle(index)) as bundle:

        def look() -> tuple[int, int]:
            before = len(bundle.rows_matching("kind = 'a'"))
            if not asked:  # another process writes, and its log goes into the file
                gone = [each.doc_id for each in DOCUMENTS[::3]][:5]
                code = f"from pathlib import Path; from storage import delete; delete(Path({str(index)!r}), {gone!r})"
                subprocess.run([sys.executable, "-c", code], env=ENVIRONMENT, check=True)
            asked.append((before, bundle.manifest.documents))
            return asked[-1]

        assert bundle.read(look) == (9, 35)
        assert asked == [(14, 40), (9, 35)]  # the first answer was thrown away
        with pytest.raises(IndexError_, match="was changed while it was read"), bundle.hold(lambda: None):
            delete_elsewhere = (
                f"from pathlib import Path; from storage import delete; delete(Path({str(index)!r}), ['001'])"
            )
            subprocess.run([sys.executable, "-c", delete_elsewhere], env=ENVIRONMENT, check=True)
        with pytest.raises(sqlite3.OperationalError):  # and it never writes by what it has seen
            BundleWriter(index, bundle).__enter__()
