"""The handle on a folder of shards that this tool wrote: `pack`'s, or `export --shards`'."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from reactvl.manifest import Manifest, ReactvlError, changed_files, missing_files, read_manifest

if TYPE_CHECKING:
    import pyarrow as pa


class Pool:
    """Shards `00000.tar`, ... with their side files; opening checks that all that the manifest lists are there.

    `rv.embed(pool.shards, ...)` and `rv.embed(str(pool.folder), ...)` read it. Raises ReactvlError when the folder is no
    output of `pack` or `export --shards`, or lacks a file.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder)
        stage = self.manifest.stage
        if stage not in ("pack", "export") or (stage == "export" and self.manifest.options["layout"] != "shards"):
            raise ReactvlError(
                f"{self.folder}: holds the output of `{stage}`, not shards of `pack` or `export --shards`"
            )
        if lost := missing_files(self.folder, self.manifest):
            raise ReactvlError(f"{self.folder}: lacks {lost[0]}; run `reactvl {stage}` again")

    @property
    def shards(self) -> list[Path]:
        """The tars in order."""
        return sorted(self.folder / name for name in self.manifest.files if name.endswith(".tar"))

    @functools.cached_property
    def skipped(self) -> "pa.Table":
        """One row a picture that was left out: shard, key, reason, detail."""
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / "skipped.parquet")

    def verify(self) -> None:
        """Compare the bytes of every file with the manifest's hashes; ReactvlError names those that changed."""
        if changed := changed_files(self.folder):
            raise ReactvlError(f"{self.folder}: {', '.join(changed)} changed since they were written; make them anew")

    def __len__(self) -> int:
        return self.manifest.counts["pairs"]

    def __repr__(self) -> str:
        return f"Pool({str(self.folder)!r}: {len(self):,} pairs, {len(self.shards):,} shards)"
