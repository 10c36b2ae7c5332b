"""ELEVATER's two kinds of yaml as input: `reactvl evaluate --ds DATASET.yaml --model-yaml MODEL.yaml KEY VALUE ...`.

Keys are dotted as ELEVATER spells them (`TEST.MODEL_FILE`); the model's file goes over the data set's, and pairs from the command
line over both. Every key is one of three: it has its equal here and is used, it asks for what is otherwise here and ends the
command, or it has no meaning here and is named. Paths are relative to the folder in which the command is typed, as there.
"""

import ast
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from reactvl.evaluate import spec_model
from reactvl.manifest import ReactvlError
from reactvl.progress import say
from reactvl.tasks import benchmarks

LARGEST = 1_000_000  # bytes of a yaml file
IMAGENET = "imagenet-1k"
USED = {
    "BASE", "DATASET.DATASET", "DATASET.ROOT", "DATASET.TEST_SET", "DATASET.NUM_CLASSES", "DATASET.NUM_SAMPLES_PER_CLASS",
    "DATASET.RANDOM_SEED_SAMPLING", "MODEL.CLIP_FP32", "OUTPUT_DIR", "TEST.METRIC", "TEST.BATCH_SIZE_PER_GPU",
    *spec_model.USED,
}  # fmt: skip
# What would change the scores and is not here -> the one value that changes nothing, and the way out.
ONLY = {
    "DATASET.CENTER_CROP": (True, "images are cut at the centre, as in the published evaluations"),
    "TEST.CENTER_CROP": (True, "images are cut at the centre, as in the published evaluations"),
    "KNOWLEDGE.WORDNET.USE_HIERARCHY": (False, "prompts are a file of your own: --templates, --classes"),
    "KNOWLEDGE.WORDNET.USE_DEFINITION": (False, "prompts are a file of your own: --templates, --classes"),
    "KNOWLEDGE.WIKITIONARY.USE_DEFINITION": (False, "prompts are a file of your own: --templates, --classes"),
    "KNOWLEDGE.GPT3.USE_GPT3": (False, "prompts are a file of your own: --templates, --classes"),
    "TRAIN.EMULATE_ZERO_SHOT": (False, "zero-shot needs no probe: leave out --probe"),
    "TRAIN.TWO_LR": (False, "one learning rate is chosen for tower and head"),
    "TRAIN.INIT_HEAD_WITH_TEXT_ENCODER": (True, "a probe's head starts from the text tower"),
    "TRAIN.MERGE_ENCODER_AND_HEAD_PROJ": (False, "the head is a layer of its own"),
}


@dataclasses.dataclass(frozen=True)
class Given:
    """A key's value, and the file or command line that it is from."""

    key: str
    value: Any
    where: str

    def wrong(self, why: str) -> ReactvlError:
        return ReactvlError(f"{self.where}: {self.key} {self.value}: {why}")


@dataclasses.dataclass(frozen=True)
class Settings:
    """What the yaml files say, in this tool's words; None where they do not say it.

    `model` is a model's name here; `task` a name for `tasks.find`, whose folder is `data`, or `imagenet_val` for ImageNet's images
    by class folder. `shots` and `seeds` are a probe's. `out` is below OUTPUT_DIR, a folder a data set. `unused` are the keys
    without meaning here.
    """

    model: str | None = None
    task: str | None = None
    data: Path | None = None
    imagenet_val: Path | None = None
    split: str | None = None
    metric: str | None = None
    batch_size: int | None = None
    precision: str | None = None
    shots: str | None = None
    seeds: list[int] | None = None
    out: Path | None = None
    unused: list[str] = dataclasses.field(default_factory=list)


def read(ds: Path | None, model_yaml: Path | None, overrides: Sequence[str] = ()) -> Settings:
    """Read ELEVATER's yaml files and `overrides`, KEY VALUE KEY VALUE ...; keys without meaning here are named on one line.

    Raises ReactvlError, with file and key, for what cannot be read, contradicts the benchmark, or asks for what is otherwise here.
    A checkpoint of the hub (`hf:REPOSITORY:FILE`) that is not one of REACT's published ones is fetched.
    """
    given: dict[str, Given] = {}
    for path in (ds, model_yaml):
        if path is not None:
            given |= {found.key: found for found in file_keys(Path(path))}
    given |= {found.key: found for found in pairs(overrides)}
    for key, (neutral, instead) in ONLY.items():
        if key in given and switch(given[key]) != neutral:
            raise given[key].wrong(f"is not here; {instead}")
    settings = Settings(
        **task_of(given),
        **probe_of(given),
        metric=metric_of(given),
        batch_size=number(given, "TEST.BATCH_SIZE_PER_GPU", least=1),
        precision="fp32" if "MODEL.CLIP_FP32" in given and switch(given["MODEL.CLIP_FP32"]) else None,
        out=out_of(given),
        unused=sorted(key for key in given if key not in USED and key not in ONLY),
        model=spec_model.name_of(given),  # last: it may fetch
    )
    if settings.unused:
        say(f"evaluate: keys without meaning here: {', '.join(settings.unused)}")
    return settings


