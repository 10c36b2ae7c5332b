"""Tasks by name: folders of a data folder, benchmarks in any spelling and layout, benchmarks of one's own."""

import dataclasses
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

from reactvl.manifest import ReactvlError
from reactvl.progress import say
from reactvl.tasks import benchmarks
from reactvl.tasks.benchmarks import Benchmark, benchmark, by_folder, folded, known
from reactvl.tasks.classes import ClassEntry, Given, read_class_list
from reactvl.tasks.task import CaptionTask, Task, called
from reactvl.tasks.templates import read_templates

ELEVATER, IMAGENET = "elevater", "imagenet-1k"
IMAGENET_NAMES = ("imagenet1k", "imagenet")
FORMATS = (
    "classnames.txt with SPLIT/0.tar, SPLIT/CLASS/image.jpg, an index SPLIT.txt with zips beside it, nor MNIST's "
    "SPLIT-images-idx3-ubyte.gz"
)

Found = Task | CaptionTask


def find(
    names: list[str] | None,
    data: Path | None,
    *,
    classes: Given | None = None,
    templates: str | Path | Sequence[str] | None = None,
    imagenet_val: Path | None = None,
) -> list[Found]:
    """The tasks called `names` under the folder `data`, in that order and each once; all of them, sorted by folder, for None.

    A name is that of a folder in `data` or of `data` itself; a benchmark in any spelling (case, `-`, `_` and a leading
    `wds_` do not matter), whose data lie in a folder of one of its names or where ELEVATER has them
    (`DATA/classification/dtd_20211007`, the `classification` may be left out); `elevater` for its 20; `imagenet-1k`; or the
    path of a `.toml` file of one's own (`benchmarks`), whose data lie in a folder of its name or where its `[elevater]` says.
    Folders of bare shards are pools: a task when they are named. `imagenet_val` is the folder of ImageNet's validation images
    and makes a task in addition, or stands in for the one in `data`.

    `classes` and `templates`, given as anywhere, stand in for the tasks' own. Raises ReactvlError for a folder that is missing
    or holds no task, an unknown name (with the nearest known ones), benchmarks of ELEVATER that are missing, two tasks of one
    name, and classes that are not as many as the task's.
    """
    given = None if classes is None else read_class_list(classes)
    prompts = None if templates is None else read_templates(templates)
    if names is not None and not names:
        raise ReactvlError("tasks: the list is empty; leave the option out for all tasks of the data folder")
    chosen: dict[Path, Found] = {}
    val = None if imagenet_val is None else imagenet(Path(imagenet_val))
    if names is None:
        found = all_tasks(checked(data), given) if data is not None or val is None else []
        found = [task for task in found if val is None or task.name != IMAGENET]
    else:
        found = []
        for name in names:
            if val is not None and folded(name) in IMAGENET_NAMES:
                found.append(val)
            elif folded(name) == ELEVATER:
                found += elevater(checked(data), given)
            else:
                found.append(one_task(name, checked(data), given))
    for task in [*found, *([] if val is None else [val])]:
        chosen.setdefault(task.folder.resolve(), task)
    tasks = list(chosen.values())
    check_names(tasks)
    return [overridden(task, given, prompts) for task in tasks]


def checked(data: Path | None) -> Path:
    if data is None:
        raise ReactvlError("data: no folder is given; give the folder that holds the tasks' folders")
    if not Path(data).is_dir():
        raise ReactvlError(f"data {data}: no such folder; give the folder that holds the tasks' folders")
    return Path(data)


def read(folder: Path, given: list[ClassEntry] | None, *, named: bool = True) -> Found | None:
    """The task of a folder in whichever format it is; None where it holds none. `given` are the classes of a task whose
    folder names none; shards alone are a task only where `named`."""
    from reactvl.tasks import captions, elevater, idx, image_folder, imagenet, shards, webdataset

    task = webdataset.read_task(folder, given) or captions.read_task(folder) or elevater.read_task(folder)
    if task is None and folded(called(folder)) in IMAGENET_NAMES:
        task = imagenet.read_task(folder)
    task = task or idx.read_task(folder, given) or image_folder.read_task(folder)
    return task or (shards.read_task(folder) if named else None)


def all_tasks(data: Path, given: list[ClassEntry] | None) -> list[Found]:
    """The task of `data`, or those of its folders and of its `classification/`."""
    alone = read(data, given, named=False)
    found = [alone] if alone else [task for folder in within(data) if (task := read(folder, given, named=False))]
    if not found:
        raise ReactvlError(f"data {data}: holds no task: neither {FORMATS}, here or one level below")
    return found


def within(data: Path) -> Iterator[Path]:
    """The folders that may hold a task."""
    for folder in folders(data):
        if folder.name == "classification":
            yield from folders(folder)
        else:
            yield folder


def elevater(data: Path, given: list[ClassEntry] | None) -> list[Found]:
    """ELEVATER's 20; ReactvlError names those that are missing."""
    found = {name: task for name in benchmarks.elevater() if (task := located(name, data, given)) is not None}
    missing = [name for name in benchmarks.elevater() if name not in found]
    if missing:
        there = f"name those that are there: --tasks {','.join(found)}" if found else "none of the 20 is there"
        raise ReactvlError(
            f"task elevater: {data} lacks {len(missing)} of ELEVATER's 20: {', '.join(missing)}; fetch them, or {there}"
        )
    return list(found.values())


