"""ImageNet as it lies on disk: class folders, flat with each kind of label file, Kaggle's tree; always the thousand."""

import shutil
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests_support import drawing

from reactvl.manifest import ReactvlError
from reactvl.tasks import find
from reactvl.tasks.imagenet import development_kit_order, read_flat, read_task, validation_task
from reactvl.tasks.wordnet import imagenet_names

# The first six lines of the development kit's ground truth, and of val.txt as Caffe gives it out.
GROUND_TRUTH = (490, 361, 171, 822, 297, 482)
LABELS = (65, 970, 230, 809, 516, 57)
IDS = list(imagenet_names())
WHOLE = [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, 7)]


def flat(home, numbers=range(1, 7)):
    home.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        (home / f"ILSVRC2012_val_{number:08d}.JPEG").write_bytes(drawing(number))
    return home


def ground_truth(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{one}\n" for one in GROUND_TRUTH))


def solution(path):
    rows = [f"ILSVRC2012_val_{n:08d},{IDS[label]} 85 1 499 272 {IDS[0]} 1 2 3 4 " for n, label in enumerate(LABELS, 1)]
    path.write_text("\n".join(["ImageId,PredictionString", *rows[::-1]]))


def pairs(path, label=str, prefix=""):
    path.write_text("".join(f"{prefix}ILSVRC2012_val_{n:08d}.JPEG {label(one)}\n" for n, one in enumerate(LABELS, 1)))


def test_the_development_kits_ids_are_the_published_ones():
    order = development_kit_order()
    assert sorted(order) == list(range(1000))
    assert [order[one - 1] for one in GROUND_TRUTH] == list(LABELS)
    assert [IDS[order[at - 1]] for at in (1, 2, 3, 449, 1000)] == [
        "n02119789", "n02100735", "n02110185", "n01440764", "n03255030",
    ]  # fmt: skip


@pytest.mark.parametrize("kind", ["kit", "kit in place", "kaggle", "caffe", "caffe with folders", "ids"])
def test_flat_images_with_each_kind_of_label_file(kind, tmp_path):
    root = tmp_path / "imagenet"
    home = flat(root / ("ILSVRC/Data/CLS-LOC/val" if kind == "kaggle" else "val"))
    if kind == "kit":
        ground_truth(root / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt")
    elif kind == "kit in place":
        ground_truth(home / "ILSVRC2012_validation_ground_truth.txt")
    elif kind == "kaggle":
        solution(root / "LOC_val_solution.csv")
    elif kind == "ids":
        pairs(root / "val.txt", lambda label: IDS[label])
    else:
        pairs(root / "val.txt", prefix="val/" if "folders" in kind else "")
    [task] = find(["imagenet-1k"], tmp_path)
    assert (task.name, task.benchmark, task.test_images, len(task.templates)) == (
        "imagenet-1k",
        "imagenet-1k",
        50000,
        80,
    )
    assert task.classes == list(imagenet_names().values()) and task.classes.count("missile") == 2
    for split in ("val", "test"):
        samples = task.samples(split)
        assert samples.labels.tolist() == list(LABELS) and samples.unusable == []
        assert samples.names[2] == "ILSVRC2012_val_00000003.JPEG" and samples.read(2) == drawing(3)
    if kind != "kaggle":  # the folder of the images themselves, and as customize reads it
        assert find(None, None, imagenet_val=home)[0].samples().labels.tolist() == list(LABELS)
        task, samples = validation_task(home)
        assert len(task.classes) == 1000 and samples.labels.tolist() == list(LABELS)


def test_a_flat_split_that_is_not_whole_says_what_it_lacks(tmp_path):
    flat(tmp_path / "val", (2, 3, 5, 7))
    ground_truth(tmp_path / "ILSVRC2012_validation_ground_truth.txt")
    samples = read_task(tmp_path).samples("val")
    assert samples.labels.tolist() == [970, 230, 516]  # by the images' numbers, not by their places
    assert sorted(samples.unusable) == [
        *((f"ILSVRC2012_val_{number:08d}.JPEG", "no such file") for number in (1, 4, 6)),
        ("ILSVRC2012_val_00000007.JPEG", "ILSVRC2012_validation_ground_truth.txt gives it no label"),
    ]
    (tmp_path / "ILSVRC2012_validation_ground_truth.txt").unlink()
    pairs(tmp_path / "val.txt")
    other = read_task(tmp_path).samples("val")
    assert other.labels.tolist() == [970, 230, 516] and len(other.unusable) == 4
    assert other.fingerprint == samples.fingerprint
    (tmp_path / "val/ILSVRC2012_val_00000002.JPEG").write_bytes(drawing(99))
    assert read_task(tmp_path).samples("val").fingerprint != samples.fingerprint


def test_the_archive_as_it_is_given_out_is_read_where_it_lies(tmp_path):
    home = flat(tmp_path / "store/val")
    folder = tmp_path / "imagenet"
    folder.mkdir()
    with tarfile.open(folder / "ILSVRC2012_img_val.tar", "w") as tar:
        for path in sorted(home.iterdir(), reverse=True):
            tar.add(path, path.name)
    with pytest.raises(ReactvlError, match="and no file of their labels"):
        find(["imagenet"], tmp_path)
    ground_truth(folder / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt")
    for [task] in (find(["imagenet"], tmp_path), find(None, None, imagenet_val=folder), [validation_task(folder)[0]]):
        samples = task.samples("val")
        assert samples.names[0] == "ILSVRC2012_val_00000006.JPEG" and samples.labels.tolist() == list(LABELS)[::-1]
        assert [samples.read(row) for row in range(6)] == [drawing(number) for number in range(6, 0, -1)]
        assert samples.unusable == []
    with (folder / "ILSVRC2012_img_val.tar").open("r+b") as file:
        file.truncate(4000)
    cut = find(["imagenet"], tmp_path)[0].samples()
    assert 0 < len(cut) < 6 and any("truncated" in reason for _, reason in cut.unusable)
    assert cut.fingerprint != samples.fingerprint


@given(st.binary(max_size=60))
def test_any_label_file_gives_labels_or_one_error(tmp_path_factory, body):
    home = tmp_path_factory.getbasetemp() / "any"
    if not home.exists():
        flat(home)
    for name in ("ILSVRC2012_validation_ground_truth.txt", "LOC_val_solution.csv", "val.txt"):
        (home.parent / name).write_bytes(body)
        try:
            samples = read_flat(home, home.parent / name)
            assert all(0 <= label < 1000 for label in samples.labels)
            assert {*samples.names, *(name for name, _ in samples.unusable)} >= set(WHOLE)
        except ReactvlError as fault:
            assert "\n" not in str(fault)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("val.txt", "ILSVRC2012_val_00000001.JPEG 1000\n", "line 1: '1000' is no label; wanted 0 to 999"),
        ("val.txt", "ILSVRC2012_val_00000001.JPEG\n", "line 1: '' is no label"),
        ("val.txt", "a.JPEG 3\nILSVRC2012_val_00000001.JPEG n00000001\n", "line 2: 'n00000001' is no label"),
        ("ILSVRC2012_validation_ground_truth.txt", "490\n0\n", "line 2: '0' is no id"),
        ("ILSVRC2012_validation_ground_truth.txt", "490\n1001\n", "line 2: '1001' is no id"),
        ("ILSVRC2012_validation_ground_truth.txt", "n01440764\n", "line 1: 'n01440764' is no id"),
        (None, None, "and no file of their labels; put ILSVRC2012_validation_ground_truth.txt"),
    ],
)
def test_faults_of_a_label_file_end_in_one_line(name, text, message, tmp_path):
    home = flat(tmp_path / "imagenet/val")
    if name:
        (home / name).write_text(text)
    with pytest.raises(ReactvlError, match=message) as fault:
        find(["imagenet"], tmp_path)[0].samples()
    assert "\n" not in str(fault.value)


def test_class_folders_are_labelled_among_the_thousand(tmp_path):
    for label in (970, 3):
        for split in ("val", "train"):
            home = tmp_path / "imagenet" / split / IDS[label]
            home.mkdir(parents=True)
            (home / "a.JPEG").write_bytes(drawing(label))
    for asked in ({"names": ["imagenet-1k"], "data": tmp_path}, {"names": ["imagenet"], "data": tmp_path / "imagenet"},
                  {"names": None, "data": tmp_path}, {"names": None, "data": None, "imagenet_val": tmp_path / "imagenet/val"},
                  {"names": ["imagenet-1k"], "data": None, "imagenet_val": tmp_path / "imagenet"}):  # fmt: skip
        [task] = find(**asked)
        assert len(task.classes) == 1000 and task.samples().labels.tolist() == [3, 970], asked
    assert find(["imagenet"], tmp_path)[0].samples("train").labels.tolist() == [3, 970]


def test_some_of_the_classes_in_a_folder_of_another_name_are_a_task_of_these(tmp_path):
    for label in (970, 3):
        (tmp_path / "imagenette/val" / IDS[label]).mkdir(parents=True)
        (tmp_path / "imagenette/val" / IDS[label] / "a.JPEG").write_bytes(drawing(label))
    [task] = find(["imagenette"], tmp_path)
    names = list(imagenet_names().values())
    assert task.classes == [names[3], names[970]] and len(task.templates) == 80 and task.benchmark is None
    assert task.samples("val").labels.tolist() == [0, 1]


def test_imagenet_beside_other_tasks(tmp_path):
    for name in ("data/zoo/test/ox", "data/zoo/test/crab", f"data/imagenet/val/{IDS[1]}", f"val/{IDS[2]}"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "a.jpg").write_bytes(drawing(1))
    data, val = tmp_path / "data", tmp_path / "val"
    assert [task.name for task in find(["zoo"], data, imagenet_val=val)] == ["zoo", "imagenet-1k"]
    found = find(["imagenet", "zoo"], data, imagenet_val=val)
    assert [task.name for task in found] == ["imagenet-1k", "zoo"] and found[0].folder == val
    found = find(None, data, imagenet_val=val)
    assert [task.name for task in found] == ["zoo", "imagenet-1k"] and found[1].folder == val
    for folder, message in (
        (tmp_path / "gone", "no such folder"),
        (data / "zoo", "holds neither class folders named by"),
    ):
        with pytest.raises(ReactvlError, match=f"imagenet_val .*{message}"):
            find(None, data, imagenet_val=folder)
    shutil.rmtree(val / IDS[2])
    (val / "n00000001").mkdir()
    (val / "n00000001/a.jpg").write_bytes(drawing(1))
    with pytest.raises(ReactvlError, match="n00000001 is none of ImageNet's 1,000 classes"):
        find(None, data, imagenet_val=val)
