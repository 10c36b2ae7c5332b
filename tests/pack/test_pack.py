"""Whatever img2dataset, a folder or open_clip's CSV holds becomes shards; what cannot is listed with its reason."""

import hashlib
import json
import os

import pyarrow.parquet as pq
import pytest
import webdataset
from commands import typed
from img2dataset_outputs import downloads, make_picture, write_files, write_parquet

from reactvl.manifest import ReactvlError, read_manifest
from reactvl.pack import pack
from reactvl.pool.reader import read_image
from reactvl.pool.tars import scan


def files(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "timing.json"
    }


def samples(pool):
    return [(path, sample) for path in pool.shards for sample in scan(path)]


def skipped(pool):
    return [(row["key"], row["reason"]) for row in pool.skipped.to_pylist()]


SHARDS = [downloads(0, 7, failed=(2,)), downloads(1, 4)]


@pytest.mark.parametrize("write", [write_files, write_parquet])
def test_img2datasets_shards_keep_their_names_keys_and_records(tmp_path, write):
    pool = pack(write(tmp_path / "source", SHARDS), out=tmp_path / "pool")
    assert [path.name for path in pool.shards] == ["00000.tar", "00001.tar"]
    wanted = [(shard, record, image) for shard, made in enumerate(SHARDS) for record, image in made if image]
    found = samples(pool)
    for (path, sample), (shard, record, image) in zip(found, wanted, strict=True):
        assert (path.stem, sample.key, sample.ext) == (f"{shard:05d}", record["key"], "jpg")
        assert (sample.caption, sample.url, sample.status) == (record["caption"], record["url"], "success")
        assert sample.fields == {"similarity": record["similarity"], "width": 20, "height": 16}
        assert read_image(path, sample.offset, sample.size) == image
        told = json.loads(read_image(path, *sample.extra["json"]))
        assert {name: told[name] for name in record} == record
    assert skipped(pool) == [("000000002", "download failed")]
    side = pq.read_table(tmp_path / "pool" / "00000.parquet").to_pylist()
    assert {name: side[2][name] for name in ("key", "status", "url")} == {
        "key": "000000002",
        "status": "failed_to_download",
        "url": "https://x/0/2",
    }
    assert len(pool) == 10
    read = list(webdataset.WebDataset([str(path) for path in pool.shards], shardshuffle=False))
    assert [one["__key__"] for one in read] == [sample.key for _, sample in found]


def test_files_and_parquet_come_to_the_same_images_and_captions(tmp_path):
    one = pack(write_files(tmp_path / "files", SHARDS), out=tmp_path / "one")
    other = pack(write_parquet(tmp_path / "parquet", SHARDS), out=tmp_path / "other")

    def content(pool):
        return [(p.name, s.key, s.caption, s.fields, read_image(p, s.offset, s.size)) for p, s in samples(pool)]

    assert content(one) == content(other)


@pytest.fixture
def folder(tmp_path):
    home = tmp_path / "photos"
    (home / "deep" / "er").mkdir(parents=True)
    (home / ".cache").mkdir()
    for number, (name, form) in enumerate(
        [
            ("a.JPG", "JPEG"),
            ("b.v2.png", "PNG"),
            ("deep/c.jpeg", "JPEG"),
            ("deep/er/ß界.webp", "WEBP"),
            ("e.jpg", "PNG"),
        ]
    ):
        path = home / name
        path.write_bytes(make_picture(number, form))
        path.with_suffix(".txt").write_text(f"caption of {name}\n")
    (home / "f.gif").write_bytes(make_picture(9, "GIF"))
    (home / "f.json").write_text('{"caption": "of json", "licence": "CC0"}')
    (home / "g.jpg").write_bytes(b"<html>no picture</html>")
    (home / "h.bmp").write_bytes(b"")
    (home / "lonely.jpg").write_bytes(make_picture(10))
    (home / ".cache" / "thumb.jpg").write_bytes(make_picture(11))
    (home / "notes.txt").write_text("no picture has this name")
    return home


def test_a_folder_of_images_with_texts(tmp_path, folder):
    pool = pack(folder, out=tmp_path / "pool", per_shard=4)
    found = [(s.key, s.ext, s.caption, s.fields["path"]) for _, s in samples(pool)]
    assert found == [
        ("000000000", "jpg", "caption of a.JPG\n", "a.JPG"),
        ("000000001", "png", "caption of b.v2.png\n", "b.v2.png"),
        ("000000002", "jpeg", "caption of deep/c.jpeg\n", "deep/c.jpeg"),
        ("000000003", "webp", "caption of deep/er/ß界.webp\n", "deep/er/ß界.webp"),
        ("000010000", "png", "caption of e.jpg\n", "e.jpg"),  # a PNG by its bytes
        ("000010001", "gif", "of json", "f.gif"),
        ("000020000", "jpg", None, "lonely.jpg"),
    ]
    assert skipped(pool) == [("000010002", "not an image"), ("000010003", "not an image")]
    assert samples(pool)[5][1].fields["licence"] == "CC0"
    counts = pool.manifest.counts
    assert counts["uncaptioned"] == 1
    for path, sample in samples(pool):
        assert read_image(path, sample.offset, sample.size) == (folder / sample.fields["path"]).read_bytes()


