"""The engine of the service, without HTTP: searches, counts and pictures of a run or of an embeddings folder."""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext as nothing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reactvl.manifest import ReactvlError
from reactvl.progress import say
from reactvl.search.building import omp_threads, torch_threads
from reactvl.serve import counting
from reactvl.serve.asking import Answer, Ask, Counted, Found, Term
from reactvl.serve.classes import Classes
from reactvl.serve.compare import NEAREST, Customized, customized_of
from reactvl.serve.metadata import Metadata
from reactvl.serve.opening import cache_of, opened
from reactvl.serve.pictures import Pictures, pixels_of
from reactvl.serve.querying import Outcome, Towers, check_ask, weighed
from reactvl.serve.ranking import DEEPEST, FACETS, Ranking, both, first_depth
from reactvl.serve.sides import indexes_of, sides_of

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 50_000_000
FEW = 4  # searches
BEST = 1000  # nearest rows that an index is asked for when pairs are counted


class Explorer:
    """A RUN (a folder with `embeddings/`, and `retrieved/`, `customized/*/`, `index/` where they are) or an embeddings
    folder, opened for searching.

    index: index folders or FAISS files to search by, one of each side at most; a run's own is used unasked where it
    belongs to the embeddings. model: of embeddings that do not say theirs. cache: where metadata is kept in a form that is
    read fast (RUN/serve, else the user's cache). `answer` and `count` serve one caller at a time; everything else may be
    called from any number of threads meanwhile. A pair is (part, row): the number of its part's files, as in
    `pairs.parquet`, and the row in them. Raises ReactvlError for what is not there, not whole, or does not fit together.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        index: Sequence[str | Path] = (),
        model: str | None = None,
        device: str = "auto",
        precision: str = "auto",
        cache: Path | None = None,
    ):
        self.folder = Path(folder)
        self.run, self.embeddings, loaded = opened(self.folder, model)
        indexes = indexes_of(list(index), self.embeddings, self.run and self.run / "index")
        self.towers = Towers(loaded, device, precision)
        self.towers.texts(["a photo"])  # what a tower prepares at its first text, no one has to wait for
        on = self.towers.encoder.device
        self.sides = sides_of(self.embeddings, indexes, str(on) if on.type == "cuda" else "cpu")
        self.metadata = Metadata(self.embeddings, cache or cache_of(self.run, self.embeddings))
        self.pictures = Pictures(self.embeddings, self.metadata)
        self.classes = self._classes()
        self.customized: dict[str, Customized] = {}
        if self.run is not None and self.embeddings.has_pictures:
            self.customized = customized_of(self.run, self.pictures, device, precision)
        self._samples: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def _classes(self) -> Classes:
        if self.run is None or not (self.run / "retrieved" / "manifest.json").is_file():
            return Classes.none()
        try:
            return Classes.of(self.run / "retrieved", self.embeddings, self.metadata)
        except ReactvlError as fault:
            say(f"serve: shows no classes, for {fault}")
            return Classes.none()

    def info(self) -> dict[str, Any]:
        """What is served, in values that JSON has."""
        return {
            "name": self.folder.resolve().name,
            "run": self.run is not None,
            "pairs": len(self.metadata),
            "parts": len(self.embeddings.parts),
            "dim": self.embeddings.model.dim,
            "model": self.embeddings.model.name,
            "pictures": self.embeddings.has_pictures,
            "sides": {
                name: {
                    "engine": "exact" if side.index is None else side.index.kind,
                    "recall": None if side.index is None else side.index.recall,
                }
                for name, side in self.sides.items()
            },
            "classes": self.classes.info(),
            "models": [{"name": "base"}, *({"name": name} for name in self.customized)],
            "columns": self.metadata.columns,
        }

    def pixels(self, data: bytes, max_pixels: int = MAX_PIXELS) -> "Tensor":
        """The pixels of a picture's file as the base model wants them: uint8 (3, H, W). ReactvlError for what is no picture,
        damaged, or of more pixels, which is found before they are decoded."""
        return pixels_of(data, self.towers.options(), max_pixels)

    def answer(self, asks: Sequence[Ask]) -> list[Answer | ReactvlError]:
        """The answer to each search, or what is wrong with it, which harms none of the others: texts and pictures of all are
        encoded together, and searches of a kind go through the pool together."""
        with self._lock, self._cores(asks):
            began = time.perf_counter()
            rankings = self._asked(asks)
            encoded = time.perf_counter()
            self._search([ranking for ranking in rankings if isinstance(ranking, Ranking)])
            searched = time.perf_counter()
            spent = {"encode": 1000 * (encoded - began), "search": 1000 * (searched - encoded)}
            return [one if isinstance(one, ReactvlError) else self._told(one, spent) for one in rankings]

    def count(self, ask: Ask, thresholds: Sequence[float] = ()) -> Counted:
        """The similarities of all pairs (or of a class's) to a query on the side of its keys (for "both", the pictures'), and
        how many reach each threshold; `k`, `offset`, `min_similarity` and `dedup` play no part. Exact where the search is.

        Raises ReactvlError for what `answer` does, for a caption's filter and for a customized model, which look at the best
        pairs only.
        """
        if ask.caption is not None or ask.model != "base":
            what = "a caption" if ask.caption is not None else f"the model {ask.model}"
            raise ReactvlError(f"pairs are counted over the whole pool, {what} looks at the best only: leave it out")
        if not np.isfinite(np.asarray(thresholds, np.float64)).all():
            raise ReactvlError("a threshold is not a number")
        with self._lock:
            [ranking] = self._asked([ask])
            if isinstance(ranking, ReactvlError):
                raise ranking
            side = self.sides[ranking.told]
            query = ranking.queries[side.name]
            if ask.class_id is not None:
                rows = np.unique(self.classes.rows[self.classes.place(ask.class_id)])
                return counting.of_scores(side.scores(query, rows), thresholds)
            if side.exact or side.rows <= counting.SAMPLE:
                return counting.counted(side, query, thresholds)
            if side.name not in self._samples:
                self._samples[side.name] = counting.drawn(side)
            [(_, best)] = side.search(query[None], BEST)
            return counting.estimated(side, query, thresholds, self._samples[side.name], best)

    def pair(self, part: int, row: int) -> dict[str, Any]:
        """All that is known of a pair: `part`, `row`, `class_ids`, and every column of the metadata, in values that JSON
        has."""
        at = self.metadata.row_of(part, row)
        [class_ids] = self.classes.of_rows(np.array([at]))
        return {"part": part, "row": row, "class_ids": class_ids, **self.metadata.all_of(at)}

    def picture(self, part: int, row: int) -> bytes:
        """The file of a pair's picture; ReactvlError names shard and key where it cannot be read."""
        return self.pictures.read(self.metadata.row_of(part, row))

    def thumbnail(self, part: int, row: int, side: int = 256) -> tuple[bytes, str]:
        """(bytes, MIME type) of a small form of a pair's picture, its longer side at most `side` pixels."""
        return self.pictures.thumbnail(self.metadata.row_of(part, row), side)

    def class_pairs(self, class_id: int, offset: int = 0, limit: int = 40) -> list[Found]:
        """Retrieved pairs of a class in rank order; `similarity` is that of the query that found them."""
        if offset < 0 or limit < 1:
            raise ReactvlError(f"offset is {offset} and limit {limit}, wanted 0 or more and 1 or more")
        place = self.classes.place(class_id)
        rows = self.classes.rows[place][offset : offset + limit]
        similarity = numbers(self.classes.similarity[place][offset : offset + limit])
        nothing = [None] * len(rows)
        return self.metadata.found(rows, similarity, nothing, nothing, self.classes.of_rows(rows))

    # From here on: one batch of searches, step by step.

    @contextlib.contextmanager
    def _cores(self, asks: Sequence[Ask]) -> Iterator[None]:
        """One core for a few searches through an index: a tower's time for few texts goes into reading its weights, which
        cores do not share, and threads that wait for each other keep HTTP waiting too."""
        sides = {name for ask in asks for name in (self.sides if ask.keys == "both" else (ask.keys,))}
        alone = len(asks) <= FEW and all(name in self.sides and self.sides[name].index is not None for name in sides)
        with torch_threads(1) if alone else nothing(), omp_threads(1) if alone else nothing():
            yield

    def _asked(self, asks: Sequence[Ask]) -> list[Ranking | ReactvlError]:
        """The searches with their query vectors, or what is wrong with them."""
        outcomes: list[Ranking | ReactvlError | None] = [self._wrong(ask) for ask in asks]
        fit = [ask for ask, wrong in zip(asks, outcomes, strict=True) if wrong is None]
        models: dict[str, Towers] = {}
        for name in {ask.model for ask in fit}:
            try:
                models[name] = self.towers if name == "base" else self.customized[name].towers
            except ReactvlError as fault:
                models[name] = fault
        vectors = {
            name: encoded(towers, [term for ask in fit if name in ("base", ask.model) for term in ask.terms])
            for name, towers in {"base": self.towers, **models}.items()
            if not isinstance(towers, ReactvlError)
        }
        for at, ask in enumerate(asks):
            if outcomes[at] is None:
                try:
                    if isinstance(models[ask.model], ReactvlError):
                        raise models[ask.model]
                    outcomes[at] = self._ranking(ask, vectors)
                except ReactvlError as fault:
                    outcomes[at] = fault
        return outcomes

    def _wrong(self, ask: Ask) -> ReactvlError | None:
        try:
            check_ask(ask, self.embeddings.model.dim, self.towers.shape)
            if ask.k + ask.offset > DEEPEST and min(ask.k + ask.offset, len(self.metadata)) > DEEPEST:
                raise ReactvlError(f"k + offset is {ask.k + ask.offset:,}; at most {DEEPEST:,} pairs can be had")
            for name in ("image", "text") if ask.keys == "both" else (ask.keys,):
                if name not in self.sides:
                    raise ReactvlError(f"these embeddings have no {name} vectors; search keys {next(iter(self.sides))}")
            if ask.class_id is not None:
                self.classes.place(ask.class_id)
            if ask.model != "base":
                self._check_customized(ask)
        except ReactvlError as fault:
            return fault
        return None

    def _check_customized(self, ask: Ask) -> None:
        if ask.model not in self.customized:
            raise ReactvlError(f"there is no model {ask.model!r}; there is {', '.join(['base', *self.customized])}")
        if ask.keys != "image":
            raise ReactvlError(f"{ask.model} ranks pictures: search keys image")
        if any(term.vector is not None for term in ask.terms):
            raise ReactvlError(f"a vector is of the base model's; {ask.model} needs texts, images or pairs")

    def _ranking(self, ask: Ask, vectors: dict[str, dict[int, Outcome]]) -> Ranking:
        names = ("image", "text") if ask.keys == "both" else (ask.keys,)
        queries = {
            name: weighed([(term.weight, self._vector(term, name, vectors["base"])) for term in ask.terms])
            for name in names
        }
        if ask.model != "base":
            queries[ask.model] = weighed(
                [(term.weight, self._customized_vector(term, ask.model, vectors[ask.model])) for term in ask.terms]
            )
        keep = min(ask.k + ask.offset, max(len(self.metadata), 1))
        facets = len(self.classes) > 0 and all(self.sides[name].exact for name in names)
        depth = max(first_depth(keep, ask, facets), NEAREST if ask.model != "base" else 1)
        return Ranking(ask, queries, keep, depth)

    def _vector(self, term: Term, side: str, encoded: dict[int, Outcome]) -> np.ndarray:
        """The vector of a term: of a pair its own of the side that is searched, or the other where it has none there."""
        if term.vector is not None:
            return term.vector
        if term.pair is None:
            return checked(encoded[id(term)])
        row = self.metadata.row_of(*term.pair)
        for name in (side, *self.sides):
            vector = self.sides[name].vector(row) if name in self.sides else None
            if vector is not None:
                return vector
        raise ReactvlError(f"pair {term.pair[0]}, {term.pair[1]} has no finite vector")

    def _customized_vector(self, term: Term, model: str, encoded: dict[int, Outcome]) -> np.ndarray:
        if term.pair is None:
            return checked(encoded[id(term)])
        [vector] = self.customized[model].vectors([self.metadata.row_of(*term.pair)])
        if vector is None:
            raise ReactvlError(f"pair {term.pair[0]}, {term.pair[1]}: its picture cannot be read")
        return vector

    def _search(self, rankings: list[Ranking]) -> None:
        """Rank and sift, deeper where too little is left, until every search has what it wants."""
        for ranking in rankings:
            if ranking.ask.class_id is not None:
                self._rank_class(ranking)
                self._finish(ranking)
        waiting = [ranking for ranking in rankings if not ranking.done]
        while waiting:
            found = self._found(waiting)
            for ranking in waiting:
                names = [name for name in ranking.queries if name in self.sides]
                pieces = [found[id(ranking), name] for name in names]
                complete = all(len(rows) < ranking.depth or ranking.depth >= self.sides[name].rows
                               for name, (rows, _) in zip(names, pieces, strict=True))  # fmt: skip
                if ranking.ask.keys == "both":
                    both(ranking, {name: self.sides[name] for name in names}, [rows for rows, _ in pieces], complete)
                else:
                    rows, scores = pieces[0]
                    ranking.place(rows, {names[0]: scores.astype(np.float64)}, scores.astype(np.float64), complete)
                self._finish(ranking)
                if not ranking.done:
                    ranking.deepen(len(self.metadata))
            waiting = [ranking for ranking in waiting if not ranking.done]

    def _finish(self, ranking: Ranking) -> None:
        if ranking.ask.model != "base":
            self._rank_again(ranking)
        ranking.sift(self.metadata)

    def _found(self, rankings: list[Ranking]) -> dict[tuple[int, str], tuple[np.ndarray, np.ndarray]]:
        """What each search finds on each of its sides: those of one side and depth are one search of many queries."""
        groups: dict[tuple[str, int], list[Ranking]] = {}
        for ranking in rankings:
            for name in ranking.queries:
                if name in self.sides:
                    groups.setdefault((name, ranking.depth), []).append(ranking)
        found = {}
        for (name, depth), group in groups.items():
            queries = np.stack([ranking.queries[name] for ranking in group])
            for ranking, hits in zip(group, self.sides[name].search(queries, depth), strict=True):
                found[id(ranking), name] = hits
        return found

    def _rank_class(self, ranking: Ranking) -> None:
        """Rank all pairs of a class by their vectors."""
        rows = np.unique(self.classes.rows[self.classes.place(ranking.ask.class_id)])
        sides = {name: self.sides[name] for name in ranking.queries if name in self.sides}
        if len(sides) > 1:
            both(ranking, sides, [rows], complete=True)
        else:
            [(name, side)] = sides.items()
            scores = side.scores(ranking.queries[name], rows)
            ranking.place(rows, {name: scores.astype(np.float32).astype(np.float64)}, scores, complete=True)

    def _rank_again(self, ranking: Ranking) -> None:
        """Rank the base's nearest by a customized model's vectors of their pictures."""
        model = self.customized[ranking.ask.model]
        rows = ranking.rows[:NEAREST]
        scores = model.similarities(ranking.queries[model.name], rows)
        unread = int(np.isnan(scores).sum())
        ranking.place(rows, {"image": scores}, scores, complete=True)
        lost = f"; {unread} pictures could not be read and are left out" if unread else ""
        ranking.notes.append(
            f"{model.name} ranks the {len(rows) - unread:,} pairs that the base model finds nearest{lost}"
        )

    def _told(self, ranking: Ranking, spent: dict[str, float]) -> Answer:
        began = time.perf_counter()
        ask = ranking.ask
        places = ranking.shown[ask.offset : ask.offset + ask.k]
        rows = ranking.rows[places]
        scores = {name: numbers(values[places]) for name, values in ranking.by_side.items()}
        nothing = [None] * len(rows)
        hits = self.metadata.found(
            rows,
            scores.get(ranking.told, nothing),
            scores.get("image", nothing),
            scores.get("text", nothing),
            self.classes.of_rows(rows),
        )
        searched = [self.sides[name] for name in ranking.queries if name in self.sides]
        exact = ask.class_id is not None or all(side.exact for side in searched)
        return Answer(
            hits,
            self.classes.counts(ranking.rows[ranking.passed[:FACETS]]),
            exact,
            None if exact else min(side.index.recall for side in searched if not side.exact),
            ranking.examined,
            ranking.notes,
            spent | {"metadata": 1000 * (time.perf_counter() - began)},
        )


def encoded(towers: Towers, terms: Sequence[Term]) -> dict[int, Outcome]:
    """The vectors of terms that are texts or pictures, by the terms' identity."""
    texts = towers.texts([term.text for term in terms if term.text is not None])
    found: dict[int, Outcome] = {id(term): texts[term.text] for term in terms if term.text is not None}
    shown = [term for term in terms if term.pixels is not None]
    return found | dict(zip(map(id, shown), towers.pictures([term.pixels for term in shown]), strict=True))


def checked(outcome: Outcome) -> np.ndarray:
    if isinstance(outcome, ReactvlError):
        raise outcome
    return outcome


def numbers(values: np.ndarray) -> list[float | None]:
    """Numbers as JSON has them, a NaN as None."""
    return [None if value != value else value for value in values.tolist()]
