"""Image features of a task by a model, encoded once and kept in `features/` of the evaluation's folder.

    features/food-test-3f2a.../0000000.npz, 0002048.npz, ...

Each holds `rows`, `names` and `vectors` of 2,048 images, and `bad_rows` with `bad_reasons`.

The folder's name carries a hash of all that the features depend on (tool version, model, images, precision, batch
size): other images or another model never meet them. A file is whole or absent, so that a stopped run goes on behind
the last one.
"""

import dataclasses
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

from reactvl import __version__
from reactvl.heads.features import Clock, encode_images
from reactvl.manifest import replacing, sha256_json
from reactvl.models.encoder import Encoder
from reactvl.tasks import Samples

FOLDER = "features"
PART = 2048  # images a file


@dataclasses.dataclass(frozen=True)
class Features:
    """L2-normalised `vectors` float32 (len(rows), dim) of the images `rows` int64; `bad` are the others, row ->
    reason."""

    rows: np.ndarray
    vectors: np.ndarray
    bad: dict[int, str]


def image_features(
    home: Path,
    name: str,
    samples: Samples,
    encoder: Encoder,
    *,
    batch_size: int,
    threads: int | None,
    clock: Clock,
    advance: Callable[[int, bool], None],
) -> Features:
    """The features of `samples`, from `home` where they are there, else encoded and written there.

    `name` is how the task and split are called in file names; `advance(count, resumed)` is told of images done.
    """
    key = sha256_json([__version__, encoder.model.id.sha256, samples.fingerprint, encoder.precision, batch_size])
    folder = home / FOLDER / f"{name}-{key[:16]}"
    parts = []
    for start in range(0, len(samples), PART):
        rows = range(start, min(start + PART, len(samples)))
        path = folder / f"{start:07d}.npz"
        part = read_part(path, samples, rows, encoder.model.id.dim)
        if part is None:
            part = encode_part(samples, rows, encoder, batch_size, threads, clock, advance)
            write_part(path, samples, part)
        else:
            advance(len(rows), True)
        parts.append(part)
    return Features(
        rows=np.concatenate([part.rows for part in parts]),
        vectors=np.concatenate([part.vectors for part in parts]),
        bad={row: reason for part in parts for row, reason in part.bad.items()},
    )


def encode_part(
    samples: Samples,
    rows: range,
    encoder: Encoder,
    batch_size: int,
    threads: int | None,
    clock: Clock,
    advance: Callable[[int, bool], None],
) -> Features:
    kept, vectors, bad = [], [np.zeros((0, encoder.model.id.dim), np.float32)], {}
    for batch in encode_images(encoder, samples.read, rows, batch_size=batch_size, threads=threads, clock=clock):
        kept += batch.rows
        vectors.append(batch.vectors)
        bad |= dict(batch.bad)
        advance(len(batch.rows) + len(batch.bad), False)
    return Features(np.array(kept, np.int64), np.concatenate(vectors), bad)


def write_part(path: Path, samples: Samples, part: Features) -> None:
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(
            file,
            rows=part.rows,
            names=np.array([samples.names[row] for row in part.rows], np.str_),
            vectors=part.vectors,
            bad_rows=np.array(list(part.bad), np.int64),
            bad_reasons=np.array(list(part.bad.values()), np.str_),
        )


def read_part(path: Path, samples: Samples, rows: range, dim: int) -> Features | None:
    """A part as written; None when it is absent or not of just these images, and then it is made anew."""
    if not path.is_file():
        return None
    try:
        with np.load(path, allow_pickle=False) as stored:
            part = Features(
                stored["rows"],
                stored["vectors"],
                dict(zip(stored["bad_rows"].tolist(), stored["bad_reasons"].tolist(), strict=True)),
            )
            names = stored["names"].tolist()
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):  # damaged on disk
        return None
    covered = sorted([*part.rows.tolist(), *part.bad]) == list(rows)
    named = names == [samples.names[row] for row in part.rows] if covered else False
    return part if named and part.vectors.shape == (len(part.rows), dim) else None
