"""The evaluate stage: its figures are a plain restatement's, its files are whole, and it encodes nothing twice."""

import json
import re
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from PIL import Image

from reactvl.clip_imports import open_clip
from reactvl.evaluate import evaluate
from reactvl.handles.scores import Scores
from reactvl.heads.intervals import interval, interval_of_mean, paired_interval, paired_interval_of_mean
from reactvl.heads.permutation import paired_test
from reactvl.manifest import ReactvlError, changed_files
from reactvl.models import load
from reactvl.models.encoder import Encoder


@pytest.fixture
def towers(monkeypatch):
    """Counts the images that go through an image tower."""
    seen = []
    original = Encoder.images

    def counting(self, pixels):
        seen.append(len(pixels))
        return original(self, pixels)

    monkeypatch.setattr(Encoder, "images", counting)
    return seen


def run(models, data, out, **options):
    return evaluate(models, data=data, out=out, precision="fp32", device="cpu", **options)


def test_scores_agree_with_a_plain_restatement(models, data, tmp_path, capsys):
    scores = run(models, data, tmp_path / "out")
    found = scores.results
    assert [model["label"] for model in found["models"]] == ["base", "locked-text", "gated-image"]
    assert [task["name"] for task in found["tasks"]] == ["oxford-iiit-pets", "zoo"]
    preprocess = open_clip.transform.image_transform_v2(open_clip.transform.PreprocessCfg(size=32), is_train=False)
    correct = {}
    for task, folder in zip(found["tasks"], ("oxford-iiit-pets", "zoo"), strict=True):
        pictures, labels = [], []
        for label, at in enumerate(sorted((data / folder / "test").iterdir())):
            for path in sorted(at.iterdir()):
                try:
                    pictures.append(preprocess(Image.open(path)))
                    labels.append(label)
                except OSError:
                    continue
        labels = np.array(labels)
        assert task["images"] == len(labels) and sum(task["images_per_class"]) == len(labels)
        for name in models:
            model = load(name)
            [template] = task["templates"]
            texts = model.encode_text([template.replace("{}", name) for name in task["classes"]]).numpy()
            predicted = (model.encode_image(torch.stack(pictures)).numpy() @ texts.T).argmax(axis=1)
            label = name.split("/")[-1]
            right = correct[folder, label] = predicted == labels
            score = task["scores"][label]
            per_class = np.mean([right[labels == one].mean() for one in np.unique(labels)])
            assert score["top1"] == pytest.approx(right.mean()) and score["mean_per_class"] == pytest.approx(per_class)
            assert score["value"] == pytest.approx(per_class if folder.endswith("pets") else right.mean())
            assert (score["top5"] is None) == folder.endswith("pets")
        correct[folder, "labels"] = labels

    assert [task["metric"] for task in found["tasks"]] == ["mean-per-class", "accuracy"]
    mean = np.mean([task["scores"]["gated-image"]["value"] for task in found["tasks"]])
    assert found["mean"]["gated-image"]["value"] == pytest.approx(mean)
    images = np.arange(len(correct["zoo", "labels"]))  # of seven classes an interval over classes says little
    zoo_answers = correct["zoo", "base"], correct["zoo", "gated-image"], images
    zoo = paired_interval(*zoo_answers)
    assert found["tasks"][1]["scores"]["gated-image"]["gain"] == pytest.approx(
        vars(zoo) | {"p": paired_test([zoo_answers]).p}
    )
    both = [
        (correct[name, "base"], correct[name, "gated-image"], clusters)
        for name, clusters in (("oxford-iiit-pets", correct["oxford-iiit-pets", "labels"]), ("zoo", images))
    ]
    expected = paired_interval_of_mean(both, per=["class", "image"])
    chance = paired_test(both, per=["class", "image"]).p
    assert found["mean"]["gated-image"]["gain"] == pytest.approx(vars(expected) | {"p": chance})
    assert found["mean"]["base"]["gain"] is None
    own = interval(correct["zoo", "base"], images)
    assert found["tasks"][1]["scores"]["base"]["interval"] == pytest.approx({"low": own.low, "high": own.high})
    own = interval_of_mean([(tuned, clusters) for _, tuned, clusters in both], per=["class", "image"])
    assert found["mean"]["gated-image"]["interval"] == pytest.approx({"low": own.low, "high": own.high})

    table = scores.table()
    assert table in capsys.readouterr().out
    assert re.search(r"^ +base \(base\) +locked-text +gated-image", table)
    assert table.splitlines()[-1].startswith("mean") and f"{100 * mean:.1f}  " in table.splitlines()[-1]


