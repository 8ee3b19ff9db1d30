"""Training from pairs to a folder: what it learns, that it can be interrupted, and what it refuses."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import run
from tiny_models import WORDS, tiny_encoder

from eval import STSSet, evaluate_sts
from indexes.errors import CorpusError, IndexLockedError, InputError, ModelError, TrainingError
from indexes.lock import write_lock

torch = pytest.importorskip("torch")
pytest.importorskip("datasets")

from retrieval.encoder import load_encoder  # noqa: E402
from retrieval.models import is_cross_encoder  # noqa: E402
from retrieval.scorer import CrossEncoderScorer  # noqa: E402
from retrieval.train import kinds, loop, train_cross_encoder, train_encoder, training  # noqa: E402
from retrieval.train.batches import MixedLabels  # noqa: E402
from retrieval.train.examples import examples_of, scaled  # noqa: E402
from retrieval.train.loop import best_epoch  # noqa: E402
from retrieval.train.losses import CROSS_ENCODER_LOSSES, ENCODER_LOSSES, CoSENTLoss  # noqa: E402
from retrieval.train.run_folder import Epoch, RunFolder  # noqa: E402


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_encoder(tmp_path_factory.mktemp("tiny")))


def pairs_of(n: int, seed: int, name: str = "made") -> STSSet:
    """Sentences of five words from one third of the vocabulary; 2 if both are of the same third, 0 if of the ends."""
    rng = np.random.default_rng(seed)
    thirds = [WORDS[start::3] for start in range(3)]
    topics = rng.integers(0, 3, (n, 2))
    one, two = ([" ".join(rng.choice(thirds[topic], 5)) for topic in side] for side in topics.T)
    scores = 2.0 - np.abs(topics[:, 0] - topics[:, 1])
    return STSSet(name=name, sentences1=tuple(one), sentences2=tuple(two), scores=scores)


TRAIN, DEV = pairs_of(160, 0), pairs_of(60, 1, "made-dev")
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 16, "lr": 2e-3, "precision": "float32"}


def weights(folder: Path) -> str:
    return hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()


def written(pairs: STSSet, path: Path) -> Path:
    rows = zip(pairs.sentences1, pairs.sentences2, pairs.scores, strict=True)
    path.write_text("sentence1\tsentence2\tscore\n" + "".join(f"{a}\t{b}\t{c:g}\n" for a, b, c in rows))
    return path


@contextmanager
def stopped_after(steps: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A checkpoint at each step, and Ctrl-C after some of them."""
    counter = count(1)

    @contextmanager
    def bar(*arguments: object) -> Iterator[Any]:
        def advance(done: int) -> None:
            if done and next(counter) > steps:
                raise KeyboardInterrupt

        yield advance

    with monkeypatch.context() as patch:
        patch.setattr(training, "progress_bar", bar)
        patch.setattr(loop, "SAVE_EVERY", 0.0)
        yield


def test_an_encoder_learns_and_plain_sentence_transformers_loads_it(tiny: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    result = train_encoder(TRAIN, tmp_path / "model", model=tiny, dev=DEV, **QUICK | {"epochs": 3})
    before, *after = [epoch.dev_spearman or 0 for epoch in result.epochs]
    assert max(after) > before + 0.1
    assert after[result.best_epoch - 1] == max(after)
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    ours = evaluate_sts(str(tmp_path / "model"), DEV)["made-dev"].spearman
    theirs = evaluate_sts(plain, DEV)["made-dev"].spearman
    assert ours == pytest.approx(theirs, abs=1e-4) and ours == pytest.approx(max(after), abs=1e-6)


def test_the_card_and_the_record_say_what_it_was_made_from(tiny: str, tmp_path: Path) -> None:
    result = train_encoder(TRAIN, tmp_path / "model", model=tiny, dev=DEV, seed=7, **QUICK)
    record = json.loads((tmp_path / "model" / "training.json").read_text())
    assert record == json.loads(json.dumps(result.to_dict()))
    assert record["settings"]["train"][0]["pairs"] == 160 and record["settings"]["seed"] == 7
    card = (tmp_path / "model" / "README.md").read_text()
    for said in (
        "cosent",
        "| made | 160 | 0 to 2, 3 different |",
        "| made-dev | 60 |",
        "| seed | 7 |",
        "0 of its pairs",
    ):
        assert said in card
    assert f"{100 * (result.epochs[result.best_epoch].dev_spearman or 0):.2f}" in card
    assert "is better" not in card
    assert not (tmp_path / "model.training").exists()


def test_the_same_seed_gives_the_same_model(tiny: str, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train_encoder(TRAIN, tmp_path / name, model=tiny, seed=seed, **QUICK)
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")


@pytest.mark.parametrize(
    ("loss", "steps"), [*(("cosent", steps) for steps in (1, 9, 10, 11, 19)), ("softmax", 9), ("softmax", 11)]
)
def test_an_interrupted_training_goes_on_to_the_same_bytes(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: str, steps: int
) -> None:
    """At the first step, around the end of an epoch (10 steps), before the last one; the softmax has weights of its own."""
    whole = train_encoder(TRAIN, tmp_path / "whole", model=tiny, dev=DEV, loss=loss, **QUICK)
    with stopped_after(steps, monkeypatch), pytest.raises(KeyboardInterrupt):
        train_encoder(TRAIN, tmp_path / "cut", model=tiny, dev=DEV, loss=loss, **QUICK)
    assert not (tmp_path / "cut").exists()
    rest = train_encoder(TRAIN, tmp_path / "cut", model=tiny, dev=DEV, loss=loss, **QUICK)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert [replace(epoch, seconds=0.0) for epoch in rest.epochs] == [replace(e, seconds=0.0) for e in whole.epochs]


def test_what_the_first_epoch_has_done_is_not_done_again(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with stopped_after(7, monkeypatch), pytest.raises(KeyboardInterrupt):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, dev=DEV, **QUICK)
    with stopped_after(1000, monkeypatch), caplog.at_level(logging.INFO, "retrieval"):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, dev=DEV, **QUICK)
    assert "going on after step 7" in caplog.text


@pytest.mark.parametrize("call", [2, 3])
def test_a_kill_while_an_epoch_is_scored_or_kept_loses_no_epoch(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    """The dev pairs are scored before training (call 1) and after each epoch."""
    whole = train_encoder(TRAIN, tmp_path / "whole", model=tiny, dev=DEV, **QUICK)
    original, calls = loop._Watch.dev_spearman, count(1)

    def cut(watch: Any) -> float:
        if next(calls) == call:
            raise KeyboardInterrupt
        return original(watch)

    with stopped_after(1000, monkeypatch), monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop._Watch, "dev_spearman", cut)
        train_encoder(TRAIN, tmp_path / "cut", model=tiny, dev=DEV, **QUICK)
    rest = train_encoder(TRAIN, tmp_path / "cut", model=tiny, dev=DEV, **QUICK)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")
    assert [epoch.number for epoch in rest.epochs] == [epoch.number for epoch in whole.epochs]


def test_settings_that_were_refused_do_not_stand_in_the_way(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="max_length=64"):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, max_length=64, **QUICK)
    train_encoder(TRAIN, tmp_path / "model", model=tiny, max_length=16, **QUICK | {"epochs": 1})


