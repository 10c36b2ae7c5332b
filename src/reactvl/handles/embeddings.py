"""The handle on an embeddings folder: parts of vectors with their metadata, and the way back to the images of the
pool."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from reactvl.manifest import Manifest, ModelId, ReactvlError, changed_files, missing_files, read_manifest

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from PIL.Image import Image

    from reactvl.models import Model


class Hit(NamedTuple):
    """A pair that a search found."""

    score: float
    caption: str
    shard: str
    key: str
    url: str | None
    part: int
    row: int


class Embeddings:
    """Vectors and catalogue of a pool.

    Opening checks that the folder is whole and that every part's two arrays and its metadata have as many rows as the
    manifest says; the vectors themselves stay on disk. Pair (part, row) is row `row` of the three files of
    `parts[part]`. Raises ReactvlError when the folder is no output of `embed`, lacks a file, or its counts disagree.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.manifest: Manifest = read_manifest(self.folder, "embed")
        lost = missing_files(self.folder, self.manifest)
        if lost:
            raise ReactvlError(f"{self.folder}: lacks {lost[0]}; run `reactvl embed` again")
        self.parts = [Part(self.folder, number, self.model.dim) for number in self._part_numbers()]
        rows = sum(part.rows for part in self.parts)
        if rows != self.manifest.counts["pairs"]:
            raise ReactvlError(
                f"{self.folder}: holds {rows:,} pairs, its manifest says {self.manifest.counts['pairs']:,}; "
                "run `reactvl embed --overwrite`"
            )

    def __len__(self) -> int:
        return self.manifest.counts["pairs"]

    def __repr__(self) -> str:
        return (
            f"Embeddings({str(self.folder)!r}, {len(self):,} pairs, {len(self.parts)} parts, model {self.model.name!r})"
        )

    @property
    def model(self) -> ModelId:
        """The model that made the vectors."""
        return self.manifest.model

    @functools.cached_property
    def shards(self) -> "pa.Table":
        """One row a shard: shard, path, size, mtime_ns, ends_sha256, part, first_row, rows."""
        return self._table("shards.parquet")

    @functools.cached_property
    def skipped(self) -> "pa.Table":
        """One row a sample that was left out: shard, key, reason, detail."""
        return self._table("skipped.parquet")

    def shard_path(self, name: str) -> Path:
        """Where a shard lies; ReactvlError when it is gone or is no longer the file that was embedded (looked up
        once)."""
        path = self._shard_paths.get(name)
        if path is None:
            path = self._shard_paths[name] = self._checked(name)
        return path

    def check_pool(self) -> None:
        """Check every shard as `shard_path` does, so that a stage that will read images stops before it begins."""
        for name in self._shard_rows:
            self.shard_path(name)

    def read_image(self, part: int, row: int) -> bytes:
        """The image file of pair (part, row), as it lies in the pool."""
        return self.read_bytes(**self.parts[part].row(row, ["shard", "offset", "size"]))

    def read_bytes(self, shard: str, offset: int, size: int) -> bytes:
        """`size` bytes from `offset` of a shard: a row's image, by its metadata."""
        from reactvl.pool.reader import read_image

        return read_image(self.shard_path(shard), offset, size)

    def search(
        self,
        query: "str | Image | np.ndarray",
        k: int = 10,
        mode: Literal["image", "text"] = "image",
        model: "Model | None" = None,
    ) -> list[Hit]:
        """The `k` pairs whose image (or caption, for `mode="text"`) is nearest to a text, a PIL image or a vector
        (dim,).

        Exact, over all pairs. `model` spares loading; it must be the one that made the embeddings, else ReactvlError.
        """
        import numpy as np

        from reactvl.search.exact import top_k

        if mode not in ("image", "text"):
            raise ReactvlError(f"mode {mode!r}: use image or text")
        vector = query if isinstance(query, np.ndarray) else self._encode(query, model)
        if vector.shape != (self.model.dim,):
            raise ReactvlError(
                f"a query vector of shape {vector.shape}; these embeddings have {self.model.dim} dimensions"
            )
        parts = [part.images() if mode == "image" else part.texts() for part in self.parts]
        if any(part is None for part in parts):
            raise ReactvlError(f"{self.folder}: has no {mode} vectors")
        hits = top_k(vector[None], parts, k)
        return [self._hit(row, score) for row, score in zip(hits.row.tolist(), hits.score.tolist(), strict=True)]

    def locate(self, row: int) -> tuple[int, int]:
        """(part, row in it) of a row counted over all parts in order."""
        for number, part in enumerate(self.parts):
            if row < part.rows:
                return number, row
            row -= part.rows
        raise ReactvlError(f"{self.folder}: has {len(self):,} pairs; there is no such row")

    def verify(self) -> None:
        """Compare the bytes of every file with the manifest's hashes; ReactvlError names those that changed."""
        changed = changed_files(self.folder)
        if changed:
            raise ReactvlError(
                f"{self.folder}: {', '.join(changed)} changed since embed wrote them; run `reactvl embed --overwrite`"
            )

    def _hit(self, row: int, score: float) -> Hit:
        part, row = self.locate(row)
        return Hit(score=score, part=part, row=row, **self.parts[part].row(row, ["caption", "shard", "key", "url"]))

    def _encode(self, query: "str | Image", model: "Model | None") -> "np.ndarray":
        from reactvl.models import load

        model = model or self._model
        if model is None:
            model = self._model = load(self.model.name)
        if model.id.sha256 != self.model.sha256:
            raise ReactvlError(
                f"{self.folder}: was made by other weights of {self.model.name} than {model.id.name} has now"
            )
        vectors = model.encode_text([query]) if isinstance(query, str) else model.encode_image([query])
        return vectors[0].numpy()

    _model: "Model | None" = None

    def _part_numbers(self) -> list[int]:
        names = [Path(name) for name in self.manifest.files if name.startswith("metadata/")]
        return sorted(int(name.stem.removeprefix("metadata_")) for name in names)

    @functools.cached_property
    def _shard_paths(self) -> dict[str, Path]:
        return {}

    @functools.cached_property
    def _shard_rows(self) -> dict[str, dict]:
        return {row["shard"]: row for row in self.shards.to_pylist()}

    def _checked(self, name: str) -> Path:
        from reactvl.pool.reader import forget
        from reactvl.pool.tars import Fingerprint, same_shard

        row = self._shard_rows.get(name)
        if row is None:
            raise ReactvlError(f"{self.folder}: knows no shard {name!r}")
        path = Path(row["path"])
        path = path if path.is_absolute() else (self.folder.resolve() / path).resolve()
        forget(path)
        try:
            same = same_shard(path, Fingerprint(row["size"], row["mtime_ns"], row["ends_sha256"]))
        except OSError as fault:
            raise ReactvlError(
                f"shard {path}: {fault.strerror}; put the pool back where it was, or embed it again"
            ) from None
        if not same:
            raise ReactvlError(
                f"shard {path}: has changed since it was embedded; run `reactvl embed` on the pool again (--overwrite)"
            )
        return path

    def _table(self, name: str) -> "pa.Table":
        import pyarrow.parquet as pq

        return pq.read_table(self.folder / name)


