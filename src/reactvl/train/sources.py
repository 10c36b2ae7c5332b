"""Pairs of any webdataset, local or remote, several joined by `::`, from catalogues kept between starts.

Each shard is scanned once: its keys, captions, offsets and seeds go to a Parquet file in the work folder, named by the
shard's fingerprint, whole or not there, its pages checksummed; a damaged one is made again. A second start reads these files
alone (8 ms of one core for 10,000 pairs). Remote shards (fsspec's URLs) are fetched whole for their catalogue, as for
training; their captions come from their `.txt` and `.json` members, for a side file beside a remote shard is not fetched.
"""

import dataclasses
import glob
import hashlib
import json
import multiprocessing
import os
import re
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reactvl.manifest import ReactvlError, replacing
from reactvl.pool.patterns import braces, expand
from reactvl.pool.records import side_stamp
from reactvl.pool.shards import identify
from reactvl.pool.tars import Fingerprint, catalogue, same_shard
from reactvl.progress import progress, say
from reactvl.train.pairs import ShardGone, Texts, TrainingPairs, sample_seeds
from reactvl.train.storage import CACHE_BYTES, Storage, file_system

URL = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+://")
VERSION = 1  # of a catalogue's content; others are made again
ALONE = 8  # shards that are catalogued in this process; more are shared among processes
READERS = 16
SCHEMA = pa.schema(
    {
        "key": pa.large_string(),
        "caption": pa.large_string(),
        "offset": pa.int64(),
        "size": pa.int64(),
        "seed": pa.uint64(),
    }
)


class Source(NamedTuple):
    """One part of a `::` list: its shards (paths or URLs) and how often a pass shows each of its pairs."""

    text: str
    shards: list[str]
    remote: bool
    factor: float


class Listed(NamedTuple):
    """A shard's catalogue: its table, and the samples that were left out, counted by reason."""

    table: pa.Table
    skipped: dict[str, int]


def open_pairs(
    train_data: str | list[str], *, work: Path, factors: str | None = None, cache_bytes: int = CACHE_BYTES
) -> TrainingPairs:
    """All pairs of an image and a caption of `train_data`, in the order of its sources and their shards.

    A source is a brace pattern, glob or folder of local shards, or one of fsspec's URLs (s3://, gs://, https://, ...);
    sources are joined by `::` or listed. `factors`, `2::0.5`, one a source, are open_clip's upsampling factors: they
    become `repeats`. `work` keeps the catalogues and, at most `cache_bytes` of them, the remote shards in use.
    Raises ReactvlError for a source that names nothing, for a shard in two of them, for a wrong count of factors, for
    `pipe:` and for what holds no pair; samples that cannot be used are counted in `skipped`.
    """
    sources = sources_of(train_data, factors)
    work = Path(work)
    remote = [shard for source in sources if source.remote for shard in source.shards]
    storage = Storage(remote, work / "shards", most=cache_bytes) if remote else None
    names = [shard for source in sources for shard in source.shards]
    local = identify([Path(shard) for source in sources if not source.remote for shard in source.shards])
    if lost := next((path for path, known in local.items() if not known.ends_sha256), None):
        raise ReactvlError(f"shard {lost}: cannot be read; is the pool whole?")
    paths, prints = [], []
    for source in sources:
        for shard in source.shards:
            number = len(paths)
            paths.append(storage.add(number, shard) if source.remote else Path(shard))
            prints.append(storage.prints[number] if source.remote else local[Path(shard)])
    listed = list(catalogues(names, paths, prints, work / "catalogues", storage))
    return joined(train_data, sources, paths, prints, listed, storage)


