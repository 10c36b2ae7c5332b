"""Tasks are found by every name they go by, with lists of their own, their benchmark's, or the caller's."""

import io
from pathlib import Path

import numpy as np
import pytest
import webdataset
from elevater_root import write_benchmark
from hypothesis import given
from hypothesis import strategies as st
from tests_support import drawing

from reactvl.manifest import ReactvlError
from reactvl.tasks import find
from reactvl.tasks.benchmarks import benchmark, elevater, names
from reactvl.tasks.webdataset import labels_of


def image_folder(root, classes, split="test"):
    for number, name in enumerate(classes):
        home = root / split / name
        home.mkdir(parents=True)
        (home / "a.png").write_bytes(drawing(number, "png"))


def shards(folder, labels, ext="cls"):
    folder.mkdir(parents=True)
    with webdataset.TarWriter(str(folder / "0.tar"), encoder=False) as writer:
        for number, body in enumerate(labels):
            writer.write({"__key__": f"s{number}", "jpg": drawing(number), ext: body})


def npy(array) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def test_elevaters_20_are_the_published_ones():
    assert len(elevater()) == 20 and "imagenet-1k" not in elevater() and set(elevater()) < set(names())
    assert benchmark("FashionMNIST").name == "fashion-mnist" and "fashion-mnist" not in names()


@pytest.mark.parametrize("folder", ["food-101", "food101", "wds_food101", "FOOD_101"])
def test_a_benchmarks_folder_goes_by_any_of_its_names(folder, tmp_path):
    found = benchmark("food-101")
    image_folder(tmp_path / folder, [name.replace(" ", "_") for name in found.class_names])
    image_folder(tmp_path / "zoo", ["ox", "crab"])
    for name in ("food-101", "food101", "Food 101", folder):
        [task] = find([name], tmp_path)
        assert (task.name, task.benchmark, task.test_images) == (folder, "food-101", 25250)
        assert (task.classes, task.templates) == (found.class_names, list(found.templates))
        assert task.samples().labels.tolist() == list(range(101))


def test_class_folders_take_the_benchmarks_order_by_name_or_number_or_stay_as_they_are(tmp_path):
    found = benchmark("cifar-100")
    assert found.class_names != sorted(found.class_names)
    image_folder(tmp_path / "cifar-100", [name.replace(" ", "_") for name in found.class_names])
    image_folder(tmp_path / "cifar-10", [f"{number:03d}" for number in range(10)])
    image_folder(tmp_path / "mnist", [f"n{number}" for number in range(10)])
    by_name, by_number, neither = find(["cifar-100", "cifar-10", "mnist"], tmp_path)
    assert by_name.classes == found.class_names and by_number.classes == benchmark("cifar-10").class_names
    for task in (by_name, by_number):
        samples = task.samples()
        assert [samples.read(row) for row in range(len(samples))] == [
            drawing(number, "png") for number in range(len(samples))
        ]
    assert neither.classes == [f"n{number}" for number in range(10)] and neither.benchmark == "mnist"


def test_a_folder_of_other_classes_is_not_the_benchmark_of_its_name(tmp_path):
    image_folder(tmp_path / "oxford-iiit-pets", ["cat", "dog"])
    [task] = find(None, tmp_path)
    assert (task.benchmark, task.test_images, task.metric) == (None, None, "mean-per-class")
    assert (task.classes, task.templates) == (["cat", "dog"], ["a photo of a {}."])
    assert task.synonyms == [("cat",), ("dog",)]


def test_a_webdataset_without_lists_has_its_benchmarks_and_one_with_lists_its_own(tmp_path):
    shards(tmp_path / "wds_fer2013/test", [b"3", b"0"])
    shards(tmp_path / "zoo/test", [b"1", b"0"])
    [task] = find(["fer-2013"], tmp_path)
    assert task.classes == benchmark("fer-2013").class_names and task.synonyms[3] == ("happy", "smiling")
    assert task.templates == list(benchmark("fer-2013").templates) and task.samples().labels.tolist() == [3, 0]
    (tmp_path / "wds_fer2013/classnames.txt").write_text("\n".join(task.classes[::-1]))
    (tmp_path / "wds_fer2013/zeroshot_classification_templates.txt").write_text("{c}!")
    [own] = find(["fer-2013"], tmp_path)
    assert own.classes == task.classes[::-1] and own.synonyms == task.synonyms[::-1] and own.templates == ["{}!"]
    [given] = find(["zoo"], tmp_path, classes="ox|bull,crab", templates="simple")
    assert given.classes == ["ox", "crab"] and given.synonyms == [("ox", "bull"), ("crab",)]
    assert len(given.templates) == 7 and given.samples().labels.tolist() == [1, 0]


