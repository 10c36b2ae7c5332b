"""What a search will cost, before it begins: seconds from rates measured on this machine a moment ago.

The estimates serve a choice (exact or indexed) and a line on the screen; they are right within a factor of two on an idle
machine.
"""

import functools
import os
import time

import numpy as np

from reactvl.search.exact import QUERY_BLOCK, Lanes
from reactvl.search.products import choose, on_gpu

OVERHEAD = 1.15  # comparing, listing and sorting beside the product, measured over 20 k to 80 k queries
CANDIDATE_SECONDS = 1.0e-6  # one re-scored candidate of one core
CANDIDATES = 1.8  # re-scored ones for each of the k
KEY_SECONDS = 6e-10  # one stored value read and converted by one core


def exact_seconds(queries: int, rows: int, dim: int, k: int, device: str = "cpu") -> float:
    """About how long `exact.top_k` takes for so many queries over so many rows of `dim` values on this machine."""
    cores = len(os.sched_getaffinity(0))
    k = min(k, rows)
    chosen = choose("auto", rows, max(k, 1), queries, device)
    product = queries * rows * dim / product_rate(chosen.name, device) * OVERHEAD
    beside = rows * dim * KEY_SECONDS + queries * k * CANDIDATES * CANDIDATE_SECONDS  # on the CPU in any case
    return product / (1 if on_gpu(chosen) else cores) + beside / cores


def index_seconds(queries: int, queries_per_second: float) -> float:
    """How long an index that answered so many queries a second when it was made takes for these."""
    return queries / max(queries_per_second, 1e-9)


@functools.cache
def product_rate(name: str, device: str = "cpu") -> float:
    """Multiplications a second that one core, or the GPU, makes by the product of this name: one tile, the best of a
    few."""
    with Lanes(2) as lanes:  # of which only one is used: a lane is what bounds a product to one core
        return next(lanes.map(lambda name: _measured(name, device), [name]))


def _measured(name: str, device: str) -> float:
    tile = np.random.default_rng(0).standard_normal((QUERY_BLOCK, 512)).astype(np.float16)
    product = choose(name, len(tile), 1, len(tile), device)
    clock = time.perf_counter if on_gpu(product) else time.thread_time
    keys = product.keys(tile, np.arange(len(tile)))
    ready, _, _ = product.queries(tile.astype(np.float32) / 256)
    cutoff = np.full(len(tile), 1e30, dtype=np.float32)
    spans = []
    for _ in range(6):
        began = clock()
        product.above(ready, keys.values, cutoff)
        spans.append(clock() - began)
    return tile.size * len(tile) / max(min(spans), 1e-9)
