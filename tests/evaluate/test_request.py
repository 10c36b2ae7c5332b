"""What an evaluation is asked for: options checked, ELEVATER's yaml read where the options say nothing."""

import inspect
from pathlib import Path

import numpy as np
import pytest

from reactvl.cli import main
from reactvl.evaluate import evaluate
from reactvl.evaluate.request import checked, parted
from reactvl.manifest import ReactvlError


def asked(**given):
    defaults = {name: option.default for name, option in inspect.signature(evaluate).parameters.items()}
    return checked(defaults | {"models": ["m"], "data": "d", "out": "o", "device": "cpu", "precision": "fp32"} | given)


def test_options_are_brought_into_one_form():
    request = asked(
        shots=["all", "20", "5", "5"], seeds=[2, 2, 0], probe=["linear", "linear"], interpolate=[0.5, 0.25, 0.5]
    )
    assert (request.shots, request.seeds, request.probes) == (("5", "20", "all"), (2, 0), ("linear",))
    assert request.shares == (0.25, 0.5) and request.features == Path("o/features")
    assert asked(features="shared").features == Path("shared") and asked().shots == ("5", "20", "50", "all")
    assert asked(models="one").models == ["one"] and asked(tasks="dtd").finding.names == ("dtd",)
    request = asked(classes=["a", ["b", "c"]], templates="a {}")
    assert [entry.synonyms for entry in request.finding.classes] == [("a",), ("b", "c")]
    assert request.prompts == ["a {}"]
    assert hash(request.finding) == hash(asked(classes=["a", ["b", "c"]], templates="a {}").finding)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"out": None}, "--out is missing"),
        ({"data": None}, "--data is missing"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"workers": 0}, "workers 0"),
        ({"shots": ["0"]}, "shots 0"),
        ({"shots": ["many"]}, "shots many"),
        ({"shots": []}, "shots: the list is empty"),
        ({"seeds": []}, r"seeds \[\]"),
        ({"seeds": [-1]}, r"seeds \[-1\]"),
        ({"probe": ["knn"]}, "probe 'knn': use linear or finetune"),
        ({"head": "mean"}, "head 'mean'"),
        ({"executor": "threads"}, "executor 'threads'"),
        ({"device": "tpu"}, "no such device"),
        ({"precision": "fp64"}, "precision 'fp64'"),
        ({"classes": []}, "classes"),
        ({"templates": "no place"}, "templates"),
    ],
)
def test_a_bad_option_is_refused(given, message):
    with pytest.raises(ReactvlError, match=message):
        asked(**given)


def test_key_value_pairs_stand_behind_the_models():
    assert parted(["RN50:openai", "a/b", "MODEL.CLIP_FP32", "False"]) == (
        ["RN50:openai", "a/b"],
        ["MODEL.CLIP_FP32", "False"],
    )
    assert parted(["ViT-B-32:openai"]) == (["ViT-B-32:openai"], [])
    assert parted(["OUTPUT_DIR", "x"]) == ([], ["OUTPUT_DIR", "x"])


def test_a_dataset_yaml_says_data_task_and_split(models, colours, tmp_path):
    ds = tmp_path / "colours.yaml"
    ds.write_text(
        f"DATASET:\n  DATASET: colours\n  ROOT: {colours}/colours\n  TEST_SET: test\nTEST:\n  METRIC: mean-per-class\n"
    )
    words = [
        "--ds",
        ds,
        "--model",
        models[0],
        "--save-predictions",
        "False",
        "--out",
        tmp_path / "a",
        "MODEL.CLIP_FP32",
        "True",
    ]
    assert main(["evaluate", *map(str, words)]) == 0
    plain = evaluate(models[0], data=colours, tasks=["colours"], out=tmp_path / "b", precision="fp32")
    from reactvl.handles.scores import Scores

    found = Scores(tmp_path / "a").results["tasks"][0]
    assert found["metric"] == "mean-per-class" and plain.results["tasks"][0]["metric"] == "accuracy"
    assert found["scores"]["base"]["value"] == pytest.approx(found["scores"]["base"]["mean_per_class"])
    assert np.isclose(found["scores"]["base"]["top1"], plain.results["tasks"][0]["scores"]["base"]["top1"])
    assert Scores(tmp_path / "a").manifest.facts == {"precision": "fp32"}
    assert not (tmp_path / "a/elevater").exists()


def test_without_a_model_or_data_the_command_says_so(tmp_path, capsys):
    assert main(["evaluate", "--data", str(tmp_path), "--out", str(tmp_path / "o")]) == 2
    assert main(["evaluate", "m", "--out", str(tmp_path / "o")]) == 2
    assert main(["evaluate", "--submission", str(tmp_path / "none")]) == 2
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == ["reactvl evaluate"] * 3
