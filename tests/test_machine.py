"""An index against a dict: whatever is done in whatever order, both hold the same documents and give the same answers."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from storage import no_waiting_for_the_disk

from indexes.errors import DuplicateIdError, FilterError, IndexUnfinishedError, InputError
from retrieval import Document, Engine, Hit, Whitening
from retrieval.changes import Changes
from retrieval.encoder import Encoded, HashEncoder, Role

DIM = 8
QUERIES = ["red fox", "blue whale in the sea", "fence"]
TEXTS = ["red fox", "the red fox", "blue whale", "sea", "a fence", "a fence by the sea", "fox fox fox", "größe 🦊"]
IDS = ["a", "b", "c", "007", "7", "é", "🦊 x", "line\nbreak", "'; --", "Z"]
METADATA: list[dict[str, Any]] = [
    {},
    {"kind": "a"},
    {"kind": "b", "n": 1},
    {"n": 2},
    {"kind": None, "deep": {"n": [1, "x"]}},
]
FILTERS = {
    "kind = 'a'": lambda metadata: metadata.get("kind") == "a",
    "n >= 1 AND NOT kind = 'a'": lambda metadata: metadata.get("n", 0) >= 1 and metadata.get("kind") != "a",
}
FIELDS = {"kind = 'a'": ("kind",), "n >= 1 AND NOT kind = 'a'": ("n", "kind")}

State = dict[str, tuple[str, dict[str, Any]]]

corpora = st.dictionaries(
    st.sampled_from(IDS), st.tuples(st.sampled_from(TEXTS), st.sampled_from(METADATA)), max_size=6
)


class Stopped(BaseException):
    """As a Ctrl-C comes."""


class Stopping(HashEncoder):
    """The same encoder, that remembers its texts and is interrupted after some of them."""

    def __init__(self) -> None:
        super().__init__(DIM)
        self.left: float = math.inf
        self.encoded: list[str] = []

    def encode(self, texts: Sequence[str], role: Role = "document") -> Encoded:
        if role == "document":
            if len(texts) > self.left:
                raise Stopped
            self.left -= len(texts)
            self.encoded += texts
        return super().encode(texts, role)


def documents(state: State) -> list[Document]:
    return [Document(doc_id=doc_id, text=text, metadata=metadata) for doc_id, (text, metadata) in state.items()]


class IndexMachine(RuleBasedStateMachine):
    """One index, a reader that stays open beside the writer, and the dict."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.stack.enter_context(no_waiting_for_the_disk())
        patch = self.stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr("indexes.staging.CHUNK", 2)
        self.place = Path(tempfile.mkdtemp())
        self.stack.callback(shutil.rmtree, self.place)
        self.encoder = Stopping()
        self.state: State = {}

    def teardown(self) -> None:
        for engine in (getattr(self, "engine", None), getattr(self, "reader", None)):
            if engine is not None:
                engine.close()
        self.stack.close()

    @initialize(
        corpus=corpora.filter(len),
        whitening=st.sampled_from([None, 4, "auto", Whitening(dim=5, beta=0.0)]),
        index=st.sampled_from(["auto", "Flat", "HNSW4", "IVF2,Flat"]),
        raw=st.sampled_from(["float16", "float16", "float32", None]),
    )
    def build(self, corpus: State, whitening: Any, index: str, raw: Any) -> None:
        if index.startswith("IVF") and len(corpus) < 2:
            index = "Flat"
        self.raw = raw
        self.engine = Engine.build(
            documents(corpus), self.place / "index", model=self.encoder, whitening=whitening, index=index, raw=raw
        )
        self.reader = Engine.open(self.place / "index")
        self.state = dict(corpus)

    def expected(self, corpus: State, *, prune: bool) -> Changes:
        known = {doc_id: self.state[doc_id] for doc_id in corpus if doc_id in self.state}
        return Changes(
            added=len(corpus) - len(known),
            replaced=sum(corpus[doc_id][0] != text for doc_id, (text, _) in known.items()),
            relabelled=sum(corpus[i][0] == text and corpus[i][1] != metadata for i, (text, metadata) in known.items()),
            unchanged=sum(corpus[doc_id] == document for doc_id, document in known.items()),
            deleted=len(self.state.keys() - corpus.keys()) if prune else 0,
        )

    @rule(corpus=corpora.filter(len))
    def add(self, corpus: State) -> None:
        changes = self.expected(corpus, prune=False)
        if changes.replaced or changes.relabelled:
            with pytest.raises(DuplicateIdError, match="is in the index already"):
                self.engine.add(documents(corpus), fresh=True)
        else:
            assert self.engine.add(documents(corpus), fresh=True) == changes
            self.state |= corpus

    @rule(corpus=corpora.filter(len))
    def add_what_can_be_added(self, corpus: State) -> None:
        changes = self.expected(corpus, prune=False)
        rejects = self.place / "rejects.jsonl"
        if changes.added + changes.unchanged == 0:
            with pytest.raises(InputError, match="records were rejected"):
                self.engine.add(documents(corpus), on_error="skip", fresh=True)
            return
        found = self.engine.add(documents(corpus), on_error="skip", rejects=rejects, fresh=True)
        assert (found.added, found.unchanged) == (changes.added, changes.unchanged)
        assert len(rejects.read_text().splitlines()) == changes.replaced + changes.relabelled
        self.state = corpus | self.state

    @rule(corpus=corpora.filter(len), prune=st.booleans())
    def upsert(self, corpus: State, prune: bool) -> None:
        changes = self.expected(corpus, prune=prune)
        assert self.engine.upsert(documents(corpus), prune=prune, fresh=True) == changes
        self.state = dict(corpus) if prune else self.state | corpus

    @rule(corpus=corpora.filter(len), bad=st.integers(0, 6), kind=st.sampled_from(["empty", "twice", "raises"]))
    def a_corpus_that_cannot_be_used(self, corpus: State, bad: int, kind: str) -> None:
        def items() -> Any:
            for i, document in enumerate(documents(corpus)):
                if i == bad % len(corpus):
                    if kind == "raises":
                        raise ZeroDivisionError("the caller's own")
                    yield document if kind == "twice" else ("new", " ")
                yield document

        with pytest.raises((InputError, ZeroDivisionError)):
            self.engine.upsert(items(), fresh=True)

    @rule(corpus=corpora.filter(lambda corpus: len(corpus) >= 3), after=st.integers(0, 5), again=st.booleans())
    def an_interrupted_upsert(self, corpus: State, after: int, again: bool) -> None:
        """Goes on when the same call is made again; no other is taken for it, and no text encoded twice."""
        expected = self.expected(corpus, prune=False)
        new = {text for doc_id, (text, _) in corpus.items() if self.state.get(doc_id, ("", {}))[0] != text}
        self.encoder.left, self.encoder.encoded = after, []
        try:
            with pytest.raises(Stopped) if after < len(new) else nullcontext():
                assert self.engine.upsert(documents(corpus), fresh=True) == expected
        finally:
            self.encoder.left = math.inf
        if after >= len(new):
            self.state |= corpus
            return
        self.everything_is_there()
        if again:
            assert self.engine.upsert(documents(corpus)) == expected
            assert sorted(self.encoder.encoded) == sorted(new)
            self.state |= corpus
        elif self.encoder.encoded:
            with pytest.raises(IndexUnfinishedError):
                self.engine.upsert([("other", "not the same corpus")])

    @rule(ids=st.lists(st.sampled_from(IDS), max_size=4))
    def delete(self, ids: list[str]) -> None:
        known = [doc_id for doc_id in dict.fromkeys(ids) if doc_id in self.state]
        assert self.engine.delete(ids) == Changes(deleted=len(known), missing=len(set(ids)) - len(known))
        for doc_id in known:
            del self.state[doc_id]

    @rule(expression=st.sampled_from(sorted(FILTERS)))
    def delete_by_filter(self, expression: str) -> None:
        gone = [doc_id for doc_id, (_, metadata) in self.state.items() if FILTERS[expression](metadata)]
        if not gone and not self.knows(expression):
            with pytest.raises(FilterError, match="no document has a field"):
                self.engine.delete(filter=expression)
        else:
            assert self.engine.delete(filter=expression) == Changes(deleted=len(gone))
        for doc_id in gone:
            del self.state[doc_id]

    @rule()
    def compact(self) -> None:
        self.engine.compact()
        assert self.engine.info()["documents"] == len(self.state)

    @rule(whitening=st.sampled_from(["same", None, 3, "auto"]), index=st.sampled_from([None, "auto", "HNSW4", "Flat"]))
    def rebuild(self, whitening: Any, index: str | None) -> None:
        if self.raw is None or not self.state:
            with pytest.raises(InputError, match="without raw vectors|holds no document"):
                self.engine.rebuild(whitening=whitening, index=index)
        else:
            self.engine.rebuild(whitening=whitening, index=index)

    @rule()
    def reopen(self) -> None:
        self.engine.close()
        self.engine = Engine.open(self.place / "index", model=self.encoder)

    # ---- what holds at any time

    def knows(self, expression: str) -> bool:
        """Whether every field of a filter has a value in some document; of an index without any, all do."""
        return not self.state or all(
            any(metadata.get(field) is not None for _, metadata in self.state.values()) for field in FIELDS[expression]
        )

    def scores(self, query: str) -> dict[str, float]:
        """The cosine of every document, by the dict and the arithmetic of a page."""
        raw = HashEncoder(DIM).encode([text for text, _ in self.state.values()]).vectors.astype(self.raw or "float16")
        asked = HashEncoder(DIM).encode([query]).vectors
        whitening = self.engine.whitening
        if whitening is not None:
            moved = (-whitening.beta * whitening.mean_) @ whitening.kernel
            raw, asked = raw.astype(float) @ whitening.kernel + moved, asked.astype(float) @ whitening.kernel + moved
        unit = [rows.astype(float) / np.linalg.norm(rows.astype(float), axis=1, keepdims=True) for rows in (raw, asked)]
        return dict(zip(self.state, (unit[0] @ unit[1][0]).tolist(), strict=True))

    def check_hits(self, hits: Sequence[Hit], expected: Mapping[str, float]) -> None:
        assert [hit.rank for hit in hits] == list(range(1, len(expected) + 1))
        assert {hit.doc_id: hit.score for hit in hits} == pytest.approx(dict(expected), abs=2e-5)
        assert [(-hit.score, hit.doc_id) for hit in hits] == sorted((-hit.score, hit.doc_id) for hit in hits)
        for hit in hits:
            assert (hit.text, hit.metadata) == self.state[hit.doc_id]

    @precondition(lambda self: hasattr(self, "engine"))
    @invariant()
    def everything_is_there(self) -> None:
        for engine in (self.engine, self.reader):
            got = engine.get(list(self.state))
            assert len(engine) == engine.info()["documents"] == len(self.state)
            assert {document.doc_id: (document.text, document.metadata) for document in got} == self.state
            with pytest.raises(InputError, match="id 'never'"):
                engine.get(["never"])
            for query in QUERIES:
                scores = self.scores(query) if self.state else {}
                hits = engine.search(query, 100, exact=True)
                self.check_hits(hits, scores)
                for k in (1, 3):
                    assert engine.search(query, k, exact=True) == hits[:k]
                for expression, holds in FILTERS.items():
                    allowed = {i: score for i, score in scores.items() if holds(self.state[i][1])}
                    if allowed or self.knows(expression):
                        self.check_hits(engine.search(query, 100, filter=expression), allowed)

    @precondition(lambda self: hasattr(self, "engine"))
    @invariant()
    def what_is_exported_is_what_is_there(self) -> None:
        file = self.place / "out.jsonl"
        assert self.engine.export(file) == len(self.state)
        values = [json.loads(line) for line in file.read_text("utf-8").split("\n")[:-1]]
        assert {value["id"]: (value["text"], value["metadata"]) for value in values} == self.state

    @precondition(lambda self: hasattr(self, "engine"))
    @invariant()
    def nothing_is_amiss(self) -> None:
        assert [check for check in self.engine.verify(deep=True) if check.problem] == []


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(max_examples=40, stateful_step_count=12, deadline=None, derandomize=True)