def test_a_last_step_that_spoils_the_weights_ends_training(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = loop._Watch.on_step_end

    def spoiling(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 10:
            next(self.kind.model.parameters()).data[7, 3] = float("nan")
        original(self, args, state, control, **kwargs)

    monkeypatch.setattr(loop._Watch, "on_step_end", spoiling)
    with pytest.raises(TrainingError, match="weights are no finite numbers any more; try a lower learning rate"):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, **QUICK)
    assert not (tmp_path / "model").exists()


def test_a_checkpoint_cut_off_in_writing_is_not_used(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_encoder(TRAIN, tmp_path / "whole", model=tiny, **QUICK)
    with stopped_after(5, monkeypatch), pytest.raises(KeyboardInterrupt):
        train_encoder(TRAIN, tmp_path / "cut", model=tiny, **QUICK)
    folders = sorted((tmp_path / "cut.training").glob("checkpoint-*"))
    (folders[-1] / "progress.json").unlink()
    (folders[-1] / "model.safetensors").write_bytes(b"")
    train_encoder(TRAIN, tmp_path / "cut", model=tiny, **QUICK)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_an_interrupted_training_is_not_gone_on_with_under_other_settings(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stopped_after(3, monkeypatch), pytest.raises(KeyboardInterrupt):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, **QUICK)
    with pytest.raises(InputError, match=r"has lr 0.002, now it is 0.001; run it as it was to go on, or begin anew"):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, **QUICK | {"lr": 1e-3})
    said = r"has train made \(160 pairs, SHA-256 \w{16}...\), now it is made-dev \(60 pairs.* begin anew with --fresh"
    with pytest.raises(InputError, match=said):
        train_encoder(DEV, tmp_path / "model", model=tiny, **QUICK)
    train_encoder(DEV, tmp_path / "model", model=tiny, fresh=True, **QUICK)
    train_encoder(DEV, tmp_path / "other", model=tiny, **QUICK)
    assert weights(tmp_path / "model") == weights(tmp_path / "other")


@pytest.mark.parametrize("loss", ["cosine", "softmax", "mnrl", "cosent+mnrl"])
def test_every_loss_of_an_encoder_trains(tiny: str, tmp_path: Path, loss: str) -> None:
    result = train_encoder(TRAIN, tmp_path / "model", model=tiny, loss=loss, **QUICK | {"epochs": 4})
    losses = [epoch.loss or 0 for epoch in result.epochs]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(
    ("loss", "settings"), [("cosent", {}), ("bce", {}), ("mnrl", {"epochs": 12, "batch_size": 8, "lr": 1e-2})]
)
def test_every_loss_of_a_cross_encoder_trains(tiny: str, tmp_path: Path, loss: str, settings: dict[str, Any]) -> None:
    from sentence_transformers import CrossEncoder

    quick = QUICK | {"epochs": 4} | settings
    result = train_cross_encoder(TRAIN, tmp_path / "model", model=tiny, dev=DEV, loss=loss, **quick)
    losses = [epoch.loss or 0 for epoch in result.epochs]
    assert losses[-1] < losses[0]
    scorer = CrossEncoderScorer(str(tmp_path / "model"))
    plain = CrossEncoder(str(tmp_path / "model"), device="cpu")
    logits = plain.predict([("a man plays", text) for text in DEV.sentences2])
    assert np.allclose(scorer("a man plays", DEV.sentences2), logits, atol=1e-5)
    assert isinstance(plain.activation_fn, torch.nn.Identity), "raw logits, no sigmoid of them"
    score = evaluate_sts(scorer, DEV, resamples=0)["made-dev"].spearman  # in float32, as it was trained
    assert score == pytest.approx(result.epochs[result.best_epoch - 1].dev_spearman, abs=1e-6)


def test_a_cross_encoder_goes_on_from_a_cross_encoder(tiny: str, tmp_path: Path) -> None:
    first = train_cross_encoder(TRAIN, tmp_path / "one", model=tiny, dev=DEV, **QUICK)
    second = train_cross_encoder(TRAIN, tmp_path / "two", model=str(tmp_path / "one"), dev=DEV, **QUICK)
    assert second.epochs[0].number == 0
    assert second.epochs[0].dev_spearman == pytest.approx(first.epochs[first.best_epoch - 1].dev_spearman, abs=1e-6)
    assert first.epochs[0].number == 1, "a model without an output has no score before"


@pytest.mark.parametrize("method", ["ladder", "linear"])
def test_a_side_network_learns_and_its_folder_is_plain(tiny: str, tmp_path: Path, method: Any) -> None:
    from sentence_transformers import SentenceTransformer

    quick: dict[str, Any] = {"model": tiny, "dev": DEV, "method": method, "batch_size": 16, "lr": 0.01}
    result = train_encoder(TRAIN, tmp_path / "model", **quick)
    before, *after = [epoch.dev_spearman or 0 for epoch in result.epochs]
    assert max(after) > before + 0.1 and len(after) == 10
    losses = [epoch.loss for epoch in result.epochs]
    assert losses[0] is None and (losses[-1] or 9) < (losses[1] or 0)
    assert after[result.best_epoch - 1] == max(after)
    plain = SentenceTransformer(str(tmp_path / "model"), device="cpu")
    for model in (plain, str(tmp_path / "model")):
        assert evaluate_sts(model, DEV)["made-dev"].spearman == pytest.approx(max(after), abs=5e-3)
    assert result.scale is not None and result.scale > 0
    assert f"| method | {method} |" in (tmp_path / "model" / "README.md").read_text()
    again = train_encoder(TRAIN, tmp_path / "again", **quick)
    assert [epoch.dev_spearman for epoch in again.epochs] == [epoch.dev_spearman for epoch in result.epochs]


def test_a_side_network_takes_one_set_and_cosent(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="method='ladder' with 2 sets of pairs; expected one"):
        train_encoder([TRAIN, DEV], tmp_path / "model", model=tiny, method="ladder")
    with pytest.raises(InputError, match="method='linear' with loss='cosine'; side networks are trained with 'cosent'"):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, method="linear", loss="cosine")
    with pytest.raises(InputError, match="method='lader'; expected one of full, ladder, linear"):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, method="lader")  # type: ignore[arg-type]


