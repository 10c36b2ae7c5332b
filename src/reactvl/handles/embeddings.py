"""The handle on an embeddings folder: parts of vectors with their metadata, and the way back to the images of the
pool."""

import functools
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from reactvl import __version__
from reactvl.handles import foreign
from reactvl.handles.foreign_columns import read_columns
from reactvl.handles.hits import Hit, HitList
from reactvl.manifest import (
    InputId,
    Manifest,
    ModelId,
    ReactvlError,
    changed_files,
    input_id,
    input_path,
    missing_files,
    path_beside,
    read_manifest,
)
from reactvl.pool.fetching import fetch_command

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from PIL.Image import Image

    from reactvl.models import Model
    from reactvl.pool.shards import KnownShards


STAGES = ("embed", "import")  # whose folders these are


class Embeddings:
    """Vectors and catalogue of a pool.

    `folder` was made by `embed` or `import`, or was published in clip-retrieval's or LAION's naming (`img_emb_N.npy`,
    `text_emb_N.npy`, `metadata_N.parquet`; see foreign.py), and then `model` says which model made it: a name, a
    `Model`, or its `ModelId`. A folder of our own knows its model; one that is given is compared with it.

    Opening checks that the folder is whole and that every part's arrays and its metadata have as many rows as they
    should, and of published vectors some rows' norms; the vectors themselves stay on disk. Pair (part, row) is row `row`
    of the files of `parts[part]`. Raises ReactvlError when the folder is neither, lacks a file, or its counts disagree.
    """

    def __init__(self, folder: str | Path, model: "str | Path | Model | ModelId | None" = None):
        self.folder = Path(folder)
        self._model: Model | None = None
        self._files: list[foreign.Files] | None = None
        if foreign.is_published(self.folder):
            self._open_published(model)
        else:
            self._open_own(model)

    def _open_own(self, model: "str | Path | Model | ModelId | None") -> None:
        self.manifest: Manifest = read_manifest(self.folder)
        if self.manifest.stage not in STAGES:
            raise ReactvlError(
                f"{self.folder}: holds the output of `{self.manifest.stage}`, not of `embed` or `import`"
            )
        again = f"run `reactvl {self.manifest.stage} --overwrite`"
        lost = missing_files(self.folder, self.manifest)
        if lost:
            raise ReactvlError(f"{self.folder}: lacks {lost[0]}; run `reactvl {self.manifest.stage}` again")
        if model is not None:
            self.require_model(self._identified(model))
        self.parts = [Part(files, self.model.dim, again) for files in self._own_files()]
        rows = sum(part.rows for part in self.parts)
        if rows != self.manifest.counts["pairs"]:
            raise ReactvlError(
                f"{self.folder}: holds {rows:,} pairs, its manifest says {self.manifest.counts['pairs']:,}; {again}"
            )

    def _open_published(self, model: "str | Path | Model | ModelId | None") -> None:
        if model is None:
            raise ReactvlError(
                f"{self.folder}: these embeddings do not say which model made them; pass --model NAME:TAG "
                '(in Python, Embeddings(folder, model="NAME:TAG"))'
            )
        self._files = foreign.parts_of(self.folder)
        made = self._identified(model)
        again = "fetch it again, or take it through `reactvl import`"
        self.parts = [Part(files, made.dim, again, dtypes=("float16", "float32")) for files in self._files]
        for files in self._files:
            for path in filter(None, files[1:3]):
                foreign.check_normalised(path, mapped(path))
        counts = {"pairs": sum(part.rows for part in self.parts)}
        self.manifest = Manifest("published", __version__, options={}, inputs={}, model=made, counts=counts)

    @classmethod
    def of_input(cls, folder: Path | str, manifest: Manifest, name: str = "embeddings") -> "Embeddings":
        """The embeddings that the stage folder `folder` was made from, by its manifest.

        Raises ReactvlError when they are gone or are no longer what that stage read.
        """
        home = input_path(folder, manifest, name)
        if not (home / "manifest.json").exists() and not foreign.is_published(home):
            raise ReactvlError(
                f"{folder}: its embeddings {home} are not there; move them back or run `reactvl {manifest.stage}` again"
            )
        found = cls(home) if (home / "manifest.json").exists() else cls(home, manifest.model)
        if found.identity(folder).sha256 != manifest.inputs[name].sha256:
            raise ReactvlError(
                f"{folder}: was made from other embeddings than {home} holds now; run `reactvl {manifest.stage}` again"
            )
        return found

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

    def require_model(self, given: ModelId) -> None:
        """ReactvlError when `given` is not the model that made the vectors: its own would mean other things."""
        if given.sha256 != self.model.sha256:
            raise ReactvlError(
                f"{self.folder}: was made with {self.model.name} (weights {self.model.sha256[:12]}), which is not the "
                f"model {given.name} (weights {given.sha256[:12]}); give that model, or embed the pool with this one"
            )

    def identity(self, beside: Path | str) -> InputId:
        """What these embeddings are as an input of the stage that writes `beside`: the hash of their manifest, or of
        published files their names, sizes, ends and model."""
        if self._files is None:
            return input_id(self.folder, beside)
        return InputId(path=path_beside(self.folder, beside), sha256=self._content)

    @functools.cached_property
    def _content(self) -> str:
        return foreign.content_id(self.folder, self._files, self.model.sha256)

    def columns(self) -> list[str]:
        """The names of the metadata's columns as they stand in the files."""
        return list(dict.fromkeys(name for part in self.parts for name in part.names))

    def metadata_files(self) -> list[Path]:
        """The parts' metadata, a parquet file each, in their order."""
        return [part.metadata_path for part in self.parts]

    @property
    def has_pictures(self) -> bool:
        """Whether the rows lead to images in shards; of a pool of URLs there are none."""
        return self.shards.num_rows > 0

    def require_pictures(self, pairs: Path | None = None) -> None:
        """ReactvlError when there are no pictures to read, with the way to them; `pairs`: the parquet file of the chosen
        pairs, where there is one."""
        if self.has_pictures:
            return
        fetch = fetch_command(pairs or "pairs.parquet", rows=None)
        first = "" if pairs else "`reactvl retrieve` the pairs you want, then "
        raise ReactvlError(
            f"{self.folder}: has vectors, captions and URLs, but no pictures; {first}download those of pairs.parquet with "
            f"`{fetch}` and give the shards 'pool/*.tar' (or `reactvl import --pool` where you have the shards already)"
        )

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
        return self._known_shards.path(name)

    def check_pool(self) -> None:
        """Check every shard as `shard_path` does, so that a stage that will read images stops before it begins."""
        self.require_pictures()
        self._known_shards.check()

    def read_image(self, part: int, row: int) -> bytes:
        """The image file of pair (part, row), as it lies in the pool."""
        self.require_pictures()
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
    ) -> HitList:
        """The `k` pairs whose image (or caption, for `mode="text"`) is nearest to a text, a PIL image or a vector
        (dim,): a list of `Hit` that shows itself in a notebook.

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
        found = [self._hit(row, score) for row, score in zip(hits.row.tolist(), hits.score.tolist(), strict=True)]
        return HitList(found, self, asked(query, mode))

    def locate(self, row: int) -> tuple[int, int]:
        """(part, row in it) of a row counted over all parts in order."""
        for number, part in enumerate(self.parts):
            if row < part.rows:
                return number, row
            row -= part.rows
        raise ReactvlError(f"{self.folder}: has {len(self):,} pairs; there is no such row")

    def verify(self) -> None:
        """Compare the bytes of every file with the manifest's hashes; ReactvlError names those that changed."""
        if self._files is not None:
            raise ReactvlError(
                f"{self.folder}: was published without hashes; `reactvl import` makes a folder that has them"
            )
        changed = changed_files(self.folder)
        if changed:
            raise ReactvlError(
                f"{self.folder}: {', '.join(changed)} changed since they were written; "
                f"run `reactvl {self.manifest.stage} --overwrite`"
            )

    def _hit(self, row: int, score: float) -> Hit:
        part, row = self.locate(row)
        return Hit(score=score, part=part, row=row, **self.parts[part].row(row, ["caption", "shard", "key", "url"]))

    def _encode(self, query: "str | Image", model: "Model | None") -> "np.ndarray":
        from reactvl.models import load

        model = model or self._model
        if model is None:
            model = self._model = load(self.model.name)
        self.require_model(model.id)
        vectors = model.encode_text([query]) if isinstance(query, str) else model.encode_image([query])
        return vectors[0].numpy()

    def _identified(self, model: "str | Path | Model | ModelId") -> ModelId:
        if isinstance(model, ModelId):
            return model
        from reactvl.models import load

        self._model = load(model)
        return self._model.id

    def _own_files(self) -> list[foreign.Files]:
        from reactvl.pool import embeddings_format as layout

        names = [Path(name) for name in self.manifest.files if name.startswith("metadata/")]
        numbers = sorted(int(name.stem.removeprefix("metadata_")) for name in names)
        found = []
        for number in numbers:
            images, texts = (path(self.folder, number) for path in (layout.images_path, layout.texts_path))
            halves = (path if path.exists() else None for path in (images, texts))
            found.append(foreign.Files(number, *halves, layout.metadata_path(self.folder, number)))
        return found

    @functools.cached_property
    def _known_shards(self) -> "KnownShards":
        from reactvl.pool.shards import KnownShards

        return KnownShards(
            self.folder, self.shards.to_pylist(), f"run `reactvl {self.manifest.stage} --overwrite` again"
        )

    def _table(self, name: str) -> "pa.Table":
        import pyarrow.parquet as pq

        from reactvl.pool import embeddings_format as layout

        if self._files is None:
            return pq.read_table(self.folder / name)
        return {layout.SHARDS: layout.SHARDS_SCHEMA, layout.SKIPPED: layout.SKIPPED_SCHEMA}[name].empty_table()


