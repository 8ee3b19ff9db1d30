"""Builds and asks an index of one system. Runs in that system's environment, so all at the top is Python's own.

    python worker.py NAME MODEL build INDEX CORPUS.jsonl
    python worker.py NAME MODEL query INDEX QUERY           prints the ids
    python worker.py NAME MODEL serve INDEX                 lines of JSON in (queries), out (ids, milliseconds)

Each class does what the quick-start of its project does, with the model's folder for the model's name, ids and texts
of the corpus, and an index on the disk.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any, Protocol, TextIO

K = 10
WARMING = 5


class Client(Protocol):
    """One system."""

    def __init__(self, model: str, index: Path) -> None: ...

    def build(self, ids: list[str], texts: list[str]) -> None:
        """Make the index, to its end on the disk."""
        ...

    def open(self) -> None:
        """Be ready to be asked."""
        ...

    def ask(self, query: str) -> list[str]:
        """The ids of the K nearest, nearest first."""
        ...


class Ours:
    """This project. Built and asked once by its command line (`systems`), asked often through here."""

    def __init__(self, model: str, index: Path) -> None:
        self.index = index

    def build(self, ids: list[str], texts: list[str]) -> None:
        raise NotImplementedError("retrieval build does it")

    def open(self) -> None:
        from retrieval import Engine

        self.engine = Engine.open(self.index)

    def ask(self, query: str) -> list[str]:
        return [hit.doc_id for hit in self.engine.search(query, k=K)]


class ByHand:
    """sentence-transformers, a flat FAISS index, and ids and texts in a JSON file."""

    def __init__(self, model: str, index: Path) -> None:
        self.index = index
        self.model = model

    def build(self, ids: list[str], texts: list[str]) -> None:
        import faiss
        from sentence_transformers import SentenceTransformer

        vectors = SentenceTransformer(self.model, device="cpu").encode(texts, normalize_embeddings=True)
        flat = faiss.IndexFlatIP(vectors.shape[1])
        flat.add(vectors)
        self.index.mkdir()
        faiss.write_index(flat, str(self.index / "index.faiss"))
        (self.index / "documents.json").write_text(json.dumps({"ids": ids, "texts": texts}, ensure_ascii=False))

    def open(self) -> None:
        import faiss
        from sentence_transformers import SentenceTransformer

        self.encoder = SentenceTransformer(self.model, device="cpu")
        self.flat = faiss.read_index(str(self.index / "index.faiss"))
        self.ids = json.loads((self.index / "documents.json").read_text())["ids"]

    def ask(self, query: str) -> list[str]:
        _, rows = self.flat.search(self.encoder.encode([query], normalize_embeddings=True), K)
        return [self.ids[row] for row in rows[0]]


class Txtai:
    """Embeddings with content."""

    def __init__(self, model: str, index: Path) -> None:
        from txtai import Embeddings

        self.index = str(index)
        # subtle: else the tokenizer's limit holds, 512 tokens, not the model's, which all others keep to
        self.embeddings = Embeddings(path=model, content=True, maxlength=True)

    def build(self, ids: list[str], texts: list[str]) -> None:
        self.embeddings.index(zip(ids, texts, strict=True))
        self.embeddings.save(self.index)

    def open(self) -> None:
        self.embeddings.load(self.index)

    def ask(self, query: str) -> list[str]:
        return [hit["id"] for hit in self.embeddings.search(query, K)]


class Chroma:
    """A persistent client, its own sentence-transformers function."""

    def __init__(self, model: str, index: Path) -> None:
        import chromadb

        self.client = chromadb.PersistentClient(path=str(index))
        self.function = self.embedding(model)

    def embedding(self, model: str) -> Any:
        from chromadb.utils.embedding_functions import SentenceTransformerEmbeddingFunction

        return SentenceTransformerEmbeddingFunction(model_name=model)

    def build(self, ids: list[str], texts: list[str]) -> None:
        collection = self.client.create_collection("texts", embedding_function=self.function)
        size = self.client.get_max_batch_size()  # more in one call is an error
        for start in range(0, len(ids), size):
            collection.add(ids=ids[start : start + size], documents=texts[start : start + size])

    def open(self) -> None:
        self.collection = self.client.get_collection("texts", embedding_function=self.function)

    def ask(self, query: str) -> list[str]:
        return list(self.collection.query(query_texts=[query], n_results=K)["ids"][0])


class ChromaAsItComes(Chroma):
    """The function that Chroma takes when none is given: the same model by ONNX Runtime.

    It would fetch the graph; where there is no network, the graph is made of the same weights and put there.
    """

    FILES = ("config.json", "special_tokens_map.json", "tokenizer_config.json", "tokenizer.json", "vocab.txt")

    def embedding(self, model: str) -> Any:
        from chromadb.utils.embedding_functions import DefaultEmbeddingFunction, ONNXMiniLM_L6_V2

        folder = Path(ONNXMiniLM_L6_V2.DOWNLOAD_PATH) / ONNXMiniLM_L6_V2.EXTRACTED_FOLDER_NAME
        if not (folder / "model.onnx").exists():
            folder.mkdir(parents=True, exist_ok=True)
            for name in self.FILES:
                shutil.copy(Path(model) / name, folder / name)
            self.export(model, folder / "model.onnx")
        return DefaultEmbeddingFunction()

    @staticmethod
    def export(model: str, path: Path) -> None:
        """The transformer as a graph, from tokens to its last layer."""
        import torch
        from transformers import AutoModel, AutoTokenizer

        class Last(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.transformer = AutoModel.from_pretrained(model)

            def forward(self, ids: Any, mask: Any, types: Any) -> Any:
                return self.transformer(input_ids=ids, attention_mask=mask, token_type_ids=types).last_hidden_state

        given = AutoTokenizer.from_pretrained(model)(["two texts", "words"], padding=True, return_tensors="pt")
        names = ["input_ids", "attention_mask", "token_type_ids"]
        axes = {0: torch.export.Dim("texts", min=1, max=1 << 16), 1: torch.export.Dim("tokens", min=2, max=512)}
        torch.onnx.export(
            Last().eval(), tuple(given[name] for name in names), str(path), dynamo=True,
            dynamic_shapes=(axes,) * len(names), input_names=names, external_data=False,
        )  # fmt: skip


class LanceDB:
    """A table with a source field and a vector field of the registry's sentence-transformers function."""

    def __init__(self, model: str, index: Path) -> None:
        import lancedb

        self.model = model
        self.database = lancedb.connect(str(index))

    def build(self, ids: list[str], texts: list[str]) -> None:
        from lancedb.embeddings import get_registry
        from lancedb.pydantic import LanceModel, Vector

        function = get_registry().get("sentence-transformers").create(name=self.model, device="cpu")

        class Text(LanceModel):
            id: str
            text: str = function.SourceField()
            vector: Vector(function.ndims()) = function.VectorField()  # type: ignore[valid-type]

        table = self.database.create_table("texts", schema=Text)
        table.add([{"id": doc_id, "text": text} for doc_id, text in zip(ids, texts, strict=True)])

    def open(self) -> None:
        self.table = self.database.open_table("texts")

    def ask(self, query: str) -> list[str]:
        return [row["id"] for row in self.table.search(query).select(["id", "text"]).limit(K).to_list()]