@pytest.mark.parametrize(("name", "separator"), [("list.tsv", "\t"), ("list.csv", ","), ("odd.csv", "|")])
def test_a_csv_of_paths_and_titles(tmp_path, folder, name, separator):
    lines = [
        ("filepath", "title", "other"),
        ("photos/a.JPG", "a red panda", "1"),
        (str(folder / "b.v2.png"), "ß界", "2"),
        ("photos/gone.jpg", "gone", "3"),
        ("https://x/1.jpg", "a link", "4"),
        ("photos/notes.txt", "no picture", "5"),
        ("/dev/zero", "no file", "6"),
        ("photos", "a folder", "7"),
        ("", "nothing", "8"),
        ("photos/deep/c.jpeg", "", "9"),
    ]
    path = tmp_path / name
    path.write_text("\ufeff" + "\n".join(separator.join(line) for line in lines) + "\n")
    given = {} if separator != "|" else {"csv_separator": "|"}
    pool = pack(path, out=tmp_path / "pool", **given)
    assert [(s.key, s.ext, s.caption) for _, s in samples(pool)] == [
        ("000000000", "jpg", "a red panda"),
        ("000000001", "png", "ß界"),
        ("000000008", "jpeg", ""),
    ]
    assert skipped(pool) == [
        ("000000002", "no such file"),
        ("000000003", "not fetched"),
        ("000000004", "not an image"),
        ("000000005", "no such file"),
        ("000000006", "no such file"),
        ("000000007", "no such file"),
    ]
    assert "line 4" in pool.skipped["detail"][0].as_py()


def test_other_columns_and_captions_by_name(tmp_path, folder):
    path = tmp_path / "list.csv"
    path.write_text('image,text\n"photos/a.JPG","one, two"\n')
    pool = pack(path, out=tmp_path / "pool", csv_img_key="image", csv_caption_key="text")
    assert [s.caption for _, s in samples(pool)] == ["one, two"]
    source = write_files(tmp_path / "files", SHARDS)
    pool = pack(source, out=tmp_path / "by-url", captions="json:url")
    assert samples(pool)[0][1].caption == "https://x/0/0"
    pool = pack(source, out=tmp_path / "by-side", captions="parquet:status")
    assert {s.caption for _, s in samples(pool)} == {"success"}


@pytest.mark.parametrize("key", ["../../escape", "/etc/x", "a.b", "", "__meta__", "000000000"])
def test_keys_of_a_strange_parquet_file_never_name_a_member(tmp_path, key):
    made = downloads(0, 3)
    made[1][0]["key"] = key
    pool = pack(write_parquet(tmp_path / "source", [made]), out=tmp_path / "pool")
    assert [s.key for _, s in samples(pool)] == ["000000000", "000000002"]
    assert pool.manifest.counts["skipped"] == 1


BAD = {
    "no such source": (["gone"], {}, "does not exist"),
    "shards": (["shards"], {}, "holds shards already"),
    "no pictures": (["empty"], {}, "holds no image"),
    "an unknown file": (["text.txt"], {}, "--input-format"),
    "a csv without lines": (["short.csv"], {}, "no line but its header"),
    "a csv without the column": (["other.csv"], {}, "has no column 'filepath' (it has image, text)"),
    "captions": (["photos"], {"captions": "json"}, "json:FIELD"),
    "per shard": (["photos"], {"per_shard": 0}, "per_shard 0"),
    "a folder as a csv": (["photos"], {"input_format": "csv"}, "read from a file"),
    "a folder as img2dataset's": (["photos"], {"input_format": "files"}, "holds no subfolders"),
    "no parquet file": (["damaged"], {}, "cannot be read as a parquet file"),
    "separator": (["other.csv"], {"csv_separator": "::"}, "csv_separator"),
    "nothing packable": (["gone.csv"], {}, "no picture of it can be packed (1 no such file)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_sources_and_options_are_one_clear_error(tmp_path, folder, case, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("shards", "empty", "damaged"):
        (tmp_path / name).mkdir()
    (tmp_path / "shards" / "0.tar").write_bytes(b"")
    (tmp_path / "damaged" / "00000.parquet").write_bytes(b"PAR1")
    (tmp_path / "text.txt").write_text("")
    (tmp_path / "short.csv").write_text("filepath,title\n")
    (tmp_path / "other.csv").write_text("image,text\na,b\n")
    (tmp_path / "gone.csv").write_text("filepath,title\ngone.jpg,b\n")
    (source,), options, words = BAD[case]
    with pytest.raises(ReactvlError) as fault:
        pack(source, out=tmp_path / "pool", **options)
    assert words in str(fault.value)
    assert not (tmp_path / "pool" / "manifest.json").exists()


def test_the_output_may_not_lie_in_the_source(folder):
    with pytest.raises(ReactvlError, match="lies in the source"):
        pack(folder, out=folder / "pool")


def test_the_command_and_the_same_run_again(tmp_path, folder):
    args = ["pack", folder, "--out", "pool", "--number_sample_per_shard", 5, "--workers", 2]
    done = typed(*args, home=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "7 pairs in 2 shards" in done.stdout and "2 not an image" in done.stdout
    before = files(tmp_path / "pool")
    assert "up to date" in typed(*args, home=tmp_path).stdout
    pack(folder, out=tmp_path / "one-worker", per_shard=5)
    assert before == files(tmp_path / "one-worker")
    os.utime(folder / "a.JPG", ns=(1, 1))
    refused = typed(*args, home=tmp_path)
    assert refused.returncode == 2 and "its input `source` has changed" in refused.stderr
    assert typed(*args, "--overwrite", home=tmp_path).returncode == 0
    assert typed("verify", "pool", home=tmp_path).returncode == 0
    assert read_manifest(tmp_path / "pool", "pack").counts["pairs"] == 7
