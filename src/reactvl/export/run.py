"""One run of the export stage: the pairs with their places, and the layout that was asked for."""

import re
from pathlib import Path
from typing import Any

import pyarrow as pa

from reactvl.export import names
from reactvl.export.files import ClassCopies, Copy, write_classes
from reactvl.export.found_by import search_meta, synonyms
from reactvl.handles.pairs import FILE, Pairs
from reactvl.manifest import ReactvlError, Stage, input_id, stage_folder
from reactvl.pool.copies import Written, copied, counted, sweep
from reactvl.pool.embeddings_format import write_table
from reactvl.pool.listing import reasons, write_skipped
from reactvl.progress import say

RECORD = ("class", "class_id", "prompt", "mode", "score", "similarity", "rank", "shard", "key", "sha256")


def run_stage(
    retrieved: str | Path | Pairs,
    out: Path,
    layouts: list[str],
    *,
    dataset: str | None,
    per_shard: int,
    seed: int,
    overwrite: bool,
) -> Path:
    """See `reactvl.export.export`."""
    if len(layouts) != 1:
        raise ReactvlError(f"export: ask for one of --scatter, --tree and --shards{' only' if layouts else ''}")
    (layout,) = layouts
    if per_shard < 1 or seed < 0:
        raise ReactvlError(f"per_shard {per_shard}, seed {seed}: use 1 or more, and 0 or more")
    if dataset is not None and not re.fullmatch(r"[0-9A-Za-z_][0-9A-Za-z_.-]*", dataset):
        raise ReactvlError(f"dataset {dataset!r}: is the name of a folder; use letters, digits, `_`, `-` and `.`")
    pairs = retrieved if isinstance(retrieved, Pairs) else Pairs(retrieved)
    pairs.embeddings.require_pictures(pairs.folder / FILE)
    options: dict[str, Any] = {"layout": layout}
    if layout == "tree":
        options["dataset"] = dataset or names.plain(pairs.folder.resolve().name)
    if layout == "shards":
        options |= {"per_shard": per_shard, "seed": seed}
    inputs = {"retrieved": input_id(pairs.folder, out)}
    with stage_folder(out, "export", options=options, inputs=inputs, model=pairs.model, overwrite=overwrite) as stage:
        if stage.done:
            say(f"export: {out} is up to date")
            return out
        sweep(out, {path.stem for path in out.glob("*.tar")})
        rows = rows_of(pairs)
        if layout == "shards":
            done = copied(rows, out, seed=seed, per_shard=per_shard, title="writing shards")
        elif layout == "tree":
            done = write_classes(stage, tree(stage, pairs, rows, options["dataset"]), "writing the tree")
        else:
            done = scattered(stage, pairs, rows)
        counts = counted(done)
        if layout != "shards":
            counts["classes"] = counts.pop("shards")
        write_skipped(out, (left for one in done for left in one.left_out))
        stage.finish(counts=counts)
    what = f"{counts['shards']:,} shards" if layout == "shards" else f"{counts['classes']:,} classes"
    say(f"export: {counts['pairs']:,} pairs in {what} -> {out}")
    if counts["skipped"]:
        say(f"export: {counts['skipped']:,} skipped ({reasons(counts)}); listed in {out / 'skipped.parquet'}")
    return out


def rows_of(pairs: Pairs) -> list[dict[str, Any]]:
    """The pairs by class and rank, as `pool.copies` wants them; ReactvlError when a shard of theirs is gone or changed."""
    table = pairs.table()
    paths = {name: pairs.embeddings.shard_path(name) for name in sorted(set(table["shard"].to_pylist()))}
    return [
        {
            "shard_path": paths[row["shard"]],
            "offset": row["offset"],
            "size": row["size"],
            "ext": row["ext"],
            "caption": row["TEXT"],
            "record": {name: row[name] for name in RECORD} | {"url": row["URL"]},
        }
        for row in table.to_pylist()
    ]


def by_class(pairs: Pairs, rows: list[dict[str, Any]]) -> list[list[int]]:
    """Numbers of the rows of every class."""
    members: list[list[int]] = [[] for _ in pairs.classes]
    for number, row in enumerate(rows):
        members[row["record"]["class_id"]].append(number)
    return members


def scattered(stage: Stage, pairs: Pairs, rows: list[dict[str, Any]]) -> list[Written]:
    """`0003_red_panda/000000.jpg` and `.txt`, by class and rank, and `files.parquet`, which says what each one is."""
    width = max(4, len(str(len(pairs.classes) - 1)))
    folders = [f"{number:0{width}d}_{names.plain(name)}" for number, name in enumerate(pairs.classes)]
    classes, listed = [], []
    for folder, members in zip(folders, by_class(pairs, rows), strict=True):
        copies = [Copy(rows[at], f"{rows[at]['record']['rank']:06d}", {}) for at in members]
        classes.append(ClassCopies(stage.out / folder, copies, None))
        listed += [
            {"file": f"{folder}/{copy.name}.{copy.row['ext']}", **copy.row["record"], "caption": copy.row["caption"]}
            for copy in copies
        ]
    done = write_classes(stage, classes, "writing files")
    left_out = {(left.shard, left.key) for one in done for left in one.left_out}
    kept = [row for row in listed if (row["shard"], row["key"]) not in left_out]
    write_table(stage.out / "files.parquet", pa.Table.from_pylist(kept))
    return done


def tree(stage: Stage, pairs: Pairs, rows: list[dict[str, Any]], dataset: str) -> list[ClassCopies]:
    """The released code's `images/DATASET/CLASS/` and `metas/DATASET/CLASS.json`; the metas name shard and key besides."""
    found = search_meta(pairs, pairs.table(["class_id", "part", "row", "prompt", "similarity"]))
    classes = []
    for folder, members in zip(names.class_folders(synonyms(pairs)), by_class(pairs, rows), strict=True):
        places = [(rows[at]["record"]["shard"], rows[at]["record"]["key"]) for at in members]
        copies = [
            Copy(rows[at], name, {"search_meta": found[at], "shard": shard, "key": key})
            for at, name, (shard, key) in zip(members, names.file_names(places), places, strict=True)
        ]
        meta = stage.out / "metas" / dataset / f"{folder}.json"
        classes.append(ClassCopies(stage.out / "images" / dataset / folder, copies, meta))
    return classes
