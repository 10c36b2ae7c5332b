"""What an earlier run in the output folder found serves again where only the choosing has changed.

Pruning a run (`--exclude`, `--positives`) and asking for another `--min-score`, `--dedup`, `--where` or `--fusion` choose
anew among the same hits. A finished result has them in hits.parquet, a run that was stopped in its work folder. They are
put where a stopped run keeps them (finding.py), and the run goes on from there: the result is that of a run from
scratch, byte for byte. A result that was topped up holds other hits than its first search found, so there the pool is
searched again, as it is for other queries, embeddings, depths or indexes.
"""

import contextlib
import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow.parquet as pq

from reactvl.handles.index import Index
from reactvl.manifest import Manifest, ReactvlError, Stage, read_manifest, replacing, sha256_json, write_bytes
from reactvl.progress import say
from reactvl.retrieve.finding import hits_path, keep_hits
from reactvl.retrieve.queries import SIDE
from reactvl.retrieve.request import Plan
from reactvl.search.hits import Hits, part_offsets

HITS, SEARCH = "hits.parquet", "search"
DECIDE = (
    "classes",
    "templates",
    "details",
    "modes",
    "per_prompt",
    "precision",
)  # with the engines, what a search finds


@dataclass(frozen=True)
class Finished:
    """A finished result: its manifest, and its hits, open though the stage removes their file before it begins."""

    manifest: Manifest
    hits: BinaryIO

    @property
    def search(self) -> str | None:
        """What was searched, by `search_id`; None where that is not known, or the hits are those of deeper searches."""
        through = searched_through(self.manifest)
        deepest = set(self.manifest.facts.get("deepest", {}).values())
        if None in through.values() or deepest != {self.manifest.options.get("per_prompt")}:
            return None
        return search_id(self.manifest, through)

    def give(self, work: Path, plan: Plan) -> bool:
        """Put the hits into a work folder; False when the file is not the one that the manifest lists."""
        if hashlib.file_digest(self.hits, "sha256").hexdigest() != self.manifest.files.get(HITS):
            say(f"retrieve: {HITS} of the earlier result is not as it was written; the pool is searched again")
            return False
        matches = self.manifest.facts.get("captions_that_hold_a_name", 0)
        for mode, hits in hits_of(self, plan).items():
            keep_hits(hits_path(work, mode, 0), hits, matches if mode == "match" else 0)
        return True


@dataclass(frozen=True)
class Stopped:
    """A run that was not finished: what it searched, and the hits of the modes that it got to, open likewise."""

    search: str
    hits: dict[str, BinaryIO]

    def give(self, work: Path, plan: Plan) -> bool:
        """Put the hits into a work folder."""
        for mode in plan.searched:
            if mode in self.hits:
                with replacing(hits_path(work, mode, 0)) as part, open(part, "wb") as file:
                    shutil.copyfileobj(self.hits[mode], file)
        return bool(self.hits)


@contextlib.contextmanager
def earlier_run(out: Path) -> Iterator[Finished | Stopped | None]:
    """What is left of an earlier run in a folder; None where there is nothing that can be read."""
    with contextlib.ExitStack() as opened:
        earlier: Finished | Stopped | None = None
        with contextlib.suppress(ReactvlError, OSError):
            if (out / "manifest.json").exists():
                earlier = Finished(read_manifest(out, "retrieve"), opened.enter_context(open(out / HITS, "rb")))
            else:
                work = out / ".work"
                paths = {mode: hits_path(work, mode, 0) for mode in (*SIDE, "match")}
                files = {mode: opened.enter_context(open(path, "rb")) for mode, path in paths.items() if path.exists()}
                earlier = Stopped((work / SEARCH).read_text(), files)
        yield earlier


def take_over(earlier: Finished | Stopped | None, stage: Stage, plan: Plan, indexes: dict[str, Index]) -> None:
    """Give the stage the hits of an earlier run, if the same search would find them; and note in the work folder what
    this run searches. `indexes`: what searches each side, exact search a side without one."""
    sides = dict.fromkeys(SIDE[mode] for mode in plan.searched if mode in SIDE)
    search = search_id(stage.manifest, {side: _engine(indexes.get(side)) for side in sides})
    write_bytes(stage.work / SEARCH, search.encode())
    if earlier is None or earlier.search != search:
        return
    if any(hits_path(stage.work, mode, 0).exists() for mode in plan.searched):  # this very run was stopped
        return
    if earlier.give(stage.work, plan):
        say("retrieve: what the queries found is taken from the earlier result; only the choosing is done again")


def search_id(manifest: Manifest, through: dict[str, str]) -> str:
    """A hash of all that decides what the first search finds: `through` says what searched each side."""
    options = manifest.options
    return sha256_json(
        [
            manifest.version,
            manifest.inputs["embeddings"].sha256,
            [options.get(name) for name in DECIDE],
            # match-rerank keeps the captions whose pictures fit best, not those that the name makes up most of
            options.get("fusion") == "match-rerank",
            sorted(through.items()),
        ]
    )


def searched_through(manifest: Manifest) -> dict[str, str | None]:
    """What searched each side for a result: "exact", the hash of an index, or None for one that `auto` chose."""
    through = {}
    for side in manifest.facts.get("searched_through", {}):
        index = manifest.inputs.get(f"{side} index")
        exact = side not in manifest.facts.get("index_recall", {})
        through[side] = "exact" if exact else index.sha256 if index else None
    return through


def _engine(index: Index | None) -> str:
    return "exact" if index is None else index.identity(index.folder).sha256


def hits_of(earlier: Finished, plan: Plan) -> dict[str, Hits]:
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
