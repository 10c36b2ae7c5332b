"""Tasks whose metric ranks images: ELEVATER's multilabel and two-class benchmarks, read as they lie, end to end."""

import json
import zipfile

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import roc_auc_score
from tests_support import drawing

from reactvl.evaluate import evaluate
from reactvl.heads.intervals import Paired, paired_interval_of_mean
from reactvl.heads.metrics import METRICS
from reactvl.models import load
from reactvl.pool.images import to_pixels
from reactvl.tasks import find

COUNT = 12


def write_zip(folder, archive, count=COUNT):
    folder.mkdir(parents=True)
    with zipfile.ZipFile(folder / archive, "w") as file:
        for number in range(count):
            file.writestr(f"pictures/{number}.png", drawing(number, "png"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Two of ELEVATER's 20: VOC 2007 with up to three labels an image, hateful-memes with one of two."""
    home = tmp_path_factory.mktemp("elevater")
    voc, memes = home / "classification/voc2007_20211007", home / "classification/hateful_memes_20211014"
    rng = np.random.default_rng(0)
    write_zip(voc, "test.zip")
    for name in ("test_ic.txt", "train_ic.txt"):
        (voc / name).write_text(
            "".join(
                f"test.zip@pictures/{n}.png {','.join(map(str, sorted(rng.choice(20, rng.integers(1, 4), replace=False))))}\n"
                for n in range(COUNT)
            )
        )
    write_zip(memes, "img.zip")
    images = [{"id": n + 1, "file_name": f"pictures/{n}.png", "zip_file": "img.zip"} for n in range(COUNT)]
    notes = [{"id": n + 1, "image_id": n + 1, "category_id": 1 + n % 2} for n in range(COUNT)]
    categories = [{"id": 1, "name": "meme"}, {"id": 2, "name": "hatespeech meme"}]
    for name in ("test_meta.json", "train_meta.json"):
        (memes / name).write_text(json.dumps({"images": images, "annotations": notes, "categories": categories}))
    return home


def odds_of(name, task):
    model = load(name)
    pixels = torch.stack([torch.from_numpy(to_pixels(drawing(n, "png"), 32)) for n in range(COUNT)])
    prompts = [template.replace("{}", one) for one in task.classes for template in task.templates]
    texts = model.encode_text(prompts).reshape(len(task.classes), len(task.templates), -1).mean(dim=1)
    texts = torch.nn.functional.normalize(texts, dim=-1)
    return torch.softmax(100 * model.encode_image(pixels) @ texts.T, dim=1).numpy()


def test_ranking_metrics_means_and_intervals(root, models, tmp_path):
    tasks = find(["voc-2007-classification", "hateful-memes"], root)
    scores = evaluate(
        models[:2], data=root, tasks=["voc-2007-classification", "hateful-memes"], out=tmp_path / "out", precision="fp32",
        device="cpu", save_predictions=True,
    )  # fmt: skip
    found = scores.results
    assert [task["metric"] for task in found["tasks"]] == ["11point_mAP", "roc_auc"]
    entries = []
    for task, one in zip(tasks, found["tasks"], strict=True):
        labels = task.samples().labels
        odds = {label: odds_of(name, task) for name, label in zip(models, ("base", "locked-text"), strict=False)}
        for label, given in odds.items():
            assert one["scores"][label]["value"] == pytest.approx(METRICS[task.metric](labels, given), abs=1e-6)
        entries.append(Paired(task.metric, labels, odds["base"], odds["locked-text"]))
        assert one["images_per_class"] == (labels.sum(axis=0) if task.multilabel else np.bincount(labels)).tolist()
    memes = found["tasks"][1]["scores"]["base"]
    assert memes["value"] == pytest.approx(roc_auc_score(np.arange(COUNT) % 2, odds_of(models[0], tasks[1])[:, 1]))
    voc = found["tasks"][0]["scores"]["base"]
    assert voc["top1"] is None and voc["recalls"] is None and 0 <= voc["ece"] <= 1
    expected = paired_interval_of_mean(entries)
    gain = found["mean"]["locked-text"]["gain"]
    assert gain["difference"] == pytest.approx(expected.difference, abs=1e-6)
    assert (gain["low"], gain["high"]) == pytest.approx((expected.low, expected.high), abs=1e-3)
    assert found["mean_name"] == "mean of 2 of ELEVATER's 20" and found["elevater"] is None
    assert scores.table().splitlines()[-1].startswith("mean of 2 of ELEVATER's 20")

    rows = pq.read_table(tmp_path / "out/predictions/voc-2007-classification.parquet").to_pylist()
    for row in rows:
        assert row["correct"] == (row["predicted"] in row["labels"]) and len(row["labels"]) == len(row["classes"]) > 0
    files = sorted(path.name for path in (tmp_path / "out/elevater/base/zero-shot").iterdir())
    assert files == ["hateful-memes.json", "voc-2007-classification.json"]


def test_probes_of_several_labels_an_image(root, models, tmp_path):
    found = evaluate(
        models[:1], data=root, tasks=["voc-2007-classification", "hateful-memes"], out=tmp_path / "out", precision="fp32",
        device="cpu", probe=["linear"], shots=["1", "all"], seeds=[0, 1],
    ).results  # fmt: skip
    for task in found["tasks"]:
        for shots in ("1 shots", "all images"):
            score = task["scores"][f"base: linear-probe, {shots}"]
            assert len(score["seeds"]) == 2 and 0 <= score["value"] <= 1
    assert found["tasks"][0]["scores"]["base: linear-probe, all images"]["value"] > 0.3


def test_a_tower_is_tuned_on_the_train_split(models, colours, tmp_path, monkeypatch):
    from reactvl.evaluate import finetune

    for name, value in (("RATES", (1e-4,)), ("DECAYS", (0.1,)), ("EPOCHS", 1), ("FINAL_EPOCHS", 3)):
        monkeypatch.setattr(finetune, name, value)
    out = tmp_path / "out"
    found = evaluate(
        models[:1], data=colours, out=out, precision="fp32", device="cpu", probe=["finetune"], shots=["3"], seeds=[0],
        save_predictions=True,
    ).results  # fmt: skip
    column = found["columns"][-1]
    assert (column["method"], column["shots"], column["section"]) == ("finetune", "3", "finetune, 3 shots")
    score = found["tasks"][0]["scores"]["base: finetune, 3 shots"]
    assert score["chosen"][0]["images"] == 9 and score["value"] is not None
    [path] = (out / "elevater/base").glob("finetune_3/*.json")
    visual = sum(one.numel() for one in load(models[0]).net.visual.parameters())
    assert json.loads(path.read_text())["num_trainable_params"] == visual + 3 * 33
    assert not (out / ".work").exists()
