"""One run of the import stage: the pieces that are still to do, and the folder made whole."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reactvl.handles.embeddings import Embeddings
from reactvl.importing.metadata_rows import fitted, target_schema
from reactvl.importing.pictures import Pictures
from reactvl.importing.pieces import Head, Piece, PieceWriter
from reactvl.importing.source import Block, Dropped, Source, find_source
from reactvl.manifest import InputId, ReactvlError, path_beside, replacing, sha256_json, stage_folder
from reactvl.models import load
from reactvl.pool import embeddings_format as layout
from reactvl.pool.listing import by_reason, reasons
from reactvl.pool.shards import identify
from reactvl.progress import progress, say

UNIT = (
    1e-3  # how far from 1 a norm may be and its vector still be copied bit by bit: float16's rounding of a unit vector
)


def run_import(src, model, out: Path, pool, keys, metadata, lossy: bool, part_rows: int, overwrite: bool) -> Embeddings:
    """See `reactvl.importing.import_embeddings`."""
    if part_rows < 1:
        raise ReactvlError(f"part_rows is {part_rows}, wanted 1 or more")
    src = Path(src)
    source = find_source(src, keys, metadata and Path(metadata), lossy)
    numbers = range(len(source.pieces))
    pictures = Pictures(pool) if pool else None
    if pictures and source.shards is not None:
        pictures.check_stems(source.shards)
    model = load(model)
    if model.id.dim != source.dim:
        raise ReactvlError(
            f"{src}: its vectors have {source.dim} dimensions, those of {model.id.name} {model.id.dim}; name the model that "
            "made them"
        )
    options = {"model": model.id.sha256, "kind": source.kind, "keys": keys, "lossy": lossy, "part_rows": part_rows}
    inputs = {"source": content_id(source, out)} | ({"pool": pictures.identity(out)} if pictures else {})
    with stage_folder(out, "import", options=options, inputs=inputs, model=model.id, overwrite=overwrite) as stage:
        if stage.done:
            say(f"import: {out} is up to date")
            return Embeddings(out)
        for half, fact in source.facts.items():
            if fact["loss"]:
                say(
                    f"import: the {half} vectors were coded ({fact['loss']}): they are not quite those that the model made"
                )
        pieces = [Piece(stage.work / "pieces", number) for number in numbers]
        if pictures:
            pictures.prepare(stage.work, source.shards)
        resumed = take(source, pieces, pictures)
        heads = [piece.head() for piece in pieces]
        counts = counted(heads)
        if not counts["pairs"]:
            raise ReactvlError(f"{src}: not one of its rows can be used ({reasons(counts) or 'it is empty'})")
        write(out, source, pieces, heads, part_rows, pictures)
        norms = [bound for head in heads if head.norms for bound in head.norms]
        facts = {"from": source.kind, "halves": list(source.halves), "norms": [min(norms), max(norms)], **source.facts}
        stage.finish(counts=counts, facts=facts)
    again = f", {resumed:,} of {len(pieces):,} pieces done before" if resumed else ""
    say(f"import: {counts['pairs']:,} pairs of {source.kind} {src}{again} -> {out}")
    if counts["skipped"]:
        say(f"import: {counts['skipped']:,} skipped ({reasons(counts)}); listed in {out / layout.SKIPPED}")
    return Embeddings(out)


def content_id(source: Source, out: Path) -> InputId:
    """What the source is: names, sizes and ends of its files."""
    home = source.home if source.home.is_dir() else source.home.parent
    names = {
        path: path.relative_to(home).as_posix() if path.is_relative_to(home) else path.name for path in source.files
    }
    prints = identify(source.files)
    content = [[names[path], print_.size, print_.ends_sha256] for path, print_ in prints.items()]
    return InputId(path=path_beside(source.home, out), sha256=sha256_json(content))


def take(source: Source, pieces: list[Piece], pictures: Pictures | None) -> int:
    """Make the pieces that are missing; returns how many were done before."""
    before = 0
    with progress("importing", source.size, source.unit) as bar:
        for number, piece in enumerate(pieces):
            if piece.head() is not None:
                before += 1
                continue
            if before and not bar.done:
                bar.advance(source.size * before // len(pieces), resumed=True)
            name = source.pieces[number]
            lookup = pictures.lookup(source.sought(number)) if pictures else None
            with PieceWriter(piece, name) as writer:
                for block in source.blocks(number):
                    writer.drop(block.dropped)
                    rows, images, texts = usable(block, writer)
                    table = block.metadata.take(rows)
                    if lookup is not None:
                        joined = lookup.join(table)
                        writer.drop(joined.dropped)
                        kept = joined.rows.to_numpy()
                        images, texts = (half if half is None else half[kept] for half in (images, texts))
                        table = joined.metadata
                    writer.add(images, texts, table)
                    bar.advance(block.done, f"{sum(writer.reasons.values()):,} skipped" if writer.reasons else None)
    return before


def usable(block: Block, writer: PieceWriter) -> tuple[pa.Array, np.ndarray | None, np.ndarray | None]:
    """The rows whose vectors can be used, int64, and their vectors: float16 (n, dim) of norm 1."""
    rows = block.metadata.num_rows
    fit = np.ones(rows, bool)
    scaled: list[np.ndarray | None] = []
    keys = None
    for half, vectors in (("image", block.images), ("text", block.texts)):
        if vectors is None:
            scaled.append(None)
            continue
        vectors = np.asarray(vectors)
        wide = vectors.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            norms = np.sqrt(np.einsum("nd,nd->n", wide, wide, dtype=np.float64))
        finite = np.isfinite(wide).all(axis=1) & np.isfinite(norms)
        good = finite & (norms > 0)
        for row in np.flatnonzero(fit & ~good).tolist():
            keys = block.metadata["key"] if keys is None else keys
            what = ("zero vector", "only zeros") if finite[row] else ("NaN or infinity", "a NaN or an infinity")
            writer.drop([Dropped(keys[row].as_py() or "", what[0], f"its {half} vector holds {what[1]}")])
        writer.seen(norms[good])
        off = good & (np.abs(norms - 1) > UNIT)
        wide[off] /= norms[off, None].astype(np.float32)
        scaled.append(wide)
        fit &= good
    kept = np.flatnonzero(fit)
    halves = (half if half is None else half[kept].astype(np.float16) for half in scaled)
    return pa.array(kept, pa.int64()), *halves


def counted(heads: list[Head]) -> dict[str, int]:
    """Pairs, and rows left out in all and by reason."""
    skipped = sum((Counter(head.skipped) for head in heads), Counter())
    return {
        "pairs": sum(head.rows for head in heads),
        **by_reason(skipped),
    }


def write(
    out: Path, source: Source, pieces: list[Piece], heads: list[Head], part_rows: int, pictures: Pictures | None
) -> None:
    """Write the parts, `shards.parquet` and `skipped.parquet` over whatever a killed run left."""
    for name in (layout.IMAGES, layout.TEXTS, layout.METADATA):
        shutil.rmtree(out / name, ignore_errors=True)
    schema = told(target_schema([schema for piece in pieces if (schema := piece.schema()) is not None]))
    total = sum(head.rows for head in heads)
    places: dict[str, dict[str, int | None]] = {}
    with progress("writing parts", total, "rows") as bar:
        for number, members in enumerate(layout.parts_of([head.rows for head in heads], part_rows)):
            rows = sum(heads[member].rows for member in members)
            with layout.PartWriter(out, number, rows, source.dim, schema=schema, halves=source.halves) as part:
                for member in members:
                    for shard, count in heads[member].shards.items():
                        alone = len(heads[member].shards) == 1 and shard not in places
                        known = places.get(shard, {"rows": 0})
                        at = {"part": number, "first_row": part.written} if alone else {"part": None, "first_row": None}
                        places[shard] = {**at, "rows": known["rows"] + count}
                    if heads[member].rows:
                        for images, texts, metadata in pieces[member].blocks():
                            part.add(images, texts, fitted(metadata, schema))
                            bar.advance(metadata.num_rows)
    shards = pictures.shard_rows(places, out) if pictures else []
    layout.write_table(out / layout.SHARDS, pa.Table.from_pylist(shards, schema=layout.SHARDS_SCHEMA))
    with (
        replacing(out / layout.SKIPPED) as temporary,
        pq.ParquetWriter(temporary, layout.SKIPPED_SCHEMA, compression="zstd") as skipped,
    ):
        for piece in pieces:
            for batch in pq.ParquetFile(piece.skipped).iter_batches():
                skipped.write_batch(batch)


def told(schema: pa.Schema) -> pa.Schema:
    """The schema with text for what no piece has a value of."""
    return pa.schema([field.with_type(pa.string()) if pa.types.is_null(field.type) else field for field in schema])
