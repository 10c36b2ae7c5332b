"""Predictions: what is written agrees with the model, bad images are listed, and a file is whole or absent."""

import csv
import io
import json
import sys

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from reactvl.manifest import ReactvlError
from reactvl.models.encoder import Encoder
from reactvl.pool.images import to_pixels
from reactvl.predict import parts, predict
from reactvl.predict.answering import likeliest
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
    return predict(model, photos, out=out, **options)


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
        ({"out": tmp_path / "p.txt"}, "takes a .parquet, a .csv or a .jsonl"),
        ({"out": there}, "exists; pass --overwrite"),
        ({"classes": []}, "no class name"),
        ({"classes": None}, "name the --classes"),
        ({"threshold": 1.5}, "threshold 1.5: a probability is from 0 to 1"),
        ({"photos": []}, "nothing given"),
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


def lines_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_lines_in_a_file_and_on_standard_output_agree_with_parquet(model, photos, tmp_path, capsys, monkeypatch):
    wanted = pq.read_table(run(model, photos, tmp_path / "p.parquet")).to_pylist()
    written = lines_of(run(model, photos, tmp_path / "p.jsonl").read_text(encoding="utf-8"))
    capsys.readouterr()
    monkeypatch.setattr(
        sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(sorted(map(str, photos.rglob("*.*")))).encode()))
    )
    run(model, "-", "-")
    said = capsys.readouterr()
    for rows in (written, sorted(lines_of(said.out), key=lambda row: row["path"])):
        assert [(row["path"], row["class"]) for row in rows] == [(row["path"], row["class"]) for row in wanted]
        for row, other in zip(rows, wanted, strict=True):
            assert row["probability"] == pytest.approx(other["probability"], rel=1e-6)
            assert [choice["class"] for choice in row["top5"]] == [choice["class"] for choice in other["top5"]]
    assert f"{photos / 'bad.jpg'} skipped (not an image" in said.err
    assert f"{photos / 'notes.txt'} skipped" in said.err and "4 images, 6 classes -> stdout" in said.err


def test_below_the_threshold_an_image_has_no_class_but_its_five(model, photos, tmp_path, capsys):
    sure = pq.read_table(run(model, photos, tmp_path / "all.parquet")).to_pylist()
    bound = sorted(row["probability"] for row in sure)[2]
    capsys.readouterr()
    for name in ("p.parquet", "p.csv", "p.jsonl"):
        out = run(model, photos, tmp_path / name, threshold=bound)
        assert "4 images, 6 classes, 2 below 0." in capsys.readouterr().out
        if name.endswith("parquet"):
            rows = pq.read_table(out).to_pylist()
        elif name.endswith("csv"):
            with open(out, newline="", encoding="utf-8") as file:
                rows = [row | {"class": row["class"] or None} for row in csv.DictReader(file)]
        else:
            rows = lines_of(out.read_text())
        kept = [row["class"] if row["probability"] >= bound else None for row in sure]
        assert [row["class"] for row in rows] == kept and kept.count(None) == 2
        assert [float(row["probability"]) for row in rows] == pytest.approx(
            [row["probability"] for row in sure], abs=1e-6
        )
        assert all(len(row["top5"]) == 5 for row in rows if not name.endswith("csv"))


def test_a_stopped_run_goes_on_behind_its_last_part(model, photos, tmp_path, monkeypatch):
    """Two parts of two images are kept when the run is stopped; the same command encodes the rest alone, and the file is
    the one of a run at a stretch. Another batch size is another request."""
    for number in range(10, 14):
        (photos / f"{number}.png").write_bytes(picture(number))
    whole = run(model, photos, tmp_path / "whole.csv", batch_size=2).read_bytes()
    skipped = (tmp_path / "whole.csv.skipped.csv").read_bytes()
    monkeypatch.setattr(parts, "PART", 2)
    calls, original = [], Encoder.images

    def counting(self, pixels):
        calls.append(len(pixels))
        if len(calls) == stop:
            raise KeyboardInterrupt
        return original(self, pixels)

    monkeypatch.setattr(Encoder, "images", counting)
    for batch_size, encoded in ((2, 4), (3, 8)):
        stop, out = 3, tmp_path / f"{batch_size}.csv"
        with pytest.raises(KeyboardInterrupt):
            run(model, photos, out, batch_size=2)
        assert not out.exists() and (tmp_path / f".{out.name}.work").is_dir()
        stop = None
        calls.clear()
        run(model, photos, out, batch_size=batch_size)
        assert sum(calls) == encoded  # of eight that can be read
        calls.clear()
        assert sorted(path.name for path in tmp_path.glob(f"*{out.name}*")) == [out.name, f"{out.name}.skipped.csv"]
        if batch_size == 2:
            assert out.read_bytes() == whole
            assert (tmp_path / f"{out.name}.skipped.csv").read_bytes() == skipped


