"""The demo's data keep what demo/build.py promises: readable layouts, honest shares, nothing held out in the pool.

Reads what is committed under demo/, needs no network and no build:

    .venv/bin/python -m pytest tests/demo/test_demo_data.py
"""

import hashlib
import io
import json
import lzma
import re
import tarfile
import tomllib
from collections import Counter
from pathlib import Path

import imagehash
import numpy as np
import pytest
import webdataset as wds
from PIL import Image

DEMO = Path(__file__).parents[2] / "demo"
TASKS = ("animals", "food", "travel-and-places", "objects")
HELD_OUT = {"openmoji", "noto-v1", "fxemoji"}
IMG2DATASET_FIELDS = ["source", "slug", "caption", "url", "key", "status", "error_message", "width", "height"]
IMG2DATASET_FIELDS += ["original_width", "original_height", "exif", "sha256"]
IMAGE_TYPES = {"jpg", "webp", "png"}


@pytest.fixture(scope="module")
def index() -> dict:
    return tomllib.loads((DEMO / "pool.toml").read_text())


@pytest.fixture(scope="module")
def tars(index) -> dict[str, bytes]:
    """Shard name -> the tar that its .xz holds."""
    return {s["name"]: lzma.decompress((DEMO / "pool" / f"{s['name']}.xz").read_bytes()) for s in index["shard"]}


@pytest.fixture(scope="module")
def pairs(tars) -> list[dict]:
    """Every pair: img2dataset's fields, and `image`, `ext`, `txt` (None where there is none)."""
    rows = []
    for name in sorted(tars):
        for key, files in samples(tars[name]).items():
            (ext,) = IMAGE_TYPES & set(files)
            row = json.loads(files["json"])
            assert row["key"] == key and key.startswith(name[:5]) and len(key) == 9
            rows.append({**row, "image": files[ext], "ext": ext, "txt": files.get("txt", None)})
    return rows


@pytest.fixture(scope="module")
def relevant(pairs) -> list[tuple[dict, str]]:
    """(pair, class) for the pool's pairs that show a class."""
    classes = json.loads((DEMO / "relevance.json").read_text())
    named = ((p, classes.get(p["source"], {}).get(p["slug"])) for p in pairs)
    return [(p, name) for p, name in named if name]


@pytest.fixture(scope="module")
def class_names() -> dict[str, list[str]]:
    return {task: (DEMO / "tasks" / task / "classnames.txt").read_text().splitlines() for task in TASKS}


def test_shards_decompress_to_the_listed_hashes(index, tars):
    assert len(index["shard"]) == index["shards"]
    for shard in index["shard"]:
        assert hashlib.sha256(tars[shard["name"]]).hexdigest() == shard["sha256"], shard["name"]


def test_parts_name_every_shard_once(index, tars):
    parts = [n for part in ("part_a", "part_b", "validation") for n in expand(index[part])]
    assert parts == sorted(tars)


def test_webdataset_reads_a_shard_whole(index, tars, tmp_path):
    shard = index["shard"][-1]
    (tmp_path / shard["name"]).write_bytes(tars[shard["name"]])
    read = list(wds.WebDataset(str(tmp_path / shard["name"]), shardshuffle=False))
    assert len(read) == shard["pairs"]
    assert all("json" in s and IMAGE_TYPES & set(s) for s in read)


def test_pairs_have_the_fields_of_img2dataset(pairs):
    for p in pairs:
        assert [k for k in p if k not in ("image", "ext", "txt")] == IMG2DATASET_FIELDS
        assert p["status"] == "success" and p["error_message"] is None and p["exif"] == "{}"
        assert p["caption"] == (p["txt"].decode() or None if p["txt"] is not None else None)
        assert p["sha256"] == hashlib.sha256(p["image"]).hexdigest()
        assert max(p["width"], p["height"]) in range(90, 113)
    assert len({p["key"] for p in pairs}) == len(pairs)


def test_pool_is_as_large_and_mixed_as_promised(index, pairs):
    by_source = Counter(p["source"] for p in pairs)
    assert 12_000 <= len(pairs) <= 15_000 and len(pairs) == index["pairs"]
    assert by_source == index["sources"] and by_source["openclipart"] >= 5_000
    assert not HELD_OUT & set(by_source)
    types = Counter(p["ext"] for p in pairs)
    assert types["jpg"] > 0.5 * len(pairs) and types["webp"] > 0.35 * len(pairs) and types["png"] > 0.03 * len(pairs)


def test_parts_hold_the_styles_that_they_should(index, pairs):
    def styles(part):
        shards = {n[:5] for n in expand(index[part])}
        return {p["source"] for p in pairs if p["key"][:5] in shards}

    assert styles("part_a") == {"openclipart", "twemoji"}
    assert styles("validation") == {"noto"}
    assert styles("part_b").isdisjoint(styles("part_a") | styles("validation"))


