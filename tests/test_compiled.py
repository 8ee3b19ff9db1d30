"""Compiled models: the vectors and scores of the models they were made from, without torch."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from test_cli import run
from tiny_models import WORDS, tiny_encoder

pytest.importorskip("openvino")

from indexes.errors import FingerprintError, IndexCorruptError, InputError, ModelError  # noqa: E402
from indexes.files import FileEntry, sha256_of  # noqa: E402
from indexes.writer import BundleWriter  # noqa: E402
from retrieval import Engine  # noqa: E402
from retrieval.compiled import making, store  # noqa: E402
from retrieval.compiled.encoder import CompiledEncoder, compiled_encoder  # noqa: E402
from retrieval.compiled.export import export_encoder  # noqa: E402
from retrieval.compiled.graph import Graph, native_precision, settings  # noqa: E402
from retrieval.compiled.scorer import CompiledScorer, compiled_scorer  # noqa: E402
from retrieval.encoder import SentenceTransformerEncoder, load_encoder  # noqa: E402
from retrieval.models import locate  # noqa: E402
from retrieval.reranking import scorer_of  # noqa: E402
from retrieval.scorer import CrossEncoderScorer  # noqa: E402
from retrieval.verify import verify  # noqa: E402

RANDOM = np.random.default_rng(0)
TEXTS = [" ".join(RANDOM.choice(WORDS, size)) for size in (1, 2, 5, 9, 30, 31, 40, 100)] * 5 + ["狐狸", "  the\tdog  "]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def cross(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch
    from sentence_transformers import CrossEncoder

    place = tmp_path_factory.mktemp("cross")
    model = CrossEncoder(str(tiny_encoder(place)), num_labels=1, device="cpu")
    with torch.no_grad():
        for name, values in model.named_parameters():  # scores far apart
            if name.endswith("weight") and values.ndim == 2:
                values.mul_(5)
    model.save_pretrained(str(place / "ce"))
    return place / "ce"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("RETRIEVAL_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache" / "compiled"


def cosines(one: NDArray[Any], two: NDArray[Any]) -> NDArray[Any]:
    return np.asarray((one * two).sum(axis=1) / np.linalg.norm(one, axis=1) / np.linalg.norm(two, axis=1))


def made(folder: Path, precision: Any = None) -> CompiledEncoder:
    encoder = compiled_encoder(locate(str(folder)), prompts=None, precision=precision)
    assert encoder is not None
    return encoder


# ---- the same as the model


def test_windows_and_batches_change_no_vector(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = made(folder, "float32")
    expected = encoder.encode(TEXTS)
    for at_once, tokens in ((8, 64), (3, 16), (1, 1)):
        monkeypatch.setattr("retrieval.compiled.model.AT_ONCE", at_once)
        monkeypatch.setattr("retrieval.compiled.model.TOKENS", tokens)
        found = encoder.encode(TEXTS)
        assert np.allclose(found.vectors, expected.vectors, atol=1e-5)
        assert np.array_equal(found.truncated, expected.truncated)


def test_vectors_are_those_of_the_model(folder: Path) -> None:
    theirs = SentenceTransformerEncoder(locate(str(folder)))
    for precision, least in (("float32", 0.99999), ("bfloat16", 0.999)):
        ours = made(folder, precision)
        for name in ("name", "source", "dim", "max_tokens", "prompts", "fingerprint"):
            assert getattr(ours, name) == getattr(theirs, name)
        for role in ("query", "document"):
            one, two = ours.encode(TEXTS, role), theirs.encode(TEXTS, role)  # type: ignore[arg-type]
            assert cosines(one.vectors, two.vectors).min() > least
            assert np.array_equal(one.truncated, two.truncated) and 0 < one.truncated.sum() < len(TEXTS)
            assert one.vectors.dtype == np.float32
    assert made(folder, "bfloat16").precision == native_precision()
    assert made(folder).encode([]).vectors.shape == (0, 32)


def test_prompts_are_put_before_texts(folder: Path) -> None:
    ours = compiled_encoder(locate(str(folder)), prompts={"query": "red "}, precision="float32")
    theirs = SentenceTransformerEncoder(locate(str(folder)), {"query": "red "})
    assert ours is not None and ours.prompts == theirs.prompts and ours.fingerprint == theirs.fingerprint
    assert cosines(ours.encode(["dog"], "query").vectors, theirs.encode(["dog"], "query").vectors).min() > 0.99999
    assert cosines(ours.encode(["dog"], "query").vectors, ours.encode(["dog"]).vectors).max() < 0.999


def test_scores_are_those_of_the_model(cross: Path) -> None:
    pairs = (TEXTS, [*TEXTS[3:], *TEXTS[:3]])
    theirs = CrossEncoderScorer(locate(str(cross)))
    expected = theirs.scores(*pairs)
    assert np.ptp(expected) > 0.1
    for precision, most in (("float32", 1e-4), ("bfloat16", 0.03)):
        ours = compiled_scorer(locate(str(cross)), precision)  # type: ignore[arg-type]
        assert ours is not None
        assert np.abs(ours.scores(*pairs) - expected).max() < most * np.ptp(expected)
        assert ours(TEXTS[0], TEXTS[:4]).tolist() == ours.scores([TEXTS[0]] * 4, TEXTS[:4]).tolist()
        assert ours.scores([], []).shape == (0,)
        alone = [ours.scores([one], [two])[0] for one, two in zip(*(part[:8] for part in pairs), strict=True)]
        assert np.abs(alone - expected[:8]).max() < most * np.ptp(expected)
        assert (ours.name, ours.max_length, ours.fingerprint) == (theirs.name, theirs.max_length, theirs.fingerprint)
        # not so many bits are lost that different texts tie
        assert len(np.unique(ours.scores(*pairs))) >= len(np.unique(expected.round(6)))
        with pytest.raises(InputError, match="1 first texts and 2 second ones"):
            ours.scores(["a"], ["b", "c"])


def test_a_text_alone_has_the_vector_it_has_among_others(folder: Path) -> None:
    encoder = made(folder, "float32")
    texts = list(dict.fromkeys(TEXTS))
    alone = [encoder.encode([text]) for text in texts]
    together = encoder.encode(texts)
    assert np.allclose(np.concatenate([one.vectors for one in alone]), together.vectors, atol=1e-6)
    assert [bool(one.truncated[0]) for one in alone] == together.truncated.tolist() and together.truncated.any()


def test_each_kind_of_graph_is_made_once_and_only_where_it_is_needed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hints: list[str] = []
    how = settings

    def noted(precision: Any, hint: Any) -> dict[str, Any]:
        hints.append(hint)
        time.sleep(0.05)  # else no second thread comes meanwhile
        return how(precision, hint)

    monkeypatch.setattr("retrieval.compiled.graph.settings", noted)
    for texts, hint in ((["the dog"], "LATENCY"), (["the dog", "a cat"], "THROUGHPUT")):
        encoder = made(folder)
        hints.clear()
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(encoder.encode, [texts] * 8))
        assert hints == [hint]


def test_what_is_left_unfinished_does_no_harm(folder: Path) -> None:
    graph = made(folder, "float32")._model._graph
    batches = [dict.fromkeys(graph.inputs, np.full((2, length), 3)) for length in range(2, 12)]
    expected = graph.several(batches)

    def broken() -> Iterator[Any]:
        yield from batches[:3]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        graph.several(broken())
    assert all(np.array_equal(one, two) for one, two in zip(graph.several(batches), expected, strict=True))


def test_threads_may_share_one(folder: Path) -> None:
    encoder = made(folder, "float32")
    parts = [TEXTS[i : i + 1 + i % 7] for i in range(30)]
    expected = [made(folder, "float32").encode(part).vectors for part in parts]
    with ThreadPoolExecutor(8) as pool:
        for one, two in zip(pool.map(lambda part: encoder.encode(part).vectors, parts * 3), expected * 3, strict=True):
            assert np.allclose(one, two, atol=1e-6)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process cannot be held on one processor here")
def test_a_process_may_end_right_after_an_answer(folder: Path, cache: Path) -> None:
    made(folder, "float32")
    (graph,) = cache.glob("*/graph.xml")
    code = (
        "import os, numpy; from pathlib import Path; from retrieval.compiled.graph import Graph; "
        # on one processor OpenVINO's threads are late: with callbacks more than half of these processes were aborted
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
        f"graph = Graph(Path({str(graph)!r}), 'float32'); ones = dict.fromkeys(graph.inputs, numpy.ones((1, 4), int)); "
    )
    for ask in ("graph.several([ones] * 3)", "graph.one(ones)") * 6:
        done = subprocess.run([sys.executable, "-c", code + ask], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.model
def test_a_real_model_in_both_precisions(caplog: pytest.LogCaptureFixture) -> None:
    files = locate("all-MiniLM-L6-v2")
    texts = [*making.TRIED, "How do I sort a list of tuples by the second element?", "The captain hunts a whale."]
    theirs = SentenceTransformerEncoder(files).encode(texts)
    for precision, least in (("float32", 0.999999), ("bfloat16", 0.9998)):
        ours = compiled_encoder(files, prompts=None, precision=precision)  # type: ignore[arg-type]
        assert ours is not None
        found = ours.encode(texts)
        assert cosines(found.vectors, theirs.vectors).min() > least
        assert np.array_equal(found.truncated, theirs.truncated) and found.truncated.sum() == 1


# ---- kept


def test_a_model_is_compiled_once_and_needed_no_more(
    folder: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = Path(shutil.copytree(folder, tmp_path / "model"))
    with Engine.build(TEXTS[:8], tmp_path / "i", model=str(model), whitening=None) as engine:
        assert isinstance(engine.encoder, CompiledEncoder)
        hits = engine.search(TEXTS[2], 3)
        assert engine._bundle.manifest.model["precision"] == native_precision()
    assert caplog.text.count("compiling model") == 1 and len(list(cache.iterdir())) == 1
    shutil.rmtree(model)
    with Engine.open(tmp_path / "i") as engine:
        assert engine.search(TEXTS[2], 3) == hits
    assert caplog.text.count("compiling model") == 1


def test_nothing_is_told_to_a_server(folder: Path, tmp_path: Path) -> None:
    made(folder)
    code = (
        "import sys; from retrieval.compiled.graph import native_precision; native_precision(); "
        "import openvino; print('openvino' in sys.modules, sys.modules['openvino_telemetry'])"
    )
    home = {**os.environ, "HOME": str(tmp_path)} | {"CI": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=home)
    assert done.stdout.split() == ["True", "None"] and not list(tmp_path.iterdir())


def test_a_query_loads_no_torch(folder: Path, tmp_path: Path) -> None:
    Engine.build(TEXTS[:8], tmp_path / "i", model=str(folder), whitening=None).close()
    code = (
        "import sys; from retrieval import Engine; "
        f"hits = Engine.open({str(tmp_path / 'i')!r}).search({TEXTS[2]!r}, 3); "
        "print(len(hits), sorted({'torch', 'transformers', 'sentence_transformers', 'sklearn'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == "3 []"


def test_a_portable_index_needs_no_model_and_no_cache(folder: Path, cache: Path, tmp_path: Path) -> None:
    model, index = Path(shutil.copytree(folder, tmp_path / "model")), tmp_path / "i"
    plain = Engine.build(TEXTS[:8], tmp_path / "plain", model=str(model), whitening=None)
    with Engine.build(TEXTS[:8], index, model=str(model), whitening=None, portable=True) as engine:
        hits = engine.search(TEXTS[2], 3)
        assert engine.info()["portable"] and not plain.info()["portable"]
        assert engine.info()["bytes"] > plain.info()["bytes"] + (folder / "tokenizer.json").stat().st_size
    shutil.rmtree(model)
    shutil.rmtree(cache)
    index = index.rename(tmp_path / "elsewhere")
    with Engine.open(index) as engine:  # whatever is done to it, the model stays in it
        assert engine.search(TEXTS[2], 3) == hits == plain.search(TEXTS[2], 3)
        engine.add(["the dog came later"])
        engine.delete([hits[0].doc_id])
        engine.compact()
        engine.rebuild(whitening=None)
        assert not [check for check in engine.verify(deep=True) if check.problem]
    with Engine.open(index) as engine:
        assert engine.search(TEXTS[2], 1)[0].doc_id == hits[1].doc_id
    with Engine.open(tmp_path / "plain") as engine, pytest.raises(ModelError, match="was not found"):
        engine.search(TEXTS[2])
    plain.close()
    for name in ("graph.xml", "graph.bin", "tokenizer.json"):
        (path,) = (index / "segments").glob(f"*.{name}")
        good = path.read_bytes()
        path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
        with (
            Engine.open(index) as engine,
            pytest.raises(IndexCorruptError, match=f"{name} is not .*say where the model"),
        ):
            engine.search("the dog")
        with Engine.open(index, model=str(folder)) as engine:
            assert engine.search(TEXTS[2], 1)[0].doc_id == hits[1].doc_id
        assert [check.name for check in verify(index, deep=True) if check.problem] == [path.name]
        path.write_bytes(good)


@pytest.mark.parametrize("name", ["graph.xml", "graph.bin", "tokenizer.json"])
def test_a_damaged_model_is_put_into_its_index_anew(folder: Path, tmp_path: Path, name: str) -> None:
    index = tmp_path / "i"
    with Engine.build(TEXTS[:8], index, model=str(folder), whitening=None, portable=True) as engine:
        hits = engine.search(TEXTS[2], 3)
    (path,) = (index / "segments").glob(f"*.{name}")
    path.write_bytes(path.read_bytes()[:-1])
    with Engine.open(index, searchable=False, model=str(folder)) as engine:
        engine.rebuild()
        with pytest.raises(
            IndexCorruptError, match=rf"{name} .*\(--model; with retrieval rebuild --portable it is put"
        ):
            Engine.open(index).search("the dog")
        engine.rebuild(portable=True)
        assert not [check for check in engine.verify(deep=True) if check.problem]
    assert not path.exists()
    with Engine.open(index) as engine:
        assert engine.search(TEXTS[2], 3) == hits


def test_any_index_can_become_portable(folder: Path, cache: Path, tmp_path: Path) -> None:
    model, index = Path(shutil.copytree(folder, tmp_path / "model")), tmp_path / "i"
    Engine.build(TEXTS[:8], index, model=str(model), whitening=None).close()
    said = run("rebuild", index, "--portable").stderr
    assert "the model among them" in said
    shutil.rmtree(model)
    shutil.rmtree(cache)
    with Engine.open(index) as engine:
        assert engine.info()["portable"] and len(engine.search(TEXTS[2], 3)) == 3
        before = engine.info()
        with pytest.raises(ModelError, match="was not found"):  # there is nothing it could be made anew from
            engine.rebuild(portable=True)
        assert engine.info() == before


def test_only_what_is_compiled_makes_an_index_portable(folder: Path, tmp_path: Path) -> None:
    with Engine.build(["a text"], tmp_path / "i", model="hash:8", whitening=None) as engine:
        with pytest.raises(InputError, match="is not compiled here"):
            engine.rebuild(portable=True)
        assert engine.info()["generation"] == 1


def test_an_index_that_carries_an_onnx_file_stays_as_good(folder: Path, cache: Path, tmp_path: Path) -> None:
    """As it was written in format version 4."""
    model = Path(shutil.copytree(folder, tmp_path / "model"))
    with Engine.build(TEXTS[:8], tmp_path / "i", model=str(model), whitening=None, portable=True) as engine:
        hits = engine.search(TEXTS[2], 3)
        graph = tmp_path / "i" / "segments" / "000002.graph.onnx"
        with BundleWriter(engine._bundle.folder, engine._bundle) as writer:
            export_encoder(SentenceTransformerEncoder(locate(str(folder))).model, graph)
            entry = FileEntry(name=graph.name, role="graph", bytes=graph.stat().st_size, sha256=sha256_of(graph))
            writer.commit(
                engine._bundle.manifest.segments, made_by={}, compiled=engine._bundle.manifest.compiled,
                graph_file=entry, weights_file=None,
            )  # fmt: skip
    shutil.rmtree(model)
    shutil.rmtree(cache)
    with Engine.open(tmp_path / "i") as engine:
        assert [(hit.doc_id, hit.score) for hit in engine.search(TEXTS[2], 3)] == [
            (hit.doc_id, pytest.approx(hit.score, abs=1e-5)) for hit in hits
        ]
        engine.add(["the dog came later"])
        engine.rebuild(whitening=None)
        assert graph.exists() and not [check for check in engine.verify(deep=True) if check.problem]
        with Engine.build(TEXTS[:8], tmp_path / "other", model=engine.encoder, whitening=None, portable=True) as other:
            assert [hit.doc_id for hit in other.search(TEXTS[2], 3)] == [hit.doc_id for hit in hits]
    assert {path.suffix for path in (tmp_path / "other" / "segments").glob("*.graph.*")} == {".onnx"}


def test_only_a_compiled_model_can_be_carried_along(folder: Path, tmp_path: Path) -> None:
    for model in ("hash:8", SentenceTransformerEncoder(locate(str(folder)))):
        with pytest.raises(InputError, match="is not compiled here.*leave portable out"):
            Engine.build(TEXTS[:8], tmp_path / "i", model=model, portable=True)
        assert not (tmp_path / "i").exists() or not list((tmp_path / "i").iterdir())
    Engine.build(TEXTS[:8], tmp_path / "i", model=str(folder), portable=True, whitening=None).close()
    with Engine.open(tmp_path / "i", model="hash:8") as engine, pytest.raises(FingerprintError):
        engine.search("the dog")


def test_an_index_is_searched_in_the_precision_it_was_made_in(folder: Path, tmp_path: Path) -> None:
    encoder = made(folder, "float32")
    Engine.build(TEXTS[:8], tmp_path / "i", model=encoder, whitening=None).close()
    with Engine.open(tmp_path / "i") as engine:
        assert isinstance(engine.encoder, CompiledEncoder) and engine.encoder.precision == "float32"
    with Engine.open(tmp_path / "i", model=str(folder)) as engine:
        assert isinstance(engine.encoder, CompiledEncoder) and engine.encoder.precision == "float32"


@pytest.mark.parametrize("name", ["graph.xml", "graph.bin", "tokenizer.json", "compiled.json"])
def test_what_is_damaged_is_made_again(folder: Path, cache: Path, name: str, caplog: pytest.LogCaptureFixture) -> None:
    expected = made(folder, "float32").encode(TEXTS).vectors
    (path,) = cache.glob(f"*/{name}")
    data = path.read_bytes()
    for wrong in (data[:-1], data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]):
        path.write_bytes(wrong)
        caplog.clear()
        assert np.array_equal(made(folder, "float32").encode(TEXTS).vectors, expected)
        assert caplog.text.count("is damaged; it is made again") == 1
    path.unlink()
    assert np.array_equal(made(folder, "float32").encode(TEXTS).vectors, expected)
    shutil.rmtree(cache)
    assert np.array_equal(made(folder, "float32").encode(TEXTS).vectors, expected)


def test_what_is_damaged_stays_until_there_is_another(
    folder: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Without its model nothing can take its place, and each attempt tells the true reason."""
    model = Path(shutil.copytree(folder, tmp_path / "model"))
    Engine.build(TEXTS[:8], tmp_path / "i", model=str(model), whitening=None).close()
    (graph,) = cache.glob("*/graph.bin")
    whole = graph.read_bytes()
    graph.write_bytes(whole[:-1])
    shutil.rmtree(model)
    for _ in range(2):
        caplog.clear()
        with Engine.open(tmp_path / "i") as engine, pytest.raises(ModelError, match="model"):
            engine.search("the dog")
        assert f"{graph.parent} is damaged" in caplog.text
    graph.write_bytes(whole)
    with Engine.open(tmp_path / "i") as engine:
        assert len(engine.search("the dog", k=3)) == 3


