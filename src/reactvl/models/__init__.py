"""Models by name: open_clip's, REACT's gated ones, model folders of this project; and one encoder for all of them.

`load` imports torch when called, not before, so that commands answer fast.
"""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from reactvl.models.model import Model

__all__ = ["Model", "load"]


def load(model: "str | Path | Model") -> "Model":
    """The model of a name (`NAME:TAG`, `react_NAME:TAG`, `hf-hub:...`, `local-dir:...`) or a folder; a Model is returned as it is.

    Raises ReactvlError for an unknown name, a tag that does not exist, a folder or file that is no model, and weights that do not fit.
    """
    from reactvl.models.model import Model, build

    return model if isinstance(model, Model) else build(str(model))


def __getattr__(name: str) -> object:
    if name == "Model":
        from reactvl.models.model import Model

        return Model
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
