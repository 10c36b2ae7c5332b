"""The labelled images that a run is judged by: `--imagenet-val DIR`, class folders as ImageNet has them.

A folder's name is its class, as the task readers have it. Folders named by WordNet ids (n01440764) are ImageNet's classes,
all or some of the thousand, with open_clip's names for them and CLIP's 80 templates.
"""

import dataclasses
import re
from pathlib import Path

from reactvl.clip_imports import open_clip, timm
from reactvl.manifest import ReactvlError
from reactvl.tasks import Samples, Task, find
from reactvl.tasks.templates import read_templates
from reactvl.tasks.webdataset import CLASSES

WORDNET = re.compile(r"n\d{8}")


def validation_task(folder: Path) -> tuple[Task, Samples]:
    """The task of a folder of class folders, or of a task's folder that has a `val` split, and its images.

    Raises ReactvlError for a folder that holds no images in class folders, for several tasks, for a task that has a test
    split alone, and for a WordNet id that is none of ImageNet's classes.
    """
    folder = Path(folder)
    found = find(None, folder)
    if len(found) > 1:
        raise ReactvlError(
            f"imagenet_val {folder}: holds {len(found)} tasks ({found[0].name}, ...); give the folder of one"
        )
    task = found[0]
    if "val" not in task.splits and (folder / "test").is_dir():
        raise ReactvlError(
            f"imagenet_val {folder}: has no `val` split; a run is never judged by test labels. Give a folder of class folders "
            "that were set apart for validation"
        )
    if not (folder / CLASSES).is_file() and all(WORDNET.fullmatch(name) for name in task.classes):
        names = imagenet_names()
        if strange := [name for name in task.classes if name not in names]:
            raise ReactvlError(
                f"imagenet_val {folder}: {strange[0]} is none of ImageNet's 1,000 classes; name the classes in {CLASSES}, "
                "one a line in the folders' order"
            )
        classes = [names[name] for name in task.classes]
        task = dataclasses.replace(task, classes=classes, templates=read_templates("openai"))
    return task, task.samples("val" if "val" in task.splits else next(iter(task.splits)))


def imagenet_names() -> dict[str, str]:
    """ImageNet's classes: WordNet id to name, in the order of the labels (timm's list of ids, open_clip's of names)."""
    ids = timm.data.ImageNetInfo("imagenet-1k").label_names()
    return dict(zip(ids, open_clip.IMAGENET_CLASSNAMES, strict=True))
