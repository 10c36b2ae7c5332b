"""An earlier result in the output folder: what its queries found serves again where only the choosing has changed.

Pruning a run (`--exclude`, `--positives`) and asking for another `--min-score`, `--dedup`, `--where` or `--fusion` choose
anew among the same hits, which hits.parquet holds. They are put where a stopped run keeps them (finding.py), and the run goes
on from there: the result is that of a run from scratch, byte for byte. A result that was topped up holds other hits than
the first search found, so there the pool is searched again, as it is for other queries, embeddings, depths or indexes.
"""

import contextlib
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow.parquet as pq

from reactvl.handles.index import Index
from reactvl.manifest import Manifest, ReactvlError, Stage, read_manifest
from reactvl.progress import say
from reactvl.retrieve.finding import hits_path, keep_hits
from reactvl.retrieve.queries import SIDE
from reactvl.retrieve.request import Plan
from reactvl.search.hits import Hits, part_offsets

HITS = "hits.parquet"
DECIDE = ("classes", "templates", "details", "modes", "per_prompt", "precision")  # with the index, what a search finds


@dataclass(frozen=True)
class Earlier:
    """A finished result: its manifest, and its hits, open though the stage removes their file before it begins."""

    manifest: Manifest
    hits: BinaryIO


@contextlib.contextmanager
def earlier_result(out: Path) -> Iterator[Earlier | None]:
    """The finished result in a folder; None where there is none that can be read."""
    with contextlib.ExitStack() as opened:
        earlier = None
        with contextlib.suppress(ReactvlError, OSError):
            earlier = Earlier(read_manifest(out, "retrieve"), opened.enter_context(open(out / HITS, "rb")))
        yield earlier


def take_over(earlier: Earlier | None, stage: Stage, plan: Plan, indexes: dict[str, Index]) -> bool:
    """Give the stage the hits of an earlier result, if the same search would find them; whether it did.

    `indexes`: what searches each side now, exact search a side without one. A file that is not the one that the earlier
    manifest lists is left alone.
    """
    if earlier is None or not same_search(earlier.manifest, stage.manifest, plan, indexes):
        return False
    if any(hits_path(stage.work, mode, 0).exists() for mode in plan.searched):
        return False
    if hashlib.file_digest(earlier.hits, "sha256").hexdigest() != earlier.manifest.files.get(HITS):
        say(f"retrieve: {HITS} of the earlier result is not as it was written; the pool is searched again")
        return False
    matches = earlier.manifest.facts.get("captions_that_hold_a_name", 0)
    for mode, hits in hits_of(earlier, plan).items():
        keep_hits(hits_path(stage.work, mode, 0), hits, matches if mode == "match" else 0)
    say("retrieve: what the queries found is taken from the earlier result; only the choosing is done again")
    return True


def same_search(old: Manifest, new: Manifest, plan: Plan, indexes: dict[str, Index]) -> bool:
    """Whether the first search of this plan finds what the earlier result's hits are."""
    return (
        old.version == new.version
        and old.inputs["embeddings"].sha256 == new.inputs["embeddings"].sha256
        and all(old.options.get(name) == new.options.get(name) for name in DECIDE)
        # match-rerank keeps the captions whose pictures fit best, not those that the name makes up most of
        and (old.options.get("fusion") == "match-rerank") == (new.options["fusion"] == "match-rerank")
        and set(old.facts.get("deepest", {}).values()) == {plan.per_prompt}
        and searched_through(old) == {side: _engine(indexes.get(side), new) for side in sides_of(plan)}
    )


def searched_through(manifest: Manifest) -> dict[str, str | None]:
    """What searched each side for a result: "exact", the hash of an index, or None for one that `auto` chose."""
    through = {}
    for side in manifest.facts.get("searched_through", {}):
        index = manifest.inputs.get(f"{side} index")
        exact = side not in manifest.facts.get("index_recall", {})
        through[side] = "exact" if exact else index.sha256 if index else None
    return through


def _engine(index: Index | None, manifest: Manifest) -> str:
    return "exact" if index is None else index.identity(index.folder).sha256


def sides_of(plan: Plan) -> list[str]:
    return list(dict.fromkeys(SIDE[mode] for mode in plan.searched if mode in SIDE))


def hits_of(earlier: Earlier, plan: Plan) -> dict[str, Hits]:
    """The hits of every mode, in the order of the file, which is that of the queries."""
    numbers = np.array([part.number for part in plan.embeddings.parts], dtype=np.int64)
    offsets = part_offsets([range(part.rows) for part in plan.embeddings.parts])
    pieces: dict[str, list[tuple[np.ndarray, ...]]] = {mode: [] for mode in plan.searched}
    earlier.hits.seek(0)
    with pq.ParquetFile(earlier.hits) as file:
        modes = file.schema_arrow.metadata[b"modes"].decode().split(",")
        for group in range(file.num_row_groups):
            table = file.read_row_group(group, ["query", "part", "row", "mode", "rank", "score"])
            query, part, row, mode, rank, score = (column.to_numpy() for column in table.columns)
            row = offsets[np.searchsorted(numbers, part)] + row
            for number in np.unique(mode).tolist():
                some = mode == number
                pieces[modes[number]].append((query[some], row[some], score[some], rank[some]))
    none = tuple(np.empty(0, dtype) for dtype in (np.int32, np.int64, np.float32, np.int32))
    unfit = earlier.manifest.counts["unfit_rows"]
    return {
        mode: Hits(*(np.concatenate(column) for column in zip(none, *held, strict=True)), len(plan.queries), unfit)
        for mode, held in pieces.items()
    }
