"""Embeddings folders with vectors that are known, over real shards; a text tower that looks its prompts up."""

import hashlib
import importlib
import io
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from reactvl.handles.embeddings import Embeddings
from reactvl.manifest import ModelId, stage_folder
from reactvl.pool.embeddings_format import METADATA_SCHEMA, SHARDS, SHARDS_SCHEMA, PartWriter, write_table
from reactvl.pool.images import decode
from reactvl.pool.tars import fingerprint, scan
from reactvl.pool.writer import ShardWriter

DIM = 16
MODEL = ModelId("tiny", "ab" * 32, DIM)


@dataclass
class Row:
    """One pair of a pool made for a test; pairs of equal `art` are one picture."""

    image: np.ndarray
    text: np.ndarray
    caption: str = "a picture"
    art: int | None = None


@dataclass
class World:
    """Where test vectors come from: a direction for every word."""

    words: dict[str, np.ndarray] = field(default_factory=dict)
    shown: dict[bytes, np.ndarray] = field(default_factory=dict)  # pixels of an example picture -> its vector

    def example(self, path: Path, art: int, vector: np.ndarray) -> Path:
        """A picture file that the image tower of `text_tower` knows."""
        path.write_bytes(picture(art))
        self.shown[decode(picture(art)).transpose(2, 0, 1).tobytes()] = vector
        return path

    @staticmethod
    def row(image: np.ndarray, text: np.ndarray, caption: str = "a picture", art: int | None = None) -> Row:
        return Row(image, text, caption, art)

    @staticmethod
    def picture(art: int) -> bytes:
        return picture(art)

    def toward(self, word: str, strength: float, generator: np.random.Generator) -> np.ndarray:
        """A unit vector near a word's direction, the nearer the larger `strength`."""
        return unit(strength * self.direction(word) + unit(generator.standard_normal(DIM)))

    def direction(self, word: str) -> np.ndarray:
        seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "big")
        return self.words.setdefault(word, unit(np.random.default_rng(seed).standard_normal(DIM)))


def unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def picture(art: int) -> bytes:
    blocks = np.random.default_rng(art).integers(0, 256, (3, 3, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((24, 24)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def embedded(tmp_path):
    """A function that writes a pool of `Row`s in two shards and its embeddings in as many parts as asked."""

    def write(
        rows: list[Row], *, parts: int = 2, texts: bool = True, name: str = "embeddings", model=MODEL
    ) -> Embeddings:
        pool = tmp_path / f"{name}-pool"
        half = -(-len(rows) // 2)
        with ShardWriter(pool, max_count=half) as writer:
            for number, row in enumerate(rows):
                writer.write(
                    picture(number if row.art is None else row.art), "png", row.caption, {"url": f"http://x/{number}"}
                )
        samples = [(path, sample) for path in sorted(pool.glob("*.tar")) for sample in scan(path)]
        assert len(samples) == len(rows)
        metadata = pa.Table.from_pylist(
            [
                {
                    "key": sample.key,
                    "shard": path.name,
                    "offset": sample.offset,
                    "size": sample.size,
                    "caption": row.caption,
                    "url": f"http://x/{number}",
                    "sha256": hashlib.sha256(picture(number if row.art is None else row.art)).digest(),
                    "phash": 0,
                    "ext": "png",
                }
                for number, ((path, sample), row) in enumerate(zip(samples, rows, strict=True))
            ],
            schema=METADATA_SCHEMA,
        )
        images, captions = (
            np.stack([getattr(row, side) for row in rows]).astype(np.float16) for side in ("image", "text")
        )
        edges = np.linspace(0, len(rows), parts + 1).astype(int).tolist()
        with stage_folder(tmp_path / name, "embed", options={}, inputs={}, model=model) as stage:
            for number, (begin, end) in enumerate(itertools.pairwise(edges)):
                with PartWriter(stage.out, number, end - begin, DIM) as part:
                    part.add(images[begin:end], captions[begin:end], metadata.slice(begin, end - begin))
                if not texts:
                    (stage.out / f"text_emb/text_emb_{number}.npy").unlink()
            write_table(stage.out / SHARDS, _shards(pool, half, len(rows)))
            stage.finish(counts={"pairs": len(rows)})
        return Embeddings(tmp_path / name)

    return write


def _shards(pool: Path, half: int, rows: int) -> pa.Table:
    entries = []
    for number, path in enumerate(sorted(pool.glob("*.tar"))):
        mark = fingerprint(path)
        entries.append(
            {
                "shard": path.name,
                "path": str(path),
                "size": mark.size,
                "mtime_ns": mark.mtime_ns,
                "ends_sha256": mark.ends_sha256,
                "part": 0,
                "first_row": number * half,
                "rows": min(half, rows - number * half),
            }
        )
    return pa.Table.from_pylist(entries, schema=SHARDS_SCHEMA)


@pytest.fixture
def text_tower(world, monkeypatch):
    """Stands in for the model at its border: a prompt `a picture of X` or `X` is X's direction, a little moved by its
    template. Counts the texts it has encoded."""
    encoded = []

    class Encoder:
        def __init__(self, model, *, device, precision):
            assert model.id == MODEL
            self.model = model

        def images(self, pixels):
            return np.stack([world.shown[picture.tobytes()] for picture in pixels.numpy()]).astype(np.float32)

        def texts(self, texts):
            encoded.extend(texts)
            rows = []
            for text in texts:
                word = text.removeprefix("a picture of ")
                nudge = np.random.default_rng(len(text) - len(word)).standard_normal(DIM)
                rows.append(unit(world.direction(word) + 0.05 * nudge))
            return np.stack(rows).astype(np.float32)

    tiny = SimpleNamespace(
        id=MODEL,
        image_size=24,
        resize_mode="shortest",
        interpolation="bicubic",
        config={"preprocess_cfg": {}},
    )
    monkeypatch.setattr("reactvl.models.encoder.Encoder", Encoder)
    monkeypatch.setattr("reactvl.models.load", lambda name: tiny)
    return encoded


@pytest.fixture
def no_report(monkeypatch):
    """Runs write an empty report: drawing one takes most of a small run's time."""
    writing = importlib.import_module("reactvl.retrieve.writing")
    monkeypatch.setattr(writing, "write_report", lambda path, findings: path.write_text(""))
