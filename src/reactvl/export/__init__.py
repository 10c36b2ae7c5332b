"""Retrieved pairs for those who want them elsewhere: as files, as REACT's classic tree, or as shards of their own.

    reactvl export run/retrieved --scatter --out photos                  # photos/0003_red_panda/000000.jpg and .txt
    reactvl export run/retrieved --tree --dataset caltech-101 --out react  # images/DATASET/CLASS/, metas/DATASET/CLASS.json
    reactvl export run/retrieved --shards --out shards                   # shuffled, balanced, in img2dataset's naming

Nothing of this tool needs it: `customize` reads the pairs where they lie. A run that was stopped goes on.
"""

from pathlib import Path
from typing import Annotated

from reactvl.handles.pairs import Pairs
from reactvl.options import Opt


def export(
    retrieved: Annotated[str | Pairs, Opt("folder of retrieved pairs", positional=True)],
    *,
    out: Annotated[Path, Opt("folder of the copies", table=False)],
    scatter: Annotated[bool, Opt("separate image and .txt files, a folder a class")] = False,
    tree: Annotated[bool, Opt("REACT's images/DATASET/CLASS/ and metas/DATASET/CLASS.json")] = False,
    shards: Annotated[bool, Opt("tars of shuffled pairs, every class in every tar")] = False,
    dataset: Annotated[str | None, Opt("DATASET of the tree; the retrieved folder's name if not given")] = None,
    per_shard: Annotated[int, Opt("pairs of a shard", also=("number-sample-per-shard",))] = 10_000,
    seed: Annotated[int, Opt("of the shards' order")] = 0,
    overwrite: Annotated[bool, Opt("replace another result in the output folder", table=False)] = False,
) -> Path:
    """Copy retrieved pairs out of the pool; returns the folder. Ask for one of scatter, tree and shards.

    No name of a file is taken from data unescaped, and two classes of one name stay two. Pictures that cannot be read any
    more are counted by reason, listed in `skipped.parquet` and left out. Raises ReactvlError for bad options, a folder that
    is no output of `retrieve`, a shard that is gone or has changed, and pairs of which there are only URLs.
    """
    from reactvl.export.run import run_stage

    chosen = [name for name, wanted in (("scatter", scatter), ("tree", tree), ("shards", shards)) if wanted]
    return run_stage(retrieved, Path(out), chosen, dataset=dataset, per_shard=per_shard, seed=seed, overwrite=overwrite)
