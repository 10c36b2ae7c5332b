"""Writing and reading 100,000 pairs of vectors: npy and parquet against the released code's base64 TSV.

    .venv/bin/python benchmarks/embeddings_io.py

Both hold key, SHA-256, image and text vector in float16. The released code does not wait for the disk, ours does; so
writing is measured without waiting for both, and with waiting for both. Reading is of everything, into arrays in memory,
from a warm page cache.
"""

import base64
import os
import shutil
import unittest.mock
from pathlib import Path

import measuring
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from vectors import Mixture, metadata

from reactvl.pool.embeddings_format import PartWriter, images_path, metadata_path, texts_path

DIFFERENCES = (
    "vectors come from torch tensors on the CPU, row by row (released: on the GPU, whose copies take longer)",
    "where it says so, files are flushed to disk before they are renamed (released: never)",
    "reading goes through the file line by line instead of seeking to every line of the .lineidx (to the baseline's "
    "advantage), and keeps float16",
)


def main() -> None:
    options = measuring.parser(__doc__, rounds=3)
    options.add_argument("--rows", type=int, default=100_000)
    given = measuring.parsed(options, {"rows": 1000})
    report = measuring.Report(
        "embeddings_io",
        f"write and read {given.rows:,} x 2 x 512 embeddings",
        given,
        minutes=0.5,
        differences=DIFFERENCES,
    )
    mixture = Mixture(given.rows)
    members, images, texts = (np.concatenate(pieces) for pieces in zip(*mixture.chunks(), strict=True))
    rows = metadata(0, members)
    work = given.cache / "embeddings-io"
    shutil.rmtree(work, ignore_errors=True)
    keys, sums = rows["key"].to_pylist(), [value.hex() for value in rows["sha256"].to_pylist()]
    tsv = work / "tsv" / "00000.tsv"

    def write_npy() -> None:
        with PartWriter(work / "npy", 0, len(images), images.shape[1]) as part:
            part.add(images, texts, rows)

    tensors = torch.from_numpy(images), torch.from_numpy(texts)

    def write_npy_only() -> None:
        with unittest.mock.patch("os.fsync"):
            write_npy()

    ways = {
        "npy": write_npy_only,
        "tsv": lambda: write_tsv(tsv, keys, sums, *tensors),
        "npy, flushed": write_npy,
        "tsv, flushed": lambda: write_tsv(tsv, keys, sums, *tensors, flush=True),
    }
    # every write is a first one: freeing an old file's memory is no part of it
    seconds = report.timed(
        ways, given.rounds, "write ", before=lambda name: shutil.rmtree(work / name[:3], ignore_errors=True)
    )
    report.row("write", seconds["npy"], seconds["tsv"], against="base64 TSV", need=measuring.times(10))
    report.row(
        "write, flushed to disk", seconds["npy, flushed"], seconds["tsv, flushed"], against="base64 TSV, flushed"
    )

    seconds = report.timed({"npy": lambda: read_npy(work / "npy"), "tsv": lambda: read_tsv(tsv)}, given.rounds, "read ")
    ours, theirs = read_npy(work / "npy"), read_tsv(tsv)
    assert all(np.array_equal(mine, other) for mine, other in zip(ours[:2], theirs[:2], strict=True))
    assert ours[2].to_pylist() == theirs[2]
    report.row("read", seconds["npy"], seconds["tsv"], against="base64 TSV", need=measuring.times(15))

    sizes = [sum(path.stat().st_size for path in (work / name).rglob("*") if path.is_file()) for name in ("npy", "tsv")]
    report.row("size", sizes[0] / 1e6, sizes[1] / 1e6, "MB", against="base64 TSV", need=measuring.within(0.75))
    report.note("Ours holds caption, url, shard, place, perceptual hash and picture size besides, which the TSV lacks.")
    report.finish()
    shutil.rmtree(work)


def read_npy(folder: Path) -> tuple[np.ndarray, np.ndarray, pa.ChunkedArray]:
    """Image vectors, text vectors, keys."""
    return (
        np.load(images_path(folder, 0)),
        np.load(texts_path(folder, 0)),
        pq.read_table(metadata_path(folder, 0), columns=["key"])["key"],
    )


def write_tsv(
    path: Path, keys: list[str], sums: list[str], images: torch.Tensor, texts: torch.Tensor, flush: bool = False
) -> None:
    """The released TSV with its .lineidx."""

    def encoded(vector: torch.Tensor) -> str:
        return base64.b64encode(vector.data.cpu().numpy().tobytes()).decode("utf-8")

    path.parent.mkdir(parents=True, exist_ok=True)
    index = path.with_suffix(".lineidx")
    parts = path.with_suffix(".tsv.tmp"), path.with_suffix(".lineidx.tmp")
    with open(parts[0], "w") as lines, open(parts[1], "w") as places:
        place = 0
        for row in range(len(keys)):
            words = [keys[row], sums[row], encoded(images[row]), encoded(texts[row])]
            line = "\t".join(map(str, words)) + "\n"
            lines.write(line)
            places.write(str(place) + "\n")
            place += len(line)
        for file in (lines, places) if flush else ():
            file.flush()
            os.fsync(file.fileno())
    os.replace(parts[0], path)
    os.replace(parts[1], index)


def read_tsv(path: Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Image vectors, text vectors, keys."""
    rows = len(path.with_suffix(".lineidx").read_text().splitlines())
    keys, images, texts = [], None, None
    with open(path) as lines:
        for number, line in enumerate(lines):
            key, _, image, text = line.rstrip("\n").split("\t")
            vectors = [np.frombuffer(base64.b64decode(word), np.float16) for word in (image, text)]
            if images is None:
                images, texts = (np.empty((rows, len(vectors[0])), np.float16) for _ in range(2))
            images[number], texts[number] = vectors
            keys.append(key)
    return images, texts, keys


if __name__ == "__main__":
    main()
