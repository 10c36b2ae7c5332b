"""Small models, and a data folder of two tasks with hostile class names and some unreadable pictures."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests_support import write_model

HOSTILE = "<script>alert('x')</script> & \"ox\""


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    blocks = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(blocks).resize((40, 36), Image.Resampling.NEAREST).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> list[str]:
    """A base, and the folders of two customizations with their logs."""
    home = tmp_path_factory.mktemp("models")
    named = [write_model(home / "base", 0)]
    for seed, name in enumerate(("locked-text", "gated-image"), start=1):
        write_model(home / name / "model", seed)
        rows = [{"step": step, "loss": 4 / (step + 1), "lr": 0.1} for step in range(60)]
        (home / name / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"cut')
        named.append(str(home / name))
    return named


@pytest.fixture
def data(tmp_path) -> Path:
    """`pets` (mean-per-class by its name, 3 classes, 2 unreadable pictures) and `zoo` (7 classes), as image folders."""
    root = tmp_path / "data"
    for task, names in (("oxford-iiit-pets", ["cat", "dog", "x y"]), ("zoo", [f"n{n}" for n in range(7)])):
        for label, name in enumerate(names):
            folder = root / task / "test" / name
            folder.mkdir(parents=True)
            for number in range(4 + label):
                (folder / f"{number}.png").write_bytes(picture(100 * label + number))
    (root / "zoo/classnames.txt").write_text("\n".join([HOSTILE, *(f"animal {n}" for n in range(6))]))
    (root / "oxford-iiit-pets/test/cat/1.png").write_bytes(picture(0)[:40])
    (root / "oxford-iiit-pets/test/dog/2.png").write_bytes(b"")
    return root
