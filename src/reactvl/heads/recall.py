"""Image-text retrieval: recall at k in both directions, in blocks, so that no (images x texts) matrix is held."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

ROWS = 512  # queries compared at once
COLUMNS = 32_768  # keys compared at once: 67 MB of cosines; of more keys than that, they are computed twice

Cosines = Iterable[tuple[int, np.ndarray]]
Recalls = dict[str, dict[int, float]]


def recall_at_k(
    image_vectors: np.ndarray, text_vectors: np.ndarray, image_of_text: np.ndarray, ks: Sequence[int] = (1, 5, 10)
) -> Recalls:
    """{"image_to_text": {k: R@k}, "text_to_image": {k: R@k}} as fractions.

    `image_vectors` (I, dim) and `text_vectors` (T, dim), L2-normalised; `image_of_text` int (T,): the image that each
    text describes. Image to text: the share of images of whose texts any is among the first k of all texts (open_clip's
    and CLIP_benchmark's convention); images without a text are not asked. Text to image: the share of texts with their
    image among the first k. A key counts as before the right one where its cosine is greater, or equal and its row
    smaller. ValueError for shapes that do not fit, rows that do not exist, NaN, no pair.
    """
    images, texts = np.asarray(image_vectors, np.float32), np.asarray(text_vectors, np.float32)
    owners = np.asarray(image_of_text)
    check(images, texts, owners, ks)
    placed = places(texts, images, owners[:, None])  # of every text, how many images come before its own
    # of every image, how many texts come before the best of its own
    order = np.argsort(owners, kind="stable")
    asked, starts = np.unique(owners[order], return_index=True)
    members = np.split(order, starts[1:])
    width = max(len(rows) for rows in members)
    right = np.stack([np.resize(rows, width) for rows in members])  # (asked, width), repeated to equal length
    found = places(images[asked], texts, right)
    return {
        "image_to_text": {int(k): float((found < k).mean()) for k in ks},
        "text_to_image": {int(k): float((placed < k).mean()) for k in ks},
    }


def places(queries: np.ndarray, keys: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Of each query, how many keys come before the best of its right ones; int64 (Q,). `right` int (Q, R) are keys."""
    before = np.zeros(len(queries), np.int64)
    for start in range(0, len(queries), ROWS):
        rows = slice(start, min(start + ROWS, len(queries)))
        cosines = blocks(queries[rows], keys)
        best, first = best_of(cosines, right[rows], len(keys))
        for column, scores in cosines:
            numbers = np.arange(column, column + scores.shape[1])
            ahead = (scores > best[:, None]) | ((scores == best[:, None]) & (numbers < first[:, None]))
            before[rows] += ahead.sum(axis=1)
    return before


def best_of(cosines: Cosines, right: np.ndarray, keys: int) -> tuple[np.ndarray, np.ndarray]:
    """Of each query the cosine of the best of its right keys, float32 (Q,), and the first such key, int64 (Q,)."""
    best = np.full(len(right), -np.inf, np.float32)
    first = np.full(len(right), keys)
    for column, scores in cosines:
        inside = (right >= column) & (right < column + scores.shape[1])
        held = np.take_along_axis(scores, np.where(inside, right - column, 0), axis=1)
        held = np.where(inside, held, -np.inf)
        top = held.max(axis=1)
        at = np.where(inside & (held == top[:, None]), right, keys).min(axis=1)
        first = np.where(top > best, at, first)  # later columns are later keys
        best = np.maximum(best, top)
    return best, first


def blocks(queries: np.ndarray, keys: np.ndarray) -> Cosines:
    """(first key, cosines (Q, keys)) a block at a time; what is compared with a key must be the very same product."""
    if len(keys) <= COLUMNS:
        return [(0, queries @ keys.T)]
    return Blocks(queries, keys)


class Blocks:
    """Cosines computed whenever they are asked for."""

    def __init__(self, queries: np.ndarray, keys: np.ndarray):
        self.queries, self.keys = queries, keys

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        for column in range(0, len(self.keys), COLUMNS):
            yield column, self.queries @ self.keys[column : column + COLUMNS].T


def check(images: np.ndarray, texts: np.ndarray, owners: np.ndarray, ks: Sequence[int]) -> None:
    if images.ndim != 2 or texts.ndim != 2 or images.shape[1] != texts.shape[1] or owners.shape != (len(texts),):
        raise ValueError(
            f"images (I, dim), texts (T, dim) and an image of each text: shapes {images.shape}, {texts.shape}, {owners.shape}"
        )
    if not len(images) or not len(texts):
        raise ValueError("recall at k needs at least one pair")
    if not np.issubdtype(owners.dtype, np.integer) or owners.min() < 0 or owners.max() >= len(images):
        raise ValueError(f"image_of_text: rows of {len(images)} images, as integers")
    if not np.isfinite(images).all() or not np.isfinite(texts).all():
        raise ValueError("recall at k: a vector holds NaN or infinity")
    if not ks or min(ks) < 1:
        raise ValueError(f"ks {list(ks)}: give numbers of 1 or more")