def counted_features(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many batches of features each training computes from now on."""
    from retrieval.train import features

    computed: list[int] = []
    original = features._computed

    def counting(model: Any, texts: Any, prompt: str, batches: Any) -> Any:
        computed.append(len(batches))
        return original(model, texts, prompt, batches)

    monkeypatch.setattr(features, "_computed", counting)
    return computed


def test_features_that_an_interrupted_training_computed_are_not_computed_again(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from retrieval.train import side

    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(side, "fit_side", stop)
        train_encoder(TRAIN, tmp_path / "model", model=tiny, method="linear")
    computed = counted_features(monkeypatch)
    train_encoder(TRAIN, tmp_path / "model", model=tiny, method="linear")
    assert computed == [0]


def test_features_are_used_with_another_learning_rate_and_refused_with_other_texts(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    side: dict[str, Any] = {"model": tiny, "method": "linear", "batch_size": 160}
    with pytest.raises(TrainingError, match="try a lower learning rate"):
        train_encoder(TRAIN, tmp_path / "model", lr=1e19, **side)
    for wrong, said in (
        ({"pairs": DEV}, "has train made"),
        ({"max_length": 9}, "has max_length none, now it is 9; run it as it was"),
        ({"dev": DEV}, r"has dev none, now it is made-dev \(60"),
    ):
        with pytest.raises(InputError, match=said):
            train_encoder(**{"pairs": TRAIN, "output": tmp_path / "model"} | side | wrong)
    computed = counted_features(monkeypatch)
    other = side | {"method": "ladder", "batch_size": 16, "epochs": 2, "seed": 3, "scale": 7.0}
    result = train_encoder(TRAIN, tmp_path / "model", lr=1e-3, **other)
    assert computed == [0]
    assert result.settings["lr"] == 1e-3 and [epoch.number for epoch in result.epochs] == [0, 1, 2]


def test_features_without_a_note_of_them_are_no_work(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Interrupted in the first batches of features, or before the first checkpoint."""
    from retrieval.train import features

    def stop(*arguments: object, **options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(features, "_computed", stop)
    monkeypatch.setattr(loop._Watch, "on_step_end", stop)
    for method in ("linear", "full"):
        caplog.clear()
        with pytest.raises(KeyboardInterrupt):
            train_encoder(TRAIN, tmp_path / "model", model=tiny, method=method)  # type: ignore[arg-type]
        assert "nothing was stored yet: the same command begins anew" in caplog.text
        assert list(tmp_path.iterdir()) == []


def test_an_interruption_after_a_checkpoint_does_not_say_that_nothing_was_stored(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with stopped_after(3, monkeypatch), pytest.raises(KeyboardInterrupt):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, **QUICK)
    assert "nothing was stored" not in caplog.text and (tmp_path / "model.training").is_dir()


def test_a_model_that_cannot_be_trained_leaves_nothing(tiny: str, tmp_path: Path) -> None:
    """A model of the wrong kind, and a side network's model for a side network."""
    train_cross_encoder(TRAIN, tmp_path / "cross", model=tiny, **QUICK)
    train_encoder(TRAIN, tmp_path / "side", model=tiny, method="ladder", epochs=1)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ModelError, match="is a cross-encoder"):
        train_encoder(TRAIN, tmp_path / "model", model=str(tmp_path / "cross"))
    with pytest.raises(ModelError, match=r"model '.*side' is made of .*; expected Transformer, .* begin from such a"):
        train_encoder(TRAIN, tmp_path / "model", model=str(tmp_path / "side"), method="ladder")
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("dev", [None, DEV])
@pytest.mark.parametrize("train_it", [train_encoder, train_cross_encoder])
def test_a_model_that_tells_no_pairs_apart_any_more_is_no_success(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_it: Any, dev: STSSet | None
) -> None:
    """What too high a learning rate ends in; here the weights are made so, for a model this small does not collapse."""
    original = loop._Watch.on_step_end

    def collapsing(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for layer in self.kind.model.modules():
            if isinstance(layer, torch.nn.LayerNorm):
                layer.weight.data.zero_()
                layer.bias.data.fill_(1)
        original(self, args, state, control, **kwargs)

    monkeypatch.setattr(loop._Watch, "on_step_end", collapsing)
    said = "^after epoch 1 the model gives all pairs the same score .*; try a lower learning rate$"
    with pytest.raises(TrainingError, match=said):
        train_it(TRAIN, tmp_path / "model", model=tiny, dev=dev, **QUICK)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("scores", "told"), [((0.5, 0.5), 0), ((0.5, 0.6), 1)])
def test_best_so_far_is_better_than_before_training(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, scores: Any, told: int
) -> None:
    found = iter(scores)
    monkeypatch.setattr(loop._Watch, "dev_spearman", lambda self: next(found))
    with caplog.at_level(logging.INFO, "retrieval"):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, dev=DEV, **QUICK | {"epochs": 1})
    assert caplog.text.count("best so far") == told


