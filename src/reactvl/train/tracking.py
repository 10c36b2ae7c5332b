"""What a run tells: a line a step in `metrics.jsonl`, a progress line, TensorBoard and Weights & Biases where asked for.

Figures of a step are fetched from the device only after the next step was launched, so that a GPU is never waited for.
"""

import contextlib
import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from reactvl.manifest import ReactvlError, write_bytes
from reactvl.progress import Progress

TRACKERS = ("tensorboard", "wandb")
SETTLED = 20.0  # seconds before MFU is told
SHOWN = 0.25  # seconds between figures sent to trackers: a tracker is no place for every step of a fast run


class Tracker:
    """Writes records of steps and validations. Only the first process has one that writes."""

    def __init__(self, folder: Path, sinks: list[Any]):
        self.metrics, self.validations = folder / "metrics.jsonl", folder / "validation.jsonl"
        self.sinks = sinks
        self.log = self.metrics.open("a")
        self.sent = 0.0

    def step(self, record: dict[str, Any], extra: dict[str, float]) -> None:
        """One step: `record` as it stands in metrics.jsonl; `extra` are wall-clock figures, for trackers alone."""
        self.log.write(json.dumps(record) + "\n")
        now = time.monotonic()
        if self.sinks and now - self.sent >= SHOWN:
            self.sent = now
            flat = {key: value for key, value in record.items() if isinstance(value, int | float) and key != "step"}
            flat |= {f"gate/{name}": value for name, value in record.get("gates", {}).items()}
            self.send(record["step"], {f"train/{key}": value for key, value in (flat | extra).items()})

    def validation(self, record: dict[str, Any]) -> None:
        """One validation, after `record["step"]` steps."""
        with open(self.validations, "a") as file:
            file.write(json.dumps(record) + "\n")
        self.send(
            record["step"], {f"val/{key}": value for key, value in record.items() if isinstance(value, int | float)}
        )

    def send(self, step: int, values: dict[str, float]) -> None:
        for sink in self.sinks:
            sink.send(step, values)

    def flush(self) -> None:
        self.log.flush()

    def close(self) -> None:
        self.log.close()
        for sink in self.sinks:
            sink.close()


def trim(folder: Path, step: int) -> None:
    """Cut the records to those of `step` steps done, whatever a killed run wrote beyond its last checkpoint."""
    for name, beyond in (("metrics.jsonl", step), ("validation.jsonl", step + 1)):
        path = folder / name
        if not path.exists():
            continue
        kept = [line for line in path.read_bytes().splitlines(keepends=True) if number_of(line) < beyond]
        write_bytes(path, b"".join(kept))


def number_of(line: bytes) -> float:
    """The step of a record; beyond all others where the line was cut short."""
    try:
        return json.loads(line)["step"] if line.endswith(b"\n") else math.inf
    except ValueError:
        return math.inf


@contextlib.contextmanager
def tracker(
    folder: Path, report_to: list[str], *, out: Path, name: str, settings: dict[str, Any], start: int
) -> Iterator[Tracker]:
    """A Tracker whose records begin at step `start`; its files and connections are closed at the end."""
    trim(folder, start)
    sinks = [SINKS[kind](out, name, settings, start) for kind in report_to]
    made = Tracker(folder, sinks)
    try:
        yield made
    finally:
        made.close()


def check_report_to(report_to: list[str]) -> list[str]:
    """The trackers asked for; open_clip's `all` is every one. ReactvlError for another, and for one that is not installed."""
    import importlib.util

    wanted = [kind for one in report_to for kind in (TRACKERS if one == "all" else (one,)) if one not in ("", "none")]
    for kind in wanted:
        if kind not in TRACKERS:
            raise ReactvlError(f"report_to {kind!r}: use {' and '.join(TRACKERS)}")
        if importlib.util.find_spec(kind) is None:
            raise ReactvlError(f"report_to {kind}: it is not installed: pip install 'reactvl[track]'")
    return list(dict.fromkeys(wanted))


class TensorBoard:
    """Event files in the run's `tensorboard/`; figures of steps that are done again after a kill replace the old."""

    def __init__(self, out: Path, name: str, settings: dict[str, Any], start: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(out / "tensorboard"), purge_step=start or None)
        self.writer.add_text("options", json.dumps(settings, default=str, indent=1), 0)

    def send(self, step: int, values: dict[str, float]) -> None:
        for key, value in values.items():
            self.writer.add_scalar(key, value, step)

    def close(self) -> None:
        self.writer.close()


class WeightsAndBiases:
    """A run of wandb, which goes on under its name after a kill; WANDB_MODE=offline keeps it in the run's `wandb/`."""

    def __init__(self, out: Path, name: str, settings: dict[str, Any], start: int):
        import wandb

        # the same folder is the same run, whatever its name is called elsewhere
        id_ = re.sub(r"[^A-Za-z0-9_-]", "-", name) + "-" + hashlib.sha256(str(out.resolve()).encode()).hexdigest()[:8]
        self.run = wandb.init(
            project="reactvl",
            name=name,
            id=id_,
            resume="allow",
            dir=str(out),
            config=json.loads(json.dumps(settings, default=str)),
            settings=wandb.Settings(console="off", silent=True),
        )

    def send(self, step: int, values: dict[str, float]) -> None:
        self.run.log(values, step=step)

    def close(self) -> None:
        self.run.finish()


SINKS = {"tensorboard": TensorBoard, "wandb": WeightsAndBiases}


class Pace:
    """Samples a second, the share of time that waits for data, and, where the work of a sample is known, MFU.

    `flops`: of a sample. `peak` gives the machine's FLOP/s in all processes; it is asked once, `SETTLED` seconds into the run,
    because it is measured.
    """

    def __init__(self, flops: float | None = None, peak: Callable[[], float] | None = None):
        self.began = time.monotonic()
        self.samples, self.waited = 0, 0.0
        self.flops, self.peak = flops, peak
        self.rate: float | None = None

    @property
    def seconds(self) -> float:
        return max(time.monotonic() - self.began, 1e-9)

    def figures(self) -> dict[str, float]:
        found = {"samples_per_second": self.samples / self.seconds, "data_wait_share": self.waited / self.seconds}
        if self.flops and self.peak and self.seconds > SETTLED:
            if self.rate is None:
                self.rate = self.peak()
            found["mfu"] = self.samples * self.flops / self.seconds / self.rate
        return found

    def show(self, bar: Progress, record: dict[str, Any]) -> None:
        """One more step on the progress line."""
        figures = self.figures()
        parts = [f"loss {record['loss']:.3f}", f"{figures['samples_per_second']:,.0f} samples/s"]
        if "mfu" in figures:
            parts.append(f"MFU {figures['mfu']:.0%}")
        parts += [f"waiting for data {figures['data_wait_share']:.0%}", f"scale {record['logit_scale']:.1f}"]
        if "widest_gate" in record:
            parts.append(f"gates up to {record['widest_gate']:.3f}")
        bar.advance(1, ", ".join(parts))
