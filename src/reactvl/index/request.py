"""What was asked of the index stage, checked before any work."""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from reactvl.handles.embeddings import Embeddings
from reactvl.handles.index import FILE, vectors
from reactvl.manifest import (
    InputId,
    Manifest,
    ReactvlError,
    input_id,
    missing_files,
    path_beside,
    read_manifest,
    sha256_file,
    sha256_json,
)
from reactvl.search.building import merges
from reactvl.search.kinds import Choice, bytes_of, choose
from reactvl.tasks.benchmarks import benchmark
from reactvl.tasks.classes import ClassEntry, read_class_list
from reactvl.tasks.templates import prompt, read_templates


@dataclass(frozen=True)
class Request:
    """The stage's arguments as given."""

    embeddings: str | Path | Embeddings
    out: Path
    kind: str
    keys: str
    memory: str | None
    recall: float
    k: int
    classes: str | Path | Sequence[str] | None
    tasks: Sequence[str] | None
    templates: str | Path | Sequence[str] | None
    queries: int
    nprobe: int | None
    ef_search: int | None
    refine: float | None
    add: Path | None
    chunk: str
    merge: Sequence[Path] | None
    file: Path | None
    model: Any
    device: str
    seed: int
    threads: int
    overwrite: bool


@dataclass(frozen=True)
class Plan:
    """The checked request. `prompts` and the class of each (`group`) are None where captions ask; `rows` is what this run
    indexes, first and stop; `bases` are the indexes that it starts from, with their manifests."""

    embeddings: Embeddings
    parts: list[np.ndarray]
    choice: Choice | None  # None: another's file, or what the bases are
    prompts: list[str] | None
    group: np.ndarray | None
    width: int | None
    rows: tuple[int, int]
    bases: list[tuple[Path, Manifest]]
    threads: int

    @property
    def total(self) -> int:
        return sum(map(len, self.parts))


def checked(request: Request) -> Plan:
    """The plan of a request; ReactvlError for whatever is wrong with it."""
    _check_numbers(request)
    ways = [name for name in ("add", "merge", "file") if getattr(request, name)]
    ways += ["chunk"] if request.chunk != "1/1" else []
    if len(ways) > 1:
        raise ReactvlError(f"index: --{ways[0]} and --{ways[1]} are two ways to make an index; give one")
    prompts, group = _prompts(request)
    memory = None if request.memory is None else bytes_of(request.memory)
    given = request.embeddings
    embeddings = given if isinstance(given, Embeddings) else Embeddings(given, request.model)
    parts = vectors(embeddings, request.keys)
    total = sum(map(len, parts))
    if not total:
        raise ReactvlError(f"{embeddings.folder}: holds no pair, so there is nothing to index")
    if hasattr(request.model, "id"):  # a name is compared when it is loaded
        embeddings.require_model(request.model.id)
    choice = None
    starts = [request.add] if request.add else request.merge or []
    bases = [(Path(path), _base(Path(path), request)) for path in starts]
    if not bases and request.file is None:
        choice = choose(request.kind, total, parts[0].shape[1], memory=memory, recall=request.recall)
    if request.file is not None and not Path(request.file).is_file():
        raise ReactvlError(f"{request.file}: no such index file")
    rows = _share(request.chunk, total)
    if request.chunk != "1/1" and not merges(choice.factory, parts[0].shape[1]):
        raise ReactvlError(
            f"--chunk: indexes of kind {choice.kind} cannot be merged in FAISS; build it at once, or take ivf-sq8"
        )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    factory = choice.factory if choice else (bases[0][1].facts["factory"] or "") if bases else ""
    return Plan(
        embeddings=embeddings,
        parts=parts,
        choice=choice,
        prompts=prompts,
        group=group,
        width=request.nprobe if request.nprobe is not None else request.ef_search,
        rows=rows,
        bases=bases,
        threads=request.threads or (1 if factory.startswith("HNSW") else cores),
    )


