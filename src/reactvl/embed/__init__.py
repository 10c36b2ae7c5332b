"""Every pair of the pool through both towers of a model, with its catalogue and hashes made on the way.

    reactvl embed 'pool/{00000..00897}.tar' --model ViT-B-32:openai --out run/embeddings

The folder's layout is clip-retrieval's (see `pool/embeddings_format.py`). A run that was stopped goes on with the
shards that are missing and ends in the same bytes.
"""

from pathlib import Path
from typing import Annotated, Literal

from reactvl.handles.embeddings import Embeddings
from reactvl.options import Opt


def embed(
    pool: Annotated[str | list[str], Opt("shards: a folder of them, or 'pool/{00000..00897}.tar'", positional=True)],
    model: Annotated[str | object, Opt("model: NAME:TAG or a model folder")],
    *,
    out: Annotated[Path, Opt("folder of the embeddings", table=False)],
    captions: Annotated[
        str, Opt("auto (.txt, else the json's caption, else the side file's), txt, json:FIELD, parquet:FIELD")
    ] = "auto",
    batch_size: Annotated[int, Opt("images of a batch")] = 128,
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], Opt("arithmetic; auto is bf16 where the machine has it")
    ] = "auto",
    device: Annotated[str, Opt("auto, cpu, cuda or cuda:N; cuda:all, or a comma list: a process a device")] = "auto",
    executor: Annotated[
        str, Opt("local: in this process; processes[:N]: N processes, each with a copy of the model (one a core)")
    ] = "local",
    chunk: Annotated[
        str, Opt("I/N: the I-th of N shares of the shards, from 1; the run that ends last completes --out", table=False)
    ] = "1/1",
    workers: Annotated[
        int | None, Opt("threads of a process that decode images (default: its share of the cores)")
    ] = None,
    threads: Annotated[
        int, Opt("compute threads of a process; 0 shares the cores and keeps the number when resumed")
    ] = 0,
    part_rows: Annotated[int, Opt("rows of one part of the output, kept to where shards end")] = 1_000_000,
    fast_images: Annotated[bool, Opt("decode JPEGs the fast way, within 2 of 255 of Pillow")] = True,
    overwrite: Annotated[bool, Opt("replace another result in the output folder", table=False)] = False,
) -> Embeddings | None:
    """Embed a pool: image and text vectors, catalogue and hashes of every usable pair.

    `model` is a name, a folder or a `Model`. Samples that cannot be used are counted by reason, listed in
    `skipped.parquet` and left out. The scalar fields of the samples become columns of the metadata, behind our own.
    Chunks may run at the same time, on several machines that share the folders, and end in the bytes of a run without
    them; a chunk after which shards are still to do returns None. Raises ReactvlError for bad options, a pool that names
    no shards, a model that cannot be loaded, and a pool without one usable pair.
    """
    from reactvl.embed.stage import run_stage

    return run_stage(
        pool,
        model,
        Path(out),
        captions=captions,
        batch_size=batch_size,
        precision=precision,
        device=device,
        executor=executor,
        chunk=chunk,
        workers=workers,
        threads=threads,
        part_rows=part_rows,
        fast_images=fast_images,
        overwrite=overwrite,
    )
