"""Compiled models of this user, each in a folder whose name stands for the fingerprint of the model it was made from.

    CACHE/compiled/MARK/graph.xml        the graph (see `retrieval.compiled.export`), in OpenVINO's own form:
    CACHE/compiled/MARK/graph.bin        read in a tenth of the time that ONNX takes
    CACHE/compiled/MARK/tokenizer.json
    CACHE/compiled/MARK/compiled.json    settings, and the SHA-256 of all of it; or why there is no more

CACHE is RETRIEVAL_CACHE, or sentence-retrieval in the user's cache. It may be removed at any time: a model is compiled
again when it is next loaded. A hundred indexes by one model share one folder.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from indexes.errors import ModelError
from indexes.files import sha256_of

logger = logging.getLogger(__name__)

FORMAT = 2
PARTS = ("weights", "tokenizer", "modules")
"""Of a fingerprint: what a compiled model depends on."""
FILES = ("graph.xml", "graph.bin", "tokenizer.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """A compiled model on the disk.

    Parameters
    ----------
    graph : Path
        An .xml file, or an .onnx file.
    weights : Path or None
        The .bin file that lies beside an .xml file.
    tokenizer : Path
    settings : mapping
        fingerprint, max_tokens, pad, and what else its kind needs.
    """

    graph: Path
    weights: Path | None
    tokenizer: Path
    settings: Mapping[str, Any]

    @property
    def files(self) -> dict[str, Path]:
        """Those that are there, by what they are."""
        files = {"graph": self.graph, "weights": self.weights, "tokenizer": self.tokenizer}
        return {name: path for name, path in files.items() if path is not None}


def compiled_in(folder: Path, settings: Mapping[str, Any]) -> Compiled:
    """The compiled model whose `FILES` are in a folder."""
    graph, weights, tokenizer = (folder / name for name in FILES)
    return Compiled(graph=graph, weights=weights, tokenizer=tokenizer, settings=settings)


def cache_folder() -> Path:
    """Where this user's compiled models are."""
    if given := os.environ.get("RETRIEVAL_CACHE"):
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "sentence-retrieval"


def _place(kind: str, fingerprint: Mapping[str, Any]) -> Path:
    known = json.dumps([FORMAT, kind, *(fingerprint[part] for part in PARTS)])
    return cache_folder() / "compiled" / hashlib.sha256(known.encode()).hexdigest()[:32]


def find(kind: str, fingerprint: Mapping[str, Any]) -> Compiled | str | None:
    """The compiled model of a fingerprint; or why there can be none; or None if nobody has tried.

    Every byte is held against its checksum; what is damaged counts as not there, and that is said.
    """
    if not all(part in fingerprint for part in PARTS):
        return None
    folder = _place(kind, fingerprint)
    found = _whole(folder)
    if found is None and folder.exists():
        logger.warning("the compiled model in %s is damaged; it is made again from the model itself", folder)
    return found


def _whole(folder: Path) -> Compiled | str | None:
    """What lies in a folder, if it is as it was put there."""
    try:
        noted = json.loads((folder / "compiled.json").read_text())
        settings, files = noted["settings"], noted["files"]
        if noted["sha256"] == _sum_of(settings, files):
            if "refused" in settings:
                return str(settings["refused"])
            if all(sha256_of(folder / name) == files[name] for name in FILES):
                return compiled_in(folder, settings)
    except (ValueError, KeyError, TypeError, OSError, RecursionError) as error:
        logger.debug("%s: %s", folder, error)
    return None


def keep(kind: str, fingerprint: Mapping[str, Any], write: Callable[[Path], Mapping[str, Any]]) -> Compiled | str:
    """Make a compiled model and keep it, in the place of a damaged one.

    Parameters
    ----------
    kind : str
        "encoder" or "cross-encoder".
    fingerprint : mapping
        Of the model.
    write : callable
        Writes `FILES` into a folder and gives the settings; raises ModelError where that cannot be done.

    Returns
    -------
    Compiled, or str
        Why there can be none, which is kept, too.
    """
    place = _place(kind, fingerprint)
    place.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=place.parent, prefix="tmp-"))
    try:
        try:
            settings = json.loads(json.dumps(dict(write(folder))))  # as they are read back
            files = {name: sha256_of(folder / name) for name in FILES}
        except ModelError as error:
            for path in folder.iterdir():
                path.unlink()
            settings, files = {"refused": str(error)}, {}
        noted = {"settings": settings, "files": files, "sha256": _sum_of(settings, files)}
        (folder / "compiled.json").write_text(json.dumps(noted))
        if place.exists() and _whole(place) is None:
            shutil.rmtree(place)
        try:
            folder.rename(place)
        except OSError:  # another process was quicker
            if not (place / "compiled.json").exists():
                raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return str(settings["refused"]) if "refused" in settings else compiled_in(place, settings)


def _sum_of(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
