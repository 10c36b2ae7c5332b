"""Exact search of a task's prompts: how near to the matrix product alone does it come?

    .venv/bin/python benchmarks/exact_search.py                          # 8,000 of the 80,000 queries, the rest by proportion
    .venv/bin/python benchmarks/exact_search.py --queries 80000 --rounds 1

1,000 classes x 80 prompts are 80,000 queries; the measured share of them is `--queries`, and the figures are multiplied
up. That is to our disadvantage: what ours does once for all queries (reading float16 rows, converting them) weighs ten
times as much in the share. The products alone are torch's, on rows that are in memory in their type already, in blocks
of the shape in which they are fastest here, and yield nothing but scores that are overwritten; faiss's IndexFlatIP gets
its rows in memory in float32. Answers are compared with float64's on some queries.
"""

import measuring
import numpy as np
import torch
import vectors

from reactvl.search.exact import top_k
from reactvl.search.products import choose

BLOCKS = ((1024, 4096), (1024, 16_384), (4096, 16_384), (8192, 8192))  # queries x keys


def main() -> None:
    options = measuring.parser(__doc__)
    vectors.options(options)
    options.add_argument("--queries", type=int, default=8_000, help="queries that are measured")
    options.add_argument("--of", type=int, default=80_000, help="queries that the figures are for")
    options.add_argument("--k", type=int, default=200)
    given = measuring.parsed(options, {"rows": 4_000, "queries": 100, "of": 100, "k": 20})
    report = measuring.Report(
        "exact_search",
        f"{given.of:,} prompts, k = {given.k}, exact",
        given,
        minutes=6,
    )
    for data in vectors.data(given):
        measured(report, given, data)
    report.note(
        f"Seconds are those of {given.queries:,} queries times {given.of / given.queries:g}, medians of {given.rounds} rounds in turns."
    )
    report.note("Required is the row of the fp32 product or the row of the bf16 product (1.15 or 1.5 times).")
    report.finish()


def measured(report: measuring.Report, given, data: vectors.Data) -> None:
    import faiss

    scale = given.of / given.queries
    asked = prompts(data, given.queries)
    parts = data.parts()
    k = min(given.k, data.rows)
    every = np.concatenate(parts)
    exact = torch.from_numpy(every.astype(np.float32))
    index = faiss.IndexFlatIP(every.shape[1])
    ways = {"ours": lambda: top_k(asked, parts, k), "fp32 product": product(asked, exact, torch.float32)}
    if torch.cpu._is_avx512_bf16_supported():
        ways["bf16 product"] = product(asked, exact, torch.bfloat16)
    index.add(exact.numpy())
    ways["faiss Flat"] = lambda: index.search(asked, k)
    found = top_k(asked, parts, k)
    name = "" if data.mixture else f", {data.name}"
    seconds = {way: value * scale for way, value in report.timed(ways, given.rounds, f"{data.name}: ").items()}
    bounds = {"fp32 product": 1.15, "bf16 product": 1.5}
    within = any(seconds["ours"] <= bound * seconds[way] for way, bound in bounds.items() if way in seconds)
    right = equals_float64(found, asked, every, k)
    for way, bound in {**bounds, "faiss Flat": None}.items():
        if way in seconds:
            need = (
                measuring.Need(f"at most {bound:g} times (or the other product's)", lambda *_: within)
                if bound and data.mixture
                else None
            )
            what = "faiss Flat" if bound is None else f"the {way} alone"
            report.row(f"{what}{name}", seconds["ours"], seconds[way], against=what, need=need, also=right == 1.0)
    report.row(f"places equal to float64's{name}", right, unit="share", need=measuring.least(1.0))
    report.facts[data.name] = {"product chosen": choose("auto", data.rows, k, given.queries).name, "rows": data.rows}


def prompts(data: vectors.Data, count: int) -> np.ndarray:
    """float32 (count, dim): text-like queries, 80 to a class; of a user's embeddings, their texts, repeated if few."""
    if data.mixture:
        return data.mixture.prompts(-(-count // 80), 80)[:count]
    found = data.queries(count)
    return np.resize(found, (count, found.shape[1]))


def product(asked: np.ndarray, keys: torch.Tensor, dtype: torch.dtype):
    """The product alone over all keys, in the blocks in which it is fastest here."""
    torch.set_float32_matmul_precision("medium")  # oneDNN, which our own product uses as well
    queries, keys = torch.from_numpy(asked).to(dtype), keys.to(dtype)

    def run(height: int, width: int, limit: int | None = None) -> None:
        with torch.inference_mode():
            scores = torch.empty(height * width, dtype=dtype)
            for first in range(0, min(limit or len(keys), len(keys)), width):
                block = keys[first : first + width]
                for at in range(0, len(queries), height):
                    rows = queries[at : at + height]
                    torch.mm(rows, block.T, out=scores[: len(rows) * len(block)].view(len(rows), len(block)))

    limit = min(len(keys), 65_536)
    trials = {shape: (lambda shape=shape: run(*shape, limit=limit)) for shape in BLOCKS}
    spent = measuring.in_turns(trials, 2)
    best = min(spent, key=lambda shape: min(spent[shape]))
    return lambda: run(*best)


def equals_float64(found, asked: np.ndarray, every: np.ndarray, k: int, sample: int = 32) -> float:
    """The share of places, over some queries, that hold the row that float64 puts there (ties by the lower row)."""
    chosen = np.linspace(0, len(asked) - 1, sample).astype(int)
    scores = np.empty((len(chosen), len(every)))
    for first in range(0, len(every), 65_536):
        scores[:, first : first + 65_536] = (
            asked[chosen].astype(np.float64) @ every[first : first + 65_536].astype(np.float64).T
        )
    equal = []
    for row, score in zip(found.row.reshape(len(asked), k)[chosen], scores, strict=True):
        near = np.flatnonzero(score >= -np.partition(-score, k - 1)[k - 1])
        equal.append(row == near[np.lexsort((near, -score[near]))[:k]])
    return float(np.mean(equal))


if __name__ == "__main__":
    main()
