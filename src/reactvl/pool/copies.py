"""Writing pairs into shards of their own: img2dataset's layout with its side files, shuffled, balanced, resumable.

A shard is a function of its own rows alone and is written whole or not at all: first the side file, which carries the
plan of the shard, then the tar. So a run that was killed goes on with the shards that are missing and ends in the same
bytes. Rows that cannot be read keep their place in the numbering and stand in the side file with their fault, as
img2dataset's failed downloads do.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from reactvl.manifest import ReactvlError, replacing
from reactvl.pool.columns import kinds_of, table_of
from reactvl.pool.listing import by_reason
from reactvl.pool.reader import read_many
from reactvl.pool.tars import IMAGE_EXTENSIONS
from reactvl.pool.writer import KEY, ShardWriter
from reactvl.progress import progress

FAILED = "failed_to_read"  # the status of a row without its image, beside img2dataset's failed_to_download
SAID = {"status": "success", "error_message": None}  # what img2dataset says of a pair that it has
SHARD_DIGITS, PLACE_DIGITS = 5, 4  # img2dataset's, where they suffice


class Fault(NamedTuple):
    """Why a row has no image: a reason for counting, the details, and the status that the side file gives."""

    reason: str
    detail: str
    status: str = FAILED


class Pair(NamedTuple):
    """One row on its way into a shard: an image (or a fault), its caption, and its record for the json and side file.

    `members`: further bodies by extension; a `json` among them stands as it is in place of the record.
    """

    key: str
    image: bytes | Fault
    ext: str
    caption: str | None
    record: dict[str, Any]
    members: dict[str, bytes] = {}  # noqa: RUF012 - never changed


class Left(NamedTuple):
    """A row that was left out of a shard."""

    shard: str
    key: str
    reason: str
    detail: str


class Written(NamedTuple):
    """What a shard came to: pairs in the tar, the rows that were left out, and the pairs that have no caption."""

    pairs: int
    left_out: list[Left]
    uncaptioned: int = 0


def materialize(
    rows: list[dict[str, Any]], out: Path, *, seed: int, per_shard: int = 10_000, title: str = "materializing"
) -> dict[str, int]:
    """Copy pairs out of their shards into `out/00000.tar`, ... with side files `00000.parquet`; returns counts.

    `rows`: dicts of shard_path, offset, size, ext, caption, record. They are shuffled by `seed` so that every shard has its
    share of every class (`class_id` or `class` of the record). The record's own `key`, `shard` and `sha256` are kept as
    `source_key`, `source_shard` and `sha256`; an image whose bytes have another sha256 is left out, as are those that
    cannot be read. `out` belongs to the caller's stage: shards that are there and were planned alike are kept, others
    removed. Counts are pairs, shards, skipped, and `skipped: REASON`. ReactvlError for `per_shard` below 1.
    """
    return counted(copied(rows, out, seed=seed, per_shard=per_shard, title=title))


def copied(rows: list[dict[str, Any]], out: Path, *, seed: int, per_shard: int, title: str) -> list[Written]:
    """`materialize`, returning what each shard came to."""
    if per_shard < 1:
        raise ReactvlError(f"shards of {per_shard} pairs cannot be written; use 1 or more")
    order = balanced_order([class_of(row) for row in rows], seed, per_shard)
    shards = -(-len(rows) // per_shard)
    digits = max(SHARD_DIGITS, len(str(shards - 1))), max(PLACE_DIGITS, len(str(per_shard - 1)))
    names = [f"{number:0{digits[0]}d}" for number in range(shards)]
    sweep(out, set(names))
    done: list[Written] = []
    with progress(title, len(rows), "pairs") as bar:
        for number, name in enumerate(names):
            members = [rows[at] for at in order[number * per_shard : (number + 1) * per_shard]]
            keys = [f"{name}{place:0{digits[1]}d}" for place in range(len(members))]
            plan = planned(keys, members)
            found = finished(out, name, plan)
            done.append(found or write_shard(out, name, pairs_of(keys, members), plan))
            bar.advance(len(members), resumed=found is not None)
    return done


def sweep(out: Path, names: Collection[str]) -> None:
    """Remove what a killed run left under temporary names, and shards that are none of `names`."""
    for stray in out.glob(".*.part"):
        stray.unlink(missing_ok=True)
    for path in [*out.glob("*.tar"), *out.glob("*.parquet")]:
        if path.stem.isdecimal() and path.stem not in names:
            path.unlink()


def counted(written: Sequence[Written]) -> dict[str, int]:
    """Pairs, shards that hold any, and rows left out, in all and by reason."""
    reasons = Counter(left.reason for shard in written for left in shard.left_out)
    return {
        "pairs": sum(shard.pairs for shard in written),
        "shards": sum(shard.pairs > 0 for shard in written),
        **by_reason(reasons),
    }


def class_of(row: dict[str, Any]) -> Hashable:
    record = row["record"]
    return record.get("class_id", record.get("class"))


def balanced_order(classes: Sequence[Hashable], seed: int, per_shard: int) -> np.ndarray:
    """A permutation (n,) of the rows by `seed` in which every run of `per_shard` has its share of every class.

    The rows of a class are shuffled and spread evenly over the whole (systematic sampling with a random start); then
    every shard is shuffled in itself.
    """
    draw = np.random.Generator(np.random.Philox(key=np.array([seed & (2**64 - 1), 0x6D617465], np.uint64)))
    numbers: dict[Hashable, int] = {}
    label = np.array([numbers.setdefault(one, len(numbers)) for one in classes], dtype=np.int64)
    mixed = draw.permutation(len(label))
    mixed = mixed[np.argsort(label[mixed], kind="stable")]  # by class, shuffled within
    count = np.bincount(label, minlength=len(numbers))
    within = np.arange(len(label)) - np.repeat(np.cumsum(count) - count, count)
    start = draw.random(len(numbers))
    place = (within + np.repeat(start, count)) / np.repeat(count, count)
    order = mixed[np.argsort(place, kind="stable")]
    for first in range(0, len(order), per_shard):
        order[first : first + per_shard] = draw.permutation(order[first : first + per_shard])
    return order


def planned(keys: list[str], rows: list[dict[str, Any]]) -> str:
    """Names what a shard will hold, wherever the pool lies."""
    told = [
        [
            key,
            Path(row["shard_path"]).name,
            int(row["offset"]),
            int(row["size"]),
            row["ext"],
            row["caption"],
            row["record"],
        ]
        for key, row in zip(keys, rows, strict=True)
    ]
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=plainly).encode()).hexdigest()


def plainly(value: Any) -> Any:
    """A value as json has it: bytes as hex, NumPy's numbers as numbers, what json has no word for as text."""
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, str | int | float | bool | list | dict):
        return value
    return str(value)


