"""Row-level truth: a pool of which every row's part is known, through the whole of `retrieve`.

Pictures are drawn into real shards; their bytes, sums and perceptual hashes are real, and their vectors are functions of
their pixels, made by a tower that sees hue (the class) and pattern (the picture), blind to mirroring as real towers
nearly are. Planted beside the relevant pairs: copies, near copies, mirrored copies, mismatches, evaluation images,
listed rows and rows that a condition drops.
"""

import hashlib
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from reactvl.handles.embeddings import Embeddings
from reactvl.handles.pairs import Pairs
from reactvl.manifest import ModelId, stage_folder
from reactvl.pool.embeddings_format import METADATA_SCHEMA, SHARDS, SHARDS_SCHEMA, PartWriter, write_table
from reactvl.pool.images import picture
from reactvl.pool.tars import fingerprint, scan
from reactvl.pool.writer import ShardWriter
from reactvl.retrieve import retrieve
from reactvl.retrieve.duplicates import BITS, TELLING
from reactvl.retrieve.selection import FATES

CLASSES = ["red panda", "teapot", "tractor", "lighthouse"]
EACH = 14  # relevant pairs of every class
NOISE = 80
PIXELS = 32
DIM = 2 + 32 + 8  # hue, pattern, wording
MODEL = ModelId("hues", "cd" * 32, DIM)
ASKED = {"classes": CLASSES, "templates": ["{}", "a picture of a {}"]}


@dataclass
class Planted:
    """A row of the pool: what it is (`role`), of which class its picture and caption are, and what it copies."""

    role: str
    data: bytes
    caption: str
    image_class: int | None = None
    text_class: int | None = None
    number: int | None = None  # the relevant pair, within its class, that it is or copies


def drawn(seed: int, hue: int | None) -> np.ndarray:
    """uint8 (96, 96, 3): a smooth pattern of its own in the hue of a class, or in grey."""
    generator = np.random.default_rng([9, seed])
    pattern = Image.fromarray(generator.integers(50, 205, (6, 6), dtype=np.uint8)).resize((96, 96), Image.BICUBIC)
    pixels = np.repeat(np.asarray(pattern, dtype=np.float64)[..., None], 3, axis=2)
    if hue is not None:
        pixels += 40 * np.array([np.cos(angle(hue)), np.sin(angle(hue)), -np.cos(angle(hue)) - np.sin(angle(hue))])
    return pixels.clip(0, 255).astype(np.uint8)


def angle(hue: int) -> float:
    return 2 * np.pi * hue / len(CLASSES)


def encoded(pixels: np.ndarray, form: str = "PNG", side: int = 96, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).resize((side, side), Image.BICUBIC).save(file, form, **options)
    return file.getvalue()


def image_vector(pixels: np.ndarray) -> np.ndarray:
    """The tower's view of uint8 (3, 32, 32): where its hue points, and its pattern, equal for mirrored pictures."""
    pixels = pixels.astype(np.float64)
    grey = pixels.mean(axis=0)
    red, green = (pixels[:2].mean(axis=(1, 2)) - grey.mean()) / 40
    pattern = grey.reshape(8, 4, 8, 4).mean(axis=(1, 3))
    pattern = (pattern + pattern[:, ::-1])[:, :4] - 2 * grey.mean()
    hue = np.array([red, green])
    vector = np.concatenate([hue / max(np.linalg.norm(hue), 0.5), unit(pattern.ravel()), np.zeros(8)])
    return unit(vector)


def text_vector(text: str) -> np.ndarray:
    """The tower's view of a text: the hue of the class that it names, if any, and its wording."""
    hue = np.zeros(2)
    for number, name in enumerate(CLASSES):
        if name in text:
            hue = np.array([np.cos(angle(number)), np.sin(angle(number))])
    wording = np.random.default_rng(np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint32)).standard_normal(8)
    return unit(np.concatenate([hue, np.zeros(32), 0.5 * unit(wording)]))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


class Tower:
    """Stands in for the encoder at its border."""

    def __init__(self, model, *, device: str, precision: str):
        self.model = model

    def texts(self, texts: list[str]) -> np.ndarray:
        return np.stack([text_vector(text) for text in texts]).astype(np.float32)

    def images(self, pixels) -> np.ndarray:
        return np.stack([image_vector(one) for one in pixels.numpy()]).astype(np.float32)


LOADED = SimpleNamespace(
    id=MODEL, image_size=PIXELS, resize_mode="squash", interpolation="bicubic", config={"preprocess_cfg": {}}
)


@pytest.fixture(autouse=True)
def tower(monkeypatch):
    monkeypatch.setattr("reactvl.models.encoder.Encoder", Tower)
    monkeypatch.setattr("reactvl.models.load", lambda name: LOADED)


