"""Images with captions: CLIP-benchmark's retrieval webdatasets, shards of pairs, and this project's own labelled shards."""

import json

import pytest
import webdataset
from tests_support import COLOURS, drawing, write_pool

from reactvl.manifest import ReactvlError
from reactvl.pool.copies import materialize
from reactvl.pool.tars import scan
from reactvl.tasks import CaptionTask, Task, find


def write_shard(path, samples):
    path.parent.mkdir(parents=True, exist_ok=True)
    with webdataset.TarWriter(str(path), encoder=False) as writer:
        for key, body in samples.items():
            writer.write({"__key__": key, **body})


def flickr(folder):
    (folder).mkdir(parents=True)
    (folder / "dataset_type.txt").write_text("retrieval\n")
    first = {
        f"s{n}": {"webp": drawing(n, "webp"), "txt": f"a picture\n number {n} \n\nof blocks".encode()} for n in range(3)
    }
    write_shard(folder / "test/0.tar", first)
    second = {
        "good": {"jpg": drawing(7), "txt": b"one"},
        "bare": {"jpg": drawing(8)},
        "empty": {"jpg": drawing(9), "txt": b" \n"},
    }
    write_shard(folder / "test/1.tar", second)
    (folder / "test/nshards.txt").write_text("2")
    return folder


def test_a_retrieval_webdataset_gives_its_captions_line_by_line(tmp_path):
    flickr(tmp_path / "wds_flickr8k")
    for names in (None, ["flickr8k"]):
        [task] = find(names, tmp_path)
        assert isinstance(task, CaptionTask) and task.name == "wds_flickr8k"
        found = task.samples()
        assert found.names == ["0.tar/s0.webp", "0.tar/s1.webp", "0.tar/s2.webp", "1.tar/good.jpg"]
        assert found.captions[1] == ("a picture", "number 1", "of blocks") and found.captions[3] == ("one",)
        assert found.read(2) == drawing(2, "webp") and len(found) == 4
        assert found.unusable == [("1.tar/bare.jpg", "no .txt beside it"), ("1.tar/empty.jpg", "its caption is empty")]
    with pytest.raises(ReactvlError, match="task wds_flickr8k: has no split 'val'"):
        task.samples("val")
    (tmp_path / "wds_flickr8k/test/1.tar").unlink()
    with pytest.raises(ReactvlError, match="says '2' shards, the folder holds 1"):
        task.samples()


def test_other_captions_are_another_fingerprint(tmp_path):
    folder = tmp_path / "pairs/test"
    prints = set()
    (tmp_path / "pairs").mkdir()
    (tmp_path / "pairs/dataset_type.txt").write_text("retrieval")
    for text in (b"one", b"two"):
        write_shard(folder / "0.tar", {"a": {"jpg": drawing(1), "txt": text}})
        prints.add(find(None, tmp_path)[0].samples().fingerprint)
    assert len(prints) == 2


def test_shards_of_pairs_are_a_task_when_they_are_named(tmp_path):
    write_pool(tmp_path / "pool", shards=2, pairs=5)
    with pytest.raises(ReactvlError, match="holds no task"):
        find(None, tmp_path)
    [task] = find(["pool"], tmp_path)
    found = task.samples()
    assert isinstance(task, CaptionTask) and len(found) == 10
    assert found.captions[4] == (f"{COLOURS[1]} thing 4",) and found.read(4) == drawing(4, "png")


def materialized(folder, pool, classes, numbers):
    rows = [
        {"shard_path": pool / "00000.tar", "offset": one.offset, "size": one.size, "ext": one.ext, "caption": one.caption,
         "record": {"class": classes[number % len(classes)], "class_id": number % len(classes), "shard": "00000.tar",
                    "key": one.key}}
        for number, one in enumerate(scan(pool / "00000.tar")) if number in numbers
    ]  # fmt: skip
    materialize(rows, folder, seed=0, per_shard=4)


def test_shards_that_name_classes_are_labelled_by_them(tmp_path):
    pool = write_pool(tmp_path / "pool", shards=1, pairs=9)
    materialized(tmp_path / "run/shards", pool, COLOURS, range(9))
    [task] = find(["shards"], tmp_path / "run")
    samples = task.samples()
    assert isinstance(task, Task) and task.classes == list(COLOURS) and len(samples) == 9
    by_source = {}
    for shard in sorted((tmp_path / "run/shards").glob("*.tar")):
        for one in scan(shard):
            by_source[f"{shard.name}/{one.key}.{one.ext}"] = one.fields["class_id"]
    assert dict(zip(samples.names, samples.labels.tolist(), strict=True)) == by_source
    assert sorted(samples.read(row) for row in range(9)) == sorted(
        drawing(number, ("jpg", "png", "webp")[number % 3]) for number in range(9)
    )


def test_a_class_without_a_pair_keeps_its_place(tmp_path):
    pool = write_pool(tmp_path / "pool", shards=1, pairs=9)
    materialized(tmp_path / "run/shards", pool, ["red", "green", "blue", "white"], (0, 2, 4, 6))  # no 1, no 3
    [task] = find(["shards"], tmp_path / "run")
    assert task.classes == ["red", "class 1", "blue"] and set(task.samples().labels.tolist()) == {0, 2}
    manifest = {
        "stage": "retrieve",
        "version": "0",
        "options": {"classes": ["red", "green", "blue", "white"]},
        "inputs": {},
    }
    (tmp_path / "run/manifest.json").write_text(json.dumps(manifest))
    assert find(["shards"], tmp_path / "run")[0].classes == ["red", "green", "blue", "white"]
    [task] = find(["shards"], tmp_path / "run", classes=["a", "b", "c", "d"])
    assert task.classes == ["a", "b", "c", "d"]


def test_a_pair_whose_json_names_no_class_is_left_out_by_name(tmp_path):
    body = {"jpg": drawing(1), "json": json.dumps({"class": "red", "class_id": 0}).encode()}
    strange = [{"class": "red"}, {"class_id": -1, "class": "red"}, {"class_id": True, "class": "red"}]
    samples = {"a": body} | {
        f"b{n}": {"jpg": drawing(1), "json": json.dumps(one).encode()} for n, one in enumerate(strange)
    }
    write_shard(tmp_path / "own/0.tar", samples)
    found = find(["own"], tmp_path)[0].samples()
    assert found.names == ["0.tar/a.jpg"] and [name for name, _ in found.unusable] == [
        f"0.tar/b{n}.jpg" for n in range(3)
    ]
