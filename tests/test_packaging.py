"""What is installed: the wheel's content, its face, the exact versions."""

from __future__ import annotations

import configparser
import importlib
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

PACKAGES = (
    "retrieval",
    "retrieval.compiled",
    "retrieval.cross",
    "retrieval.geodesic",
    "retrieval.train",
    "indexes",
    "eval",
)
TOP = ("retrieval", "indexes", "eval")


@pytest.fixture(scope="module")
def wheel(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(root),
    ]
    subprocess.run(command, check=True, capture_output=True)
    (built,) = out.glob("sentence_retrieval-*.whl")
    return built


def test_the_wheel_holds_every_module_and_nothing_else(root: Path, wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as file:
        names = {name for name in file.namelist() if ".dist-info/" not in name}
    modules = {str(path.relative_to(root)) for package in TOP for path in (root / package).rglob("*.py")}
    assert names == modules | {f"{package}/py.typed" for package in TOP}


def test_the_installed_wheel_answers_help_without_torch(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    environment = os.environ | {"PYTHONPATH": str(target)}
    command = [sys.executable, "-X", "importtime", str(target / "bin" / "retrieval"), "--help"]
    result = subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert "Usage: retrieval" in result.stdout
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in result.stderr.splitlines() if "|" in line}
    assert "retrieval" in imported
    assert not imported & {"torch", "transformers", "sentence_transformers", "faiss", "sqlite_utils", "numpy"}


@pytest.mark.parametrize("package", PACKAGES)
def test_what_is_importable_is_what_is_promised(package: str) -> None:
    module = importlib.import_module(package)
    promised = getattr(module, "__all__", [])
    assert list(promised) == sorted(promised)
    for name in promised:
        assert getattr(module, name) is not None
    with pytest.raises(AttributeError):
        module.no_such_name  # noqa: B018


def test_public_names_of_the_design() -> None:
    from eval import evaluate_retrieval, evaluate_sts, load_sts, tune_whitening
    from retrieval import Document, Engine, Hit, Whitening
    from retrieval.train import CoSENTLoss, CrossEncoderCoSENTLoss, train_cross_encoder, train_encoder

    evaluations = (evaluate_retrieval, evaluate_sts, load_sts, tune_whitening)
    trainings = (CoSENTLoss, CrossEncoderCoSENTLoss, train_cross_encoder, train_encoder)
    assert all(map(callable, (*evaluations, *trainings, Document, Engine.build, Engine.open, Hit, Whitening)))


def test_setup_cfg_lists_packages_and_extras(root: Path) -> None:
    config = configparser.ConfigParser()
    config.read(root / "setup.cfg")
    assert config["options"]["packages"].split() == list(PACKAGES)
    assert {"cpu", "gpu", "offline", "plot", "test"} <= set(config["options.extras_require"])
    assert "torch==2.13.0" in (root / "constraints.txt").read_text().splitlines()
    project = (root / "pyproject.toml").read_text()
    assert re.findall(r"^\[(.+)\]", project, re.MULTILINE) == ["build-system"]


def test_every_installed_requirement_is_constrained(root: Path) -> None:
    """What `pip install -c constraints.txt` pulls in has an exact version there."""
    from importlib.metadata import PackageNotFoundError, requires

    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name

    lines = (line.split(";")[0].strip() for line in (root / "constraints.txt").read_text().splitlines())
    pinned = {canonicalize_name(line.split("==")[0]) for line in lines if "==" in line}
    extras = {"cpu", "offline", "parquet", "plot", "test", "train", "zstd"}
    todo, seen = [("sentence-retrieval", frozenset(extras))], set()
    while todo:
        name, wanted = todo.pop()
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            needed = requires(name) or []
        except PackageNotFoundError:
            continue  # not installed on this platform
        for line in needed:
            requirement = Requirement(line)
            if requirement.marker is None or any(requirement.marker.evaluate({"extra": e}) for e in wanted or {""}):
                todo.append((canonicalize_name(requirement.name), frozenset(requirement.extras)))
    installed = {name for name, _ in seen} - {"sentence-retrieval", "pip"}
    missing = sorted(name for name in installed - pinned if _is_installed(name))
    assert missing == []


def _is_installed(name: str) -> bool:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False
