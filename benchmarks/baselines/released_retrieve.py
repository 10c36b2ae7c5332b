"""The released code's retrieval loop, restated: class by class, all its prompts encoded, every prompt searched by itself.

Runs in our environment (it needs torch, open_clip and faiss). Writes `metas/CLASS.json` as released, and the rows found
with their queries as npy files, for comparison. Copying the pictures is pool_access.py's question.
"""

import json
import re
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import measuring
import numpy as np


def work(request: dict) -> dict:
    import faiss
    import torch
    import torch.nn.functional as F

    from reactvl.handles.embeddings import Embeddings
    from reactvl.models import load

    began = time.perf_counter()
    index = faiss.read_index(request["index"])
    index.hnsw.efSearch = 16  # faiss's default; autofaiss stored its own
    files = []  # the released file list, by row
    for part in Embeddings(request["embeddings"]).parts:
        names = part.metadata(["shard", "key"])
        files += [
            f"{shard}/{key}.jpg"
            for shard, key in zip(*(names[column].to_pylist() for column in ("shard", "key")), strict=True)
        ]
    model = load(request["model"])
    torch.set_float32_matmul_precision("highest")
    loaded = time.perf_counter()

    classes, templates, k = request["classes"], request["templates"], request["k"]
    asked, dists, rows = [], [], []
    for name in classes:
        tokens = model.tokenize([template.replace("{}", name) for template in templates])
        with torch.no_grad():
            queries = F.normalize(model.net.encode_text(tokens)).numpy().astype("float32")
        found = index.search(queries, k)
        asked.append(queries)
        dists.append(found[0])
        rows.append(found[1])
    out = Path(request["out"])
    (out / "metas").mkdir(parents=True, exist_ok=True)
    pairs = 0
    for number, name in enumerate(classes):
        metadata: dict = {}
        for prompt, template in enumerate(templates):
            for near in range(k):
                file = files[rows[number][prompt, near]].rpartition("/")[2]
                entry = metadata.setdefault(file, {"search_meta": []})
                entry["search_meta"].append(
                    {"query": template.replace("{}", name), "dist": dists[number][prompt, near].tolist()}
                )
        pairs += len(metadata)
        folder = re.sub(r"_+", "_", re.sub(r"[^0-9a-zA-Z_]", "_", name)).strip("_")
        (out / "metas" / f"{folder}.json").write_text(json.dumps(metadata))
    done = time.perf_counter()
    np.save(out / "queries.npy", np.concatenate(asked))
    np.save(out / "rows.npy", np.concatenate(rows))
    return {"loading": loaded - began, "loop": done - loaded, "seconds": done - began, "pairs": pairs}


if __name__ == "__main__":
    measuring.serve(work)