def sources_of(train_data: str | list[str], factors: str | None) -> list[Source]:
    """The sources with their shards; ReactvlError for what cannot be one."""
    given = [train_data] if isinstance(train_data, str | Path) else list(train_data)
    parts = [part.strip() for text in given for part in str(text).split("::") if part.strip()]
    if not parts:
        raise ReactvlError("train_data is empty: give shards, such as '/data/{00000..00897}.tar'")
    factor = factors_of(factors, parts)
    sources, seen = [], {}
    for part, weight in zip(parts, factor, strict=True):
        if part.startswith("pipe:"):
            raise ReactvlError(
                f"train_data {part}: pipe: would run its text in a shell, which is not done here; give the URL itself "
                "(s3://, gs://, https://, ... are read through fsspec)"
            )
        remote = bool(URL.match(part))
        shards = remote_shards(part) if remote else [str(path) for path in expand(part)]
        for shard in shards:
            if shard in seen:
                raise ReactvlError(
                    f"train_data: shard {shard} stands in {seen[shard]} and in {part}; to show its pairs more often "
                    "give --train-data-upsampling-factors"
                )
            seen[shard] = part
        sources.append(Source(part, shards, remote, weight))
    return sources


def factors_of(text: str | None, parts: list[str]) -> list[float]:
    """`2::0.5` as numbers, one a source."""
    if text is None:
        return [1.0] * len(parts)
    words = [word.strip() for word in str(text).split("::")]
    if len(words) != len(parts):
        raise ReactvlError(
            f"train_data_upsampling_factors {text}: {len(words)} factors for {len(parts)} sources; give one a source, "
            "joined by ::"
        )
    try:
        found = [float(word) for word in words]
    except ValueError:
        found = [-1.0]
    if not all(0 < factor < 1e6 for factor in found):
        raise ReactvlError(f"train_data_upsampling_factors {text}: factors are numbers above 0, joined by ::")
    return found


def remote_shards(pattern: str) -> list[str]:
    """The URLs that a pattern names, sorted: braces, a glob, or a folder's `*.tar` (an ending `/`)."""
    found: set[str] = set()
    for url in braces(pattern):
        if glob.has_magic(url) or url.endswith("/"):
            system, path = file_system(url)
            try:
                hits = system.glob(path.rstrip("/") + "/*.tar" if url.endswith("/") else path)
            except Exception as fault:  # a file system's own errors are of any kind
                raise ReactvlError(f"train_data {url}: cannot be listed ({type(fault).__name__}: {fault})") from None
            if not hits:
                raise ReactvlError(f"train_data {url}: matches no file")
            found |= {system.unstrip_protocol(hit) for hit in hits}
        else:
            found.add(url)
    return sorted(found)


def catalogues(
    names: list[str], paths: list[Path], prints: list[Fingerprint], folder: Path, storage: Storage | None
) -> Iterator[Listed]:
    """The catalogue of every shard in order, from `folder` where it is there and whole, else made and kept."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / file_of(path, known, storage is None or not storage.has(at))
             for at, (path, known) in enumerate(zip(paths, prints, strict=True))]  # fmt: skip
    with ThreadPoolExecutor(READERS, thread_name_prefix="catalogue") as readers:
        found = list(readers.map(read, files))
    missing = [at for at, known in enumerate(found) if known is None]
    if missing:
        with progress("cataloguing shards", len(names), "shards") as bar:
            bar.advance(len(names) - len(missing), resumed=True)
            for at in made(missing, paths, prints, files, storage):
                found[at] = read(files[at])
                if found[at] is None:
                    raise ReactvlError(f"{files[at]}: was written and cannot be read; is the disk full or damaged?")
                bar.advance(1, f"{len(found[at].table):,} pairs in {paths[at].name}")
    return iter(found)


def file_of(path: Path, known: Fingerprint, local: bool) -> str:
    """Named by what decides the content: the shard's name, size and ends, and its side file."""
    told = [VERSION, path.name, known.size, known.ends_sha256, side_stamp(path) if local else None]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:32] + ".parquet"


def read(file: Path) -> Listed | None:
    """A kept catalogue; None when it is missing or damaged."""
    try:
        with pq.ParquetFile(file, page_checksum_verification=True) as opened:
            table = opened.read(use_threads=False)  # the files are read by threads already
            skipped = json.loads(opened.schema_arrow.metadata[b"reactvl"])
        if not table.schema.equals(SCHEMA):
            return None
        return Listed(table.replace_schema_metadata(None), {str(why): int(count) for why, count in skipped.items()})
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError, AttributeError):
        return None


