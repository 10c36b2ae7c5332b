"""Recall at k is that of a full sort of the whole similarity matrix, in both directions."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reactvl.heads import recall
from reactvl.heads.recall import recall_at_k


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def restated(images, texts, owners, ks):
    """CLIP_benchmark's convention: sort all keys of every query; any of an image's texts among the first k counts."""
    scores = images.astype(np.float64) @ texts.astype(np.float64).T
    of_images = np.argsort(-scores, axis=1, kind="stable")
    of_texts = np.argsort(-scores.T, axis=1, kind="stable")
    asked = np.unique(owners)
    return {
        "image_to_text": {k: np.mean([image in owners[of_images[image, :k]] for image in asked]) for k in ks},
        "text_to_image": {
            k: np.mean([owner in row[:k] for owner, row in zip(owners, of_texts, strict=True)]) for k in ks
        },
    }


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.integers(1, 90), st.integers(2, 8))
@settings(max_examples=80, deadline=None)
def test_it_agrees_with_a_full_sort(seed, images, texts, dim):
    rng = np.random.default_rng(seed)
    owners = rng.integers(0, images, texts)  # some images have no text, some have many
    pictures = unit(rng.normal(size=(images, dim)))
    captions = unit(pictures[owners] + 0.5 * rng.normal(size=(texts, dim)))
    ks = (1, 5, 10, 1000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recall, "ROWS", 7)
        patch.setattr(recall, "COLUMNS", 11)
        found = recall_at_k(pictures, captions, owners, ks)
    expected = restated(pictures, captions, owners, ks)
    for way in expected:
        assert found[way] == pytest.approx(expected[way])
        assert found[way][1000] == 1


def test_equal_keys_come_in_their_order_across_blocks(monkeypatch):
    images, texts = np.eye(4, dtype=np.float32)[[0, 0, 0, 1]], np.eye(4, dtype=np.float32)[[0, 0, 0, 1]]
    for size in (1, 2, 100):
        monkeypatch.setattr(recall, "ROWS", size)
        monkeypatch.setattr(recall, "COLUMNS", size)
        found = recall_at_k(images, texts, np.arange(4), (1, 2, 3))
        assert found == {way: {1: 0.5, 2: 0.75, 3: 1.0} for way in ("image_to_text", "text_to_image")}


def test_five_captions_an_image_and_any_of_them_counts():
    images = np.eye(3, dtype=np.float32)
    texts = unit(np.array([[1, 0, 0], [0, 1, 0.1], [0, 1, 0], [0, 0, 1], [0, 0.1, 1], [0.2, 1, 0]]))
    owners = np.array([0, 0, 1, 2, 1, 2])
    found = recall_at_k(images, texts, owners, (1, 2))
    assert found["image_to_text"] == {1: 1.0, 2: 1.0}
    assert found["text_to_image"][1] == pytest.approx(3 / 6) and found["text_to_image"][2] == pytest.approx(4 / 6)


@pytest.mark.parametrize(
    ("images", "texts", "owners", "ks", "message"),
    [
        (np.eye(2), np.eye(3), [0, 1, 1], (1,), "shapes"),
        (np.eye(2), np.eye(2), [0], (1,), "shapes"),
        (np.eye(2), np.eye(2), [0, 2], (1,), "rows of 2"),
        (np.eye(2), np.eye(2), [0, -1], (1,), "rows of 2"),
        (np.eye(2), np.eye(2), [0.0, 1.0], (1,), "integers"),
        (np.eye(2), np.eye(2) * np.nan, [0, 1], (1,), "NaN"),
        (np.zeros((0, 2)), np.zeros((0, 2)), [], (1,), "one pair"),
        (np.eye(2), np.eye(2), [0, 1], (0, 1), "1 or more"),
        (np.eye(2), np.eye(2), [0, 1], (), "1 or more"),
    ],
)
def test_bad_input_is_an_error(images, texts, owners, ks, message):
    with pytest.raises(ValueError, match=message):
        recall_at_k(images, texts, np.array(owners), ks)
