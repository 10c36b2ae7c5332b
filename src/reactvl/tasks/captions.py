"""Image-text retrieval in CLIP-benchmark's webdataset layout.

flickr8k/dataset_type.txt           `retrieval`
flickr8k/test/0.tar, 1.tar, ...     KEY.jpg|jpeg|png|webp with KEY.txt, one caption a line
flickr8k/test/nshards.txt           optional: the number of shards, checked
"""

import functools
from pathlib import Path

from reactvl.pool.tars import Sample
from reactvl.tasks.task import Captioned, CaptionTask, called
from reactvl.tasks.webdataset import kind_of, shelved, splits_in


def read_task(folder: Path) -> CaptionTask | None:
    """The task of a folder, None when it is of another kind."""
    if kind_of(folder) != "retrieval" or not (splits := splits_in(folder)):
        return None
    return CaptionTask(
        name=called(folder),
        folder=folder,
        splits={split: functools.partial(read_split, folder / split) for split in splits},
    )


def read_split(folder: Path, *, lines: bool = True) -> Captioned:
    """The captioned images of a folder's shards. `lines`: a caption a line (blank ones are none), else the whole text."""

    def captions(shard: Path, sample: Sample) -> tuple[tuple[str, ...], str]:
        if sample.caption is None:
            return (), "no .txt beside it" if lines else "no caption"
        texts = sample.caption.splitlines() if lines else [sample.caption]
        found = tuple(text.strip() for text in texts if text.strip())
        return found, "" if found else "its caption is empty"

    return Captioned(*shelved(folder, captions, "txt" if lines else "auto"))
