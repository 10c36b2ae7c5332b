"""The pictures of imported rows: where each lies in the pool's shards, found by key.

The pool is catalogued once, a parquet file a shard in the stage's work folder. Rows that are known to be of one shard
are looked up there; others in the whole catalogue, of which only row groups are read that can hold their keys (with
img2dataset's ascending keys a few), so that memory depends on a piece and not on the pool.
"""

import functools
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from reactvl.importing.metadata_rows import joined_type
from reactvl.importing.source import Dropped
from reactvl.manifest import InputId, ReactvlError, replacing
from reactvl.pool.columns import kinds_of, table_of
from reactvl.pool.embeddings_format import METADATA_SCHEMA
from reactvl.pool.patterns import expand
from reactvl.pool.shards import UNREADABLE, identify, pool_id, shard_names, shard_row
from reactvl.pool.tars import catalogue, same_shard
from reactvl.progress import progress

PLACE = ("key", "shard", "offset", "size", "ext", "caption", "url")
ROW_GROUP = 4_096  # rows whose smallest and largest key the catalogue knows


class Pictures:
    """A pool whose samples are to be found by key.

    Raises ReactvlError for a pattern that names no shards, and for a shard that cannot be read.
    """

    def __init__(self, pool: str | list[str]):
        self.shards = identify(expand(pool))
        unread = next((path for path, print_ in self.shards.items() if print_ == UNREADABLE), None)
        if unread:
            raise ReactvlError(f"shard {unread}: cannot be read")
        self.names = shard_names(list(self.shards))
        self.numbers = {path: number for number, path in enumerate(self.shards)}
        self.by_stem: dict[str, Path] = {}
        for path in self.shards:
            stem = path.name.partition(".")[0]
            self.by_stem[stem] = None if stem in self.by_stem else path

    def identity(self, out: Path) -> InputId:
        return pool_id(self.shards, out)

    def check_stems(self, stems: list[str]) -> None:
        """ReactvlError when one of these shards is not in the pool, or in it twice."""
        for stem in stems:
            if stem not in self.by_stem:
                raise ReactvlError(
                    f"pool: has no shard {stem}.tar, of which the features tell; give all of their shards"
                )
            if self.by_stem[stem] is None:
                raise ReactvlError(f"pool: has several shards {stem}.tar; give those that the features were made of")

    def prepare(self, work: Path, stems: list[str] | None) -> None:
        """Make the catalogue files that are missing: of these shards, or (None) of all."""
        self.home = work / "catalog"
        paths = list(self.shards) if stems is None else [self.by_stem[stem] for stem in stems]
        todo = [path for path in paths if not self._file(path).exists()]
        with progress("cataloguing the pool", len(paths), "shards") as bar:
            bar.advance(len(paths) - len(todo), resumed=True)
            for path in todo:
                self._catalogue(path)
                bar.advance()

    def lookup(self, sought: str | pa.Array) -> "Lookup":
        """Where the samples of one shard lie, or those of these keys in whatever shard."""
        if isinstance(sought, str):
            return Lookup(pq.read_table(self._file(self.by_stem[sought])))
        return self._of_keys(sought)

    def _of_keys(self, keys: pa.Array) -> "Lookup":
        bounds = pc.min_max(keys).as_py()
        if bounds["min"] is None:
            return Lookup(empty())
        key = ds.field("key")
        wanted = (key >= bounds["min"]) & (key <= bounds["max"]) & key.isin(pc.unique(keys.drop_null()))
        near = [
            str(self._file(path))
            for path, (low, high) in self._bounds.items()
            if low <= bounds["max"].encode() and high >= bounds["min"].encode()
        ]
        if not near:
            return Lookup(empty())
        found = ds.dataset(near, schema=empty().schema).to_table(filter=wanted, use_threads=False)
        return Lookup(found.sort_by([("shard", "ascending"), ("offset", "ascending")]))

    @functools.cached_property
    def _bounds(self) -> dict[Path, tuple[bytes, bytes]]:
        """The smallest and the largest key of every shard that has samples, UTF-8 (its order is that of parquet)."""
        found = {}
        for path in self.shards:
            keys = pq.read_table(self._file(path), columns=["key"])["key"]
            if len(keys):
                ends = pc.min_max(keys).as_py()
                found[path] = (ends["min"].encode(), ends["max"].encode())
        return found

    def shard_rows(self, used: dict[str, dict[str, int | None]], out: Path) -> list[dict]:
        """Rows of shards.parquet for the shards that have rows, in the pool's order."""
        return [
            shard_row(name, path, self.shards[path], out, **used[name])
            for path, name in self.names.items()
            if name in used
        ]

    def _file(self, path: Path) -> Path:
        return self.home / f"{self.numbers[path]:06d}.parquet"

    def _catalogue(self, path: Path) -> None:
        found = catalogue(path)
        if not same_shard(path, self.shards[path]):
            raise ReactvlError(f"shard {path}: has changed while it was read; run again when the pool is complete")
        columns = {name: [getattr(sample, name, None) for sample in found.samples] for name in PLACE}
        columns["shard"] = [self.names[path]] * len(found.samples)
        table = pa.table({name: pa.array(values, METADATA_SCHEMA.field(name).type) for name, values in columns.items()})
        fields = [sample.fields for sample in found.samples]
        further = table_of(fields, kinds_of(fields))
        ours = {name.lower() for name in METADATA_SCHEMA.names}
        for name in sorted(further.column_names):
            if name.lower() in ("width", "height"):
                table = table.append_column(name.lower(), whole(further[name]))
            elif name.lower() not in ours:
                table = table.append_column(name, further[name])
        with replacing(self._file(path)) as part:
            pq.write_table(table, part, compression="zstd", row_group_size=ROW_GROUP)


