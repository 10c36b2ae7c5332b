"""Building a search index of a million vectors: time, memory, and what it then finds. Against autofaiss.

    .venv/bin/python benchmarks/environments/make.py autofaiss
    .venv/bin/python benchmarks/index_build.py

Both build from the same npy files, each in a process of its own with all cores. autofaiss chooses and tunes by itself
within --memory (its choice at a million is HNSW32); ours is built within --quarter, tuned to --recall on text queries
that are not those asked here. Recall@200 is measured on text-like and image-like queries that neither has seen, with the
settings that each has chosen. Building is done once, not in rounds: it takes minutes.
"""

import indexes
import measuring
import vectors


def main() -> None:
    options = measuring.parser(__doc__, rounds=1)
    indexes.options(options)
    options.add_argument("--queries", type=int, default=500)
    options.add_argument("--k", type=int, default=200)
    given = measuring.parsed(options, {"rows": 20_000, "queries": 50, "k": 20, "memory": "400MB", "quarter": "100MB"})
    report = measuring.Report("index_build", f"an index of {given.rows:,} x 512", given, minutes=6)
    for data in vectors.data(given):
        built(report, given, data)
    report.note(
        "autofaiss reads, builds and tunes in its seconds; ours reads, trains, adds, tunes and measures in its own."
    )
    report.finish()


def built(report: measuring.Report, given, data: vectors.Data) -> None:
    ours, mine = indexes.ours(given, data, again=True)
    theirs = indexes.peer("autofaiss", given, data, again=True)
    judged = bool(data.mixture)
    name = "" if judged else f", {data.name}"
    against = f"autofaiss ({theirs['key']})"

    def row(label: str, ours: float, baseline: float, unit: str, need: measuring.Need | None) -> None:
        report.row(label + name, ours, baseline, unit, against=against, need=need if judged else None)

    row("build, with tuning", mine["seconds"], theirs["seconds"], "s", measuring.times(3))
    row("CPU seconds", mine["cpu_seconds"], theirs["cpu_seconds"], "s", None)
    row("index", mine["bytes"] / 1e6, theirs["bytes"] / 1e6, "MB", measuring.within(0.25))
    row("peak memory of its own while building", mine["own"], theirs["own"], "MiB", None)
    k = min(given.k, data.rows)
    for side in ("text", "image"):
        queries = data.queries(given.queries, side, seed=77)
        true = indexes.truth(data, queries, k)
        found = indexes.searched(theirs, given, queries, k)[0]
        recalls = [
            vectors.found_share(rows, true) for rows in (indexes.rows_of(ours.search(queries, k), k), found["rows"])
        ]
        row(f"recall@{k}, {side}-like queries", *recalls, "share", measuring.not_below() if side == "text" else None)
    report.facts[data.name] = {
        "ours": indexes.setting(mine),
        "ours_measured": mine["facts"],
        "autofaiss": theirs["parameters"],
    }
    report.note(f"{data.name}: ours is {indexes.setting(mine)}; autofaiss {theirs['key']} with {theirs['parameters']}.")


if __name__ == "__main__":
    main()