def test_other_weights_are_another_model(folder: Path, cache: Path, tmp_path: Path) -> None:
    other = tiny_encoder(tmp_path / "other", seed=1)
    one, two = made(folder), made(other)
    assert one.fingerprint != two.fingerprint and len(list(cache.iterdir())) == 2
    assert cosines(one.encode(["the dog"]).vectors, two.encode(["the dog"]).vectors).max() < 0.99


def test_two_processes_may_compile_at_once(folder: Path, cache: Path) -> None:
    parts = {"weights": "0", "tokenizer": "0", "modules": "0"}

    def write(place: Path) -> dict[str, Any]:
        if write.first:  # type: ignore[attr-defined]
            write.first = False  # type: ignore[attr-defined]
            store.keep("encoder", parts, write)  # the other one is quicker
        for name in store.FILES:
            (place / name).write_text(name)
        return {"dim": 1}

    write.first = True  # type: ignore[attr-defined]
    kept = store.keep("encoder", parts, write)
    found = store.find("encoder", parts)
    assert isinstance(kept, store.Compiled) and isinstance(found, store.Compiled) and kept == found
    assert [path.name for path in cache.iterdir()] == [found.graph.parent.name]
    assert store.find("cross-encoder", parts) is None


# ---- where it cannot be


def test_a_model_that_cannot_be_compiled_runs_in_torch(
    folder: Path, cache: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    model = Path(shutil.copytree(folder, tmp_path / "model"))
    (settings,) = model.glob("*Pooling/config.json")
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"include_prompt": False}))
    for _ in range(2):
        caplog.clear()
        assert isinstance(load_encoder(str(model)), SentenceTransformerEncoder)
        assert "runs in torch, which is slower: its pooling leaves the prompt out" in caplog.text
    (kept,) = cache.glob("*/compiled.json")
    assert "refused" in json.loads(kept.read_text())["settings"] and len(list(kept.parent.iterdir())) == 1


