"""What a person marked in the page, kept in the run: wrong pairs in `review/exclude.txt`, picked ones in `positives.tsv`.

    RUN/review/exclude.txt      shard/key                   a line each, as `retrieve --exclude` takes it
    RUN/review/positives.tsv    class TAB shard/key         a line each, as `retrieve --positives` takes it

Both are written whole. Lines that name no pair of this pool (sums, other pools, unknown classes) are a person's own: they
stay where they are when marks are saved.
"""

import threading
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reactvl.manifest import ReactvlError, write_bytes

if TYPE_CHECKING:
    from reactvl.serve.explorer import Explorer

Pair = tuple[int, int]


class Review:
    """The marks of the run that an explorer shows; safe in threads."""

    def __init__(self, explorer: "Explorer"):
        home = explorer.run / "review"
        self.exclude, self.positives = home / "exclude.txt", home / "positives.tsv"
        self.embeddings, self.explorer = explorer.embeddings, explorer
        self.classes = {entry["id"]: entry["name"] for entry in explorer.info()["classes"]}
        self._ids = {name: number for number, name in reversed(self.classes.items())}  # of equal names the first
        self._lock = threading.Lock()

    def read(self) -> dict[str, Any]:
        """The marks as `schemas.Saved`. Raises ReactvlError for files that cannot be read."""
        with self._lock:
            excluded, picked = _lines(self.exclude), [line.partition("\t") for line in _lines(self.positives)]
            known = self._pairs({*excluded, *(name for _, _, name in picked)})
        exclude = [known[line] for line in excluded if line in known]
        positives = [
            (*known[name], self._ids[label]) for label, _, name in picked if name in known and label in self._ids
        ]
        kept = len(excluded) + len(picked) - len(exclude) - len(positives)
        return {"exclude": exclude, "positives": positives, "kept": kept}

    def write(self, exclude: Iterable[Pair], positives: Iterable[tuple[int, int, int]]) -> dict[str, Any]:
        """Replace the marks; returns them as `read` does.

        Raises ReactvlError, and changes nothing, for a pair or a class that is not there and a name that no line can hold.
        """
        excluded = [self._name(*pair) for pair in dict.fromkeys(exclude)]
        picked = [f"{self._class(number)}\t{self._name(*pair)}" for *pair, number in dict.fromkeys(positives)]
        with self._lock:
            old, old_picked = _lines(self.exclude), _lines(self.positives)
            known = self._pairs({*old, *(line.partition("\t")[2] for line in old_picked)})
            excluded += [line for line in old if line not in known]
            picked += [line for line in old_picked if self._is_foreign(line, known)]
            for path, lines in ((self.exclude, excluded), (self.positives, picked)):
                write_bytes(path, "".join(f"{line}\n" for line in lines).encode())
        return self.read()

    def _is_foreign(self, line: str, known: dict[str, Pair]) -> bool:
        label, _, name = line.partition("\t")
        return name not in known or label not in self._ids

    def _class(self, number: int) -> str:
        name = self.classes.get(number)
        if name is None:
            raise ReactvlError(f"there is no class {number}; the run has {len(self.classes)}, counted from 0")
        if "\t" in name or len(name.splitlines()) != 1 or name != name.strip():
            raise ReactvlError(f"class {number} ({name!r}): a line of positives.tsv cannot hold its name")
        return name

    def _name(self, part: int, row: int) -> str:
        """`shard/key` of a pair, as a line of its own."""
        known = self.explorer.pair(part, row)
        name = f"{known.get('shard')}/{known.get('key')}"
        if known.get("shard") is None or known.get("key") is None:
            raise ReactvlError(f"pair {part}/{row} has no shard and key: such a pool's pairs cannot be listed")
        if "\t" in name or name.splitlines() != [name] or name != name.strip():
            raise ReactvlError(f"pair {part}/{row} ({name!r}): a list of pairs cannot hold its name")
        return name

    def _pairs(self, names: Collection[str]) -> dict[str, Pair]:
        """(part, row) of those names that are pairs of this pool; only parts that hold one of their shards are read."""
        import pyarrow as pa
        import pyarrow.compute as pc

        homes = {row["shard"]: row["part"] for row in self.embeddings.shards.to_pylist()} if names else {}
        wanted: dict[str, set[str]] = {}
        for name in names:
            for slash in (place for place, letter in enumerate(name) if letter == "/"):  # either side may hold slashes
                if name[:slash] in homes:
                    wanted.setdefault(name[:slash], set()).add(name[slash + 1 :])
        found: dict[str, Pair] = {}
        numbers, shards = {homes[shard] for shard in wanted}, pa.array(sorted(wanted), pa.string())
        for part in (part for part in self.embeddings.parts if part.number in numbers):
            table = part.metadata(["shard", "key"])
            rows = pc.indices_nonzero(pc.is_in(table["shard"], value_set=shards))
            taken = table.take(rows)
            places = zip(rows.to_pylist(), taken["shard"].to_pylist(), taken["key"].to_pylist(), strict=True)
            for row, shard, key in places:
                if key in wanted[shard]:
                    found.setdefault(f"{shard}/{key}", (part.number, row))
        return found


def _lines(path: Path) -> Sequence[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as fault:
        raise ReactvlError(f"{path}: cannot be read ({fault})") from None
    return list(dict.fromkeys(filter(None, map(str.strip, text.splitlines()))))
