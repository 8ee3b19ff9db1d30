"""Operations of an encoder, counted."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest


def test_operations_are_those_counted_by_hand(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(root / "benchmarks"))
    operations = importlib.import_module("roofline").operations
    # a layer of width 2: query, key, value and output of 2 x 2, up of 2 x 8, down of 8 x 2: 48 weights
    assert 4 * 2 * 2 + 2 * 2 * 8 == 48
    # linear layers: 4 tokens x 48 weights x 2 = 384
    # attention, one token: scores 1 x 1 x 2 x 2 = 4, sum 4; three tokens: scores 3 x 3 x 2 x 2 = 36, sum 36
    assert operations([1, 3], linear=48, layers=1, width=2) == 384 + 8 + 72
    assert operations([1, 3], linear=96, layers=2, width=2) == 2 * (384 + 8 + 72)
    assert operations([], linear=48, layers=1, width=2) == 0
