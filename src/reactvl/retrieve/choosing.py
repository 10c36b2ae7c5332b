"""From hits to the pairs of every class: what is known of the rows found, their scores, and who gets which."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from reactvl import __version__
from reactvl.manifest import replacing, sha256_json
from reactvl.progress import progress, say
from reactvl.retrieve import tables
from reactvl.retrieve.duplicates import near
from reactvl.retrieve.exclusion import Exclusion
from reactvl.retrieve.filters import Condition, decided
from reactvl.retrieve.finding import Found
from reactvl.retrieve.fusion import fused, ranks
from reactvl.retrieve.positives import located
from reactvl.retrieve.queries import SIDE
from reactvl.retrieve.request import Plan, Request
from reactvl.retrieve.scoring import Fit, FitScores
from reactvl.retrieve.selection import Candidates, Selection, candidate_codes, select
from reactvl.search.hits import Hits, part_offsets
from reactvl.search.rescore import gather

HITS_AT_A_TIME = 1 << 22
ROWS_AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class Choice:
    """What was chosen, and out of what. `codes`: sorted, `name * rows + row` of every candidate; `strength`: by mode, how
    strong each candidate is in it (z-scores; for match the share of the caption), of use where `found`."""

    codes: np.ndarray
    candidates: Candidates
    selection: Selection
    strength: dict[str, np.ndarray]
    found: dict[str, np.ndarray]


class Chooser:
    """Chooses among what was found. Holds what does not change from round to round: scores' backgrounds, filters."""

    def __init__(self, plan: Plan, request: Request, means: dict[str, np.ndarray], leaks: Exclusion, cache: Path):
        self.plan, self.request, self.leaks = plan, request, leaks
        self.offsets = part_offsets([range(part.rows) for part in plan.embeddings.parts])
        self.numbers = np.array([part.number for part in plan.embeddings.parts], dtype=np.int64)
        self.name_of_query = plan.queries.name_of_query
        scored = [mode for mode in plan.modes if mode in SIDE]
        if plan.searched != plan.modes:  # match-rerank: by the pictures alone
            scored = [mode for mode in scored if SIDE[mode] == "image"]
        sides = {mode: plan.sides[mode] for mode in scored}
        self.fit = FitScores({mode: means[mode] for mode in scored}, sides, request.seed) if scored else None
        self.picks = located(plan.positives, plan.embeddings)
        self.kept = None if plan.where is None else where_map(plan, plan.where, cache)

    def choose(self, found: Found) -> Choice:
        plan, request = self.plan, self.request
        able = {mode: able_hits(plan, mode, hits) for mode, hits in found.hits.items()}
        codes_of_modes = {mode: codes_of(hits, self.name_of_query, plan.rows) for mode, hits in able.items()}
        picked = self.picks.name * np.int64(plan.rows) + self.picks.row
        codes = np.unique(np.concatenate([picked, *codes_of_modes.values()]))
        name, row = np.divmod(codes, plan.rows)
        held = {mode: _among(codes, some) for mode, some in codes_of_modes.items()}
        fit = self.fit.of_pairs(name, row, lead=request.classes_per_pair == "margin") if self.fit else None
        strength = dict(fit.by_mode) if fit else {}
        if "match" in able:
            strength["match"] = _strongest(codes, able["match"], self.name_of_query, plan.rows)

        rows, place = np.unique(row, return_inverse=True)
        picture, hashes, excluded, leaked = self._known(rows)
        weak = np.zeros(len(name), dtype=bool)
        if request.min_score is not None:
            weak = fit.joint < request.min_score
        best = fit is None or plan.rivals == "finders"
        candidates = Candidates(
            name=name,
            row=row,
            score=self._score(fit, name, row, strength, held),
            fit=np.ones(len(name), dtype=bool) if best else fit.best == name,
            picture=picture[place],
            excluded=excluded[place],
            weak=weak,
            lead=None if fit is None else fit.lead,
            leaked=None if leaked is None else leaked[place],
            filtered=None if self.kept is None else ~self.kept[rows][place],
            picked=self._picked(codes, picked) if len(picked) else None,
        )
        if "phash" in plan.dedup or "embedding" in plan.dedup:
            candidates = self._near(candidates, rows, place, picture, hashes)
        selection = select(
            candidates,
            plan.queries.name_of_class,
            request.per_class,
            classes_per_pair=request.classes_per_pair,
            margin=request.margin,
            balance=request.balance,
        )
        return Choice(codes, candidates, selection, strength, held)

    def split(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(part number, row in it) of rows counted over all parts."""
        part = np.searchsorted(self.offsets, rows, side="right") - 1
        return self.numbers[part], rows - self.offsets[part]

    def _score(self, fit: Fit | None, name, row, strength, held) -> np.ndarray:
        """float64: what candidates are ranked by."""
        if self.request.fusion in ("zscore", "match-rerank"):
            return fit.joint if fit else np.maximum(strength["match"], 0.0)  # a picked one may lack the name
        return fused(
            self.request.fusion, {mode: ranks(name, row, strength[mode], found) for mode, found in held.items()}
        )

    def _picked(self, codes: np.ndarray, picked: np.ndarray) -> np.ndarray:
        """int64: the turn of the candidates that were picked by hand, -1 for the others."""
        turn = np.full(len(codes), -1, dtype=np.int64)
        turn[np.searchsorted(codes, picked)] = self.picks.turn
        return turn

    def _known(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray | None, np.ndarray, np.ndarray | None]:
        """Of ascending rows: the number of its picture, int64 (equal for equal bytes where that is asked for); its
        perceptual hash, uint64; is it excluded by the list; is it an evaluation image (None where not asked). Metadata are
        read and dropped block by block."""
        plan, leaks = self.plan, self.leaks
        hashed = "phash" in plan.dedup or len(leaks) > 0
        columns = ("shard", "key", "sha256", "url", *(("phash",) if hashed else ()))
        sums, urls = [], []
        hashes = np.zeros(len(rows), dtype=np.uint64) if hashed else None
        excluded = np.zeros(len(rows), dtype=bool)
        leaked = np.zeros(len(rows), dtype=bool) if len(leaks) else None
        images = self._images() if len(leaks) and leaks.vectors is not None else None
        for first in range(0, len(rows), ROWS_AT_A_TIME):
            some = slice(first, first + ROWS_AT_A_TIME)
            known = tables.metadata_of(plan.embeddings.parts, *self.split(rows[some]), columns)
            digest = known["sha256"].combine_chunks()
            sums.append(digest.cast(pa.binary(32)))
            urls.append(pc.if_else(pc.is_null(digest), known["url"].combine_chunks().cast(pa.string()), None))
            if hashed:
                hashes[some] = (
                    known["phash"].combine_chunks().cast(pa.uint64()).fill_null(0).to_numpy(zero_copy_only=False)
                )
            if len(plan.exclusion) or len(leaks):
                names = (known["shard"].to_pylist(), known["key"].to_pylist(), digest.to_pylist())
                excluded[some] = plan.exclusion.mask(*names)
                if len(leaks):
                    vectors = None if images is None else gather(images, self.offsets, rows[some])
                    leaked[some] = leaks.mask(*names, hashes[some], vectors)
        picture = same_pictures(sums, urls) if "sha256" in plan.dedup else np.arange(len(rows))
        return picture, hashes, excluded, leaked

    def _images(self) -> list[np.ndarray] | None:
        images = [part.images() for part in self.plan.embeddings.parts]
        return None if any(one is None for one in images) else images

    def _near(self, candidates: Candidates, rows, place, picture, hashes) -> Candidates:
        """The candidates with near duplicates joined: of those that could be chosen."""
        plan = self.plan
        running = candidates.fit | (self.request.classes_per_pair == "many")
        for barred in (candidates.weak, candidates.filtered):
            running = running if barred is None else running & ~barred
        running = running | candidates.by_hand
        for barred in (candidates.excluded, candidates.leaked):
            running = running if barred is None else running & ~barred
        some = np.unique(place[running])
        options = {}
        if "phash" in plan.dedup:
            options |= {"hashes": hashes[some], "bits": int(plan.dedup["phash"])}
        with progress("looking for near duplicates", len(some), "rows") as bar:
            if "embedding" in plan.dedup:
                vectors = RowVectors(self._images(), self.offsets, rows[some])
                options |= {"vectors": vectors, "cosine": plan.dedup["embedding"], "advance": bar.advance}
            groups = near(picture[some], **options)
        group = np.arange(len(rows)) + len(rows)
        group[some] = groups
        return replace(candidates, near=group[place])


class RowVectors:
    """The image vectors of some rows (ascending), gathered when asked for: `vectors[places]` is (n, D) float32."""

    def __init__(self, parts: list[np.ndarray], offsets: np.ndarray, rows: np.ndarray):
        self.parts, self.offsets, self.rows = parts, offsets, rows
        self.shape = (len(rows), parts[0].shape[1])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, places: np.ndarray) -> np.ndarray:
        wanted, back = np.unique(self.rows[places], return_inverse=True)
        return (
            gather(self.parts, self.offsets, wanted)[back] if len(wanted) else np.empty((0, self.shape[1]), np.float32)
        )


def able_hits(plan: Plan, mode: str, hits: Hits) -> Hits:
    """The hits that reach the mode's least similarity; scores are compared in float32, as they are reported."""
    if mode not in plan.floors:
        return hits
    kept = hits.score >= np.float32(plan.floors[mode])
    return Hits(hits.query[kept], hits.row[kept], hits.score[kept], hits.rank[kept], hits.queries, hits.unfit)


def codes_of(hits: Hits, name_of_query: np.ndarray, rows: int) -> np.ndarray:
    """Sorted codes `name * rows + row` of what one mode found, each once, in the memory of the result and a block."""
    pieces = []
    for first in range(0, len(hits), HITS_AT_A_TIME):
        some = slice(first, first + HITS_AT_A_TIME)
        piece = Hits(hits.query[some], hits.row[some], hits.score[some], hits.rank[some], hits.queries)
        pieces.append(candidate_codes([piece], name_of_query, rows))
    return np.unique(np.concatenate([np.empty(0, np.int64), *pieces]))


def _among(codes: np.ndarray, some: np.ndarray) -> np.ndarray:
    """bool: which of the sorted `codes` are among `some`."""
    held = np.zeros(len(codes), dtype=bool)
    held[np.searchsorted(codes, some)] = True
    return held


def _strongest(codes: np.ndarray, hits: Hits, name_of_query: np.ndarray, rows: int) -> np.ndarray:
    """float64: the best score that any query of its name gives a candidate, minus infinity where none does."""
    best = np.full(len(codes), -np.inf)
    at = np.searchsorted(codes, name_of_query[hits.query] * np.int64(rows) + hits.row)
    np.maximum.at(best, at, hits.score.astype(np.float64))
    return best


def same_pictures(sums: list[pa.Array], urls: list[pa.Array]) -> np.ndarray:
    """int64 (n,): equal for rows of equal sha256, and for rows without one of equal URL; any other row stands alone."""
    count = sum(map(len, sums))
    picture = np.arange(count)
    start = count
    for pieces in (sums, urls):
        values = pa.chunked_array(pieces) if pieces else pa.chunked_array([pa.array([], pa.string())])
        encoded = values.combine_chunks().dictionary_encode()
        numbers = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
        picture = np.where(numbers >= 0, start + numbers, picture)
        start += len(encoded.dictionary)
    return picture


def where_map(plan: Plan, condition: Condition, cache: Path) -> np.ndarray:
    """bool (rows,), a memory map: the rows of the pool for which the condition holds; decided once, row group by row
    group, and kept in the folder `cache` until there is another condition."""
    made_of = sha256_json([__version__, condition.text, plan.embeddings.identity(cache).sha256])
    path = cache / f"where-{made_of[:16]}.bool"
    if not path.exists() or path.stat().st_size != plan.rows:
        for stale in cache.glob("where-*.bool"):
            stale.unlink()
        with replacing(path) as part, open(part, "wb") as file, progress("filtering", plan.rows, "rows") as bar:
            for kept in decided(plan.embeddings, condition):
                file.write(kept.astype(np.uint8).tobytes())
                bar.advance(len(kept))
    kept = np.memmap(path, dtype=bool, mode="r")
    held = sum(
        int(np.count_nonzero(kept[first : first + HITS_AT_A_TIME])) for first in range(0, len(kept), HITS_AT_A_TIME)
    )
    say(f"{condition}: holds for {held:,} of {plan.rows:,} rows")
    return kept