def test_sets_that_are_the_same_are_told_and_told_apart(
    tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The two splits of a folder have its name; a file may be given twice."""
    (tmp_path / "data").mkdir()
    train, _ = written(TRAIN, tmp_path / "data" / "train.tsv"), written(DEV, tmp_path / "data" / "dev.tsv")
    quick = QUICK | {"epochs": 1}
    result = train_encoder(tmp_path / "data", tmp_path / "one", model=tiny, dev=tmp_path / "data", **quick)
    assert (result.settings["train"][0]["name"], result.settings["dev"]["name"]) == ("data", "data/dev")
    assert "the same pairs" not in caplog.text
    train_encoder([train, train], tmp_path / "two", model=tiny, **quick)
    assert "data/train-2 has the same pairs and labels as data/train: they count again" in caplog.text


def test_encoder_and_cross_encoder_are_not_taken_for_each_other(tiny: str, tmp_path: Path) -> None:
    train_cross_encoder(TRAIN, tmp_path / "cross", model=tiny, **QUICK)
    assert is_cross_encoder(tmp_path / "cross") and not is_cross_encoder(Path(tiny))
    with pytest.raises(ModelError, match="is a cross-encoder: it scores pairs and has no vectors"):
        load_encoder(str(tmp_path / "cross"))
    with pytest.raises(ModelError, match="is no cross-encoder: nothing in it was trained to score a pair"):
        CrossEncoderScorer(tiny)
    with pytest.raises(InputError, match="is a cross-encoder: it has no vectors to whiten"):
        from retrieval import Whitening

        fitted = Whitening(dim=2).fit(np.random.default_rng(0).normal(size=(20, 4)))
        evaluate_sts(str(tmp_path / "cross"), DEV, whitening=fitted)


def test_each_epoch_has_every_pair_once_in_batches_of_one_set_and_different_labels(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a real training, as the loss sees it; one label of the larger set is rare."""
    rare = replace(TRAIN, scores=np.r_[np.ones(12), np.zeros(148)])
    original, seen = CoSENTLoss.forward, list[tuple[list[tuple[int, ...]], list[int]]]()

    def spy(self: Any, features: Any, labels: Any) -> Any:
        columns = [column["input_ids"] * column["attention_mask"] for column in features]
        rows = zip(*(column.tolist() for column in columns), strict=True)
        seen.append(([(*one, *two) for one, two in rows], labels.tolist()))
        return original(self, features, labels)

    monkeypatch.setattr(CoSENTLoss, "forward", spy)
    train_encoder([rare, replace(DEV, name="b")], tmp_path / "model", model=tiny, **QUICK)
    first, second = seen[:14], seen[14:]
    assert len(second) == 14 and [rows for rows, _ in first] != [rows for rows, _ in second]
    for epoch in (first, second):
        assert sorted(row for rows, _ in epoch for row in rows) == sorted({row for rows, _ in first for row in rows})
        assert sum(len(rows) for rows, _ in epoch) == 220
        assert all(len(set(labels)) > 1 for _, labels in epoch)
    of_b = {row for rows, labels in first if 2 in labels for row in rows}  # three labels: only there
    assert len(of_b) == 60 and all(of_b.isdisjoint(rows) or of_b.issuperset(rows) for rows, _ in second)


def test_labels_are_put_on_one_scale() -> None:
    assert scaled(np.array([-1.0, 0.0, 3.0])).tolist() == [0, 0.25, 1]
    assert list(examples_of([TRAIN], "cosine", 16)["made"]["label"]) == (TRAIN.scores / 2).tolist()
    classes = examples_of([TRAIN], "softmax", 16)["made"]["label"]
    assert list(classes) == TRAIN.scores.astype(int).tolist()
    alike = examples_of([TRAIN], "mnrl", 16)["made"]
    assert len(alike) == int((TRAIN.scores == 2).sum()) and "label" not in alike.column_names


def test_inference_labels_are_read_as_words(tmp_path: Path) -> None:
    from eval import load_sts

    path = tmp_path / "nli.tsv"
    path.write_text("sentence1\tsentence2\tlabel\na\tb\tentailment\nc\td\tNeutral\ne\tf\tcontradiction\n")
    assert load_sts(path)[0].scores.tolist() == [2, 1, 0]
    path.write_text("sentence1\tsentence2\tlabel\na\tb\tentailmant\n")
    with pytest.raises(CorpusError, match=r"nli.tsv:2: score 'entailmant'; expected a number or one of contradiction"):
        train_encoder(path, tmp_path / "model")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"loss": "cosnet"}, "loss='cosnet' for encoders; expected one of cosent, cosine, softmax, mnrl"),
        ({"epochs": 0}, "epochs=0; expected a whole number from 1 on"),
        ({"batch_size": 1}, "batch_size=1; expected a whole number from 2 on"),
        ({"lr": float("nan")}, "lr=nan; expected a number above 0"),
        ({"lr": 0.0}, "lr=0.0; expected a number above 0"),
        ({"warmup": 1.0}, "warmup=1.0; expected a share of the steps"),
        ({"scale": -1.0}, "scale=-1.0; expected a number above 0"),
        ({"seed": -1}, "seed=-1; expected a whole number from 0 on"),
        ({"precision": "int8"}, "precision='int8'; expected auto, float32 or bfloat16"),
        ({"max_length": 2}, "max_length=2; expected from 3 to 32 tokens"),
        ({"max_length": 64}, "max_length=64; expected from 3 to 32 tokens"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_written(
    tiny: str, tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, **QUICK | wrong)
    assert list(tmp_path.iterdir()) == []


def test_max_length_is_kept_by_the_model(tiny: str, tmp_path: Path) -> None:
    train_encoder(TRAIN, tmp_path / "model", model=tiny, max_length=5, **QUICK)
    assert load_encoder(str(tmp_path / "model")).max_tokens == 5


@pytest.mark.parametrize("loss", ["cosent", "cosine", "softmax", "cosent+mnrl"])
def test_labels_that_are_all_equal_teach_nothing(tiny: str, tmp_path: Path, loss: str) -> None:
    same = replace(TRAIN, scores=np.ones(160))
    with pytest.raises(InputError, match=r"all 160 labels of 'made' are 1; .* use the loss 'mnrl'"):
        train_encoder(same, tmp_path / "model", model=tiny, loss=loss, **QUICK)
    train_encoder(same, tmp_path / "model", model=tiny, loss="mnrl", **QUICK | {"epochs": 1})


def test_a_loss_that_is_no_number_ends_training(tiny: str, tmp_path: Path) -> None:
    said = "^the loss became nan at step 1; try a lower learning rate or precision float32$"
    with pytest.raises(TrainingError, match=said):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, dev=DEV, scale=1e39, **QUICK)
    assert not (tmp_path / "model").exists()


