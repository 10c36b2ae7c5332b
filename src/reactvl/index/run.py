"""Building, growing, merging, tuning and measuring behind the index stage."""

import hashlib
import time
from collections.abc import Sequence

import numpy as np

from reactvl.handles.index import FILE, Index
from reactvl.index.request import Plan, Request, checked, recorded
from reactvl.index.text import queries_of
from reactvl.manifest import ReactvlError, Stage, stage_folder
from reactvl.progress import progress, say
from reactvl.search import building
from reactvl.search.index import checked_rows, load, save, search
from reactvl.search.kinds import row_bytes, shown
from reactvl.search.knobs import apply, knob
from reactvl.search.latency import latency
from reactvl.search.tuned import tuned

HASH_ROWS = 65_536


def run(request: Request) -> Index | None:
    plan = checked(request)
    options, inputs = recorded(plan, request)
    with stage_folder(
        request.out, "index", options=options, inputs=inputs, model=plan.embeddings.model, overwrite=request.overwrite
    ) as stage:
        if not stage.done:
            if plan.choice:
                about = f"{plan.choice.factory}, about {shown(plan.choice.size)}: {plan.choice.why}"
                say(f"index: {plan.total:,} {request.keys} vectors, {about}")
            _write(stage, plan, request)
    if request.chunk != "1/1":
        first, stop = plan.rows
        say(f"{request.out}: rows {first:,} to {stop:,}, chunk {request.chunk}; join all chunks with --merge")
        return None
    done = Index(request.out, plan.embeddings)
    facts = done.facts
    low, high = facts["recall_interval"][str(facts["k"])]
    width = "" if facts["setting"] == "exhaustive" else f"{facts['setting']} {facts['setting_value']}, "
    say(
        f"{request.out}: {facts['kind']} index of {len(done):,} {request.keys} vectors, "
        f"{facts['index_bytes'] / 1e6:,.1f} MB; {width}refine {facts['refine']:g}: recall@{facts['k']} {done.recall:.3f} "
        f"({low:.3f} to {high:.3f}) on {facts['measured_queries']:,} {facts['queries_from']}, "
        f"{facts['p50_ms']:.1f} ms a query, {facts['qps']:,.0f} queries/s"
    )
    if not facts["reached"]:
        say(
            f"  wanted {request.recall}: not reached; raise --refine or --nprobe, or take --kind ivf-sq8, ivf-flat or flat"
        )
    return done


def _write(stage: Stage, plan: Plan, request: Request) -> None:
    began = time.monotonic()
    made, about = _made(stage, plan, request)
    built = time.monotonic() - began
    first, stop = plan.rows
    facts = {
        **about,
        "rows": [first, stop],
        "rows_sha256": rows_id(plan.parts, first, stop),
        "dim": int(made.d),
        "bytes_per_vector": round(row_bytes(made), 2),
    }
    measured = {"build_seconds": round(built, 2), "threads": plan.threads}
    counts = {"rows": stop - first}
    if request.chunk == "1/1":
        counts["rows"] = checked_rows(made, plan.parts)
        found, timed, unfit = _tuned(stage, made, plan, request)
        facts, measured, counts["unfit_rows"] = {**facts, **found}, {**measured, **timed}, unfit
    save(made, stage.out / FILE)
    facts["index_bytes"] = (stage.out / FILE).stat().st_size
    stage.finish(counts=counts, facts=facts, measured=measured)


def _made(stage: Stage, plan: Plan, request: Request) -> tuple[object, dict]:
    """The filled index, and the facts of how it came about. Kept in the work folder, so that a stopped run goes on."""
    kept = stage.work / "filled.faiss"
    if request.file is not None:
        made = load(request.file)
        return made, {"kind": type(made).__name__, "factory": None, "trained_sha256": None, "grown": []}
    if plan.bases:
        about = _about(plan, request)
        made = load(kept) if kept.exists() else None
        if made is None:
            made = _grown(plan, request) if request.add else building.merge(_pieces(plan))
            save(made, kept)
        return made, about
    learnt = stage.work / "trained.faiss"
    if not learnt.exists():
        work = building.training_work(plan.total, plan.choice.factory, plan.parts[0].shape[1])
        with progress("training", work, "rows") as bar:
            made = building.trained(
                plan.parts,
                plan.choice.factory,
                seed=request.seed,
                threads=plan.threads,
                device=_device(request.device),
                advance=bar.advance,
            )
        save(made, learnt)
    made = load(learnt)
    about = {
        "kind": plan.choice.kind,
        "factory": plan.choice.factory,
        "trained_sha256": building.training_id(made),
        "grown": [],
    }
    if kept.exists():
        return load(kept), about
    _filled(made, plan, *plan.rows, _device(request.device))
    save(made, kept)
    return made, about


