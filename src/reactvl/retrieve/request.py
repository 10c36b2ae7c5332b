"""What was asked of the retrieve stage, checked before any work."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reactvl.handles.embeddings import Embeddings
from reactvl.handles.index import Index, vectors
from reactvl.manifest import InputId, ReactvlError, input_id, sha256_json
from reactvl.models import load
from reactvl.retrieve.exclusion import Exclusion, read_exclusion
from reactvl.retrieve.tables import MODES
from reactvl.tasks.classes import read_classes
from reactvl.tasks.templates import prompt, read_templates


@dataclass(frozen=True)
class Request:
    """The stage's arguments as given."""

    embeddings: str | Path | Embeddings
    classes: str | Path | Sequence[str]
    templates: str | Path | Sequence[str]
    out: Path
    modes: Sequence[str]
    per_class: int
    candidates: int | None
    min_similarity: float | None
    min_score: float | None
    rivals: str
    search: str | Path
    model: Any
    exclude: Path | None
    seed: int
    device: str
    precision: str
    overwrite: bool


@dataclass(frozen=True)
class Plan:
    """The checked request: what is searched with what."""

    embeddings: Embeddings
    model: Any  # a Model, or the name under which to load it
    classes: list[str]
    templates: list[str]
    modes: list[str]
    sides: dict[str, list[Any]]  # mode -> parts, float16 (rows, dim) memory maps
    index: Index | None
    candidates: int
    exclusion: Exclusion
    precision: str

    @property
    def prompts(self) -> list[str]:
        """Query q is class q // templates in template q % templates."""
        return [prompt(template, name) for name in self.classes for template in self.templates]


def checked(request: Request) -> Plan:
    """The plan of a request; ReactvlError for whatever is wrong with it."""
    classes, templates = read_classes(_plain(request.classes)), read_templates(_plain(request.templates))
    given = [request.modes] if isinstance(request.modes, str) else list(request.modes)
    unknown = [mode for mode in given if mode not in MODES]
    if unknown or not given:
        raise ReactvlError(f"modes: {unknown[0] if unknown else 'none'} given; choose from {', '.join(MODES)}")
    modes = [mode for mode in MODES if mode in given]
    if request.rivals not in ("all", "finders"):
        raise ReactvlError(f"rivals: {request.rivals} given; choose all or finders")
    if request.per_class < 1:
        raise ReactvlError(f"per_class is {request.per_class}, wanted 1 or more")
    candidates = 2 * request.per_class if request.candidates is None else request.candidates
    if candidates < 1:
        raise ReactvlError(f"candidates is {candidates}, wanted 1 or more")
    if request.min_similarity is not None and not -1 <= request.min_similarity <= 1:
        raise ReactvlError(f"min_similarity is {request.min_similarity}, a cosine lies between -1 and 1")
    if request.min_score is not None and not math.isfinite(request.min_score):
        raise ReactvlError(f"min_score is {request.min_score}, wanted a number of standard deviations, such as 3.5")
    if request.seed < 0:
        raise ReactvlError(f"seed is {request.seed}, wanted 0 or more")

    embeddings = request.embeddings if isinstance(request.embeddings, Embeddings) else Embeddings(request.embeddings)
    exclusion = read_exclusion(request.exclude)
    sides = {mode: vectors(embeddings, mode) for mode in modes}
    if not sum(map(len, sides[modes[0]])):
        raise ReactvlError(f"{embeddings.folder}: holds no pair to choose from")
    return Plan(
        embeddings=embeddings,
        model=_model(request, embeddings),
        classes=classes,
        templates=templates,
        modes=modes,
        sides=sides,
        index=_index(request, embeddings, modes),
        candidates=candidates,
        exclusion=exclusion,
        precision=_precision(request),
    )


def _precision(request: Request) -> str:
    from reactvl.models.encoder import choose_device, choose_precision

    return choose_precision(request.precision, choose_device(request.device))


def _plain(given: Any) -> Any:
    return given if isinstance(given, str | Path) else list(given)


def _model(request: Request, embeddings: Embeddings) -> Any:
    """The model given, loaded and compared; without one, the name that the embeddings carry (loaded only when
    needed)."""
    if request.model is None:
        return embeddings.model.name
    return belonging(load(request.model), embeddings)


def belonging(model: Any, embeddings: Embeddings) -> Any:
    """The model itself; ReactvlError when its weights are not those that made the embeddings."""
    made = embeddings.model
    if model.id.sha256 != made.sha256:
        raise ReactvlError(
            f"{embeddings.folder}: was embedded with {made.name} (weights {made.sha256[:12]}), which is not the model "
            f"{model.id.name} (weights {model.id.sha256[:12]}); give that model, or embed the pool with this one"
        )
    return model


def _index(request: Request, embeddings: Embeddings, modes: list[str]) -> Index | None:
    if str(request.search) == "exact":
        return None
    if not Path(request.search).is_dir():
        raise ReactvlError(f"search: {request.search} is neither 'exact' nor the folder of an index")
    index = Index(request.search, embeddings)
    if modes != [index.keys]:
        raise ReactvlError(
            f"{index.folder}: holds {index.keys} vectors, the modes are {' and '.join(modes)}; "
            f"pass --modes {index.keys} or --search exact"
        )
    return index


def recorded(plan: Plan, request: Request) -> tuple[dict[str, Any], dict[str, InputId]]:
    """The options and inputs of the manifest: all that decides the result, and nothing else."""
    options = {
        "classes": plan.classes,
        "templates": plan.templates,
        "modes": plan.modes,
        "per_class": request.per_class,
        "candidates": plan.candidates,
        "min_similarity": request.min_similarity,
        "min_score": request.min_score,
        "rivals": request.rivals,
        "search": plan.index.kind if plan.index else "exact",
        "exclude": sha256_json([sorted(plan.exclusion.names), sorted(map(bytes.hex, plan.exclusion.sums))])
        if len(plan.exclusion)
        else None,
        "seed": request.seed,
        "precision": plan.precision,
    }
    inputs = {"embeddings": input_id(plan.embeddings.folder, request.out)}
    if plan.index:
        inputs["index"] = input_id(plan.index.folder, request.out)
    return options, inputs
