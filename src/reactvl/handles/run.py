"""The handle on a whole run: the folder that `reactvl run` and `reactvl demo` write, and the way to each of its results."""

import functools
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reactvl.handles.embeddings import Embeddings
from reactvl.handles.pairs import Pairs
from reactvl.handles.scores import Scores
from reactvl.manifest import ReactvlError

if TYPE_CHECKING:
    from reactvl.models import Model

RECIPE, EMBEDDINGS, RETRIEVED, CUSTOMIZED, EVALUATION = (
    "recipe.toml", "embeddings", "retrieved", "customized", "evaluation",
)  # fmt: skip


class Run:
    """What a recipe made. Its parts open when they are first used, and raise ReactvlError where their stage has not run.

    Raises ReactvlError for a folder without a recipe.toml that can be read.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        path = self.folder / RECIPE
        try:
            self.recipe: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ReactvlError(f"{self.folder}: holds no run (no {RECIPE}); `reactvl run --out` makes one") from None
        except (OSError, ValueError) as fault:
            raise ReactvlError(f"{path}: cannot be read ({fault}); run the recipe again") from None

    @functools.cached_property
    def embeddings(self) -> Embeddings:
        """The embedded pool."""
        return Embeddings(self._made(EMBEDDINGS))

    @functools.cached_property
    def pairs(self) -> Pairs:
        """The pairs that were chosen for the recipe's classes."""
        return Pairs(self._made(RETRIEVED))

    @functools.cached_property
    def base(self) -> "Model":
        """The model that is customized."""
        from reactvl.models import load

        return load(self.embeddings.model.name)

    @functools.cached_property
    def models(self) -> "dict[str, Model]":
        """The customized models by name, loaded."""
        from reactvl.models import load

        return {name: load(str((self.folder / CUSTOMIZED / name).absolute())) for name in self._customized()}

    @functools.cached_property
    def scores(self) -> Scores:
        """The evaluation."""
        return Scores(self._made(EVALUATION))

    @property
    def data(self) -> Path | None:
        """The folder of the labelled tasks, where the recipe evaluates."""
        given = self.recipe.get("evaluate", {}).get("data")
        return None if given is None else Path(given)

    def _made(self, name: str) -> Path:
        if not (self.folder / name / "manifest.json").is_file():
            raise ReactvlError(
                f"{self.folder}: has no finished {name}/; `reactvl run --out {self.folder}` goes on with the run"
            )
        return self.folder / name

    def _customized(self) -> list[str]:
        return [
            name
            for name in self.recipe.get("customize", {})
            if (self.folder / CUSTOMIZED / name / "manifest.json").is_file()
        ]

    def __repr__(self) -> str:
        made = []
        if (self.folder / EMBEDDINGS / "manifest.json").is_file():
            made.append(f"{len(self.embeddings):,} pairs embedded by {Path(self.embeddings.model.name).name}")
        if (self.folder / RETRIEVED / "manifest.json").is_file():
            made.append(f"{len(self.pairs):,} retrieved for {len(self.pairs.classes):,} classes")
        if names := self._customized():
            made.append(f"customized: {', '.join(names)}")
        if (self.folder / EVALUATION / "manifest.json").is_file():
            made.append(f"evaluated on {', '.join(task['name'] for task in self.scores.results['tasks'])}")
        return f"Run({str(self.folder)!r}: {'; '.join(made) or 'nothing finished yet'})"
