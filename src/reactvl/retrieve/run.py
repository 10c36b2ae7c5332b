"""The retrieve stage's work: encode the prompts, search, choose, write."""

import time
from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reactvl.handles.pairs import FILE, Pairs
from reactvl.manifest import Stage, replacing, stage_folder
from reactvl.models import load
from reactvl.progress import progress, say
from reactvl.retrieve import tables
from reactvl.retrieve.report import write_report
from reactvl.retrieve.request import Plan, Request, belonging, checked, recorded
from reactvl.retrieve.scoring import FitScores, mean_queries
from reactvl.retrieve.selection import (
    FATES,
    KEPT,
    Candidates,
    Selection,
    candidate_codes,
    fates_of_hits,
    numbered,
    select,
)
from reactvl.search.exact import top_k
from reactvl.search.hits import Hits, part_offsets

PROMPTS_AT_A_TIME = 2048


def run(request: Request) -> Pairs:
    plan = checked(request)
    options, inputs = recorded(plan, request)
    embeddings = plan.embeddings
    with stage_folder(
        request.out, "retrieve", options=options, inputs=inputs, model=embeddings.model, overwrite=request.overwrite
    ) as stage:
        if not stage.done:
            _retrieve(stage, plan, request)
    pairs = Pairs(request.out)
    counts, facts = pairs.manifest.counts, pairs.manifest.facts
    say(
        f"{request.out}: {counts['pairs']:,} pairs for {counts['classes']:,} classes "
        f"(median {facts['pairs_per_class']['median']:g} a class, fewest {facts['pairs_per_class']['fewest']}) "
        f"of {counts['rows']:,} in the pool; {facts['captions_without_class_name']:.0%} of their captions "
        "lack the class name"
    )
    say(f"  pictures per class: {request.out / 'report.html'}")
    if facts["few"]:
        shown = ", ".join(facts["few"][:8]) + (" ..." if len(facts["few"]) > 8 else "")
        say(f"  {len(facts['few'])} classes got few pairs: {shown}")
    return pairs


def _retrieve(stage: Stage, plan: Plan, request: Request) -> None:
    queries = _timed(stage, "encode", lambda: encoded(stage, plan, request))
    found = _timed(stage, "search", lambda: {mode: searched(stage, plan, mode, queries) for mode in plan.modes})
    _timed(stage, "choose", lambda: chosen(stage, plan, request, queries, found))


def _timed(stage: Stage, name: str, work):
    began = time.monotonic()
    result = work()
    stage.timing[f"{name}_seconds"] = time.monotonic() - began
    return result


def encoded(stage: Stage, plan: Plan, request: Request) -> np.ndarray:
    """float32 (queries, dim) of the prompts; kept in the work folder, so that a stopped run does not encode again."""
    path = stage.work / "queries.npy"
    if path.exists():
        return np.load(path)
    from reactvl.models.encoder import Encoder

    model = plan.model
    if isinstance(model, str):
        model = belonging(load(model), plan.embeddings)
    encoder = Encoder(model, device=request.device, precision=plan.precision)
    prompts, pieces = plan.prompts, []
    with progress("encoding prompts", len(prompts), "prompts") as bar:
        for first in range(0, len(prompts), PROMPTS_AT_A_TIME):
            pieces.append(encoder.texts(prompts[first : first + PROMPTS_AT_A_TIME]))
            bar.advance(len(pieces[-1]))
    vectors = np.concatenate(pieces)
    with replacing(path) as part, open(part, "wb") as file:
        np.save(file, vectors)
    return vectors


def searched(stage: Stage, plan: Plan, mode: str, queries: np.ndarray) -> Hits:
    """The hits of one mode; kept in the work folder."""
    path = stage.work / f"hits-{mode}.npz"
    if path.exists():
        with np.load(path) as kept:
            return Hits(*(kept[name] for name in ("query", "row", "score", "rank")), len(queries), int(kept["unfit"]))
    parts = plan.sides[mode]
    if plan.index:
        hits = plan.index.search(queries, plan.candidates)
    else:
        with progress(f"searching {mode} vectors", sum(map(len, parts)), "rows") as bar:
            hits = top_k(queries, parts, plan.candidates, advance=bar.advance)
    with replacing(path) as part, open(part, "wb") as file:
        np.savez(file, query=hits.query, row=hits.row, score=hits.score, rank=hits.rank, unfit=hits.unfit)
    return hits


