"""CoSENT against brute force, its bounds and its laws; batches with different labels; batches taken apart by length."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from indexes.errors import InputError

torch = pytest.importorskip("torch")

from retrieval.train.batches import batches_of_one, mixed_batches  # noqa: E402
from retrieval.train.losses import (  # noqa: E402
    CoSENTLoss,
    CoSENTWithNegativesLoss,
    CrossEncoderCoSENTLoss,
    cosent_loss,
    text_numbers,
)
from retrieval.train.packing import by_length  # noqa: E402
from retrieval.train.precision import choose_precision  # noqa: E402

rows = st.lists(st.tuples(st.floats(-1, 1, width=32), st.integers(0, 4)), min_size=1, max_size=24)
scales = st.sampled_from([1.0, 5.0, 20.0])


def brute_force(scores: list[float], labels: list[float], scale: float) -> tuple[float, float, int]:
    """The formula as it stands, in float64; its largest exponent and the number of ordered pairs."""
    exponents = [
        scale * (scores[j] - scores[i]) for i in range(len(scores)) for j in range(len(scores)) if labels[i] > labels[j]
    ]
    return math.log(1 + sum(map(math.exp, exponents))), max(exponents, default=-math.inf), len(exponents)


@given(rows, scales)
def test_cosent_is_the_formula_and_within_its_bounds(pairs: list[tuple[float, int]], scale: float) -> None:
    scores, labels = [s for s, _ in pairs], [float(y) for _, y in pairs]
    loss = cosent_loss(torch.tensor(scores), torch.tensor(labels), scale).item()
    expected, largest, ordered = brute_force(scores, labels, scale)
    assert loss == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert max(0, largest) - 1e-5 <= loss <= max(0, largest) + math.log(1 + ordered) + 1e-5


@given(rows, scales)
def test_cosent_is_sentence_transformers_own(pairs: list[tuple[float, int]], scale: float) -> None:
    from sentence_transformers.sentence_transformer.losses import CoSENTLoss as Theirs

    scores, labels = torch.tensor([s for s, _ in pairs]), torch.tensor([float(y) for _, y in pairs])
    theirs = Theirs(None, scale, similarity_fct=lambda a, _: a).compute_loss_from_embeddings([scores, scores], labels)
    assert cosent_loss(scores, labels, scale).item() == pytest.approx(theirs.item(), rel=1e-5, abs=1e-5)


@given(rows, st.randoms(use_true_random=False))
def test_only_the_order_of_labels_counts_and_no_constant(pairs: list[tuple[float, int]], random: object) -> None:
    scores, labels = torch.tensor([s for s, _ in pairs]).double(), torch.tensor([float(y) for _, y in pairs])
    loss = cosent_loss(scores, labels)
    assert cosent_loss(scores, labels.exp() * 7 - 3).item() == pytest.approx(loss.item())
    assert cosent_loss(scores + 0.25, labels).item() == pytest.approx(loss.item())
    order = torch.randperm(len(scores))
    assert cosent_loss(scores[order], labels[order]).item() == pytest.approx(loss.item())


def test_the_sign_by_hand() -> None:
    """The pair that people call alike is scored below the other: the loss is large, and its gradient lifts it."""
    scores = torch.tensor([0.1, 0.9], requires_grad=True)
    loss = cosent_loss(scores, torch.tensor([1, 0]), scale=20.0)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(1 + math.exp(16)))
    assert scores.grad is not None and scores.grad[0] < 0 < scores.grad[1]
    assert cosent_loss(scores.flip(0), torch.tensor([1, 0]), 20.0).item() == pytest.approx(0, abs=1e-6)


def test_inference_labels_are_ordered() -> None:
    right = cosent_loss(torch.tensor([-0.5, 0.0, 0.5]), torch.tensor([0, 1, 2]))
    wrong = cosent_loss(torch.tensor([0.5, 0.0, -0.5]), torch.tensor([0, 1, 2]))
    assert right < 1e-3 < 15 < wrong


def test_one_label_gives_nothing_to_learn() -> None:
    scores = torch.randn(8, requires_grad=True)
    loss = cosent_loss(scores, torch.ones(8))
    loss.backward()
    assert loss.item() == 0
    assert scores.grad is not None and not scores.grad.any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_no_overflow_in_half_precision(dtype: object) -> None:
    scores, labels = torch.linspace(-1, 1, 512).to(dtype), torch.arange(512, 0, -1)
    loss = cosent_loss(scores, labels, scale=2000.0)
    assert loss.dtype == torch.float32 and loss.item() == pytest.approx(4000, rel=1e-3)


def test_gradient_is_that_of_the_formula() -> None:
    scores = torch.randn(7, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: cosent_loss(s, torch.tensor([0, 1, 1, 2, 2, 0, 3]), 5.0), scores)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match=r"scores have shape \(3,\) and labels \(2,\)"):
        cosent_loss(torch.zeros(3), torch.zeros(2))
    with pytest.raises(InputError, match=r"expected \(n,\)"):
        cosent_loss(torch.zeros(3, 1), torch.zeros(3, 1))


def test_the_encoder_loss_is_the_function_of_cosines() -> None:
    one, two, labels = torch.randn(6, 4), torch.randn(6, 4), torch.tensor([0.0, 1, 2, 0, 1, 2])
    loss = CoSENTLoss(None, scale=7.0).compute_loss_from_embeddings([one, two], labels)
    assert loss == cosent_loss(torch.cosine_similarity(one, two), labels, 7.0)


def test_the_cross_encoder_loss_is_the_function_of_logits() -> None:
    class Model:
        num_labels, device = 1, "cpu"

        def preprocess(self, pairs: list[tuple[str, str]], **options: object) -> dict[str, object]:
            return {"logits": torch.tensor([float(len(a) - len(b)) for a, b in pairs])}

        def __call__(self, features: dict[str, object]) -> dict[str, object]:
            return {"scores": features["logits"]}

    texts, labels = [["aaa", "b", "cc"], ["a", "bbbb", "c"]], torch.tensor([0.0, 1.0, 2.0])
    loss = CrossEncoderCoSENTLoss(Model(), scale=3.0)(texts, labels)
    assert loss == cosent_loss(torch.tensor([2.0, -3.0, 1.0]), labels, 3.0)
    assert CrossEncoderCoSENTLoss(Model()).scale == 1.0


ONE = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
TWO = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])


def test_ranking_beside_cosent_knows_the_alike_pairs_only() -> None:
    """By hand: one alike pair (its label is not below 0), whose second sentence competes with all three."""
    parts = CoSENTWithNegativesLoss(None).compute_loss_from_embeddings([ONE, TWO], torch.tensor([0, -1, -2]))
    logits = 20 * torch.cosine_similarity(ONE[:1], TWO)
    assert parts["ranking"].item() == pytest.approx(torch.nn.functional.cross_entropy(logits, torch.tensor(0)).item())
    none = CoSENTWithNegativesLoss(None).compute_loss_from_embeddings([ONE, TWO], torch.tensor([-3, -2, -1]))
    assert set(none) == {"cosent"}


@pytest.mark.parametrize(
    ("texts", "labels", "negatives"),
    [
        ("ab cd ef", [0, 0, -1], [{1, 2}, {0, 2}]),
        ("ab ab ef", [0, 0, -1], [{2}, {2}]),  # the same pair twice
        ("ab ac ef", [0, 0, -1], [{2}, {2}]),  # two texts alike to a
        ("ab cb ef", [0, 0, -1], [{2}, {2}]),  # one text alike to two
        ("ab cd eb", [0, 0, -1], [{1}, {0, 2}]),  # b, alike to a, in a pair that is not
        ("ab cd ad", [0, 0, -1], [{1, 2}, {0}]),  # d is no negative of c, but one of a
        ("ab ca ef", [0, 0, -1], [{2}, {0, 2}]),  # a itself
    ],
)
def test_what_is_alike_is_not_pushed_apart(texts: str, labels: list[int], negatives: list[set[int]]) -> None:
    """By hand, pairs of letters: the second texts that each alike pair's own one competes with."""
    first, second = (torch.tensor([ord(pair[side]) for pair in texts.split()]) for side in (0, 1))
    grades = torch.tensor(labels)
    parts = CoSENTWithNegativesLoss(None).compute_loss_from_embeddings([ONE, TWO], grades, torch.stack([first, second]))
    cosines = torch.cosine_similarity(ONE[:, None], TWO[None], dim=2).double()
    expected = [
        math.log(sum(math.exp(20 * (cosines[i, j] - cosines[i, i])) for j in {i, *others}))
        for i, others in enumerate(negatives)
    ]
    assert parts["ranking"].item() == pytest.approx(sum(expected) / len(expected), rel=1e-5)