def made(
    missing: list[int], paths: list[Path], prints: list[Fingerprint], files: list[Path], storage: Storage | None
) -> Iterator[int]:
    """Make the catalogues that are missing; yields each shard's number when its file is there."""
    local = [at for at in missing if storage is None or not storage.has(at)]
    cores = min(len(os.sched_getaffinity(0)), len(local))
    if len(local) <= ALONE or cores == 1:
        for at in local:
            write(paths[at], files[at], prints[at])
            yield at
    else:
        method = (
            "fork" if "fork" in multiprocessing.get_all_start_methods() else None
        )  # no `if __name__` is asked of scripts
        with ProcessPoolExecutor(cores, mp_context=multiprocessing.get_context(method)) as makers:
            running = {at: makers.submit(write, paths[at], files[at], prints[at]) for at in local}
            try:
                for at, job in running.items():
                    job.result()
                    yield at
            except BrokenProcessPool:
                raise ReactvlError(
                    "a process that catalogued shards died, most likely for lack of memory; start again"
                ) from None
            finally:
                makers.shutdown(cancel_futures=True)
    for at in [at for at in missing if at not in set(local)]:
        storage.look_ahead([other for other in missing if other > at])
        storage.hold([at])
        try:
            write(paths[at], files[at], None)
        finally:
            storage.release([at])
        yield at


def write(path: Path, file: Path, known: Fingerprint | None) -> None:
    """Scan a shard and write its catalogue; ReactvlError when it cannot be read, or changed meanwhile."""
    try:
        found = catalogue(path)
        same = known is None or same_shard(path, known)
    except OSError as fault:
        raise ShardGone(f"shard {path}: cannot be read ({fault.strerror})") from None
    if not same:
        raise ReactvlError(f"shard {path}: changed while it was read; start again when it is whole")
    skipped = Counter(left.reason for left in found.skipped)
    kept = []
    for sample in found.samples:
        if sample.status not in (None, "success"):
            skipped["download failed"] += 1
        elif not sample.caption:
            skipped["no caption"] += 1
        else:
            kept.append(sample)
    keys = [sample.key for sample in kept]
    columns = {
        "key": keys,
        "caption": [sample.caption for sample in kept],
        "offset": [sample.offset for sample in kept],
        "size": [sample.size for sample in kept],
        "seed": sample_seeds([path], np.zeros(len(keys), np.int32), keys),
    }
    table = pa.table(columns, schema=SCHEMA).replace_schema_metadata({"reactvl": json.dumps(skipped)})
    with replacing(file) as part:
        pq.write_table(table, part, compression="zstd", write_page_checksum=True)


def joined(
    train_data: object,
    sources: list[Source],
    paths: list[Path],
    prints: list[Fingerprint],
    listed: list[Listed],
    storage: Storage | None,
) -> TrainingPairs:
    """The catalogues as one TrainingPairs."""
    lengths = [len(one.table) for one in listed]
    skipped = sum((Counter(one.skipped) for one in listed), Counter())
    reasons = ", ".join(f"{count:,} {reason}" for reason, count in skipped.most_common())
    if not sum(lengths):
        raise ReactvlError(
            f"train_data {train_data}: holds no pair of an image and a caption ({reasons or 'no sample'})"
        )
    table = pa.concat_tables([one.table for one in listed])
    factors = np.repeat([source.factor for source in sources], [len(source.shards) for source in sources])
    say(f"train data: {len(table):,} pairs in {len(paths):,} shards" + (f"; left out {reasons}" if skipped else ""))
    pairs = TrainingPairs(
        paths,
        np.repeat(np.arange(len(paths), dtype=np.int32), lengths),
        table["offset"].to_numpy(),
        table["size"].to_numpy(),
        Texts(table["key"]),
        Texts(table["caption"]),
        repeats=np.repeat(factors, lengths) if (factors != 1).any() else None,
        prints=prints,
        seeds=table["seed"].to_numpy(),
        storage=storage,
    )
    return dataclasses.replace(pairs, skipped=skipped)
