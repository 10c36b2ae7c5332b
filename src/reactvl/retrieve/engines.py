"""What searches each side of the embeddings: exact search, or an index; and what that will cost."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reactvl.handles.embeddings import Embeddings
from reactvl.handles.index import Index
from reactvl.manifest import ReactvlError, read_manifest
from reactvl.progress import clock, say
from reactvl.search.estimate import exact_seconds, index_seconds

TELL_ROWS = 1_000_000  # from so many rows on the estimate is printed before the work
SOON = 10.0  # seconds that exact search may take before an index is thought of


@dataclass(frozen=True)
class Load:
    """What a side has to bear: how many queries, over how many rows of how many dimensions, for how many hits;
    and where exact search would run."""

    queries: int
    rows: int
    dim: int
    k: int
    device: str = "cpu"

    @property
    def exact(self) -> float:
        """Seconds that exact search takes here."""
        return exact_seconds(self.queries, self.rows, self.dim, self.k, self.device)


def given(search: str | Path | Sequence[str | Path]) -> list[str]:
    """The words of `search`: "exact", "auto", or indexes, as one text (a path, or a comma list) or several."""
    if isinstance(search, str | Path):
        text = str(search)
        search = [text] if Path(text).exists() else text.split(",")
    words = [str(word).strip() for word in search if str(word).strip()]
    if not words or ("exact" in words and len(words) > 1):
        raise ReactvlError(f"search: {', '.join(words) or 'nothing'} given; use exact, auto, or the folders of indexes")
    return words


def indexes(words: list[str], embeddings: Embeddings, sides: Sequence[str]) -> dict[str, Index]:
    """The indexes named among the words of `search`, by the side that each holds.

    Raises ReactvlError for one that is none, that holds a side that no mode searches, or a side that another one holds, and
    (without "auto") when a side that the modes search has none.
    """
    found: dict[str, Index] = {}
    for word in words:
        if word in ("exact", "auto"):
            continue
        index = opened(word, embeddings, sides)
        keys = index.keys
        if keys not in sides:
            raise ReactvlError(
                f"{index.folder}: holds {keys} vectors, the modes search {' and '.join(sides) or 'no vectors'}; "
                "choose other modes or --search exact"
            )
        if keys in found:
            raise ReactvlError(
                f"{index.folder}: holds {keys} vectors, and so does {found[keys].folder}; give one of them"
            )
        found[keys] = index
    left = [side for side in sides if side not in found]
    if found and left and "auto" not in words:
        side, index = next(iter(found.items()))
        raise ReactvlError(
            f"{index.folder}: holds {side} vectors, and the modes search {left[0]} vectors too; give an index of those as "
            "well (--search A,B), --search auto, or fewer modes"
        )
    return found


def opened(word: str, embeddings: Embeddings, sides: Sequence[str]) -> Index:
    """An index folder, or a bare FAISS file, whose side is told by its name or by there being only one."""
    path = Path(word)
    if path.is_dir():
        return Index(path, embeddings)
    if not path.is_file():
        raise ReactvlError(f"search: {word} is neither exact, auto, an index folder nor a FAISS file")
    named = [side for side in ("image", "text") if path.name.lower().startswith(side)]
    side = named[0] if named else sides[0] if len(sides) == 1 else None
    if side is None:
        raise ReactvlError(
            f"{path}: does it hold image or text vectors? Search one side at a time, or call it image.index or text.index"
        )
    return Index.of_file(path, embeddings, side)


def beside(embeddings: Embeddings) -> dict[str, Index]:
    """Indexes over these embeddings in folders beside theirs, the fastest of each side."""
    found: dict[str, Index] = {}
    for path in sorted(embeddings.folder.resolve().parent.iterdir()):
        if not (path / "manifest.json").is_file():
            continue
        try:
            manifest = read_manifest(path)
            if manifest.stage != "index" or manifest.inputs["embeddings"].sha256 != embeddings.identity(path).sha256:
                continue
            index = Index(path, embeddings)
        except (ReactvlError, KeyError):  # another tool's folder, or one that is not whole: no index for us
            continue
        if index.keys not in found or index.qps > found[index.keys].qps:
            found[index.keys] = index
    return found


def chosen(
    words: list[str], named: dict[str, Index], embeddings: Embeddings, loads: dict[str, Load]
) -> dict[str, Index]:
    """Which index searches each side; a side that is not there is searched exactly. Says what "auto" chose and why, and
    from a million rows on how long it will take."""
    if "auto" not in words:
        for side, load in loads.items():
            if load.rows >= TELL_ROWS:
                seconds = index_seconds(load.queries, named[side].qps) if side in named else load.exact
                say(f"search: {described(side, load)} through {called(named.get(side))}, {about(seconds)}")
        return named
    known, taken = {**beside(embeddings), **named}, {}
    for side, load in loads.items():
        exact, index = load.exact, known.get(side)
        if index is None:
            why = f"{about(exact)}; no index of them lies beside {embeddings.folder}"
        else:
            indexed = index_seconds(load.queries, index.qps)
            why = f"exact {about(exact)}, {index.folder.name} {about(indexed)} at recall {index.recall:.3f}"
            if exact > SOON and indexed < exact:
                taken[side] = index
        say(f"search: {described(side, load)} through {called(taken.get(side))} ({why})")
    return taken


def described(side: str, load: Load) -> str:
    return f"{load.queries:,} queries for {load.k:,} nearest of {load.rows:,} {side} vectors"


def called(index: Index | None) -> str:
    return f"the index {index.folder}" if index else "exact search"


def about(seconds: float) -> str:
    """`about 3 s`, `about 4:05`"""
    return f"about {max(seconds, 0.1):.1g} s" if seconds < 9.5 else f"about {clock(seconds)}"
