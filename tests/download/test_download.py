"""`reactvl download` against a hub on this machine: the pairs with the command to run next, and weights into the cache."""

import os
import shlex

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import SEARCHED, command
from hub_server import serving, use

import reactvl
from reactvl.download.run import DATASETS
from reactvl.manifest import ReactvlError
from reactvl.models import published

PAIRS = pa.table(
    {"URL": [f"https://example.org/{number}.jpg" for number in range(1000)], "TEXT": ["a red panda"] * 1000}
)
DATASET = DATASETS["imagenet-10m"]


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving() as hub:
        hub.cache = use(hub, tmp_path / "cache", monkeypatch)
        yield hub


def put(hub, home, table: pa.Table):
    path = home / DATASET.file
    pq.write_table(table, path)
    hub.put(DATASET.repository, path, dataset=True)
    return path


def test_the_pairs_come_whole_with_the_command_to_run_next(hub, tmp_path, capsys):
    source = put(hub, tmp_path, PAIRS)
    out = tmp_path / "my data"
    path = reactvl.download("imagenet-10m", out=out)
    assert path == out / "imagenet_10m.parquet" and path.read_bytes() == source.read_bytes()
    said = capsys.readouterr().out
    assert "1,000 rows of URL and TEXT" in said
    words = shlex.split(said.splitlines()[-1])
    given = dict(zip(words[1::2], words[2::2], strict=False))
    assert (
        words[0] == "img2dataset" and given["--url_list"] == str(path) and given["--output_folder"] == str(out / "pool")
    )
    assert (given["--url_col"], given["--caption_col"], given["--input_format"]) == ("URL", "TEXT", "parquet")
    for setting in ("--output_format webdataset", "--processes_count 1", "--thread_count 12", "--image_size 384",
                    "--resize_only_if_bigger=True", "--resize_mode=keep_ratio", "--skip_reencode=True"):  # fmt: skip
        assert setting in said


def test_again_fetches_nothing_and_a_lost_copy_is_made_from_the_cache(hub, tmp_path):
    put(hub, tmp_path, PAIRS)
    path = reactvl.download("imagenet-10m", out=tmp_path / "out")
    stamp = path.stat().st_mtime_ns
    assert reactvl.download("IMAGENET_10M", out=tmp_path / "out").stat().st_mtime_ns == stamp
    path.unlink()
    assert reactvl.download("imagenet-10m", out=tmp_path / "out").exists()
    cached = reactvl.download("imagenet-10m")
    assert cached.is_relative_to(hub.cache)
    assert hub.fetched(f"datasets/{DATASET.repository}/{DATASET.file}") == [0]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (pa.table({"URL": ["x"], "caption": ["y"]}), r"has no column TEXT \(it has URL, caption\)"),
        (pa.table({"url": ["x"], "text": ["y"]}), "has no column URL and TEXT"),
        (pa.table({"URL": ["x"], "TEXT": [3]}), "column TEXT holds int64, not text"),
        (PAIRS.slice(0, 0), "has no rows"),
    ],
)
def test_another_parquet_is_refused_and_not_put_in_place(hub, tmp_path, table, says):
    put(hub, tmp_path, table)
    with pytest.raises(ReactvlError, match=says):
        reactvl.download("imagenet-10m", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_no_parquet_is_refused(hub, tmp_path):
    path = tmp_path / DATASET.file
    path.write_bytes(b"<html>sign in</html>")
    hub.put(DATASET.repository, path, dataset=True)
    with pytest.raises(ReactvlError, match="not a parquet file"):
        reactvl.download("imagenet-10m")


def test_weights_go_into_the_cache_where_their_name_finds_them(hub, tmp_path, capsys):
    release = published.find("ViT-B-16", 6, "react_clip_ret_laion400m")
    (tmp_path / release.file).write_bytes(os.urandom(50_000))
    hub.put(published.REPOSITORY, tmp_path / release.file)
    path = reactvl.download("react_ViT-B-16:REACT-clip_ret-laion400m")
    assert path.read_bytes() == (tmp_path / release.file).read_bytes()
    assert published.fetch(release) == path
    assert str(path) in capsys.readouterr().out


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("imagenet-11m", r"no such data set \(imagenet-10m\)"),
        ("ViT-B-32:nonsense", "no such tag; known: react_clip_ret_laion400m.*openai"),
        ("ViT-Q-32:openai", "no such model"),
        ("ViT-B-32:weights.pt", "nothing to fetch"),
        ("react_ViT-L-14:react_clip_ret_laion2b", "has no such repository"),
        ("ViT-B-32:openai", "has no such repository.*give them as ViT-B-32:FILE"),
    ],
)
def test_what_cannot_be_fetched_is_said_in_one_line(hub, what, says):
    with pytest.raises(ReactvlError, match=says) as fault:
        reactvl.download(what)
    assert "\n" not in str(fault.value)


def test_the_command_and_its_settings_by_environment(hub, tmp_path):
    """HF_ENDPOINT, HF_HOME and HF_HUB_OFFLINE, as another process reads them."""
    import subprocess

    put(hub, tmp_path, PAIRS)
    settings = SEARCHED | hub.environment(tmp_path / "home")
    line = command("download", "imagenet-10m", "--out", tmp_path / "out")
    offline = subprocess.run(line, env=settings | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert offline.returncode == 2 and "HF_HUB_OFFLINE is set: unset it once" in offline.stderr
    assert len(offline.stderr.strip().splitlines()) == 1
    done = subprocess.run(line, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "out" / DATASET.file).exists() and "img2dataset --url_list" in done.stdout
    again = subprocess.run(line, env=settings | {"HF_HUB_OFFLINE": "1"}, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert hub.fetched(f"datasets/{DATASET.repository}/{DATASET.file}") == [0]
