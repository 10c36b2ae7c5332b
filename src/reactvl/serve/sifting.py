"""Which of the rows that a search ranked are shown: by similarity, by a phrase in the caption, without copies."""

import unicodedata
from collections.abc import Callable

import numpy as np

from reactvl.serve.metadata import Metadata

BITS = 4  # of 64 in which the hashes of near copies differ, as in `retrieve`
TELLING = 12  # bits set in a hash that says something: flat pictures share those with fewer
AT_ONCE = 512  # rows, at most, that are looked at before it is asked whether they are enough


def sifted(
    rows: np.ndarray, metadata: Metadata, wanted: int, *, caption: str | None, dedup: bool
) -> tuple[np.ndarray, np.ndarray, int]:
    """(places of the `wanted` rows to show, places of all that passed the caption's filter, how many rows were looked at).

    rows: int64 (n,) over all parts, best first. Rows are looked at in their order until there are enough: of rows that are
    copies of each other, the first stays.
    """
    holds = None if caption is None else phrase_filter(caption)
    if holds is None and not dedup:
        return np.arange(min(wanted, len(rows))), np.arange(len(rows)), 0
    kept = Kept()
    passed, looked = [], 0
    step = min(AT_ONCE, max(64, wanted + wanted // 4)) if holds is None else AT_ONCE
    while len(kept) < wanted and looked < len(rows):
        places = np.arange(looked, min(looked + step, len(rows)))
        looked += len(places)
        if holds is not None:
            captions = metadata.captions(rows[places])
            places = places[[bool(text) and holds(text) for text in captions]]
        passed.append(places)
        if dedup:
            kept.add(places, *metadata.marks(rows[places]), wanted)
        else:
            kept.places += places.tolist()
    if holds is None:
        passed = [np.arange(len(rows))]
    shown = np.array(kept.places[:wanted], dtype=np.int64)
    return shown, np.concatenate([np.empty(0, np.int64), *passed]), looked if holds is not None else 0


def phrase_filter(phrase: str) -> Callable[[str], bool]:
    """Whether a text holds the phrase, whatever the case, the script's forms and the white space."""
    wanted = folded(phrase)
    return lambda text: wanted in folded(text)


def folded(text: str) -> str:
    """The form in which captions and phrases are compared: Unicode's compatibility form, case-folded, single spaces."""
    if text.isascii():
        text = text.lower()
    else:
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return " ".join(text.split())


class Kept:
    """The rows that are shown so far, and what tells their copies: equal SHA-256, equal URL, hashes within `BITS` bits."""

    def __init__(self):
        self.places: list[int] = []
        self.sums: set[bytes] = set()
        self.urls: set[bytes] = set()
        self.hashes = np.empty(0, np.uint64)

    def __len__(self) -> int:
        return len(self.places)

    def add(
        self,
        places: np.ndarray,
        sums: list[bytes | None],
        urls: list[bytes | None],
        hashes: np.ndarray,
        wanted: int,
    ) -> None:
        """Add those of the rows (in their order) that are copies of none before, until there are `wanted`."""
        telling = np.bitwise_count(hashes) >= TELLING
        old = near(hashes, self.hashes).any(axis=1) & telling
        # which of these rows each is a near copy of: the few pairs, not the matrix, are walked
        close: dict[int, list[int]] = {}
        for one, other in np.argwhere(np.tril(near(hashes, hashes), -1) & telling[:, None] & telling).tolist():
            close.setdefault(one, []).append(other)
        added: set[int] = set()
        for at, place in enumerate(places.tolist()):
            digest, url = sums[at], urls[at]
            if digest in self.sums or url in self.urls or old[at] or not added.isdisjoint(close.get(at, ())):
                continue
            added.add(at)
            self.places.append(place)
            if digest is not None:
                self.sums.add(digest)
            if url is not None:
                self.urls.add(url)
            if len(self.places) >= wanted:
                break
        some = sorted(at for at in added if telling[at])
        self.hashes = np.concatenate([self.hashes, hashes[some]])


def near(some: np.ndarray, others: np.ndarray) -> np.ndarray:
    """bool (n, m): which hashes differ in at most `BITS` bits."""
    return np.bitwise_count(some[:, None] ^ others[None, :]) <= BITS
