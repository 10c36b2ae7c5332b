"""What was asked of the retrieve stage, checked before any work."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reactvl import models
from reactvl.handles.embeddings import Embeddings
from reactvl.handles.index import Index, vectors
from reactvl.manifest import InputId, ReactvlError, sha256_file, sha256_json
from reactvl.retrieve import engines
from reactvl.retrieve.duplicates import BITS, COSINE
from reactvl.retrieve.exclusion import Exclusion, ImageSet, evaluation_images, read_exclusion
from reactvl.retrieve.filters import Condition, checked_condition
from reactvl.retrieve.fusion import FUSIONS
from reactvl.retrieve.positives import Positive, digest, read_positives
from reactvl.retrieve.queries import EXAMPLES, MODES, SIDE, Queries, queries_of
from reactvl.retrieve.selection import CLASSES_PER_PAIR
from reactvl.tasks.classes import ClassEntry, read_class_list
from reactvl.tasks.templates import read_templates

DEDUP = {"sha256": 0.0, "phash": float(BITS), "embedding": COSINE}  # with the threshold of each


@dataclass(frozen=True)
class Request:
    """The stage's arguments as given; `retrieve` says what each means."""

    embeddings: str | Path | Embeddings
    out: Path
    classes: str | Path | Sequence[str] | None
    tasks: Sequence[str] | str | None
    templates: str | Path | Sequence[str] | None
    modes: Sequence[str] | str
    fusion: str
    per_class: int
    per_prompt: int | None
    top_up: bool
    min_similarity: Any
    min_score: float | None
    rivals: str | None
    classes_per_pair: str
    margin: float
    balance: float | None
    dedup: Sequence[str] | str
    exclude: Sequence[Path | str] | Path | str | None
    positives: Sequence[Path | str] | Path | str | None
    exclude_images: Sequence[str] | str | None
    where: str | None
    search: str | Path | Sequence[str | Path]
    model: Any
    seed: int
    device: str
    precision: str
    materialize: bool
    overwrite: bool


@dataclass(frozen=True)
class Plan:
    """The checked request: what is searched with what."""

    embeddings: Embeddings
    model: Any  # a Model, or the name under which to load it
    entries: list[ClassEntry]
    templates: list[str]  # of the classes without templates of their own
    modes: list[str]  # all that were asked for
    searched: list[str]  # those whose hits are candidates: with match-rerank `match` alone
    rivals: str
    queries: Queries
    sides: dict[str, list[Any]]  # mode -> parts, float16 (rows, dim) memory maps; none for match
    rows: int
    search: list[str]
    indexes: dict[str, Index]  # those named, by side
    per_prompt: int
    floors: dict[str, float]  # mode -> least similarity
    dedup: dict[str, float]  # notion -> threshold
    exclusion: Exclusion
    positives: list[Positive]
    evaluation: ImageSet | None
    where: Condition | None
    precision: str

    @property
    def classes(self) -> list[str]:
        """Display names; a class's id is its place."""
        return [entry.name for entry in self.entries]


def checked(request: Request) -> Plan:
    """The plan of a request; ReactvlError for whatever is wrong with it."""
    entries, templates = asked(request)
    modes = words(request.modes, MODES, "modes")
    _check_fusion(request.fusion, modes)
    # a caption that holds the name has named its class: pictures only rank it
    rivals = request.rivals or ("finders" if request.fusion == "match-rerank" else "all")
    for name, value, choices in (
        ("rivals", rivals, ("all", "finders")),
        ("classes_per_pair", request.classes_per_pair, CLASSES_PER_PAIR),
    ):
        if value not in choices:
            raise ReactvlError(f"{name}: {value} given; choose {' or '.join(choices)}")
    per_prompt = 2 * request.per_class if request.per_prompt is None else request.per_prompt
    for name, value in (("per_class", request.per_class), ("per_prompt", per_prompt)):
        if value < 1:
            raise ReactvlError(f"{name} is {value}, wanted 1 or more")
    _check_numbers(request)
    scored = [mode for mode in modes if mode in SIDE]
    if not scored and (request.min_score is not None or request.classes_per_pair == "margin"):
        raise ReactvlError(
            "min_score and classes_per_pair margin compare vectors, and match alone has none; add t2i or t2t"
        )

    embeddings, model = opened(request)
    exclusion = read_exclusion(request.exclude)
    positives = read_positives(request.positives, entries)
    sides = {mode: vectors(embeddings, SIDE[mode]) for mode in scored}
    rows = sum(part.rows for part in embeddings.parts)
    if not rows:
        raise ReactvlError(f"{embeddings.folder}: holds no pair to choose from")
    dedup = notions(request.dedup, embeddings)
    needed = list(dict.fromkeys(SIDE[mode] for mode in scored))
    search = engines.given(request.search)
    if request.materialize:
        embeddings.check_pool()
    return Plan(
        embeddings=embeddings,
        model=model,
        entries=entries,
        templates=templates,
        modes=modes,
        searched=["match"] if request.fusion == "match-rerank" else modes,
        rivals=rivals,
        queries=queries_of(entries, templates, modes),
        sides=sides,
        rows=rows,
        search=search,
        indexes=engines.indexes(search, embeddings, needed),
        per_prompt=per_prompt,
        floors=least_similarities(request.min_similarity, modes),
        dedup=dedup,
        exclusion=exclusion,
        positives=positives,
        evaluation=None if request.exclude_images is None else evaluation_images(_plain(request.exclude_images)),
        where=None if request.where is None else checked_condition(embeddings, request.where),
        precision=_precision(request),
    )


