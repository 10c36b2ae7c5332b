"""Writes shards: the pool's, as img2dataset writes its webdataset output, and the tasks', as CLIP_benchmark reads
them.

Bytes are a function of the samples alone: fixed times, owners, order and compression. The pool's shards are kept as
`.tar.xz`; the project unpacks each to `.tar`, the real thing, on first use.

    .venv/bin/python demo/build.py --out demo        # the only caller
"""

import hashlib
import io
import json
import lzma
import tarfile
from dataclasses import dataclass, field
from pathlib import Path

MTIME = 1_700_000_000
XZ = {"preset": 9 | lzma.PRESET_EXTREME, "check": lzma.CHECK_CRC64}


@dataclass
class Sample:
    """One image-text pair before it has a key."""

    source: str
    slug: str
    image: bytes
    ext: str
    caption: str | None  # "" writes an empty .txt, None none at all
    url: str
    size: tuple[int, int]
    original_size: tuple[int, int]
    corrupt: bool = False
    key: str = field(default="", init=False)


def write_pool_shard(folder: Path, shard: int, samples: list[Sample]) -> str:
    """Give the samples their keys, write `NNNNN.tar.xz`, return the sha256 of the tar inside."""
    members = {}
    for i, sample in enumerate(samples):
        sample.key = f"{shard:05d}{i:04d}"
        members[f"{sample.key}.{sample.ext}"] = sample.image
        members[f"{sample.key}.json"] = json.dumps(metadata(sample), indent=4).encode()
        if sample.caption is not None:
            members[f"{sample.key}.txt"] = sample.caption.encode()
    data = tar_bytes(members)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{shard:05d}.tar.xz").write_bytes(lzma.compress(data, **XZ))
    return hashlib.sha256(data).hexdigest()


def metadata(sample: Sample) -> dict:
    """img2dataset's fields in its order: the saved additional columns, caption and url, then what it found."""
    return {
        "source": sample.source,
        "slug": sample.slug,
        "caption": sample.caption or None,
        "url": sample.url,
        "key": sample.key,
        "status": "success",
        "error_message": None,
        "width": sample.size[0],
        "height": sample.size[1],
        "original_width": sample.original_size[0],
        "original_height": sample.original_size[1],
        "exif": "{}",
        "sha256": hashlib.sha256(sample.image).hexdigest(),
    }


def write_task_shard(split: Path, samples: list[tuple[str, str, int, bytes]]) -> None:
    """`0.tar` and `nshards.txt` of a split, from (source, slug, class index, webp) rows."""
    members = {}
    for i, (source, slug, label, image) in enumerate(samples):
        key = f"s{i:07d}"
        members[f"{key}.cls"] = str(label).encode()
        members[f"{key}.json"] = json.dumps({"source": source, "slug": slug}).encode()
        members[f"{key}.webp"] = image
    split.mkdir(parents=True, exist_ok=True)
    (split / "0.tar").write_bytes(tar_bytes(members))
    (split / "nshards.txt").write_text("1\n")


def tar_bytes(members: dict[str, bytes]) -> bytes:
    """A tar of the members sorted by name: a sample's files lie together. Mode and owner are those webdataset sets."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(members):
            info = tarfile.TarInfo(name)
            info.size, info.mtime, info.mode = len(members[name]), MTIME, 0o444
            info.uname = info.gname = "bigdata"
            tar.addfile(info, io.BytesIO(members[name]))
    return out.getvalue()
