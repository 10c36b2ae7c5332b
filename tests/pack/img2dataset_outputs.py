"""The outputs of img2dataset as its own writers lay them out, and small pictures."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def make_picture(number: int, form: str = "JPEG") -> bytes:
    blocks = np.random.default_rng(number).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((20, 16)).save(file, form)
    return file.getvalue()


# img2dataset's columns: those of the input that were kept, then its own (downloader.py, writer.py)
TEXTS = ("caption", "url", "key", "status", "error_message", "exif", "sha256")
SCHEMA = pa.schema(
    [
        ("similarity", pa.float64()),
        *((name, pa.string()) for name in TEXTS),
        ("width", pa.int32()),
        ("height", pa.int32()),
    ]
)


def downloads(shard: int, count: int, failed: tuple[int, ...] = ()) -> list[tuple[dict, bytes | None]]:
    """(record, image) of every download of a shard, as img2dataset has them when it writes."""
    made = []
    for number in range(count):
        bad = number in failed
        record = {
            "similarity": number / 8,
            "caption": f"caption {shard}-{number} ß界",
            "url": f"https://x/{shard}/{number}",
            "key": f"{shard:05d}{number:04d}",
            "status": "failed_to_download" if bad else "success",
            "error_message": "HTTP Error 404: Not Found" if bad else None,
            "width": None if bad else 20,
            "height": None if bad else 16,
            "exif": None if bad else "{}",
            "sha256": None if bad else "ab" * 32,
        }
        made.append((record, None if bad else make_picture(100 * shard + number)))
    return made


def write_files(folder: Path, shards: list[list[tuple[dict, bytes | None]]]) -> Path:
    """FilesSampleWriter: 00000/KEY.jpg, .txt, .json, and 00000.parquet beside the subfolder."""
    for shard, made in enumerate(shards):
        (folder / f"{shard:05d}").mkdir(parents=True)
        for record, image in made:
            if image is not None:
                path = folder / f"{shard:05d}" / record["key"]
                path.with_suffix(".jpg").write_bytes(image)
                path.with_suffix(".txt").write_text(record["caption"])
                path.with_suffix(".json").write_text(json.dumps(record, indent=4))
        pq.write_table(pa.Table.from_pylist([record for record, _ in made], SCHEMA), folder / f"{shard:05d}.parquet")
        (folder / f"{shard:05d}_stats.json").write_text("{}")
    return folder


def write_parquet(folder: Path, shards: list[list[tuple[dict, bytes | None]]]) -> Path:
    """ParquetSampleWriter: 00000.parquet with the images in a column `jpg`."""
    folder.mkdir()
    for shard, made in enumerate(shards):
        rows = [record | {"jpg": image} for record, image in made]
        table = pa.Table.from_pylist(rows, SCHEMA.append(pa.field("jpg", pa.binary())))
        pq.write_table(table, folder / f"{shard:05d}.parquet", row_group_size=3)
        (folder / f"{shard:05d}_stats.json").write_text("{}")
    return folder
