"""Images are encoded in order, in bounded batches; bad ones are listed; the reader's own errors come through."""

import io
import threading

import numpy as np
import pytest
import torch
from PIL import Image

from reactvl.heads.features import AHEAD, Clock, encode_images
from reactvl.manifest import ReactvlError
from reactvl.pool.images import BadImage, to_pixels


def picture(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


def test_features_are_the_encoders_in_order_with_bad_images_listed(encoder):
    data = [picture(seed) for seed in range(10)]
    data[3], data[9] = b"bad", b""
    clock = Clock()
    batches = list(encode_images(encoder, data.__getitem__, range(2, 10), batch_size=3, clock=clock))
    assert [batch.rows for batch in batches] == [[2, 4], [5, 6, 7], [8]]
    assert [[row for row, _ in batch.bad] for batch in batches] == [[3], [], [9]]
    assert batches[0].bad[0][1].startswith("not an image")
    pixels = torch.from_numpy(np.stack([to_pixels(data[row], 32) for row in (5, 6, 7)]))
    np.testing.assert_allclose(batches[1].vectors, encoder.images(pixels), atol=1e-6)
    assert clock.model > 0 and 0 <= clock.waiting <= 1


def test_a_batch_of_bad_images_alone_is_empty(encoder):
    [batch] = encode_images(encoder, lambda row: b"", range(2))
    assert batch.vectors.shape == (0, 32) and len(batch.bad) == 2


def test_no_image_is_no_batch(encoder):
    assert list(encode_images(encoder, picture, range(0))) == []


def test_reading_stays_a_few_batches_ahead(encoder):
    read, lock = [], threading.Lock()

    def reader(row):
        with lock:
            read.append(row)
        return picture(row)

    first = next(encode_images(encoder, reader, range(1000), batch_size=4, threads=2))
    assert first.rows == [0, 1, 2, 3] and max(read) < 4 * (AHEAD + 1)


def test_a_readers_bad_image_is_listed_and_another_error_ends_the_work(encoder):
    def unreadable(row):
        raise BadImage("unreadable file", "Permission denied") if row == 0 else ReactvlError("shard gone")

    with pytest.raises(ReactvlError, match="shard gone"):
        list(encode_images(encoder, unreadable, range(2), batch_size=1))
    [batch] = encode_images(encoder, unreadable, range(1))
    assert batch.bad == [(0, "unreadable file: Permission denied")]
