"""ELEVATER's root is read as it lies: 20 folders by their published layouts, two kinds of index, zips by offset."""

import json
import shutil
import zipfile

import numpy as np
import pytest
from elevater_root import write_benchmark, write_coco, write_lines, write_root
from hypothesis import given
from hypothesis import strategies as st
from tests_support import drawing

from reactvl.manifest import ReactvlError
from reactvl.pool.images import BadImage
from reactvl.pool.reader import close_all
from reactvl.tasks import find
from reactvl.tasks.benchmarks import benchmark, elevater
from reactvl.tasks.indexes import read_index


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    home = tmp_path_factory.mktemp("root")
    return home, write_root(home / "classification")


def expected(name, rows):
    """Labels of a split as the benchmark's task has them."""
    if name != "voc-2007-classification":
        return np.array([labels[0] for _, labels, _ in rows])
    matrix = np.zeros((len(rows), 20), bool)
    for row, (_, labels, _) in enumerate(rows):
        matrix[row, labels] = True
    return matrix


def test_all_20_are_found_by_one_name_with_their_lists_metrics_and_splits(root):
    home, written = root
    for data in (home, home / "classification"):
        found = find(["elevater"], data)
        assert [task.name for task in found] == elevater() and len(found) == 20
    for task in found:
        known = benchmark(task.name)
        assert (task.classes, task.templates) == (known.class_names, list(known.templates))
        assert (task.metric, task.test_images, task.benchmark) == (known.metric, known.test_images, known.name)
        assert task.synonyms == [entry.synonyms for entry in known.classes]
        assert task.multilabel == (task.name == "voc-2007-classification")
        assert set(task.splits) == set(written[task.name])
        for split, rows in written[task.name].items():
            samples = task.samples(split)
            assert samples.names == [place for place, _, _ in rows] and samples.unusable == []
            wanted = expected(task.name, rows)
            assert samples.labels.dtype == (bool if task.multilabel else np.int64)
            assert np.array_equal(samples.labels, wanted)
            assert [samples.read(row) for row in range(len(rows))] == [body for _, _, body in rows]


def test_one_is_found_under_every_name_and_all_without_names(root):
    home, _ = root
    for name in ("dtd", "DTD", "wds_dtd", "dtd_20211007", "oxford-iiit-pets", "flower102", "fer2013", "kitti-distance"):
        [task] = find([name], home)
        assert task.benchmark == (benchmark(name).name if name != "dtd_20211007" else "dtd")
    assert {task.name for task in find(None, home)} == set(elevater())
    assert [task.name for task in find(["dtd"], home / "classification/dtd_20211007")] == ["dtd"]
    assert [task.name for task in find(None, home / "classification/dtd_20211007")] == ["dtd"]


def test_missing_ones_are_named_and_so_is_the_way_to_the_others(tmp_path):
    write_root(tmp_path, ["dtd", "mnist"])
    with pytest.raises(ReactvlError, match=r"lacks 18 of ELEVATER's 20: caltech-101, .*--tasks dtd,mnist") as fault:
        find(["elevater"], tmp_path)
    assert "\n" not in str(fault.value) and "dtd," not in str(fault.value).split("fetch")[0]
    (tmp_path / "mnist_20211008/empty").mkdir()
    with pytest.raises(ReactvlError, match="none of the 20 is there"):
        find(["elevater"], tmp_path / "mnist_20211008" / "empty")


def test_imagenet_of_elevater_is_its_val_split(tmp_path):
    write_benchmark(tmp_path, "imagenet-1k", 3)
    [task] = find(["imagenet-1k"], tmp_path)
    assert (task.name, task.test_images, len(task.classes), len(task.templates)) == ("imagenet-1k", 50000, 1000, 80)
    assert (
        task.samples("val").names
        == task.samples("test").names
        == [f"val_images.zip@inner/test {n}.png" for n in range(3)]
    )
    assert "train" in task.splits


def pets(folder, lines, bodies=("a.png", "b c.png", "d.png"), index="test.txt"):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / index).write_text(lines)
    with zipfile.ZipFile(folder / "val.zip", "w") as file:
        for number, name in enumerate(bodies):
            file.writestr(name, drawing(number, "png"))
    return folder


