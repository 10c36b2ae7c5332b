"""Benchmarks are the published lists, found under every name they go by; users add their own as a file."""

import csv
import hashlib
from pathlib import Path

import pytest

from reactvl.manifest import ReactvlError
from reactvl.tasks import benchmarks
from reactvl.tasks.benchmarks import benchmark, names
from reactvl.tasks.classes import read_class_list
from reactvl.tasks.task import metric_of
from reactvl.tasks.templates import SIMPLE, read_templates

# First 16 hex digits of the SHA-256 of the entries joined by newlines; a class of several names joined by ", ".
with (Path(__file__).parent / "task-checksums.tsv").open(newline="") as file:
    CHECKSUMS = {row["dataset"]: row for row in csv.DictReader(file, delimiter="\t")}

# config name, data set name, test images, metric, templates: REFERENCE.md, section 2
PUBLISHED = """
caltech101 caltech-101 6084 mean-per-class 34
cifar10 cifar-10 10000 accuracy 18
cifar100 cifar-100 10000 accuracy 18
country211 country211 21100 accuracy 5
dtd dtd 1880 accuracy 8
eurosat-clip eurosat_clip 5000 accuracy 3
fer2013 fer-2013 3589 accuracy 6
fgvc-aircraft-2013b fgvc-aircraft-2013b-variants102 3333 mean-per-class 2
flower102 oxford-flower-102 6149 mean-per-class 1
food101 food-101 25250 accuracy 1
gtsrb gtsrb 12630 accuracy 3
hateful-memes hateful-memes 500 roc_auc 1
kitti-distance kitti-distance 711 accuracy 1
mnist mnist 10000 accuracy 1
oxford-iiit-pets oxford-iiit-pets 3669 mean-per-class 1
patchcamelyon patch-camelyon 32768 accuracy 1
rendered-sst2 rendered-sst2 1821 accuracy 1
resisc45-clip resisc45_clip 25200 accuracy 18
stanfordcar stanford-cars 8041 accuracy 8
voc2007classification voc-2007-classification 4952 11point_mAP 1
imagenet-1k imagenet-1k 50000 accuracy 80
"""


def checksum(entries) -> str:
    return hashlib.sha256("\n".join(entries).encode()).hexdigest()[:16]


def test_the_lists_have_the_published_checksums():
    not_met = set()
    for name, row in CHECKSUMS.items():
        found = benchmark(name)
        assert (len(found.classes), len(found.templates)) == (int(row["classes"]), int(row["templates"])), name
        if checksum(", ".join(entry.synonyms) for entry in found.classes) != row["sha256_classes"]:
            not_met.add((name, "classes"))
        if checksum(found.templates) != row["sha256_templates"]:
            not_met.add((name, "templates"))
    assert not not_met
    assert set(CHECKSUMS) == set(names())


@pytest.mark.parametrize("line", PUBLISHED.strip().splitlines())
def test_both_names_of_a_benchmark_are_known_in_any_spelling(line):
    config, name, images, metric, templates = line.split()
    found = benchmark(name)
    assert (found.name, found.test_images, found.metric) == (name, int(images), metric)
    assert len(found.templates) == int(templates)
    for spelling in (config, config.upper(), config.replace("-", "_"), name.replace("_", "-"), f"wds_{name}"):
        assert benchmark(spelling) is found
    assert found.elevater is not None and found.elevater.folder.rsplit("_", 1)[1].isdigit()


def test_no_two_benchmarks_go_by_one_name_and_each_file_is_named_by_its_data_set():
    known = Path(benchmarks.__file__).parent / "known"
    assert sorted(path.stem for path in known.iterdir()) == names()
    more = sorted(path.stem for path in known.with_name("more").iterdir())
    assert more and not set(more) & set(names())
    folded = []
    for name in [*names(), *more]:
        assert benchmark(name).name == name
        folded += {benchmarks.folded(one) for one in (name, *benchmark(name).aliases)}
    assert len(folded) == len(set(folded))


