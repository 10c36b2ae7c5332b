"""Names of folders and files made of data: letters of any script, dots and slashes never reach the file system."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence

LONGEST = 100  # characters; with a suffix still far from any file system's limit


def plain(text: str) -> str:
    """A name as REACT's released code spells it: runs outside [0-9A-Za-z_] become `_`."""
    return re.sub(r"[^0-9A-Za-z_]+", "_", text)[:LONGEST] or "_"


def class_folders(classes: Sequence[Sequence[str]]) -> list[str]:
    """A folder a class: its names joined by `_and_`; classes that would share one get their index as suffix.

    Names that differ in case alone are equal here, as they are on the disks of many users.
    """
    names = [plain("_and_".join(plain(name) for name in synonyms)) for synonyms in classes]
    while len(shared := {name for name, count in Counter(map(str.lower, names)).items() if count > 1}) > 0:
        names = [f"{name}_{number}" if name.lower() in shared else name for number, name in enumerate(names)]
    return names


def file_names(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """A name for the files of each (shard, key) of a class: the key where it is plain and the only one, else one with a
    hash behind a `-`, which no plain key has."""
    often = Counter(key.lower() for _, key in pairs)
    return [
        key
        if often[key.lower()] == 1 and re.fullmatch(rf"[0-9A-Za-z_]{{1,{LONGEST}}}", key)
        else f"{plain(key)}-{hashlib.sha256(f'{shard}/{key}'.encode()).hexdigest()[:12]}"
        for shard, key in pairs
    ]