# The relevant pairs, by number within their class, that something is done to.
COPIED, SHARED, REENCODED, MIRRORED = 0, 1, 2, 3
LEAK_BYTES, LEAK_HASH, LEAK_MIRROR = 4, 5, 6
LISTED_KEY, LISTED_SUM = 7, 8
MARKED = 9
CLEAN = range(10, EACH)


def planted() -> list[Planted]:
    rows = []
    for label, name in enumerate(CLASSES):
        for number in range(EACH):
            pixels = drawn(100 * label + number, label)
            words = f"a nice {name}, number {number}" + (" (watermark)" if number == MARKED else "")
            rows.append(Planted("relevant", encoded(pixels), words, label, label, number))
            if number == COPIED:
                rows.append(Planted("copy", encoded(pixels), f"my {name} again", label, label, number))
            if number == SHARED:  # equal bytes, sold as something else
                other = (label + 1) % len(CLASSES)
                rows.append(Planted("copy", encoded(pixels), f"one more {CLASSES[other]}", label, other, number))
            if number == REENCODED:
                data = encoded(pixels, "JPEG", side=128, quality=85)
                rows.append(Planted("near", data, f"{name}, large", label, label, number))
            if number == MIRRORED:
                data = encoded(pixels[:, ::-1])
                rows.append(Planted("mirrored", data, f"{name}, other way round", label, label, number))
        for number in range(3):
            pixels = drawn(100 * label + 50 + number, label)
            other = CLASSES[(label + 1 + number % 2) % len(CLASSES)]
            words = f"a {other} for sale, {number}"
            rows.append(Planted("mismatch", encoded(pixels), words, label, (label + 1 + number % 2) % len(CLASSES)))
    rows += [Planted("noise", encoded(drawn(5000 + n, None)), f"something grey, number {n}") for n in range(NOISE)]
    return [rows[at] for at in np.random.default_rng(3).permutation(len(rows))]


@dataclass
class Pool:
    rows: list[Planted]
    keys: list[str]  # shard/key
    embeddings: Embeddings

    def where(self, role: str, *numbers: int) -> set[int]:
        """Rows of a role; of those of some relevant pairs."""
        return {at for at, row in enumerate(self.rows) if row.role == role and (not numbers or row.number in numbers)}

    def families(self, role: str) -> list[set[int]]:
        """Each row of a role with the relevant pair whose picture it shows."""
        relevant = {(row.image_class, row.number): at for at, row in enumerate(self.rows) if row.role == "relevant"}
        return [{at, relevant[self.rows[at].image_class, self.rows[at].number]} for at in self.where(role)]


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Pool:
    """Two shards and two parts, cut at different rows."""
    home = tmp_path_factory.mktemp("planted")
    rows = planted()
    half = len(rows) // 2 + 3
    with ShardWriter(home / "pool", max_count=half) as writer:
        for row in rows:
            writer.write(row.data, "jpg" if row.data[:2] == b"\xff\xd8" else "png", row.caption, {})
    shards = sorted((home / "pool").glob("*.tar"))
    samples = [(path, sample) for path in shards for sample in scan(path)]
    pictures = [picture(row.data, PIXELS, resize_mode="squash", fast=False) for row in rows]
    metadata = pa.Table.from_pylist(
        [
            {
                "key": sample.key,
                "shard": path.name,
                "offset": sample.offset,
                "size": sample.size,
                "caption": row.caption,
                "sha256": hashlib.sha256(row.data).digest(),
                "phash": int(seen.phash),
                "ext": sample.ext,
            }
            for (path, sample), row, seen in zip(samples, rows, pictures, strict=True)
        ],
        schema=METADATA_SCHEMA,
    )
    images = np.stack([image_vector(seen.pixels) for seen in pictures]).astype(np.float16)
    texts = np.stack([text_vector(row.caption) for row in rows]).astype(np.float16)
    with stage_folder(home / "embeddings", "embed", options={}, inputs={}, model=MODEL) as stage:
        for number, (begin, end) in enumerate([(0, 60), (60, len(rows))]):
            with PartWriter(stage.out, number, end - begin, DIM) as part:
                part.add(images[begin:end], texts[begin:end], metadata.slice(begin, end - begin))
        entries = []
        for first, path in zip((0, half), shards, strict=True):
            mark = fingerprint(path)
            entries.append(
                {"shard": path.name, "path": str(path), "size": mark.size, "mtime_ns": mark.mtime_ns}
                | {"ends_sha256": mark.ends_sha256, "part": 0, "first_row": first, "rows": len(scan(path))}
            )
        write_table(stage.out / SHARDS, pa.Table.from_pylist(entries, schema=SHARDS_SCHEMA))
        stage.finish(counts={"pairs": len(rows)})
    keys = [f"{path.name}/{sample.key}" for path, sample in samples]
    return Pool(rows, keys, Embeddings(home / "embeddings"))


