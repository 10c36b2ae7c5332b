"""Small models, and a data folder of two tasks with hostile class names and some unreadable pictures."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests_support import COLOURS, drawing, write_model, write_pool

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


@pytest.fixture(scope="session")
def retrieved(models, tmp_path_factory) -> Path:
    """Pairs of three colours, retrieved by the base from a pool that it embedded; no customization."""
    from reactvl.embed import embed
    from reactvl.retrieve import retrieve

    home = tmp_path_factory.mktemp("retrieved")
    embedded = embed(
        str(write_pool(home / "pool", 2, 30)), models[0], out=home / "embeddings", precision="fp32", device="cpu"
    )
    retrieve(embedded, classes=list(COLOURS), templates="a {} thing", per_class=8, out=home / "pairs")
    return home / "pairs"


@pytest.fixture(scope="session")
def customized(retrieved, tmp_path_factory) -> str:
    """The folder of a model that says it was customized on those pairs; its weights are drawn at random."""
    from reactvl.manifest import input_id, stage_folder

    out = retrieved.parent / "customized" / "tuned"
    with stage_folder(out, "customize", options={}, inputs={"pairs": input_id(retrieved, out)}) as stage:
        write_model(out / "model", 5)
        stage.finish(counts={"pairs": 24, "steps": 1})
    return str(out)


@pytest.fixture
def colours(tmp_path) -> Path:
    """A data folder of one task of three colours: 8 pictures a class to train on, 5 to test, one of each unreadable."""
    root = tmp_path / "colours-data"
    for split, each in (("train", 8), ("test", 5)):
        for label, name in enumerate(COLOURS):
            folder = root / "colours" / split / name
            folder.mkdir(parents=True)
            for number in range(each):
                (folder / f"{number}.png").write_bytes(drawing(3 * number + label + 3000 * (split == "test"), "png"))
        (root / "colours" / split / "red/0.png").write_bytes(drawing(0, "png")[:70])
    return root
