"""Evaluation on real pictures that come with scikit-learn: handwritten digits, as a benchmark in MNIST's own format."""

import json
import struct
from pathlib import Path

import numpy as np
from commands import typed
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from reactvl.handles.embeddings import Embeddings
from reactvl.models import load

BASE = Path(__file__).parents[2] / "demo" / "base"
TRAIN, TEST = 500, 300


def packed(array: np.ndarray) -> bytes:
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def test_digits_zero_shot_and_by_probe(tmp_path):
    """The probe on all training pictures does what scikit-learn's logistic regression does on the stored features."""
    digits = load_digits()
    pixels, labels = (digits.images * 15).astype(np.uint8), digits.target.astype(np.uint8)
    folder = tmp_path / "data" / "mnist"
    folder.mkdir(parents=True)
    for prefix, rows in (("train", slice(0, TRAIN)), ("t10k", slice(TRAIN, TRAIN + TEST))):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(packed(pixels[rows]))
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(packed(labels[rows]))
    out = tmp_path / "evaluation"
    done = typed(
        *("evaluate", BASE, "--data", tmp_path / "data", "--tasks", "mnist", "--probe", "linear"),
        *("--shots", "5", "all", "--seeds", "0", "--precision", "fp32", "--out", out),
    )
    assert done.returncode == 0, done.stderr
    [task] = json.loads((out / "results.json").read_text())["tasks"]
    assert (task["benchmark"], task["images"], task["skipped"]) == ("mnist", TEST, 0)
    assert task["templates"] == ['a photo of the number: "{}".']
    few, every = (task["scores"][f"base: linear-probe, {shots}"]["value"] for shots in ("5 shots", "all images"))
    assert task["scores"]["base"]["value"] < few < every

    model = load(BASE).id
    train, test = (
        Embeddings(next((out / "features").glob(f"mnist-{split}-*")), model=model) for split in ("train", "test")
    )
    [learned], [asked] = train.parts, test.parts
    reference = LogisticRegression(C=100, max_iter=2000).fit(learned.images(), labels[:TRAIN])
    assert every > reference.score(asked.images(), labels[TRAIN : TRAIN + TEST]) - 0.05