def recorded(plan: Plan, request: Request) -> tuple[dict[str, Any], dict[str, InputId]]:
    """The options and inputs of the manifest: all that decides the result, and nothing else (the memory budget decides only
    the kind; threads only graphs)."""
    factory = plan.choice.factory if plan.choice else None
    options = {
        "kind": plan.choice.kind if plan.choice else None,
        "factory": factory,
        "keys": request.keys,
        "recall": request.recall,
        "k": request.k,
        "prompts": None if plan.prompts is None else sha256_json([plan.prompts, plan.group.tolist()]),
        "queries": request.queries,
        "nprobe": request.nprobe,
        "ef_search": request.ef_search,
        "refine": request.refine,
        "chunk": request.chunk,
        "seed": request.seed,
    }
    if factory and "HNSW" in factory:
        options["threads"] = plan.threads
    inputs = {"embeddings": plan.embeddings.identity(request.out)}
    for number, (path, _) in enumerate(plan.bases):
        inputs["base" if request.add else f"chunk-{number}"] = input_id(path, request.out)
    if request.file is not None:
        inputs["file"] = InputId(path_beside(request.file, request.out), sha256_file(request.file))
    return options, inputs


def _check_numbers(request: Request) -> None:
    if not 0 < request.recall <= 1:
        raise ReactvlError(f"recall is {request.recall}, wanted more than 0 and at most 1")
    for name in ("k", "queries", "nprobe", "ef_search", "refine"):
        value = getattr(request, name)
        if value is not None and not value >= 1:
            raise ReactvlError(f"{name} is {value}, wanted 1 or more")
    for name in ("seed", "threads"):
        if getattr(request, name) < 0:
            raise ReactvlError(f"{name} is {getattr(request, name)}, wanted 0 or more")
    if request.nprobe is not None and request.ef_search is not None:
        raise ReactvlError("nprobe is of inverted lists, ef_search of HNSW: give one")


def _prompts(request: Request) -> tuple[list[str] | None, np.ndarray | None]:
    """Every synonym of every class in every template, and which class it is of; None where no class is given."""
    if request.classes is not None and request.tasks:
        raise ReactvlError("index: --classes and --tasks both name classes to tune on; give one")
    given = None if request.templates is None else read_templates(_plain(request.templates))
    if request.classes is not None:
        asked = [(read_class_list(_plain(request.classes)), given or read_templates("openai"))]
    elif request.tasks:
        tasks = [benchmark(name) for name in request.tasks]
        asked = [(list(task.classes), given or list(task.templates)) for task in tasks]
    elif given is not None:
        raise ReactvlError("index: --templates needs classes to put into them; give --classes or --tasks")
    else:
        return None, None
    prompts, group, number = [], [], 0
    for entries, templates in asked:
        for entry in entries:
            for text in _prompts_of(entry, templates):
                prompts.append(text)
                group.append(number)
            number += 1
    return prompts, np.array(group, dtype=np.int64)


def _prompts_of(entry: ClassEntry, templates: Sequence[str]) -> list[str]:
    return [prompt(template, name) for name in entry.synonyms for template in entry.templates or templates]


def _base(path: Path, request: Request) -> Manifest:
    """The manifest of an index to start from; ReactvlError for one that does not belong."""
    manifest = read_manifest(path, "index")
    lost = missing_files(path, manifest)
    if lost or FILE not in manifest.files:
        raise ReactvlError(f"{path}: lacks {lost[0] if lost else FILE}; run `reactvl index` again")
    if manifest.options["keys"] != request.keys:
        raise ReactvlError(
            f"{path}: is an index of {manifest.options['keys']} vectors; pass --keys {manifest.options['keys']}"
        )
    return manifest


def _share(chunk: str, total: int) -> tuple[int, int]:
    """First and stop row of chunk I/N (I from 1)."""
    given = re.fullmatch(r"(\d+)/(\d+)", chunk.strip())
    if not given or not 1 <= int(given[1]) <= int(given[2]):
        raise ReactvlError(f"--chunk {chunk}: wanted I/N with I from 1 to N, such as 3/8")
    number, of = int(given[1]), int(given[2])
    if of > total:
        raise ReactvlError(f"--chunk {chunk}: there are only {total:,} rows; give at most as many chunks")
    return total * (number - 1) // of, total * number // of


def _plain(given: Any) -> Any:
    return given if isinstance(given, str | Path) else list(given)
