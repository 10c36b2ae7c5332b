"""A task: what to classify, with which names and prompts, scored how, and its images with their labels.

[task] = find(["food"], Path("data"))
test = task.samples("test")
test.read(0), test.labels[0], task.classes[test.labels[0]]
"""

import dataclasses
import difflib
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from reactvl.manifest import ReactvlError

Metric = Literal["accuracy", "mean-per-class"]


@dataclasses.dataclass(frozen=True)
class Samples:
    """The labelled images of one split; position i in `names` and `labels` is the same image.

    `labels` is int64 (N,); `unusable` lists what was found beside them (name, reason): an image without a label, a
    label that is no class. `fingerprint` changes when an image, a label or their order does (up to what a catalogue
    sees: names, places, sizes, and the ends of every shard or the modification time of every file).
    """

    names: list[str]
    labels: np.ndarray
    unusable: list[tuple[str, str]]
    fingerprint: str
    reader: Callable[[int], bytes]

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        """The encoded bytes of one image, by one read; ReactvlError when the data have moved or shrunk since."""
        return self.reader(index)


@dataclasses.dataclass(frozen=True)
class Task:
    """Classes by label, prompt templates with `{}`, and the metric its benchmark reports."""

    name: str
    classes: list[str]
    templates: list[str]
    metric: Metric
    folder: Path
    splits: dict[str, Callable[[], Samples]]

    def samples(self, split: str = "test") -> Samples:
        """The labelled images of a split; ReactvlError for a split that the task lacks or that holds no usable
        image."""
        if split not in self.splits:
            raise ReactvlError(f"task {self.name}: has no split '{split}'; {self.folder} has {', '.join(self.splits)}")
        samples = self.splits[split]()
        if not len(samples):
            seen = (
                f"; the first of {len(samples.unusable):,} faults: {': '.join(samples.unusable[0])}"
                if samples.unusable
                else ""
            )
            raise ReactvlError(f"task {self.name}: split '{split}' in {self.folder} holds no labelled image{seen}")
        return samples


def find(names: list[str] | None, data: Path) -> list[Task]:
    """The tasks called `names` under the folder `data`, in that order; all of them, sorted by name, for None.

    A task is a folder in `data`, or `data` itself. Case, `-`, `_` and a leading `wds_` do not matter in a name. Raises
    ReactvlError for a folder that is missing or holds no task and for an unknown name (with the nearest known ones).
    """
    from reactvl.tasks import image_folder, webdataset

    data = Path(data)
    if not data.is_dir():
        raise ReactvlError(f"data {data}: no such folder; give the folder that holds the tasks' folders")

    def task(folder: Path) -> Task | None:
        return webdataset.read_task(folder) or image_folder.read_task(folder)

    if names is None:
        alone = task(data)
        found = [alone] if alone else [read for folder in folders(data) if (read := task(folder))]
        if not found:
            raise ReactvlError(
                f"data {data}: holds no task: neither classnames.txt with SPLIT/0.tar nor SPLIT/CLASS/image.jpg, "
                "here or one level below"
            )
        return found
    if not names:
        raise ReactvlError("tasks: the list is empty; leave the option out for all tasks of the data folder")
    known = {folded(folder.name): folder for folder in folders(data)} | {folded(data.resolve().name): data}
    chosen: dict[Path, Task] = {}
    for name in names:
        folder = known.get(folded(name))
        read = task(folder) if folder else None
        if read is None:
            present = sorted(folder.name for folder in folders(data))
            near = difflib.get_close_matches(name, present, n=3, cutoff=0.5) or present[:8]
            hint = (
                "holds no task in a known format"
                if folder
                else f"no such task in {data}; there: {', '.join(near) or 'nothing'}"
            )
            raise ReactvlError(f"task {name}: {hint}")
        chosen.setdefault(folder, read)
    return list(chosen.values())


def folders(data: Path) -> list[Path]:
    return sorted(path for path in data.iterdir() if path.is_dir() and not path.name.startswith("."))


def folded(name: str) -> str:
    return name.lower().replace("_", "-").removeprefix("wds-")


def metric_of(name: str) -> Metric:
    """The metric that the benchmark of this name reports by class; accuracy for any other."""
    from reactvl.tasks.benchmarks import metric_of as reported

    return "mean-per-class" if reported(name) == "mean-per-class" else "accuracy"
