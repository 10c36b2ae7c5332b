"""Embeddings are the model's own vectors, row by row with their catalogue; what cannot be used is listed, never
lost."""

import hashlib
import io
import os
import tarfile
from json import dumps as json_text

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from reactvl.embed import embed
from reactvl.handles.embeddings import Embeddings
from reactvl.manifest import ReactvlError
from reactvl.models import load
from reactvl.pool.embeddings_format import METADATA_SCHEMA
from reactvl.pool.images import decode, perceptual_hash


def files(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "timing.json"
    }


def test_rows_are_the_models_vectors_of_that_very_pair(pool, model, tmp_path):
    made = embed(
        str(pool(shards=3, pairs=20)), model, out=tmp_path / "out", batch_size=8, precision="fp32", part_rows=30
    )
    assert len(made) == 60 and [part.rows for part in made.parts] == [20, 20, 20]
    net = load(model)
    for part in made.parts:
        images, texts, table = part.images(), part.texts(), part.metadata()
        assert images.dtype == texts.dtype == np.float16 and images.shape == (20, 32)
        assert np.allclose(np.linalg.norm(images.astype(np.float32), axis=1), 1, atol=2e-3)
        for row, about in enumerate(table.to_pylist()):
            data = made.read_image(part.number, row)
            assert hashlib.sha256(data).digest() == about["sha256"]
            assert about["phash"] == perceptual_hash(decode(data))
            wanted = net.encode_image([Image.open(io.BytesIO(data))])[0].numpy()
            assert np.abs(wanted - images[row]).max() < 3e-3  # float16, and JPEGs within 2 of 255
            assert np.abs(net.encode_text([about["caption"]])[0].numpy() - texts[row]).max() < 1e-3
            assert about["url"].rsplit("/", 1)[1] == str(part.number * 20 + row)
    places = [(row["shard"], row["part"], row["first_row"], row["rows"]) for row in made.shards.to_pylist()]
    assert places == [("00000.tar", 0, 0, 20), ("00001.tar", 1, 0, 20), ("00002.tar", 2, 0, 20)]
    assert made.manifest.facts["images"] == {"fast": 30, "pillow": 30}


def test_the_same_request_is_up_to_date_and_another_one_is_refused(pool, model, other_model, tmp_path, capsys):
    shards, out = pool(shards=1, pairs=4), tmp_path / "out"
    embed(str(shards), model, out=out)
    before = files(out)
    embed(f"{shards}/{{00000..00000}}.tar", model, out=out, executor="processes:2")
    assert "up to date" in capsys.readouterr().out and files(out) == before
    with pytest.raises(ReactvlError, match="--overwrite"):
        embed(str(shards), other_model, out=out)
    assert embed(str(shards), other_model, out=out, overwrite=True).model.sha256 == load(other_model).id.sha256


def test_worker_processes_give_the_same_bytes(pool, model, tmp_path):
    shards = str(pool(shards=3, pairs=6))
    embed(shards, model, out=tmp_path / "one", threads=1)
    embed(shards, load(model), out=tmp_path / "two", threads=1, device="cpu,cpu", workers=2)
    assert files(tmp_path / "one") == files(tmp_path / "two")


def write(path, members):
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, body in members:
            entry = tarfile.TarInfo(name)
            entry.size = len(body)
            tar.addfile(entry, io.BytesIO(body))


def good(key, picture, number, ext="jpg"):
    return [(f"{key}.{ext}", picture(number, "jpg")), (f"{key}.txt", f"caption of {key}".encode())]