def _filled(index, plan: Plan, first: int, stop: int, device: str) -> None:
    with progress("indexing", stop - first, "rows") as bar:
        building.add(index, plan.parts, first, stop, threads=plan.threads, device=device, advance=bar.advance)


def _about(plan: Plan, request: Request) -> dict:
    """How an index made of others came about; ReactvlError when they do not belong together."""
    first = plan.bases[0][1].facts
    for path, manifest in plan.bases:
        here = manifest.facts
        if not request.add and here["trained_sha256"] != first["trained_sha256"]:
            raise ReactvlError(
                f"{path}: was trained otherwise than {plan.bases[0][0]}; make all chunks with the same options and seed"
            )
        start, stop = here["rows"]
        if request.add and start:
            raise ReactvlError(f"{path}: holds rows from {start:,} on only: merge the chunks before adding to them")
        if stop > plan.total or rows_id(plan.parts, start, stop) != here["rows_sha256"]:
            what = "embeddings that grew at their end" if request.add else "the embeddings that the chunks were made of"
            raise ReactvlError(
                f"{path}: indexes other vectors than rows {start:,} to {stop:,} of {plan.embeddings.folder}; give {what}, "
                f"or build the index anew"
            )
    grown = [*first["grown"], first["rows"][1]] if request.add else []
    return {name: first[name] for name in ("kind", "factory", "trained_sha256")} | {"grown": grown}


def _grown(plan: Plan, request: Request):
    path, manifest = plan.bases[0]
    made = load(path / FILE)
    _filled(made, plan, manifest.facts["rows"][1], plan.total, _device(request.device))
    return made


def _pieces(plan: Plan) -> list[tuple[object, int, int]]:
    pieces = []
    for path, manifest in plan.bases:
        start, stop = manifest.facts["rows"]
        pieces.append((load(path / FILE), start, stop - start))
    end = max(start + rows for _, start, rows in pieces)
    if end != plan.total:
        raise ReactvlError(
            f"merge: rows {end:,} to {plan.total:,} are in none of the indexes given; give those of all chunks"
        )
    return pieces


def _tuned(stage: Stage, made, plan: Plan, request: Request) -> tuple[dict, dict, int]:
    """(facts, wall-clock figures, rows that are not finite) of the index, its width left set in it."""
    name, _ = knob(made)
    asked = "nprobe" if request.nprobe is not None else "efSearch" if request.ef_search is not None else None
    if asked and asked != name:
        raise ReactvlError(
            f"--{'nprobe' if asked == 'nprobe' else 'ef-search'}: this index has no {asked}, its width is {name}"
        )
    queries = queries_of(stage, plan, request)
    with building.omp_threads(plan.threads), progress("true nearest", plan.total, "rows") as bar:
        found = tuned(
            made,
            queries,
            plan.parts,
            request.k,
            request.recall,
            seed=request.seed,
            width=plan.width,
            refine=request.refine,
            advance=bar.advance,
        )
    setting = found.setting
    apply(made, setting.value)

    def searched(vectors: np.ndarray, k: int):
        return search(made, vectors, plan.parts, k, width=setting.value or None, refine=setting.refine)

    timed = latency(searched, queries.vectors[queries.of(1)], found.k, threads=plan.threads)
    facts = {
        "recall": round(found.recall, 6),
        "recall_at": {str(depth): round(value, 6) for depth, value in found.recall_at.items()},
        "recall_interval": {str(depth): [round(edge, 6) for edge in pair] for depth, pair in found.interval_at.items()},
        "reached": setting.recall >= request.recall,
        "recall_when_tuned": round(setting.recall, 6),
        "setting": setting.name,
        "setting_value": setting.value,
        "refine": setting.refine,
        "k": found.k,
        "queries_from": queries.source,
        "tuned_queries": len(queries.of(0)),
        "measured_queries": len(queries.of(1)),
    }
    return facts, {name: round(value, 4) for name, value in timed.items()}, found.unfit


def rows_id(parts: Sequence[np.ndarray], first: int, stop: int) -> str:
    """SHA-256 of the bytes of rows `first` to `stop`, however they are parted: what an index was made of."""
    digest, at = hashlib.sha256(), 0
    for part in parts:
        begin, end = max(first - at, 0), min(stop - at, len(part))
        for start in range(begin, end, HASH_ROWS):
            digest.update(np.ascontiguousarray(part[start : min(start + HASH_ROWS, end)]))
        at += len(part)
    return digest.hexdigest()


def _device(device: str) -> str:
    """ "cpu", or the GPU that torch sees; ReactvlError for one that is not there."""
    if device == "auto":
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        return device
    from reactvl.models.encoder import choose_device

    return str(choose_device(device))
