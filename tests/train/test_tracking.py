"""Records of a run: trimmed to a checkpoint, sent to TensorBoard and wandb, and the figures of the progress line."""

import importlib.util
import json
import time

import pytest

from reactvl.manifest import ReactvlError
from reactvl.progress import Progress
from reactvl.train import tracking
from reactvl.train.tracking import Pace, check_report_to, tracker, trim


def record(step: int) -> dict:
    return {
        "step": step,
        "epoch": 0.1 * step,
        "loss": 2.5,
        "lr": 1e-3,
        "logit_scale": 14.0,
        "widest_gate": 0.25,
        "gates": {"5.attn": -0.25},
    }


def test_records_beyond_the_checkpoint_are_cut_also_half_written_ones(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({"step": n}) + "\n" for n in range(7)) + '{"step": 3, "lo'
    )
    (tmp_path / "validation.jsonl").write_text('{"step": 2}\n{"step": 4}\n{"step": 6}\n')
    trim(tmp_path, 4)
    assert [json.loads(line)["step"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()] == [0, 1, 2, 3]
    # a validation after 4 steps belongs to the checkpoint of 4 steps
    assert [json.loads(line)["step"] for line in (tmp_path / "validation.jsonl").read_text().splitlines()] == [2, 4]
    trim(tmp_path, 0)
    assert (tmp_path / "metrics.jsonl").read_bytes() == b""


def test_tensorboard_holds_the_figures(tmp_path, monkeypatch):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    monkeypatch.setattr(tracking, "SHOWN", 0.0)
    with tracker(tmp_path, ["tensorboard"], out=tmp_path, name="run", settings={"tune": "full"}, start=0) as log:
        for step in range(3):
            log.step(record(step), {"samples_per_second": 100.0})
        log.validation({"step": 3, "epoch": 0.3, "val_loss": 1.5})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.value for event in events.Scalars("train/loss")] == [2.5] * 3
    assert [event.step for event in events.Scalars("train/samples_per_second")] == [0, 1, 2]
    assert events.Scalars("train/gate/5.attn")[0].value == -0.25
    assert [(event.step, event.value) for event in events.Scalars("val/val_loss")] == [(3, 1.5)]


@pytest.mark.slow
def test_wandb_offline_keeps_a_run(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr(tracking, "SHOWN", 0.0)
    with tracker(tmp_path, ["wandb"], out=tmp_path, name="a run/1", settings={"tune": "full"}, start=0) as log:
        log.step(record(0), {})
    [stored] = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    deadline = time.monotonic() + 30  # another process writes it
    while b"train/gate/5.attn" not in stored.read_bytes() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert b"train/gate/5.attn" in stored.read_bytes()


def test_trackers_are_checked_before_any_work(monkeypatch):
    assert check_report_to([]) == check_report_to(["none"]) == []
    assert check_report_to(["all", "wandb"]) == ["tensorboard", "wandb"]
    with pytest.raises(ReactvlError, match="tensorboard and wandb"):
        check_report_to(["mlflow"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ReactvlError, match=r"reactvl\[track\]"):
        check_report_to(["wandb"])


def test_the_progress_line_says_pace_waiting_work_scale_and_gates():
    asked = []
    pace = Pace(flops=4e9, peak=lambda: asked.append(1) or 1e12)
    assert "mfu" not in pace.figures()  # a run of seconds does not measure the machine
    pace.began -= 25.0
    pace.samples, pace.waited = 2500, 6.25
    figures = pace.figures()
    assert figures["samples_per_second"] == pytest.approx(100, rel=1e-2)
    assert figures["data_wait_share"] == pytest.approx(0.25, rel=1e-2)
    assert figures["mfu"] == pytest.approx(0.4, rel=1e-2)  # 2,500 x 4e9 / 25 s of 1e12 a second
    bar = Progress("customizing", 10, "steps")
    pace.show(bar, record(0))
    assert bar.note == "loss 2.500, 100 samples/s, MFU 40%, waiting for data 25%, scale 14.0, gates up to 0.250"
    assert asked == [1]
