"""A task: what to classify, with which names and prompts, scored how, and its images with their labels.

[task] = find(["food"], Path("data"))
test = task.samples("test")
test.read(0), test.labels[0], task.classes[test.labels[0]]
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from reactvl.manifest import ReactvlError
from reactvl.tasks import benchmarks
from reactvl.tasks.benchmarks import Metric

Unusable = list[tuple[str, str]]  # (name, reason)
Reader = Callable[[int], bytes]


@dataclasses.dataclass(frozen=True)
class Samples:
    """The labelled images of one split; position i in `names` and `labels` is the same image.

    `labels` is int64 (N,), or bool (N, C) where the task is multilabel. `unusable` lists what was found beside them
    (name, reason): an image without a label, a label that is no class, an image that the index names and the archive
    lacks. `fingerprint` changes when an image, a label or their order does (up to what a catalogue sees: names, places,
    sizes, and the ends of every shard or archive, or the modification time of every file).
    """

    names: list[str]
    labels: np.ndarray
    unusable: Unusable
    fingerprint: str
    reader: Reader

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        """The encoded bytes of one image; BadImage for one that is damaged where it lies, ReactvlError when the data
        have moved or shrunk since."""
        return self.reader(index)


@dataclasses.dataclass(frozen=True)
class Captioned:
    """The captioned images of one split; `captions[i]`, one or more, are those of the image `names[i]`. The rest as in
    `Samples`; an image without a caption is among the `unusable`."""

    names: list[str]
    captions: list[tuple[str, ...]]
    unusable: Unusable
    fingerprint: str
    reader: Reader

    def __len__(self) -> int:
        return len(self.names)

    def read(self, index: int) -> bytes:
        """As `Samples.read`."""
        return self.reader(index)


@dataclasses.dataclass(frozen=True)
class Task:
    """Classes by label, prompt templates with `{}`, and the metric its benchmark reports.

    `synonyms` are all names of each class, the first of them `classes[i]`. `benchmark` is the data set's name among the
    benchmarks that are known, None for any other; `test_images` is how many images that benchmark is scored on. Where
    `multilabel`, an image has any number of labels.
    """

    name: str
    classes: list[str]
    templates: list[str]
    metric: Metric
    folder: Path
    splits: dict[str, Callable[[], Samples]]
    synonyms: list[tuple[str, ...]] = dataclasses.field(default_factory=list)
    benchmark: str | None = None
    test_images: int | None = None
    multilabel: bool = False

    def __post_init__(self):
        if not self.synonyms:
            object.__setattr__(self, "synonyms", [(name,) for name in self.classes])

    def samples(self, split: str = "test") -> Samples:
        """The labelled images of a split; ReactvlError for a split that the task lacks or that holds no usable
        image."""
        return read_split(self, split, "labelled")


@dataclasses.dataclass(frozen=True)
class CaptionTask:
    """Image-text retrieval: images, each with its captions, to be found by one another (recall@k)."""

    name: str
    folder: Path
    splits: dict[str, Callable[[], Captioned]]

    def samples(self, split: str = "test") -> Captioned:
        """The captioned images of a split; ReactvlError as `Task.samples`."""
        return read_split(self, split, "captioned")


def read_split(task: Task | CaptionTask, split: str, kind: str) -> Any:
    if split not in task.splits:
        raise ReactvlError(f"task {task.name}: has no split '{split}'; {task.folder} has {', '.join(task.splits)}")
    samples = task.splits[split]()
    if not len(samples):
        seen = (
            f"; the first of {len(samples.unusable):,} faults: {': '.join(samples.unusable[0])}"
            if samples.unusable
            else ""
        )
        raise ReactvlError(f"task {task.name}: split '{split}' in {task.folder} holds no {kind} image{seen}")
    return samples


def called(folder: Path) -> str:
    """What a folder is called where it is named from: a link's own name, also for `.`."""
    name = folder.absolute().name
    return folder.resolve().name if name == ".." else name


def status_of(path: Path) -> tuple[int, int] | None:
    """Size and modification time of a file; None for one that is not there, such as a link that leads nowhere."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def read_file(path: Path) -> bytes:
    """The bytes of an image that is a file of its own; ReactvlError when it is gone."""
    try:
        return path.read_bytes()
    except OSError as fault:
        raise ReactvlError(f"{path}: cannot be read ({fault.strerror}); is the data still where it was?") from None


def metric_of(name: str) -> Metric:
    """The metric that the benchmark of this name reports; accuracy for any other."""
    return benchmarks.metric_of(name) or "accuracy"
