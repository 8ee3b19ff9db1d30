"""A whitened encoder leaves the house: loaded by others, it gives the same vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pytest

from indexes.errors import IndexExistsError, InputError
from retrieval import Engine, Whitening
from retrieval.encoder import load_encoder
from retrieval.export_model import export_model

TEXTS = [f"{colour} {animal} in the {place}" for colour in ("red", "blue", "old") for animal in ("fox", "whale", "horse") for place in ("sea", "house", "road")]  # fmt: skip


@pytest.mark.parametrize(("dim", "beta", "gamma"), [(None, 0.0, 0.0), (5, 1.0, 1.0), (3, 0.5, 0.25)])
def test_faiss_transforms_alike(dim: int | None, beta: float, gamma: float) -> None:
    rows = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32) + 1
    whitening = Whitening(dim, beta, gamma).fit(rows)
    transform = whitening.to_faiss()
    np.testing.assert_allclose(transform.apply(rows), rows @ whitening.kernel + whitening.bias, atol=1e-5)
    unit = transform.apply(rows)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(unit, whitening.transform(rows), atol=1e-5)


def test_faiss_searches_through_it(tmp_path: Path) -> None:
    rows = np.random.default_rng(0).standard_normal((100, 8)).astype(np.float32) + 1
    whitening = Whitening(4, 1.0, 0.5).fit(rows)
    index = faiss.IndexFlatL2(4)
    index = faiss.IndexPreTransform(faiss.NormalizationTransform(4, 2.0), index)
    index.prepend_transform(whitening.to_faiss())
    index.add(rows)
    faiss.write_index(index, str(tmp_path / "i"))
    distances, found = faiss.read_index(str(tmp_path / "i")).search(rows[:5], 3)
    unit = whitening.transform(rows)
    expected = np.argsort(-(unit[:5] @ unit.T), axis=1)[:, :3]
    np.testing.assert_array_equal(found, expected)


def test_what_is_not_fitted_is_not_exported() -> None:
    with pytest.raises(InputError, match="was not fitted"):
        Whitening(3).to_faiss()


def test_a_hash_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="hash:8 is no sentence-transformers model"):
        export_model("hash:8", Whitening(3).fit(np.eye(8)), tmp_path / "m")


@pytest.mark.model
def test_plain_sentence_transformers_gives_the_same_vectors(tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = load_encoder(prompts={"query": "query: ", "document": ""}, precision="float32")
    whitening = Whitening(10, beta=1.0, gamma=0.5, epsilon=0.01, local=0.5).fit(encoder.encode(TEXTS).vectors)
    (tmp_path / "m.tmp").mkdir()
    (tmp_path / "m.tmp" / "thesis.txt").touch()
    export_model(encoder, whitening, tmp_path / "m")
    plain = SentenceTransformer(str(tmp_path / "m"), local_files_only=True)
    for role, encode in (("document", plain.encode_document), ("query", plain.encode_query)):
        ours = whitening.transform(encoder.encode(TEXTS, role).vectors)  # type: ignore[arg-type]
        np.testing.assert_allclose(encode(TEXTS, show_progress_bar=False), ours, atol=1e-5)
    assert encoder.encode(["a"]).vectors.shape == (1, 384), "the encoder itself stays as it was"
    again = load_encoder(str(tmp_path / "m"))
    assert (again.dim, dict(again.prompts)) == (10, dict(encoder.prompts))
    with pytest.raises(IndexExistsError, match="holds something already"):
        export_model(encoder, whitening, tmp_path / "m")
    with pytest.raises(InputError, match="fitted on 8 columns"):
        export_model(encoder, Whitening().fit(np.eye(8)), tmp_path / "other")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m", "m.tmp"]
    assert (tmp_path / "m.tmp" / "thesis.txt").exists(), "what is not ours is never touched"


@pytest.mark.model
def test_an_exported_model_makes_the_index_that_its_whitening_makes(tmp_path: Path) -> None:
    whitening = Whitening(6, beta=0.5, gamma=0.25, epsilon=0.01)
    with Engine.build(TEXTS, tmp_path / "i", whitening=whitening, raw="float32", precision="float32") as engine:
        assert engine.whitening is not None
        export_model(engine.encoder, engine.whitening, tmp_path / "m")
        how: Any = {"model": tmp_path / "m", "whitening": None, "raw": "float32", "precision": "float32"}
        with Engine.build(TEXTS, tmp_path / "j", **how) as other:
            one, two = (e.search("a blue whale", k=5) for e in (engine, other))
    assert [hit.text for hit in one] == [hit.text for hit in two]
    assert [hit.score for hit in one] == pytest.approx([hit.score for hit in two], abs=1e-5)
