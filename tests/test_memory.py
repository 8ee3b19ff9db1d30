"""Memory does not grow with the corpus; a real corpus of 100,000 lines goes through."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

BUILD = """
import resource, sys
from retrieval import Engine
from retrieval.encoder import HashEncoder
n = int(sys.argv[1])
corpus = ((str(i), f"w{i % 97} " + "x" * 3000 + str(i % 1000)) for i in range(n))
Engine.build(corpus, sys.argv[2], model=HashEncoder(16), whitening=None, index="SQ8").close()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def peak_mib(n: int, path: Path) -> float:
    result = subprocess.run(
        [sys.executable, "-c", BUILD, str(n), str(path)], check=True, capture_output=True, text=True
    )
    return int(result.stdout) / 1024


def test_memory_of_a_build_does_not_grow_with_its_text(tmp_path: Path) -> None:
    small, large = peak_mib(5_000, tmp_path / "small"), peak_mib(60_000, tmp_path / "large")
    text = 55_000 * 3000 / 2**20  # 157 MiB more text, 1 MiB more vectors
    assert large - small < text / 3, f"{small:.0f} MiB at 5,000 documents, {large:.0f} MiB at 60,000"


@pytest.mark.shared
def test_a_hundred_thousand_real_lines(shared: Path, tmp_path: Path) -> None:
    with gzip.open(shared / "text" / "sentences-en.txt.gz", "rt", encoding="utf-8") as file:
        lines = [line.strip() for line in islice(file, 100_000)]
    with gzip.open(tmp_path / "lines.txt.gz", "wt", encoding="utf-8") as file:
        file.writelines(line + "\n" for line in lines)
    run = [sys.executable, "-c", "from retrieval.cli import main; main()"]
    build = [
        "build",
        str(tmp_path / "lines.txt.gz"),
        "-o",
        str(tmp_path / "i"),
        "-m",
        "hash:64",
        "--index",
        "HNSW16,SQ8",
    ]
    subprocess.run([*run, *build], check=True, capture_output=True)
    said = subprocess.run([*run, "info", str(tmp_path / "i"), "--format", "json"], check=True, capture_output=True)
    assert json.loads(said.stdout)["documents"] == sum(map(bool, lines))
    query = [*run, "query", str(tmp_path / "i"), lines[77_777], "-k", "1", "--exact", "--format", "json"]
    (answer,) = json.loads(subprocess.run(query, check=True, capture_output=True).stdout)
    assert answer["hits"][0]["text"] == lines[77_777]