def test_bad_samples_and_shards_are_counted_listed_and_skipped(model, picture, tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    jpg = picture(3)
    failed = b'{"status": "failed_to_download", "error_message": "404", "caption": "c"}'
    members = [
        *good("deep/folder/" + "long" * 40, picture, 0, "JPEG"),
        ("no-caption.jpg", jpg),
        ("blank.jpg", jpg),
        ("blank.txt", b" \n"),
        ("no-image.txt", b"words"),
        ("half.jpg", jpg[: len(jpg) // 2]),
        ("half.txt", b"half a picture"),
        ("text.png", b"<html>not found</html>"),
        ("text.txt", b"an error page"),
        ("failed.jpg", jpg),
        ("failed.json", failed),
        *good("twice", picture, 1),
        *good("twice", picture, 2),
        ("json-only.webp", picture(4, "webp")),
        ("json-only.json", b'{"caption": "from json", "url": "u", "status": "success"}'),
    ]
    write(folder / "0.tar", members)
    write(folder / "1.tar", [*good("whole", picture, 5), *good("cut", picture, 6)])
    with tarfile.open(folder / "1.tar") as tar:
        cut = tar.getmember("cut.jpg")
    (folder / "1.tar").write_bytes((folder / "1.tar").read_bytes()[: cut.offset_data + 100])
    (folder / "2.tar").write_bytes(b"this is no tar file" * 100)
    (folder / "3.tar").write_bytes(b"")
    write(folder / "4.tar", good("last", picture, 7))

    made = embed(str(folder), model, out=tmp_path / "out")
    keys = [row["key"] for part in made.parts for row in part.metadata(["key"]).to_pylist()]
    assert keys == ["deep/folder/" + "long" * 40, "twice", "json-only", "whole", "last"]
    skipped = {(row["shard"], row["key"]): (row["reason"], row["detail"]) for row in made.skipped.to_pylist()}
    assert {place: reason for place, (reason, _) in skipped.items()} == {
        ("0.tar", "no-caption"): "no caption",
        ("0.tar", "blank"): "empty caption",
        ("0.tar", "no-image"): "no image",
        ("0.tar", "half"): "damaged image",
        ("0.tar", "text"): "not an image",
        ("0.tar", "failed"): "download failed",
        ("0.tar", "twice"): "duplicate key",
        ("1.tar", "cut"): "truncated",
        ("2.tar", ""): "damaged shard",
        ("3.tar", ""): "truncated",
    }
    assert skipped["1.tar", "cut"][1] == f"member 'cut.jpg': expected {cut.size:,} bytes, 100 left"
    assert "404" in skipped["0.tar", "failed"][1]
    counts = made.manifest.counts
    assert (counts["pairs"], counts["shards"], counts["skipped"], counts["skipped: truncated"]) == (5, 5, 10, 2)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_shard_without_permission_is_listed(pool, model, tmp_path):
    shards = pool(shards=2, pairs=3)
    (shards / "00000.tar").chmod(0)
    made = embed(str(shards), model, out=tmp_path / "out")
    assert [(row["shard"], row["reason"]) for row in made.skipped.to_pylist()] == [("00000.tar", "unreadable shard")]


def test_a_shard_that_cannot_be_read_is_listed_and_the_run_goes_on(pool, model, tmp_path, monkeypatch):
    shards = pool(shards=2, pairs=3)

    def failing(path, captions):
        if path.name == "00000.tar":
            raise OSError(5, "Input/output error")
        return original(path, captions)

    from reactvl.pool import tars

    original = tars.catalogue
    monkeypatch.setattr(tars, "catalogue", failing)
    made = embed(str(shards), model, out=tmp_path / "out")
    assert len(made) == 3
    assert made.skipped.to_pylist() == [
        {"shard": "00000.tar", "key": "", "reason": "unreadable shard", "detail": "Input/output error"}
    ]


def test_a_pool_without_a_usable_pair_is_an_error(model, tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    write(folder / "0.tar", [("a.txt", b"words"), ("b.jpg", b"")])
    with pytest.raises(ReactvlError, match="1 no image"):
        embed(str(folder), model, out=tmp_path / "out")


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"workers": 0},
        {"threads": -1},
        {"part_rows": 0},
        {"captions": "csv"},
        {"chunk": "0/3"},
        {"chunk": "4/3"},
        {"chunk": "all"},
        {"executor": "ray"},
        {"device": "tpu"},
        {"device": "cpu,cpu", "executor": "processes:1"},
    ],
)
def test_bad_options_stop_at_once(tmp_path, options):
    with pytest.raises(ReactvlError, match=next(reversed(options))):
        embed("nowhere", "no-model", out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0", "cuda:all", "cpu,cuda:1"])
def test_a_gpu_that_is_not_there_is_refused(tmp_path, device):
    with pytest.raises(ReactvlError, match="sees no GPU"):
        embed("nowhere", "no-model", out=tmp_path / "out", device=device)


def test_captions_come_from_where_they_are_asked_for(model, picture, tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    members = [
        *good("both", picture, 0),
        ("both.json", b'{"alt": "words of alt"}'),
        *good("txt", picture, 1),
        ("json.jpg", picture(2)),
        ("json.json", b'{"alt": "more words", "caption": 3}'),
    ]
    write(folder / "0.tar", members)
    found = {}
    for captions in ("auto", "txt", "json:alt"):
        made = embed(str(folder), model, out=tmp_path / captions, captions=captions)
        found[captions] = {row["key"]: row["caption"] for row in made.parts[0].metadata().to_pylist()}
    assert found["auto"] == found["txt"] == {"both": "caption of both", "txt": "caption of txt"}
    assert found["json:alt"] == {"both": "words of alt", "json": "more words"}
    assert made.skipped.to_pylist()[0] | {"detail": None} == {
        "shard": "0.tar",
        "key": "txt",
        "reason": "no caption",
        "detail": None,
    }
    with pytest.raises(ReactvlError, match='captions was "json:alt", is "txt"'):
        embed(str(folder), model, out=tmp_path / "json:alt", captions="txt")


def test_fields_of_the_samples_are_typed_columns_of_one_schema_in_all_parts(model, picture, tmp_path):
    folder = tmp_path / "pool"
    folder.mkdir()
    records = [
        {"width": 9999, "views": 3, "score": 1, "safe": True, "mixed": 1.5, "KEY": "taken", "deep": {"a": 1}},
        {"views": 2**40, "score": 0.5, "safe": False, "mixed": "text", "odd": float("nan")},
        {"views": None, "score": 2, "mixed": True, "late": "only here"},
    ]
    for number, record in enumerate(records):
        write(
            folder / f"{number}.tar",
            [*good(str(number), picture, number), (f"{number}.json", json_text(record).encode())],
        )
    made = embed(str(folder), model, out=tmp_path / "out", part_rows=1)
    tables = [part.metadata() for part in made.parts]
    schema = pq.read_schema(tmp_path / "out/metadata/metadata_0.parquet")
    assert schema.names[:11] == METADATA_SCHEMA.names
    assert {field.name: str(field.type) for field in schema}.items() >= {
        "width": "int32", "height": "int32", "late": "string", "mixed": "string", "safe": "bool", "score": "double",
        "views": "int64",
    }.items()  # fmt: skip
    assert schema.names[11:] == ["late", "mixed", "safe", "score", "views"]
    for number in (1, 2):
        assert pq.read_schema(tmp_path / f"out/metadata/metadata_{number}.parquet") == schema
    rows = [row for table in tables for row in table.to_pylist()]
    assert [(row["width"], row["height"]) for row in rows] == [(40, 40), (41, 40), (42, 40)]
    assert [row["views"] for row in rows] == [3, 2**40, None]
    assert [row["score"] for row in rows] == [1.0, 0.5, 2.0]
    assert [row["mixed"] for row in rows] == ["1.5", "text", "true"]
    assert [row["safe"] for row in rows] == [True, False, None]
    assert [row["late"] for row in rows] == [None, None, "only here"]


def test_shards_of_equal_names_are_told_apart_by_their_folders(pool, model, tmp_path):
    one = pool(shards=1, pairs=3)
    two = tmp_path / "more" / "pool"
    two.mkdir(parents=True)
    (two / "00000.tar").write_bytes((one / "00000.tar").read_bytes())
    made = embed([str(one), str(two)], model, out=tmp_path / "out")
    names = made.shards["shard"].to_pylist()
    assert len(set(names)) == 2 and all(name.endswith("pool/00000.tar") for name in names)
    assert len(Embeddings(tmp_path / "out")) == 6
