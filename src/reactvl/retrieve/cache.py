"""Arrays that outlive a result, in `features/` of its folder: what is dear to make and does not change with the choosing.

The vectors of the queries, and what is known of the evaluation images. A file says what it was made of and is read only for
the very same; one that is damaged or of something else is made again. It is no part of the result, and may be deleted.
"""

import zipfile
from pathlib import Path

import numpy as np

from reactvl.manifest import replacing

FOLDER = "features"


def kept(path: Path, made_of: str) -> dict[str, np.ndarray] | None:
    """The arrays kept under this name, if they were made of the same; None when they were not, or cannot be read."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["made_of"]) != made_of:
                return None
            return {name: file[name] for name in file.files if name != "made_of"}
    except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile):
        return None


def keep(path: Path, made_of: str, **arrays: np.ndarray) -> None:
    """Keep arrays, whole or not at all, in place of others under this name."""
    with replacing(path) as part, open(part, "wb") as file:
        np.savez(file, made_of=np.array(made_of), **arrays)