def test_classes_that_share_a_name_or_have_several_stay_apart():
    imagenet = benchmark("imagenet-1k")
    assert imagenet.class_names.count("missile") == imagenet.class_names.count("sunglasses") == 2
    assert len(imagenet.class_names) == 1000
    happy = benchmark("fer2013").classes[3]
    assert (happy.name, happy.synonyms) == ("happy", ("happy", "smiling"))


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("oxfrd-pets", "oxford-iiit-pets"),
        ("caltech", "caltech-101"),
        ("imagenet", "imagenet-1k"),
        ("voc", "voc-2007"),
    ],
)
def test_an_unknown_name_is_answered_with_the_nearest_known_ones(name, near):
    with pytest.raises(ReactvlError, match=f"benchmark {name}: .*did you mean .*{near}"):
        benchmark(name)


def test_a_name_like_no_other_is_answered_with_all_of_them():
    with pytest.raises(ReactvlError, match=r"known are birdsnap, .*voc-2007-classification; a benchmark of your own"):
        benchmark("zzzzzz")


def test_metrics_of_tasks_are_the_benchmarks():
    assert benchmarks.metric_of("wds_oxford-flower-102") == metric_of("flower102") == "mean-per-class"
    assert benchmarks.metric_of("hateful_memes") == "roc_auc" and benchmarks.metric_of("mine") is None
    assert metric_of("mine") == metric_of("dtd") == "accuracy"


def test_a_benchmark_of_ones_own_is_a_file(tmp_path):
    (tmp_path / "names.txt").write_text("red panda|lesser panda\nraccoon\n")
    path = tmp_path / "zoo.toml"
    path.write_text(
        'metric = "mean-per-class"\ntemplates = "simple"\nclasses = "names.txt"\n'
        '[elevater]\nfolder = "zoo_1"\ntrain = "a.txt"\ntest = "b.txt"\narchive = "c.zip"\nmultilabel = true\n'
    )
    found = benchmark(path)
    assert found == benchmark(str(path))
    assert (found.name, found.metric, found.class_names) == ("zoo", "mean-per-class", ["red panda", "raccoon"])
    assert found.templates == SIMPLE and found.elevater.multilabel
    assert [entry.templates for entry in found.classes] == [None, None]
    assert [entry.templates for entry in read_class_list(path)] == [SIMPLE, SIMPLE]  # as a class file it is whole
    assert read_templates(path) == list(SIMPLE)


def test_templates_may_be_a_benchmarks_own():
    assert read_templates("dtd") == read_templates(["DTD"]) == list(benchmark("dtd").templates)
    assert len(read_templates("imagenet-1k")) == 80
    with pytest.raises(ReactvlError, match="and the benchmarks' names"):
        read_templates("dtt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('classes = ["a"]', "lacks templates"),
        ('templates = ["{}"]', "lacks classes"),
        ('classes = ["a"]\ntemplates = ["a photo"]', r"templates\[0\]: template 'a photo' must hold"),
        ('classes = ["a"]\ntemplates = 3', "templates = 3; wanted a list"),
        ('classes = ["a"]\ntemplates = ["{}"]\nmetric = "f1"', "Invalid enum value 'f1'"),
        ('classes = ["a"]\ntemplates = ["{}"]\nmetrics = "accuracy"', "unknown key 'metrics'"),
        ('classes = ["a"]\ntemplates = ["{}"]\n[elevater]\nfolder = "x"', "missing required field `train`"),
        ('classes = "own.toml"\ntemplates = ["{}"]', "wanted a list, a text file beside it"),
        ('classes = "gone.txt"\ntemplates = ["{}"]', r"gone\.txt: no such file"),
        ("classes = [", r"is not TOML: .*at end of document"),
    ],
)
def test_faults_of_a_benchmarks_file_end_in_one_clear_line(text, message, tmp_path):
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(ReactvlError, match=message) as fault:
        benchmark(path)
    assert str(tmp_path) in str(fault.value) or "templates[0]" in str(fault.value)
    assert "\n" not in str(fault.value)
