"""The command that we print for a list of URLs is the one that the released pairs were fetched with."""

import shlex

from reactvl.pool.fetching import fetch_command

RELEASED = (
    "img2dataset --url_list imagenet_10m.parquet --input_format parquet --url_col URL --caption_col TEXT --output_format "
    "webdataset --output_folder pool --processes_count 64 --thread_count 12 --image_size 384 --resize_only_if_bigger=True "
    "--resize_mode=keep_ratio --skip_reencode=True"
)


def test_it_is_the_released_one():
    assert fetch_command("imagenet_10m.parquet", 9_850_000) == RELEASED
    assert fetch_command("imagenet_10m.parquet", None) == RELEASED


def test_no_more_processes_than_shards():
    for rows, processes in ((0, 1), (1, 1), (10_000, 1), (10_001, 2), (630_000, 63), (640_001, 64)):
        assert f"--processes_count {processes} " in fetch_command("pairs.parquet", rows)


def test_names_reach_a_shell_as_they_are():
    words = shlex.split(fetch_command("my run/pairs.parquet", 5, ("image url", "the 'text'"), "a pool; rm -rf x"))
    given = dict(zip(words[1::2], words[2::2], strict=False))
    assert given["--url_list"] == "my run/pairs.parquet" and given["--output_folder"] == "a pool; rm -rf x"
    assert (given["--url_col"], given["--caption_col"]) == ("image url", "the 'text'")