def test_dev_scores_that_are_no_numbers_end_training(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kinds.EncoderKind, "scores", lambda self, pairs: np.full(len(pairs), np.nan))
    said = "^the model's scores of the dev pairs are no finite numbers; try a lower learning rate$"
    with pytest.raises(TrainingError, match=said):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, dev=DEV, **QUICK)
    assert not (tmp_path / "model").exists()


def test_an_epochs_loss_is_the_mean_of_its_own_steps(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, seen = loop._Watch.saw_loss, list[float]()

    def spy(self: Any, value: float, step: int) -> None:
        seen.append(value)
        original(self, value, step)

    monkeypatch.setattr(loop._Watch, "saw_loss", spy)
    result = train_encoder(TRAIN, tmp_path / "model", model=tiny, **QUICK)
    assert [epoch.loss for epoch in result.epochs] == pytest.approx([np.mean(seen[:10]), np.mean(seen[10:])])


@pytest.mark.parametrize("train_it", [train_encoder, train_cross_encoder])
def test_the_precision_is_measured_where_none_is_asked_for(tiny: str, tmp_path: Path, train_it: Any) -> None:
    result = train_it(TRAIN, tmp_path / "model", model=tiny, epochs=1, batch_size=16)
    assert result.precision in ("float32", "bfloat16") and (tmp_path / "model").is_dir()


def test_the_scale_asked_for_is_the_loss_s() -> None:
    class Model(torch.nn.Module):  # type: ignore[misc]
        num_labels = 1

    for builders, names, own in (
        (ENCODER_LOSSES, ("cosent", "mnrl", "cosent+mnrl"), 20),
        (CROSS_ENCODER_LOSSES, ("cosent",), 1),
    ):
        for name in names:
            assert [builders[name](Model(), 2, scale).scale for scale in (7.0, None)] == [7, own]


def test_the_scale_asked_for_is_the_side_network_s(tiny: str, tmp_path: Path) -> None:
    result = train_encoder(TRAIN, tmp_path / "model", model=tiny, method="linear", epochs=1, scale=7.0)
    assert result.scale == 7


@pytest.mark.parametrize("train_it", [train_encoder, train_cross_encoder])
def test_batches_are_worked_on_in_groups(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, train_it: Any
) -> None:
    from transformers import BertModel

    original, sizes = BertModel.forward, list[int]()

    def spy(self: Any, input_ids: Any, *arguments: Any, **options: Any) -> Any:
        if torch.is_grad_enabled():
            sizes.append(len(input_ids))
        return original(self, input_ids, *arguments, **options)

    monkeypatch.setattr(BertModel, "forward", spy)
    train_it(TRAIN, tmp_path / "model", model=tiny, **QUICK | {"epochs": 1, "batch_size": 40})
    assert set(sizes) == {16, 8}


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"scale": 1e39}, "the loss became (nan|inf) at step 1; try a lower learning rate or a lower scale"),
        ({"lr": 1e19, "batch_size": 160}, "the weights are no finite numbers any more, or too large; try a lower"),
    ],
)
def test_a_side_network_of_no_numbers_is_not_written(
    tiny: str, tmp_path: Path, wrong: dict[str, Any], said: str
) -> None:
    with pytest.raises(TrainingError, match=said):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, method="linear", **wrong)
    assert not (tmp_path / "model").exists()


