"""Made the files in this folder, with clip-retrieval 2.45.0 and autofaiss 2.18.0 in an environment of their own:

    python -m venv env && env/bin/pip install 'setuptools<81' clip-retrieval==2.45.0 autofaiss==2.18.0
    env/bin/python make.py FOLDER && env/bin/clip-retrieval index --embeddings_folder FOLDER/emb --index_folder FOLDER/index

The numbers of the parts are not padded, as in LAION-400M's release: `metadata_10` is read before `metadata_2`.
"""

import json
import sys
from pathlib import Path

import numpy as np
from clip_retrieval.clip_inference.writer import OutputSink

PARTS, ROWS, DIM = 12, 3, 32


def vector(number: int, half: int) -> np.ndarray:
    made = np.random.default_rng([number, half]).normal(size=DIM)
    return (made / np.linalg.norm(made)).astype(np.float16)


home = Path(sys.argv[1]) / "emb"
for part in range(PARTS):
    sink = OutputSink(str(home), True, True, True, part, PARTS)
    for row in range(ROWS):
        key = f"{part:05d}{row:04d}"
        record = {
            "url": f"https://example.org/{key}",
            "key": key,
            "width": 300 + row,
            "NSFW": "UNLIKELY",
            "sha256": f"{int(key):064x}",
        }
        sink.add(
            {
                "image_embs": vector(int(key), 0)[None],
                "text_embs": vector(int(key), 1)[None],
                "image_filename": [key],
                "text": [f"caption {key}"],
                "metadata": [json.dumps(record)],
            }
        )
    sink.flush()
for path in home.rglob("*_0*.*"):
    path.rename(path.with_name(path.name.replace("_0", "_", 1)))