def test_no_task_fills_more_than_a_tenth_of_the_pool(pairs, relevant, class_names):
    for task, names in class_names.items():
        assert 0 < sum(name in names for _, name in relevant) <= 0.10 * len(pairs), task


def test_captions_are_those_of_the_web(pairs, relevant):
    """Three in ten relevant captions at least do not say their class; some are empty, some have no file."""
    silent = sum(squash(name) not in squash(p["caption"] or "") for p, name in relevant)
    assert silent >= 0.30 * len(relevant)
    assert 0.01 * len(pairs) <= sum(p["caption"] is None for p in pairs) <= 0.03 * len(pairs)
    assert any(p["txt"] is None for p in pairs) and any(p["txt"] == b"" for p in pairs)


def test_some_pictures_are_repeated_under_other_keys(pairs):
    repeated = len(pairs) - len({p["sha256"] for p in pairs})
    assert 0.02 * len(pairs) <= repeated <= 0.03 * len(pairs)


def test_only_the_listed_images_are_corrupt(index, pairs):
    assert 3 <= len(index["corrupt"]) <= 6
    assert [p["key"] for p in pairs if decoded(p["image"]) is None] == index["corrupt"]


def test_classes_are_distinct(class_names):
    for task, names in class_names.items():
        assert 50 <= len(names) <= 70, task
    every = [name for names in class_names.values() for name in names]
    assert len({name.lower() for name in every}) == len(every)
    assert (DEMO / "classes.txt").read_text().splitlines() == every


@pytest.mark.parametrize("task", TASKS)
def test_tasks_read_as_clip_benchmark_reads_them(task, class_names):
    templates = (DEMO / "tasks" / task / "zeroshot_classification_templates.txt").read_text().splitlines()
    assert len(templates) >= 5 and all("{c}" in t for t in templates)
    for split, styles in (("test", HELD_OUT), ("val", {"noto"})):
        assert (DEMO / "tasks" / task / split / "nshards.txt").read_text().strip() == "1"
        rows = list(wds.WebDataset(str(DEMO / "tasks" / task / split / "0.tar"), shardshuffle=False))
        seen = {}
        for row in rows:
            source = json.loads(row["json"])["source"]
            assert source in styles and decoded(row["webp"]).size == (112, 112)
            seen.setdefault(int(row["cls"]), set()).add(source)
        assert set(seen) == set(range(len(class_names[task])))
        if split == "test":
            assert min(len(s) for s in seen.values()) >= 2


def test_no_held_out_picture_has_a_near_copy_in_the_pool(pairs):
    """A sample of both sides, compared as stored: coarser than the build's check, which compares clean renderings."""
    pool = [p for p in pairs if p["source"] != "openclipart"][::3]
    pool = [image for p in pool if (image := decoded(p["image"])) is not None]
    held_out = []
    for task in TASKS:
        files = samples((DEMO / "tasks" / task / "test" / "0.tar").read_bytes())
        held_out += [decoded(f["webp"]) for f in list(files.values())[::4]]
    a, b = thumbnails(held_out), thumbnails(pool)  # (H, 3072), (P, 3072)
    apart = np.sqrt((a**2).mean(1)[:, None] + (b**2).mean(1)[None] - 2 * a @ b.T / a.shape[1])  # 0..1
    x, y = hashes(held_out), hashes(pool)  # (H, 64), (P, 64)
    bits = x @ (1 - y).T + (1 - x) @ y.T
    assert not ((bits <= 6) & (apart < 0.10)).any()


def samples(tar: bytes) -> dict[str, dict[str, bytes]]:
    """Key -> extension -> bytes."""
    rows = {}
    with tarfile.open(fileobj=io.BytesIO(tar)) as files:
        for member in files:
            key, ext = member.name.split(".")
            rows.setdefault(key, {})[ext] = files.extractfile(member).read()
    return rows


def expand(pattern: str) -> list[str]:
    """ "{00000..00002}.tar" -> the three names."""
    found = re.fullmatch(r"\{(\d+)\.\.(\d+)\}\.tar", pattern)
    return [f"{i:05d}.tar" for i in range(int(found[1]), int(found[2]) + 1)] if found else [pattern]


def squash(text: str) -> str:
    return re.sub(r"[\W_]+", "", text.casefold())


def decoded(data: bytes) -> Image.Image | None:
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, SyntaxError):
        return None


def thumbnails(images: list[Image.Image]) -> np.ndarray:
    """(N, 3072) in 0..1"""
    return np.stack([np.asarray(i.resize((32, 32)), dtype=np.float32).ravel() / 255 for i in images])


def hashes(images: list[Image.Image]) -> np.ndarray:
    return np.stack([imagehash.phash(i).hash.ravel() for i in images]).astype(np.float32)
