"""Writing what was chosen: the tables, the facts, the report, the shards."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reactvl.handles.index import Index
from reactvl.handles.pairs import FILE, SHARDS
from reactvl.manifest import Stage
from reactvl.retrieve import tables
from reactvl.retrieve.choosing import Choice, Chooser, able_hits
from reactvl.retrieve.exclusion import Exclusion
from reactvl.retrieve.finding import Found
from reactvl.retrieve.queries import MODES, POSITIVE, SIDE
from reactvl.retrieve.report import Findings, Similarities, write_report
from reactvl.retrieve.request import Plan, Request
from reactvl.retrieve.selection import BELOW_MINIMUM, FATES, KEPT, fate_counts, fates_of_hits
from reactvl.search.hits import Hits


def write(
    stage: Stage,
    plan: Plan,
    request: Request,
    chooser: Chooser,
    choice: Choice,
    found: Found,
    indexes: dict[str, Index],
    leaks: Exclusion,
) -> None:
    """Write the folder's files and manifest; the files stay in the work folder until all are whole."""
    out = stage.work / "result"
    out.mkdir(exist_ok=True)
    for stray in out.rglob(".*.part"):  # of a run that was killed
        stray.unlink()
    table = pairs_table(plan, chooser, choice, found)
    tables.write(out / FILE, [table], tables.PAIRS)
    tables.write(out / "queries.parquet", [queries_table(plan)], tables.QUERIES)
    fates, similarities = np.zeros(len(FATES), dtype=np.int64), Similarities()
    hits = hits_tables(plan, chooser, choice, found, fates, similarities)
    written = tables.write(out / "hits.parquet", hits, tables.HITS)
    facts = facts_of(plan, request, table, found, indexes)
    facts["fates_of_hits"] = dict(zip(FATES, fates.tolist(), strict=True))
    facts["fates_of_candidates"] = fate_counts(choice.selection.fate)
    if plan.positives:
        facts["positives"] = positives_of(plan, chooser, choice)
    if leaks.unusable:
        facts["unusable_evaluation_images"] = [list(one) for one in leaks.unusable[:100]]
    write_report(out / "report.html", findings(plan, request, chooser, choice, table, facts, similarities))
    shards = materialized(out, plan, request, table) if request.materialize else {}
    for path in sorted(out.iterdir()):
        if path.is_dir():
            shutil.rmtree(stage.out / path.name, ignore_errors=True)
        path.replace(stage.out / path.name)
    stage.finish(
        counts={
            "pairs": table.num_rows,
            "classes": len(plan.entries),
            "queries": len(plan.queries),
            "hits": written,
            "candidates": len(choice.codes),
            "rows": plan.rows,
            "excluded_pairs": len(np.unique(choice.candidates.row[choice.candidates.excluded])),
            "unfit_rows": max(hits.unfit for hits in found.hits.values()),
            **shards,
        },
        facts=facts,
    )


def positives_of(plan: Plan, chooser: Chooser, choice: Choice) -> dict:
    """What became of the pairs that were picked by hand: how many were listed, the fates of the rows that they are, and
    which the pool does not hold."""
    lacking = chooser.picks.lacking
    fates = fate_counts(choice.selection.fate[choice.candidates.by_hand])
    return {
        "listed": len(plan.positives),
        "fates": {fate: count for fate, count in fates.items() if count},
        "not_in_pool": len(lacking),
        "lacking": [str(one) for one in lacking[:100]],
    }


def pairs_table(plan: Plan, chooser: Chooser, choice: Choice, found: Found) -> pa.Table:
    """The rows of pairs.parquet, by class and rank."""
    selection, candidates = choice.selection, choice.candidates
    kept = np.flatnonzero(selection.fate == KEPT)
    kept = kept[np.lexsort((selection.rank[kept], selection.class_id[kept]))]
    class_id = selection.class_id[kept]
    mode, query, similarity = finders(plan, choice, found, kept, class_id)
    by_hand = mode < 0
    no_cosine = by_hand | ((mode == MODES.index("match")) & (plan.searched == plan.modes))
    part, row = chooser.split(candidates.row[kept])
    known = tables.metadata_of(plan.embeddings.parts, part, row)
    return pa.table(
        {
            "class": pa.array(plan.classes, type=pa.string()).take(pa.array(class_id)),
            "class_id": class_id,
            "prompt": pa.array([plan.queries.prompt[at] for at in query.tolist()], pa.string(), mask=by_hand),
            "mode": pa.array([*MODES, POSITIVE], type=pa.string()).take(pa.array(np.where(by_hand, len(MODES), mode))),
            "score": candidates.score[kept].astype(np.float32),
            "similarity": pa.array(similarity, mask=no_cosine),
            "rank": selection.rank[kept],
            "part": part,
            "row": row,
            **{column: known[column] for column in ("shard", "key", "ext", "offset", "size", "sha256")},
            "URL": known["url"],
            "TEXT": known["caption"],
        }
    ).cast(tables.PAIRS)