def test_the_same_text_is_known_by_its_tokens_whatever_the_padding() -> None:
    narrow = {"input_ids": torch.tensor([[5, 6], [7, 0]]), "attention_mask": torch.tensor([[1, 1], [1, 0]])}
    wide = {"input_ids": torch.tensor([[7, 0, 0], [5, 6, 0]]), "attention_mask": torch.tensor([[1, 0, 0], [1, 1, 0]])}
    flat = {"input_ids": torch.tensor([5, 6, 8]), "offsets": torch.tensor([0, 2])}
    assert text_numbers([narrow, wide, flat]).tolist() == [[0, 1], [1, 0], [0, 2]]


def test_two_of_one_alike_pair_give_no_loss_with_dropout_either() -> None:
    """The embeddings of one text differ then."""

    class Model(torch.nn.Module):  # type: ignore[misc]
        def forward(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
            return {"sentence_embedding": torch.randn(len(features["input_ids"]), 4)}

    columns = [{"input_ids": torch.tensor([[5], [5]]), "attention_mask": torch.ones(2, 1)} for _ in range(2)]
    assert CoSENTWithNegativesLoss(Model())(columns, torch.tensor([0, 0]))["ranking"].item() == 0


@given(st.lists(st.integers(0, 3), min_size=1, max_size=80), st.integers(2, 9), st.integers(0, 2**32 - 1))
def test_every_batch_has_two_labels_and_nothing_is_lost(labels: list[int], size: int, seed: int) -> None:
    batches = mixed_batches(labels, size, np.random.default_rng(seed))
    kinds, counts = np.unique(labels, return_counts=True)
    drawn = np.concatenate(batches)
    assert len(batches) == math.ceil(len(labels) / size)
    assert set(drawn) == set(range(len(labels)))
    assert all(len(batch) <= size + 1 for batch in batches)
    repeated = len(drawn) - len(labels)
    if len(kinds) > 1:
        assert not batches_of_one(batches, np.asarray(labels))
        thin = len(labels) < 2 * len(batches)
        assert repeated <= (len(batches) if thin else max(0, len(batches) - (len(labels) - counts.max())))
    else:
        assert repeated == 0


def test_labels_are_spread_evenly() -> None:
    labels = np.repeat([0, 1], [900, 100])
    batches = mixed_batches(labels, 50, np.random.default_rng(0))
    assert {int(labels[batch].sum()) for batch in batches} <= {4, 5, 6}


def test_batches_come_from_the_seed() -> None:
    labels = np.arange(40) % 3
    one, again, other = (mixed_batches(labels, 8, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert all((a == b).all() for a, b in zip(one, again, strict=True))
    assert any((a != b).any() for a, b in zip(one, other, strict=True))


def test_rare_labels_are_drawn_again_rather_than_missed() -> None:
    labels = [0] * 99 + [1]
    batches = mixed_batches(labels, 10, np.random.default_rng(0))
    assert sum(99 in batch for batch in batches) == 10


class Bag(torch.nn.Module):  # type: ignore[misc]
    """A model of texts: the mean of the embeddings of their tokens, and how it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(50, 6)
        self.asked: list[tuple[int, ...]] = []

    def forward(self, features: dict[str, object]) -> dict[str, object]:
        ids, mask = features["input_ids"], features["attention_mask"]
        self.asked.append(tuple(ids.shape))
        vectors = (self.table(ids) * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
        return {**features, "sentence_embedding": vectors}


def padded(lengths: list[int], left: bool = False) -> dict[str, object]:
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, -length:] = 1
        if not left:
            mask[row] = mask[row].flip(0)
    return {"input_ids": torch.randint(1, 50, mask.shape) * mask, "attention_mask": mask, "prompt_length": 3}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=70))
def test_a_batch_taken_apart_gives_the_same_vectors_and_gradients(lengths: list[int]) -> None:
    model, features = Bag(), padded(lengths)
    whole = model(features)["sentence_embedding"]
    (whole**2).sum().backward()
    gradient = model.table.weight.grad.clone()
    model.zero_grad()
    model.asked.clear()
    parts = by_length(model.forward)(features)["sentence_embedding"]
    (parts**2).sum().backward()
    assert torch.allclose(parts, whole, atol=1e-6) and torch.allclose(model.table.weight.grad, gradient, atol=1e-5)
    assert sum(n for n, _ in model.asked) == len(lengths)


def test_short_texts_do_not_pay_for_a_long_one() -> None:
    model = Bag()
    by_length(model.forward)(padded([3] * 31 + [40]))
    assert model.asked == [(16, 40), (16, 3)]


def test_texts_padded_on_the_left_or_without_gradient_go_through_whole() -> None:
    model = Bag()
    by_length(model.forward)(padded([3] * 31 + [40], left=True))
    with torch.no_grad():
        by_length(model.forward)(padded([3] * 31 + [40]))
    assert model.asked == [(32, 40), (32, 40)]


@pytest.mark.parametrize(("slow_in_half", "expected"), [(True, "float32"), (False, "bfloat16")])
def test_the_faster_precision_is_chosen(slow_in_half: bool, expected: str) -> None:
    model = torch.nn.Linear(2, 1)
    calls = []

    def loss() -> object:
        half = torch.is_autocast_enabled("cpu")
        calls.append(half)
        time.sleep(0.05 if half is slow_in_half else 0)
        return model(torch.ones(1, 2)).sum().float()

    before = model.weight.detach().clone()
    assert choose_precision(model, loss) == expected
    assert torch.equal(model.weight, before) and model.weight.grad is None
    assert not slow_in_half or calls.count(True) == 1, "a machine on which it is hopeless is not asked again"
