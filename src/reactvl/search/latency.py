"""How fast a search answers: one query at a time on one thread, and a whole batch."""

import time
from collections.abc import Callable

import numpy as np

from reactvl.search.building import omp_threads

ONE_AT_A_TIME = 200  # queries timed one by one
AT_LEAST = 0.5  # seconds that a batch is repeated for


def latency(
    search: Callable[[np.ndarray, int], object], queries: np.ndarray, k: int, *, threads: int = 1
) -> dict[str, float]:
    """Wall-clock figures of `search(queries, k)`, its re-scoring included.

    p50_ms, p99_ms: one query for its 10 nearest, one thread; qps: queries a second of a batch for `k`, `threads` threads.
    """
    ten = min(10, k)
    with omp_threads(1):
        search(queries[:1], ten)  # what is loaded at first use is not what is asked about
        spans = []
        for number in range(min(len(queries), ONE_AT_A_TIME)):
            began = time.perf_counter()
            search(queries[number : number + 1], ten)
            spans.append(1000 * (time.perf_counter() - began))
    asked, began = 0, time.perf_counter()
    with omp_threads(threads):
        while not asked or time.perf_counter() - began < AT_LEAST:
            search(queries, k)
            asked += len(queries)
    return {
        "p50_ms": float(np.percentile(spans, 50)),
        "p99_ms": float(np.percentile(spans, 99)),
        "qps": asked / max(time.perf_counter() - began, 1e-9),
    }