def whole(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Pixels as int32; null for what are none."""
    rows = [v if isinstance(v, int) and not isinstance(v, bool) and 0 < v < 2**31 else None for v in values.to_pylist()]
    return pa.chunked_array([pa.array(rows, pa.int32())])


def empty() -> pa.Table:
    return pa.schema([METADATA_SCHEMA.field(name) for name in PLACE]).empty_table()


class Joined(NamedTuple):
    """Rows that have a picture: their numbers in the block, int64, their metadata, and what is wrong with the others."""

    rows: pa.Array
    metadata: pa.Table
    dropped: list[Dropped]


class Lookup:
    """Samples of a pool that rows are joined with by key."""

    def __init__(self, samples: pa.Table):
        self.samples = samples
        counts = samples["key"].combine_chunks().value_counts() if samples.num_rows else pa.array([], pa.null())
        self.twice = {entry["values"].as_py() for entry in counts if entry["counts"].as_py() > 1}
        self.further = [name for name in samples.column_names if name not in PLACE]

    def join(self, metadata: pa.Table) -> Joined:
        """The rows whose key stands once in the pool; the picture's place is the pool's, caption and URL the row's own
        where it has them."""
        keys = metadata["key"]
        found = (
            pc.index_in(keys, value_set=self.samples["key"])
            if self.samples.num_rows
            else pa.nulls(len(keys), pa.int32())
        )
        kept, dropped = [], []
        captions = self.samples["caption"].to_pylist() if self.samples.num_rows else []
        own = metadata["caption"].to_pylist()
        for row, (key, place) in enumerate(zip(keys.to_pylist(), found.to_pylist(), strict=True)):
            if not key:
                dropped.append(Dropped("", "missing key", "without one its picture cannot be found"))
            elif place is None:
                dropped.append(Dropped(key, "not in the pool", "no sample of this key has a picture there"))
            elif key in self.twice:
                dropped.append(Dropped(key, "key in several shards", "it is not known which picture is meant"))
            elif not own[row] and not captions[place]:
                dropped.append(Dropped(key, "no caption", "neither the source nor the pool has one"))
            else:
                kept.append(row)
        rows = pa.array(kept, pa.int64())
        table, samples = metadata.take(rows), self.samples.take(found.take(rows))
        for name in PLACE[1:]:
            field = METADATA_SCHEMA.field(name)
            values = samples[name].cast(field.type)
            if name in ("caption", "url"):
                values = pc.coalesce(table[name], values)
            table = table.set_column(table.schema.get_field_index(name), field, values)
        for name in self.further:
            at = table.schema.get_field_index(name)
            values = samples[name]
            if at < 0:
                table = table.append_column(name, values)
            elif joined_type(table[name].type, values.type) == table[name].type:
                table = table.set_column(at, name, pc.coalesce(table[name], values.cast(table[name].type)))
        return Joined(rows, table, dropped)
