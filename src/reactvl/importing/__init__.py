"""Vectors that others made, taken into an embeddings folder: normalised, checked row by row, joined with their pictures.

    reactvl import laion400m-index/ --model ViT-B-32:openai --out run/embeddings
    reactvl import features/ --model ViT-B-32:openai --pool 'pool/{00000..00897}.tar' --out run/embeddings

Published folders of `img_emb_N.npy` can be used as they are too; importing them gives hashes, float16, norms of 1, a list
of the rows that cannot be used, and (with `--pool`) pictures.
"""

from pathlib import Path
from typing import Annotated, Literal

from reactvl.handles.embeddings import Embeddings
from reactvl.options import Opt


def import_embeddings(
    src: Annotated[
        str | Path,
        Opt("clip-retrieval index folder, FAISS file, folder of feature TSVs or of img_emb_N.npy", positional=True),
    ],
    model: Annotated[str | object, Opt("model that made the vectors: NAME:TAG or a model folder")],
    *,
    out: Annotated[Path, Opt("folder of the embeddings", table=False)],
    pool: Annotated[
        str | list[str] | None, Opt("shards that hold the pictures: a folder of them, or 'pool/{00000..00897}.tar'")
    ] = None,
    keys: Annotated[
        Literal["image", "text"] | None,
        Opt("what a FAISS file holds (default: image); of an index folder, the half to take (default: what is there)"),
    ] = None,
    metadata: Annotated[
        Path | None, Opt("parquet, arrow or hdf5 file or folder of a FAISS file's rows (default: `metadata` beside it)")
    ] = None,
    lossy: Annotated[bool, Opt("take vectors that an index holds only roughly (product quantizers, PCA)")] = False,
    part_rows: Annotated[int, Opt("rows of one part of the output")] = 1_000_000,
    overwrite: Annotated[bool, Opt("replace another result in the output folder", table=False)] = False,
) -> Embeddings:
    """Take vectors that others made into an embeddings folder.

    `src` is an index folder of clip-retrieval (`image.index`, `text.index`, `metadata/`), any FAISS file with its
    metadata, the released code's feature TSVs, or published npy folders. Vectors become float16 rows of norm 1 (rows that
    are so already are copied bit by bit); rows that cannot be used are counted by reason, listed in `skipped.parquet` and
    left out. With `pool` every row is joined with its picture by key (of TSVs: by shard and key). A run that was stopped
    goes on where it was and ends in the same bytes. Raises ReactvlError for a source that is none of these, one whose
    width is not the model's, metadata of another number of rows, and an index from which vectors cannot be read back.
    """
    from reactvl.importing.run import run_import

    return run_import(src, model, Path(out), pool, keys, metadata, lossy, part_rows, overwrite)