def chosen(stage: Stage, plan: Plan, request: Request, queries: np.ndarray, found: dict[str, Hits]) -> None:
    """Select, and write the folder's files and manifest."""
    parts = plan.embeddings.parts
    offsets = part_offsets(plan.sides[plan.modes[0]])
    rows = int(offsets[-1])
    name_of_class = numbered(plan.classes)
    class_of_query = np.repeat(np.arange(len(plan.classes)), len(plan.templates))
    name_of_query = name_of_class[class_of_query]

    # Scores of hits are compared in float32, as they are reported.
    low = -np.inf if request.min_similarity is None else np.float32(request.min_similarity)
    able = {mode: _only(hits, hits.score >= low) for mode, hits in found.items()}
    codes = candidate_codes(list(able.values()), name_of_query, rows)
    name, row = np.divmod(codes, rows)
    means = mean_queries(queries, name_of_query, int(name_of_class.max()) + 1)
    score, by_mode, best = FitScores(means, plan.sides, request.seed).of_pairs(name, row)

    numbers = np.array([part.number for part in parts])
    unique_rows, place = np.unique(row, return_inverse=True)
    part_at, row_at = _split(unique_rows, offsets)
    known = tables.metadata_of(parts, numbers[part_at], row_at, ("shard", "key", "sha256"))
    picture, excluded = _pictures(known, plan)
    fit = best == name if request.rivals == "all" else np.ones(len(name), dtype=bool)
    weak = np.zeros(len(name), dtype=bool) if request.min_score is None else score < request.min_score
    candidates = Candidates(name, row, score, fit, picture[place], excluded[place], weak)
    selection = select(candidates, name_of_class, request.per_class)

    table = _pairs(plan, selection, codes, row, score, able, by_mode, class_of_query, name_of_class, offsets, numbers)
    tables.write(stage.out / FILE, [table], tables.PAIRS)
    tables.write(stage.out / "queries.parquet", [_queries(plan)], tables.QUERIES)
    fates = np.zeros(len(FATES), dtype=np.int64)

    def pieces() -> Iterator[pa.Table]:
        for mode, hits in found.items():
            fate = fates_of_hits(hits, codes, selection, class_of_query, name_of_class, rows)
            fate[hits.score < low] = FATES.index("below minimum")
            fates[:] += np.bincount(fate, minlength=len(FATES))
            yield _hits(hits, mode, fate, offsets, numbers)

    hits_written = tables.write(stage.out / "hits.parquet", pieces(), tables.HITS)
    facts = _facts(plan, request, table, found)
    facts["fates_of_hits"] = dict(zip(FATES, fates.tolist(), strict=True))
    write_report(stage.out / "report.html", plan, request, table, facts)
    stage.finish(
        counts={
            "pairs": table.num_rows,
            "classes": len(plan.classes),
            "queries": len(queries),
            "hits": hits_written,
            "candidates": len(codes),
            "rows": rows,
            "excluded_pairs": int(excluded.sum()),
            "unfit_rows": max(hits.unfit for hits in found.values()),
        },
        facts=facts,
    )


def _only(hits: Hits, kept: np.ndarray) -> Hits:
    return Hits(hits.query[kept], hits.row[kept], hits.score[kept], hits.rank[kept], hits.queries, hits.unfit)


