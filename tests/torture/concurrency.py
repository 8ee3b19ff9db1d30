"""Many readers beside one writer, and writers beside each other.

A writer changes all documents, some, or how they are stored, commit after commit, and notes each state before and
after its commit. Readers ask all the while; each answer must be that of one noted state, not older than the
newest that was committed when it was asked for, and not older than the answer before. A writer that meets another
is told at once who that is; one that was killed is in nobody's way.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from storage import no_waiting_for_the_disk

from retrieval import Engine, Whitening

from .children import Child, Tell, in_fresh_process
from .locks import contenders, second_writers
from .meddling import kept_maps, meddled
from .notes import MODEL, Notes, State, documents_of, first_state, new_documents, some_text
from .reader import Reader
from .result import Result

READERS = 8
PAUSE = 0.05  # seconds between two questions at most: eight readers on few cores would leave the writer no turn


def run(trials: int, seed: int) -> list[Result]:
    """Readers and a writer for so many seconds; then, in a tenth of that number of trials, writers beside writers."""
    results: list[Result] = in_fresh_process(_run, trials, seed)
    return results


def _run(seconds: int, seed: int) -> list[Result]:
    with no_waiting_for_the_disk():
        return [
            *readers_and_a_writer(seconds, seed, readers=READERS, stays=True),
            *readers_and_a_writer(seconds / 2, seed, readers=2, stays=False),
            *contenders(max(1, seconds // 10), seed),
            *second_writers(max(3, seconds // 2), seed),
            *meddled(5 * seconds, seed),
            kept_maps(max(1, seconds // 10), seed),
        ]


def _change(number: int, state: State, rng: random.Random) -> tuple[str, State, Callable[[Engine], Any]]:
    """A random write: its name, the state after it, and what does it."""
    name = rng.choice(("relabel", "replace", "add", "add", "delete", "delete by filter", "prune", "compact", "rebuild"))
    if name == "relabel":
        after = {doc_id: (text, metadata | {"state": number}) for doc_id, (text, metadata) in state.items()}
        return name, after, lambda engine: engine.upsert(documents_of(after))
    if name == "replace":
        chosen = rng.sample([doc_id for doc_id in sorted(state) if doc_id != "core000"], len(state) // 3)
        changed = {each: (some_text(rng), state[each][1] | {"state": number}) for each in chosen}
        return name, state | changed, lambda engine: engine.upsert(documents_of(changed))
    if name == "add":
        new = new_documents(number, rng)
        return name, state | new, lambda engine: engine.add(documents_of(new))
    if name == "delete":
        gone = [doc_id for doc_id in state if not doc_id.startswith("core") and rng.random() < 0.5]
        return name, {k: v for k, v in state.items() if k not in gone}, lambda engine: engine.delete(gone)
    if name == "delete by filter":
        limit = number - 5
        after = {k: v for k, v in state.items() if k.startswith("core") or v[1]["state"] >= limit}
        return name, after, lambda engine: engine.delete(filter=f"state < {limit} AND id LIKE 's%'")
    if name == "prune":
        after = {k: v for k, v in state.items() if k.startswith("core")} | new_documents(number, rng)
        return name, after, lambda engine: engine.upsert(documents_of(after), prune=True)
    if name == "compact":
        return name, state, lambda engine: engine.compact()
    whitening = rng.choice(("same", None, Whitening(rng.randint(4, 12), beta=rng.random(), gamma=rng.random())))
    return name, state, lambda engine: engine.rebuild(whitening=whitening)


def _write(folder: Path, notes: Path, until: float, seed: int, stays: bool, tell: Tell) -> None:
    """Commit one state after the other."""
    rng, kept, counts = random.Random(seed), Notes(notes), Counter[str]()
    kept.read()
    engine = Engine.open(folder, model=MODEL)
    while time.monotonic() < until:
        name, after, do = _change(len(kept.states), kept.states[-1], rng)
        kept.may_come(after)
        do(engine)
        kept.has_come()
        counts[name] += 1
        if not stays:
            engine.close()
            engine = Engine.open(folder, model=MODEL)
    engine.close()
    tell(dict(counts))


def _read(folder: Path, notes: Path, until: float, seed: int, stays: bool, tell: Tell) -> None:
    """Ask one question after the other."""
    reader = Reader(folder, notes, seed)
    while time.monotonic() < until and len(reader.violations) < 10:
        reader.ask()
        if stays:
            time.sleep(random.random() * PAUSE)
        else:
            reader.close()
            time.sleep(random.random() * PAUSE)
            before = len(reader.violations)
            reader.ask("open")
            if len(reader.violations) > before:  # it stays closed
                break
    reader.close()
    tell((dict(reader.counts), reader.violations))


def readers_and_a_writer(seconds: float, seed: int, *, readers: int, stays: bool) -> list[Result]:
    """Some readers beside one writer; those who do not stay open the index for each question, and for each commit."""
    with tempfile.TemporaryDirectory() as name:
        folder, path = Path(name) / "index", Path(name) / "notes"
        state = first_state(random.Random(seed))
        Engine.build(documents_of(state), folder, model=MODEL, whitening=Whitening(8)).close()
        notes = Notes(path)
        notes.may_come(state)
        notes.has_come()
        until = time.monotonic() + seconds

        def begin(work: Callable[..., None], number: int) -> Child:
            return Child(lambda tell: work(folder, path, until, 1000 * seed + number, stays, tell))

        writer, *others = [begin(_read if number else _write, number) for number in range(readers + 1)]
        time.sleep(max(0.0, until - time.monotonic()))
        ends = [child.end() for child in others]
        written = writer.end()
    who = "reader" if stays else "visitor"
    commits = written.told[0] if written.told else {}
    what = ", ".join(f"{count} {name}" for name, count in sorted(commits.items()))
    failed = [] if written.well else [f"writer of seed {seed}: {written}"]
    results = [Result(kind=f"commits beside {who}s ({what})", number=sum(commits.values()), violations=failed)]
    counts = Counter[str]()
    violations: dict[str, list[str]] = {"to the end": []}
    for number, end in enumerate(ends, 1):
        if not end.well:
            violations["to the end"].append(f"{who} {number} of seed {seed}: {end}")
        for asked, wrong in end.told:
            counts.update(asked)
            for each in wrong:
                violations.setdefault(each.partition(", states")[0], []).append(
                    f"{who} {number} of seed {seed}: {each}"
                )
    counts["to the end"] = readers
    return [
        *results,
        *(Result(kind=f"{who} beside a writer, {one}", number=counts[one], violations=violations.get(one, []))
          for one in sorted(counts)),
    ]  # fmt: skip