def test_what_an_index_names_and_the_archive_lacks_is_unusable_and_named(tmp_path):
    lines = (
        "val.zip@a.png 0\n\n  val.zip@b c.png 36  \nval.zip@gone.png 1\nval.zip@d.png 37\nval.zip@d.png x\n"
        "val.zip@d.png\nval.zip@d.png -1\nval.zip@../val.zip 3\n"
    )
    pets(tmp_path / "oxford_iiit_pets_20211007", lines)
    samples = find(["oxford-iiit-pets"], tmp_path)[0].samples()
    assert samples.names == ["val.zip@a.png", "val.zip@b c.png"] and samples.labels.tolist() == [0, 36]
    assert [reason for _, reason in samples.unusable] == [
        "val.zip lacks it",
        "its label 37 is beyond the 37 classes",
        "line 6 of test.txt ends in 'x', which is no label",
        "has no label",
        "line 8 of test.txt ends in '-1', which is no label",
        "val.zip lacks it",
    ]
    assert samples.unusable[0][0] == "val.zip@gone.png"


def test_an_archive_that_is_not_there_is_an_error_that_names_it(tmp_path):
    folder = pets(tmp_path / "oxford_iiit_pets_20211007", "val.zip@a.png 0\nmore.zip@b.png 1\n")
    with pytest.raises(ReactvlError, match=r"names images in more\.zip, which is not in .* \(there: val\.zip\)"):
        find(None, tmp_path)[0].samples()
    for line in ("../more.zip@b.png 1\n", "/etc/more.zip@b.png 1\n"):
        (folder / "test.txt").write_text(line)
        with pytest.raises(ReactvlError, match="which is not in"):
            find(None, tmp_path)[0].samples()


def test_archives_that_were_unpacked_are_read_from_their_folders(tmp_path):
    folder = pets(tmp_path / "oxford_iiit_pets_20211007", "val.zip@a.png 0\nval.zip@b c.png 1\nplain/e.png 2\n")
    packed = find(None, tmp_path)[0].samples()
    assert packed.unusable == [("plain/e.png", f"no such file in {folder}")] or "lacks it" in packed.unusable[0][1]
    with zipfile.ZipFile(folder / "val.zip") as file:
        file.extractall(folder / "val")
    (folder / "val.zip").unlink()
    (folder / "plain").mkdir()
    (folder / "plain/e.png").write_bytes(drawing(9, "png"))
    samples = find(None, tmp_path)[0].samples()
    assert samples.names == ["val.zip@a.png", "val.zip@b c.png", "plain/e.png"] and samples.unusable == []
    assert [samples.read(row) for row in range(3)] == [drawing(0, "png"), drawing(1, "png"), drawing(9, "png")]
    assert samples.fingerprint != packed.fingerprint
    (folder / "plain/e.png").unlink()
    with pytest.raises(ReactvlError, match="is the data still where it was"):
        samples.read(2)


def test_labels_of_another_number_are_refused(tmp_path):
    folder = pets(tmp_path / "oxford_iiit_pets_20211007", "val.zip@a.png 0\n")
    (folder / "labels.txt").write_text("cat\ndog\n\n")
    with pytest.raises(ReactvlError, match=r"labels\.txt: names 2 labels, oxford-iiit-pets has 37 classes"):
        find(["oxford-iiit-pets"], tmp_path)
    (folder / "labels.txt").unlink()
    (folder / "test.txt").unlink()
    write_coco(tmp_path / "x.json", [("a.zip@a.png", [0], b"")], ["cat", "dog"])
    home = tmp_path / "resisc45_clip_20210924"
    home.mkdir()
    (tmp_path / "x.json").rename(home / "test.json")
    with pytest.raises(ReactvlError, match=r"test\.json: has 2 categories, its task 45 classes"):
        find(["resisc45_clip"], tmp_path)[0].samples()


def test_a_folder_of_another_name_is_read_by_its_index_and_labels(tmp_path):
    pets(tmp_path / "zoo", "val.zip@a.png 1\nval.zip@b c.png 0\n")
    (tmp_path / "zoo/labels.txt").write_text("red panda\nTurdus merula, blackbird\n")
    pets(tmp_path / "many", "val.zip@a.png 1,0\nval.zip@b c.png\n", index="train.txt")
    (tmp_path / "many/labelmap.txt").write_text("ox\ncrab\n")
    write_coco(pets(tmp_path / "coco", "") / "val.json", [("val.zip@d.png", [1], b"")], ["a", "b"], first=0)
    (tmp_path / "coco/test.txt").unlink()
    coco, many, zoo = find(None, tmp_path)
    assert zoo.classes == ["red panda", "Turdus merula, blackbird"] and zoo.samples().labels.tolist() == [1, 0]
    assert many.multilabel and many.metric == "11point_mAP"
    assert many.samples("train").labels.tolist() == [[True, True], [False, False]]
    assert coco.classes == ["a", "b"] and coco.samples("val").labels.tolist() == [1]


def test_files_of_these_names_that_are_no_index_make_no_task(tmp_path):
    for name, text in (
        ("test.txt", "notes\n"),
        ("test.json", "[1]"),
        ("test.json", "{"),
        ("val.json", '{"images": []}'),
    ):
        home = tmp_path / f"{name}{len(text)}"
        home.mkdir()
        (home / name).write_text(text)
        (home / "labels.txt").write_text("a\nb\n")
    with pytest.raises(ReactvlError, match="holds no task"):
        find(None, tmp_path)


