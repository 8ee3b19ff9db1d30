"""What is compared: the requirements of each system, its environment, and its commands."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from shared_data import HERE

from retrieval.models import locate

ROOT = HERE.parent
CACHE = Path(os.environ.get("RETRIEVAL_CACHE", HERE / "cache")).absolute() / "peers"
WORKER = str(Path(__file__).with_name("worker.py"))
MODEL = "all-MiniLM-L6-v2"
TORCH = "torch==2.13.0"
TRANSFORMERS = ("sentence-transformers==6.2.0", TORCH)
THREADS = 2
STRIPPED = ("OPENBLAS_", "PYTHON", "OMP_", "MKL_", "KMP_", "RAYON_", "TOKENIZERS_")


def surroundings() -> dict[str, str]:
    """The variables of every process of every system: the same threads, no network, nothing of this machine's own."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(STRIPPED)}
    home = CACHE / "home"
    home.mkdir(parents=True, exist_ok=True)
    return kept | {
        "OMP_NUM_THREADS": str(THREADS), "HF_HUB_OFFLINE": "1", "ANONYMIZED_TELEMETRY": "False", "HOME": str(home),
        "RETRIEVAL_CACHE": str(home / "retrieval"),
    }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system as it is built and asked.

    Parameters
    ----------
    name : str
        In the tables.
    client : str
        In `worker.CLIENTS`.
    requirements : tuple of str
        What pip is told; systems that share them share an environment.
    home : str, optional
        Of the environment, where it is not named as the client.
    other : bool
        Shown in the second table.
    most : int, optional
        Documents, beyond which it takes too long.
    """

    name: str
    client: str
    requirements: tuple[str, ...]
    home: str = ""
    other: bool = False
    most: int | None = None

    @property
    def folder(self) -> Path:
        return CACHE / "environments" / (self.home or self.client)

    @property
    def python(self) -> str:
        return str(self.folder / "bin" / "python")

    def _worker(self, *arguments: str) -> list[str]:
        return [self.python, WORKER, self.client, model(), *arguments]

    def build(self, index: Path, corpus: Path) -> list[str]:
        """The command that makes an index."""
        return self._worker("build", str(index), str(corpus))

    def query(self, index: Path, query: str) -> list[str]:
        """The command that opens an index and answers one query."""
        return self._worker("query", str(index), query)

    def serve(self, index: Path) -> list[str]:
        """The command that opens an index and answers as `worker.serve` does."""
        return self._worker("serve", str(index))

    def found(self, printed: str) -> list[Any]:
        """The hits in what `query` printed."""
        return list(json.loads(printed))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ours(System):
    """This project: built and asked by its command line."""

    options: tuple[str, ...] = ()

    def build(self, index: Path, corpus: Path) -> list[str]:
        program = str(self.folder / "bin" / "retrieval")
        return [program, "build", str(corpus), "-o", str(index), "-m", model(), "-q", *self.options]

    def query(self, index: Path, query: str) -> list[str]:
        return [str(self.folder / "bin" / "retrieval"), "query", str(index), query, "-k", "10", "--format", "json"]

    def found(self, printed: str) -> list[Any]:
        return list(json.loads(printed)[0]["hits"])


PINNED = ("-c", str(ROOT / "constraints.txt"), "-e")
OURS = (*PINNED, f"{ROOT}[cpu,fast]")
CHROMA = ("chromadb==1.5.9", "onnxscript==0.7.2", *TRANSFORMERS)
SYSTEMS: tuple[System, ...] = (
    Ours(name="this project", client="ours", requirements=OURS),
    System(
        name="sentence-transformers + FAISS", client="by-hand", requirements=("faiss-cpu==1.15.1", *TRANSFORMERS)
    ),
    System(name="txtai", client="txtai", requirements=("txtai==9.14.0", TORCH)),
    System(name="Chroma", client="chroma", requirements=CHROMA),
    System(
        name="Chroma, its default function", client="chroma-as-it-comes", home="chroma", requirements=CHROMA,
        most=20_000,
    ),
    System(name="LanceDB", client="lancedb", requirements=("lancedb==0.40.0", *TRANSFORMERS)),
    System(
        name="milvus-lite", client="milvus-lite",
        requirements=("pymilvus==3.0.2", "milvus-lite==3.2.2", "pymilvus-model==0.3.4", *TRANSFORMERS),
    ),
    Ours(
        name="this project, not whitened", client="ours", requirements=OURS, other=True, options=("--no-whitening",)
    ),
    Ours(
        name="this project, without fast", client="ours", home="ours-in-torch",
        requirements=(*PINNED, f"{ROOT}[cpu]"), other=True,
    ),
)  # fmt: skip
BY_HAND = SYSTEMS[1]


def model() -> str:
    """The folder of the model, in the package that brings it."""
    return str(locate(MODEL).folder)


def asked_for(system: System) -> list[str]:
    """The requirements, and a mark of what they point at in this checkout."""
    pointed = [ROOT / "constraints.txt", ROOT / "setup.cfg"] if "-e" in system.requirements else []
    return [*system.requirements, *(hashlib.sha256(path.read_bytes()).hexdigest() for path in pointed)]


def environment(system: System) -> dict[str, Any]:
    """Make a system's virtual environment, if it is not there as asked for; the packages in it."""
    made = system.folder / "made.json"
    if not made.exists() or json.loads(made.read_text())["requirements"] != asked_for(system):
        shutil.rmtree(system.folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(system.folder)], check=True, env=surroundings())
        pip = [system.python, "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", *system.requirements], check=True, env=surroundings())
        listed = subprocess.run(
            [*pip, "list", "--format", "json"], check=True, stdout=subprocess.PIPE, text=True, env=surroundings(),
            cwd=system.folder,  # else what lies in the current folder is listed, too
        )  # fmt: skip
        packages = {package["name"]: package["version"] for package in json.loads(listed.stdout)}
        made.write_text(json.dumps({"requirements": asked_for(system), "packages": packages}))
    return dict(json.loads(made.read_text())["packages"])
