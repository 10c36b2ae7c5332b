"""What was published of a model, to stand beside what is measured: ImageNet's figures of REACT's checkpoints and of the models
they were made from, and ELEVATER's means (`published_figures.toml`)."""

import dataclasses
import functools
import tomllib
from collections.abc import Mapping
from importlib import resources
from typing import Any

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models import names, published

IMAGENET, ELEVATER = "imagenet-1k", "elevater"
ZERO_SHOT = "zero-shot"
# The base that a release's tag begins with -> the tag of open_clip's weights, by architecture where they differ.
BASES = {
    "react_clip_": {"": "openai"},
    "react_openclip_laion400m_": {"": "laion400m_e32"},
    "react_openclip_laion2b_": {
        "ViT-B-32": "laion2b_s34b_b79k",
        "ViT-L-14": "laion2b_s32b_b82k",
        "ViT-bigG-14": "laion2b_s39b_b160k",
    },
}


@dataclasses.dataclass(frozen=True)
class Figure:
    """One published figure in percent. `task` is a data set's name, or "elevater" for the mean over its 20; `model` the name
    here of what it is of, None where no weights are published; `eye` marks what was read off a plot, to 0.15 points."""

    task: str
    value: float
    of: str
    model: str | None = None
    method: str = ZERO_SHOT
    shots: str | None = None
    eye: bool = False
    note: str = ""


@functools.cache
def figures() -> tuple[Figure, ...]:
    """All figures that are known, those of the checkpoints first."""
    found = []
    for release in published.RELEASES:
        found.append(Figure(IMAGENET, release.top1, release.file, f"{release.model}:{release.tag}"))
        base = base_of(release)
        if not any(one.model == base for one in found):
            found.append(Figure(IMAGENET, release.base_top1, f"base of {release.file}", base))
    text = resources.files(__package__).joinpath("published_figures.toml").read_text(encoding="utf-8")
    return (*found, *(Figure(**one) for one in tomllib.loads(text)["figure"]))


def base_of(release: published.Release) -> str:
    """The name here of the model that a release was customized from."""
    host, _ = names.GATED.get(release.model, (release.model, 0))
    tags = next(tags for start, tags in BASES.items() if release.tag.startswith(start))
    return f"{host}:{tags.get(host, tags.get(''))}"


def of_model(name: str) -> list[Figure]:
    """The published figures of a model in any spelling of its name; none for a folder or a file of one's own."""
    wanted = identity(name)
    return [] if wanted is None else [one for one in figures() if one.model and identity(one.model) == wanted]


@functools.cache
def identity(name: str) -> tuple[str, int, str] | None:
    """Architecture, gated layers and tag of a name, whatever its spelling; None for what is no published model."""
    try:
        parsed = names.parse(name, open_clip.list_models())
    except ReactvlError:
        return None
    if parsed.kind != "named" or not parsed.tag or parsed.weights_file:
        return None
    return parsed.name.removesuffix("-quickgelu"), parsed.last_k, names.fold(parsed.tag)


def beside(results: Mapping[str, Any]) -> list[tuple[str, Figure, float | None]]:
    """(column's label, published figure, the value here in percent) of every figure of a column's model and way of adapting, as
    far as this evaluation has the task; the value is None where the mean is not over all 20."""
    names_of = {model["label"]: model["name"] for model in results["models"]}
    tasks = {task.get("benchmark"): task for task in results["tasks"]}
    found = []
    for column in results["columns"]:
        for figure in of_model(names_of[column["model"]]):
            if (figure.method, figure.shots) != (column["method"], column["shots"]):
                continue
            if figure.task == ELEVATER:
                mean = mean_of_20(results, column["label"])
                if mean is not None:
                    found.append((column["label"], figure, mean))
            elif figure.task in tasks and column["label"] in tasks[figure.task]["scores"]:
                value = tasks[figure.task]["scores"][column["label"]]["value"]
                found.append((column["label"], figure, None if value is None else 100 * value))
    return found


def mean_of_20(results: Mapping[str, Any], label: str) -> float | None:
    """A column's mean over ELEVATER's 20 in percent; None where not all of them were evaluated."""
    part = results.get("elevater")
    if part:
        value = part["mean"][label]["value"] if part["tasks"] == 20 else None
    else:
        value = results["mean"][label]["value"] if results["mean_name"] == "mean of 20" else None
    return None if value is None else 100 * value
