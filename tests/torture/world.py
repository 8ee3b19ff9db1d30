"""A world in which an index must hold: random operations, and a dict that says what each makes of the documents.

The dict knows nothing of rows, segments and files. `check` opens an index afresh and holds all that can be asked of
it against the dict and against inner products by numpy.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from indexes.bundle import Bundle
from indexes.errors import IndexMissingError, IndexUnfinishedError, RetrievalError
from retrieval import Document, Engine, Whitening
from retrieval.cross.anchors import Anchors
from retrieval.encoder import HashEncoder
from retrieval.moments import unit_rows
from retrieval.neighbors import positioned

from .children import Tell, in_child
from .result import Result

State = Mapping[str, tuple[str, Mapping[str, Any]]]
"""Text and metadata by id."""

MODEL = HashEncoder(16)
DIM = 8  # columns that whitening keeps
WORDS = ("fox", "whale", "red", "blue", "sea", "night", "train", "café", "日本", "狐狸", "大海", "红色")
QUERIES = ("red fox", "大海", "night train sea", "blue whale 狐狸")
TOLERANCE, ANGLE_TOLERANCE = 1e-5, 2e-3
"""Of scores; of angles in radians, which arccos makes of them."""


class Tally:
    """Counts trials and keeps what was wrong."""

    def __init__(self, kind: str) -> None:
        self.kind, self.number, self.violations = kind, 0, list[str]()

    def add(self, label: str, wrong: Sequence[str]) -> None:
        """One trial more, and what was wrong."""
        self.number += 1
        self.violations += [f"{label}: {one}" for one in wrong]

    @property
    def result(self) -> Result:
        """The sum."""
        return Result(kind=self.kind, number=self.number, violations=self.violations)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """Something that is done to an index in one commit.

    Attributes
    ----------
    name : str
    start : callable
        Opens the index of a path with some encoder, or builds it.
    change : callable
        Does to it what is to be done; nothing to an index that was just built.
    command : list of str
        Does the same on the command line, with INDEX and CORPUS for two paths; empty where it cannot.
    documents : sequence of Document
        The corpus, if it takes one.
    before, after : State or None
        The documents there were and there must be; None where there is no index.
    merges : bool, default=False
        Whether it leaves one segment without deletions: what tells of an operation that leaves the documents as they are.
    refits : bool, default=False
        Whether the whitening (if there is one) is of all documents then.
    completes : str, optional
        What all documents have then, as `Engine.info` names it: "anchors" (scores with them) or "graph" (links in it).
    """

    name: str
    start: Callable[[Path, HashEncoder], Engine]
    change: Callable[[Engine], object]
    command: list[str]
    documents: Sequence[Document] = ()
    before: State | None
    after: State
    merges: bool = False
    refits: bool = False
    completes: str | None = None

    def unseen(self, path: Path) -> list[str]:
        """What of it cannot be seen in an index, though it was acknowledged."""
        with Engine.open(path, model=MODEL) as engine:
            info = engine.info()
        wrong = []
        if self.merges and (info["segments"] > 1 or info["deleted"]):
            wrong.append(f"{self.name} left {info['segments']} segments, {info['deleted']} deleted rows")
        if self.refits and info["whitening"] and info["whitening"]["n_fitted"] != len(self.after):
            wrong.append(
                f"{self.name} left a whitening of {info['whitening']['n_fitted']} of {len(self.after)} documents"
            )
        if self.completes and (info[self.completes] or {}).get("documents") != len(self.after):
            wrong.append(f"{self.name} left {info[self.completes]}; expected {len(self.after)} documents in it")
        return wrong

    def do(self, path: Path, encoder: HashEncoder) -> Engine:
        """Start and change; the engine is open."""
        engine = self.start(path, encoder)
        try:
            self.change(engine)
        except BaseException:
            engine.close()
            raise
        return engine

    def run(self, path: Path) -> None:
        """Do it, then let go of the files."""
        self.do(path, MODEL).close()

    def arguments(self, path: Path, corpus: Path) -> list[str]:
        """What to give to the command line; the corpus is written to a file."""
        lines = ({"id": one.doc_id, "text": one.text, **one.metadata} for one in self.documents)
        corpus.write_text("".join(json.dumps(line) + "\n" for line in lines))
        places = {"INDEX": str(path), "CORPUS": str(corpus)}
        return [places.get(word, word) for word in self.command]


class World:
    """Random operations, each on what the one before has left.

    Parameters
    ----------
    seed : int
        The same seed gives the same operations; every other world is whitened.
    names : sequence of str, default=all of `OPERATIONS`
        What may be done after the first build.
    """

    def __init__(self, seed: int, names: Sequence[str] = ()) -> None:
        self.random = random.Random(seed)
        self.whitening = seed % 2 == 0
        self.names = tuple(names or OPERATIONS)
        self.state: State | None = None
        self._given = 0

    def next(self, name: str | None = None) -> Operation:
        """The next operation; the world then is as if it were done."""
        if name is None:
            name = "build" if self.state is None else self.random.choice(self.names)
        operation = _build(self) if name == "build" else OPERATIONS[name](self)
        self.state = operation.after
        return operation

    def documents(self, n: int) -> list[Document]:
        """New ones; texts come again, some have no metadata."""
        made = []
        for _ in range(n):
            self._given += 1
            doc_id = self.random.choice(("{:03}", "d{}", "文档 {}", "o'{}")).format(self._given)
            made.append(Document(doc_id=doc_id, text=self.text(), metadata=self.metadata()))
        return made

    def text(self) -> str:
        return " ".join(self.random.choices(WORDS, k=self.random.randint(1, 3)))

    def metadata(self) -> dict[str, Any]:
        n = self.random.randint(0, 9)
        return self.random.choice(({"kind": self.random.choice("abc"), "n": n}, {"kind": "文"}, {"n": n / 2}, {}))

    def known(self) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """The documents there are."""
        assert self.state is not None
        return dict(self.state)

    def some(self, share: float) -> list[str]:
        """Ids of so many of the documents there are."""
        ids = sorted(self.known())
        return self.random.sample(ids, int(len(ids) * share))

    def changed(self, share: float) -> list[Document]:
        """So many of the documents there are: some with another text, some with other metadata, some as they are."""
        state, made = self.known(), []
        for doc_id in self.some(share):
            text, metadata = state[doc_id]
            how = self.random.randrange(4)
            text = self.text() if how in (0, 2) else text
            metadata = self.metadata() if how in (1, 2) else metadata
            made.append(Document(doc_id=doc_id, text=text, metadata=metadata))
        return made


def _build(world: World) -> Operation:
    documents = world.documents(world.random.randint(20, 40))
    how: dict[str, Any] = (
        {"dim": DIM, "beta": 1.0, "gamma": 0.5, "epsilon": 0.001, "local": 0.0} if world.whitening else {}
    )

    def start(path: Path, encoder: HashEncoder) -> Engine:
        return Engine.build(documents, path, model=encoder, whitening=Whitening(**how) if how else None)

    options = [word for name, value in how.items() for word in (f"--{name}", str(value))] or ["--no-whitening"]
    command = ["build", "CORPUS", "-o", "INDEX", "-m", MODEL.name, *options]
    return Operation(
        name="build",
        start=start,
        change=lambda engine: None,
        command=command,
        documents=documents,
        before=None,
        after=_state(documents),
    )


def _add(world: World) -> Operation:
    state = world.known()
    documents = world.documents(world.random.randint(1, 12)) + [_document(one, state) for one in world.some(0.1)]
    world.random.shuffle(documents)
    return _change(world, "add", lambda engine: engine.add(documents), documents, state | _state(documents))


def _upsert(world: World) -> Operation:
    documents = world.changed(0.3) + world.documents(world.random.randint(1, 8))
    world.random.shuffle(documents)
    return _change(
        world, "upsert", lambda engine: engine.upsert(documents), documents, world.known() | _state(documents)
    )


def _prune(world: World) -> Operation:
    documents = world.changed(0.8) + world.documents(world.random.randint(1, 8))
    return _change(
        world, "upsert --prune", lambda engine: engine.upsert(documents, prune=True), documents, _state(documents)
    )


def _delete(world: World) -> Operation:
    ids = world.some(0.2)
    after = {doc_id: one for doc_id, one in world.known().items() if doc_id not in ids}
    return _change(world, "delete", lambda engine: engine.delete([*ids, "never there"]), [], after, *ids, "never there")


def _delete_by_filter(world: World) -> Operation:
    kind = world.random.choice("abc文")
    after = {doc_id: one for doc_id, one in world.known().items() if one[1].get("kind") != kind}
    return _change(
        world, "delete", lambda engine: engine.delete(filter={"kind": kind}), [], after, "--filter", f"kind = '{kind}'"
    )


def _compact(world: World) -> Operation:
    return replace(_change(world, "compact", lambda engine: engine.compact(), [], world.known()), merges=True)


def _rebuild(world: World) -> Operation:
    done = _change(world, "rebuild", lambda engine: engine.rebuild(), [], world.known())
    return replace(done, merges=True, refits=True)


class Scorer:
    """Stands for a cross-encoder; its scores are exact in float16."""

    name, fingerprint = "letters", {"weights": "none"}

    def __call__(self, query: str, texts: Sequence[str]) -> list[float]:
        return [float(len(set(query) & set(text)) - len(text)) for text in texts]


def _cross(world: World) -> Operation:
    fresh, anchors = world.random.random() < 0.3, world.random.randint(1, 3)

    def change(engine: Engine) -> None:
        new = fresh or engine.info()["anchors"] is None
        engine.score_anchors(Scorer(), anchors=anchors if new else None, fresh=fresh)

    done = _change(world, "cross", change, [], world.known())
    return replace(done, command=[], completes="anchors" if done.after else None)


def _graph(world: World) -> Operation:
    fresh, neighbors = world.random.random() < 0.3, world.random.randint(1, 5)

    def change(engine: Engine) -> None:
        new = fresh or engine.info()["graph"] is None
        engine.build_graph(neighbors if new else None, fresh=fresh)

    options = ["--fresh", "--neighbors", str(neighbors)] if fresh else []
    return replace(_change(world, "graph", change, [], world.known(), *options), completes="graph")


OPERATIONS: dict[str, Callable[[World], Operation]] = {
    "add": _add,
    "cross": _cross,
    "graph": _graph,
    "upsert": _upsert,
    "upsert --prune": _prune,
    "delete": _delete,
    "delete --filter": _delete_by_filter,
    "compact": _compact,
    "rebuild": _rebuild,
}
"""What can be done to an index that is there."""


def _change(
    world: World,
    command: str,
    change: Callable[[Engine], object],
    documents: Sequence[Document],
    after: State,
    *arguments: str,
) -> Operation:
    corpus = ["CORPUS"] if documents else []
    name, *options = command.split()
    command_line = [name, "INDEX", *corpus, *options, *arguments]
    return Operation(
        name=command,
        start=lambda path, encoder: Engine.open(path, model=encoder),
        change=change,
        command=command_line,
        documents=documents,
        before=world.known(),
        after=after,
    )


def _document(doc_id: str, state: State) -> Document:
    text, metadata = state[doc_id]
    return Document(doc_id=doc_id, text=text, metadata=metadata)


def _state(documents: Sequence[Document]) -> dict[str, tuple[str, Mapping[str, Any]]]:
    return {str(one.doc_id): (one.text, one.metadata) for one in documents}


def state_of(path: Path) -> State | None:
    """The documents of an index, by its own word; None if there is no index."""
    try:
        engine = Engine.open(path, model=MODEL)
    except (IndexMissingError, IndexUnfinishedError):
        return None
    with engine:
        return _documents_of(engine)


def _documents_of(engine: Engine) -> State:
    return _state(engine.get(engine.raw_documents()[0]))


def check(path: Path, state: State | None, *, settled: bool) -> list[str]:
    """What is wrong with an index that should hold these documents.

    Parameters
    ----------
    path : Path
    state : State or None
        None where no index may be.
    settled : bool
        Whether the last operation came to its end, so that nothing of it may be left over.
    """
    wrong = _unexplained(path, state, settled)
    if state is None:
        return wrong if state_of(path) is None else [*wrong, "there is an index"]
    wrong += ask(path, state)
    with Engine.open(path, model=MODEL) as engine:
        wrong += [f"verify: {one.name}: {one.problem}" for one in engine.verify(deep=True) if one.problem]
    return wrong


def ask(path: Path, state: State) -> list[str]:
    """What is wrong with what an index says of its documents, and finds."""
    with Engine.open(path, model=MODEL) as engine:
        return answers(engine, state)


def answers(engine: Engine, state: State) -> list[str]:
    """The same of an open one."""
    wrong: list[str] = []
    ids, raw = engine.raw_documents()
    if len(engine) != len(state) or len(set(ids)) != len(ids) or set(ids) != set(state):
        return [f"{len(engine)} documents, ids {sorted(ids)}; expected {sorted(state)}"]
    stored = _state(engine.get(ids))
    wrong += [
        f"{doc_id!r} is {stored[doc_id]}; expected {state[doc_id]}" for doc_id in ids if stored[doc_id] != state[doc_id]
    ]
    expected = MODEL.encode([state[doc_id][0] for doc_id in ids]).vectors.astype(np.float16)
    if not np.array_equal(raw, expected):
        wrong.append(f"raw vectors are not those of the texts: {np.flatnonzero((raw != expected).any(axis=1))}")
    wrong += _wrong_scores(engine, state)
    rows, every = _searched(engine, expected), np.ones(len(ids), np.bool_)
    wrong += _wrong_links(engine, ids, rows)
    kinds = np.array([state[doc_id][1].get("kind") == "a" for doc_id in ids], np.bool_)
    for query in QUERIES:
        scores = rows @ _searched(engine, MODEL.encode([query]).vectors)[0]
        for k, allowed, expression in ((5, every, None), (len(ids) + 3, every, None), (4, kinds, "kind = 'a'")):
            if allowed.any():
                hits = engine.search(query, k, filter=expression, exact=True)
                found = [(hit.doc_id, hit.score) for hit in hits]
                wrong += [f"search {query!r}, {expression}: {one}" for one in _misses(found, ids, scores, allowed, k)]
    return wrong


def _wrong_scores(engine: Engine, state: State) -> list[str]:
    """Documents whose scores with the anchor queries are not those of their texts."""
    bundle = engine._bundle

    def stored() -> tuple[list[str], Sequence[str], NDArray[Any]]:
        scores, path = bundle.kept("scores"), bundle.anchors_path
        if scores is None or path is None:
            return [], [], np.empty((0, 0))
        ids = [one.doc_id for one in bundle.documents(scores.rows.tolist())]
        return ids, Anchors.load(path).queries, scores[:]

    ids, queries, scores = bundle.read(stored)
    expected = np.array([Scorer()(query, [state[doc_id][0] for doc_id in ids]) for query in queries]).T
    wrong = [
        f"scores of {doc_id!r} are {found}; expected {right}, or none"
        for doc_id, found, right in zip(ids, scores.tolist(), expected.tolist(), strict=False)
        if found != right and not np.isnan(found).all()
    ]
    return wrong + ([f"{len(scores)} documents with scores or none"] if len(ids) not in (0, len(state)) else [])


def _wrong_links(engine: Engine, ids: list[str], rows: NDArray[Any]) -> list[str]:
    """Links of the neighbour graph that are not as long as the angle between their documents."""
    bundle = engine._bundle

    def stored() -> tuple[list[str], NDArray[Any]]:
        lists = bundle.kept("neighbors")
        if lists is None:
            return [], np.empty((0, 0))
        found = positioned(lists.rows, lists[:])
        return [one.doc_id for one in bundle.documents(lists.rows.tolist())], found

    linked, lists = bundle.read(stored)
    if not linked:
        return []
    place = {doc_id: at for at, doc_id in enumerate(ids)}
    at = np.array([place[doc_id] for doc_id in linked])
    there = lists["row"] >= 0
    begin, end = np.nonzero(there)[0], lists["row"][there]
    apart = np.arccos(np.einsum("nd,nd->n", rows[at[begin]], rows[at[end]]).clip(-1.0, 1.0))
    off = np.abs(apart - lists["angle"][there]) > ANGLE_TOLERANCE
    wrong = [
        f"{linked[one]!r} is linked with {linked[other]!r}" for one, other in zip(begin[off], end[off], strict=True)
    ]
    wrong += [f"{linked[one]!r} is linked with itself" for one in begin[begin == end]]
    return wrong + ([f"{len(linked)} documents with links or none"] if len(linked) != len(ids) else [])


def _searched(engine: Engine, raw: NDArray[Any]) -> NDArray[np.float32]:
    return unit_rows(raw) if engine.whitening is None else engine.whitening.transform(raw)


def _misses(
    found: list[tuple[str, float]], ids: list[str], scores: NDArray[Any], allowed: NDArray[np.bool_], k: int
) -> list[str]:
    """How hits differ from the k best of these scores; scores nearer than `TOLERANCE` may change places."""
    score_of = dict(
        zip((doc_id for doc_id, may in zip(ids, allowed, strict=True) if may), scores[allowed], strict=True)
    )
    best = np.sort(scores[allowed])[::-1][:k]
    if len(found) != len(best) or len({doc_id for doc_id, _ in found}) != len(found):
        return [f"{len(found)} hits; expected {len(best)} different ones"]
    wrong = [
        f"hit {doc_id!r} has score {score}; expected {score_of.get(doc_id)}, and {best_score} at this rank"
        for (doc_id, score), best_score in zip(found, best, strict=True)
        if abs(score_of.get(doc_id, np.inf) - score) > TOLERANCE or abs(best_score - score) > TOLERANCE
    ]
    if found != sorted(found, key=lambda pair: (-pair[1], pair[0])):
        wrong.append(f"hits are not sorted by score, then id: {found}")
    return wrong


_LOCK = {"write.lock", "write.lock.json"}
_CATALOGUE = {"catalogue.sqlite", "catalogue.sqlite-wal", "catalogue.sqlite-shm", "catalogue.seal"}


def _unexplained(path: Path, state: State | None, settled: bool) -> list[str]:
    """What lies in an index folder, or is missing there, without a reason."""
    here = {one.relative_to(path).as_posix() for one in path.rglob("*") if one.is_file()}
    listed = set()
    if state is not None:
        bundle = Bundle(path)
        listed = {f"segments/{file.name}" for file in bundle.manifest.files}
        bundle.close()
    extra = here - listed - _LOCK - _CATALOGUE
    if not settled:
        extra = {name for name in extra if not name.startswith(("segments/", "staging/", "catalogue."))}
    wrong = [f"nothing explains {sorted(extra)}"] if extra else []
    if missing := listed - here:
        wrong.append(f"{sorted(missing)} are listed but not there")
    return wrong


def look(path: Path, operation: Operation, *, acknowledged: bool, settled: bool = False) -> tuple[list[str], bool]:
    """What is wrong with an index, as a fresh child sees it after an operation; and whether it is the new state.

    Parameters
    ----------
    acknowledged : bool
        Whether the operation came to its end; if not, the old state is as good as the new.
    settled : bool, default=False
        Whether nothing of the operation may be left over: it came to its end, and nothing failed on the way.
    """

    def work(tell: Tell) -> None:
        found = state_of(path)
        if found not in ([operation.after] if acknowledged else [operation.before, operation.after]):
            tell(([f"the state is {'not the new one' if acknowledged else 'neither old nor new'}: {found}"], False))
        else:
            wrong = check(path, found, settled=settled) + (operation.unseen(path) if acknowledged else [])
            tell((wrong, found == operation.after))

    end = in_child(work)
    return end.told[0] if end.well else ([str(end)], False)


def again(path: Path, operation: Operation, *, first: bool = False) -> list[str]:
    """What is wrong when a fresh child does an operation that may have been done already, unless it is the first."""
    end = in_child(lambda tell: tell(again_here(path, operation, first=first)))
    return end.told[0] if end.well else [f"again: {end}"]


def again_here(path: Path, operation: Operation, *, first: bool = False) -> list[str]:
    """The same in this process."""
    done = not first and state_of(path) == operation.after
    try:
        operation.run(path)
    except RetrievalError:  # there is an index already, no field of this name is left, ...
        if not done:
            raise
    # what was done already leaves nothing to do, and so may leave what it finds
    wrong = check(path, operation.after, settled=not done) + operation.unseen(path)
    return [f"again: {one}" for one in wrong]


def goes_on(engine: Engine, operation: Operation) -> list[str]:
    """What is wrong with an open engine whose change may have failed: it still answers, and can be changed."""
    found = _documents_of(engine)
    if found not in (operation.before, operation.after):
        return [f"the engine has neither the old documents nor the new: {found}"]
    wrong = answers(engine, found)
    try:
        operation.change(engine)
    except RetrievalError:
        if found != operation.after:
            raise
    return wrong + [f"changed again: {one}" for one in answers(engine, operation.after)]
