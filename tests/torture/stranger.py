"""Files made by a stranger: what is in them is wrong, but size and SHA-256 in the manifest fit.

Checksums say nothing here; what is read must be looked at before it is believed. A stranger may put any
vector into an index, so answers are not judged: nothing may crash, hang, take much memory, raise an unknown
error, or be read outside of the index folder, and what contradicts itself must be refused.
"""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import sqlite3
import struct
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from indexes.blocks import BLOCK
from indexes.manifest import checksum

from .asking import Scene, questioned
from .result import Result

Forgery = Callable[[Path, random.Random], bool]
"""Done to a copy of an index; whether it must be refused (else it must only do no harm)."""

HUGE = (2**31 - 1, 2**32 - 1, 2**33, 2**40, 2**47, 2**60, 2**62, 2**63 - 1, 2**64 - 1, 2**31, 65_537, 0)


def rewrite(folder: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change the manifest of an index and give it the checksum that fits; the seal would not, so it goes."""
    with closing(sqlite3.connect(folder / "catalogue.sqlite")) as database, database:
        (text,) = database.execute("SELECT manifest FROM commits").fetchone()
        manifest = json.loads(text)
        changed = change(manifest)
        text = changed if isinstance(changed, str) else json.dumps(manifest if changed is None else changed)
        database.execute("UPDATE commits SET manifest = ?, sha256 = ?", [text, checksum(text)])
    (folder / "catalogue.seal").unlink(missing_ok=True)


def entries(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """The file entries of a manifest."""
    own = [manifest["whitening_file"], *(value for one in manifest["segments"] for value in one.values())]
    return [each for each in own if isinstance(each, dict)]


def put(folder: Path, name: str, data: bytes) -> None:
    """Replace a file, its size and SHA-256 in the manifest, and the sums of its blocks where there are any."""
    put = {name: data}

    def fit(manifest: dict[str, Any]) -> None:
        for segment in manifest["segments"]:
            if segment["raw"] and segment["raw"]["name"] == name:
                blocks = (data[at : at + BLOCK] for at in range(0, len(data), BLOCK))
                put[segment["sums"]["name"]] = b"".join(hashlib.sha256(block).digest() for block in blocks)
        for entry in entries(manifest):
            if entry["name"] in put:
                fitting = put[entry["name"]]
                (folder / "segments" / entry["name"]).write_bytes(fitting)
                entry.update(bytes=len(fitting), sha256=hashlib.sha256(fitting).hexdigest())

    rewrite(folder, fit)


def _some_file(folder: Path, suffix: str, rng: random.Random) -> Path:
    return rng.choice(sorted((folder / "segments").glob(f"*{suffix}")))


def _noise(suffix: str) -> Forgery:
    """A few bytes are others; half of the time near the beginning, where the structure is."""

    def forge(folder: Path, rng: random.Random) -> bool:
        path = _some_file(folder, suffix, rng)
        data = bytearray(path.read_bytes())
        end = min(len(data), 200) if rng.random() < 0.5 else len(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            data[rng.randrange(end)] = rng.choice((rng.randrange(256), 0, 255, 127, 128))
        put(folder, path.name, bytes(data))
        return False

    return forge


def _huge_number(suffix: str) -> Forgery:
    """A number of 4 or 8 bytes is huge; mostly near the beginning."""

    def forge(folder: Path, rng: random.Random) -> bool:
        path = _some_file(folder, suffix, rng)
        data = bytearray(path.read_bytes())
        width = rng.choice((4, 8))
        at = rng.randrange((min(len(data), 300) if rng.random() < 0.7 else len(data)) - width)
        data[at : at + width] = struct.pack("<Q", rng.choice(HUGE))[:width]
        put(folder, path.name, bytes(data))
        return False

    return forge


def _other_length(suffix: str) -> Forgery:
    """The file ends early or goes on."""

    def forge(folder: Path, rng: random.Random) -> bool:
        path = _some_file(folder, suffix, rng)
        data = path.read_bytes()
        longer = rng.random() < 0.3
        put(folder, path.name, data + rng.randbytes(99) if longer else data[: rng.randrange(len(data))])
        return not longer

    return forge


def _flat_that_is_huge(folder: Path, rng: random.Random) -> bool:
    """A flat index that declares more than there is."""
    path = _some_file(folder, ".faiss", rng)
    d, n = rng.choice(((8, 2**40), (2**31 - 1, 2**31), (8, 2**61), (2**30, 80), (8, 10**9)))
    size = rng.choice((n * d % 2**62, n * d * 4 % 2**62, 2**34, 2**62))
    data = b"IxFI" + struct.pack("<iqqqBi", d, n, 1 << 20, 1 << 20, 1, 0) + struct.pack("<Q", size) + bytes(2560)
    put(folder, path.name, data)
    return True


def _another_structure(folder: Path, rng: random.Random) -> bool:
    """A well-formed index of FAISS of another kind: other rows, columns or metric, with ids of its own, or binary."""
    import faiss

    path = _some_file(folder, ".faiss", rng)
    stored = faiss.read_index(str(path))
    n, columns = stored.ntotal, stored.d
    kind = rng.choice(("rows", "columns", "ids", "hamming", "empty", "untrained"))
    if kind == "hamming":
        binary = faiss.IndexBinaryFlat(columns)
        binary.add(np.zeros((n, columns // 8), np.uint8))
        faiss.write_index_binary(binary, str(path))
    else:
        d = 2 * columns if kind == "columns" else columns
        index: Any = faiss.IndexIDMap(faiss.IndexFlatIP(d)) if kind == "ids" else faiss.IndexFlatIP(d)
        if kind == "untrained":
            index = faiss.index_factory(d, "IVF4,Flat", faiss.METRIC_INNER_PRODUCT)
        elif kind == "ids":
            index.add_with_ids(np.eye(d, dtype=np.float32)[np.arange(n) % d], np.arange(n) + 10**12)
        elif kind != "empty":
            index.add(np.eye(d, dtype=np.float32)[np.arange(n + (kind == "rows")) % d])
        faiss.write_index(index, str(path))
    put(folder, path.name, path.read_bytes())
    return True


def _npy_header(folder: Path, rng: random.Random) -> bool:
    """An array whose header says something else than what is there."""
    path = _some_file(folder, ".npy", rng)
    stored = np.load(path)
    more = {"fortran_order": False, "descr": stored.dtype.str, "shape": stored.shape}
    wrong: dict[str, Any] = rng.choice((
        {"shape": (10**12, 16)}, {"shape": (2**62, 2**62)}, {"shape": (2**40,)}, {"shape": (-1, 16)}, {"shape": ()},
        {"shape": (5, 16)}, {"shape": (len(stored) // 2, 2 * stored[0].size)}, {"shape": stored.shape[::-1] + (1,)}, {"shape": (0, 16)},
        {"shape": (1,) * 100}, {"descr": "|O"}, {"descr": "|V2"}, {"descr": "<U1"}, {"descr": "<M8[s]"},
        {"descr": "<c16"}, {"descr": "nonsense"}, {"descr": [("a", "<f2")]}, {"shape": "what"}, {"fortran_order": 7},
    ))  # fmt: skip
    header = (repr(more | wrong) + "\n").encode()
    if rng.random() < 0.1:  # nested so deep that reading it is work
        header = b"{'descr': " + b"(" * 20_000 + b")" * 20_000 + b"}\n"
    data = b"\x93NUMPY\x02\x00" + struct.pack("<I", len(header)) + header + stored.tobytes()
    put(folder, path.name, data)
    return True


def _npy_length(folder: Path, rng: random.Random) -> bool:
    """An array whose header is said to be longer than the file."""
    path = _some_file(folder, ".npy", rng)
    size = rng.choice((2**32 - 1, 2**31, 2**31 - 1, 10**6))
    put(folder, path.name, b"\x93NUMPY\x02\x00" + struct.pack("<I", size) + path.read_bytes()[10:])
    return True


def _npy_values(folder: Path, rng: random.Random) -> bool:
    """An array of the right shape with values that no index holds: NaN, infinite; for rows, others than there are."""
    path = _some_file(folder, ".npy", rng)
    stored = np.load(path)
    stored[::2] = rng.choice((np.nan, np.inf)) if stored.dtype.kind == "f" else 10**15  # live ones and deleted ones
    file = io.BytesIO()
    np.save(file, stored)
    put(folder, path.name, file.getvalue())
    return True


def _safetensors_header(folder: Path, rng: random.Random) -> bool:
    """A whitening whose header says something else than what is there."""
    path = _some_file(folder, ".safetensors", rng)
    data = path.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    parameters = json.loads(header["__metadata__"]["whitening"])
    kind = rng.choice(("length", "shape", "offsets", "dtype", "missing", "parameters", "nested"))
    if kind == "length":
        put(folder, path.name, struct.pack("<Q", rng.choice(HUGE[:-2])) + data[8:])
        return True
    tensor = header[rng.choice(("mean", "eigenvalues", "components"))]
    if kind == "shape":
        tensor["shape"] = rng.choice(([2**62, 2**62], [2**40], [-1], [], [10**18, 16], "x", [0, 8], [8, 16], [4]))
    elif kind == "offsets":
        tensor["data_offsets"] = rng.choice(([0, 2**62], [2**62, 2**63], [-8, 8], [8, 0], [0], None))
    elif kind == "dtype":
        tensor["dtype"] = rng.choice(("F32", "I64", "BF16", "F8_E4M3", "what", None))
    elif kind == "missing":
        del header[rng.choice(("mean", "eigenvalues", "components", "__metadata__"))]
    elif kind == "nested":
        header["__metadata__"]["whitening"] = "[" * 100_000 + "]" * 100_000
    else:
        parameters |= rng.choice((
            {"dim": 10**12}, {"dim": None}, {"dim": 7}, {"dim": "8"}, {"n_fitted": None}, {"n_fitted": "x"}, {"what": 1},
            {"beta": "x"}, {"gamma": 1e308}, {"epsilon": -1.0}, {"beta": None}, {"gamma": None},
        ))  # fmt: skip
        header["__metadata__"]["whitening"] = json.dumps(parameters)
    written = json.dumps(header).encode()
    put(folder, path.name, struct.pack("<Q", len(written)) + written + body)
    return kind != "parameters"


def _outside(folder: Path, rng: random.Random) -> bool:
    """A file of the index lies elsewhere, with the right content, and the manifest says where."""
    outside = folder.parent / "outside"

    def lead_out(manifest: dict[str, Any]) -> None:
        entry = rng.choice(entries(manifest))
        inside = folder / "segments" / entry["name"]
        moved = inside.rename(outside / entry["name"])
        (folder / "segments" / "below").mkdir()
        shutil.copy(moved, folder / "segments" / "below")
        shutil.copy(moved, folder / "moved")
        entry["name"] = rng.choice((
            f"../../outside/{moved.name}", str(moved), f"below/../../../outside/{moved.name}", f"below/{moved.name}",
            f"./below/{moved.name}", "../moved", f"../segments/below/{moved.name}", "../../outside/" + moved.name + "\0",
        ))  # fmt: skip

    rewrite(folder, lead_out)
    return True


def _strange_name(folder: Path, rng: random.Random) -> bool:
    """The manifest names no file of this index."""

    def rename(manifest: dict[str, Any]) -> None:
        rng.choice(entries(manifest))["name"] = rng.choice((
            "../../etc/passwd", "../../../../../../../../etc/passwd", "/etc/passwd", "/dev/zero", "a\0b", "", ".", "..",
            "~", "x" * 5000, "\ud800", None, 7, ["a"], "/proc/self/mem", "..\\..\\x", "000001.faiss\n", " ",
        ))  # fmt: skip

    rewrite(folder, rename)
    return True


STRANGE: tuple[Any, ...] = (
    None,
    -1,
    0,
    2**31,
    2**63,
    2**70,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "7",
    [],
    {},
    True,
    [[]],
    "\0",
)


def _strange_value(folder: Path, rng: random.Random) -> bool:
    """Some value of the manifest is another, is missing, or is one too many."""

    def change(manifest: dict[str, Any]) -> None:
        at: Any = manifest
        while isinstance(at, dict | list) and at:
            key = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
            if not isinstance(at[key], dict | list) or not at[key] or rng.random() < 0.3:
                break
            at = at[key]
        how = rng.random()
        if how < 0.15:
            del at[key]
        elif how < 0.25 and isinstance(at, dict):
            at["what"] = rng.choice(STRANGE)
        else:
            at[key] = rng.choice(STRANGE)

    rewrite(folder, change)
    return False


def _strange_manifest(folder: Path, rng: random.Random) -> bool:
    """The manifest is no description of an index at all."""
    text = rng.choice(("null", "[]", "{}", "7", '"x"', "", "[" * 100_000 + "]" * 100_000, "NaN", '{"format_version": 1}',
                       '{"format_version": []}', '{"format_version": "2"}', '{"a": ' * 50_000 + "1" + "}" * 50_000))  # fmt: skip
    rewrite(folder, lambda manifest: text)
    return True


FORGERIES: dict[str, tuple[int, Forgery]] = {
    "*.faiss, other bytes": (30, _noise(".faiss")),
    "*.faiss, a huge number": (15, _huge_number(".faiss")),
    "*.faiss, another length": (5, _other_length(".faiss")),
    "*.faiss, a flat index that declares too much": (4, _flat_that_is_huge),
    "*.faiss, another structure": (4, _another_structure),
    "*.npy, other bytes": (4, _noise(".npy")),
    "*.npy, another header": (8, _npy_header),
    "*.npy, a header longer than the file": (2, _npy_length),
    "*.npy, another length": (3, _other_length(".npy")),
    "*.npy, values that cannot be": (2, _npy_values),
    "*.sums, other bytes": (2, _noise(".sums")),
    "*.sums, another length": (2, _other_length(".sums")),
    "*.safetensors, other bytes": (4, _noise(".safetensors")),
    "*.safetensors, another header": (8, _safetensors_header),
    "*.safetensors, another length": (2, _other_length(".safetensors")),
    "manifest, a file elsewhere": (5, _outside),
    "manifest, a strange name": (5, _strange_name),
    "manifest, a strange value": (20, _strange_value),
    "manifest, no manifest": (3, _strange_manifest),
}
"""How often, for each time, and what."""


def run(scenes: list[Scene], trials: int, seed: int) -> list[Result]:
    """Forge a file so many times and ask the index everything."""
    rng = random.Random(seed)
    counts: Counter[str] = Counter()
    violations: dict[str, list[str]] = {}
    cases = [name for name, (weight, _) in FORGERIES.items() for _ in range(weight)]
    plan = [name for _ in range(-(-trials // len(cases))) for name in rng.sample(cases, len(cases))][:trials]
    for number, name in enumerate(plan):
        scene = rng.choice(scenes)
        with tempfile.TemporaryDirectory(dir=scene.index.parent) as made:
            folder = Path(made) / "index"
            (Path(made) / "outside").mkdir()
            shutil.copytree(scene.index, folder)
            must_refuse = FORGERIES[name][1](folder, random.Random(f"{seed} {number}"))
            end, answers, noise = questioned(folder)
        kinds = {kind for kind, _ in answers.values()}
        wrong = [f"{question}: raises {value}" for question, (kind, value) in answers.items() if kind == "raised"]
        if not end.well:
            wrong.append(f"{end} {' | '.join(noise.splitlines())[:1200]}")
        seen = "refused" in kinds or bool(answers.get("verify", ("", []))[1])
        if end.well and must_refuse and not seen:
            wrong.append("is not refused")
        outcome = "WRONG" if wrong else "refused" if seen else "harmless"
        kind = f"stranger, {name}: {outcome}"
        counts[kind] += 1
        case = f"trial {number} of seed {seed}, {scene.name}, {name}"
        violations.setdefault(kind, []).extend([f"{case}: {'; '.join(wrong[:3])}"] if wrong else [])
    return [Result(kind=kind, number=counts[kind], violations=violations[kind]) for kind in sorted(counts)]
