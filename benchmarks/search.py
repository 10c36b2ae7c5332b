"""Is exact search as fast as the machine allows? Against faiss's IndexFlatIP, in the same run, as ratios.

    .venv/bin/python benchmarks/search.py --keep benchmarks/results/search.json

Keys are float16 unit vectors on disk, read as memory maps, as `embed` writes them; faiss gets them as float32 in
memory, and what it takes to load them there is given apart. Each figure is the median of rounds in turns, so that load
from outside falls on both. faiss's answers are compared with the exact ones as well: it rounds to float32, so near ties
may change places. The first vectors are drawn around common directions, so that scores spread as those of real pictures
do.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import torch

from reactvl.search.exact import top_k
from reactvl.search.recall import recall

CASES = (  # rows, width, queries, k
    (13_000, 256, 1_750, 50),
    (100_000, 512, 2_000, 200),
    (400_000, 512, 2_000, 200),
    (400_000, 512, 1, 10),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="write the figures to this JSON file")
    arguments = parser.parse_args()
    results = [measured(*case, arguments.rounds) for case in CASES]
    machine = {
        "threads": torch.get_num_threads(),
        "cpu": torch.backends.cpu.get_cpu_capability(),
        "faiss": faiss.__version__,
    }
    if arguments.keep:
        arguments.keep.parent.mkdir(parents=True, exist_ok=True)
        arguments.keep.write_text(json.dumps({"machine": machine, "cases": results}, indent=1) + "\n")


def measured(rows: int, dim: int, queries: int, k: int, rounds: int) -> dict:
    """One case: seconds of each, ratios over faiss, and whether the answers agree."""
    with tempfile.TemporaryDirectory() as folder:
        parts = stored(Path(folder), rows, dim)
        asked = drawn(queries, dim, seed=1)
        began = time.perf_counter()
        index = faiss.IndexFlatIP(dim)
        for part in parts:
            index.add(part.astype(np.float32))
        loading = time.perf_counter() - began
        ways = {
            "exact": lambda: top_k(asked, parts, k),
            "exact fp32": lambda: top_k(asked, parts, k, product="fp32"),
            "faiss": lambda: index.search(asked, k),
        }
        seconds: dict[str, list[float]] = {name: [] for name in ways}
        top_k(asked[:1], parts, 1)  # what is loaded at first use is not what is asked about
        for _ in range(rounds):
            for name, search in ways.items():
                began = time.perf_counter()
                search()
                seconds[name].append(time.perf_counter() - began)
        truth = top_k(asked, parts, k)
        scores, ids = index.search(asked, k)
    shape = (queries, k)
    found = type(truth)(truth.query, ids.ravel(), scores.ravel(), truth.rank, queries)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    result = {
        "rows": rows,
        "width": dim,
        "queries": queries,
        "k": k,
        "seconds": {name: round(value, 4) for name, value in median.items()},
        "faiss_loading_seconds": round(loading, 3),
        "times_faster_than_faiss": {name: round(median["faiss"] / median[name], 2) for name in ("exact", "exact fp32")},
        "gflops": round(2 * rows * dim * queries / median["exact"] / 1e9, 1),
        "faiss_rows_equal": round(float((ids == truth.row.reshape(shape)).mean()), 6),
        "faiss_recall": round(recall(found, truth, k), 6),
    }
    ratio = result["times_faster_than_faiss"]
    print(
        f"{rows:>9,} rows x {dim}, {queries:>5,} queries, k {k:>3}: {median['exact']:8.3f} s, "
        f"{ratio['exact']:.1f}x faiss ({median['faiss']:.3f} s); float32 products {ratio['exact fp32']:.1f}x; "
        f"faiss places alike {result['faiss_rows_equal']:.4%}",
        flush=True,
    )
    return result


def stored(folder: Path, rows: int, dim: int) -> list[np.ndarray]:
    """Two parts of unit rows in float16 npy files, opened as memory maps."""
    for part in range(2):
        np.save(folder / f"{part}.npy", drawn(rows // 2, dim, seed=10 + part).astype(np.float16))
    return [np.load(folder / f"{part}.npy", mmap_mode="r") for part in range(2)]


def drawn(count: int, dim: int, seed: int) -> np.ndarray:
    """float32 unit rows around 64 common directions."""
    common = np.random.default_rng(0).standard_normal((64, dim), dtype=np.float32)
    generator = np.random.default_rng(seed)
    rows = generator.standard_normal((count, dim), dtype=np.float32)
    rows += common[generator.integers(0, 64, count)] * generator.random((count, 1), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


if __name__ == "__main__":
    main()