class MilvusLite:
    """A collection of the quick set-up in a local file, pymilvus.model's sentence-transformers function."""

    AT_ONCE = 1000

    def __init__(self, model: str, index: Path) -> None:
        from pymilvus import MilvusClient
        from pymilvus.model.dense import SentenceTransformerEmbeddingFunction

        index.mkdir(exist_ok=True)
        self.client = MilvusClient(str(index / "texts.db"))
        self.function = SentenceTransformerEmbeddingFunction(model, device="cpu")

    def build(self, ids: list[str], texts: list[str]) -> None:
        self.client.create_collection("texts", dimension=self.function.dim, id_type="string", max_length=64)
        vectors = self.function.encode_documents(texts)
        rows = [
            {"id": doc_id, "vector": vector, "text": text}
            for doc_id, vector, text in zip(ids, vectors, texts, strict=True)
        ]
        for start in range(0, len(rows), self.AT_ONCE):
            self.client.insert("texts", rows[start : start + self.AT_ONCE])
        self.client.close()

    def open(self) -> None:
        self.client.load_collection("texts")

    def ask(self, query: str) -> list[str]:
        hits = self.client.search("texts", data=self.function.encode_queries([query]), limit=K, output_fields=["text"])
        return [hit["id"] for hit in hits[0]]


CLIENTS: dict[str, type[Client]] = {
    "ours": Ours, "by-hand": ByHand, "txtai": Txtai, "chroma": Chroma, "chroma-as-it-comes": ChromaAsItComes,
    "lancedb": LanceDB, "milvus-lite": MilvusLite,
}  # fmt: skip


def serve(client: Client, out: TextIO) -> None:
    """Answer lines of queries, one query at a time, until there are no more."""
    for line in sys.stdin:
        queries, found, times = json.loads(line), [], []
        for query in queries[:WARMING]:
            client.ask(" ".join(reversed(query.split())))  # none that is timed
        for query in queries:
            start = time.perf_counter()
            found.append(client.ask(query))
            times.append(1000 * (time.perf_counter() - start))
        print(json.dumps({"ids": found, "ms": times}), file=out, flush=True)


def main(name: str, model: str, what: str, index: str, given: str = "") -> None:
    """One of the three things above."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    client = CLIENTS[name](model, Path(index))
    if what == "build":
        with Path(given).open(encoding="utf-8") as lines:
            documents = [json.loads(line) for line in lines]
        client.build([document["id"] for document in documents], [document["text"] for document in documents])
        return
    client.open()
    if what == "query":
        print(json.dumps(client.ask(given)), file=out, flush=True)
    else:
        print("ready", file=out, flush=True)
        serve(client, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