def test_a_multilabel_webdataset_has_a_row_of_labels_an_image(tmp_path):
    rows = [np.array([1, 0, 1]), np.array([0.0, 0.0, 0.0]), np.array([True, True, False])]
    bad = [np.array([1, 0]), np.array(["a", "b", "c"]), np.zeros((1, 3))]
    pickled = np.array([None, 1, 2], dtype=object)
    bodies = [npy(row) for row in (*rows, *bad, pickled)] + [b"", npy(rows[0])[:-3], b"PK\3\4" + bytes(30)]
    shards(tmp_path / "voc2007/test", bodies, "npy")
    (tmp_path / "voc2007/dataset_type.txt").write_text("multilabel\n")
    (tmp_path / "voc2007/classnames.txt").write_text("ox\ncrab\nant\n")
    [task] = find(["voc2007"], tmp_path)
    samples = task.samples()
    assert task.multilabel and task.metric == "11point_mAP" and task.benchmark is None
    assert samples.labels.dtype == bool and np.array_equal(samples.labels, np.array(rows, bool))
    assert [name for name, _ in samples.unusable] == [f"0.tar/s{number}.jpg" for number in range(3, 10)]
    assert "wanted 3 numbers" in samples.unusable[0][1] and "object (3,)" in samples.unusable[3][1]
    assert all("cannot be read" in reason for _, reason in samples.unusable[4:])


@given(st.binary(max_size=150), st.integers(0, 40))
def test_any_bytes_of_labels_are_labels_or_a_reason(body, cut):
    whole = npy(np.array([1, 0, 1], np.uint8))
    for data in (body, b"\x93NUMPY" + body, whole[:cut] + body + whole[cut:], whole):
        labels, reason = labels_of(data, 3)
        assert bool(reason) != (len(labels) == 3)
    assert (labels, reason) == ([True, False, True], "")


def test_links_go_by_their_own_names_and_those_that_lead_nowhere_are_named(tmp_path, monkeypatch):
    image_folder(tmp_path / "store/abc", ["0", "1"])
    (tmp_path / "data").mkdir()
    (tmp_path / "data/zoo").symlink_to(tmp_path / "store/abc")
    (tmp_path / "store/abc/test/1/gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "store/abc/test/1/there.png").symlink_to(tmp_path / "store/abc/test/0/a.png")
    monkeypatch.chdir(tmp_path / "data")
    for data in (tmp_path / "data", Path(), Path("zoo"), Path("../data")):
        [task] = find(["zoo"], data)
        samples = task.samples()
        assert task.name == "zoo" and samples.names == ["0/a.png", "1/a.png", "1/there.png"]
        assert samples.unusable == [("1/gone.png", "is a link that leads nowhere")]


def test_a_task_that_was_moved_is_the_same(tmp_path):
    image_folder(tmp_path / "a/zoo", ["0", "1"])
    shards(tmp_path / "a/two/test", [b"0", b"1"])
    (tmp_path / "a/two/classnames.txt").write_text("x\ny\n")
    write_benchmark(tmp_path / "a", "dtd", 3)
    write_benchmark(tmp_path / "a", "kitti-distance", 3)
    before = [task.samples().fingerprint for task in find(None, tmp_path / "a")]
    (tmp_path / "a").rename(tmp_path / "b")
    assert [task.samples().fingerprint for task in find(None, tmp_path / "b")] == before and len(set(before)) == 4


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("wds_vtab-caltech101", "caltech-101"),
        ("wds_vtab-pets", "oxford-iiit-pets"),
        ("wds_vtab-flowers", "oxford-flower-102"),
        ("wds_vtab-pcam", "patch-camelyon"),
        ("vtab/resisc45", "resisc45_clip"),
        ("wds_cars", "stanford-cars"),
        ("wds_renderedsst2", "rendered-sst2"),
        ("wds_imagenet1k", "imagenet-1k"),
        ("wds_voc2007_multilabel", "voc-2007-classification"),
        ("wds_vtab-kitti_closest_vehicle_distance", "kitti-distance"),
    ],
)
def test_clip_benchmarks_names_are_known(folder, name):
    assert benchmark(folder).name == name


def test_labels_of_one_an_image_are_scored_by_accuracy_whatever_the_name_says(tmp_path):
    shards(tmp_path / "voc2007/test", [b"0", b"19"])
    shards(tmp_path / "hateful-memes/test", [b"0", b"1"])
    (tmp_path / "voc2007/classnames.txt").write_text("\n".join(benchmark("voc2007").class_names))
    single, memes = find(["voc2007", "hateful-memes"], tmp_path)
    assert (single.metric, single.multilabel, single.benchmark) == (
        "accuracy",
        False,
        None,
    ) and memes.metric == "roc_auc"
    (tmp_path / "hateful-memes/classnames.txt").write_text("a\nb\nc\n")
    assert find(["hateful-memes"], tmp_path)[0].metric == "accuracy"