def test_dev_pairs_that_are_trained_on_are_counted(tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    swapped = STSSet(
        name="leaky", sentences1=DEV.sentences1 + TRAIN.sentences2[:3], sentences2=DEV.sentences2 + TRAIN.sentences1[:3],
        scores=np.concatenate([DEV.scores, TRAIN.scores[:3]]),
    )  # fmt: skip
    assert len(swapped.without(TRAIN)) == 60 and len(DEV.without(TRAIN)) == 60
    with caplog.at_level(logging.WARNING, "retrieval"):
        result = train_encoder(TRAIN, tmp_path / "model", model=tiny, dev=swapped, **QUICK | {"epochs": 1})
    assert result.leaked == 3
    assert "3 of 63 dev pairs are also trained on" in caplog.text


def test_a_training_that_made_it_worse_says_so(tiny: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    contrary = replace(TRAIN, scores=2 - TRAIN.scores)
    with caplog.at_level(logging.WARNING, "retrieval"):
        train_encoder(contrary, tmp_path / "model", model=tiny, dev=DEV, **QUICK)
    assert "no epoch is as good on the dev pairs as the model was before" in caplog.text
    assert "On the dev pairs the model that it was trained from is better" in (tmp_path / "model/README.md").read_text()


def test_what_cannot_be_dev_pairs(tiny: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="all 60 dev labels are the same"):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, dev=replace(DEV, scores=np.ones(60)), **QUICK)
    with pytest.raises(InputError, match="there is 1 dev pair; expected pairs with different labels"):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, dev=DEV.take([0]), **QUICK)
    with pytest.raises(InputError, match="there are no pairs"):
        train_encoder([], tmp_path / "model", model=tiny, **QUICK)


def test_an_output_that_exists_is_left_alone(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(InputError, match="model' exists; remove it or name another folder"):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, **QUICK)
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]
    with pytest.raises(InputError, match="the folder of .* is not there; make it first"):
        train_encoder(TRAIN, tmp_path / "none" / "model", model=tiny, **QUICK)


def test_two_trainings_of_one_model_do_not_meet(tiny: str, tmp_path: Path) -> None:
    (tmp_path / "model.training").mkdir()
    with write_lock(tmp_path / "model.training"), pytest.raises(IndexLockedError, match="process"):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, **QUICK)


def test_the_command_line(tiny: str, tmp_path: Path) -> None:
    train, dev = written(TRAIN, tmp_path / "train.tsv"), written(DEV, tmp_path / "dev.tsv")
    quick = ["--from", tiny, "--epochs", 1, "--batch-size", 16, "--lr", 2e-3, "--precision", "float32"]
    for kind in ("encoder", "cross-encoder"):
        ran = run("train", kind, train, "-o", tmp_path / kind, "--dev", dev, *quick)
        assert ran.code == 0 and ran.out == "", ran.err
        assert "160 pairs, 10 steps of 16, float32" in ran.err
        assert "epoch 1 of 1: loss" in ran.err and "dev Spearman" in ran.err
        assert run("eval", "sts", tmp_path / kind, dev).code == 0
        again = run("train", kind, train, "-o", tmp_path / kind, *quick)
        assert (again.code, len(again.errors)) == (1, 1) and "exists" in again.err
    wrong = run("train", "cross-encoder", train, "-o", tmp_path / "x", "--loss", "cosine", *quick)
    assert wrong.code == 2 and "'cosent', 'bce', 'mnrl'" in wrong.err


def test_labels_that_float32_cannot_tell_apart_keep_their_order() -> None:
    close = replace(TRAIN.take(range(4)), scores=np.array([0, 1e9, 1e9 + 1, 1e9 + 1]))
    assert list(examples_of([close], "cosent", 16)["made"]["label"]) == [0, 1, 2, 2]
    assert list(examples_of([close], "cosent+mnrl", 16)["made"]["label"]) == [-1, 0, 1, 1], "alike from 0 on"


def test_a_text_in_more_alike_pairs_than_there_are_batches_is_refused() -> None:
    """160 pairs in 10 batches, which hold no text twice: ten times on one side or the other is the most."""

    def alike(repeats: int) -> STSSet:
        one, two = ([f"{side} {i}" for i in range(160)] for side in ("first", "second"))
        one[:6] = ["again"] * 6
        two[6:repeats] = ["again"] * (repeats - 6)
        one[159] = two[159]  # a row that has a text on both sides takes one batch
        return STSSet(name="made", sentences1=tuple(one), sentences2=tuple(two), scores=np.ones(160))

    assert len(examples_of([alike(10)], "mnrl", 16)["made"]) == 160
    with pytest.raises(
        InputError, match=r"'again' is in 11 of the 160 alike pairs of 'made'.* 10 of 16 would leave pairs"
    ):
        examples_of([alike(11)], "mnrl", 16)
    assert len(examples_of([alike(11)], "mnrl", 14)["made"]) == 160


