"""Tasks are found and read as CLIP-benchmark and torchvision lay them out; what is unusable is named."""

import io
import os

import numpy as np
import pytest
import webdataset
from PIL import Image

from reactvl.manifest import ReactvlError
from reactvl.tasks import find
from reactvl.tasks.task import metric_of


def picture(seed: int, ext: str = "png") -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}[ext])
    return file.getvalue()


def benchmark(folder, shards, classes=("ox", "red panda", "crab"), templates=("a {c}.", "{c}"), split="test"):
    """A CLIP-benchmark folder; `shards` are lists of samples as webdataset's writer takes them."""
    (folder / split).mkdir(parents=True)
    (folder / "classnames.txt").write_text("\n".join(classes))
    (folder / "zeroshot_classification_templates.txt").write_text("\n".join(templates))
    (folder / split / "nshards.txt").write_text(str(len(shards)))
    for number, samples in enumerate(shards):
        with webdataset.TarWriter(str(folder / split / f"{number}.tar"), encoder=False) as writer:
            for sample in samples:
                writer.write(sample)
    return folder


def sample(key, label, ext="png", **extra):
    return {"__key__": key, ext: picture(label, ext), "cls": str(label).encode(), **extra}


def test_a_webdataset_task_is_read_whole_and_in_order(tmp_path):
    shards = [[sample(f"s{n}_{i}", (n + i) % 3, ("jpg", "png", "webp")[i % 3]) for i in range(4)] for n in range(11)]
    benchmark(tmp_path / "zoo", shards)
    [task] = find(None, tmp_path)
    assert (task.name, task.classes, task.templates) == ("zoo", ["ox", "red panda", "crab"], ["a {}.", "{}"])
    samples = task.samples()
    assert len(samples) == 44 and samples.unusable == [] and samples.labels.dtype == np.int64
    assert samples.names[:2] == ["0.tar/s0_0.jpg", "0.tar/s0_1.png"] and samples.names[-1] == "10.tar/s10_3.jpg"
    for index, (shard, item) in enumerate((n, i) for n in range(11) for i in range(4)):
        expected = shards[shard][item]
        ext = ("jpg", "png", "webp")[item % 3]
        assert samples.read(index) == expected[ext] and samples.labels[index] == int(expected["cls"])


def test_unusable_samples_are_named_and_left_out(tmp_path):
    good = sample("good", 1)
    shards = [
        [
            good,
            sample("beyond", 3),
            {"__key__": "word", "png": picture(0), "cls": b"ox"},
            {"__key__": "bare", "png": picture(0)},
            {"__key__": "blind", "cls": b"1"},
            {"__key__": "negative", "png": picture(0), "cls": b"-1"},
        ]
    ]
    benchmark(tmp_path / "zoo", shards)
    samples = find(["zoo"], tmp_path)[0].samples()
    assert samples.names == ["0.tar/good.png"]
    reasons = dict(samples.unusable)
    assert set(reasons) == {f"0.tar/{name}" for name in ("beyond.png", "word.png", "bare.png", "blind", "negative.png")}
    assert "beyond the 3 classes" in reasons["0.tar/beyond.png"] and "no .cls" in reasons["0.tar/bare.png"]
    assert "b'ox'" in reasons["0.tar/word.png"] and "no image" in reasons["0.tar/blind"]


