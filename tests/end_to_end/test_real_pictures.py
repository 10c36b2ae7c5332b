"""Evaluation and prediction on real pictures that come with scikit-learn and scikit-image."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import skimage
import sklearn
import torch
from commands import typed
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from reactvl.clip_imports import open_clip
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


def photographs(folder: Path) -> list[Path]:
    """Pictures of people, animals, cells, stars, pages and temples: colour and grey, PNG, JPEG and GIF."""
    names = (
        *(
            "astronaut.png",
            "camera.png",
            "cell.png",
            "chelsea.png",
            "coffee.png",
            "coins.png",
            "grass.png",
            "gravel.png",
        ),
        *("hubble_deep_field.jpg", "moon.png", "page.png", "retina.jpg", "rocket.jpg", "text.png"),
        *("no_time_for_that_tiny.gif",),
    )
    found = [Path(skimage.__file__).parent / "data" / name for name in names]
    found += [Path(sklearn.__file__).parent / "datasets" / "images" / name for name in ("china.jpg", "flower.jpg")]
    folder.mkdir(parents=True)
    return [Path(shutil.copy(path, folder / path.name)) for path in found]


def test_pictures_of_all_kinds_are_answered_as_open_clip_answers(tmp_path):
    """`evaluate` and `predict` give the class that open_clip's own preprocessing, towers and classifier give."""
    paths = photographs(tmp_path / "pictures")
    classes = [path.stem.replace("_", " ") for path in paths]
    model = load(BASE)
    weights = open_clip.build_zero_shot_classifier(
        model.net, model.tokenize, classes, [lambda name: f"a photo of a {name}."], device="cpu"
    )
    with torch.inference_mode():
        pixels = torch.stack([model.preprocess(Image.open(path)) for path in paths])
        vectors = torch.nn.functional.normalize(model.net.encode_image(pixels), dim=-1)
        expected = [classes[at] for at in (vectors @ weights).argmax(dim=1)]

    for path, name in zip(paths, classes, strict=True):
        (tmp_path / "data" / "pictures" / "test" / name).mkdir(parents=True)
        shutil.copy(path, tmp_path / "data" / "pictures" / "test" / name)
    out = tmp_path / "evaluation"
    done = typed(
        "evaluate", BASE, "--data", tmp_path / "data", "--precision", "fp32", "--head", "open_clip", "--out", out
    )
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(out / "predictions" / "pictures.parquet").to_pylist()
    answered = {Path(row["image"]).name: row["predicted_class"] for row in rows}
    assert [answered[path.name] for path in paths] == expected

    (tmp_path / "classes.txt").write_text("\n".join(classes))
    done = typed(
        *("predict", BASE, tmp_path / "pictures", "--classes", tmp_path / "classes.txt", "--precision", "fp32"),
        *("--templates", "a photo of a {}.", "--out", tmp_path / "answers.jsonl"),
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()]
    predicted = {Path(line["path"]).name: line["class"] for line in lines}
    assert [predicted[path.name] for path in paths] == expected
