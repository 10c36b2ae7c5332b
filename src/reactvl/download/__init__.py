"""What others published, brought here: REACT's retrieved pairs, and weights for machines that will have no network.

    reactvl download imagenet-10m --out data/            # data/imagenet_10m.parquet, and the img2dataset command to run next
    reactvl download react_ViT-B-32:react_clip_ret_laion400m   # into the hub's cache; prints the file's path

Downloads that were stopped go on where they were.
"""

from pathlib import Path
from typing import Annotated

from reactvl.options import Opt


def download(
    what: Annotated[str, Opt("imagenet-10m, or a model: NAME:TAG, hf-hub:OWNER/NAME", positional=True)],
    *,
    out: Annotated[
        Path | None, Opt("folder of the data set's file (default: it stays in the hub's cache)", table=False)
    ] = None,
) -> Path:
    """Fetch a published data set or checkpoint from the hub and print its path; returns the path.

    `imagenet-10m`: REACT's retrieved pairs of ImageNet-1K, 9.85 M rows of URL and TEXT, checked to have these columns.
    Offline mode and the cache's place are huggingface_hub's settings (HF_HUB_OFFLINE, HF_HOME, HF_ENDPOINT). Raises ReactvlError
    for an unknown name, a file that cannot be had, and one that is not what it should be.
    """
    from reactvl.download.run import fetch_dataset, fetch_model

    return fetch_dataset(what, out) if ":" not in what else fetch_model(what, out)
