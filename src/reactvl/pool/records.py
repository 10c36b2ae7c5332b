"""What is known of a sample besides its image: caption, url, download status and further fields.

They stand in the sample's `.txt` and `.json`, and in img2dataset's side file `00000.parquet` beside `00000.tar`, which
has one row a key, failed downloads included. Where two of them speak, the sample's own json wins over the side file.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import msgspec

from reactvl.manifest import ReactvlError

Scalar = str | int | float | bool
# What has a column of its own, or is of no use to a filter.
NO_FIELDS = {"key", "caption", "url", "status", "error_message", "sha256", "md5", "exif"}
MAX_VALUE = 1_000  # characters of a field; longer ones are prose, not metadata
MAX_NAME = 200  # characters of a field's name
MAX_FIELDS = 256  # of one sample
MAX_REASON = 120  # characters
SUCCESS = "success"  # img2dataset's status of a sample that has its picture
BYTES = re.compile(r"\(\d+ bytes .*")  # of http.client's `IncompleteRead(1756 bytes read, 1757 more expected)`
INT64 = range(-(2**63), 2**63)


class SideFile(NamedTuple):
    """The rows of a side file by key; `fault` says in words why a file that is there could not be read; `fetched` counts all
    its rows by how their download ended (`outcome`)."""

    rows: dict[str, dict[str, Any]]
    fault: str | None = None
    fetched: Mapping[str, int] = MappingProxyType({})


def checked_captions(captions: str) -> tuple[str, str]:
    """(kind, field) of a `captions` option: auto, txt, json:FIELD or parquet:FIELD; ReactvlError for anything else."""
    kind, colon, field = captions.partition(":")
    if (kind in ("auto", "txt") and not colon) or (kind in ("json", "parquet") and field):
        return kind, field
    raise ReactvlError(f"captions {captions!r}: use auto, txt, json:FIELD or parquet:FIELD")


def caption_of(kind: str, field: str, text: bytes | None, record: dict | None, side: dict | None) -> str | None:
    """The caption that a `captions` option asks for, exactly as written; None where the sample has none.

    `auto` is the body of `.txt`, else `caption` of the json, else `caption` of the side file's row.
    """
    if kind == "json":
        return word(record, field)
    if kind == "parquet":
        return word(side, field)
    if text is not None:
        return text.decode("utf-8", "replace")
    if kind == "txt":
        return None
    own = word(record, "caption")
    return own if own is not None else word(side, "caption")


def fields_of(record: dict | None, side: dict | None) -> dict[str, Scalar]:
    """The scalar fields of a sample's json and side row, in that order of right; see NO_FIELDS for what is left out."""
    found: dict[str, Scalar] = {}
    for source in (record, side):
        for name, value in (source or {}).items():
            if name in NO_FIELDS or name in found or not name or len(name) > MAX_NAME or len(found) == MAX_FIELDS:
                continue
            if (kept := scalar(value)) is not None:
                found[whole(name)] = kept
    return found


def scalar(value: Any) -> Scalar | None:
    """A value as a table can hold it; None for null, NaN, what is no scalar and texts that are too long."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        return whole(value) if len(value) <= MAX_VALUE else None
    if isinstance(value, int) and value not in INT64:
        try:
            return float(value)
        except OverflowError:
            return None
    if isinstance(value, float) and math.isnan(value):
        return None
    return value if isinstance(value, int | float) else None


def parsed(body: bytes) -> dict | None:
    """A sample's json as a dict; None when it is damaged or no object. NaN, which img2dataset's users have, is let
    through."""
    try:
        record = msgspec.json.decode(body)  # several times as fast, and stricter
    except (msgspec.DecodeError, ValueError, RecursionError):
        try:
            record = json.loads(body)
        except (ValueError, RecursionError):
            return None
    return record if isinstance(record, dict) else None


def word(record: dict | None, field: str) -> str | None:
    """A text field of a record; None for anything that is no text."""
    value = (record or {}).get(field)
    return whole(value) if isinstance(value, str) else None


def whole(text: str) -> str:
    """Text without lone surrogates, which json can spell and no table can hold."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def status(record: dict | None) -> str | None:
    """img2dataset's status, with its error message where it failed."""
    given, message = word(record, "status"), word(record, "error_message")
    return f"{given}: {message}" if given and given != SUCCESS and message else given


def side_path(shard: Path | str) -> Path:
    """Where img2dataset puts the side file of a shard."""
    return Path(shard).with_suffix(".parquet")


def side_stamp(shard: Path | str) -> list[int] | None:
    """Size and time of the shard's side file, which may give captions and fields; None without one."""
    try:
        about = side_path(shard).stat()
    except OSError:
        return None
    return [about.st_size, about.st_mtime_ns]


def read_side_file(shard: Path | str, keys: Collection[str]) -> SideFile:
    """The scalar columns of the shard's side file, of the rows of these keys (of equal keys the first), and how the
    downloads of all its rows ended; empty without one."""
    path = side_path(shard)
    if not path.is_file():
        return SideFile({})
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows: dict[str, dict[str, Any]] = {}
    fetched: Counter[str] = Counter()
    try:
        with pq.ParquetFile(path) as file:
            names = [field.name for field in file.schema_arrow if is_scalar(field.type)]
            if "key" not in names:
                return SideFile({}, f"{path.name} has no text column `key`")
            for batch in file.iter_batches(batch_size=16_384, columns=names):
                for row in batch.to_pylist():
                    if row["key"] in keys:
                        rows.setdefault(row["key"], row)
                    if (ended := outcome(row)) is not None:
                        fetched[ended] += 1
    except (pa.ArrowException, OSError, ValueError) as fault:
        return SideFile(rows, f"{path.name} cannot be read ({str(fault).splitlines()[0] if str(fault) else fault!r})")
    return SideFile(rows, fetched=dict(fetched))


def outcome(row: dict[str, Any]) -> str | None:
    """How a row's download ended: `success`, or why there is no picture, in words that many rows share (the first line of
    img2dataset's message, without numbers of bytes); None where the row does not say."""
    said = word(row, "status")
    if not said or said == SUCCESS:
        return said or None
    message = (word(row, "error_message") or "").strip()
    return BYTES.sub("", message.splitlines()[0])[:MAX_REASON] if message else said


def is_scalar(kind: Any) -> bool:
    """Whether an Arrow type holds texts, numbers or truth values."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    wanted = (pa.types.is_string, pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating)
    return pa.types.is_boolean(kind) or any(check(kind) for check in wanted)
