"""One shard of a pool from pictures that lie elsewhere; a function of what lies there alone."""

import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

from reactvl.manifest import sha256_json
from reactvl.pack.sources import Item, Task, image_column, ingredients, stamp
from reactvl.pool.copies import Fault, Pair, Written, finished, write_shard
from reactvl.pool.images import extension_of
from reactvl.pool.records import caption_of, checked_captions, parsed, word
from reactvl.pool.tars import IMAGE_EXTENSIONS, MAX_TEXT, key_of

READERS = 8  # threads that read the files of a shard
AHEAD = 64  # files that are read before they are asked for
MAX_IMAGE = 1 << 28  # bytes of an image file
BATCH = 64  # rows of a parquet file that are held
FETCH = "img2dataset"


def pack_shard(task: Task, out: Path, captions: str) -> tuple[Written, bool]:
    """Write one shard unless an earlier run did; (what it came to, whether it had been done)."""
    if task.items:
        lies = [
            [item.key, item.name, item.caption, [stamp(path) for path in [item.image, *beside(item)]]]
            for item in task.items
        ]
    else:
        lies = [stamp(path) for path in ingredients(task.kind, task.place)]
    plan = sha256_json([task.shard, task.kind, captions, lies])
    done = finished(out, task.shard, plan)
    return (
        (done, True)
        if done
        else (write_shard(out, task.shard, pairs_of(task, checked_captions(captions)), plan), False)
    )


def pairs_of(task: Task, captions: tuple[str, str]) -> Iterator[Pair]:
    """The rows of a shard, read."""
    if task.kind == "parquet":
        return of_parquet(task.place, captions)
    if task.kind == "files":
        return of_subfolder(task.place, captions)
    return ahead(lambda item: of_item(item, captions, task.place if task.kind == "folder" else None), task.items)


def ahead(read: Callable[[Any], Pair], items: Iterable[Any]) -> Iterator[Pair]:
    """The items read by threads, in order, a bounded number before they are asked for."""
    waiting, coming = deque(), iter(items)
    with ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool:
        waiting.extend(pool.submit(read, item) for item in islice(coming, AHEAD))
        while waiting:
            yield waiting.popleft().result()
            waiting.extend(pool.submit(read, item) for item in islice(coming, 1))


def of_item(item: Item, captions: tuple[str, str], folder: Path | None) -> Pair:
    """A picture of a folder with its `.txt` and `.json`, or of a CSV with its caption."""
    name = item.name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if folder is None and "://" in item.name:
        why = Fault("not fetched", f"{name} is a URL; fetch the list with {FETCH} first")
        return Pair(item.key, why, "", item.caption, {"path": name})
    if folder is None:
        texts: dict[str, bytes] = {} if item.caption is None else {"txt": item.caption.encode()}
        return with_image(
            item.key, read_file(item.image, name), item.image.suffix, texts, {"path": name}, captions, None
        )
    texts = {}
    for path in beside(item):
        body = read_file(path, path.name, MAX_TEXT, "oversized text") if path.is_file() else None
        if isinstance(body, Fault):
            return Pair(item.key, body, "", None, {"path": name})
        if body is not None:
            texts[path.suffix[1:]] = body
    return with_image(item.key, read_file(item.image, name), item.image.suffix, texts, {"path": name}, captions, None)


def beside(item: Item) -> list[Path]:
    """The texts that may lie beside a picture of a folder; a CSV's captions are its own."""
    return [] if item.caption is not None else [item.image.with_suffix(f".{kind}") for kind in ("json", "txt")]


def with_image(
    key: str,
    image: bytes | Fault,
    suffix: str,
    texts: dict[str, bytes],
    record: dict[str, Any],
    captions: tuple[str, str],
    side: dict[str, Any] | None,
) -> Pair:
    """A pair of what was read; its record is the json's, or the side file's, under what is given."""
    told = parsed(texts["json"]) if "json" in texts else None
    caption = caption_of(*captions, texts.get("txt"), told, side)
    ext = suffix.removeprefix(".").lower()
    if not isinstance(image, Fault):
        ext = extension_of(image, ext) or ""
        if not ext:
            image = Fault("not an image", f"it begins with {image[:8]!r}" if image else "the file has no bytes")
    return Pair(key, image, ext, caption, {**(told or side or {}), **record})


