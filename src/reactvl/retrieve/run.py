"""The retrieve stage's work: encode the queries, search, choose, write."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from reactvl.handles.index import Index
from reactvl.handles.pairs import FILE, Pairs
from reactvl.manifest import Stage, stage_folder, write_bytes
from reactvl.pool.fetching import fetch_command
from reactvl.progress import say
from reactvl.retrieve import engines
from reactvl.retrieve.cache import FOLDER
from reactvl.retrieve.choosing import Choice, Chooser
from reactvl.retrieve.earlier import Finished, Stopped, earlier_run, take_over
from reactvl.retrieve.exclusion import Exclusion, images_exclusion
from reactvl.retrieve.finding import Finder, encoded, encoder, slice_of
from reactvl.retrieve.queries import SIDE
from reactvl.retrieve.request import Plan, Request, checked, recorded
from reactvl.retrieve.scoring import mean_queries
from reactvl.retrieve.selection import OVER_BALANCE, shortfall
from reactvl.retrieve.writing import write


def run(request: Request) -> Pairs:
    plan = checked(request)
    options, inputs = recorded(plan, request)
    embeddings = plan.embeddings
    with (
        earlier_run(request.out) as earlier,
        stage_folder(
            request.out, "retrieve", options=options, inputs=inputs, model=embeddings.model, overwrite=request.overwrite
        ) as stage,
    ):
        if not stage.done:
            _retrieve(stage, plan, request, earlier)
    pairs = Pairs(request.out)
    tell(pairs)
    return pairs


def tell(pairs: Pairs) -> None:
    """Say what was chosen."""
    counts, facts = pairs.manifest.counts, pairs.manifest.facts
    say(
        f"{pairs.folder}: {counts['pairs']:,} pairs for {counts['classes']:,} classes "
        f"(median {facts['pairs_per_class']['median']:g} a class, fewest {facts['pairs_per_class']['fewest']}) "
        f"of {counts['rows']:,} in the pool; {facts['captions_without_class_name']:.0%} of their captions "
        "lack the class name"
    )
    say(f"  pictures per class: {pairs.folder / 'report.html'}")
    if facts["few"]:
        shown = ", ".join(facts["few"][:8]) + (" ..." if len(facts["few"]) > 8 else "")
        say(f"  {len(facts['few'])} classes got few pairs: {shown}")
    if "positives" in facts:
        say(f"  {told_of_positives(facts['positives'])}")
    if facts["pool"] == "urls":
        say(f"  a pool of URLs: {fetch_command(pairs.folder / FILE, counts['pairs'])}")


def told_of_positives(facts: dict[str, Any]) -> str:
    """`picked by hand: 12 pairs; 10 kept, 1 excluded; 1 not in the pool: 00017.tar/000170042`"""
    fates = ", ".join(f"{count:,} {fate}" for fate, count in facts["fates"].items())
    words = f"picked by hand: {facts['listed']:,} pair{'s' * (facts['listed'] != 1)}" + (f"; {fates}" if fates else "")
    if facts["not_in_pool"]:
        shown = ", ".join(facts["lacking"][:3]) + (" ..." if facts["not_in_pool"] > 3 else "")
        words += f"; {facts['not_in_pool']:,} not in the pool: {shown}"
    return words


def _retrieve(stage: Stage, plan: Plan, request: Request, earlier: Finished | Stopped | None) -> None:
    device = device_of(request)
    indexes = chosen_engines(stage, plan, device)
    take_over(earlier, stage, plan, indexes)
    vectors = _timed(stage, "encode", lambda: encoded(stage, plan, request))
    means = means_of(plan, vectors)
    finder = Finder(stage, plan, vectors, means, indexes, device)
    found = _timed(stage, "search", finder.first)
    leaks = Exclusion()
    if plan.evaluation is not None:
        tower = encoder(plan, request) if all(part.images() is not None for part in plan.embeddings.parts) else None
        leaks = images_exclusion(plan.evaluation, tower, cache=stage.out / FOLDER / "evaluation.npz")
    chooser = Chooser(plan, request, means, leaks, stage.out / FOLDER)
    choice = _timed(stage, "choose", lambda: chooser.choose(found))
    while request.top_up and (short := short_names(plan, request, choice)).any():
        if not _timed(stage, "search", lambda short=short: finder.deeper(found, short)):
            break
        choice = _timed(stage, "choose", lambda: chooser.choose(found))
    _timed(stage, "write", lambda: write(stage, plan, request, chooser, choice, found, indexes, leaks))


def _timed(stage: Stage, name: str, work: Callable[[], Any]) -> Any:
    began = time.monotonic()
    result = work()
    name = f"{name}_seconds"
    stage.timing[name] = stage.timing.get(name, 0.0) + time.monotonic() - began
    return result


def device_of(request: Request) -> str:
    from reactvl.models.encoder import choose_device

    return str(choose_device(request.device))


def means_of(plan: Plan, vectors: np.ndarray) -> dict[str, np.ndarray]:
    """By mode, float64 (names, dim): the mean query of every name."""
    queries, means = plan.queries, {}
    for mode in plan.sides:
        some = slice_of(queries.of_mode(mode))
        means[mode] = mean_queries(vectors[some], queries.name_of_query[some], queries.names)
    return means


def chosen_engines(stage: Stage, plan: Plan, device: str) -> dict[str, Index]:
    """The index of each side that is not searched exactly; what "auto" chose is kept for a resumed run."""
    searched = [mode for mode in plan.searched if mode in SIDE]
    loads = {}
    for mode in searched:
        before = loads[SIDE[mode]].queries if SIDE[mode] in loads else 0
        loads[SIDE[mode]] = engines.Load(
            before + len(plan.queries.of_mode(mode)), plan.rows, plan.embeddings.model.dim, plan.per_prompt, device
        )
    kept = stage.work / "engines"
    if "auto" in plan.search and kept.exists():
        return engines.indexes(["auto", *kept.read_text().splitlines()], plan.embeddings, list(loads))
    taken = engines.chosen(plan.search, plan.indexes, plan.embeddings, loads)
    write_bytes(kept, "\n".join(str(index.folder.resolve()) for index in taken.values()).encode())
    return taken


def short_names(plan: Plan, request: Request, choice: Choice) -> np.ndarray:
    """bool (names,): the names of classes that have fewer pairs than they may, for want of more."""
    short = np.zeros(plan.queries.names, dtype=bool)
    lacking = shortfall(choice.selection, len(plan.entries), request.per_class) > 0
    held_back = choice.selection.class_id[choice.selection.fate == OVER_BALANCE]
    lacking[held_back] = False
    short[plan.queries.name_of_class[lacking]] = True
    return short
