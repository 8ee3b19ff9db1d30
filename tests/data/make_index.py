"""Makes a golden index and what it answers: python tests/data/make_index.py tests/data/index-vN (once a format version)."""

import json
import sys
from pathlib import Path

from retrieval import Document, Engine, Whitening

TEXTS = [
    "a red fox", "the red fox jumps", "a blue whale", "whales sing in the blue sea", "an old captain",
    "the captain hunts a whale", "一只红色的狐狸", "狐狸 跳 过 河", "a river runs", "the fox crosses the river",
    "a ship on the sea", "the old ship sinks", "rain over the river", "a captain of an old ship", "the sea is blue",
    "a fox and a whale",
]  # fmt: skip
QUERIES = [("red fox", None), ("captain of a ship", None), ("狐狸", None), ("blue whale", "kind = 'c'")]

ANCHORS = ["the old fox", "a blue ship"]


class Letters:
    """Stands for a cross-encoder."""

    name, fingerprint = "letters", {"weights": "none"}

    def __call__(self, query, texts):  # noqa: D102, ANN
        return [float(len(set(query) & set(text)) - len(text)) for text in texts]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    documents = [
        Document(doc_id=f"{i:03}", text=text, metadata={"kind": "abc"[i % 3], "n": i}) for i, text in enumerate(TEXTS)
    ]
    whitening = Whitening(4, beta=0.5, gamma=0.25, epsilon=0.001)
    with Engine.build(documents, folder, model="hash:8", whitening=whitening) as engine:
        engine.score_anchors(Letters(), anchors=2, queries=ANCHORS)
        engine.build_graph(3)
        engine.add([Document(doc_id="late", text="an old whale")])
        answers = {
            query: [[hit.doc_id, hit.score] for hit in engine.search(query, 5, filter=expression)]
            for query, expression in QUERIES
        }
    folder.with_name(folder.name + ".json").write_text(json.dumps(answers, ensure_ascii=False, indent=1) + "\n")
    for name in ("write.lock", "catalogue.sqlite-wal", "catalogue.sqlite-shm"):
        (folder / name).unlink(missing_ok=True)