def test_a_damaged_part_is_answered_anew(model, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "PART", 2)
    monkeypatch.setattr(parts.Parts, "drop", lambda self: None)
    whole = run(model, photos, tmp_path / "p.csv", batch_size=2).read_bytes()
    kept = sorted((tmp_path / ".p.csv.work").rglob("*.npz"))
    assert [path.name for path in kept] == ["0000000.npz", "0000002.npz"]
    kept[1].write_bytes(kept[1].read_bytes()[:100])
    assert run(model, photos, tmp_path / "p.csv", batch_size=2, overwrite=True).read_bytes() == whole


def test_pictures_in_shards_answer_as_their_files_do(model, photos, tmp_path):
    import tarfile

    good = ["b.png", "deeper/c.jpg"]
    with tarfile.open(tmp_path / "0.tar", "w") as file:
        for name in (*good, "bad.jpg", "notes.txt"):
            file.add(photos / name, arcname=name)
    rows = pq.read_table(run(model, tmp_path / "0.tar", tmp_path / "tar.parquet")).to_pylist()
    files = pq.read_table(run(model, [photos / name for name in good], tmp_path / "files.parquet")).to_pylist()
    with open(tmp_path / "tar.parquet.skipped.csv", newline="") as file:
        skipped = [(row["path"], row["reason"][:8]) for row in csv.DictReader(file)]
    assert skipped == [(f"{tmp_path}/0.tar/notes", "no image"), (f"{tmp_path}/0.tar/bad.jpg", "not an i")]
    assert [row.pop("path") for row in rows] == [f"{tmp_path}/0.tar/{name}" for name in good]
    assert [{key: row[key] for key in row if key != "path"} for row in files] == rows


def test_an_onnx_file_answers_as_its_model_does(model, photos, tmp_path):
    pytest.importorskip("onnxruntime")
    from reactvl.models import load, onnx

    (tmp_path / "out").mkdir()
    onnx.write(load(model), CLASSES, read_templates("simple"), tmp_path / "out" / "model.onnx")
    wanted = pq.read_table(run(model, photos, tmp_path / "torch.parquet")).to_pylist()
    alone = {"classes": None, "templates": None, "precision": "auto"}
    for given in (tmp_path / "out", tmp_path / "out" / "model.onnx"):
        rows = pq.read_table(run(given, photos, tmp_path / "onnx.parquet", overwrite=True, **alone)).to_pylist()
        assert [(row["path"], row["class"]) for row in rows] == [(row["path"], row["class"]) for row in wanted]
        odds = [[choice["probability"] for choice in row["top5"]] for row in (*rows, *wanted)]
        assert np.abs(np.array(odds[: len(rows)]) - odds[len(rows) :]).max() < 1e-3
    run(tmp_path / "out", photos, tmp_path / "agreeing.csv")  # with the classes and templates that are its own
    for changed, message in (
        ({"classes": CLASSES[:-1]}, "has 6 classes, 5 are given; they are part of the file"),
        ({"classes": [*CLASSES[:-1], "d"]}, r"its classes differ from those given \(classes\[5\] is 'c', not 'd'\)"),
        ({"templates": "openai"}, "its templates differ"),
        ({"precision": "bf16"}, "computes in fp32"),
    ):
        with pytest.raises(ReactvlError, match=message):
            run(tmp_path / "out", photos, tmp_path / "no.csv", **alone | changed)
    assert not (tmp_path / "no.csv").exists()


@pytest.mark.parametrize(("rows", "classes"), [(4, 9), (3, 2), (0, 3), (2, 1)])
def test_the_five_are_a_stable_sort_of_the_logits(rows, classes):
    logits = np.random.default_rng(rows).integers(0, 4, (rows, classes)).astype(np.float32)  # many ties
    logits[: rows // 2] *= 1000  # all but the best probabilities underflow
    order = np.argsort(-logits, axis=1, kind="stable")[:, :5]
    exact = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    found = likeliest(logits.copy())
    assert np.array_equal(found.classes, order)
    assert found.probabilities == pytest.approx(np.take_along_axis(exact, order, axis=1), rel=1e-5)
