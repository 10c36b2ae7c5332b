"""Vectors with which search is hard in the way it is with CLIP's: a seeded mixture, its difficulty checked.

    .venv/bin/python benchmarks/vectors.py --rows 1000000                # write it; the vector benchmarks do so themselves
    .venv/bin/python benchmarks/vectors.py --check                       # HNSW32's and IVF4096,SQ8's recalls beside their aims

2,000 uneven Gaussians (their weights and widths are log-normal) lie in 96 of 512 dimensions around a shared mean, which
gives any two vectors the cosine of 0.3 to 0.4 that CLIP's have; a little noise fills the other dimensions. Text-like
vectors come from the same Gaussians, shifted as a whole and blurred, as captions' vectors lie beside pictures'. A pool
of another size has proportionally many Gaussians, so that a query's nearest stay equally near.

The numbers below were set so that FAISS on a million rows finds what it was seen to find on such vectors (recall@200,
image-like and text-like queries): HNSW32 at FAISS's default efSearch 0.61 and 0.40, at 512 0.96 and 0.93, IVF4096,SQ8
with 16 probes 0.989 and 0.982.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import measuring
import numpy as np
import pyarrow as pa

from reactvl.handles.embeddings import Embeddings
from reactvl.manifest import ModelId, ReactvlError, sha256_json, stage_folder
from reactvl.pool.embeddings_format import (
    METADATA_SCHEMA,
    SHARDS,
    SHARDS_SCHEMA,
    SKIPPED,
    SKIPPED_SCHEMA,
    PartWriter,
    write_table,
)

ROWS = 1_000_000
PART_ROWS = 250_000
CHUNK = 50_000
SHARD_ROWS = 10_000
AIMS = {
    "HNSW32, efSearch 16": (0.61, 0.40),
    "HNSW32, efSearch 512": (0.96, 0.93),
    "IVF4096,SQ8, nprobe 16": (0.989, 0.982),
}
TOLERANCE = {"HNSW32, efSearch 16": 0.08, "HNSW32, efSearch 512": 0.03, "IVF4096,SQ8, nprobe 16": 0.012}


@dataclasses.dataclass(frozen=True)
class Mixture:
    """The distribution; `rows` decides how many Gaussians it has (2,000 to the million)."""

    rows: int
    dim: int = 512
    latent: int = 96
    mean: float = 1.0  # length of the shared mean; the Gaussians' centres are of length 1 about it
    width: float = 0.48  # of a Gaussian, against the distance of centres
    uneven_width: float = 0.35  # standard deviation of its logarithm
    uneven_weight: float = 0.75
    noise: float = 0.3  # in all dimensions
    shift: float = 0.4  # of text-like vectors, all in one direction
    blur: float = 0.6  # of text-like vectors, each in its own
    aside: float = 0.5  # of text-like vectors, out of the images' dimensions
    seed: int = 0

    @property
    def count(self) -> int:
        """Gaussians."""
        return max(20, round(self.rows / 500))

    @functools.cached_property
    def shape(self) -> "Shape":
        draw = np.random.default_rng([self.seed, 0])

        def direction(size: int) -> np.ndarray:
            vector = draw.standard_normal(size)
            return (vector / np.linalg.norm(vector)).astype(np.float32)

        axes = np.linalg.qr(draw.standard_normal((self.dim, self.latent)))[0].T.astype(np.float32)
        mean, shift, aside = direction(self.dim), direction(self.latent), direction(self.dim)
        centres = draw.standard_normal((self.count, self.latent), dtype=np.float32) / np.float32(self.latent**0.5)
        widths = np.exp(self.uneven_width * draw.standard_normal(self.count)) * self.width / self.latent**0.5
        weights = np.exp(self.uneven_weight * draw.standard_normal(self.count))
        return Shape(axes, mean, shift, aside, centres, widths.astype(np.float32), weights / weights.sum())

    def members(self, count: int, seed: list[int]) -> np.ndarray:
        """int64 (count,): of which Gaussian each row is."""
        return np.random.default_rng([self.seed, *seed]).choice(self.count, count, p=self.shape.weights)

    def drawn(self, members: np.ndarray, side: str, seed: list[int]) -> np.ndarray:
        """float32 unit rows (n, dim) of Gaussians `members`, image-like or text-like."""
        draw = np.random.default_rng([self.seed, *seed])
        shape, size = self.shape, (len(members), self.latent)
        latent = shape.centres[members] + shape.widths[members, None] * draw.standard_normal(size, dtype=np.float32)
        if side == "text":
            blur = np.float32(self.blur / self.latent**0.5)
            latent += np.float32(self.shift) * shape.shift + blur * draw.standard_normal(size, dtype=np.float32)
        rows = latent @ shape.axes + np.float32(self.mean) * shape.mean
        if side == "text":
            rows += np.float32(self.aside) * shape.aside
        noise = draw.standard_normal((len(members), self.dim), dtype=np.float32)
        noise *= np.float32(self.noise / self.dim**0.5)
        rows += noise
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        return rows

    def queries(self, count: int, side: str = "text", seed: int = 1) -> np.ndarray:
        """float32 (count, dim): queries like images or texts, none of them a row."""
        return self.drawn(self.members(count, [5, seed]), side, [6, seed])

    def prompts(self, classes: int, templates: int, seed: int = 1) -> np.ndarray:
        """float32 (classes * templates, dim): text-like queries, those of one class near each other."""
        heart = np.repeat(self.queries(classes, "text", seed), templates, axis=0)
        draw = np.random.default_rng([self.seed, 7, seed])
        heart += np.float32(0.4 / self.dim**0.5) * draw.standard_normal(heart.shape, dtype=np.float32)
        return heart / np.linalg.norm(heart, axis=1, keepdims=True)

    def chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """(members, image-like, text-like float16 rows) of the pool, in pieces."""
        for first in range(0, self.rows, CHUNK):
            members = self.members(min(CHUNK, self.rows - first), [1, first])
            images, texts = (self.drawn(members, side, [at, first]) for at, side in ((2, "image"), (3, "text")))
            yield members, images.astype(np.float16), texts.astype(np.float16)


class Shape(NamedTuple):
    """The drawn parts of a mixture: (latent, dim) axes, directions, (count, latent) centres, widths and weights (count,)."""

    axes: np.ndarray
    mean: np.ndarray
    shift: np.ndarray
    aside: np.ndarray
    centres: np.ndarray
    widths: np.ndarray
    weights: np.ndarray


class Data(NamedTuple):
    """What a vector benchmark runs on: embeddings, and where their queries come from. Requirements are of the mixture's."""

    name: str
    embeddings: Embeddings
    mixture: Mixture | None

    @property
    def rows(self) -> int:
        return len(self.embeddings)

    def parts(self, side: str = "image") -> list[np.ndarray]:
        """float16 (rows, dim) memory maps."""
        return [getattr(part, f"{side}s")() for part in self.embeddings.parts]

    def queries(self, count: int, side: str = "text", seed: int = 1) -> np.ndarray:
        """float32 (count, dim): new draws of a mixture, or rows of a user's own vectors of that side."""
        if self.mixture:
            return self.mixture.queries(count, side, seed)
        parts = self.parts(side)
        if any(part is None for part in parts):
            raise ReactvlError(f"{self.embeddings.folder}: has no {side} vectors to take queries from")
        every = (
            np.concatenate(parts) if self.rows < 200_000 else np.concatenate([part[:: len(parts)] for part in parts])
        )
        chosen = np.random.default_rng(seed).choice(len(every), min(count, len(every)), replace=False)
        return every[chosen].astype(np.float32)