def test_a_cut_tar_gives_its_whole_samples_and_says_what_is_lost(tmp_path):
    benchmark(tmp_path / "zoo", [[sample(f"s{i}", 1) for i in range(5)]])
    path = tmp_path / "zoo/test/0.tar"
    whole = find(None, tmp_path)[0].samples()
    os.truncate(path, path.stat().st_size * 2 // 3)
    cut = find(None, tmp_path)[0].samples()
    assert 0 < len(cut) < 5 and cut.names == whole.names[: len(cut)]
    assert any("truncated" in reason for _, reason in cut.unusable)
    assert cut.fingerprint != whole.fingerprint


def test_missing_shards_are_an_error(tmp_path):
    folder = benchmark(tmp_path / "zoo", [[sample("a", 0)], [sample("b", 1)]])
    (folder / "test/1.tar").unlink()
    with pytest.raises(ReactvlError, match="'2' shards, the folder holds 1"):
        find(None, tmp_path)[0].samples()


def image_folder(root, names, count=2):
    for label, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{number}.png").write_bytes(picture(10 * label + number))


def test_image_folders_with_and_without_splits(tmp_path):
    image_folder(tmp_path / "a/test", ["red_panda", "ox"])
    image_folder(tmp_path / "a/train", ["red_panda", "ox", "crab"])
    image_folder(tmp_path / "b", ["ox", "crab"])
    (tmp_path / "b/ox/notes.txt").write_text("no image")
    (tmp_path / "b/ox/.hidden.png").write_bytes(b"")
    a, b = find(None, tmp_path)
    assert a.classes == ["crab", "ox", "red panda"] and b.classes == ["crab", "ox"]
    assert a.samples("test").names == ["ox/0.png", "ox/1.png", "red_panda/0.png", "red_panda/1.png"]
    assert a.samples("test").labels.tolist() == [1, 1, 2, 2] and len(a.samples("train")) == 6
    assert b.samples().names == ["crab/0.png", "crab/1.png", "ox/0.png", "ox/1.png"]
    assert b.samples().read(0) == picture(10)
    with pytest.raises(ReactvlError, match=r"no split 'val'; .* has test, train"):
        a.samples("val")


def test_class_names_of_coded_folders(tmp_path):
    image_folder(tmp_path / "in/val", ["n02", "n01"])
    (tmp_path / "in/classnames.txt").write_text("tench\ngoldfish\n")
    [task] = find(["in"], tmp_path)
    assert task.classes == ["tench", "goldfish"] and task.samples("val").names[0] == "n01/0.png"
    (tmp_path / "in/classnames.txt").write_text("tench\n")
    with pytest.raises(ReactvlError, match=r"names 1 classes, .* has 2 class folders"):
        find(["in"], tmp_path)


def test_fingerprints_tell_changed_data(tmp_path):
    benchmark(tmp_path / "zoo", [[sample("a", 0), sample("b", 1)]])
    image_folder(tmp_path / "dir", ["ox", "crab"])

    def prints():
        return [task.samples().fingerprint for task in find(["zoo", "dir"], tmp_path)]

    before = prints()
    assert prints() == before
    (tmp_path / "dir/ox/0.png").write_bytes(picture(99))
    with webdataset.TarWriter(str(tmp_path / "zoo/test/0.tar"), encoder=False) as writer:
        writer.write(sample("a", 1))
        writer.write(sample("b", 1))
    assert all(new != old for new, old in zip(prints(), before, strict=True))


def test_tasks_are_found_by_name_in_the_order_asked_and_once(tmp_path):
    for name in ("food-101", "wds_dtd", "pets"):
        benchmark(tmp_path / name, [[sample("a", 0)]])
    assert [task.name for task in find(["PETS", "food_101", "dtd", "pets"], tmp_path)] == [
        "pets",
        "food-101",
        "wds_dtd",
    ]
    assert [task.name for task in find(None, tmp_path / "pets")] == ["pets"]
    assert [task.name for task in find(["pets"], tmp_path / "pets")] == ["pets"]


def test_unknown_tasks_and_folders_end_in_one_clear_line(tmp_path):
    benchmark(tmp_path / "food", [[sample("a", 0)]])
    (tmp_path / "empty").mkdir()
    for names, data, message in (
        (["fod"], tmp_path, "task fod: no such task in .*; there: food"),
        (["empty"], tmp_path, "holds no task"),
        ([], tmp_path, "the list is empty"),
        (None, tmp_path / "empty", "holds no task"),
        (None, tmp_path / "gone", "no such folder"),
    ):
        with pytest.raises(ReactvlError, match=message) as fault:
            find(names, data)
        assert "\n" not in str(fault.value)


def test_a_split_without_a_usable_image_is_an_error_with_its_reason(tmp_path):
    benchmark(tmp_path / "zoo", [[{"__key__": "bare", "png": picture(0)}]])
    with pytest.raises(ReactvlError, match=r"no labelled image; the first of 1 faults: 0.tar/bare.png: no .cls"):
        find(None, tmp_path)[0].samples()


def test_benchmarks_of_few_images_a_class_report_mean_per_class():
    mean = ["caltech-101", "caltech101", "oxford-iiit-pets", "flower102", "wds_oxford-flower-102"]
    assert {metric_of(name) for name in mean} == {"mean-per-class"}
    assert metric_of("fgvc-aircraft-2013b-variants102") == "mean-per-class"
    assert {metric_of(name) for name in ("dtd", "food101", "mine")} == {"accuracy"}
