"""What a folder given to `serve` is: a run with its stages' folders, or embeddings alone; and the model that asks them."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from reactvl.handles.embeddings import Embeddings
from reactvl.handles.foreign import is_published
from reactvl.manifest import ReactvlError

if TYPE_CHECKING:
    from reactvl.models import Model


class Opened(NamedTuple):
    """`run` is None for embeddings alone."""

    run: Path | None
    embeddings: Embeddings
    model: "Model"


def opened(folder: Path, model: str | None) -> Opened:
    """The run or embeddings of a folder, and the model that made their vectors (`model` where they do not say it).

    Raises ReactvlError for a folder that is neither, and for a model that is another.
    """
    from reactvl.models import load

    run, home = where(folder)
    if is_published(home) and model is None:
        Embeddings(home)  # says what is missing
    if model is None:
        embeddings = Embeddings(home)
        loaded = load(embeddings.model.name)
        embeddings.require_model(loaded.id)
    else:
        loaded = load(model)
        embeddings = Embeddings(home, loaded)
    return Opened(run, embeddings, loaded)


def where(folder: Path) -> tuple[Path | None, Path]:
    """(the run or None, the embeddings) of a folder."""
    if not folder.is_dir():
        raise ReactvlError(f"{folder}: no such folder")
    home = folder / "embeddings"
    if (folder / "manifest.json").is_file() or is_published(folder) or not home.is_dir():
        if not (folder / "manifest.json").is_file() and not is_published(folder):
            raise ReactvlError(
                f"{folder}: is no run (it has no embeddings/) and no embeddings; give the folder that `reactvl run` or "
                "`reactvl embed` wrote, or published embeddings (img_emb_N.npy beside metadata_N.parquet)"
            )
        return None, folder
    return folder, home


def cache_of(run: Path | None, embeddings: Embeddings) -> Path:
    """Where converted metadata is kept: in the run, or in the user's cache where there is none or it cannot be written."""
    if run is not None and os.access(run, os.W_OK):
        return run / "serve"
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return home / "reactvl" / "serve" / embeddings.identity(home).sha256[:32]
