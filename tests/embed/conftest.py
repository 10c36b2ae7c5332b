"""Small pools and a small model for the embed tests: random weights, real architecture, real files."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests_support import write_model

from reactvl.pool.writer import ShardWriter


def make_image(number: int, ext: str = "jpg") -> bytes:
    """A picture of coloured blocks that differs with `number`."""
    rng = np.random.default_rng(number)
    blocks = rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)
    file = io.BytesIO()
    picture = Image.fromarray(blocks).resize((40 + number % 7, 40), Image.Resampling.BICUBIC)
    picture.save(file, {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}[ext])
    return file.getvalue()


@pytest.fixture(scope="session")
def model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("model"), seed=0)


@pytest.fixture(scope="session")
def other_model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("other_model"), seed=1)


@pytest.fixture(scope="session")
def picture():
    return make_image


@pytest.fixture
def pool(tmp_path):
    """A function that writes shards of `pairs` good pairs each, jpg, png and webp mixed, some captions equal."""

    def write(shards: int, pairs: int) -> Path:
        with ShardWriter(tmp_path / "pool", max_count=pairs) as writer:
            for number in range(shards * pairs):
                ext = ("jpg", "jpg", "png", "webp")[number % 4]
                record = {"url": f"https://example.org/{number}", "status": "success"}
                writer.write(make_image(number, ext), ext, f"a picture of thing {number % 11}", record)
        return tmp_path / "pool"

    return write