class Part:
    """One part: `rows` pairs; `images()`, `texts()` and `metadata()` agree row by row."""

    def __init__(self, folder: Path, number: int, dim: int):
        import pyarrow.parquet as pq

        from reactvl.pool import embeddings_format as layout

        self.folder, self.number = folder, number
        self._images, self._texts = layout.images_path(folder, number), layout.texts_path(folder, number)
        self._metadata = layout.metadata_path(folder, number)
        self.rows = pq.read_metadata(self._metadata).num_rows
        for path in (self._images, self._texts):
            if path.exists() and (shape := shape_of(path)) != (self.rows, dim):
                raise ReactvlError(
                    f"{path}: is of shape {shape}, but {self._metadata.name} has {self.rows:,} rows and the model "
                    f"{dim} dimensions; run `reactvl embed --overwrite`"
                )

    def images(self) -> "np.memmap | None":
        """float16 (rows, dim) image vectors, L2-normalised; None when this folder has none."""
        return mapped(self._images)

    def texts(self) -> "np.memmap | None":
        """float16 (rows, dim) caption vectors, L2-normalised; None when this folder has none."""
        return mapped(self._texts)

    def metadata(self, columns: list[str] | None = None) -> "pa.Table":
        """key, shard, offset, size, caption, url, sha256, phash, ext, or the columns named."""
        import pyarrow.parquet as pq

        return pq.read_table(self._metadata, columns=columns)

    def row(self, row: int, columns: list[str] | None = None) -> dict:
        """One row of the metadata, at the cost of its row group; ReactvlError when there is none of that number."""
        import pyarrow.parquet as pq

        if not 0 <= row < self.rows:
            raise ReactvlError(f"{self._metadata}: has {self.rows:,} rows, none numbered {row:,}")
        with pq.ParquetFile(self._metadata) as file:
            group = 0
            while row >= (rows := file.metadata.row_group(group).num_rows):
                group, row = group + 1, row - rows
            return file.read_row_group(group, columns).slice(row, 1).to_pylist()[0]


def mapped(path: Path) -> "np.memmap | None":
    import numpy as np

    return np.load(path, mmap_mode="r", allow_pickle=False) if path.exists() else None


def shape_of(path: Path) -> tuple[int, ...]:
    """The shape of a float16 npy whose file is as long as it says; ReactvlError for any other file."""
    try:
        array = mapped(path)
    except (ValueError, OSError) as fault:
        raise ReactvlError(f"{path}: is no whole npy file ({fault}); run `reactvl embed --overwrite`") from None
    if array.dtype != "float16":
        raise ReactvlError(f"{path}: holds {array.dtype}, wanted float16; run `reactvl embed --overwrite`")
    return array.shape
