"""ImageNet's classes by their WordNet ids, such as n01440764."""

import functools
import re
from collections.abc import Collection

WORDNET = re.compile(r"n[0-9]{8}")


def are_ids(names: Collection[str]) -> bool:
    """Whether there are names and every one is a WordNet id."""
    return bool(names) and all(map(WORDNET.fullmatch, names))


@functools.cache
def imagenet_names() -> dict[str, str]:
    """ImageNet's classes: WordNet id to name, in the order of the labels (timm's list of ids, open_clip's of names)."""
    from reactvl.clip_imports import open_clip, timm

    ids = timm.data.ImageNetInfo("imagenet-1k").label_names()
    return dict(zip(ids, open_clip.IMAGENET_CLASSNAMES, strict=True))