def options(parser: argparse.ArgumentParser, rows: int = ROWS) -> None:
    """What every vector benchmark takes."""
    parser.add_argument("--rows", type=int, default=rows, help="rows of the mixture")
    parser.add_argument("--embeddings", type=Path, help="an embeddings folder of your own in the mixture's place")
    parser.add_argument(
        "--demo", type=Path, default=Path("out/demo/embeddings"), help="the demo's, measured beside it if there"
    )


def data(given: argparse.Namespace) -> list[Data]:
    """The mixture (or the user's embeddings), and the demo's embeddings where they are."""
    if given.embeddings:
        own = Embeddings(given.embeddings)
        return [Data(f"{given.embeddings}, {len(own):,} x {own.model.dim}", own, None)]
    mixture = Mixture(given.rows)
    found = [Data(f"mixture, {given.rows:,} x {mixture.dim}", written(mixture, given.cache), mixture)]
    if (given.demo / "manifest.json").exists() and not given.quick:
        demo = Embeddings(given.demo)
        found.append(Data(f"the demo's, {len(demo):,} x {demo.model.dim}", demo, None))
    return found


def written(mixture: Mixture, cache: Path) -> Embeddings:
    """The pool of a mixture as an embeddings folder, made when it is not there."""
    asked = dataclasses.asdict(mixture)
    folder = cache / f"mixture-{mixture.rows}-{sha256_json(asked)[:8]}"
    model = ModelId("benchmarks/vectors.py", sha256_json(asked), mixture.dim)
    began, pieces = time.perf_counter(), mixture.chunks()
    with stage_folder(folder, "embed", options=asked, inputs={}, model=model) as stage:
        if not stage.done:
            for number, first in enumerate(range(0, mixture.rows, PART_ROWS)):
                rows = min(PART_ROWS, mixture.rows - first)
                with PartWriter(stage.out, number, rows, mixture.dim) as part:
                    while part.written < rows:
                        members, images, texts = next(pieces)
                        part.add(images, texts, metadata(first + part.written, members))
            write_table(stage.out / SHARDS, shards(mixture.rows))
            write_table(stage.out / SKIPPED, pa.Table.from_pylist([], schema=SKIPPED_SCHEMA))
            stage.finish(counts={"pairs": mixture.rows})
            print(
                f"  wrote {mixture.rows:,} x 2 x {mixture.dim} vectors to {folder}: {time.perf_counter() - began:.0f} s",
                flush=True,
            )
    return Embeddings(folder)