def finders(plan: Plan, choice: Choice, found: Found, kept: np.ndarray, class_id: np.ndarray):
    """For every kept pair the query of its own class that found it best: in the mode in which the pair is strongest among
    those that found it, `match` where no other did. (place in MODES, query, similarity), each (pairs,); the place is -1 for
    a pair that was picked by hand and that none found."""
    order = np.argsort(choice.codes[kept], kind="stable")
    wanted = choice.codes[kept][order], class_id[order]
    mode = np.full(len(kept), -1, dtype=np.int64)
    query = np.zeros(len(kept), dtype=np.int64)
    similarity = np.zeros(len(kept), dtype=np.float32)
    strength = np.full(len(kept), -np.inf)
    for side, hits in found.hits.items():
        asked, score = (
            values[np.argsort(order)] for values in best_queries(plan, able_hits(plan, side, hits), *wanted)
        )
        mine = choice.strength[side][kept]
        stronger = (asked >= 0) & ((mode < 0) if side == "match" else (mine > strength))
        mode[stronger], query[stronger], similarity[stronger] = MODES.index(side), asked[stronger], score[stronger]
        strength[stronger] = mine[stronger]
    return mode, query, similarity


def best_queries(plan: Plan, hits: Hits, codes: np.ndarray, class_id: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For pairs of sorted codes and their classes: the query of that class which gives the pair its best score, int64 (-1
    for none; the lower among equals), and that score, float32."""
    asked, score = np.full(len(codes), -1, dtype=np.int64), np.full(len(codes), -np.inf, dtype=np.float32)
    for some in slices(hits):
        class_of_hit = plan.queries.class_id[some.query]
        code = plan.queries.name_of_class[class_of_hit] * np.int64(plan.rows) + some.row
        at = np.searchsorted(codes, code).clip(max=max(len(codes) - 1, 0))
        own = np.flatnonzero((codes[at] == code) & (class_id[at] == class_of_hit)) if len(codes) else np.empty(0, int)
        best = own[np.lexsort((some.query[own], -some.score[own], at[own]))]
        pair, first = np.unique(at[best], return_index=True)
        best = best[first]
        better = some.score[best] > score[pair]  # slices come by rising query
        asked[pair[better]], score[pair[better]] = some.query[best[better]], some.score[best[better]]
    return asked, score


def slices(hits: Hits) -> Iterator[Hits]:
    """The hits in pieces of a row group."""
    for first in range(0, len(hits), tables.ROW_GROUP):
        some = slice(first, first + tables.ROW_GROUP)
        yield Hits(hits.query[some], hits.row[some], hits.score[some], hits.rank[some], hits.queries, hits.unfit)


def queries_table(plan: Plan) -> pa.Table:
    queries = plan.queries
    kinds = [kind for kind, span in queries.spans.items() for _ in span]
    return pa.table(
        {
            "query": np.arange(len(queries), dtype=np.int32),
            "class_id": queries.class_id.astype(np.int32),
            "class": pa.array(plan.classes, type=pa.string()).take(pa.array(queries.class_id)),
            "name": queries.name,
            "template": queries.template,
            "prompt": queries.prompt,
            "kind": kinds,
        }
    )


def hits_tables(
    plan: Plan, chooser: Chooser, choice: Choice, found: Found, fates: np.ndarray, similarities: Similarities
) -> Iterator[pa.Table]:
    """The rows of hits.parquet, a piece at a time; counts their fates and similarities on the way."""
    queries = plan.queries
    for mode, hits in found.hits.items():
        low = np.float32(plan.floors.get(mode, -np.inf))
        for some in slices(hits):
            fate = fates_of_hits(
                some, choice.codes, choice.selection, queries.class_id, queries.name_of_class, plan.rows
            )
            fate[some.score < low] = BELOW_MINIMUM
            fates += np.bincount(fate, minlength=len(FATES))
            similarities.add(mode, some.score, fate == KEPT)
            part, row = chooser.split(some.row)
            yield pa.table(
                {
                    "query": some.query,
                    "part": part.astype(np.int32),
                    "row": row,
                    "mode": np.full(len(some), MODES.index(mode), dtype=np.int8),
                    "rank": some.rank,
                    "score": some.score,
                    "fate": fate,
                }
            )


def facts_of(plan: Plan, request: Request, table: pa.Table, found: Found, indexes: dict[str, Index]) -> dict:
    per_class = np.bincount(table["class_id"].to_numpy(), minlength=len(plan.entries))
    few = np.flatnonzero(per_class < max(2, min(request.per_class, plan.per_prompt) // 4))
    named = names_in_captions(table, [entry.synonyms for entry in plan.entries])
    modes = table["mode"].to_pylist()
    facts = {
        "pairs_per_class": {
            "fewest": int(per_class.min()),
            "median": float(np.median(per_class)),
            "most": int(per_class.max()),
        },
        "few": [plan.classes[number] for number in few.tolist()],
        "short": int((per_class < request.per_class).sum()),
        "captions_without_class_name": round(float(1 - named.mean()), 4) if len(named) else 0.0,
        "pairs_by_mode": {
            mode: modes.count(mode) for mode in [*plan.searched, *([POSITIVE] if plan.positives else [])]
        },
        "lowest_similarity": {
            mode: round(float(hits.score.min()), 4) if len(hits) else None for mode, hits in found.hits.items()
        },
        "deepest": {mode: int(depth.max()) for mode, depth in found.depth.items()},
        "searched_through": {SIDE[mode]: "exact" for mode in plan.searched if mode in SIDE}
        | {side: index.folder.name for side, index in indexes.items()},
        "index_recall": {side: index.recall for side, index in indexes.items()},
        "pool": "shards" if plan.embeddings.has_pictures else "urls",
        "tasks": list(request.tasks) if request.tasks and not isinstance(request.tasks, str) else request.tasks,
    }
    if found.matches is not None:
        facts["captions_that_hold_a_name"] = found.matches
    return facts


def names_in_captions(table: pa.Table, names: list[tuple[str, ...]]) -> np.ndarray:
    """bool (pairs,): does the caption hold a name of the class (`names`, by class id), letters' case and the signs between
    words aside."""
    pattern = r"[\s\-_.,;:/|#+]+"

    def plain(texts: pa.Array) -> list[str]:
        return pc.replace_substring_regex(pc.utf8_lower(pc.fill_null(texts, "")), pattern, " ").to_pylist()

    known = [plain(pa.array(of_class, pa.string())) for of_class in names]
    captions, classes = plain(table["TEXT"]), table["class_id"].to_pylist()
    held = (
        any(f" {name.strip()}" in f" {caption}" for name in known[class_id])
        for caption, class_id in zip(captions, classes, strict=True)
    )
    return np.fromiter(held, dtype=bool, count=table.num_rows)


def findings(
    plan: Plan,
    request: Request,
    chooser: Chooser,
    choice: Choice,
    table: pa.Table,
    facts: dict,
    similarities: Similarities,
) -> Findings:
    """What the report is made of."""
    embeddings = plan.embeddings
    first = np.unique(plan.queries.name_of_class, return_index=True)[1]

    def describe(rows: np.ndarray) -> pa.Table:
        columns = ("shard", "key", "offset", "size", "caption", "url")
        return tables.metadata_of(embeddings.parts, *chooser.split(rows), columns)

    return Findings(
        pool=embeddings.folder.name,
        rows=plan.rows,
        classes=plan.classes,
        names=[plan.classes[at] for at in first.tolist()],
        per_class=request.per_class,
        asked=f"At most {request.per_class:,} pairs a class, from {plan.per_prompt:,} nearest of every query; modes "
        f"{', '.join(plan.modes)}, joined by {request.fusion}; "
        + (f"{len(plan.positives):,} pairs were picked by hand." if plan.positives else "no label was used."),
        pairs=table,
        few=facts["few"],
        unnamed=facts["captions_without_class_name"],
        fates=facts["fates_of_hits"],
        similarities=similarities,
        candidates=choice.candidates,
        selection=choice.selection,
        describe=describe,
        read=embeddings.read_bytes if embeddings.has_pictures else None,
    )


def materialized(out: Path, plan: Plan, request: Request, table: pa.Table) -> dict[str, int]:
    """Write the pairs as shards; returns their counts."""
    from reactvl.pool.copies import materialize

    columns = ("class", "class_id", "rank", "prompt", "mode", "score", "similarity", "shard", "key", "sha256")
    rows = [
        {
            "shard_path": plan.embeddings.shard_path(pair["shard"]),
            "offset": pair["offset"],
            "size": pair["size"],
            "ext": pair["ext"],
            "caption": pair["TEXT"],
            "record": {**{column: pair[column] for column in columns}, "url": pair["URL"]},
        }
        for pair in table.to_pylist()
    ]
    counts = materialize(rows, out / SHARDS, seed=request.seed)
    return {f"materialized {name}": count for name, count in counts.items()}
