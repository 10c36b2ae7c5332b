"""Image features of labelled or captioned images, encoded once and kept for every use: heads, probes, sweeps, R@k.

    FEATURES/food-test-3f2a.../img_emb/img_emb_0.npy          float32 (rows, dim), rows L2-normalised
    FEATURES/food-test-3f2a.../metadata/metadata_0.parquet    key: the image's name; sample: its row among the samples
    FEATURES/food-test-3f2a.../skipped.parquet                images that could not be read

The layout is the embed stage's, so that `Embeddings(folder, model=...)` opens it. Part N holds what could be read of the
samples N * 2,048 and on; its metadata, written last, names the others with their reasons, so that a part is whole or
absent whoever wrote it. The folder's name carries a hash of all that the features depend on (model, images, arithmetic):
other images or another model never meet them.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from reactvl.manifest import ModelId, ReactvlError, replacing, sha256_json
from reactvl.pool.embeddings_format import images_path, metadata_path
from reactvl.pool.listing import write_skipped
from reactvl.tasks import Samples

PART = 2048  # samples a part
FORMAT = 1  # of how features are made; a higher number makes older ones strangers


@dataclasses.dataclass(frozen=True)
class Features:
    """L2-normalised `vectors` float32 (len(rows), dim) of the samples `rows` int64, ascending; `bad` are the others,
    row -> reason."""

    rows: np.ndarray
    vectors: np.ndarray
    bad: dict[int, str]

    def of(self, rows: np.ndarray) -> np.ndarray:
        """The vectors float32 (len(rows), dim) of these samples, each of which has one."""
        return self.vectors[np.searchsorted(self.rows, rows)]


class Part(NamedTuple):
    """Part `number` of a features folder: the samples first..stop - 1."""

    folder: Path
    number: int
    first: int
    stop: int


def folder_of(home: Path, name: str, samples: Samples, model: ModelId, image_size: int, precision: str) -> Path:
    """Where the features of `samples` by a model lie under `home`; `name` is how task and split are called in file
    names."""
    key = sha256_json([FORMAT, model.sha256, samples.fingerprint, precision, image_size])
    return home / f"{name}-{key[:16]}"


def parts_of(folder: Path, samples: Samples) -> list[Part]:
    count = len(samples)
    return [Part(folder, number, first, min(first + PART, count)) for number, first in enumerate(range(0, count, PART))]


def missing(folder: Path, samples: Samples, dim: int) -> list[Part]:
    """The parts that are absent, damaged or of other samples, and are to be made."""
    return [part for part in parts_of(folder, samples) if read_part(part, samples.names, dim) is None]


def read(folder: Path, samples: Samples, dim: int) -> Features:
    """All features of `samples`; ReactvlError unless every sample is there once, with a vector or with a reason."""
    found = [(part, read_part(part, samples.names, dim)) for part in parts_of(folder, samples)]
    lacking = [part.number for part, one in found if one is None]
    if lacking:
        raise ReactvlError(
            f"{folder}: {len(lacking)} of {len(found)} parts are missing or damaged, the first is number {lacking[0]}; "
            "evaluate again to make them"
        )
    parts = [one for _, one in found]
    whole = Features(
        rows=np.concatenate([part.rows for part in parts]),
        vectors=np.concatenate([part.vectors for part in parts]),
        bad={row: reason for part in parts for row, reason in part.bad.items()},
    )
    seen = np.zeros(len(samples), np.int64)
    np.add.at(seen, whole.rows, 1)
    np.add.at(seen, np.array(list(whole.bad), np.int64), 1)
    if (seen != 1).any():  # each part was checked: what is left is a fault of ours
        raise ReactvlError(f"{folder}: sample {samples.names[int(np.argmax(seen != 1))]} does not stand in it once")
    return whole


def write_skipped_list(folder: Path, samples: Samples, bad: dict[int, str]) -> None:
    """`skipped.parquet` of a features folder, as the embed stage writes it."""
    write_skipped(folder, (("", samples.names[row], reason, "") for row, reason in sorted(bad.items())))


def write_part(part: Part, names: Sequence[str], found: Features) -> None:
    """Write a part: the vectors first, then the metadata that make it whole."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = images_path(part.folder, part.number)
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.save(file, np.ascontiguousarray(found.vectors, np.float32))
    about = {"first": part.first, "stop": part.stop, "bad": [[row, names[row], why] for row, why in found.bad.items()]}
    keys = pa.array([names[row] for row in found.rows], pa.string())
    table = pa.table({"key": keys, "sample": pa.array(found.rows, pa.int64())})
    table = table.replace_schema_metadata({"reactvl": json.dumps(about)})
    with replacing(metadata_path(part.folder, part.number)) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_part(part: Part, names: Sequence[str], dim: int) -> Features | None:
    """A part as written; None when it is absent or not of just these samples, and then it is to be made anew."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = metadata_path(part.folder, part.number)
    if not path.is_file():
        return None
    try:
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[b"reactvl"])
        vectors = np.load(images_path(part.folder, part.number), mmap_mode="r", allow_pickle=False)
        rows, keys = table["sample"].to_numpy().astype(np.int64), table["key"].to_pylist()
        bad = {int(row): str(why) for row, _, why in about["bad"]}
        named = {int(row): name for row, name, _ in about["bad"]} | dict(zip(rows.tolist(), keys, strict=True))
    except (OSError, ValueError, KeyError, TypeError, EOFError, pa.ArrowException):  # damaged on disk
        return None
    covered = sorted([*rows.tolist(), *bad]) == list(range(part.first, part.stop))
    if not covered or any(named[row] != names[row] for row in range(part.first, part.stop)):
        return None
    fits = vectors.shape == (len(rows), dim) and vectors.dtype == np.float32
    return Features(rows, vectors, bad) if fits else None
