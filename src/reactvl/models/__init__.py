"""Models by name: open_clip's, REACT's gated ones, model folders of this project; and one encoder for all of them.

`load` imports torch when called, not before, so that commands answer fast.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reactvl.models.model import Model

__all__ = ["Model", "architecture", "load"]


def load(model: "str | Path | Model", *, quick_gelu: bool | None = None) -> "Model":
    """The model of a name (`NAME:TAG`, `react_NAME:TAG`, `NAME:FILE`, `hf-hub:...`, `local-dir:...`) or a folder; a Model is
    returned as it is.

    `quick_gelu` says the activation where nothing else does (`--force-quick-gelu`; see `activation.py`): of gated files, and of
    plain ones that were not made as their architecture's config says. Raises ReactvlError for an unknown name, a tag that does
    not exist, a folder or file that is no model, weights that do not fit, and an activation that is known to be another.
    """
    from reactvl.models.activation import check_known
    from reactvl.models.loading import build
    from reactvl.models.model import Model

    if not isinstance(model, Model):
        return build(str(model), quick_gelu)
    check_known(model.name, bool(model.config["model_cfg"].get("quick_gelu")), quick_gelu, "this model")
    return model


def architecture(name: str, *, quick_gelu: bool | None = None, seed: int = 0) -> "Model":
    """A model of an architecture's name alone (`react_ViT-B-32-quickgelu`), with random weights under `seed`: to be filled by
    `weights.load_into(model, FILE)`. Raises ReactvlError for a name with a tag, and for a folder."""
    from reactvl.models.loading import architecture

    return architecture(name, quick_gelu=quick_gelu, seed=seed)


def __getattr__(name: str) -> object:
    if name == "Model":
        from reactvl.models.model import Model

        return Model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
