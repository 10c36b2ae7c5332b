"""The models that an evaluation compares: checked by name first, loaded when their turn comes, called by short
labels."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from reactvl.clip_imports import open_clip
from reactvl.manifest import Manifest, ModelId, ReactvlError, input_path, read_manifest
from reactvl.models import load, names
from reactvl.models.encoder import text_sha256
from reactvl.models.interpolation import interpolated
from reactvl.models.model import Model

KEPT_BYTES = 4_000_000_000  # weights that may wait in memory for their turn; above it a model is loaded again


class Reference(NamedTuple):
    """How another process comes by a model: its name, and for one between two models the base's and the share."""

    name: str
    base: str | None = None
    share: float | None = None

    def load(self) -> Model:
        tuned = load(self.name)
        return tuned if self.base is None else interpolated(load(self.base), tuned, self.share)


@dataclasses.dataclass
class Candidate:
    """One model of the comparison; `given` is what the caller named it by.

    `text_sha256` is of the text tower alone: customized models share their base's, and then its heads. `share` is the
    place of an interpolated model between the base and the tuned one; None for a model of its own.
    """

    label: str
    given: str | Model
    id: ModelId
    text_sha256: str
    parameters: int
    visual_parameters: int
    image_size: int
    kept: Model | None
    share: float | None = None
    base: "Candidate | None" = None

    def load(self) -> Model:
        if self.kept:
            return self.kept
        tuned = self.given if isinstance(self.given, Model) else load(self.given)
        return tuned if self.base is None else interpolated(self.base.load(), tuned, self.share)

    @property
    def reference(self) -> Reference:
        base = None if self.base is None else self.base.reference.name
        return Reference(self.given if isinstance(self.given, str) else self.given.name, base, self.share)

    @property
    def metrics(self) -> Path | None:
        """The training log that lies beside a customized model."""
        if self.share is not None:
            return None
        folder = Path(self.id.name)
        return next((path for at in (folder, folder.parent) if (path := at / "metrics.jsonl").is_file()), None)

    @property
    def customization(self) -> tuple[Path, Manifest] | None:
        """The folder and manifest of the customize stage that made the model; None for any other model."""
        folder = Path(self.id.name.removeprefix("local-dir:"))
        for home in (folder, folder.parent):
            if (home / "manifest.json").is_file():
                manifest = read_manifest(home)
                return (home, manifest) if manifest.stage == "customize" else None
        return None

    @property
    def pairs(self) -> Path | None:
        """The retrieved folder that the model was customized on; None where it was none, or is not there any more."""
        if (found := self.customization) is None or "pairs" not in found[1].inputs:
            return None
        folder = input_path(*found, "pairs")
        there = (folder / "manifest.json").is_file() and read_manifest(folder).stage == "retrieve"
        return folder if there else None


def candidates(
    models: str | Path | Model | Sequence[str | Path | Model], shares: Sequence[float] = ()
) -> list[Candidate]:
    """Check every name, then identify every model; each but the first is followed by those at `shares` of the way from
    the first to it.

    ReactvlError for an empty list, a model that does not exist, a share outside (0, 1), and for shares between models
    of which one was not tuned from the other.
    """
    given = [models] if isinstance(models, str | Path | Model) else list(models)
    given = [str(model) if isinstance(model, Path) else model for model in given]
    if not given:
        raise ReactvlError("evaluate: no model is named; give at least one")
    for share in shares:
        if not 0 < share < 1:
            raise ReactvlError(f"interpolate {share}: give shares between 0 (the base) and 1 (the customized model)")
    if shares and len(given) < 2:
        raise ReactvlError("interpolate: name the base and at least one model that was customized from it")
    known = open_clip.list_models()
    for model in given:
        if isinstance(model, str):
            names.parse(model, known)  # a mistyped third name ends here, not after the first two are loaded
    found: list[Candidate] = []
    for model, label in zip(given, labels([m if isinstance(m, str) else m.name for m in given]), strict=True):
        loaded = model if isinstance(model, Model) else load(model)
        base = found[0] if found else None
        found.append(candidate(label, model, loaded, found))
        for share in sorted(set(shares)) if base else ():
            between = interpolated(base.load(), loaded, share)
            one = candidate(f"{label}@{share:g}", model, between, found)
            found.append(dataclasses.replace(one, share=share, base=base))
    return found


def candidate(label: str, given: str | Model, loaded: Model, before: Sequence[Candidate]) -> Candidate:
    """A model identified; it waits in memory for its turn where there is room beside those `before` it."""
    state = loaded.net.state_dict()
    used = sum(size(one.kept) for one in before if one.kept) + size(loaded)
    return Candidate(
        label=label,
        given=given,
        id=loaded.id,
        text_sha256=text_sha256(state, loaded.config),
        parameters=sum(parameter.numel() for parameter in loaded.net.parameters()),
        visual_parameters=sum(parameter.numel() for parameter in loaded.net.visual.parameters()),
        image_size=loaded.image_size,
        kept=loaded if loaded is given or used < KEPT_BYTES else None,
    )


def size(model: Model) -> int:
    """Bytes of a model's weights."""
    return sum(tensor.numel() * tensor.element_size() for tensor in model.net.state_dict().values())


def labels(given: Sequence[str]) -> list[str]:
    """Short names, all different: a folder's own name, longer by its parents or a number where two are equal."""
    tails = [list(tail(name)) for name in given]
    chosen = []
    for number, options in enumerate(tails):
        taken = {
            other[min(at, len(other) - 1)]
            for at in range(len(options))
            for other in tails[:number] + tails[number + 1 :]
        }
        chosen.append(next((option for option in options if option not in taken), options[-1]))
    return [
        name if chosen.count(name) == 1 else f"{name} #{chosen[: at + 1].count(name)}" for at, name in enumerate(chosen)
    ]


def tail(name: str) -> Iterator[str]:
    """What a model may be called, shortest first: `gated-image`, `run/gated-image`, ..."""
    path = Path(name.removeprefix("local-dir:"))
    if not path.is_dir() and ":" in name.removeprefix("local-dir:"):
        yield name  # NAME:TAG or hf-hub:...
        return
    parts = [part for part in path.parts if part not in ("/", ".", "..")]
    if len(parts) > 1 and parts[-1] == "model":
        parts = parts[:-1]  # the final model inside a customize stage's folder
    for length in range(1, len(parts) + 1):
        yield "/".join(parts[-length:])
    if not parts:
        yield name
