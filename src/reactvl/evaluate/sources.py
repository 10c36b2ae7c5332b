"""Where the images of an evaluation come from, said so that another process finds the same ones."""

import functools
from pathlib import Path
from typing import NamedTuple

from reactvl.handles.pairs import Pairs
from reactvl.tasks import CaptionTask, Samples, Task, find
from reactvl.tasks.classes import ClassEntry


class Finding(NamedTuple):
    """The arguments by which the tasks of an evaluation are found."""

    names: tuple[str, ...] | None
    data: Path | None
    classes: tuple[ClassEntry, ...] | None = None
    templates: tuple[str, ...] | None = None
    imagenet_val: Path | None = None

    def tasks(self) -> list[Task | CaptionTask]:
        return find(
            None if self.names is None else list(self.names),
            self.data,
            classes=None if self.classes is None else list(self.classes),
            templates=None if self.templates is None else list(self.templates),
            imagenet_val=self.imagenet_val,
        )


class TaskImages(NamedTuple):
    """The images of one split of a task."""

    finding: Finding
    task: str
    split: str

    @property
    def name(self) -> str:
        """As in file names."""
        return f"{self.task}-{self.split}"

    def open(self) -> Samples:
        task = next(task for task in found_once(self.finding) if task.name == self.task)
        return task.samples(self.split)


@functools.lru_cache(maxsize=1)
def found_once(finding: Finding) -> list[Task | CaptionTask]:
    return finding.tasks()


class PairImages(NamedTuple):
    """The images of retrieved pairs, in their order, read from the pool; their labels are the pairs' classes."""

    folder: Path

    @property
    def name(self) -> str:
        return "retrieved"

    def open(self) -> Samples:
        import numpy as np

        from reactvl.manifest import manifest_id

        pairs = Pairs(self.folder)
        pairs.embeddings.require_pictures(self.folder)
        table = pairs.table(["class_id", "shard", "key"])
        names = [
            f"{shard}/{key}" for shard, key in zip(table["shard"].to_pylist(), table["key"].to_pylist(), strict=True)
        ]
        labels = table["class_id"].to_numpy().astype(np.int64)
        return Samples(names, labels, [], manifest_id(self.folder / "manifest.json"), pairs.read_image)


Images = TaskImages | PairImages
