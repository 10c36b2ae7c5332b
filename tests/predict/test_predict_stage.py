"""Predictions: what is written agrees with the model, bad images are listed, and a file is whole or absent."""

import csv
import io

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from reactvl.manifest import ReactvlError
from reactvl.models.encoder import Encoder
from reactvl.pool.images import to_pixels
from reactvl.predict import predict
from reactvl.predict.files import image_files
from reactvl.tasks.templates import read_templates

CLASSES = ["red panda", "ox, wild", '"crab"', "a", "b", "c"]


@pytest.fixture(scope="module")
def model(small_model):
    return small_model


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    (folder / "deeper").mkdir(parents=True)
    for number, name in enumerate(["b.png", "a, b.PNG", "deeper/c.jpg", "deeper/ü.webp"]):
        (folder / name).write_bytes(picture(number))
    (folder / "bad.jpg").write_bytes(b"no image")
    (folder / "notes.txt").write_text("x")
    return folder


def run(model, photos, out, **options):
    options = {"classes": CLASSES, "templates": "simple", "precision": "fp32", "device": "cpu"} | options
    return predict(model, str(photos), out=out, **options)


def test_parquet_and_csv_agree_with_the_model(model, photos, tmp_path):
    from reactvl.models import load

    rows = pq.read_table(run(model, photos, tmp_path / "p.parquet", batch_size=2)).to_pylist()
    names = ["a, b.PNG", "b.png", "deeper/c.jpg", "deeper/ü.webp"]
    assert [row["path"] for row in rows] == [str(photos / name) for name in names]
    loaded = load(model)
    head = []
    for name in CLASSES:
        vectors = loaded.encode_text([template.replace("{}", name) for template in read_templates("simple")]).numpy()
        head.append(vectors.mean(axis=0) / np.linalg.norm(vectors.mean(axis=0)))
    pixels = torch.from_numpy(np.stack([to_pixels((photos / name).read_bytes(), 32) for name in names]))
    odds = torch.softmax(100 * loaded.encode_image(pixels) @ torch.tensor(np.array(head)).T, dim=1).numpy()
    for row, chances in zip(rows, odds, strict=True):
        order = np.argsort(-chances)[:5]
        assert row["class"] == CLASSES[order[0]] and row["probability"] == pytest.approx(chances[order[0]], rel=1e-3)
        assert [choice["class"] for choice in row["top5"]] == [CLASSES[index] for index in order]
        assert [choice["probability"] for choice in row["top5"]] == pytest.approx(chances[order], rel=1e-3, abs=1e-7)

    with open(run(model, photos, tmp_path / "p.csv"), newline="", encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == ["path", "class", "probability", "top5"]
    for line, row in zip(lines, rows, strict=True):
        assert (line["path"], line["class"]) == (row["path"], row["class"])
        assert float(line["probability"]) == pytest.approx(row["probability"], abs=1e-5)
        assert line["top5"].startswith(f"{row['class']}:{row['probability']:.3f}; ")


def test_bad_images_are_listed_beside_the_file(model, photos, tmp_path, capsys):
    out = run(model, photos, tmp_path / "p.parquet")
    skipped = tmp_path / "p.parquet.skipped.csv"
    with open(skipped, newline="") as file:
        assert [(row["path"], row["reason"][:12]) for row in csv.DictReader(file)] == [
            (str(photos / "bad.jpg"), "not an image")
        ]
    printed = capsys.readouterr().out
    assert "4 images, 6 classes" in printed and "1 images skipped" in printed
    (photos / "bad.jpg").unlink()
    run(model, photos, out, overwrite=True)
    assert not skipped.exists()


@pytest.mark.parametrize("name", ["p.csv", "p.parquet"])
def test_a_stopped_run_leaves_nothing_and_keeps_what_was_there(model, photos, tmp_path, monkeypatch, name):
    out = tmp_path / "out" / name
    before = run(model, photos, out).read_bytes()
    calls, original = [], Encoder.images

    def stopping(self, pixels):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(self, pixels)

    monkeypatch.setattr(Encoder, "images", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(model, photos, out, batch_size=1, overwrite=True)
    assert out.read_bytes() == before
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        run(model, photos, tmp_path / "new" / name, batch_size=1)
    assert list((tmp_path / "new").iterdir()) == []
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [name, f"{name}.skipped.csv"]


def test_only_bad_images_is_an_error_and_leaves_no_file(model, photos, tmp_path):
    with pytest.raises(ReactvlError, match=r"none of 1 images could be read .*bad.jpg: not an image"):
        run(model, photos / "bad.jpg", tmp_path / "p.csv")
    assert not (tmp_path / "p.csv").exists()


def test_bad_options_end_in_one_clear_line(model, photos, tmp_path):
    there = tmp_path / "there.csv"
    there.write_text("mine")
    for changed, message in (
        ({"out": tmp_path / "p.txt"}, "takes a .parquet or a .csv"),
        ({"out": there}, "exists; pass --overwrite"),
        ({"classes": []}, "no class name"),
        ({"templates": "a photo"}, "template"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"model": "no/model"}, "no such model folder"),
        ({"photos": tmp_path / "gone"}, "gone: no such file or folder"),
    ):
        given = {"model": model, "photos": photos, "out": tmp_path / "p.csv"} | changed
        with pytest.raises(ReactvlError, match=message) as fault:
            run(given.pop("model"), given.pop("photos"), given.pop("out"), **given)
        assert "\n" not in str(fault.value)
    assert there.read_text() == "mine"


def test_files_by_folder_pattern_and_name(photos):
    assert [path.name for path in image_files(str(photos))] == ["a, b.PNG", "b.png", "bad.jpg", "c.jpg", "ü.webp"]
    assert [path.name for path in image_files(str(photos / "*.png"))] == ["b.png"]
    assert [path.name for path in image_files(str(photos / "**/*.jpg"))] == ["bad.jpg", "c.jpg"]
    b, notes = photos / "b.png", photos / "notes.txt"
    assert image_files([str(b), str(notes), str(b)]) == [b, notes]
    odd = photos / "[1].png"
    odd.write_bytes(b"")
    assert image_files(str(odd)) == [odd]
    for bad, message in (([], "nothing given"), (str(photos / "*.gif"), "matches no file")):
        with pytest.raises(ReactvlError, match=message):
            image_files(bad)
    (photos / "none").mkdir()
    with pytest.raises(ReactvlError, match="no image in the folder"):
        image_files(str(photos / "none"))