def _split(rows: np.ndarray, offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(place of the part in the parts' order, row in it) of rows counted over all parts."""
    part = np.searchsorted(offsets, rows, side="right") - 1
    return part, rows - offsets[part]


def _pictures(known: pa.Table, plan: Plan) -> tuple[np.ndarray, np.ndarray]:
    """For every row: the number of its picture (equal for equal sha256; a row without one is a picture of its own), and
    whether it is left out."""
    sums = known["sha256"].combine_chunks()
    distinct: dict[bytes, int] = {}
    picture = np.array(
        [
            len(sums) + at if image is None else distinct.setdefault(image, at)
            for at, image in enumerate(sums.to_pylist())
        ],
        dtype=np.int64,
    )
    if not len(plan.exclusion):
        return picture, np.zeros(len(picture), dtype=bool)
    return picture, plan.exclusion.mask(known["shard"].to_pylist(), known["key"].to_pylist(), sums.to_pylist())


def _pairs(
    plan: Plan, selection: Selection, codes, row, score, able, by_mode, class_of_query, name_of_class, offsets, numbers
) -> pa.Table:
    """The rows of pairs.parquet, by class and rank."""
    kept = np.flatnonzero(selection.fate == KEPT)
    kept = kept[np.lexsort((selection.rank[kept], selection.class_id[kept]))]
    class_id = selection.class_id[kept]
    mode, query, similarity = _finders(
        codes, kept, class_id, able, by_mode, class_of_query, name_of_class, int(offsets[-1])
    )
    part_at, row_at = _split(row[kept], offsets)
    known = tables.metadata_of(plan.embeddings.parts, numbers[part_at], row_at)
    prompts = pa.array(plan.prompts, type=pa.string())
    return pa.table(
        {
            "class": pa.array(plan.classes, type=pa.string()).take(pa.array(class_id)),
            "class_id": class_id,
            "prompt": prompts.take(pa.array(query)),
            "mode": pa.array([plan.modes[number] for number in mode.tolist()], type=pa.string()),
            "score": score[kept].astype(np.float32),
            "similarity": similarity,
            "rank": selection.rank[kept],
            "part": numbers[part_at],
            "row": row_at,
            **{column: known[column] for column in ("shard", "key", "ext", "offset", "size", "sha256")},
            "URL": known["url"],
            "TEXT": known["caption"],
        }
    ).cast(tables.PAIRS)


def _finders(codes, kept, class_id, able, by_mode, class_of_query, name_of_class, rows: int):
    """For every kept pair the query of its own class that found it best: in the mode whose z-score of the pair is
    highest among those that found it. (place of the mode, query, similarity), each (pairs,)."""
    wanted = codes[kept]
    order = np.argsort(wanted)
    mode = np.full(len(kept), -1, dtype=np.int64)
    query = np.zeros(len(kept), dtype=np.int64)
    similarity = np.zeros(len(kept), dtype=np.float32)
    strength = np.full(len(kept), -np.inf)
    for number, (side, hits) in enumerate(able.items()):
        code = name_of_class[class_of_query[hits.query]] * np.int64(rows) + hits.row
        at = np.searchsorted(wanted[order], code).clip(max=max(len(kept) - 1, 0))
        pair = order[at] if len(kept) else at
        own = (
            np.flatnonzero((wanted[pair] == code) & (class_id[pair] == class_of_query[hits.query])) if len(kept) else []
        )
        own = np.asarray(own, dtype=np.int64)
        best = own[np.lexsort((hits.query[own], -hits.score[own], pair[own]))]
        found, first = np.unique(pair[best], return_index=True)
        stronger = by_mode[side][kept[found]] > strength[found]
        found, best = found[stronger], best[first][stronger]
        mode[found], query[found], similarity[found] = number, hits.query[best], hits.score[best]
        strength[found] = by_mode[side][kept[found]]
    return mode, query, similarity


def _queries(plan: Plan) -> pa.Table:
    count = len(plan.classes) * len(plan.templates)
    class_id = np.repeat(np.arange(len(plan.classes), dtype=np.int32), len(plan.templates))
    return pa.table(
        {
            "query": np.arange(count, dtype=np.int32),
            "class_id": class_id,
            "class": pa.array(plan.classes, type=pa.string()).take(pa.array(class_id)),
            "template": plan.templates * len(plan.classes),
            "prompt": plan.prompts,
        }
    )


def _hits(hits: Hits, mode: str, fate: np.ndarray, offsets: np.ndarray, numbers: np.ndarray) -> pa.Table:
    part, row = _split(hits.row, offsets)
    return pa.table(
        {
            "query": hits.query,
            "part": numbers[part].astype(np.int32),
            "row": row,
            "mode": np.full(len(hits), tables.MODES.index(mode), dtype=np.int8),
            "rank": hits.rank,
            "score": hits.score,
            "fate": fate,
        }
    )


def names_in_captions(table: pa.Table) -> np.ndarray:
    """bool (pairs,): does the caption hold the class name, letters' case and the signs between words aside."""
    pattern = r"[\s\-_.,;:/|#+]+"
    captions, names = (
        pc.replace_substring_regex(pc.utf8_lower(pc.fill_null(table[column], "")), pattern, " ").to_pylist()
        for column in ("TEXT", "class")
    )
    held = (f" {name.strip()}" in f" {caption}" for caption, name in zip(captions, names, strict=True))
    return np.fromiter(held, dtype=bool, count=table.num_rows)


def _facts(plan: Plan, request: Request, table: pa.Table, found: dict[str, Hits]) -> dict:
    per_class = np.bincount(table["class_id"].to_numpy(), minlength=len(plan.classes))
    few = np.flatnonzero(per_class < max(2, request.per_class // 4))
    named = names_in_captions(table)
    modes = table["mode"].to_pylist()
    return {
        "pairs_per_class": {
            "fewest": int(per_class.min()),
            "median": float(np.median(per_class)),
            "most": int(per_class.max()),
        },
        "few": [plan.classes[number] for number in few.tolist()],
        "captions_without_class_name": round(float(1 - named.mean()), 4) if len(named) else 0.0,
        "pairs_by_mode": {mode: modes.count(mode) for mode in plan.modes},
        "lowest_similarity": {
            mode: round(float(hits.score.min()), 4) if len(hits) else None for mode, hits in found.items()
        },
        "index_recall": plan.index.recall if plan.index else 1.0,
    }
