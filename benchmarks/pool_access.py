"""Pairs in tars: how long until they can be read, and how fast are random ones fetched? Against unpacking and copying.

    .venv/bin/python benchmarks/pool_access.py

Ours: the catalogue of every shard (where each image lies, with captions; fingerprints for later checks), then images by
reads by place (`read_many`). The baseline is the released code's way: `tar -xf` of every shard
into a folder of its own (extract_webdataset_scattered.py), then images and texts copied by 128 threads
(retrieve_pairs_sep_prompts.py).
"""

import shutil
import subprocess
from multiprocessing.pool import ThreadPool
from pathlib import Path

import measuring
import numpy as np
import photographs

from reactvl.manifest import ReactvlError
from reactvl.pool.reader import forget, read_many
from reactvl.pool.tars import catalogue, fingerprint
from reactvl.pool.writer import ShardWriter

DIFFERENCES = (
    "`tar` is started without a shell, its exit code is looked at (released: shell=True, exit code ignored)",
    "images and texts are found by a list of the unpacked files (released: a pickled list of member names, not timed)",
    "no progress bar",
)


def main() -> None:
    options = measuring.parser(__doc__, rounds=5)
    options.add_argument("--pairs", type=int, default=10_000)
    options.add_argument("--fetched", type=int, default=2_000)
    options.add_argument("--shard-pairs", type=int, default=5_000)
    photographs.options(options)
    given = measuring.parsed(options, {"pairs": 120, "fetched": 20, "shard_pairs": 60})
    report = measuring.Report(
        "pool_access",
        f"first access to {given.pairs:,} pairs in tars, then {given.fetched:,} random pairs out",
        given,
        minutes=1,
        differences=DIFFERENCES,
    )
    crops = photographs.given_crops(given)
    home = photographs.pool(given.cache, crops, given.pairs, given.shard_pairs)
    shards = sorted(home.glob("*.tar"))
    work = given.cache / "pool-access"
    shutil.rmtree(work, ignore_errors=True)
    unpacked, copied, packed = work / "unpacked", work / "copied", work / "packed"

    seconds = report.timed(
        {"catalogue": lambda: opened(shards), "untar": lambda: untarred(shards, unpacked)}, given.rounds
    )
    report.row("set-up", seconds["catalogue"], seconds["untar"], against="tar -xf to files", need=measuring.times(20))

    found = opened(shards)
    chosen = np.random.default_rng(0).choice(len(found), given.fetched, replace=False)
    drawn = [found[number] for number in chosen.tolist()]
    stems = [unpacked / path.stem / sample.key for path, sample in drawn]
    seconds = report.timed(
        {
            "read": lambda: read(drawn),
            "packed": lambda: pack(drawn, packed),
            "copy": lambda: copy(stems, copied),
        },
        given.rounds,
    )
    same = [(image, sample.caption) for image, (_, sample) in zip(read(drawn), drawn, strict=True)]
    assert same == [(stem.with_suffix(".jpg").read_bytes(), stem.with_suffix(".txt").read_text()) for stem in stems]
    report.row(
        "fetch, pairs read for use (page cache warm)",
        seconds["read"],
        seconds["copy"],
        against="copies by 128 threads",
        need=measuring.times(3),
    )
    report.row(
        "fetch, pairs written to a shard of their own",
        seconds["packed"],
        seconds["copy"],
        against="copies by 128 threads",
    )
    pool_bytes = sum(path.stat().st_size for path in shards)
    report.row(
        "disk beside the pool",
        0.0,
        measured_size(unpacked) / 1e6,
        "MB",
        against="unpacked files",
        need=measuring.most(0.0),
    )
    report.note(
        f"The pool: {len(shards)} shards, {pool_bytes / 1e6:,.0f} MB, {len(crops)} distinct photographic crops."
    )
    report.finish()
    shutil.rmtree(work)


def opened(shards: list[Path]) -> list[tuple[Path, object]]:
    """Every pair of the pool: (shard, sample), ready to be read."""
    found = []
    for path in shards:
        forget(path)
        fingerprint(path)
        found += [(path, sample) for sample in catalogue(path).samples]
    return found


def untarred(shards: list[Path], out: Path) -> None:
    """Every shard unpacked anew, the shards in parallel as released (36 at once)."""
    shutil.rmtree(out, ignore_errors=True)

    def one(path: Path) -> None:
        folder = out / path.stem
        folder.mkdir(parents=True)
        subprocess.run(["tar", "-xf", path, "-C", folder], check=True)

    with ThreadPool(36) as threads:
        threads.map(one, shards)


def read(drawn: list) -> list[bytes]:
    """The images, in the order asked for."""
    images: list[bytes] = [b""] * len(drawn)
    for number, data in read_many((path, sample.offset, sample.size) for path, sample in drawn):
        if isinstance(data, ReactvlError):
            raise data
        images[number] = data
    return images


def pack(drawn: list, out: Path) -> None:
    """The pairs as a shard, as `--materialize` writes it."""
    shutil.rmtree(out, ignore_errors=True)
    with ShardWriter(out) as writer:
        for (_, sample), image in zip(drawn, read(drawn), strict=True):
            writer.write(image, sample.ext, sample.caption, {"url": sample.url})


def copy(stems: list[Path], out: Path) -> None:
    """Images and texts copied, as released: shutil.copy2 by 128 threads."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)

    def one(stem: Path) -> None:
        for ext in (".jpg", ".txt"):
            shutil.copy2(stem.with_suffix(ext), out / (stem.name + ext))

    with ThreadPool(128) as threads:
        for _ in threads.imap(one, stems):
            pass


def measured_size(folder: Path) -> int:
    """Bytes that the files under a folder take on disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    main()
