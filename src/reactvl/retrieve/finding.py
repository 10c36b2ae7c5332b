"""What every query finds in every mode, kept in the work folder so that a stopped run does not search again.

The vectors of the queries are kept for longer (cache.py): a later run with the same classes, templates and model finds them.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from reactvl import models
from reactvl.handles.index import Index
from reactvl.manifest import Stage, replacing, sha256_file, sha256_json
from reactvl.progress import progress, say
from reactvl.retrieve import tables
from reactvl.retrieve.cache import FOLDER, keep, kept
from reactvl.retrieve.match import match_names
from reactvl.retrieve.queries import EXAMPLES, PROMPTS, SIDE, encode_examples, encode_prompts
from reactvl.retrieve.request import Plan, Request
from reactvl.search.exact import top_k
from reactvl.search.hits import Hits
from reactvl.search.rescore import rescore

DEEPER = 4  # times as many nearest, round by round
MOST_HITS = 1 << 25  # that a deeper search may hold for a mode


@dataclass
class Found:
    """Hits by mode, query numbers counted over all kinds. depth: by mode, int64 (queries of the mode,), how many nearest
    each was asked for; matches: how many captions hold a name, summed over the `match` queries, None without any."""

    hits: dict[str, Hits] = field(default_factory=dict)
    depth: dict[str, np.ndarray] = field(default_factory=dict)
    matches: int | None = None


class Finder:
    """Searches for the queries of a plan. `vectors`: float32 (queries, dim), zeros for names to match; `indexes`: the
    index of a side, exact search for a side without one; `means`: by mode, float64 (names, dim)."""

    def __init__(
        self, stage: Stage, plan: Plan, vectors: np.ndarray, means: dict, indexes: dict[str, Index], device: str
    ):
        self.work, self.plan, self.vectors, self.means = stage.work, plan, vectors, means
        self.indexes, self.device = indexes, device
        self.round = 0

    def first(self) -> Found:
        """The `per_prompt` nearest of every query."""
        found = Found()
        for mode in self.plan.searched:
            numbers = np.arange(len(self.plan.queries))[slice_of(self.plan.queries.of_mode(mode))]
            found.hits[mode] = self._searched(found, mode, numbers, self.plan.per_prompt)
            found.depth[mode] = np.full(len(numbers), self.plan.per_prompt, dtype=np.int64)
        return found

    def deeper(self, found: Found, names: np.ndarray) -> bool:
        """Ask `DEEPER` times as much for the queries of these names (bool (names,)) that may still find more.

        False when there is none, or none that fits into `MOST_HITS`, which is then said.
        """
        self.round += 1
        grown = False
        for mode, hits in found.hits.items():
            span = self.plan.queries.of_mode(mode)
            able = self._able(found, mode) & names[self.plan.queries.name_of_query[slice_of(span)]]
            chosen = np.flatnonzero(able)
            if not len(chosen):
                continue
            depth = int(found.depth[mode][chosen].max())
            k = min(DEEPER * depth, self.plan.rows, MOST_HITS // len(chosen))
            if k <= depth:
                say(f"  {mode}: {len(chosen):,} queries would find more, beyond {depth:,} nearest each; stopped there")
                continue
            numbers = chosen + span.start
            more = self._searched(found, mode, numbers, k)
            kept = ~np.isin(hits.query, numbers)
            found.hits[mode] = joined(hits, kept, more)
            found.depth[mode][chosen] = k
            grown = True
        return grown

    def _able(self, found: Found, mode: str) -> np.ndarray:
        """bool (queries of the mode,): which may find more than they have: all that was asked for was found, and the last
        of it lies above the mode's least similarity."""
        hits, depth, span = found.hits[mode], found.depth[mode], self.plan.queries.of_mode(mode)
        count = np.bincount(hits.query - span.start, minlength=len(span))
        able = (count >= depth) & (depth < self.plan.rows)
        if mode in self.plan.floors:
            lowest = np.full(len(span), np.inf, dtype=np.float32)
            np.minimum.at(lowest, hits.query - span.start, hits.score)
            able &= lowest >= np.float32(self.plan.floors[mode])
        return able

    def _searched(self, found: Found, mode: str, numbers: np.ndarray, k: int) -> Hits:
        path = hits_path(self.work, mode, self.round)
        if path.exists():
            hits, matches = read_hits(path, len(self.plan.queries))
        else:
            hits, matches = self._matched(numbers, k) if mode == "match" else (self._near(mode, numbers, k), 0)
            query = numbers[hits.query].astype(np.int32)
            hits = Hits(query, hits.row, hits.score, hits.rank, len(self.plan.queries), hits.unfit)
            keep_hits(path, hits, matches)
        if mode == "match" and self.round == 0:  # all captions are counted at once; looking deeper finds no others
            found.matches = matches
        return hits

    def _near(self, mode: str, numbers: np.ndarray, k: int) -> Hits:
        index = self.indexes.get(SIDE[mode])
        if index is not None:
            return index.search(self.vectors[numbers], k)
        again = " deeper" if self.round else ""
        with progress(f"searching {mode}{again}", self.plan.rows, "rows") as bar:
            return top_k(self.vectors[numbers], self.plan.sides[mode], k, advance=bar.advance, device=self.device)

    def _matched(self, numbers: np.ndarray, k: int) -> tuple[Hits, int]:
        queries, parts = self.plan.queries, self.plan.embeddings.parts
        value = None
        if self.plan.searched != self.plan.modes:  # match-rerank: ranked by the pictures from the start
            mode = next(mode for mode in self.plan.modes if SIDE.get(mode) == "image")
            means = self.means[mode][queries.name_of_query[numbers]].astype(np.float32)

            def value(query: np.ndarray, row: np.ndarray) -> np.ndarray:
                return rescore(means, self.plan.sides[mode], query, row)

        names = [queries.name[number] for number in numbers.tolist()]
        with progress("matching names in captions", self.plan.rows, "captions") as bar:
            hits, counts = match_names(names, tables.captions_of(parts), k, value=value, advance=bar.advance)
        return hits, int(counts.sum())


