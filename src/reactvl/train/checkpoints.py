"""Checkpoints of a run: each whole or not there, the last few kept, and the best by validation.

    FOLDER/step_0000400.safetensors     weight:NAME of every trained tensor, AdamW's step:, exp_avg: and exp_avg_sq: of it;
                                        in the header the step, the fp16 scaler's state, the global batch, the validation

A step's pairs, views and learning rates are functions of (seed, step): nothing of loaders or schedules is kept.
"""

import dataclasses
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from reactvl.manifest import ReactvlError, replacing
from reactvl.train.step import Stepper

NAME = re.compile(r"step_(\d+)\.safetensors")
HEADER = "reactvl"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint on disk. `facts`: what was said of it, `validation` (the greater the better) among them."""

    path: Path
    step: int
    facts: dict[str, Any]

    @property
    def value(self) -> float | None:
        return self.facts.get("validation")


def save(folder: Path, stepper: Stepper, facts: dict[str, Any], keep: int) -> Path:
    """Write the checkpoint of the steps done, and remove those that are neither of the last `keep` nor the best."""
    tensors = {}
    for name, parameter in stepper.trained.items():
        kept = {"weight": parameter.detach(), **stepper.optimizer.state.get(parameter, {})}
        tensors |= {f"{kind}:{name}": tensor.cpu().contiguous() for kind, tensor in kept.items()}
    # under one name: safetensors writes several in any order, and a run that was killed ends in the same bytes
    said = {"step": stepper.steps, "facts": facts, "scaler": stepper.scaler.state_dict()}
    header = {HEADER: json.dumps(said, sort_keys=True)}
    path = folder / f"step_{stepper.steps:07d}.safetensors"
    with replacing(path) as part:
        save_file(tensors, part, header)
    prune(folder, keep)
    return path


def prune(folder: Path, keep: int) -> None:
    for stray in folder.glob(".*.part"):  # of a run that was killed while it wrote
        stray.unlink(missing_ok=True)
    found = whole(folder)
    stay = {one.path for one in found[-keep:]} | {one.path for one in [best(found)] if one}
    for one in found:
        if one.path not in stay:
            one.path.unlink(missing_ok=True)


def whole(folder: Path) -> list[Checkpoint]:
    """The checkpoints of a folder, the oldest first."""
    found = []
    for path in folder.glob("step_*.safetensors"):
        if NAME.fullmatch(path.name):
            header = header_of(path)
            found.append(Checkpoint(path, header["step"], header["facts"]))
    return sorted(found, key=lambda one: one.step)


def best(found: list[Checkpoint]) -> Checkpoint | None:
    """The checkpoint of the greatest validation, of equals the first; None where none was validated."""
    judged = [one for one in found if one.value is not None]
    return max(judged, key=lambda one: (one.value, -one.step)) if judged else None


def header_of(path: Path) -> dict[str, Any]:
    """`step`, `facts` and `scaler` of a checkpoint; ReactvlError for another file."""
    try:
        with safe_open(path, "pt") as file:
            return json.loads((file.metadata() or {})[HEADER])
    except (SafetensorError, OSError, KeyError, ValueError) as fault:
        raise ReactvlError(
            f"{path}: not a checkpoint of this tool ({fault}); remove it to go on from the one before"
        ) from None


def restore(checkpoint: Checkpoint, stepper: Stepper) -> None:
    """Set weights, moments, scaler and step; ReactvlError when it is of another set of trained tensors."""
    with safe_open(checkpoint.path, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    saved = {key.removeprefix("weight:") for key in tensors if key.startswith("weight:")}
    if differing := sorted(saved ^ set(stepper.trained)):
        raise ReactvlError(
            f"{checkpoint.path}: is of a run that trained other tensors ({len(differing)} differ, such as {differing[0]}); "
            "give the options of that run, or --overwrite"
        )
    with torch.no_grad():
        for name, parameter in stepper.trained.items():
            parameter.copy_(tensors[f"weight:{name}"])
            kept = {kind: tensors[f"{kind}:{name}"] for kind in MOMENTS if f"{kind}:{name}" in tensors}
            if kept:
                stepper.optimizer.state[parameter] = {kind: one.to(parameter.device) for kind, one in kept.items()}
    scaler = header_of(checkpoint.path)["scaler"]
    if scaler and stepper.scaler.is_enabled():
        stepper.scaler.load_state_dict(scaler)
    stepper.steps = checkpoint.step


def load_weights(checkpoint: Checkpoint, stepper: Stepper) -> None:
    """Set the trained weights alone."""
    with safe_open(checkpoint.path, "pt") as file, torch.no_grad():
        for name, parameter in stepper.trained.items():
            parameter.copy_(file.get_tensor(f"weight:{name}"))


def publish(folder: Path, out: Path) -> None:
    """Move a finished run's checkpoints to `out`: `last.safetensors`, the earlier ones by their step, and, where there was
    validation, `best.safetensors`."""
    found = whole(folder)
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    champion = best(found)
    if champion:
        shutil.copyfile(champion.path, out / "best.safetensors")
    for one in found[:-1]:
        if one is not champion:
            os.replace(one.path, out / one.path.name)
    os.replace(found[-1].path, out / "last.safetensors")
