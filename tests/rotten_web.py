"""img2dataset in its own environment, and a pool of URLs for it: the demo's pictures, served with every fate that links have.

The pool is made as publishers make theirs: vectors, captions and URLs, no shards.
"""

import contextlib
import importlib.util
import io
import json
import lzma
import os
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from picture_server import PictureServer, dealt, serving
from PIL import Image

from reactvl.embed import embed
from reactvl.handles.embeddings import Embeddings

ROOT = Path(__file__).parents[1]
BASE = ROOT / "demo" / "base"
SHARDS = ("00000", "00006")
# REFERENCE: as used for the released pairs, but for the number of processes (64 there)
RELEASED = (
    "--input_format parquet --url_col URL --caption_col TEXT --output_format webdataset --processes_count 1 "
    "--thread_count 12 --image_size 384 --resize_only_if_bigger=True --resize_mode=keep_ratio --skip_reencode=True"
)
SHARES = {  # of the pool's rows, by fate; the rest is served
    "missing": 0.08,
    "redirected": 0.04,
    **dict.fromkeys(("removed", "forbidden", "busy", "refused", "unresolvable", "slow", "trickling", "dropped"), 0.02),
    **dict.fromkeys(("truncated", "page", "text", "empty", "opted out", "endless"), 0.02),
}
OUTCOMES = {  # status and beginning of the message that img2dataset 1.47 gives a fate
    "served": ("success", ""),
    "redirected": ("success", ""),
    "trickling": ("success", ""),
    "missing": ("failed_to_download", "HTTP Error 404"),
    "removed": ("failed_to_download", "HTTP Error 410"),
    "forbidden": ("failed_to_download", "HTTP Error 403"),
    "busy": ("failed_to_download", "HTTP Error 503"),
    "refused": ("failed_to_download", "<urlopen error [Errno 111] Connection refused>"),
    "unresolvable": ("failed_to_download", "<urlopen error [Errno -"),
    "slow": ("failed_to_download", "timed out"),
    "dropped": ("failed_to_download", "IncompleteRead"),
    "opted out": ("failed_to_download", "Use of image disallowed by X-Robots-Tag directive"),
    "endless": ("failed_to_download", "HTTP Error 302"),
    "page": ("failed_to_resize", "Image decoding error"),
    "text": ("failed_to_resize", "Image decoding error"),
    "truncated": ("failed_to_resize", "Image decoding error"),
    "empty": ("failed_to_resize", "OpenCV"),
}


class Web(NamedTuple):
    """`shown`: the pool as its publisher embedded it. `names`: of its rows' pictures, in order."""

    home: Path
    server: PictureServer
    shown: Embeddings
    names: list[str]


def tool() -> Path | None:
    """img2dataset's command; None where its environment is not made."""
    place = ROOT / "benchmarks" / "environments" / "make.py"
    spec = importlib.util.spec_from_file_location("environments_make", place)
    make = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(make)
    python = make.interpreter("img2dataset")
    return python.with_name("img2dataset") if python else None


@contextlib.contextmanager
def rotten_web(home: Path) -> Iterator[Web]:
    """Two of the demo's shards as their publisher knows them, and a server of their pictures with fates dealt out."""
    (home / "published").mkdir()
    for shard in SHARDS:
        packed = (ROOT / "demo" / "pool" / f"{shard}.tar.xz").read_bytes()
        (home / "published" / f"{shard}.tar").write_bytes(lzma.decompress(packed))
    shown = embed(str(home / "published"), str(BASE), out=home / "shown")
    rows = shown.parts[0].metadata(["shard", "key", "ext", "offset", "size"]).to_pylist()
    pictures = {}
    for number, row in enumerate(rows):
        data = shown.read_bytes(row["shard"], row["offset"], row["size"])
        name = f"{row['shard'][:5]}/{row['key']}.{row['ext']}"
        pictures[name] = larger(data) if number % 25 == 0 else data
    listed = list(pictures)
    fates = dealt(listed, {fate: round(share * len(listed)) for fate, share in SHARES.items()})
    for name in listed[::8]:
        pictures[f"copy/{name}"] = pictures[name]
    with serving(pictures, fates) as server:
        yield Web(home, server, shown, listed)


def published(web: Web, folder: Path) -> Path:
    """Embeddings as LAION publishes them: two halves and metadata in its words, no hash and no shard. Every eighth picture
    stands there again under another URL, every eleventh under the same URL with another caption."""
    part = web.shown.parts[0]
    captions = part.metadata(["caption"])["caption"].to_pylist()
    row = np.arange(part.rows)
    urls = [web.server.url(name) for name in web.names]
    urls += [web.server.url(f"copy/{name}") for name in web.names[::8]]
    urls += [web.server.url(name) for name in web.names[::11]]
    captions += captions[::8] + [f"{caption} (free download)" for caption in captions[::11]]
    rows = np.concatenate([row, row[::8], row[::11]])
    columns = {
        "image_path": [f"{number:09}" for number in range(len(rows))],
        "caption": captions,
        "url": urls,
        "NSFW": ["UNLIKELY"] * len(rows),
        "similarity": np.linspace(0.28, 0.4, len(rows)),
        "LICENSE": ["?"] * len(rows),
    }
    for half, vectors in (("img_emb", part.images()), ("text_emb", part.texts())):
        (folder / half).mkdir(parents=True)
        np.save(folder / half / f"{half}_0000.npy", np.asarray(vectors)[rows])
    (folder / "metadata").mkdir()
    pq.write_table(pa.table(columns), folder / "metadata" / "metadata_0000.parquet")
    return folder


def larger(data: bytes) -> bytes:
    """A picture of the size that the web has them in: larger than what is asked for, with the form that it has."""
    file = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:
        picture.resize((600, 450), Image.Resampling.BICUBIC).save(file, picture.format)
    return file.getvalue()


def fetch(tool: Path, urls: Path, options: str, out: Path) -> str:
    """Run img2dataset as a user types it; returns what it says."""
    words = [str(tool), "--url_list", str(urls), *shlex.split(options), "--output_folder", str(out)]
    quiet = os.environ | {"NO_ALBUMENTATIONS_UPDATE": "1"}  # which would ask the internet for a newer one
    quiet |= {"no_proxy": "127.0.0.1", "PYTHONPATH": ""}  # our packages are not its
    done = subprocess.run(words, capture_output=True, text=True, env=quiet, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def name_of(url: str) -> str:
    return url.split("/", 3)[3]


def stats_of(pool: Path) -> dict:
    """img2dataset's own counts of one shard."""
    return json.loads((pool / "00000_stats.json").read_text())
