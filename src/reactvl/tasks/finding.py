"""Tasks by name: folders of a data folder, benchmarks in any spelling and layout, benchmarks of one's own."""

import dataclasses
import difflib
from collections.abc import Sequence
from pathlib import Path

from reactvl.manifest import ReactvlError
from reactvl.tasks.classes import Given, read_class_list
from reactvl.tasks.task import CaptionTask, Task
from reactvl.tasks.templates import read_templates


def find(
    names: list[str] | None,
    data: Path | None,
    *,
    classes: Given | None = None,
    templates: str | Path | Sequence[str] | None = None,
    imagenet_val: Path | None = None,
) -> list[Task | CaptionTask]:
    """The tasks called `names` under the folder `data`, in that order; all of them, sorted by name, for None.

    A task is a folder in `data`, or `data` itself. Case, `-`, `_` and a leading `wds_` do not matter in a name. Raises
    ReactvlError for a folder that is missing or holds no task and for an unknown name (with the nearest known ones).
    `classes` and `templates` stand in for the tasks' own.
    """
    return [overridden(task, classes, templates) for task in found(names, data)]


def overridden(
    task: Task | CaptionTask, classes: Given | None, templates: str | Path | Sequence[str] | None
) -> Task | CaptionTask:
    if isinstance(task, CaptionTask):
        return task
    if classes is not None:
        entries = read_class_list(classes)
        if len(entries) != len(task.classes):
            raise ReactvlError(
                f"classes: {len(entries)} names are given, task {task.name} has {len(task.classes)} classes"
            )
        task = dataclasses.replace(
            task, classes=[entry.name for entry in entries], synonyms=[entry.synonyms for entry in entries]
        )
    return task if templates is None else dataclasses.replace(task, templates=read_templates(templates))


def found(names: list[str] | None, data: Path | None) -> list[Task | CaptionTask]:
    from reactvl.tasks import image_folder, webdataset

    if data is None:
        raise ReactvlError("data: no folder is given; give the folder that holds the tasks' folders")
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
