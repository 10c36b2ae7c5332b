"""Building, tuning and measuring behind the index stage."""

import time
from pathlib import Path

import numpy as np

from reactvl.handles.embeddings import Embeddings
from reactvl.handles.index import FILE, Index, vectors
from reactvl.manifest import ReactvlError, Stage, input_id, stage_folder
from reactvl.progress import progress, say
from reactvl.search.exact import top_k
from reactvl.search.hits import part_offsets
from reactvl.search.index import build, finite, omp_threads, save, search
from reactvl.search.recall import recall as measure
from reactvl.search.recall import without_own
from reactvl.search.rescore import gather
from reactvl.search.tuning import tune

TIMED_QUERIES = 100


def run(embeddings, out: Path, kind, keys, recall, k, queries, seed, threads, overwrite) -> Index:
    embeddings = embeddings if isinstance(embeddings, Embeddings) else Embeddings(embeddings)
    if not 0 < recall <= 1:
        raise ReactvlError(f"recall is {recall}, wanted more than 0 and at most 1")
    for name, value in (("k", k), ("queries", queries), ("threads", threads)):
        if value < 1:
            raise ReactvlError(f"{name} is {value}, wanted 1 or more")
    if seed < 0:
        raise ReactvlError(f"seed is {seed}, wanted 0 or more")
    parts = vectors(embeddings, keys)
    if not sum(map(len, parts)):
        raise ReactvlError(f"{embeddings.folder}: holds no pair, so there is nothing to index")
    options = {
        "kind": kind,
        "keys": keys,
        "recall": recall,
        "k": k,
        "queries": queries,
        "seed": seed,
        "threads": threads,
    }
    inputs = {"embeddings": input_id(embeddings.folder, out)}
    with stage_folder(
        out, "index", options=options, inputs=inputs, model=embeddings.model, overwrite=overwrite
    ) as stage:
        if not stage.done:
            _write(stage, embeddings, parts, kind, keys, recall, k, queries, seed, threads)
    done = Index(out, embeddings)
    facts = done.manifest.facts
    say(
        f"{out}: {kind} index of {len(done):,} {keys} vectors, {facts['index_bytes'] / 1e6:,.1f} MB, "
        f"recall@{facts['k']} {facts['recall']:.3f} on {facts['measured_queries']:,} {facts['queries_from']} queries"
        + (f" ({facts['setting']} {facts['setting_value']})" if facts["setting"] != "exact" else "")
    )
    if not facts["reached"]:
        say(f"  wanted {recall}: not reached at the widest search tried; `--kind ivf` or `flat` can reach any recall")
    return done


def _write(stage: Stage, embeddings, parts, kind, keys, recall, k, queries, seed, threads) -> None:
    rows = sum(map(len, parts))
    began = time.monotonic()
    with progress("indexing", rows, "rows") as bar:
        made = build(parts, kind, seed=seed, threads=threads, advance=bar.advance)
    stage.timing["build_seconds"] = time.monotonic() - began

    own, asked, side = sample_queries(embeddings, queries, seed)
    k = min(k, rows if side != keys else max(1, rows - 1))
    trims = side == keys  # then a query is a key: it would find itself
    truth = top_k(asked, parts, k + 1 if trims else k)
    halves = [np.arange(half, len(asked), 2) for half in (0, 1)] if len(asked) > 1 else [np.arange(1)] * 2

    def trimmed(hits, half):
        return without_own(hits, own[half], k) if trims else hits

    chosen, measured = ((half, trimmed(_of_queries(truth, half), half)) for half in halves)
    setting = tune(
        made,
        asked[chosen[0]],
        parts,
        chosen[1],
        k,
        recall,
        trim=(lambda hits: trimmed(hits, chosen[0])) if trims else None,
    )
    found = trimmed(search(made, asked[measured[0]], parts, k + 1 if trims else k), measured[0])
    reached = measure(found, measured[1], k)
    _time(stage, made, asked[measured[0]], parts, k)
    save(made, stage.out / FILE)
    stage.finish(
        counts={"rows": rows, "unfit_rows": truth.unfit},
        facts={
            "recall": round(reached, 6),
            "reached": setting.recall >= recall,
            "recall_when_tuned": round(setting.recall, 6),
            "setting": setting.name,
            "setting_value": setting.value,
            "k": k,
            "queries_from": side,
            "tuned_queries": len(halves[0]),
            "measured_queries": len(halves[1]),
            "index_bytes": (stage.out / FILE).stat().st_size,
            "dim": int(made.d),
        },
    )


def sample_queries(embeddings: Embeddings, queries: int, seed: int) -> tuple[np.ndarray, np.ndarray, str]:
    """Rows int64 (n,), their vectors float32 (n, D) and the side they are of: captions where there are text vectors.

    n is twice `queries` or all rows; the rows are drawn without repetition by the seed and stay in the order drawn.
    """
    has_texts = all(part.texts() is not None for part in embeddings.parts)
    side = "text" if has_texts else "image"
    parts = vectors(embeddings, side)
    offsets = part_offsets(parts)
    rows = np.random.default_rng([seed, 1]).permutation(int(offsets[-1]))[: 2 * queries]
    ascending = np.sort(rows)
    found = finite(gather(parts, offsets, ascending))
    return rows, found[np.searchsorted(ascending, rows)], side


def _of_queries(hits, chosen: np.ndarray):
    """The hits of some queries, numbered anew in the order of `chosen` (ascending)."""
    kept = np.isin(hits.query, chosen)
    query = np.searchsorted(chosen, hits.query[kept]).astype(np.int32)
    return type(hits)(query, hits.row[kept], hits.score[kept], hits.rank[kept], len(chosen), hits.unfit)


def _time(stage: Stage, made, asked: np.ndarray, parts, k: int) -> None:
    """Latency of one query at a time on one thread, and the rate of a whole batch; re-scoring included."""
    with omp_threads(1):
        spans = []
        for query in asked[:TIMED_QUERIES]:
            began = time.perf_counter()
            search(made, query[None], parts, k)
            spans.append(1000 * (time.perf_counter() - began))
    began = time.perf_counter()
    search(made, asked, parts, k)
    stage.timing["query_ms_median"] = float(np.median(spans))
    stage.timing["query_ms_p95"] = float(np.percentile(spans, 95))
    stage.timing["batch_queries_per_second"] = len(asked) / max(time.perf_counter() - began, 1e-9)