def metadata(first: int, members: np.ndarray) -> pa.Table:
    """Rows of the catalogue; pictures that nobody has, all of them different."""
    rows = range(first, first + len(members))
    sums = [hashlib.sha256(b"%d" % row).digest() for row in rows]
    known = {
        "key": pa.array([f"{row // SHARD_ROWS:05d}{row % SHARD_ROWS:04d}" for row in rows]),
        "shard": pa.array([f"{row // SHARD_ROWS:05d}.tar" for row in rows]),
        "offset": pa.array([row % SHARD_ROWS * 20_480 + 512 for row in rows], pa.int64()),
        "size": pa.array(np.full(len(members), 19_456)),
        "caption": pa.array(
            [f"a picture of thing {member}, number {row}" for row, member in zip(rows, members.tolist(), strict=True)]
        ),
        "url": pa.array([f"https://example.org/{row}.jpg" for row in rows]),
        "sha256": pa.array(sums, pa.binary(32)),
        "phash": pa.array(np.frombuffer(b"".join(each[:8] for each in sums), np.uint64)),
        "ext": pa.array(["jpg"] * len(members)),
        "width": pa.array(np.full(len(members), 384, np.int32)),
        "height": pa.array(np.full(len(members), 384, np.int32)),
    }
    return pa.table([known[name] for name in METADATA_SCHEMA.names], schema=METADATA_SCHEMA)