def test_damage_in_an_archive_is_the_images_own(tmp_path):
    folder = pets(tmp_path / "oxford_iiit_pets_20211007", "val.zip@a.png 0\nval.zip@d.png 1\n")
    samples = find(None, tmp_path)[0].samples()
    data = bytearray((folder / "val.zip").read_bytes())
    data[60] ^= 1
    (folder / "val.zip").write_bytes(data)
    close_all()
    with pytest.raises(BadImage, match="fails its CRC"):
        samples.read(0)
    assert samples.read(1) == drawing(2, "png")
    (folder / "val.zip").write_bytes(b"no zip")
    with pytest.raises(ReactvlError, match="is no zip file"):
        find(None, tmp_path)[0].samples()


def test_the_fingerprint_tells_other_labels_order_and_bytes(tmp_path):
    folder = tmp_path / "oxford_iiit_pets_20211007"

    def seen(lines, bodies=("a.png", "d.png")):
        shutil.rmtree(folder, ignore_errors=True)
        pets(folder, lines, bodies)
        return find(None, tmp_path)[0].samples().fingerprint

    lines = "val.zip@a.png 0\nval.zip@d.png 1\n"
    prints = [seen(lines), seen(lines[::-1][::-1].replace(" 1", " 2")), seen("val.zip@d.png 1\nval.zip@a.png 0\n")]
    assert len({*prints, seen(lines, ("d.png", "a.png"))}) == 4 and seen(lines) == prints[0]


def test_a_coco_index_counts_labels_from_its_least_category_in_the_order_of_its_images(tmp_path):
    rows = [(f"a.zip@{number}.png", [2 - number], b"") for number in range(3)]
    for first in (0, 1, 7):
        write_coco(tmp_path / "test.json", rows, ["x", "y", "z"], first)
        index = read_index(tmp_path / "test.json")
        assert [entry.labels for entry in index.entries] == [(2,), (1,), (0,)]
        assert [entry.path for entry in index.entries] == [place for place, _, _ in rows]
        assert index.names == ["x", "y", "z"]
    whole = json.loads((tmp_path / "test.json").read_text())
    whole["images"][0] |= {"file_name": "inner/0.png", "zip_file": "b.zip"}
    whole["annotations"][0]["category_id"] = 99
    (tmp_path / "test.json").write_text(json.dumps(whole))
    entries = read_index(tmp_path / "test.json").entries
    assert (entries[2].archive, entries[2].name) == ("b.zip", "inner/0.png")
    assert [entry.fault for entry in entries][2] == "its category 99 is none of the categories"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is no index of images"),
        ('{"images": [], "annotations": []}', "missing required field `categories`"),
        ('{"images": [{"id": "x", "file_name": "a"}], "annotations": [], "categories": []}', "Expected `int`"),
        ('{"images": [], "annotations": [], "categories": []}', "its categories are none"),
        ('{"images":[],"annotations":[],"categories":[{"id":1,"name":"a"},{"id":1,"name":"b"}]}', "not told apart"),
    ],
)
def test_faults_of_a_coco_index_end_in_one_line(text, message, tmp_path):
    (tmp_path / "test.json").write_text(text)
    with pytest.raises(ReactvlError, match=message) as fault:
        read_index(tmp_path / "test.json")
    assert "\n" not in str(fault.value) and "test.json" in str(fault.value)


NAMES = st.text(
    st.characters(blacklist_categories=["Cs", "Cc", "Zs", "Zl", "Zp"], blacklist_characters="@\\\ufeff"), min_size=1
)


@given(st.lists(st.tuples(NAMES, NAMES, st.lists(st.integers(0, 10**9 - 1), min_size=1, max_size=4))))
def test_lines_are_read_back_as_they_were_written(rows):
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "test.txt"
        write_lines(path, [(f"{archive}.zip@{name} x.png", labels, b"") for archive, name, labels in rows], [])
        entries = read_index(path).entries
    assert [(entry.archive, entry.name, list(entry.labels)) for entry in entries] == [
        (f"{archive}.zip", f"{name} x.png", labels) for archive, name, labels in rows
    ]


@given(st.binary(max_size=200))
def test_any_bytes_are_an_index_or_one_error(body):
    import tempfile
    from pathlib import Path

    for name in ("test.txt", "test.json"):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / name).write_bytes(body)
            try:
                assert isinstance(read_index(Path(folder) / name).entries, list)
            except ReactvlError as fault:
                assert "\n" not in str(fault)