def test_unreadable_images_are_counted_and_named(models, data, tmp_path):
    import pyarrow.parquet as pq

    scores = run(models[:1], data, tmp_path / "out")
    assert [task["skipped"] for task in scores.results["tasks"]] == [2, 0]
    skipped = pq.read_table(tmp_path / "out/skipped.parquet").to_pylist()
    assert [row["image"] for row in skipped] == ["cat/1.png", "dog/2.png"]
    assert skipped[1]["reason"].startswith("empty image")
    assert scores.manifest.counts == {"images": 13 + 49, "skipped": 2, "models": 1, "tasks": 2}


def test_predictions_hold_every_image_of_every_model(models, data, tmp_path):
    scores = run(models, data, tmp_path / "out", tasks=["zoo"])
    rows = scores.predictions("zoo").to_pylist()
    assert len(rows) == 3 * 49 and {row["model"] for row in rows} == {"base", "locked-text", "gated-image"}
    for row in rows:
        assert row["top5"][0] == row["predicted"] and len(row["top5"]) == 5
        assert row["correct"] == (row["label"] == row["predicted"]) == (row["class"] == row["predicted_class"])
    right = [row["correct"] for row in rows if row["model"] == "base"]
    assert scores.results["tasks"][0]["scores"]["base"]["value"] == pytest.approx(np.mean(right))
    with pytest.raises(ReactvlError, match="has no task gone; it has zoo"):
        scores.predictions("gone")


def test_a_second_evaluation_runs_no_image_tower(models, data, tmp_path, towers):
    first = run(models[:2], data, tmp_path / "out")
    assert sum(towers) == 2 * 62
    towers.clear()
    again = run(models[:2], data, tmp_path / "out")
    assert again.results == first.results and not towers
    more = run(models, data, tmp_path / "out", overwrite=True)  # a third model, and only it is encoded
    assert sum(towers) == 62 and len(more.results["models"]) == 3
    towers.clear()
    shutil.rmtree(tmp_path / "out/predictions")
    repaired = run(models, data, tmp_path / "out", overwrite=True)
    assert not towers and repaired.results == more.results
    assert changed_files(tmp_path / "out") == []


def test_changed_data_are_encoded_again_and_damaged_features_too(models, data, tmp_path, towers):
    before = run(models[:1], data, tmp_path / "out", tasks=["zoo"])
    [part] = (tmp_path / "out/features").rglob("img_emb_*.npy")
    part.write_bytes(part.read_bytes()[:500])
    towers.clear()
    (tmp_path / "out/results.json").unlink()
    after = run(models[:1], data, tmp_path / "out", tasks=["zoo"], overwrite=True)
    assert sum(towers) == 49 and after.results == before.results
    towers.clear()
    (data / "zoo/test/n0/new.png").write_bytes((data / "zoo/test/n1/0.png").read_bytes())
    with pytest.raises(ReactvlError, match=r"its input `task zoo` has changed.*; pass --overwrite"):
        run(models[:1], data, tmp_path / "out", tasks=["zoo"])
    assert run(models[:1], data, tmp_path / "out", tasks=["zoo"], overwrite=True).results["tasks"][0]["images"] == 50
    assert sum(towers) == 50


def test_a_stopped_run_goes_on_with_what_is_missing(models, data, tmp_path, towers, monkeypatch):
    from reactvl.evaluate import features

    monkeypatch.setattr(features, "PART", 10)
    whole = run(models[:1], data, tmp_path / "whole", batch_size=4)
    towers.clear()
    original, left = Encoder.images, [5]

    def stopping(self, pixels):
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt
        return original(self, pixels)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Encoder, "images", stopping)
        run(models[:1], data, tmp_path / "out", batch_size=4)
    with pytest.raises(ReactvlError, match="was interrupted"):
        Scores(tmp_path / "out")
    done = sum(towers)
    resumed = run(models[:1], data, tmp_path / "out", batch_size=4)
    assert done > 0 and sum(towers) < done + 62
    assert resumed.results == whole.results
    for path in (tmp_path / "whole/predictions").iterdir():
        assert path.read_bytes() == (tmp_path / "out/predictions" / path.name).read_bytes()


