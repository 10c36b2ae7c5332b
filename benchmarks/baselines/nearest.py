"""Peers of our indexes, each in its own environment: autofaiss (its choice and tuning), usearch, hnswlib.

Requests: {"work": "build", "engine": ..., ...} and {"work": "search", "engine": ..., "index": ..., "queries": npy, "k": ...}; see
the functions. Rows found go to an npy file, seconds into the answer.
"""

import json
import os
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import measuring
import numpy as np


def work(request: dict) -> dict:
    return {"build": build, "search": search}[request.pop("work")](**request)


def build(engine: str, **asked) -> dict:
    began, cpu = time.perf_counter(), time.process_time()
    answer = BUILD[engine](**asked)
    files = [Path(asked["index"])]
    spent = {"seconds": time.perf_counter() - began, "cpu_seconds": time.process_time() - cpu}
    return {**answer, **spent, "bytes": sum(path.stat().st_size for path in files)}


def autofaiss(embeddings: str, index: str, memory: str) -> dict:
    """autofaiss as its users call it: a folder of npy files and a budget; key, parameters and tuning are its own."""
    from importlib.metadata import version

    from autofaiss import build_index

    infos = Path(index).with_suffix(".json")
    made, _ = build_index(
        embeddings=embeddings,
        index_path=index,
        index_infos_path=str(infos),
        max_index_memory_usage=memory,
        current_memory_available="20G",
        metric_type="ip",
        verbose=30,
    )
    if made is None:
        raise SystemExit(f"autofaiss makes no index of {embeddings} in {memory}")
    said = json.loads(infos.read_text())
    return {"key": said["index_key"], "parameters": said["index_param"], "infos": said, "version": version("autofaiss")}


def usearch(embeddings: str, index: str) -> dict:
    """usearch with its defaults, in bfloat16."""
    from importlib.metadata import version

    from usearch.index import Index

    made, rows = None, 0
    for path in npy_files(embeddings):
        part = np.load(path, mmap_mode="r")
        made = made if made is not None else Index(ndim=part.shape[1], metric="ip", dtype="bf16")
        for first in range(0, len(part), 50_000):
            block = part[first : first + 50_000].astype(np.float32)
            made.add(np.arange(rows, rows + len(block)), block, threads=threads())
            rows += len(block)
    made.save(index)
    return {"key": f"usearch, connectivity {made.connectivity}, bf16", "version": version("usearch")}


def hnswlib(embeddings: str, index: str) -> dict:
    """hnswlib with M = 16 and ef_construction = 200, its defaults."""
    from importlib.metadata import version

    import hnswlib as library

    parts = [np.load(path, mmap_mode="r") for path in npy_files(embeddings)]
    made = library.Index(space="ip", dim=parts[0].shape[1])
    made.init_index(max_elements=sum(map(len, parts)), ef_construction=200, M=16)
    for part in parts:
        for first in range(0, len(part), 50_000):
            made.add_items(part[first : first + 50_000].astype(np.float32), num_threads=threads())
    made.save_index(index)
    return {"key": "hnswlib, M 16", "version": version("hnswlib")}


BUILD = {"autofaiss": autofaiss, "usearch": usearch, "hnswlib": hnswlib}


def search(
    engine: str,
    index: str,
    queries: str,
    k: int,
    out: str,
    widths: list | None = None,
    single: bool = False,
    rounds: int = 1,
) -> dict:
    """Search with each of `widths` (efSearch, expansion; None is as saved): rows to `out`-WIDTH.npy.

    `single`: one query at a time on one thread, milliseconds of each; else all at once, seconds.
    """
    asked = np.load(queries)
    find, set_width = OPEN[engine](index, asked.shape[1], 1 if single else threads())
    answers = []
    for width in widths or [None]:
        if width is not None:
            set_width(width)
        find(asked[:1], k)
        spans, total = [], []
        for _ in range(rounds):
            began = time.perf_counter()
            if single:
                rows = []
                for query in asked:
                    moment = time.perf_counter()
                    rows.append(find(query[None], k))
                    spans.append(1000 * (time.perf_counter() - moment))
                found = np.concatenate(rows)
            else:
                found = find(asked, k)
            total.append(time.perf_counter() - began)
        path = f"{out}-{width}.npy"
        np.save(path, found)
        answers.append({"width": width, "rows": path, "seconds": total, "ms": spans})
    return {"searches": answers}


def open_faiss(index: str, dim: int, count: int):
    import faiss

    faiss.omp_set_num_threads(count)
    made = faiss.read_index(index)

    def set_width(width: int) -> None:
        faiss.ParameterSpace().set_index_parameter(
            made, "efSearch" if "HNSW" in type(made).__name__ else "nprobe", width
        )

    return (lambda asked, k: made.search(asked, k)[1]), set_width


def open_usearch(index: str, dim: int, count: int):
    from usearch.index import Index

    made = Index(ndim=dim, metric="ip", dtype="bf16")
    made.load(index)

    def set_width(width: int) -> None:
        made.expansion_search = width

    def find(asked: np.ndarray, k: int) -> np.ndarray:
        found = made.search(asked, k, threads=count)
        return np.asarray(found.keys).reshape(len(asked), -1).astype(np.int64)

    return find, set_width


def open_hnswlib(index: str, dim: int, count: int):
    import hnswlib as library

    made = library.Index(space="ip", dim=dim)
    made.load_index(index)
    made.set_num_threads(count)
    return (lambda asked, k: made.knn_query(asked, k)[0].astype(np.int64)), made.set_ef


OPEN = {"autofaiss": open_faiss, "usearch": open_usearch, "hnswlib": open_hnswlib}


def npy_files(folder: str) -> list[Path]:
    return sorted(Path(folder).glob("*.npy"), key=lambda path: int(path.stem.rpartition("_")[2]))


def threads() -> int:
    return len(os.sched_getaffinity(0))


if __name__ == "__main__":
    measuring.serve(work)