def test_a_benchmark_of_ones_own_is_named_by_its_file(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text(
        'name = "zoo"\naliases = ["tierpark"]\nmetric = "mean-per-class"\ntest_images = 9\ntemplates = ["{}!"]\n'
        'classes = [["ox", "bull"], "crab"]\n'
    )
    data = tmp_path / "data"
    image_folder(data / "Tierpark", ["0", "1"])
    for name in (str(own), f"{own.parent}/../{own.parent.name}/own.TOML".replace("TOML", "toml")):
        [task] = find([name], data)
        assert (task.name, task.metric, task.test_images, task.templates) == ("zoo", "mean-per-class", 9, ["{}!"])
        assert task.classes == ["ox", "crab"] and task.synonyms[0] == ("ox", "bull")
        assert task.samples().names == ["0/a.png", "1/a.png"]
    own.write_text('name = "zoo"\naliases = ["tierpark"]\ntemplates = ["{}"]\nclasses = ["a", "b", "c"]\n')
    with pytest.raises(ReactvlError, match=r"task zoo: its file has 3 classes, .*Tierpark has 2"):
        find([str(own)], data)
    own.write_text('name = "park"\ntemplates = ["{}"]\nclasses = ["a", "b"]\n')
    with pytest.raises(ReactvlError, match="task park: no folder park with its data in"):
        find([str(own)], data)
    with pytest.raises(ReactvlError, match=r"gone\.toml: no such file"):
        find([str(tmp_path / "gone.toml")], data)


def test_classes_and_templates_of_the_caller_stand_in_for_the_tasks_own(tmp_path):
    image_folder(tmp_path / "zoo", ["0", "1"])
    toml = tmp_path / "names.toml"
    toml.write_text('templates = ["a {}."]\nclasses = [["ox", "bull"], "crab"]\n')
    [task] = find(["zoo"], tmp_path, classes=toml)
    assert task.classes == ["ox", "crab"] and task.synonyms[0] == ("ox", "bull") and task.templates == ["a {}."]
    assert find(["zoo"], tmp_path, classes=toml, templates=["the {}"])[0].templates == ["the {}"]
    assert find(["zoo"], tmp_path, templates="dtd")[0].templates == list(benchmark("dtd").templates)
    with pytest.raises(ReactvlError, match="classes: 3 names are given, task zoo has 2 classes"):
        find(["zoo"], tmp_path, classes=["a", "b", "c"])
    with pytest.raises(ReactvlError, match=r"must hold \{\} exactly once"):
        find(["zoo"], tmp_path, templates=["no place"])


def test_templates_of_single_classes_are_said_to_be_passed_over(tmp_path, capsys):
    image_folder(tmp_path / "zoo", ["0", "1"])
    toml = tmp_path / "names.toml"
    toml.write_text('[[class]]\nname = "ox"\ntemplates = ["a big {}."]\n[[class]]\nname = "crab"\n')
    assert find(["zoo"], tmp_path, classes=toml)[0].templates == ["a photo of a {}."]
    assert "templates of single classes have no meaning here" in "".join(capsys.readouterr())


def test_two_folders_of_one_task_are_an_error_that_names_both(tmp_path):
    image_folder(tmp_path / "zoo", ["0", "1"])
    image_folder(tmp_path / "classification/zoo", ["0", "1"])
    with pytest.raises(ReactvlError, match=r"task zoo: lies in .*classification/zoo and in .*zoo; name one"):
        find(None, tmp_path)
    assert [task.folder for task in find(["zoo"], tmp_path)] == [tmp_path / "zoo"]


def test_unknown_names_are_answered_with_what_is_there(tmp_path):
    image_folder(tmp_path / "zoo", ["0", "1"])
    (tmp_path / "classification/dtd_20211007").mkdir(parents=True)
    for names_asked, message in (
        (["zo"], "task zo: no such task in .*; there: zoo"),
        (["food-101"], "task food-101: no such task in .*; there: dtd_20211007, zoo, dtd"),
        (["dtd"], "task dtd: holds no task in a known format"),
        ([], "the list is empty"),
    ):
        with pytest.raises(ReactvlError, match=message) as fault:
            find(names_asked, tmp_path)
        assert "\n" not in str(fault.value)
    with pytest.raises(ReactvlError, match="data: no folder is given"):
        find(["zoo"], None)
    with pytest.raises(ReactvlError, match="data: no folder is given"):
        find(None, None)