def asked(request: Request) -> tuple[list[ClassEntry], list[str]]:
    """The classes with what is known of each, and the templates of those that have none of their own.

    Templates that the caller gives go before a benchmark's; those of one class in a class file go before both.
    """
    if (request.classes is None) == (request.tasks is None):
        both = "both" if request.classes is not None else "neither"
        raise ReactvlError(
            f"classes or tasks: {both} given; give a file or list of class names, or the name of a benchmark"
        )
    templates = read_templates("openai" if request.templates is None else _plain(request.templates))
    if request.classes is not None:
        return read_class_list(_plain(request.classes)), templates
    from reactvl.tasks.benchmarks import benchmark

    names = request.tasks.split(",") if isinstance(request.tasks, str) else list(request.tasks)
    if not names:
        raise ReactvlError("tasks: the list is empty")
    entries = []
    for name in names:
        found = benchmark(name.strip())
        own = tuple(found.templates) if request.templates is None else None
        entries += [dataclasses.replace(entry, templates=entry.templates or own) for entry in found.classes]
    return entries, templates


def opened(request: Request) -> tuple[Embeddings, Any]:
    """The embeddings and the model of the queries: the one given, loaded and compared; without one, the name that the
    embeddings carry (loaded only when needed). Published embeddings name none, and are those of the model given."""
    model = None if request.model is None else models.load(request.model)
    embeddings = request.embeddings
    if not isinstance(embeddings, Embeddings):
        embeddings = Embeddings(embeddings, None if model is None else model.id)
    if model is None:
        return embeddings, embeddings.model.name
    embeddings.require_model(model.id)
    return embeddings, model


def words(given: Sequence[str] | str, known: Sequence[str], option: str) -> list[str]:
    """Words out of `known`, in that order; ReactvlError for another one, and for an empty list."""
    given = parted(given)
    unknown = [word for word in given if word not in known]
    if unknown or not given:
        raise ReactvlError(f"{option}: {unknown[0] if unknown else 'none'} given; choose from {', '.join(known)}")
    return [word for word in known if word in given]


def parted(given: Sequence[Any] | str) -> list[str]:
    """Words given as a list, or with commas between, or both."""
    given = [given] if isinstance(given, str) else given
    return [word.strip() for item in given for word in str(item).split(",")]


def notions(given: Sequence[str] | str, embeddings: Embeddings) -> dict[str, float]:
    """What counts as a duplicate, with thresholds: `sha256`, `phash[=BITS]`, `embedding[=COSINE]`, or `none`.

    Raises ReactvlError for another word, a threshold out of range, and for what these embeddings do not hold.
    """
    found: dict[str, float] = {}
    for word in parted(given):
        notion, _, number = word.partition("=")
        if word in ("none", ""):
            continue
        if notion not in DEDUP or (number and notion == "sha256"):
            raise ReactvlError(
                f"dedup: {word} given; choose from {', '.join(DEDUP)} (phash=4, embedding=0.97), or none"
            )
        try:
            found[notion] = float(number) if number else DEDUP[notion]
        except ValueError:
            raise ReactvlError(f"dedup: {word}: {number} is no number") from None
    bits, cosine = found.get("phash", 0.0), found.get("embedding", 1.0)
    if not (0 <= bits <= 16 and bits == int(bits)) or not 0 < cosine <= 1:
        raise ReactvlError("dedup: phash takes 0 to 16 bits, embedding a cosine over 0 and up to 1")
    if "phash" in found and "phash" not in embeddings.columns():
        raise ReactvlError(f"{embeddings.folder}: has no perceptual hashes; leave phash out of dedup")
    if "embedding" in found:
        vectors(embeddings, "image")
    return {notion: found[notion] for notion in DEDUP if notion in found}