@pytest.mark.parametrize("error", [ImportError("no module named onnxscript"), OSError(28, "no space left")])
def test_what_the_machine_cannot_do_now_is_tried_again(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    import torch

    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("step 1 of 3") from error

    caplog.set_level(logging.INFO)
    with monkeypatch.context() as patch:
        patch.setattr(torch.onnx, "export", fail)
        assert isinstance(load_encoder(str(folder)), SentenceTransformerEncoder)
    assert f"cannot be compiled here now ({error})" in caplog.text and not list(cache.iterdir())
    assert isinstance(load_encoder(str(folder)), CompiledEncoder)


@pytest.mark.parametrize("cut", [True, False])
def test_a_disk_that_is_full_is_no_fault_of_the_model(
    folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, cut: bool
) -> None:
    """OpenVINO leaves out what does not fit without a word."""
    import openvino

    real = openvino.save_model

    def full(model: Any, path: Path, **how: Any) -> None:
        if not cut:
            raise RuntimeError("Can't open bin file.")
        real(model, path, **how)
        weights = Path(path).with_suffix(".bin")
        weights.write_bytes(weights.read_bytes()[:1000])

    caplog.set_level(logging.INFO)
    with monkeypatch.context() as patch:
        patch.setattr(openvino, "save_model", full)
        assert isinstance(load_encoder(str(folder)), SentenceTransformerEncoder)
    assert "cannot be compiled here now" in caplog.text and not list(cache.iterdir())
    assert isinstance(load_encoder(str(folder)), CompiledEncoder)


def test_a_graph_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    (tmp_path / "graph.xml").write_text("<net/>")
    with pytest.raises(ModelError, match=r"graph.xml cannot be read by OpenVINO \d.*upgrade it"):
        Graph(tmp_path / "graph.xml", "float32")


def test_a_cache_that_cannot_be_written_costs_only_speed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("RETRIEVAL_CACHE", str(tmp_path / "file"))
    assert isinstance(load_encoder(str(folder)), SentenceTransformerEncoder)


def test_a_graph_that_gives_other_vectors_is_not_used(
    folder: Path, cross: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    real = Graph.several

    def wrong(self: Graph, batches: Any) -> list[NDArray[np.float32]]:
        found = real(self, batches)
        for one in found:
            one[:, 0] += 3 * np.abs(one).max()
        return found

    monkeypatch.setattr(Graph, "several", wrong)
    assert isinstance(load_encoder(str(folder)), SentenceTransformerEncoder)
    assert "its graph gives other vectors" in caplog.text
    assert isinstance(scorer_of(str(cross)), CrossEncoderScorer)
    assert "its graph gives other scores" in caplog.text


def test_without_openvino_models_run_in_torch(folder: Path, cross: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(load_encoder(str(folder)), CompiledEncoder)
    assert isinstance(scorer_of(str(cross)), CompiledScorer)
    monkeypatch.setattr(making, "is_installed", lambda: False)
    assert isinstance(load_encoder(str(folder)), SentenceTransformerEncoder)
    assert isinstance(scorer_of(str(cross)), CrossEncoderScorer)


def test_the_command_line_says_that_it_compiles(folder: Path, tmp_path: Path, cache: Path) -> None:
    said = run("build", "-", "-o", tmp_path / "i", "-m", folder, stdin="the dog\nthe cat").stderr
    assert re.search(rf"compiling model {folder}, once: ten to thirty seconds\nmodel {folder} compiled, in \d", said)
    assert "compil" not in run("query", tmp_path / "i", "the dog").stderr