def shards(rows: int) -> pa.Table:
    entries = [
        {
            "shard": f"{number:05d}.tar",
            "path": f"pool/{number:05d}.tar",
            "size": 0,
            "mtime_ns": 0,
            "ends_sha256": "",
            "part": number * SHARD_ROWS // PART_ROWS,
            "first_row": number * SHARD_ROWS % PART_ROWS,
            "rows": min(SHARD_ROWS, rows - number * SHARD_ROWS),
        }
        for number in range(-(-rows // SHARD_ROWS))
    ]
    return pa.Table.from_pylist(entries, schema=SHARDS_SCHEMA)


def adopted(embeddings: Embeddings, model: ModelId, out: Path) -> Embeddings:
    """The same files (hard links) as embeddings of another model, for benchmarks that encode queries."""
    shutil.rmtree(out, ignore_errors=True)
    for name in embeddings.manifest.files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
        (out / name).hardlink_to(embeddings.folder / name)
    manifest = json.loads((embeddings.folder / "manifest.json").read_text())
    manifest["model"] = {"name": model.name, "sha256": model.sha256, "dim": model.dim}
    (out / "manifest.json").write_text(json.dumps(manifest))
    return Embeddings(out)


def found_share(found: np.ndarray, truth: np.ndarray) -> float:
    """Mean recall of row numbers (Q, k) against the true ones (Q, k); -1 counts as nothing."""
    shares = [len(np.intersect1d(row[row >= 0], true)) / len(true) for row, true in zip(found, truth, strict=True)]
    return float(np.mean(shares))


def check(mixture: Mixture, cache: Path, queries: int, mark: int = 200) -> list[tuple[str, str, float, float]]:
    """(index, kind of query, recall@mark, aim) of FAISS's plain indexes on the mixture."""
    import faiss

    embeddings = written(mixture, cache)
    parts = [part.images() for part in embeddings.parts]
    asked = {side: mixture.queries(queries, side, seed=9) for side in ("image", "text")}
    from reactvl.search.exact import top_k

    truth = {side: top_k(vectors, parts, mark).row.reshape(queries, mark) for side, vectors in asked.items()}
    graph = faiss.IndexHNSWFlat(mixture.dim, 32, faiss.METRIC_INNER_PRODUCT)
    lists = faiss.index_factory(
        mixture.dim, f"IVF{max(16, round(4096 * mixture.rows / ROWS))},SQ8", faiss.METRIC_INNER_PRODUCT
    )
    sample = np.random.default_rng(0).choice(mixture.rows, min(mixture.rows, 64 * lists.nlist), replace=False)
    every = np.concatenate(parts)
    lists.train(every[np.sort(sample)].astype(np.float32))
    for first in range(0, mixture.rows, CHUNK):
        block = every[first : first + CHUNK].astype(np.float32)
        lists.add(block)
        graph.add(block)
        print(f"  {first + len(block):,} rows indexed", flush=True)
    lists.nprobe = 16
    found = []
    for name, (image, text) in AIMS.items():
        index = lists if name.startswith("IVF") else graph
        if index is graph:
            graph.hnsw.efSearch = int(name.split()[-1])
        for side, aim in (("image", image), ("text", text)):
            found.append((name, side, found_share(index.search(asked[side], mark)[1], truth[side]), aim))
    return found


def main() -> None:
    parser = measuring.parser(__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--queries", type=int, default=500, help="of each kind, for --check")
    parser.add_argument(
        "--check", action="store_true", help="measure the recalls that the mixture is set to (5 CPU minutes)"
    )
    given = measuring.parsed(parser, {"rows": 4000, "queries": 50})
    mixture = Mixture(given.rows)
    if not given.check:
        print(written(mixture, given.cache))
        return
    question = (
        f"do FAISS's plain indexes find on the mixture of {given.rows:,} rows what they find on CLIP-like vectors?"
    )
    report = measuring.Report("vectors", question, given, minutes=5)
    for name, side, recall, aim in check(mixture, given.cache, given.queries):
        near = measuring.Need(
            f"{aim} ± {TOLERANCE[name]}", lambda ours, aim, name=name: abs(ours - aim) <= TOLERANCE[name]
        )
        report.row(f"{name}, {side}-like queries", recall, aim, "recall@200", against="aim", need=near)
    report.finish()


if __name__ == "__main__":
    main()
