"""Image-text retrieval: recall at 1, 5 and 10 of captions by images and of images by captions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from reactvl.evaluate.features import Features
from reactvl.evaluate.results import common_rows
from reactvl.heads.recall import recall_at_k
from reactvl.tasks import CaptionTask
from reactvl.tasks.task import Captioned

KS = (1, 5, 10)


def caption_texts(samples: Captioned) -> tuple[list[str], np.ndarray]:
    """All captions, and the row int64 (T,) of the image that each describes."""
    texts = [caption for captions in samples.captions for caption in captions]
    owners = np.repeat(np.arange(len(samples)), [len(captions) for captions in samples.captions])
    return texts, owners


def judged(
    task: CaptionTask,
    samples: Captioned,
    features: dict[str, Features],
    texts: dict[str, np.ndarray],
    labels: Sequence[str],
) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """The results of a task for all models (by label) on the images that all of them could read, and the (image, reason)
    of the others; `texts` are the captions' vectors (T, dim)."""
    bad = {row: reason for label in reversed(labels) for row, reason in features[label].bad.items()}
    rows, skipped = common_rows(task.name, samples, bad)
    _, owners = caption_texts(samples)
    kept = np.isin(owners, rows)
    image_of_text = np.searchsorted(rows, owners[kept])
    scores = {}
    for label in labels:
        found = recall_at_k(features[label].of(rows), texts[label][kept], image_of_text, KS)
        scores[label] = {way: {str(k): value for k, value in at.items()} for way, at in found.items()}
    made = {
        "name": task.name,
        "images": len(rows),
        "texts": int(kept.sum()),
        "skipped": len(skipped),
        "scores": scores,
    }
    return made, skipped