def test_sentences_of_ones_own_are_looked_at_too() -> None:
    for wrong in ("", " \n", None):
        with pytest.raises(InputError, match=r"pair 2 of set 'made' has the sentence .*; expected some words"):
            replace(TRAIN, sentences2=(*TRAIN.sentences2[:2], wrong, *TRAIN.sentences2[3:]))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("sentence1\tsentence2\tscore\na\t\t1\n", ":2: sentence ''; expected some words"),
        ("sentence1\tsentence2\tscore\na\tb\tmaybe\n", ":2: score 'maybe'; expected a number or one of"),
        ("sentence1\tsentence2\tscore\na\tb\t1_0\n", ":2: score '1_0'; expected a number or one of"),
        (
            "sentence1\tsentence2\tscore\na\tb\t1\nc\td\tNeutral\n",
            ":3: score 'Neutral', where the rows before have numbers; expected one kind in a file",
        ),
        (
            "sentence1\tsentence2\tscore\na\tb\tneutral\nc\td\t4.5\n",
            ":3: score '4.5', where the rows before have words",
        ),
        ("sentence1\tsentence2\tscore\na\tb\t1\nc\td\t1\n", "all 2 labels of 'train' are 1"),
        ("sentence1\tsentence2\tscore\n", "no pairs in it"),
        (
            "one\ttwo\tscore\na\tb\t1\n",
            ":1: no column 'sentence1' (or 'text1', 'sentence_a'); the columns are one, two",
        ),
        ("sentence1\tsentence2\tscore\na\tb\t1\n", "the only label of 'train' is 1"),
    ],
)
def test_pairs_that_cannot_be_used_are_one_sentence_at_the_command_line(
    tiny: str, tmp_path: Path, content: str, said: str
) -> None:
    path = tmp_path / "my-train.tsv"
    path.write_text(content)
    ran = run("train", "encoder", path, "-o", tmp_path / "model", "--from", tiny)
    assert ran.code == 1 and len(ran.errors) == 1
    assert said.replace("'train'", "'my-train'") in ran.errors[0]
    assert list(tmp_path.iterdir()) == [path]


def test_the_best_epoch() -> None:
    def best(*scores: float | None) -> int:
        return best_epoch([Epoch(number=i, dev_spearman=score) for i, score in enumerate(scores)]).number

    assert best(0.9, 0.1, 0.5, 0.3) == 2, "the model before does not count"
    assert best(None, 0.5, 0.5) == 1, "the earliest of equals"
    assert best(None, -0.2, -0.1) == 2
    assert best(None, None, None) == 2, "without dev pairs the last one"


