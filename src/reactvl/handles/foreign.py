"""Embeddings that others published: which files make which part, and whether they are what they seem.

clip-retrieval's `clip inference` and LAION write a folder for each half, `img_emb/img_emb_0000.npy`,
`text_emb/text_emb_0000.npy` and `metadata/metadata_0000.parquet`; folders of other names (LAION-400M's `images/` and
`texts/`) and one flat folder are as good. The number says which files belong together, however it is padded. Either
half of the vectors may be missing; the metadata may not.
"""

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from reactvl.manifest import ReactvlError, sha256_json

if TYPE_CHECKING:
    import numpy as np

NAME = re.compile(r"(img_emb_|text_emb_|metadata_)(\d+)(\.npy|\.parquet)")
WHOLE = {"img_emb_": ".npy", "text_emb_": ".npy", "metadata_": ".parquet"}
SAMPLE = 8  # rows looked at in the beginning, the middle and the end of a part
TOLERANCE = 0.01  # of a norm; float16's rounding of a unit vector moves its norm by under 0.001


class Files(NamedTuple):
    """The files of one part."""

    number: int
    images: Path | None
    texts: Path | None
    metadata: Path


def is_published(folder: Path | str) -> bool:
    """Whether a folder holds embeddings in clip-retrieval's or LAION's naming and is no stage's output."""
    folder = Path(folder)
    if not folder.is_dir() or (folder / "manifest.json").exists() or (folder / ".work").exists():
        return False
    return any(kind != "metadata_" for kind, _, _ in named(folder))


def parts_of(folder: Path | str) -> list[Files]:
    """The parts of a published folder in the order of their numbers.

    Raises ReactvlError when there is none, when two files claim one number (`img_emb_1.npy` and `img_emb_01.npy`), and
    for a part that lacks its metadata or both of its vectors.
    """
    folder = Path(folder)
    found: dict[int, dict[str, Path]] = {}
    for kind, number, path in named(folder):
        there = found.setdefault(number, {})
        if kind in there:
            raise ReactvlError(
                f"{folder}: {there[kind].relative_to(folder)} and {path.relative_to(folder)} are both part {number}; "
                "move one of them away"
            )
        there[kind] = path
    if not any(there.keys() - {"metadata_"} for there in found.values()):
        raise ReactvlError(f"{folder}: holds no img_emb_N.npy and no text_emb_N.npy")
    for number, there in sorted(found.items()):
        have = next(iter(there.values())).relative_to(folder)
        if "metadata_" not in there:
            raise ReactvlError(
                f"{folder}: there is {have}, but no metadata_{number}.parquet that says what its rows are"
            )
        if len(there) == 1:
            raise ReactvlError(f"{folder}: there is {have}, but no img_emb_{number}.npy and no text_emb_{number}.npy")
    return [
        Files(number, there.get("img_emb_"), there.get("text_emb_"), there["metadata_"])
        for number, there in sorted(found.items())
    ]


def named(folder: Path) -> list[tuple[str, int, Path]]:
    """(kind, number, path) of every file of that naming in the folder or one of its subfolders, by path."""
    homes = [folder, *(path for path in sorted(folder.iterdir()) if path.is_dir() and not path.name.startswith("."))]
    found = []
    for home in homes:
        for path in sorted(home.iterdir()):
            match = NAME.fullmatch(path.name)
            if match and WHOLE[match[1]] == match[3] and path.is_file():
                found.append((match[1], int(match[2]), path))
    return found


def content_id(folder: Path, files: list[Files], model_sha256: str) -> str:
    """SHA-256 over every file's place, size and both ends, and the model: what stands for a manifest's hash."""
    from reactvl.pool.tars import fingerprint

    content = []
    for path in (path for part in files for path in part[1:] if path is not None):
        known = fingerprint(path)
        content.append([path.relative_to(folder).as_posix(), known.size, known.ends_sha256])
    return sha256_json([sorted(content), model_sha256])


def check_normalised(path: Path, vectors: "np.ndarray") -> None:
    """Look at some rows of vectors (rows, dim); ReactvlError names one whose norm is not 1 (a NaN is let pass: no search
    ever finds it)."""
    import numpy as np

    starts = (0, max(0, len(vectors) // 2 - SAMPLE // 2), max(0, len(vectors) - SAMPLE))
    for first in starts:
        norms = np.linalg.norm(np.array(vectors[first : first + SAMPLE], np.float64), axis=1)
        off = np.flatnonzero(np.abs(norms - 1) > TOLERANCE)  # a NaN compares false
        if len(off):
            raise ReactvlError(
                f"{path}: row {first + int(off[0]):,} has norm {norms[off[0]]:.4g}, wanted 1: these vectors are not "
                "normalised; `reactvl import` takes them and normalises them"
            )