def read_file(path: Path, name: str, limit: int = MAX_IMAGE, too_long: str = "oversized image") -> bytes | Fault:
    """The bytes of a regular file of at most `limit` bytes, or why there are none; `name` is how people know it."""
    try:
        about = path.stat()
        if not stat.S_ISREG(about.st_mode):  # a pipe would never end, nor would some devices
            return Fault("no such file", f"{name} is no file")
        if about.st_size > limit:
            return Fault(too_long, f"{name} has {about.st_size:,} bytes, at most {limit:,} are read")
        return path.read_bytes()
    except (OSError, ValueError) as fault:  # ValueError: a name with a NUL in it
        missing = isinstance(fault, FileNotFoundError | NotADirectoryError | ValueError)
        why = fault.strerror if isinstance(fault, OSError) else str(fault)
        return Fault("no such file" if missing else "unreadable file", f"{name}: {why}")


def of_subfolder(place: Path, captions: tuple[str, str]) -> Iterator[Pair]:
    """img2dataset's `files`: the members of a key by name; the side file tells of downloads that failed."""
    groups: dict[str, dict[str, Path]] = {}
    for path in sorted(path for path in place.iterdir() if path.is_file()):
        key, ext = key_of(path.name)
        if key is not None:
            groups.setdefault(key, {}).setdefault(ext, path)
    side = side_rows(place.with_suffix(".parquet"))
    keys = sorted({*groups, *side})

    def one(key: str) -> Pair:
        members, row = groups.get(key, {}), side.get(key)
        ext = next((ext for ext in IMAGE_EXTENSIONS if ext in members), None)
        if ext is None:
            return Pair(key, not_fetched(row), "", word(row, "caption"), row or {})
        texts = {}
        for kind in ("json", "txt"):
            body = read_file(members[kind], members[kind].name, MAX_TEXT, "oversized text") if kind in members else None
            if isinstance(body, Fault):
                return Pair(key, body, "", None, row or {})
            if body is not None:
                texts[kind] = body
        pair = with_image(key, read_file(members[ext], members[ext].name), ext, texts, {}, captions, row)
        return pair._replace(members={"json": texts["json"]} if "json" in texts else {})

    return ahead(one, keys)


def side_rows(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a side file by key; none where there is no such file or it cannot be read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(path).to_pylist() if path.is_file() else []
    except (OSError, pa.ArrowException):
        return {}
    return {row["key"]: row for row in rows if isinstance(row.get("key"), str)}


def of_parquet(path: Path, captions: tuple[str, str]) -> Iterator[Pair]:
    """img2dataset's `parquet`: a row a key with the image's bytes in a column named by their extension."""
    import pyarrow.parquet as pq

    column = image_column(path)
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=BATCH):
            for number, row in enumerate(batch.to_pylist()):
                image = row.pop(column)
                text = row.pop("txt", None)
                key = row["key"] if isinstance(row.get("key"), str) else f"{path.stem}{number:04d}"
                texts = {"txt": text.encode()} if isinstance(text, str) else {}
                if image is None:
                    yield Pair(key, not_fetched(row), "", word(row, "caption"), row)
                else:
                    yield with_image(key, image, column, texts, {}, captions, row)


def not_fetched(row: dict[str, Any] | None) -> Fault:
    """The fault of a row that img2dataset has no image of."""
    said, why = word(row, "status"), word(row, "error_message")
    if said and said != "success":
        return Fault("download failed", f"{FETCH}'s status is {said}{f': {why}' if why else ''}", said)
    return Fault(
        "no image", "there is no file of an image under its key" if row is None or not said else "its image is gone"
    )
