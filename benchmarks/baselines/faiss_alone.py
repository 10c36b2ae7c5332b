"""The limit of a service over an index: faiss alone with the queries' vectors at hand, and the text tower before it.

No HTTP, no re-scoring, no captions, all cores, batches of the size that as many clients could fill.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import faiss
import measuring

import reactvl as rv
from reactvl.models.encoder import Encoder
from reactvl.search.knobs import parameters

SIZES = (1, 8, 64)


def work(request: dict) -> dict:
    """Queries a second by way and batch size, every text encoded once in each."""
    index, encoder = rv.open(request["index"]), Encoder(rv.load(request["model"]))
    width, taken = index.facts["setting_value"], round(request["k"] * index.facts["refine"])
    known = encoder.texts(request["texts"])

    def searched(vectors) -> None:
        index.faiss.search(vectors, taken, params=parameters(index.faiss, width or None, taken))

    searched(known[:64])
    found: dict = {"faiss": {}, "tower and faiss": {}}
    for size in SIZES:
        count = len(known) if size > 1 else -(-len(known) // 5)
        places = [slice(at, min(at + size, count)) for at in range(0, count, size)]
        began = time.perf_counter()
        for place in places:
            searched(known[place])
        found["faiss"][f"{size}"] = count / (time.perf_counter() - began)
        began = time.perf_counter()
        for place in places:
            searched(encoder.texts(request["texts"][place]))
        found["tower and faiss"][f"{size}"] = count / (time.perf_counter() - began)
    return found


if __name__ == "__main__":
    faiss.omp_set_num_threads(faiss.omp_get_max_threads())
    measuring.serve(work)
