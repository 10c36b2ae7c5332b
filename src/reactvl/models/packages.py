"""Weights that come in an installed Python package: `package:NAME/path/in/it`.

A model folder can name a package's file instead of carrying a copy. The demo's towers come so: real pre-trained weights
of 110 MB, installed with the `demo` extra.
"""

import importlib.util
from pathlib import Path

from reactvl.manifest import ReactvlError

PREFIX = "package:"


def resolve(text: str) -> str:
    """The path on this machine of `package:NAME/inner/path`; any other text is returned as it is.

    The package is located, not imported. Raises ReactvlError when it is not installed or lacks the file.
    """
    if not text.startswith(PREFIX):
        return text
    name, _, inner = text.removeprefix(PREFIX).partition("/")
    spec = importlib.util.find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise ReactvlError(f"{text}: the package {name} is not installed; pip install 'reactvl[demo]'")
    root = Path(spec.submodule_search_locations[0]).resolve()
    path = (root / inner).resolve()
    if not path.is_relative_to(root) or not path.exists():
        raise ReactvlError(f"{text}: the package {name} has no such file")
    return str(path)