def test_the_precision_is_the_one_asked_for_or_kept(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, precision in (("full", "float32"), ("half", "bfloat16")):
        train_encoder(TRAIN, tmp_path / name, model=tiny, **QUICK | {"precision": precision})
    assert weights(tmp_path / "full") != weights(tmp_path / "half")
    auto = QUICK | {"precision": "auto"}
    monkeypatch.setattr(training, "choose_precision", lambda *arguments: "bfloat16")
    with stopped_after(3, monkeypatch), pytest.raises(KeyboardInterrupt):
        train_encoder(TRAIN, tmp_path / "auto", model=tiny, **auto)
    monkeypatch.setattr(training, "choose_precision", lambda *arguments: "float32")
    assert train_encoder(TRAIN, tmp_path / "auto", model=tiny, **auto).precision == "bfloat16"
    assert weights(tmp_path / "auto") == weights(tmp_path / "half")


def test_the_learning_rate_rises_and_falls(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rates: list[float] = []
    original = loop._Watch.on_step_end

    def watching(self: Any, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        rates.append(kwargs["lr_scheduler"].get_last_lr()[0])
        original(self, args, state, control, **kwargs)

    monkeypatch.setattr(loop._Watch, "on_step_end", watching)
    train_encoder(TRAIN, tmp_path / "model", model=tiny, warmup=0.25, **QUICK | {"lr": 1e-3})
    assert rates == pytest.approx([1e-3 * min(step / 5, (20 - step) / 15) for step in range(1, 21)])


def test_each_epoch_has_batches_of_its_own() -> None:
    sampler = MixedLabels(examples_of([TRAIN], "cosent", 16)["made"], 16, False)
    sampler.set_epoch(0)
    first = {frozenset(batch) for batch in sampler}
    assert first == {frozenset(batch) for batch in sampler}
    sampler.set_epoch(1)
    assert first.isdisjoint({frozenset(batch) for batch in sampler})


def test_what_counts_as_alike_and_as_a_class() -> None:
    scores = np.array([0.0, 3, 4, 5])
    graded = STSSet(name="g", sentences1=("a", "b", "c", "d"), sentences2=("e", "f", "g", "h"), scores=scores)
    assert list(examples_of([graded], "mnrl", 16)["g"]["sentence1"]) == ["c", "d"]
    assert list(examples_of([graded], "softmax", 16)["g"]["label"]) == [0, 1, 2, 3]
    with pytest.raises(InputError, match="the loss 'softmax' with 2 sets of pairs; expected one"):
        examples_of([graded, TRAIN], "softmax", 16)
    with pytest.raises(InputError, match="labels go from -1e.308 to 1e.308; expected a scale"):
        examples_of([replace(graded, scores=np.array([-1e308, 0, 0, 1e308]))], "cosent", 16)


def test_a_models_prompt_goes_before_every_text(tiny: str, tmp_path: Path) -> None:
    """A model with a prompt trains as one without does on texts that begin with it."""
    from sentence_transformers import SentenceTransformer

    prompted = SentenceTransformer(tiny, device="cpu", prompts={"query": "the ", "document": "the "})
    prompted.save_pretrained(str(tmp_path / "prompted"), create_model_card=False)
    one, two = (tuple(f"the {text}" for text in side) for side in (TRAIN.sentences1, TRAIN.sentences2))
    spelt_out = replace(TRAIN, sentences1=one, sentences2=two)
    for name, model, pairs in (("a", str(tmp_path / "prompted"), TRAIN), ("b", tiny, spelt_out), ("c", tiny, TRAIN)):
        train_encoder(pairs, tmp_path / name, model=model, **QUICK)
    assert weights(tmp_path / "a") == weights(tmp_path / "b") != weights(tmp_path / "c")


def test_max_length_is_kept_by_a_cross_encoder(tiny: str, tmp_path: Path) -> None:
    train_cross_encoder(TRAIN, tmp_path / "model", model=tiny, max_length=7, **QUICK)
    assert CrossEncoderScorer(str(tmp_path / "model")).model.max_seq_length == 7


def test_a_side_network_keeps_its_best_epoch(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from retrieval.train import side

    scores = iter([0.1, 0.2, 0.5, 0.3, 0.3])
    monkeypatch.setattr(side, "spearman", lambda *arguments: next(scores))
    result = train_encoder(TRAIN, tmp_path / "model", model=tiny, dev=DEV, method="linear", epochs=4)
    monkeypatch.setattr(side, "spearman", lambda *arguments: 0.5)
    first = train_encoder(TRAIN, tmp_path / "first", model=tiny, dev=DEV, method="linear", epochs=4)
    assert (result.best_epoch, first.best_epoch) == (2, 1)
    one, two = (tmp_path / name / "2_Dense" / "model.safetensors" for name in ("model", "first"))
    assert one.read_bytes() != two.read_bytes()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"loss": "cosine", "scale": 5.0}, r"scale=5 with loss='cosine'; only cosent, mnrl, cosent\+mnrl has one"),
        ({"method": "ladder", "precision": "bfloat16"}, "side networks are trained in float32"),
        ({"model": "hash:32"}, "model='hash:32' has no weights to train"),
    ],
)
def test_options_that_would_be_ignored_are_refused(tiny: str, tmp_path: Path, wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        train_encoder(TRAIN, tmp_path / "model", **{"model": tiny} | wrong)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_a_disk_that_is_full_is_one_sentence_and_the_same_command_goes_on(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    from safetensors import SafetensorError

    errors = {
        "safetensors": SafetensorError("No space left on device"),
        "torch": RuntimeError("[enforce fail at inline_container.cc:659] . unexpected pos"),
    }

    def full(*arguments: object) -> None:
        raise errors[kind]

    train_encoder(TRAIN, tmp_path / "whole", model=tiny, dev=DEV, **QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(loop, "mark_whole", full)
        with pytest.raises(TrainingError, match="cannot be written .* free some space there, the same command goes on"):
            train_encoder(TRAIN, tmp_path / "cut", model=tiny, dev=DEV, **QUICK)
    train_encoder(TRAIN, tmp_path / "cut", model=tiny, dev=DEV, **QUICK)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_a_full_disk_under_a_side_network_is_one_sentence_too(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors import SafetensorError

    from retrieval.train import side

    def full(*arguments: object) -> None:
        raise SafetensorError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(side, "save_side", full)
        with pytest.raises(TrainingError, match="cannot be written .* free some space there, the same command goes on"):
            train_encoder(TRAIN, tmp_path / "model", model=tiny, method="linear")
    train_encoder(TRAIN, tmp_path / "model", model=tiny, method="linear")


def test_what_a_finished_training_left_is_cleared(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the renaming of the model and the removal of the run's folder."""
    from retrieval.train import run_folder

    def killed(folder: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_folder, "sync_folder", lambda place: killed(place) if place == tmp_path else None)
        train_encoder(TRAIN, tmp_path / "model", model=tiny, **QUICK)
    assert (tmp_path / "model").is_dir() and (tmp_path / "model.training").is_dir()
    with pytest.raises(InputError, match="model' exists"):
        train_encoder(TRAIN, tmp_path / "model", model=tiny, **QUICK)
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_a_result_that_was_removed_is_made_again(tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed as above; the checkpoints are there, but the model of the best epoch was the one removed."""
    from retrieval.train import run_folder

    def killed(place: Path) -> None:
        if place == tmp_path:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_folder, "sync_folder", killed)
        train_encoder(TRAIN, tmp_path / "model", model=tiny, **QUICK)
    made = weights(tmp_path / "model")
    shutil.rmtree(tmp_path / "model")
    train_encoder(TRAIN, tmp_path / "model", model=tiny, **QUICK)
    assert weights(tmp_path / "model") == made
    assert list(tmp_path.iterdir()) == [tmp_path / "model"]


def test_a_checkpoint_without_the_loss_s_own_weights_is_not_whole(
    tiny: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = torch.save

    def killed(values: Any, place: Any, *arguments: Any, **options: Any) -> None:
        if Path(place).name == loop.OWN_WEIGHTS:
            raise KeyboardInterrupt
        original(values, place, *arguments, **options)

    softmax = QUICK | {"model": tiny, "loss": "softmax"}
    train_encoder(TRAIN, tmp_path / "whole", **softmax)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(torch, "save", killed)
        train_encoder(TRAIN, tmp_path / "cut", **softmax)
    train_encoder(TRAIN, tmp_path / "cut", **softmax)
    assert weights(tmp_path / "cut") == weights(tmp_path / "whole")


def test_the_best_model_is_there_until_the_next_is(tmp_path: Path) -> None:
    def save(folder: Path) -> None:
        folder.mkdir()
        (folder / "model").write_text("first")

    def killed(folder: Path) -> None:
        save(folder)
        raise KeyboardInterrupt

    run_folder = RunFolder(tmp_path / "model")
    run_folder.path.mkdir()
    run_folder.keep_best(save)
    with pytest.raises(KeyboardInterrupt):
        run_folder.keep_best(killed)
    assert (run_folder.path / "best" / "model").read_text() == "first"


def test_the_command_line_offers_the_losses_that_there_are() -> None:
    from retrieval.cli_train import train

    for kind, losses in (("encoder", ENCODER_LOSSES), ("cross-encoder", CROSS_ENCODER_LOSSES)):
        (option,) = (option for option in train.commands[kind].params if option.name == "loss")
        assert list(option.type.choices) == list(losses)  # type: ignore[attr-defined]
