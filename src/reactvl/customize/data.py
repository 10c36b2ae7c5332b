"""The pairs of a run: of a retrieved view, of whole embeddings or of shards, less those held out for validation."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from reactvl.customize.request import Request
from reactvl.handles.embeddings import STAGES, Embeddings
from reactvl.handles.foreign import is_published
from reactvl.handles.pairs import FILE, Pairs
from reactvl.manifest import InputId, ReactvlError, input_id, read_manifest
from reactvl.models.model import Model
from reactvl.pool.shards import shard_names
from reactvl.pool.tars import fingerprint
from reactvl.train.pairs import Texts, TrainingPairs
from reactvl.train.sources import open_pairs, sources_of
from reactvl.train.vectors import Vectors


@dataclasses.dataclass(frozen=True)
class Data:
    """Training pairs; `repeats` (N,) float64: how often each stands in a pass, None for once; `held_out` for validation."""

    pairs: TrainingPairs
    repeats: np.ndarray | None
    held_out: TrainingPairs | None


def read_data(request: Request, base: Model, work: Path) -> Data:
    """What the request trains on and validates on; ReactvlError when they share nothing that can be trained on."""
    pairs = opened(request.pairs, base, work, request.train_data_upsampling_factors)
    rows = np.arange(len(pairs))
    if request.draw is not None:
        if request.draw > len(pairs):
            raise ReactvlError(f"draw = {request.draw:,}: there are {len(pairs):,} pairs")
        generator = np.random.Generator(np.random.Philox(key=[request.seed, 0x5A]))
        rows = np.sort(generator.choice(len(pairs), request.draw, replace=False))
    held_out = None
    if request.val_share:
        generator = np.random.Generator(np.random.Philox(key=[request.seed, 0x7A1]))
        chosen = generator.permutation(len(rows)) < round(request.val_share * len(rows))
        if chosen.sum() < 2 or (~chosen).sum() < 2:
            raise ReactvlError(
                f"val_share {request.val_share}: parts {len(rows):,} pairs in {chosen.sum():,} and {(~chosen).sum():,}"
            )
        rows, held_out = rows[~chosen], pairs.take(rows[chosen])
    elif request.val_data is not None:
        held_out = opened(request.val_data, base, work / "val", None)
    repeats = None if pairs.repeats is None else pairs.repeats[rows]
    return Data(pairs if len(rows) == len(pairs) else pairs.take(rows), repeats, held_out)


def opened(pairs: Any, base: Model, work: Path, factors: str | None) -> TrainingPairs:
    """The pairs of a view or of whole embeddings, with their text vectors, or of shards."""
    folder = getattr(pairs, "folder", pairs)
    if not (Path(str(folder)) / "manifest.json").exists():
        return of_shards(str(pairs), work, factors)
    if factors is not None:
        raise ReactvlError(
            "train_data_upsampling_factors: they are of shards, one a source joined by ::; the pairs are a folder"
        )
    if read_manifest(folder).stage in STAGES:
        embeddings = Embeddings(folder)
        columns = ["shard", "key", "offset", "size", "caption"]
        tables = [
            part.metadata(columns)
            .append_column("part", pa.array(np.full(part.rows, part.number, np.int32)))
            .append_column("row", pa.array(np.arange(part.rows)))
            for part in embeddings.parts
        ]
        return from_table(embeddings, pa.concat_tables(tables), "caption", base)
    view = Pairs(folder)
    columns = ["part", "row", "shard", "key", "offset", "size", "TEXT"]
    return from_table(view.embeddings, view.table(columns), "TEXT", base)


def of_shards(pattern: str, work: Path, factors: str | None) -> TrainingPairs:
    """The pairs of webdataset shards."""
    return open_pairs(pattern, work=work, factors=factors)


def from_table(embeddings: Embeddings, table: pa.Table, caption: str, base: Model) -> TrainingPairs:
    """Rows of embeddings as training pairs, their text vectors too where this very model made them."""
    shard = table["shard"].combine_chunks().dictionary_encode()
    distinct = sorted(shard.dictionary.to_pylist())
    places = {name: place for place, name in enumerate(distinct)}
    place = np.array([places[name] for name in shard.dictionary.to_pylist()], np.int32)
    vectors = None
    if embeddings.model.sha256 == base.id.sha256 and all(part.texts() is not None for part in embeddings.parts):
        numbers = np.array([part.number for part in embeddings.parts])
        order = np.argsort(numbers)
        place_of_part = order[np.searchsorted(numbers[order], table["part"].to_numpy())]
        vectors = Vectors([part.texts() for part in embeddings.parts], place_of_part, table["row"].to_numpy())
    return TrainingPairs(
        [embeddings.shard_path(name) for name in distinct],
        place[shard.indices.to_numpy()],
        table["offset"].to_numpy().astype(np.int64),
        table["size"].to_numpy().astype(np.int64),
        Texts(table["key"]),
        Texts(table[caption]),
        vectors,
    )


def identity(pairs: Any, out: Path, name: str) -> tuple[dict[str, InputId], dict[str, Any]]:
    """Inputs and options that identify pairs as `name`: the hash of a view's or embeddings' manifest, or the fingerprints of
    shards.

    Raises ReactvlError for a folder of another stage, and for pairs that lead to no pictures (a pool of URLs).
    """
    folder = Path(str(getattr(pairs, "folder", pairs)))
    if (folder / "manifest.json").exists():
        stage = read_manifest(folder).stage
        if stage in STAGES:
            embeddings = pairs if isinstance(pairs, Embeddings) else Embeddings(folder)
            embeddings.require_pictures()
            return {name: embeddings.identity(out)}, {}
        if stage != "retrieve":
            raise ReactvlError(f"{folder}: holds the output of `{stage}`; give retrieved pairs, embeddings or shards")
        view = pairs if isinstance(pairs, Pairs) else Pairs(folder)
        view.embeddings.require_pictures(folder / FILE)
        return {name: input_id(folder, out)}, {}
    if is_published(folder):
        raise ReactvlError(
            f"{folder}: published embeddings have no pictures to train on; `reactvl import` them with --pool where you have "
            "their shards, or `reactvl retrieve` pairs and download those (img2dataset on pairs.parquet, columns URL and "
            "TEXT), then give the shards"
        )
    key = "shards" if name == "pairs" else f"{name} shards"
    sources = sources_of(pairs if isinstance(pairs, list) else str(pairs), None)
    remote = [shard for source in sources if source.remote for shard in source.shards]  # named, not read
    names = shard_names([Path(shard) for source in sources if not source.remote for shard in source.shards])
    found = {name: fingerprint(path).ends_sha256 for path, name in names.items()}
    return {}, {key: found, **({f"remote {key}": remote} if remote else {})}