def hits_path(work: Path, mode: str, number: int) -> Path:
    """Where the work folder holds what a mode found in a round; round 0 asks every query for `per_prompt`."""
    return work / f"hits-{mode}-{number}.npz"


def keep_hits(path: Path, hits: Hits, matches: int) -> None:
    columns = {name: getattr(hits, name) for name in ("query", "row", "score", "rank", "unfit")}
    with replacing(path) as part, open(part, "wb") as file:
        np.savez(file, **columns, matches=matches)


def read_hits(path: Path, queries: int) -> tuple[Hits, int]:
    with np.load(path) as held:
        hits = Hits(*(held[name] for name in ("query", "row", "score", "rank")), queries, int(held["unfit"]))
        return hits, int(held["matches"])


def slice_of(span: range) -> slice:
    return slice(span.start, span.stop)


def joined(hits: Hits, kept: np.ndarray, more: Hits) -> Hits:
    """The kept entries of some hits and all of others, which are of other queries, in order of the queries."""
    query = np.concatenate([hits.query[kept], more.query])
    order = np.argsort(query, kind="stable")
    row, score, rank = (
        np.concatenate([getattr(hits, name)[kept], getattr(more, name)])[order] for name in ("row", "score", "rank")
    )
    return Hits(query[order], row, score, rank, hits.queries, max(hits.unfit, more.unfit))


def encoded(stage: Stage, plan: Plan, request: Request) -> np.ndarray:
    """float32 (queries, dim) of prompts and examples, zeros for names to match; taken from the cache where the same
    were encoded before."""
    spans = plan.queries.spans
    prompts = plan.queries.prompt[slice_of(spans[PROMPTS])]
    pictures = [sha256_file(path) for entry in plan.entries for path in entry.examples] if spans[EXAMPLES] else []
    path = stage.out / FOLDER / "queries.npz"
    made_of = sha256_json(
        [stage.manifest.version, plan.embeddings.model.sha256, plan.precision, len(plan.queries), prompts, pictures]
    )
    if known := kept(path, made_of):
        return known["vectors"]
    vectors = np.zeros((len(plan.queries), plan.embeddings.model.dim), np.float32)
    if prompts or pictures:
        tower = encoder(plan, request)
        if prompts:
            vectors[slice_of(spans[PROMPTS])] = encode_prompts(tower, prompts)
        if pictures:
            vectors[slice_of(spans[EXAMPLES])] = encode_examples(tower, plan.entries)
    keep(path, made_of, vectors=vectors)
    return vectors


def encoder(plan: Plan, request: Request):
    """The encoder of the model that made the embeddings; the model is loaded when first needed."""
    from reactvl.models.encoder import Encoder

    model = plan.model
    if isinstance(model, str):
        model = models.load(model)
        plan.embeddings.require_model(model.id)
    return Encoder(model, device=request.device, precision=plan.precision)
