"""Fine-tuning on a task: better than the head it begins at, resumed to the same scores, the model left alone."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests_support import COLOURS, drawing, write_model

from reactvl.evaluate import finetune
from reactvl.manifest import ReactvlError
from reactvl.models import load
from reactvl.models.model import Model
from reactvl.tasks import Task
from reactvl.train import loop

IMAGES = 36


def accuracy(labels: np.ndarray, scores: np.ndarray) -> float:
    return float((scores.argmax(axis=1) == labels).mean())


@pytest.fixture
def small(monkeypatch):
    """Steps of a small tower at rates that suit it."""
    monkeypatch.setattr(finetune, "RATES", (1e-4, 1e-3))
    monkeypatch.setattr(finetune, "DECAYS", (0.1, 0.01))
    monkeypatch.setattr(finetune, "STEPS", 4)
    monkeypatch.setattr(finetune, "FINAL_STEPS", 12)
    monkeypatch.setattr(finetune, "BATCH", 12)


@pytest.fixture
def model(tmp_path) -> Model:
    return load(write_model(tmp_path / "model", 0))


def parts(reads: list[int] | None = None) -> dict:
    """Coloured pictures by number; the head is random."""

    def read(row: int) -> bytes:
        if reads is not None:
            reads.append(row)
        return drawing(row)

    head = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
    return {
        "train": finetune.Images(read, np.arange(IMAGES)),
        "labels": np.arange(IMAGES) % 3,
        "task": Task("colours", list(COLOURS), ["a {}"], "accuracy", Path("colours"), {}),
        "test": finetune.Images(read, np.arange(500, 530)),
        "head": head / np.linalg.norm(head, axis=1, keepdims=True),
        "seeds": [0],
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
    }


def test_a_tuned_tower_tells_what_the_head_could_not(small, model, tmp_path):
    before = {name: one.clone() for name, one in model.net.state_dict().items()}
    reads: list[int] = []
    given, told = parts(reads), []
    made = finetune.finetune_task(
        model, **given, shots=["all"], work=tmp_path / "work", done=lambda shots, seed: told.append((shots, seed))
    )["all"]
    wanted = np.arange(500, 530) % 3
    assert made.scores.shape == (1, 30, 3)
    np.testing.assert_allclose(made.scores.sum(axis=2), 1, atol=1e-5)
    assert accuracy(wanted, made.scores[0]) >= 0.8
    assert told == [("all", 0)]
    assert made.chosen[0]["lr"] in finetune.RATES
    assert made.chosen[0]["images"] == IMAGES
    assert 0 <= made.chosen[0]["validation"] <= 1
    assert made.trained == sum(one.numel() for one in model.net.visual.parameters()) + 3 * 33
    assert all(torch.equal(one, before[name]) for name, one in model.net.state_dict().items())

    reads.clear()
    again = finetune.finetune_task(model, **given, shots=["all"], work=tmp_path / "work")["all"]
    np.testing.assert_array_equal(again.scores, made.scores)
    assert again.chosen == made.chosen
    assert not reads  # what is done is kept


def test_a_run_that_stopped_goes_on_to_the_same_scores(small, model, tmp_path, monkeypatch):
    monkeypatch.setattr(finetune, "SAVED", 5)
    whole = finetune.finetune_task(model, **parts(), shots=[5], work=tmp_path / "whole")["5"]
    step = finetune.ClassificationStepper.step

    def stopping(self, batch, factor):
        if self.steps == 7:  # of the final training: trials have 4
            raise KeyboardInterrupt
        return step(self, batch, factor)

    monkeypatch.setattr(finetune.ClassificationStepper, "step", stopping)
    with pytest.raises(KeyboardInterrupt):
        finetune.finetune_task(model, **parts(), shots=[5], work=tmp_path / "cut")
    assert [path.name for path in tmp_path.glob(f"cut/*/{loop.CHECKPOINTS}/*")] == ["step_0000005.safetensors"]
    monkeypatch.setattr(finetune.ClassificationStepper, "step", step)
    resumed = finetune.finetune_task(model, **parts(), shots=[5], work=tmp_path / "cut")["5"]
    np.testing.assert_array_equal(resumed.scores, whole.scores)
    assert not list(tmp_path.glob(f"cut/*/{loop.CHECKPOINTS}"))


def test_an_image_that_can_no_longer_be_read_is_named(small, model, tmp_path):
    given = parts()
    given["train"] = finetune.Images(lambda row: b"" if row == 7 else drawing(row), np.arange(IMAGES))
    with pytest.raises(ReactvlError, match="colours: image 7"):
        finetune.finetune_task(model, **given, shots=["all"], work=tmp_path / "work")
