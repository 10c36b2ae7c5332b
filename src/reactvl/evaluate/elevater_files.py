"""ELEVATER's prediction files: what the leaderboard's evaluation reads, one JSON object a data set.

    {"model_name": "CLIP-ViT-B-32:openai", "dataset_name": "dtd", "num_trainable_params": 0, "num_params": 151277313,
     "num_visual_params": 87849216, "num_backbone_params": 151277313, "n_shot": 0, "rnd_seeds": [0],
     "predictions": [[[0.000123, ...], ...]]}                  seeds x images x classes, probabilities of 6 decimals

Files of one model and one way of adapting it lie in a folder of their own (`zero-shot/`, `linear-probe_5/`), which `submission`
merges into the zip that is uploaded. Numbers are written a block of images at a time: ImageNet's 50 million never lie in memory
as text.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import msgspec
import numpy as np

from reactvl.manifest import replacing
from reactvl.tasks import benchmarks

FOLDER = "elevater"  # of an evaluation's folder: elevater/MODEL/WAY/DATASET.json
DECIMALS = 6
FULL = -1  # n_shot of the whole train split
CELLS = 1 << 17  # probabilities turned into text at once
KEYS = (
    "model_name", "dataset_name", "num_trainable_params", "num_params", "num_visual_params", "num_backbone_params",
    "n_shot", "rnd_seeds", "predictions",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class ModelFacts:
    """What a prediction file says of a model: its name without ELEVATER's `CLIP-`, and how many parameters it has, in its
    image tower and in all."""

    name: str
    parameters: int
    visual_parameters: int


def write(
    folder: Path,
    dataset: str,
    facts: ModelFacts,
    predictions: np.ndarray | Sequence[np.ndarray],
    *,
    shots: int | str | None = None,
    seeds: Sequence[int] = (0,),
    trainable: int = 0,
) -> Path:
    """Write `folder/DATASET.json` whole or not at all; returns its path.

    `predictions` are probabilities float (seeds, N, C), or an array (N, C) a seed; `dataset` is a benchmark in any spelling, or a
    name of one's own. `shots` is None or 0 for zero-shot, a number, or "all"; `trainable` counts the parameters that adaptation
    trained. An image whose row is NaN (it could not be read) gets the same probability for every class, so that the rows stay
    those of the test set. Raises ValueError for shapes that do not fit and for values that are no probabilities.
    """
    name = benchmarks.known(dataset) or dataset
    head = {
        "model_name": f"CLIP-{facts.name}",
        "dataset_name": name,
        "num_trainable_params": trainable,
        "num_params": facts.parameters,
        "num_visual_params": facts.visual_parameters,
        "num_backbone_params": facts.parameters,
        "n_shot": n_shot(shots),
        "rnd_seeds": [int(seed) for seed in seeds],
    }
    checked(predictions, len(seeds))
    path = folder / file_name(name)
    with replacing(path) as part, open(part, "wb") as file:
        file.write(msgspec.json.encode(head)[:-1] + b',"predictions":[')
        for number, one in enumerate(predictions):
            file.write(b",[" if number else b"[")
            write_rows(file, one)
            file.write(b"]")
        file.write(b"]}\n")
    return path


def way(method: str, shots: int | str | None = None) -> str:
    """The folder of a way of adapting: `zero-shot`, `linear-probe_5`, `finetune_full`; a leaderboard's entry is of one."""
    count = n_shot(shots)
    return folder_name(method if count == 0 else f"{method}_{'full' if count == FULL else count}")


def folder_names(labels: Sequence[str]) -> dict[str, str]:
    """A folder for each model's label, no two alike on any file system."""
    found: dict[str, str] = {}
    for label in labels:
        name, number = folder_name(label), 1
        while name.casefold() in {other.casefold() for other in found.values()}:
            number += 1
            name = f"{folder_name(label)} {number}"
        found[label] = name
    return found


def folder_name(label: str) -> str:
    """A label as the name of one file or folder."""
    return "".join(letter if letter.isalnum() or letter in "-_.+= " else "_" for letter in label).strip(" .") or "_"


def file_name(dataset: str) -> str:
    return f"{folder_name(dataset)}.json"


def n_shot(shots: int | str | None) -> int:
    """ELEVATER's number: 0 for zero-shot, -1 for the whole train split."""
    if shots is None:
        return 0
    return FULL if shots in ("all", "full", FULL) else int(shots)


def checked(predictions: np.ndarray | Sequence[np.ndarray], seeds: int) -> None:
    shapes = {np.shape(one) for one in predictions}
    if len(predictions) != seeds or len(shapes) != 1 or len(shape := shapes.pop()) != 2 or not shape[1]:
        raise ValueError(f"predictions of {seeds} seeds are an array (images, classes) each, of one shape")


def write_rows(file: IO[bytes], one: np.ndarray) -> None:
    """The rows of an array (N, C) as JSON arrays with commas between, at 6 decimals."""
    for number, rows in enumerate(blocks(one)):
        filled = np.where(np.isnan(rows).all(axis=1, keepdims=True), 1 / rows.shape[1], rows)
        if not ((filled >= -1e-6) & (filled <= 1 + 1e-6)).all():  # NaN fails too
            raise ValueError("predictions are probabilities, from 0 to 1")
        if number:
            file.write(b",")
        file.write(rows_json(filled))


def blocks(one: np.ndarray) -> Iterator[np.ndarray]:
    step = max(CELLS // one.shape[1], 1)
    for start in range(0, len(one), step):
        yield np.asarray(one[start : start + step], np.float64)


def rows_json(rows: np.ndarray) -> bytes:
    """Rows float64 (n, C) at 6 decimals as JSON, without the brackets around them all."""
    return msgspec.json.encode((np.round(rows, DECIMALS) + 0.0).tolist())[1:-1]  # + 0.0: no -0.0
