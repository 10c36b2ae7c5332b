"""What is in a pool, without a model: where every image lies, its caption and the fields that come with it.

    reactvl catalog 'pool/{00000..00897}.tar' --out run/catalog --hashes

The folder is an embeddings folder's without its vectors (`pool/embeddings_format.py`). `embed` makes the same on its
way; this verb is for looking at a pool first, and for reading pairs out of it by key. A run that was stopped goes on
with the shards that are missing and ends in the same bytes.
"""

from pathlib import Path
from typing import Annotated

from reactvl.handles.catalog import Catalog
from reactvl.options import Opt


def catalog(
    pool: Annotated[str | list[str], Opt("shards: a folder of them, or 'pool/{00000..00897}.tar'", positional=True)],
    *,
    out: Annotated[Path, Opt("folder of the catalogue", table=False)],
    captions: Annotated[
        str, Opt("auto (.txt, else the json's caption, else the side file's), txt, json:FIELD, parquet:FIELD")
    ] = "auto",
    hashes: Annotated[bool, Opt("read and decode every image: sha256, perceptual hash, true width and height")] = False,
    workers: Annotated[int, Opt("processes that read shards")] = 1,
    part_rows: Annotated[int, Opt("rows of one part of the output, kept to where shards end")] = 1_000_000,
    overwrite: Annotated[bool, Opt("replace another result in the output folder", table=False)] = False,
) -> Catalog:
    """Catalogue a pool: key, place, caption, url and fields of every sample that has an image.

    Without `hashes` no image is read; then width and height are what the sample's json says. Samples that cannot be used
    are counted by reason, listed in `skipped.parquet` and left out. Raises ReactvlError for bad options, a pool that names
    no shards, and a pool without one image.
    """
    from reactvl.catalog.run import run_stage

    return run_stage(
        pool,
        Path(out),
        captions=captions,
        hashes=hashes,
        workers=workers,
        part_rows=part_rows,
        overwrite=overwrite,
    )
