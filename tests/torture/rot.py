"""Rot: whatever becomes of a file of an index, no answer is wrong.

For each trial an index is copied, one of its files damaged (`torture.damage`) and a child opens it and asks
everything that can be asked (`torture.asking`). Every answer must be the right one or a `RetrievalError` that names
the file. `torture.stranger` goes further: files that are wrong although their checksums fit.
"""

from __future__ import annotations

import random
import shutil
import tempfile
from collections import Counter
from pathlib import Path

from storage import no_waiting_for_the_disk

from indexes.seal import CATALOGUE, SEAL

from . import stranger
from .asking import FACTORIES, Answers, Scene, make_scene, questioned
from .children import End, in_fresh_process
from .damage import DAMAGES, STRAYS, Damage, Patient, files_of
from .result import Result


def run(trials: int, seed: int) -> list[Result]:
    """Damage files so many times; half as many, counted apart, are a stranger's with fitting checksums."""
    results: list[Result] = in_fresh_process(_run, trials, seed)
    return results


def _run(trials: int, seed: int) -> list[Result]:
    with tempfile.TemporaryDirectory() as folder, no_waiting_for_the_disk():
        scenes = [make_scene(Path(folder) / name, name, factory) for name, factory in FACTORIES.items()]
        return [*damaged(scenes, trials, seed), *stranger.run(scenes, trials // 2, seed)]


def damaged(scenes: list[Scene], trials: int, seed: int) -> list[Result]:
    """Every damage to every file in turn, in a random order, flipped bits most of all."""
    rng = random.Random(seed)
    cases = [
        (scene, name, damage)
        for scene in scenes
        for name in files_of(scene.index)
        for damage in [*DAMAGES, *["a flipped bit"] * (30 if name == CATALOGUE else 5)]
    ]
    cases += [(scene, CATALOGUE, damage) for scene in scenes for damage in STRAYS]
    plan = [case for _ in range(-(-trials // len(cases))) for case in rng.sample(cases, len(cases))][:trials]
    counts: Counter[tuple[str, str]] = Counter()
    violations: dict[tuple[str, str], list[str]] = {}
    for number, (scene, name, damage) in enumerate(plan):
        outcome, wrong = _trial(scene, name, (DAMAGES | STRAYS)[damage], random.Random(f"{seed} {number}"))
        kind = (_kind(name), f"{damage}: {outcome}")
        counts[kind] += 1
        case = f"trial {number} of seed {seed}, {scene.name}, {name}, {damage}"
        violations.setdefault(kind, []).extend([f"{case}: {'; '.join(wrong[:3])}"] if wrong else [])
    return [
        Result(kind=f"rot, {file}, {what}", number=counts[file, what], violations=violations[file, what])
        for file, what in sorted(counts)
    ]


def _kind(name: str) -> str:
    return name if name.startswith("catalogue") else f"*.{name.partition('.')[2]}"


def _trial(scene: Scene, name: str, damage: Damage, rng: random.Random) -> tuple[str, list[str]]:
    """What came of a damage ("found", "harmless" or "WRONG"), and what is wrong."""
    with tempfile.TemporaryDirectory(dir=scene.index.parent) as made:
        folder, outside = Path(made) / "index", Path(made) / "outside"
        outside.mkdir()
        shutil.copytree(scene.index, folder)
        patient = Patient(folder=folder, name=name, older=scene.older, other=scene.other, outside=outside)
        touched = damage(patient, rng)
        # what SQLite keeps for itself may be lost, and so may a seal (there is none after a kill)
        listed = {each for each in touched if not each.endswith(("-wal", "-shm", SEAL))}
        changed = {each for each in listed if _differs(folder / each, scene.index / each)}
        end, answers, noise = questioned(folder)
    return judge(scene.expected, end, answers, noise, touched, changed)


def _differs(path: Path, original: Path) -> bool:
    return path.is_symlink() or not path.is_file() or path.read_bytes() != original.read_bytes()


def judge(
    expected: Answers, end: End, answers: Answers, noise: str, touched: set[str], changed: set[str]
) -> tuple[str, list[str]]:
    """What came of a trial ("found", "harmless" or "WRONG"), and what is wrong."""
    if not end.well:
        return "WRONG", [f"{end} {_one_line(noise)}"]
    wrong, found = [], False
    for question, (kind, value) in answers.items():
        if kind == "raised":
            wrong.append(f"{question}: raises {value}")
        elif kind == "refused":
            found = True
            if not _names(value, touched):
                wrong.append(f"{question}: refused without naming {sorted(touched)}: {value}")
        elif question == "verify":
            found |= bool(value)
            if value and not _names(str(value), touched):
                wrong.append(f"verify blames others than {sorted(touched)}: {value}")
            if not value and changed:
                wrong.append(f"verify is content although {sorted(changed)} differ")
        elif value != expected[question][1]:
            wrong.append(f"{question}: wrong answer")
    return ("WRONG" if wrong else "found" if found else "harmless"), wrong


def _names(message: str, touched: set[str]) -> bool:
    """Whether a message names a damaged file; a seal speaks for its catalogue."""
    names = {Path(each).name for each in touched}
    return any(name in message for name in names | ({CATALOGUE} if SEAL in names else set()))


def _one_line(text: str) -> str:
    return " | ".join(text.split("\n"))[:1500]
