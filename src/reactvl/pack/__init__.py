"""Pictures with captions, wherever they lie, into shards: the pool that `embed` and every webdataset loader reads.

    reactvl pack downloads/ --out pool          # img2dataset's `files` or `parquet` output, or a folder of images with .txt
    reactvl pack train.csv --out pool           # open_clip's list of filepath, title

A run that was stopped goes on with the shards that are missing and ends in the same bytes.
"""

from pathlib import Path
from typing import Annotated, Literal

from reactvl.handles.pool import Pool
from reactvl.options import Opt


def pack(
    source: Annotated[Path, Opt("img2dataset's output folder, a folder of images, or a CSV/TSV", positional=True)],
    *,
    out: Annotated[Path, Opt("folder of the shards", table=False)],
    input_format: Annotated[
        Literal["auto", "files", "parquet", "folder", "csv"],
        Opt("files and parquet are img2dataset's; folder is any tree of images"),
    ] = "auto",
    captions: Annotated[
        str, Opt("auto (.txt, else the json's caption, else the side file's), txt, json:FIELD, parquet:FIELD")
    ] = "auto",
    per_shard: Annotated[
        int, Opt("pairs of a shard; img2dataset's shards stay as they are", also=("number-sample-per-shard",))
    ] = 10_000,
    csv_img_key: Annotated[str, Opt("column of the images' paths, which count from the CSV's folder")] = "filepath",
    csv_caption_key: Annotated[str, Opt("column of the captions")] = "title",
    csv_separator: Annotated[str, Opt("between columns: auto, comma, tab or any one sign")] = "auto",
    workers: Annotated[int, Opt("processes that write shards")] = 1,
    overwrite: Annotated[bool, Opt("replace another result in the output folder", table=False)] = False,
) -> Pool:
    """Pack pictures and captions into shards `00000.tar`, ... with img2dataset's side files `00000.parquet`.

    img2dataset's shards keep their names, keys and json; other sources are numbered as it numbers. What is no image, is
    not there or was not downloaded is counted by reason, listed in `skipped.parquet` and left out. Raises ReactvlError for
    bad options, a source that is none of these, and one without a single picture.
    """
    from reactvl.pack.run import run_stage

    return run_stage(
        Path(source),
        Path(out),
        input_format=input_format,
        captions=captions,
        per_shard=per_shard,
        columns=(csv_img_key, csv_caption_key, csv_separator),
        workers=workers,
        overwrite=overwrite,
    )
