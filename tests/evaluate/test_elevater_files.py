"""Prediction files say what was predicted, at six decimals, in the published schema, whatever the numbers and names."""

import json
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from reactvl.evaluate import elevater_files
from reactvl.evaluate.elevater_files import ModelFacts, folder_names, way, write

FACTS = ModelFacts("ViT-B-32:openai", 151_277_313, 87_849_216)
CUBES = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 3), st.integers(1, 7), st.integers(1, 5)),
    elements=st.floats(0, 1, width=32),
)


def test_a_zero_shot_file_is_the_published_example(tmp_path):
    path = write(tmp_path, "cifar10", FACTS, np.full((1, 4, 10), 0.1, np.float32))
    assert path == tmp_path / "cifar-10.json"
    said = json.loads(path.read_text())
    assert list(said) == list(elevater_files.KEYS)
    assert said.pop("predictions") == [[[0.1] * 10] * 4]
    assert said == {
        "model_name": "CLIP-ViT-B-32:openai",
        "dataset_name": "cifar-10",
        "num_trainable_params": 0,
        "num_params": 151_277_313,
        "num_visual_params": 87_849_216,
        "num_backbone_params": 151_277_313,
        "n_shot": 0,
        "rnd_seeds": [0],
    }


@settings(deadline=None, max_examples=60)
@given(CUBES, st.integers(1, 12))
def test_predictions_are_read_back_rounded_to_six_decimals(tmp_path_factory, cube, cells):
    elevater_files.CELLS, before = cells, elevater_files.CELLS  # blocks of few rows
    try:
        path = write(tmp_path_factory.mktemp("p"), "mine", FACTS, cube, shots=5, seeds=range(len(cube)), trainable=7)
    finally:
        elevater_files.CELLS = before
    said = json.loads(path.read_text())
    np.testing.assert_allclose(said["predictions"], cube.astype(np.float64), rtol=0, atol=0.5000001e-6)
    assert not re.search(r"\d\.\d{7}", path.read_text())
    assert (said["rnd_seeds"], said["n_shot"], said["num_trainable_params"]) == (list(range(len(cube))), 5, 7)


def test_an_unread_image_keeps_its_row_with_even_odds(tmp_path):
    cube = np.full((2, 3, 4), 0.25)
    cube[0, 1] = np.nan
    cube[1, 2] = [1, 0, 0, 0]
    said = json.loads(write(tmp_path, "dtd", FACTS, cube, shots="all", seeds=(0, 1)).read_text())
    assert said["predictions"][0][1] == [0.25] * 4 and said["predictions"][1][2] == [1, 0, 0, 0]
    assert said["n_shot"] == -1


@pytest.mark.parametrize(
    "cube",
    [
        np.full((1, 2, 3), 1.5),
        np.full((1, 2, 3), -0.5),
        np.array([[[0.5, np.nan]]]),
        np.array([[[np.inf, 0.0]]]),
        np.zeros((2, 2, 3)),  # two seeds' worth, one named
        np.zeros((1, 2)),
        np.zeros((1, 2, 0)),
        [np.zeros((2, 3)), np.zeros((3, 3))],
    ],
)
def test_what_is_no_probability_or_has_another_shape_is_refused_and_leaves_no_file(tmp_path, cube):
    with pytest.raises(ValueError, match="predictions"):
        write(tmp_path, "dtd", FACTS, cube)
    assert list(tmp_path.iterdir()) == []


def test_ways_of_adapting_have_folders_of_their_own():
    assert [way("zero-shot"), way("linear-probe", 5), way("linear-probe", "all"), way("finetune", "20")] == [
        "zero-shot",
        "linear-probe_5",
        "linear-probe_full",
        "finetune_20",
    ]


@given(st.lists(st.text(min_size=1), unique=True, max_size=8))
def test_every_label_gets_one_folder_that_leads_nowhere_else(labels):
    names = folder_names(labels)
    assert list(names) == labels
    assert len({name.casefold() for name in names.values()}) == len(labels)
    assert not any(name in ("", ".", "..") or "/" in name or "\0" in name for name in names.values())
