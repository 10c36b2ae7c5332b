"""Class names and their synonyms looked for as words in all captions: one Aho-Corasick pass over the pool.

Captions and names are compared in one form: Unicode's compatibility form, case-folded, runs of white space, hyphens and
underscores as one space. A name counts where no letter, digit or mark of its own word goes on at either end: "cat" is in
"Cat's", not in "category" or "cats". Scripts written without spaces (Han, Hiragana, Thai, Khmer ...) have a border at every
letter, as in UAX #29, runs of Katakana none.
"""

import functools
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import pyarrow as pa

from reactvl.search.hits import Hits, ordered

CAPTIONS_AT_A_TIME = 8192
END = "\x00"  # stands between captions
SPACES = re.compile(r"[\s\-_\u2010-\u2015]{2,}|[^\S ]|[\-_\u2010-\u2015]")
LETTER, KATAKANA, SPACELESS = 1, 2, 3
NO_SPACES = re.compile(  # scripts whose words are not set apart: South-East Asian, Bopomofo, Hiragana, Han
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\ua980-\ua9ff\uaa60-\uaadf"
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3040-\u309f\u3100-\u312f\u31a0-\u31bf\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003ffff]"
)
ALPHANUMERIC = np.zeros(256, dtype=bool)
ALPHANUMERIC[[ord(sign) for sign in "0123456789abcdefghijklmnopqrstuvwxyz"]] = True


def match_names(
    names: Sequence[str],
    batches: Iterable[tuple[int, pa.Array]],
    k: int,
    *,
    value: Callable[[np.ndarray, np.ndarray], np.ndarray] | None = None,
    advance: Callable[[int], None] | None = None,
) -> tuple[Hits, np.ndarray]:
    """The `k` best captions of every name among those that hold it as words, and how many do, int64 (names,).

    batches: (first row, captions) of the pool, in ascending order; null captions hold nothing. A caption's score is the
    share of it that the name makes up, or `value(query, row)` (float64), ties by the lower row. Memory holds a batch and
    some `2 * k` entries a name, whatever the pool's size. A name without a letter to look for matches nothing.
    """
    finder = NameFinder(names)
    best = Best(len(names), k)
    counts = np.zeros(len(names), dtype=np.int64)
    for first, captions in batches:
        for start in range(0, len(captions), CAPTIONS_AT_A_TIME):
            query, row, share = finder.find(captions.slice(start, CAPTIONS_AT_A_TIME))
            row += first + start
            counts += np.bincount(query, minlength=len(names))
            best.add(query, row, share if value is None or not len(row) else value(query, row))
        if advance:
            advance(len(captions))
    return best.hits(), counts


