"""The zip of a leaderboard's submission: what Python's own json and zipfile make of the files, merged by the published rule."""

import itertools
import json
import re
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactvl.evaluate import submission
from reactvl.evaluate.elevater_files import ModelFacts, write
from reactvl.manifest import ReactvlError

HALF = 0.5000001e-6  # of the sixth decimal
HEAD = {
    "model_name": "CLIP-x",
    "dataset_name": "mine",
    "num_trainable_params": 10,
    "num_params": 3,
    "num_visual_params": 2,
    "num_backbone_params": 3,
    "n_shot": 5,
    "rnd_seeds": [0],
    "predictions": [[[0.25, 0.75]]],
}


def merged(path) -> list[dict]:
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["all_predictions.json"] and archive.testzip() is None
        said = json.loads(archive.read("all_predictions.json"))
    assert list(said) == ["data"]
    return said["data"]


def expected(files: list[dict]) -> dict:
    """The published rule for the files of one data set, in the order of their seeds."""
    files = sorted(files, key=lambda file: file["rnd_seeds"])
    return files[0] | {
        "num_trainable_params": round(sum(file["num_trainable_params"] for file in files) / len(files), 6),
        "rnd_seeds": list(itertools.chain(*(file["rnd_seeds"] for file in files))),
        "predictions": [one for file in files for one in file["predictions"]],
    }


@st.composite
def folders(draw) -> list[dict]:
    """Files of up to three data sets, the seeds of each spread over files."""
    files = []
    for name in draw(st.lists(st.sampled_from(["dtd", "mnist", "näme"]), min_size=1, unique=True)):
        images, classes = draw(st.integers(1, 4)), draw(st.integers(1, 4))
        row = st.lists(st.floats(-9, 9), min_size=classes, max_size=classes)
        cube = st.lists(row, min_size=images, max_size=images)
        seeds = draw(st.permutations(range(draw(st.integers(1, 4)))))
        while seeds:
            count = draw(st.integers(1, len(seeds)))
            here, seeds = list(seeds[:count]), seeds[count:]
            files.append(
                HEAD
                | {"dataset_name": name, "rnd_seeds": here, "num_trainable_params": draw(st.integers(0, 9))}
                | {"predictions": [draw(cube) for _ in here], "more": {"a": [1, None]}}
            )
    return files


@settings(deadline=None, max_examples=60)
@given(folders(), st.sampled_from([None, 0, 3]), st.integers(1, 9))
def test_the_zip_holds_what_the_rule_says(tmp_path_factory, files, indent, cells):
    home = tmp_path_factory.mktemp("dir")
    for number, file in enumerate(files):
        (home / f"{number}.json").write_text(json.dumps(file, indent=indent))
    (home / "readme.txt").write_text("no prediction")
    submission.CELLS, before = cells, submission.CELLS
    try:
        path = submission.merge(home)
    finally:
        submission.CELLS = before
    by_name = {name: [f for f in files if f["dataset_name"] == name] for name in {f["dataset_name"] for f in files}}
    assert path == home / "all_predictions.zip"
    for entry, name in zip(merged(path), sorted(by_name), strict=True):
        wanted = expected(by_name[name])
        np.testing.assert_allclose(entry.pop("predictions"), wanted.pop("predictions"), rtol=0, atol=HALF)
        assert entry == wanted
    with zipfile.ZipFile(path) as archive:
        assert not re.search(rb"\d\.\d{7}", archive.read("all_predictions.json"))
    before = path.read_bytes()
    assert submission.merge(home).read_bytes() == before  # the zip itself is no prediction file; equal bytes


def test_the_files_of_an_evaluation_are_merged(tmp_path, capsys):
    facts, cube = ModelFacts("ViT-B-32:openai", 3, 2), np.random.default_rng(0).dirichlet(np.ones(47), (1, 1880))
    write(tmp_path / "zero-shot", "dtd", facts, cube)
    write(tmp_path / "zero-shot", "mnist", facts, cube[:, :5, :10])
    path = submission.merge(tmp_path)  # the one folder in it that has files
    assert path == tmp_path / "zero-shot" / "all_predictions.zip"
    dtd, mnist = merged(path)
    np.testing.assert_allclose(dtd["predictions"], cube, rtol=0, atol=HALF)
    assert (dtd["n_shot"], dtd["rnd_seeds"], dtd["num_trainable_params"], mnist["dataset_name"]) == (0, [0], 0, "mnist")
    said = capsys.readouterr().out
    assert "mnist: predictions of 5 images" in said and "dtd: predictions" not in said
    assert "lacks caltech-101" in said and "and 13 more of ELEVATER's 20" in said


@pytest.mark.parametrize(
    ("second", "says"),
    [
        ({"rnd_seeds": [1], "model_name": "CLIP-y"}, "model_name"),
        ({"rnd_seeds": [1], "n_shot": 20}, "n_shot"),
        ({"rnd_seeds": [1], "more": 1}, "more"),
        ({}, "seed 0 of mine stands in a.json too"),
        ({"rnd_seeds": [1], "predictions": [[[0.5, 0.5], [1, 0]]]}, "2 images"),
        ({"rnd_seeds": [1], "predictions": [[[0.5, 0.2, 0.3]]]}, "3 and of 2 classes"),
        ({"rnd_seeds": [1, 2]}, "predictions of 1 seeds"),
    ],
)
def test_files_that_do_not_belong_together_are_named_with_the_key(tmp_path, second, says):
    (tmp_path / "a.json").write_text(json.dumps(HEAD))
    (tmp_path / "b.json").write_text(json.dumps(HEAD | second))
    with pytest.raises(ReactvlError, match=says) as fault:
        submission.merge(tmp_path)
    assert "b.json" in str(fault.value) and not (tmp_path / "all_predictions.zip").exists()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "{",
        "{}",
        json.dumps({"data": [HEAD]}),
        json.dumps(HEAD).replace("0.25", "NaN"),
        *(
            json.dumps(HEAD | {"predictions": value})
            for value in (
                [],
                [[]],
                [[[]]],
                [[0.1]],
                [[["0.1"]]],
                [[[0.1], 2]],
                [[[0.1]], 3],
                [[[[0.1]]]],
                "[[[1]]]",
                None,
            )
        ),
        json.dumps(HEAD | {"predictions": [[[0.1], [0.1, 0.2]]]}),
        json.dumps(HEAD | {"rnd_seeds": []}),
        json.dumps(HEAD | {"rnd_seeds": "0"}),
        json.dumps(HEAD | {"dataset_name": 3}),
    ],
)
def test_a_file_of_another_kind_is_named_and_nothing_is_written(tmp_path, text):
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ReactvlError, match=r"other\.json"):
        submission.merge(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["other.json"]


def test_a_folder_without_files_or_with_several_entries_is_refused(tmp_path):
    with pytest.raises(ReactvlError, match="no such folder"):
        submission.merge(tmp_path / "none")
    with pytest.raises(ReactvlError, match="save-predictions"):
        submission.merge(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.json").write_text(json.dumps(HEAD))
    with pytest.raises(ReactvlError, match="2 entries; name one"):
        submission.merge(tmp_path)
