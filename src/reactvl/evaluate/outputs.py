"""The tables of an evaluation's folder: every image's answers, and the images that were left out."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reactvl.evaluate.results import Scored
from reactvl.manifest import replacing


def write_predictions(path: Path, one: Scored, labels: Sequence[str]) -> None:
    """One row an image and column of the task, see `Scores.predictions`."""
    names, classes = [one.samples.names[row] for row in one.rows], one.task.classes
    tables = []
    for label in labels:
        ranking = one.rankings[label]
        tables.append(
            pa.table(
                {
                    "image": pa.array(names, pa.string()),
                    **truth(one.labels, classes),
                    "model": pa.array([label] * len(names), pa.string()),
                    "predicted": pa.array(ranking.predicted, pa.int32()),
                    "predicted_class": pa.array([classes[index] for index in ranking.predicted], pa.string()),
                    "top5": pa.array(list(ranking.classes), pa.list_(pa.int32())),
                    "probability": pa.array(ranking.probabilities[:, 0], pa.float32()),
                    "correct": pa.array(np.asarray(one.correct(label))),
                }
            )
        )
    with replacing(path) as part:
        pq.write_table(pa.concat_tables(tables), part, compression="zstd")


def truth(labels: np.ndarray, classes: Sequence[str]) -> dict[str, pa.Array]:
    """An image's label and its name; of a multilabel task the lists of them."""
    if labels.ndim == 1:
        return {
            "label": pa.array(labels, pa.int32()),
            "class": pa.array([classes[index] for index in labels], pa.string()),
        }
    each = [np.flatnonzero(row) for row in labels]
    return {
        "labels": pa.array(each, pa.list_(pa.int32())),
        "classes": pa.array([[classes[index] for index in row] for row in each], pa.list_(pa.string())),
    }


def write_skipped(path: Path, skipped: Sequence[tuple[str, str, str]]) -> None:
    """Images that were not scored: task, image, reason."""
    schema = pa.schema([("task", pa.string()), ("image", pa.string()), ("reason", pa.string())])
    rows = [dict(zip(schema.names, one, strict=True)) for one in skipped]
    with replacing(path) as part:
        pq.write_table(pa.Table.from_pylist(rows, schema), part)
