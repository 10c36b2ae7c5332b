"""The command that fetches the pictures of a list of URLs: img2dataset's, with the settings of REACT's released pairs.

Its defaults would do harm: `border` pads every picture to a white square of 256 pixels, small ones are blown up, all are
encoded again.
"""

import shlex
from pathlib import Path

SETTINGS = "--image_size 384 --resize_only_if_bigger=True --resize_mode=keep_ratio --skip_reencode=True"
PROCESSES, THREADS = 64, 12  # as for the released pairs
PER_SHARD = 10_000  # img2dataset's; a shard is fetched by one process, so that more processes than shards have no work


def fetch_command(
    urls: Path | str, rows: int | None, columns: tuple[str, str] = ("URL", "TEXT"), pool: Path | str = "pool"
) -> str:
    """The command for a parquet file of `rows` rows (None: not known) with these columns of URLs and captions; its output is
    a pool of shards in the folder `pool`."""
    url, caption = columns
    processes = PROCESSES if rows is None else max(1, min(PROCESSES, -(-rows // PER_SHARD)))
    return (
        f"img2dataset --url_list {shlex.quote(str(urls))} --input_format parquet --url_col {shlex.quote(url)} "
        f"--caption_col {shlex.quote(caption)} --output_format webdataset --output_folder {shlex.quote(str(pool))} "
        f"--processes_count {processes} --thread_count {THREADS} {SETTINGS}"
    )