def least_similarities(given: Any, modes: Sequence[str]) -> dict[str, float]:
    """The least similarity of each mode that has one, from a number or from `MODE=NUMBER` texts.

    Raises ReactvlError for what is neither, for a number that is no cosine, and for a mode that is not searched.
    """
    if given is None:
        return {}
    able = [mode for mode in modes if mode in SIDE]
    if isinstance(given, dict):
        given = [f"{mode}={value}" for mode, value in given.items()]
    floors: dict[str, float] = {}
    for word in parted([given] if isinstance(given, str | int | float) else given):
        mode, _, number = word.rpartition("=")
        try:
            value = float(number)
        except ValueError:
            raise ReactvlError(f"min_similarity: {word} is no number and no MODE=NUMBER, such as t2i=0.25") from None
        if not -1 <= value <= 1:
            raise ReactvlError(f"min_similarity is {word}, a cosine lies between -1 and 1")
        if mode and mode.strip() not in able:
            raise ReactvlError(
                f"min_similarity: {word}, but {mode} is none of the modes ({', '.join(able) or 'match'})"
            )
        floors |= dict.fromkeys([mode.strip()] if mode else able, value)
    return floors


def _check_fusion(fusion: str, modes: Sequence[str]) -> None:
    if fusion not in FUSIONS:
        raise ReactvlError(f"fusion: {fusion} given; choose from {', '.join(FUSIONS)}")
    pictures = [mode for mode in modes if SIDE.get(mode) == "image"]
    if fusion == "match-rerank" and ("match" not in modes or not pictures):
        raise ReactvlError(
            "fusion match-rerank ranks the captions that hold a name by their pictures: it needs match and t2i (or i2i) "
            "among the modes"
        )


def _check_numbers(request: Request) -> None:
    if request.min_score is not None and not math.isfinite(request.min_score):
        raise ReactvlError(f"min_score is {request.min_score}, wanted a number of standard deviations, such as 3.5")
    if not (math.isfinite(request.margin) and request.margin >= 0):
        raise ReactvlError(f"margin is {request.margin}, wanted a number of standard deviations, 0 or more")
    if request.balance is not None and not (math.isfinite(request.balance) and request.balance >= 1):
        raise ReactvlError(f"balance is {request.balance}, wanted 1 or more: times the pairs of the median class")
    if request.seed < 0:
        raise ReactvlError(f"seed is {request.seed}, wanted 0 or more")


def _precision(request: Request) -> str:
    from reactvl.models.encoder import choose_device, choose_precision

    return choose_precision(request.precision, choose_device(request.device))


def _plain(given: Any) -> Any:
    return given if isinstance(given, str | Path) else list(given)


def recorded(plan: Plan, request: Request) -> tuple[dict[str, Any], dict[str, InputId]]:
    """The options and inputs of the manifest: all that decides the result, and nothing else."""
    options = {
        "classes": plan.classes,
        "templates": plan.templates,
        "details": _details(plan),
        "modes": plan.modes,
        "fusion": request.fusion,
        "per_class": request.per_class,
        "per_prompt": plan.per_prompt,
        "top_up": request.top_up,
        "min_similarity": plan.floors or None,
        "min_score": request.min_score,
        "rivals": plan.rivals,
        "classes_per_pair": request.classes_per_pair,
        "margin": request.margin if request.classes_per_pair == "margin" else None,
        "balance": request.balance,
        "dedup": list(plan.dedup) if plan.dedup.items() <= DEDUP.items() else plan.dedup,
        "where": None if plan.where is None else plan.where.text,
        "search": "auto" if "auto" in plan.search else sorted(plan.indexes) or "exact",
        "exclude": sha256_json([sorted(plan.exclusion.names), sorted(map(bytes.hex, plan.exclusion.sums))])
        if len(plan.exclusion)
        else None,
        "exclude_images": None if plan.evaluation is None else plan.evaluation.digest,
        "seed": request.seed,
        "precision": plan.precision,
        "materialize": request.materialize,
    }
    if plan.positives:  # without any, what was retrieved before there was this option stays up to date
        options["positives"] = digest(plan.positives)
    inputs = {"embeddings": plan.embeddings.identity(request.out)}
    for side, index in sorted(plan.indexes.items()):
        inputs[f"{side} index"] = index.identity(request.out)
    return options, inputs


def _details(plan: Plan) -> str | None:
    """A hash of what the display names and common templates do not say of the classes; None where they say it all."""
    own = [
        [entry.synonyms, entry.templates, [sha256_file(path) for path in entry.examples] if _pictures(plan) else []]
        for entry in plan.entries
    ]
    return sha256_json(own) if any(len(names) > 1 or more or pictures for names, more, pictures in own) else None


def _pictures(plan: Plan) -> bool:
    return len(plan.queries.spans[EXAMPLES]) > 0