def pairs(overrides: Sequence[str]) -> Iterator[Given]:
    """KEY VALUE pairs of the command line; a value is a Python literal, or else the text itself."""
    words = [str(word) for word in overrides]
    if len(words) % 2:
        raise ReactvlError(
            f"{' '.join(words)}: behind --ds and --model-yaml stand pairs of KEY VALUE; {words[-1]} has no value"
        )
    for key, text in zip(words[::2], words[1::2], strict=True):
        if not key.replace("_", "").replace(".", "").isalnum() or key != key.upper():
            raise ReactvlError(f"{key} {text}: no key of ELEVATER's, which are spelled as TEST.METRIC")
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            value = text
        yield Given(key, value, "command line")


def file_keys(path: Path, above: tuple[Path, ...] = ()) -> Iterator[Given]:
    """Every key of a yaml file, those of its BASE files first."""
    try:
        if path.stat().st_size > LARGEST:
            raise ReactvlError(f"{path}: is over {LARGEST:,} bytes, no file of settings")
        values = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError, UnicodeError, ValueError, RecursionError) as fault:
        raise ReactvlError(f"{path}: cannot be read as yaml ({' '.join(str(fault).split())})") from None
    if not isinstance(values, dict):
        raise ReactvlError(f"{path}: holds no keys; ELEVATER's yaml files are as `DATASET: {{DATASET: dtd}}`")
    bases = values.get("BASE") or []
    for base in [bases] if isinstance(bases, str) else bases:
        if base:
            if path in above or len(above) > 8:
                raise ReactvlError(f"{path}: BASE leads back to itself")
            yield from file_keys(path.parent / str(base), (*above, path))
    yield from flat(values, "", str(path), 0)


def flat(values: dict, before: str, where: str, depth: int) -> Iterator[Given]:
    if depth > 8:
        raise ReactvlError(f"{where}: {before.rstrip('.')} goes deeper than any key of ELEVATER's")
    for name, value in values.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{before}{name}.", where, depth + 1)
        else:
            yield Given(f"{before}{name}", value, where)


def task_of(given: dict[str, Given]) -> dict[str, Any]:
    """Which data: ELEVATER's root, or a folder whose TEST_SET has a folder a class, as the toolkit looks for them."""
    named, root = given.get("DATASET.DATASET"), given.get("DATASET.ROOT")
    if named is None or not named.value:
        return {"data": Path(str(root.value))} if root and root.value else {}
    name = benchmarks.known(str(named.value)) or str(named.value)
    classes = number(given, "DATASET.NUM_CLASSES")
    if name in benchmarks.names() and classes and classes != len(benchmarks.shipped(name).classes):
        count = len(benchmarks.shipped(name).classes)
        raise given["DATASET.NUM_CLASSES"].wrong(f"{name} has {count} classes; classes of your own are --classes FILE")
    if root is None or not root.value:
        return {"task": name}
    folder, part = Path(str(root.value)), str(given["DATASET.TEST_SET"].value) if "DATASET.TEST_SET" in given else "val"
    if not (folder / "classification").is_dir() and (folder / part).is_dir():
        if name == IMAGENET:
            return {"task": name, "imagenet_val": folder / part}
        here = folder.resolve()
        return {"task": here.name, "data": here.parent, "split": part}
    return {"task": name, "data": folder}


def metric_of(given: dict[str, Given]) -> str | None:
    """TEST.METRIC, which must be the benchmark's own: it is what published figures are in."""
    found = given.get("TEST.METRIC")
    if found is None or not found.value:
        return None
    named = given.get("DATASET.DATASET")
    own = benchmarks.metric_of(str(named.value)) if named and named.value else None
    if str(found.value) not in METRICS:
        raise found.wrong(f"no such metric; there are {', '.join(METRICS)}")
    if own is not None and own != found.value:
        raise found.wrong(f"{named.value} is scored by {own}; another metric is a task of your own, in a .toml file")
    return str(found.value)


METRICS = ("accuracy", "mean-per-class", "roc_auc", "11point_mAP")


def probe_of(given: dict[str, Given]) -> dict[str, Any]:
    """Shots and seed of a probe; -1 samples a class is all of them."""
    shots = number(given, "DATASET.NUM_SAMPLES_PER_CLASS", least=-1)
    seed = number(given, "DATASET.RANDOM_SEED_SAMPLING", least=0)
    return {
        "shots": None if shots is None else "all" if shots == -1 else str(shots),
        "seeds": None if seed is None else [seed],
    }


def out_of(given: dict[str, Given]) -> Path | None:
    """OUTPUT_DIR and in it the data set's name, since an evaluation's folder holds one result."""
    found, named = given.get("OUTPUT_DIR"), given.get("DATASET.DATASET")
    if found is None or not found.value:
        return None
    name = str(named.value).replace("/", "_") if named and named.value else "evaluation"
    return Path(str(found.value)) / name


def number(given: dict[str, Given], key: str, least: int = 0) -> int | None:
    found = given.get(key)
    if found is None:
        return None
    if isinstance(found.value, bool) or not isinstance(found.value, int) or found.value < least:
        raise found.wrong(f"must be a whole number from {least} on")
    return found.value


def switch(found: Given) -> bool:
    said = {"true": True, "false": False, "1": True, "0": False}.get(str(found.value).lower())
    if said is None:
        raise found.wrong("must be True or False")
    return said