class Part:
    """One part: `rows` pairs; `images()`, `texts()` and `metadata()` agree row by row.

    `again` is what an error tells the user to do; `dtypes` are those that its arrays may have.
    """

    def __init__(self, files: foreign.Files, dim: int, again: str, dtypes: tuple[str, ...] = ("float16",)):
        self.number, self._images, self._texts, self.metadata_path = files
        self.rows, self.names = rows_of(self.metadata_path, again)
        for path in filter(None, (self._images, self._texts)):
            if (shape := shape_of(path, dtypes, again)) != (self.rows, dim):
                raise ReactvlError(
                    f"{path}: is of shape {shape}, but {self.metadata_path.name} has {self.rows:,} rows and the model "
                    f"{dim} dimensions; {again}"
                )

    def images(self) -> "np.memmap | None":
        """float16 (published ones perhaps float32) (rows, dim) image vectors, L2-normalised; None when this part has
        none."""
        return mapped(self._images) if self._images else None

    def texts(self) -> "np.memmap | None":
        """The same of the captions."""
        return mapped(self._texts) if self._texts else None

    def metadata(self, columns: list[str] | None = None) -> "pa.Table":
        """key, shard, offset, size, caption, url, sha256, phash, ext, width, height and what else there is, or the
        columns named.

        Published columns come under these names (foreign_columns.py); one that is not there is null.
        """
        return read_columns(self.metadata_path, columns)

    def row(self, row: int, columns: list[str] | None = None) -> dict:
        """One row of the metadata, at the cost of its row group; ReactvlError when there is none of that number."""
        import pyarrow.parquet as pq

        if not 0 <= row < self.rows:
            raise ReactvlError(f"{self.metadata_path}: has {self.rows:,} rows, none numbered {row:,}")
        with pq.ParquetFile(self.metadata_path) as file:
            group = 0
            while row >= (rows := file.metadata.row_group(group).num_rows):
                group, row = group + 1, row - rows
        return read_columns(self.metadata_path, columns, group).slice(row, 1).to_pylist()[0]


