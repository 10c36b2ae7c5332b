"""The models that an evaluation compares: checked by name first, loaded when their turn comes, called by short
labels."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path

from reactvl.clip_imports import open_clip
from reactvl.manifest import ModelId, ReactvlError
from reactvl.models import load, names
from reactvl.models.model import Model
from reactvl.models.weights import digest

KEPT_BYTES = 4_000_000_000  # weights that may wait in memory for their turn; above it a model is loaded again


@dataclasses.dataclass
class Candidate:
    """One model of the comparison; `given` is what the caller named it by.

    `text_sha256` is of the text tower alone: customized models share their base's, and then its heads.
    """

    label: str
    given: str | Model
    id: ModelId
    text_sha256: str
    parameters: int
    image_size: int
    kept: Model | None

    def load(self) -> Model:
        return self.kept or load(self.given)

    @property
    def metrics(self) -> Path | None:
        """The training log that lies beside a customized model."""
        folder = Path(self.id.name)
        return next((path for at in (folder, folder.parent) if (path := at / "metrics.jsonl").is_file()), None)


def candidates(models: str | Path | Model | Sequence[str | Path | Model]) -> list[Candidate]:
    """Check every name, then identify every model; ReactvlError for an empty list and for a model that does not
    exist."""
    given = [models] if isinstance(models, str | Path | Model) else list(models)
    given = [str(model) if isinstance(model, Path) else model for model in given]
    if not given:
        raise ReactvlError("evaluate: no model is named; give at least one")
    known = open_clip.list_models()
    for model in given:
        if isinstance(model, str):
            names.parse(model, known)  # a mistyped third name ends here, not after the first two are loaded
    found, used = [], 0
    for model, label in zip(given, labels([m if isinstance(m, str) else m.name for m in given]), strict=True):
        loaded = load(model)
        state = loaded.net.state_dict()
        used += sum(tensor.numel() * tensor.element_size() for tensor in state.values())
        text = {name: tensor for name, tensor in state.items() if not name.startswith(("visual.", "logit_"))}
        keep = isinstance(model, Model) or used < KEPT_BYTES
        found.append(
            Candidate(
                label=label,
                given=model,
                id=loaded.id,
                text_sha256=digest(text, loaded.config["model_cfg"]["text_cfg"]),
                parameters=sum(parameter.numel() for parameter in loaded.net.parameters()),
                image_size=loaded.image_size,
                kept=loaded if keep else None,
            )
        )
    return found


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
