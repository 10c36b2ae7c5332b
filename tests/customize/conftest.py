"""A pool, its embeddings and retrieved pairs, made by the stages themselves."""

import io

import numpy as np
import pytest
from PIL import Image

from reactvl.pool.writer import ShardWriter


def drawing(number: int, ext: str) -> bytes:
    """A picture of blocks whose colours say its class."""
    generator = np.random.default_rng(number)
    blocks = generator.integers(0, 60, (4, 4, 3), dtype=np.uint8)
    blocks[..., number % 3] += 150
    file = io.BytesIO()
    Image.fromarray(blocks).resize((40, 44)).save(file, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[ext])
    return file.getvalue()


@pytest.fixture(scope="session")
def pool(tmp_path_factory):
    """90 pairs of three classes in two shards, two of the pictures cut short."""
    folder = tmp_path_factory.mktemp("pool")
    with ShardWriter(folder, max_count=45) as writer:
        for number in range(90):
            ext = ("jpg", "png", "webp")[number % 3]
            data = drawing(number, ext)
            name = ("red", "green", "blue")[number % 3]
            writer.write(
                data[:60] if number in (10, 50) else data, ext, f"{name} thing {number % 9}", {"status": "success"}
            )
    return folder


@pytest.fixture(scope="session")
def run(tmp_path_factory, small_model, pool):
    """Embeddings and retrieved pairs of the pool."""
    import reactvl as rv

    out = tmp_path_factory.mktemp("run")
    embeddings = rv.embed(str(pool), small_model, out=out / "embeddings")
    rv.retrieve(
        embeddings,
        classes=["red", "green", "blue"],
        templates=["{}", "a {} thing"],
        per_class=20,
        out=out / "retrieved",
    )
    return out
