"""What an evaluation is asked for: every option checked, ELEVATER's yaml files read, before any work."""

import dataclasses
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reactvl import scale
from reactvl.evaluate.columns import PROBES
from reactvl.evaluate.encoding import Machine
from reactvl.evaluate.sources import Finding
from reactvl.manifest import ReactvlError
from reactvl.models.encoder import choose_devices, choose_precision
from reactvl.models.text_head import Rule
from reactvl.tasks.classes import read_class_list
from reactvl.tasks.templates import read_templates

KEY = re.compile(r"[A-Z][A-Z0-9_]*(\.[A-Z0-9_]+)+|OUTPUT_DIR")  # of ELEVATER's yaml


@dataclasses.dataclass(frozen=True)
class Request:
    """The options of `reactvl.evaluate.evaluate`, checked."""

    models: list[Any]
    finding: Finding
    out: Path
    split: str
    prompts: list[str] | None
    metric: str | None
    rule: Rule
    probes: tuple[str, ...]
    shots: tuple[str, ...]
    seeds: tuple[int, ...]
    baselines: bool
    pairs: Path | None
    shares: tuple[float, ...]
    features: Path
    save_predictions: bool
    machine: Machine
    overwrite: bool


def checked(given: dict[str, Any]) -> Request:
    """The request of the stage's keyword arguments; ReactvlError for the first that cannot be met."""
    given = with_yaml(given)
    if given["batch_size"] < 1 or (given["workers"] is not None and given["workers"] < 1):
        raise ReactvlError(f"batch_size {given['batch_size']}, workers {given['workers']}: must be 1 or more")
    if given["out"] is None:
        raise ReactvlError("evaluate: --out is missing: the folder that the results go to")
    if given["data"] is None and given["imagenet_val"] is None:
        raise ReactvlError("evaluate: --data is missing: the folder of the tasks (or --imagenet-val)")
    out = Path(given["out"])
    devices = choose_devices(given["device"])
    precisions = {choose_precision(given["precision"], one) for one in devices}
    if len(precisions) > 1:
        raise ReactvlError(f"device {given['device']}: not all of these have bf16; pass --precision")
    machine = Machine(
        places=tuple(scale.places(given["executor"], [str(one) for one in devices], len(os.sched_getaffinity(0)))),
        precision=precisions.pop(),
        batch_size=given["batch_size"],
        workers=given["workers"],
    )
    prompts = None if given["templates"] is None else read_templates(given["templates"])
    tasks = [given["tasks"]] if isinstance(given["tasks"], str) else given["tasks"]
    finding = Finding(
        names=None if tasks is None else tuple(str(task) for task in tasks),
        data=None if given["data"] is None else Path(given["data"]),
        classes=None if given["classes"] is None else tuple(read_class_list(given["classes"])),
        templates=None if prompts is None else tuple(prompts),
        imagenet_val=None if given["imagenet_val"] is None else Path(given["imagenet_val"]),
    )
    if given["head"] not in ("elevater", "open_clip"):
        raise ReactvlError(f"head {given['head']!r}: use elevater or open_clip")
    return Request(
        models=given["models"],
        finding=finding,
        out=out,
        split=given["split"],
        prompts=prompts,
        metric=given["metric"],
        rule=given["head"],
        probes=probes_of(given["probe"]),
        shots=shots_of(given["shots"]),
        seeds=seeds_of(given["seeds"]),
        baselines=given["baselines"],
        pairs=None if given["pairs"] is None else Path(getattr(given["pairs"], "folder", given["pairs"])),
        shares=tuple(sorted({float(share) for share in given["interpolate"]})),
        features=Path(given["features"]) if given["features"] is not None else out / "features",
        save_predictions=given["save_predictions"],
        machine=machine,
        overwrite=given["overwrite"],
    )


def probes_of(given: str | Sequence[str]) -> tuple[str, ...]:
    probes = tuple(dict.fromkeys([given] if isinstance(given, str) else given))
    if unknown := [name for name in probes if name not in PROBES]:
        raise ReactvlError(f"probe {unknown[0]!r}: use {' or '.join(PROBES)}")
    return probes


def shots_of(given: str | int | Sequence[str | int]) -> tuple[str, ...]:
    """Numbers of training images a class, as text, the fewest first."""
    shots = dict.fromkeys(str(one) for one in ([given] if isinstance(given, str | int) else given))
    for one in shots:
        if one != "all" and not (one.isascii() and one.isdigit() and int(one) > 0):
            raise ReactvlError(f"shots {one}: give numbers of 1 or more, or all")
    if not shots:
        raise ReactvlError("shots: the list is empty; give numbers of images a class, or all")
    return tuple(sorted(shots, key=lambda one: (one == "all", 0 if one == "all" else int(one))))


def seeds_of(given: int | Sequence[int]) -> tuple[int, ...]:
    seeds = tuple(dict.fromkeys([given] if isinstance(given, int) else given))
    if not seeds or any(seed < 0 for seed in seeds):
        raise ReactvlError(f"seeds {list(seeds)}: give one or more, of 0 or above")
    return seeds


def with_yaml(given: dict[str, Any]) -> dict[str, Any]:
    """The arguments with what ELEVATER's yaml files say where the arguments themselves say nothing; `metric` is theirs
    alone. KEY VALUE pairs among the models go over the files."""
    given = given | {"metric": None, "models": listed(given["models"])}
    if given["model_yaml"] is not None and Path(given["model_yaml"]).suffix.lower() not in (".yaml", ".yml"):
        given = given | {"models": [str(given["model_yaml"]), *given["models"]], "model_yaml": None}  # --model NAME
    if given["ds"] is None and given["model_yaml"] is None:
        return given
    from reactvl.evaluate import inputs

    models, pairs = parted(given["models"])
    said = inputs.read(given["ds"], given["model_yaml"], pairs)
    if not models and said.model is None:
        raise ReactvlError("evaluate: no model is named; give --model-yaml, or a NAME:TAG or folder")
    found = {
        "models": models or [said.model],
        "tasks": None if said.task is None else [said.task],
        "shots": None if said.shots is None else [said.shots],
    }
    for name in ("data", "imagenet_val", "split", "metric", "batch_size", "precision", "seeds", "out"):
        found[name] = getattr(said, name)
    defaults = {"tasks": None, "split": "test", "batch_size": 64, "precision": "auto", "data": None, "out": None}
    defaults |= {"imagenet_val": None, "metric": None, "shots": ("5", "20", "50", "all"), "seeds": (0, 1, 2)}
    for name, value in found.items():
        free = name == "models" or same(given[name], defaults[name])
        if value is not None and free:
            given = given | {name: value}
    return given


def listed(models: Any) -> list[Any]:
    return list(models) if isinstance(models, list | tuple) else [models]


def parted(models: list[Any]) -> tuple[list[Any], list[str]]:
    """Models, and from the first word spelled as a key of ELEVATER's on the KEY VALUE pairs."""
    at = next((n for n, word in enumerate(models) if isinstance(word, str) and KEY.fullmatch(word)), len(models))
    return models[:at], [str(word) for word in models[at:]]


def same(given: Any, default: Any) -> bool:
    return (tuple(given) if isinstance(given, list) else given) == default
