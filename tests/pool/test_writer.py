"""A pair written and read back is byte-identical, whoever reads it; equal pairs give equal shards."""

import json
import tarfile

import pytest
import webdataset

from reactvl.manifest import ReactvlError
from reactvl.pool.reader import read_image
from reactvl.pool.tars import scan
from reactvl.pool.writer import ShardWriter

PAIRS = [
    (bytes(range(256)) * 3, "jpg", "a plain caption", {"url": "https://x/0", "width": 3}),
    (b"", "png", "", {"url": None}),
    (b"\0" * 1024, "webp", " Straße 界\nline two ", {"caption": "of the record", "note": "ß"}),
    (b"x", "jpeg", None, None),
]


def write(folder, pairs=PAIRS, **options):
    with ShardWriter(folder, **options) as writer:
        keys = [writer.write(image, ext, caption, record) for image, ext, caption, record in pairs]
    return keys, writer.shards


def test_pairs_come_back_from_scan_tarfile_and_webdataset(tmp_path):
    keys, shards = write(tmp_path, max_count=3)
    assert keys == ["000000000", "000000001", "000000002", "000010000"]
    assert [path.name for path in shards] == ["00000.tar", "00001.tar"]
    samples = [(path, sample) for path in shards for sample in scan(path)]
    for (image, ext, caption, record), (path, sample), key in zip(PAIRS, samples, keys, strict=True):
        assert (sample.key, sample.ext) == (key, ext)
        assert read_image(path, sample.offset, sample.size) == image
        if caption is not None:
            assert read_image(path, *sample.extra["txt"]) == caption.encode()
            assert sample.caption == caption
        if record is not None:
            assert json.loads(read_image(path, *sample.extra["json"])) == {"caption": caption, "key": key} | record
        with tarfile.open(path) as tar:
            assert tar.extractfile(f"{key}.{ext}").read() == image
    read = list(webdataset.WebDataset([str(path) for path in shards], shardshuffle=False))
    assert [sample["__key__"] for sample in read] == keys
    assert [sample[ext] for sample, (_, ext, _, _) in zip(read, PAIRS, strict=True)] == [image for image, *_ in PAIRS]
    assert read[2]["txt"] == PAIRS[2][2].encode()


def test_equal_pairs_give_equal_bytes(tmp_path):
    _, one = write(tmp_path / "one")
    _, other = write(tmp_path / "other")
    assert one[0].read_bytes() == other[0].read_bytes()


def test_long_and_foldered_keys(tmp_path):
    key = "deep/" * 30 + "k" * 120 + "界"
    with ShardWriter(tmp_path) as writer:
        writer.write(b"1", "jpg", "c", key=key, members={"cls": b"4"})
    (sample,) = scan(writer.shards[0])
    assert (sample.key, sample.caption) == (key, "c")
    assert read_image(writer.shards[0], *sample.extra["cls"]) == b"4"


def test_shards_end_at_their_limit_of_bytes(tmp_path):
    _, shards = write(tmp_path, [(b"x" * 3000, "jpg", "c", None)] * 5, max_bytes=5000)
    assert [len(scan(path)) for path in shards] == [2, 2, 1]


def test_an_error_leaves_no_half_shard(tmp_path):
    with pytest.raises(RuntimeError), ShardWriter(tmp_path, max_count=1) as writer:
        writer.write(b"1", "jpg", "c")
        writer.write(b"2", "jpg", "c")
        raise RuntimeError
    assert [path.name for path in tmp_path.iterdir()] == ["00000.tar"]


@pytest.mark.parametrize("key", ["a.b", "", "folder/", "__a__", "a/.b"])
def test_keys_that_would_not_come_back_are_refused(tmp_path, key):
    with pytest.raises(ReactvlError), ShardWriter(tmp_path) as writer:
        writer.write(b"1", "jpg", "c", key=key)


def test_other_extensions_and_equal_keys_are_refused(tmp_path):
    with pytest.raises(ReactvlError, match="twice"), ShardWriter(tmp_path) as writer:
        writer.write(b"1", "jpg", key="a")
        writer.write(b"1", "png", key="a")
    with pytest.raises(ReactvlError, match="extension"), ShardWriter(tmp_path) as writer:
        writer.write(b"1", "svg", key="a")