def one_task(name: str, data: Path, given: list[ClassEntry] | None) -> Found:
    """The task of a name; ReactvlError with the nearest known ones."""
    if name.lower().endswith(".toml"):
        return own_task(benchmark(name), data, given)
    task = located(name, data, given)
    if task is not None:
        return task
    if next(places(name, data), None) is not None:
        raise ReactvlError(f"task {name}: holds no task in a known format: neither {FORMATS}")
    present = sorted(folder.name for folder in within(data))
    present = list(dict.fromkeys([*present, *(meant.name for one in present if (meant := by_folder(one)))]))
    near = difflib.get_close_matches(name, present, n=3, cutoff=0.5) or present[:8]
    raise ReactvlError(f"task {name}: no such task in {data}; there: {', '.join(near) or 'nothing'}")


def located(name: str, data: Path, given: list[ClassEntry] | None) -> Found | None:
    """The first task in the places of a name."""
    return next((task for folder in places(name, data) if (task := read(folder, given)) is not None), None)


def places(name: str, data: Path) -> Iterator[Path]:
    """Folders that a name may mean, the likeliest first: of just this name, of its benchmark's, of ELEVATER's for it."""
    meant = known(name) or (IMAGENET if folded(name) in IMAGENET_NAMES else None)
    everywhere = [*folders(data), *(folder for folder in within(data) if folder.parent != data), data]
    calls = {folder: called(folder) for folder in everywhere}
    yield from (folder for folder in everywhere if calls[folder] == name)
    yield from (folder for folder in everywhere if calls[folder] != name and folded(calls[folder]) == folded(name))
    if meant:
        others = [folder for folder in everywhere if folded(calls[folder]) != folded(name)]
        yield from (folder for folder in others if known(calls[folder]) == meant)
        if meant == IMAGENET:
            yield from (folder for folder in others if folded(calls[folder]) in IMAGENET_NAMES)
        yield from (folder for folder in others if (at := by_folder(calls[folder])) and at.name == meant)


def own_task(own: Benchmark, data: Path, given: list[ClassEntry] | None) -> Found:
    """The task of a benchmark's file: its data, its classes, templates and metric."""
    from reactvl.tasks import elevater

    layout = own.elevater
    for home in (data / "classification", data) if layout else ():
        if (home / layout.folder).is_dir() and (task := elevater.read_task(home / layout.folder, own)):
            return task
    names = {folded(name) for name in (own.name, *own.aliases)}
    for folder in [*folders(data), data]:
        if folded(called(folder)) not in names or (task := read(folder, list(own.classes))) is None:
            continue
        if isinstance(task, CaptionTask):
            return task
        if len(task.classes) != len(own.classes):
            raise ReactvlError(
                f"task {own.name}: its file has {len(own.classes)} classes, {folder} has {len(task.classes)}"
            )
        return dataclasses.replace(
            task,
            name=own.name,
            classes=own.class_names,
            synonyms=[entry.synonyms for entry in own.classes],
            templates=list(own.templates),
            metric=own.metric,
            test_images=own.test_images,
        )
    where = f" or {layout.folder}" if layout else ""
    raise ReactvlError(f"task {own.name}: no folder {own.name}{where} with its data in {data}")


def imagenet(folder: Path) -> Task:
    """The task of ImageNet's validation images."""
    from reactvl.tasks.imagenet import read_task

    if not folder.is_dir():
        raise ReactvlError(f"imagenet_val {folder}: no such folder")
    task = read_task(folder)
    if task is None:
        raise ReactvlError(
            f"imagenet_val {folder}: holds neither class folders named by WordNet ids (n01440764/...) nor images with a file of "
            "their labels; another task is named by --data and --tasks"
        )
    return task


def overridden(task: Found, classes: list[ClassEntry] | None, templates: list[str] | None) -> Found:
    """The task with other classes and templates. Templates of single classes are asked for by `retrieve` alone; those that
    all classes share are the task's."""
    if isinstance(task, CaptionTask):
        return task
    if classes is not None:
        if len(classes) != len(task.classes):
            raise ReactvlError(
                f"classes: {len(classes)} names are given, task {task.name} has {len(task.classes)} classes"
            )
        task = dataclasses.replace(
            task, classes=[entry.name for entry in classes], synonyms=[entry.synonyms for entry in classes]
        )
        shared = {entry.templates for entry in classes}
        if templates is None and shared != {None}:
            if len(shared) > 1:
                say(f"task {task.name}: templates of single classes have no meaning here; the task's own are used")
            else:
                templates = list(shared.pop())
    return task if templates is None else dataclasses.replace(task, templates=list(templates))


def check_names(tasks: Sequence[Found]) -> None:
    """ReactvlError when two folders are the task of one name, by which scores are kept."""
    seen: dict[str, Found] = {}
    for task in tasks:
        other = seen.setdefault(task.name, task)
        if other is not task:
            raise ReactvlError(
                f"task {task.name}: lies in {other.folder} and in {task.folder}; name one of them by its folder's name"
            )


def folders(data: Path) -> list[Path]:
    return sorted(path for path in data.iterdir() if path.is_dir() and not path.name.startswith("."))