class NameFinder:
    """Finds names in captions; names that read alike are found together."""

    def __init__(self, names: Sequence[str]):
        from ahocorasick_rs import BytesAhoCorasick

        queries: dict[str, list[int]] = {}
        for number, name in enumerate(names):
            form = folded(name.replace(END, " ")).strip()
            if any(_word(sign) for sign in form):
                queries.setdefault(form, []).append(number)
        self.forms = list(queries)
        self.queries = [np.array(numbers, dtype=np.int64) for numbers in queries.values()]
        self.sizes = np.array([len(_bytes(form)) for form in self.forms], dtype=np.int64)
        # the kinds of the edge letters, for the test of the borders
        self.plain = np.array([[_plain(form[0]), _plain(form[-1])] for form in self.forms], dtype=bool).reshape(-1, 2)
        self.machine = BytesAhoCorasick([_bytes(form) for form in self.forms]) if self.forms else None

    def find(self, captions: pa.Array) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(query, row, share of the caption) of what `captions` hold, each (query, row) once, rows ascending."""
        none = np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0)
        if not self.forms or not len(captions):
            return none
        text = _bytes(folded(END.join(_texts(captions))))
        found = self.machine.find_matches_as_indexes(text, overlapping=True)
        if not found:
            return none
        form, start, end = np.array(found, dtype=np.int64).T
        kept = self._whole_words(text, form, start, end)
        form, start = form[kept], start[kept]
        letters = np.frombuffer(text, dtype=np.uint8)
        ends = np.append(np.flatnonzero(letters == 0), len(letters))  # of every caption
        row = np.searchsorted(ends, start)
        code = np.unique(row * len(self.forms) + form)  # a name may stand in a caption twice
        row, form = np.divmod(code, len(self.forms))
        share = self.sizes[form] / np.diff(ends, prepend=-1)[row]
        count = np.array([len(numbers) for numbers in self.queries])[form]
        query = np.concatenate([self.queries[at] for at in form]) if len(form) else none[0]
        return query, np.repeat(row, count), np.repeat(np.minimum(share, 1.0), count)

    def _whole_words(self, text: bytes, form: np.ndarray, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """bool (n,): does no word go on at either end of these places. ASCII is decided by tables, the rest by Unicode."""
        letters = np.frombuffer(END.encode() + text + END.encode(), dtype=np.uint8)
        before, after = letters[start], letters[end + 1]
        plain = self.plain[form]
        whole = ~((ALPHANUMERIC[before] & plain[:, 0]) | (ALPHANUMERIC[after] & plain[:, 1]))
        asked = (before >= 128) | (after >= 128) | ((ALPHANUMERIC[before] | ALPHANUMERIC[after]) & ~plain.all(axis=1))
        for at in np.flatnonzero(whole & asked).tolist():
            name, first, last = self.forms[form[at]], int(start[at]), int(end[at])
            left = text[max(0, first - 4) : first].decode("utf-8", "ignore")[-1:]
            right = text[last : last + 4].decode("utf-8", "ignore")[:1]
            whole[at] = not (left and goes_on(left, name[0])) and not (right and goes_on(name[-1], right))
        return whole


def folded(text: str) -> str:
    """The form in which names and captions are compared."""
    if text.isascii():
        text = text.lower()
    else:
        text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
    return SPACES.sub(_space, text)


def _space(run: re.Match) -> str:
    return " "


def goes_on(left: str, right: str) -> bool:
    """Whether a word goes on from one letter to the next, after UAX #29 (but an apostrophe ends a word)."""
    if unicodedata.category(right).startswith("M") or right == "\u200d":
        return _word(left) != 0
    before, after = _word(left), _word(right)
    if not before or not after or SPACELESS in (before, after):
        return False
    return before == after  # Katakana with Katakana, letters and digits with one another


@functools.lru_cache(maxsize=65_536)
def _word(sign: str) -> int:
    """0 for a sign that is part of no word, else what kind of script it is of."""
    if unicodedata.category(sign)[0] not in "LNM":
        return 0
    if NO_SPACES.match(sign):
        return SPACELESS
    return KATAKANA if "\u30a0" <= sign <= "\u30ff" or "\u31f0" <= sign <= "\u31ff" else LETTER


def _plain(sign: str) -> bool:
    """Whether the tables decide alone at this sign: an ASCII letter or digit."""
    return sign.isascii() and sign.isalnum()


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _texts(captions: pa.Array) -> list[str]:
    """The captions as text, nulls as nothing; bytes that are no UTF-8 are replaced."""
    try:
        texts = captions.to_pylist()
    except UnicodeDecodeError:
        raw = captions.cast(pa.large_binary()).to_pylist()
        texts = [value and value.decode("utf-8", "replace") for value in raw]
    return [text.replace(END, " ") if text else "" for text in texts]


class Best:
    """The `k` best rows of every query while entries stream by; what is held stays in proportion to queries and k."""

    def __init__(self, queries: int, k: int):
        self.queries, self.k = queries, k
        self.pending: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.count, self.limit = 0, 2 * queries * k + 65_536

    def add(self, query: np.ndarray, row: np.ndarray, score: np.ndarray) -> None:
        fit = np.isfinite(score)
        self.pending.append((query[fit], row[fit], score[fit].astype(np.float64)))
        self.count += len(row)
        if self.count > self.limit:
            self._compact()

    def hits(self) -> Hits:
        self._compact()
        query, row, score = self.pending[0]
        return ordered(query, row, score, self.queries, self.k)

    def _compact(self) -> None:
        query, row, score = (
            np.concatenate([np.empty(0, kind), *(piece[at] for piece in self.pending)])
            for at, kind in enumerate((np.int64, np.int64, np.float64))
        )
        order = np.lexsort((row, -score, query))
        query = query[order]
        rank = np.arange(len(query)) - np.searchsorted(query, np.arange(self.queries + 1))[query]
        kept = order[rank < self.k]
        self.pending = [(query[rank < self.k], row[kept], score[kept])]
        self.count = len(kept)