def asked(query: "str | Image | np.ndarray", mode: str) -> str:
    """A search in words."""
    import numpy as np

    what = f'"{query}"' if isinstance(query, str) else "a vector" if isinstance(query, np.ndarray) else "a picture"
    return f"{what} in the {'pictures' if mode == 'image' else 'captions'}"


def rows_of(metadata: Path, again: str) -> tuple[int, list[str]]:
    """Rows and column names of a parquet file, from its footer; ReactvlError when it is none."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(metadata) as file:
            return file.metadata.num_rows, [name for name in file.schema_arrow.names if not name.startswith("__index")]
    except (pa.ArrowInvalid, OSError) as fault:
        raise ReactvlError(f"{metadata}: is no whole parquet file ({str(fault).splitlines()[0]}); {again}") from None


def mapped(path: Path) -> "np.memmap":
    import numpy as np

    return np.load(path, mmap_mode="r", allow_pickle=False)


def shape_of(path: Path, dtypes: tuple[str, ...], again: str) -> tuple[int, ...]:
    """The shape of an npy of one of these types whose file is as long as it says; ReactvlError for any other file."""
    try:
        array = mapped(path)
    except (ValueError, OSError, EOFError) as fault:
        raise ReactvlError(f"{path}: is no whole npy file ({fault}); {again}") from None
    if array.dtype not in dtypes or not array.flags.c_contiguous:
        order = "" if array.flags.c_contiguous else " in Fortran's order"
        raise ReactvlError(f"{path}: holds {array.dtype}{order}, wanted {' or '.join(dtypes)}; {again}")
    return array.shape
