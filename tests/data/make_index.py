import json, shutil, sys
from pathlib import Path
from retrieval import Document, Engine, Whitening
out = Path(sys.argv[1])
docs = [Document(doc_id=f"{i:03}", text=t, metadata={"kind": "abc"[i % 3], "n": i}) for i, t in enumerate(
 ["a red fox", "the red fox jumps", "a blue whale", "whales sing in the blue sea", "an old captain", "the captain hunts a whale",
  "一只红色的狐狸", "狐狸 跳 过 河", "a river runs", "the fox crosses the river", "a ship on the sea", "the old ship sinks",
  "rain over the river", "a captain of an old ship", "the sea is blue", "a fox and a whale"])]
with Engine.build(docs, out, model="hash:8", whitening=Whitening(4, beta=0.5, gamma=0.25, epsilon=0.001)) as e:
    print(e.info()["format_version"])
    answers = {q: [[h.doc_id, h.score] for h in e.search(q, 5, filter=f)] for q, f in [("red fox", None), ("captain of a ship", None), ("狐狸", None), ("blue whale", "kind = 'c'")]}
(out.parent / (out.name + ".json")).write_text(json.dumps(answers, ensure_ascii=False, indent=1) + "\n")
for n in ("write.lock",): (out / n).unlink(missing_ok=True)
