"""The shipped base: small, readable, built on the packaged towers, trained on part A alone."""

import io
import json
import tomllib
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import reactvl as rv

DEMO = Path(__file__).parents[2] / "demo"


def test_the_base_is_what_its_recipe_says():
    base = DEMO / "base"
    assert sum(path.stat().st_size for path in base.iterdir()) < 15e6
    recipe = json.loads((base / "recipe.json").read_text())
    assert recipe["part"] == tomllib.loads((DEMO / "pool.toml").read_text())["part_a"]
    log = [json.loads(line) for line in (base / "metrics.jsonl").read_text().splitlines()]
    assert len(log) == recipe["steps"]
    assert log[-1]["loss"] < log[0]["loss"]


def test_all_that_is_committed_stays_under_60_mb():
    packed = [path for path in DEMO.rglob("*") if path.is_file() and path.suffix not in (".tar", ".pyc")]
    packed += list((DEMO / "tasks").rglob("*.tar"))
    assert sum(path.stat().st_size for path in packed) < 60e6


def test_the_stem_is_the_packaged_network_under_timms_names():
    """The file's names are mapped to timm's; a channel-by-channel check against the file's own tensors."""
    from reactvl.models.packages import resolve

    model = rv.load(str(DEMO / "base"))
    config = model.config["reactvl"]["stem"]
    given = torch.load(resolve(config["weights"]), weights_only=True)
    stem = model.net.visual.conv1.stem.state_dict()
    assert torch.equal(stem["conv_stem.weight"], given["_conv_stem.weight"])
    assert torch.equal(stem["blocks.2.1.conv_dw.weight"], given["_blocks.4._depthwise_conv.weight"])
    assert torch.equal(stem["blocks.0.0.conv_pw.weight"], given["_blocks.0._project_conv.weight"])
    assert torch.equal(stem["blocks.6.0.bn3.running_var"], given["_blocks.15._bn2.running_var"])


def test_the_base_knows_words_and_pictures():
    """It scores a picture of part A's style nearer to its own caption than to most others."""
    import reactvl.tasks as tasks

    model = rv.load(str(DEMO / "base"))
    task = tasks.find(["food"], DEMO / "tasks")[0]
    samples = task.samples("val")
    images = [Image.open(io.BytesIO(samples.read(row))).convert("RGB") for row in range(len(samples))]
    odds = model.classifier(task.classes, task.templates).probabilities(images)
    accuracy = (odds.argmax(axis=1) == np.asarray(samples.labels)).mean()
    assert accuracy > 5 / len(task.classes)  # five times chance
