"""The handle on a catalogue: what is in a pool and where, checked against the shards before any image is read."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from reactvl.manifest import Manifest, ReactvlError, missing_files, read_manifest

if TYPE_CHECKING:
    import pyarrow as pa

    from reactvl.pool.shards import KnownShards


class Catalog:
    """The samples of a pool, in the order of its shards; row i is row i of `table()`.

    Opening checks that all that the manifest lists are there; a shard that changed since is refused when it is asked for.
    Raises ReactvlError when the folder is no output of `catalog` or lacks a file.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder, "catalog")
        if lost := missing_files(self.folder, self.manifest):
            raise ReactvlError(f"{self.folder}: lacks {lost[0]}; run `reactvl catalog` again")

    def table(self, columns: list[str] | None = None) -> "pa.Table":
        """key, shard, offset, size, caption, url, sha256, phash, ext, width, height and the pool's own fields, or the
        columns named."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        return pa.concat_tables([pq.read_table(path, columns=columns) for path in self.metadata_files()])

    def metadata_files(self) -> list[Path]:
        """The parquet files of the parts in order."""
        names = [name for name in self.manifest.files if name.startswith("metadata/")]
        return [self.folder / name for name in sorted(names, key=lambda name: int(Path(name).stem.rpartition("_")[2]))]

    @functools.cached_property
    def shards(self) -> "pa.Table":
        """One row a shard: shard, path, size, mtime_ns, ends_sha256, part, first_row, rows."""
        return self._read("shards.parquet")

    @functools.cached_property
    def skipped(self) -> "pa.Table":
        """One row a sample that was left out: shard, key, reason, detail."""
        return self._read("skipped.parquet")

    def shard_path(self, name: str) -> Path:
        """Where a shard lies; ReactvlError when it is gone or is no longer the file that was catalogued."""
        return self._known.path(name)

    def check_pool(self) -> None:
        """Check every shard as `shard_path` does."""
        self._known.check()

    def read_image(self, row: int) -> bytes:
        """The image file of a row, as it lies in the pool; IndexError when there is no such row."""
        from reactvl.pool.reader import read_image

        if not 0 <= row < len(self):
            raise IndexError(f"row {row} of {len(self)}")
        place = self._places.slice(row, 1).to_pylist()[0]
        return read_image(self.shard_path(place["shard"]), place["offset"], place["size"])

    @functools.cached_property
    def _places(self) -> "pa.Table":
        return self.table(["shard", "offset", "size"]).combine_chunks()

    @functools.cached_property
    def _known(self) -> "KnownShards":
        from reactvl.pool.shards import KnownShards

        return KnownShards(
            self.folder, self.shards.to_pylist(), "run `reactvl catalog` on the pool again (--overwrite)"
        )

    def _read(self, name: str) -> "pa.Table":
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / name)

    def __len__(self) -> int:
        return self.manifest.counts["pairs"]

    def __repr__(self) -> str:
        return f"Catalog({str(self.folder)!r}: {len(self):,} samples, {self.manifest.counts['shards']:,} shards)"