@pytest.fixture(scope="module")
def evaluation(pool, tmp_path_factory) -> Path:
    """Evaluation images: of every class one by its bytes, one re-encoded, one mirrored, and one that is not in the
    pool."""
    home = tmp_path_factory.mktemp("evaluation")
    for label, name in enumerate(CLASSES):
        folder = home / "test" / name
        folder.mkdir(parents=True)
        (folder / "a.png").write_bytes(encoded(drawn(100 * label + LEAK_BYTES, label)))
        hashed = encoded(drawn(100 * label + LEAK_HASH, label), "JPEG", side=128, quality=90)
        (folder / "b.jpg").write_bytes(hashed)
        (folder / "c.png").write_bytes(encoded(drawn(100 * label + LEAK_MIRROR, label)[:, ::-1]))
        (folder / "d.png").write_bytes(encoded(drawn(9000 + label, label)))
    (home / "test" / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    return home


@pytest.fixture
def listed(pool, tmp_path) -> Path:
    """Of every class one row by its key and one by its picture's sum."""
    lines = [pool.keys[at] for at in pool.where("relevant", LISTED_KEY)]
    lines += [hashlib.sha256(pool.rows[at].data).hexdigest() for at in pool.where("relevant", LISTED_SUM)]
    path = tmp_path / "exclude.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def chosen(pool: Pool, pairs: Pairs) -> dict[int, int]:
    """Row -> class of what was chosen; each once."""
    table = pairs.table().to_pylist()
    rows = [row["row"] + 60 * row["part"] for row in table]
    assert len(set(rows)) == len(rows)
    for at, row in zip(rows, table, strict=True):  # what is named is what lies there
        assert f"{row['shard']}/{row['key']}" == pool.keys[at] and row["TEXT"] == pool.rows[at].caption
        assert row["sha256"] == hashlib.sha256(pool.rows[at].data).digest()
    return {at: row["class_id"] for at, row in zip(rows, table, strict=True)}


def fates(pairs: Pairs) -> dict[int, set[str]]:
    """Row -> the fates of its hits."""
    found: dict[int, set[str]] = {}
    for hit in pq.read_table(pairs.folder / "hits.parquet").to_pylist():
        found.setdefault(hit["row"] + 60 * hit["part"], set()).add(FATES[hit["fate"]])
    return found


def test_the_pool_is_what_it_is_said_to_be(pool):
    """Before anything is asked of retrieve: hashes and vectors tell what they should and nothing else."""
    metadata = pa.concat_tables([part.metadata(["phash"]) for part in pool.embeddings.parts])
    hashes = metadata["phash"].to_pylist()
    assert min(value.bit_count() for value in hashes) >= TELLING
    near = {frozenset(family) for family in pool.families("near")}
    copies = {frozenset(family) for family in pool.families("copy")}
    mirrored = {frozenset(family) for family in pool.families("mirrored")}
    count = len(hashes)
    alike = {frozenset((a, b)) for a in range(count) for b in range(a) if (hashes[a] ^ hashes[b]).bit_count() <= BITS}
    assert alike == near | copies
    images = np.concatenate([np.asarray(part.images(), np.float64) for part in pool.embeddings.parts])
    close = np.argwhere(np.tril(images @ images.T, -1) >= 0.97).tolist()
    assert {frozenset(pair) for pair in close} == near | copies | mirrored


def test_everything_planted_is_handled_in_one_call(pool, evaluation, listed, tmp_path):
    pairs = retrieve(
        pool.embeddings,
        **ASKED,
        per_class=100,
        min_score=1.0,
        dedup=["sha256", "phash", "embedding"],
        exclude=listed,
        exclude_images=[str(evaluation)],
        where="similarity > 0.3 AND NOT caption ILIKE '%watermark%'",
        out=tmp_path / "out",
    )
    kept, fate = chosen(pool, pairs), fates(pairs)

    # every relevant pair to which nothing was done is found, for its class
    for at in pool.where("relevant", *CLEAN):
        assert kept.get(at) == pool.rows[at].text_class and fate[at] >= {"kept"}
    # of copies, near copies and mirrored copies one is chosen, and the other is told to be one
    for role, word in (("copy", "duplicate"), ("near", "near duplicate"), ("mirrored", "near duplicate")):
        for family in pool.families(role):
            alive = [at for at in family if pool.rows[at].image_class == pool.rows[at].text_class]
            assert len(family & set(kept)) == 1
            if len(alive) == 2:
                (lost,) = family - set(kept)
                assert word in fate[lost]
    for at in pool.where("copy", SHARED) | pool.where("mismatch"):  # a teapot's picture, sold as a tractor
        assert at not in kept and "filtered" in fate[at]
    for at in pool.where("relevant", LEAK_BYTES, LEAK_HASH, LEAK_MIRROR):
        assert at not in kept and "evaluation image" in fate[at]
    for at in pool.where("relevant", LISTED_KEY, LISTED_SUM):
        assert at not in kept and "excluded" in fate[at]
    for at in pool.where("relevant", MARKED):
        assert at not in kept and "filtered" in fate[at]
    assert not pool.where("noise") & set(kept)
    # and nothing else was chosen or lost
    assert Counter(kept.values()) == dict.fromkeys(range(len(CLASSES)), len(CLEAN) + 4)

    page = (tmp_path / "out/report.html").read_text()
    for word in ("near duplicate", "evaluation image", "excluded", "filtered", "Duplicates", "What was dropped"):
        assert word in page
    assert pairs.manifest.facts["unusable_evaluation_images"][0][0].endswith("broken.jpg")


def test_without_the_options_nothing_is_held_back(pool, tmp_path):
    """The control: each of the options above has something to do."""
    pairs = retrieve(pool.embeddings, **ASKED, per_class=100, min_score=1.0, dedup=["none"], out=tmp_path / "out")
    kept = chosen(pool, pairs)
    roles = Counter(pool.rows[at].role for at in kept)
    assert roles["relevant"] == EACH * len(CLASSES)
    assert roles["copy"] == 8 and roles["near"] == roles["mirrored"] == 4 and roles["mismatch"] == 12
    assert roles["noise"] == 0


def test_by_default_copies_go_and_the_best_fill_the_classes(pool, tmp_path):
    """Only equal bytes are one picture; with room for the relevant pairs alone, mismatches are what is left out."""
    pairs = retrieve(pool.embeddings, **ASKED, per_class=EACH + 2, out=tmp_path / "out")
    kept, fate = chosen(pool, pairs), fates(pairs)
    assert all(len(family & set(kept)) == 1 for family in pool.families("copy"))
    assert pool.where("near") | pool.where("mirrored") <= set(kept)
    unique = pool.where("relevant", *range(2, EACH))
    assert {at: kept[at] for at in unique} == {at: pool.rows[at].text_class for at in unique}
    assert not pool.where("mismatch") & set(kept) and not pool.where("noise") & set(kept)
    assert all(fate[at] & {"over cap", "other class"} for at in pool.where("mismatch"))


@pytest.mark.parametrize(("notion", "joined"), [("phash", ["near"]), ("embedding", ["near", "mirrored"])])
def test_each_notion_of_near_duplicates_alone(pool, tmp_path, notion, joined):
    pairs = retrieve(pool.embeddings, **ASKED, per_class=100, dedup=["sha256", notion], out=tmp_path / "out")
    kept = chosen(pool, pairs)
    for role in ("near", "mirrored"):
        assert all(len(family & set(kept)) == (1 if role in joined else 2) for family in pool.families(role))


def test_what_lies_between_two_classes_serves_neither(pool, tmp_path):
    """A mismatch fits the class of its picture and that of its caption: it leads by too little."""
    pairs = retrieve(
        pool.embeddings,
        **ASKED,
        per_class=100,
        classes_per_pair="margin",
        margin=1.0,
        min_score=1.0,
        out=tmp_path / "out",
    )
    kept, fate = chosen(pool, pairs), fates(pairs)
    assert not pool.where("mismatch") & set(kept)
    assert all("ambiguous" in fate[at] for at in pool.where("mismatch"))
    assert pool.where("relevant", *range(2, EACH)) <= set(kept)


def test_a_shallow_search_is_deepened_until_the_classes_are_full(pool, listed, tmp_path):
    """With two nearest a query most relevant pairs are out of reach; top-up finds them all, around what is excluded."""
    options = {**ASKED, "per_prompt": 2, "per_class": EACH - 2, "exclude": listed}
    shallow = retrieve(pool.embeddings, **options, out=tmp_path / "shallow")
    deep = retrieve(pool.embeddings, **options, top_up=True, out=tmp_path / "deep")
    assert len(shallow) < 4 * 8 and len(deep) == 4 * (EACH - 2)
    assert not pool.where("relevant", LISTED_KEY, LISTED_SUM) & set(chosen(pool, deep))


def test_the_same_again(pool, evaluation, tmp_path):
    options = {
        "dedup": ["sha256", "phash", "embedding"],
        "exclude_images": [str(evaluation)],
        "where": "similarity > 0.1",
    }
    made = [retrieve(pool.embeddings, **ASKED, per_class=9, **options, out=tmp_path / name) for name in ("a", "b")]
    assert made[0].manifest.files == made[1].manifest.files