def pairs_of(keys: list[str], rows: list[dict[str, Any]]) -> Iterable[Pair]:
    """The rows with their images, read in the order of the shard to be."""
    places = [(row["shard_path"], row["offset"], row["size"]) for row in rows]
    for (number, data), key, row in zip(read_many(places, order="stream"), keys, rows, strict=True):
        record = {
            f"source_{name}" if name in ("key", "shard") else name: value for name, value in row["record"].items()
        }
        digest = record.get("sha256")
        digest = record["sha256"] = digest.hex() if isinstance(digest, bytes) else digest
        image: bytes | Fault
        if isinstance(data, ReactvlError):
            image = Fault("unreadable image", str(data))
        elif digest and hashlib.sha256(data).hexdigest() != digest:
            image = Fault(
                "changed image", f"shard {rows[number]['shard_path']}: its bytes at {places[number][1]:,} changed"
            )
        else:
            image = data
        if digest is None:
            del record["sha256"]
        yield Pair(key, image, row["ext"], row["caption"], record)


def write_shard(out: Path, name: str, pairs: Iterable[Pair], plan: str) -> Written:
    """Write `NAME.tar` and its side file `NAME.parquet`; `name` is digits. A shard without one image has no tar."""
    tar = out / f"{name}.tar"
    tar.unlink(missing_ok=True)  # of another plan: the new side file must not stand beside it
    rows, left_out, written, uncaptioned, seen = [], [], 0, 0, set()
    with ShardWriter(out, max_count=2**62, max_bytes=2**62, first=int(name), digits=len(name)) as writer:
        for pair in pairs:
            row = {name: plainly(value) for name, value in pair.record.items()}
            row |= {"caption": pair.caption, "key": pair.key, **SAID}
            fault = pair.image if isinstance(pair.image, Fault) else unfit(pair, seen)
            seen.add(pair.key)
            if fault is None:
                record = None if "json" in pair.members else row
                writer.write(pair.image, pair.ext, pair.caption, record, key=pair.key, members=pair.members)
                written += 1
                uncaptioned += pair.caption is None
            else:
                row |= {"status": fault.status, "error_message": f"{fault.reason}: {fault.detail}"}
                left_out.append(Left(name, pair.key, fault.reason, fault.detail))
            rows.append(row)
        done = Written(written, left_out, uncaptioned)
        write_side_file(out / f"{name}.parquet", rows, {"plan": plan, **done._asdict()})
    return done


def unfit(pair: Pair, seen: set[str]) -> Fault | None:
    """Why a pair cannot stand in a shard under its key and extension."""
    if pair.ext not in IMAGE_EXTENSIONS:
        return Fault("not an image", f"its extension {pair.ext!r} is none of {', '.join(IMAGE_EXTENSIONS)}")
    if pair.key in seen:
        return Fault("duplicate key", "the shard has an earlier row of this key, which is kept")
    if not KEY.fullmatch(pair.key) or ".." in pair.key.split("/") or pair.key.startswith(("/", "__")):
        return Fault("unusable key", "a key is a name without dots, in folders or not")
    return None


def write_side_file(path: Path, rows: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """One row a key, img2dataset's columns last, as it has them; `about` goes to the schema's metadata."""
    import pyarrow.parquet as pq

    kinds = kinds_of(rows)
    kinds = {name: kinds[name] for name in sorted(kinds, key=lambda name: name in ("key", *SAID))}
    kinds |= {name: "string" for name in ("key", "caption", *SAID) if name in kinds}
    table = table_of(rows, kinds).replace_schema_metadata({"reactvl": json.dumps(about)})
    with replacing(path) as part:
        pq.write_table(table, part, compression="zstd")


def finished(out: Path, name: str, plan: str) -> Written | None:
    """What an earlier run wrote for this plan; None where the shard is still to do."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        about = json.loads(pq.read_schema(out / f"{name}.parquet").metadata[b"reactvl"])
        same = about["plan"] == plan and (about["pairs"] == 0 or (out / f"{name}.tar").exists())
        left_out = [Left(*one) for one in about["left_out"]]
        return Written(about["pairs"], left_out, about["uncaptioned"]) if same else None
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None