def test_the_report_is_whole_and_escapes_class_names(models, data, tmp_path):
    scores = run(models, data, tmp_path / "out")
    html = scores.report.read_text()

    class Tags(HTMLParser):
        tags: list[str] = []  # noqa: RUF012

        def handle_starttag(self, tag, attrs):
            self.tags.append(tag)

    parser = Tags()
    parser.feed(html)
    assert "script" not in parser.tags and "alert(" in html
    headings = re.findall(r"<h2>(.*?)</h2>", html)
    assert headings == [
        "Scores", "Gains", "Learning curves", "Calibration", "Classes", "Most changed classes", "Confusions",
        "Where time went", "Skipped images", "Models and tasks",
    ]  # fmt: skip
    assert parser.tags.count("img") > 10 and len(html) < 12_000_000
    assert "image tower: " in html and "dog/2.png" in html


def test_one_model_one_class_and_other_templates(models, data, tmp_path):
    shutil.rmtree(data / "zoo")
    for name in ("dog", "x y"):
        shutil.rmtree(data / "oxford-iiit-pets/test" / name)
    scores = run(models[0], data, tmp_path / "one", templates="a {}, drawn.")
    assert scores.results["tasks"][0]["scores"]["base"]["value"] == 1.0
    assert scores.results["tasks"][0]["templates"] == ["a {}, drawn."]
    assert len(scores.table().splitlines()) == 3
    two = run(models[:2], data, tmp_path / "two")
    assert two.results["mean"]["locked-text"]["gain"] == {"difference": 0.0, "low": None, "high": None, "p": None}
    assert two.table().splitlines()[-1].endswith("100.0  +0.0")


def test_models_may_be_given_loaded(models, data, tmp_path):
    by_name = run(models[1], data, tmp_path / "a", tasks="zoo")
    by_model = run(load(models[1]), data, tmp_path / "b", tasks="zoo")
    assert by_name.results == by_model.results


def test_bad_options_end_before_any_work(models, data, tmp_path, towers):
    base = models[0]
    for arguments, options, message in (
        ([base, "no/such/model"], {}, "no/such/model: no such model folder"),
        ([base, "ViT-Q-32:openai"], {}, "ViT-Q-32:openai: no such model"),
        ([], {}, "no model is named"),
        ([base], {"tasks": ["gone"]}, "task gone: no such task"),
        ([base], {"split": "valid"}, "no split 'valid'"),
        ([base], {"templates": "a photo"}, "template"),
        ([base], {"batch_size": 0}, "batch_size 0"),
        ([base], {"device": "tpu9"}, "no such device"),
    ):
        with pytest.raises(ReactvlError, match=message):
            evaluate(arguments, data=data, out=tmp_path / "out", **options)
    assert not towers and not (tmp_path / "out").exists()


def test_results_are_plain_json_without_nan(models, data, tmp_path):
    (data / "zoo/classnames.txt").unlink()
    shutil.rmtree(data / "zoo/test/n3")
    (data / "zoo/train").mkdir()
    shutil.copytree(data / "zoo/test/n2", data / "zoo/train/n3")  # a class that the test split lacks
    scores = run(models[:2], data, tmp_path / "out", tasks=["zoo"])
    text = (tmp_path / "out/results.json").read_text()
    assert json.loads(text, parse_constant=lambda word: pytest.fail(word)) == scores.results
    assert scores.results["tasks"][0]["scores"]["base"]["recalls"][3] is None


def test_a_folder_of_another_stage_or_with_a_lost_file_is_refused(models, data, tmp_path):
    scores = run(models[:1], data, tmp_path / "out", tasks=["zoo"])
    assert "1 models, 1 tasks" in repr(scores)
    (tmp_path / "out/results.json").unlink()
    with pytest.raises(ReactvlError, match=r"lacks results\.json"):
        Scores(tmp_path / "out")
    with pytest.raises(ReactvlError, match="no stage's output"):
        Scores(data)
