"""Halves of texts: how they are cut, and that finding them tells good transforms from bad ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from indexes.errors import InputError
from retrieval.encoder import HashEncoder
from retrieval.grid import FindObjective, Rotation
from retrieval.halves import FEWEST, HAYSTACK, HalvesObjective, choose_whitening, halves
from retrieval.moments import Moments

WORDS = [f"w{i}" for i in range(40)]


def corpus(n: int = 200) -> list[str]:
    rng = np.random.default_rng(0)
    return [" ".join(rng.permutation(WORDS)[:12].tolist() * 2) for _ in range(n)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A spy drinks. He is in a casino.", ("A spy drinks.", "He is in a casino.")),
        ("One two three four. Five. Six seven.", ("One two three four.", "Five. Six seven.")),
        ("No. All the rest is one long sentence here", ("No. All the rest is", "one long sentence here")),
        (
            "\u6211\u7231\u5317\u4eac\u3002\u4f60\u7231\u4e0a\u6d77\u3002",
            ("\u6211\u7231\u5317\u4eac\u3002", "\u4f60\u7231\u4e0a\u6d77\u3002"),
        ),
        ("\u600e\u4e48\u4fee\u6539\u5bc6\u7801", None),
        ("\u600e\u4e48\u4fee\u6539\u5bc6\u7801\u554a\u5417", ("\u600e\u4e48\u4fee\u6539", "\u5bc6\u7801\u554a\u5417")),
        ("title\nbody text", ("title", "body text")),
        ("short", None),
        ("", None),
    ],
)
def test_cuts_by_hand(text: str, expected: tuple[str, str] | None) -> None:
    assert halves(text) == expected


@given(st.text(max_size=200))
def test_nothing_but_space_is_lost(text: str) -> None:
    cut = halves(text)
    if cut is not None:
        assert "".join("".join(cut).split()) == "".join(text.split())


def test_it_is_the_mean_of_two_searches() -> None:
    texts, encoder = corpus(), HashEncoder(32)
    vectors = encoder.encode(texts).vectors
    objective = HalvesObjective(vectors, lambda rows: [texts[i] for i in rows], encoder)
    assert objective.n_texts == 50
    places = np.linspace(0, 199, 50).astype(int)
    cuts = [halves(texts[i]) for i in places]
    first, second = (encoder.encode([cut[side] for cut in cuts if cut]).vectors for side in (0, 1))
    halved = vectors.copy()
    halved[places] = second
    rotation, ones = Rotation(np.zeros(32), np.eye(32)), np.ones((1, 32))
    parts = [
        FindObjective(first, d, [{int(i): 1.0} for i in places]).scores(rotation, ones, [32, 8])
        for d in (halved, vectors)
    ]
    np.testing.assert_allclose(objective.scores(rotation, ones, [32, 8]), np.mean(parts, axis=0))


def test_a_direction_that_all_texts_share_is_told_from_what_tells_them_apart() -> None:
    """Noise of several times the size in one column: gamma scales it down, halves are found better."""

    class Noisy(HashEncoder):
        def encode(self, texts, role="document"):  # type: ignore[no-untyped-def]
            vectors, truncated = super().encode(texts, role)
            vectors[:, 0] = [30 * (hash_of(text) - 0.5) for text in texts]
            return type(super().encode(texts, role))(vectors, truncated)

    def hash_of(text: str) -> float:
        return (sum(map(ord, text)) * 7919 % 1000) / 1000

    texts, encoder = corpus(400), Noisy(32)
    vectors = encoder.encode(texts).vectors
    chosen = choose_whitening(
        Moments.of(vectors, local=True), vectors, lambda rows: [texts[i] for i in rows], encoder, 32
    )
    assert chosen.gamma == 0.375


def test_memory_is_that_of_a_sample() -> None:
    asked: list[int] = []

    def texts_of(rows: list[int]) -> list[str]:
        asked.extend(rows)
        return [f"word{i} and other words{i}" for i in rows]

    n = HAYSTACK + 5000
    rows = np.broadcast_to(np.float16(1.0), (n, 4)) + np.arange(n, dtype=np.float16)[:, None] % 7
    objective = HalvesObjective(rows, texts_of, HashEncoder(4))
    assert len(asked) == objective.n_texts == 500
    assert asked == sorted(asked) and asked[0] == 0 and asked[-1] == n - 1


def test_too_few_texts_get_the_defaults(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    texts, encoder = ["one"] * 200, HashEncoder(8)
    vectors = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    with pytest.raises(InputError, match=f"0 of 50 texts can be halved; expected {FEWEST}"):
        HalvesObjective(vectors, lambda rows: [texts[i] for i in rows], encoder)
    chosen = choose_whitening(
        Moments.of(vectors, local=True), vectors, lambda rows: [texts[i] for i in rows], encoder, 4
    )
    assert repr(chosen) == "Whitening(dim=4, beta=0, gamma=0.125, epsilon=0.001, local=0.5)"
    assert "whitening: 4 columns, the defaults" in caplog.text
