"""Names found in captions are those of a plain search; word borders are UAX #29's."""

import unicodedata

import numpy as np
import pyarrow as pa
import pytest
import regex
from hypothesis import given, settings
from hypothesis import strategies as st

from reactvl.retrieve.match import END, NameFinder, folded, goes_on, match_names

LETTERS = "ab é\u0301ßИ猫熊たトーไ가-_ '.🐼\u200d9\x00"
NAMES = st.lists(st.text(LETTERS, min_size=1, max_size=4), min_size=1, max_size=5)
CAPTIONS = st.lists(st.one_of(st.none(), st.text(LETTERS, max_size=12)), min_size=1, max_size=12)


def plainly(names: list[str], captions: list[str | None]) -> set[tuple[int, int]]:
    """(name, caption) of every name that stands in a caption as words, looked for one by one."""
    found = set()
    for number, name in enumerate(names):
        form = folded(name.replace(END, " ")).strip()
        if not any(unicodedata.category(sign)[0] in "LNM" for sign in form):
            continue
        for row, caption in enumerate(captions):
            text = folded((caption or "").replace(END, " "))
            for start in range(len(text) - len(form) + 1):
                end = start + len(form)
                if text[start:end] == form and not (
                    (start and goes_on(text[start - 1], form[0])) or (end < len(text) and goes_on(form[-1], text[end]))
                ):
                    found.add((number, row))
    return found


@settings(max_examples=300, deadline=None)
@given(NAMES, CAPTIONS)
def test_found_is_what_a_plain_search_finds(names, captions):
    query, row, share = NameFinder(names).find(pa.array(captions, pa.string()))
    assert set(zip(query.tolist(), row.tolist(), strict=True)) == plainly(names, captions)
    assert len(set(zip(query.tolist(), row.tolist(), strict=True))) == len(query)  # each once
    assert ((share > 0) & (share <= 1)).all() and (np.diff(row) >= 0).all()


@pytest.mark.parametrize(
    ("name", "caption", "held"),
    [
        ("cat", "A Cat, sleeping", True),
        ("cat", "the cat's whiskers", True),
        ("cat", "a category of cats", False),
        ("red panda", "RED-PANDA_01.jpg", True),
        ("red panda", "red\t\n panda", True),
        ("red_panda", "a red panda", True),
        ("red panda", "infrared panda", False),
        ("Straße", "STRASSE bei Nacht", True),
        ("café", "un cafe\u0301 noir", True),  # decomposed in the caption
        ("cafe", "un cafe\u0301 noir", False),  # its last letter is another one
        ("panda", "panda2", False),
        ("C++", "C++ in a nutshell", True),
        ("no.", "no.9 of ten", True),  # the name's own sign ends its word
        ("小熊猫", "一只小熊猫在吃竹子", True),  # written without spaces
        ("パンダ", "レッサーパンダ", False),  # one word of Katakana
        ("パンダ", "赤いパンダの写真", True),
        ("ﾊﾟﾝﾀﾞ", "パンダ!", True),  # half width
        ("แพนด้า", "รูปแพนด้าแดง", True),
        ("панда", "КРАСНАЯ ПАНДА", True),
        ("панда", "пандами", False),
        ("판다", "레서 판다 사진", True),
        ("🐼", "🐼🐼", False),  # no letter to look for
        ("dog", "", False),
        ("dog", None, False),
    ],
)
def test_words_in_many_scripts(name, caption, held):
    _, row, _ = NameFinder([name]).find(pa.array(["nothing", caption], pa.string()))
    assert row.tolist() == ([1] if held else [])


def test_borders_are_those_of_uax_29():
    """From any letter or digit of these scripts to another, or to a mark, a word goes on where Unicode has no border."""
    signs = "aZé9ßИжאبक가猫たアーไກက٣"
    for left in signs:
        for right in signs + "\u0301\u093e\u200d":
            border = regex.search(rf"(?w)(?V1){left}\b{right}", left + right) is not None
            assert goes_on(left, right) == (not border), (left, right)


def batches(captions: list[str | None], cut: int):
    for first in range(0, len(captions), cut):
        yield first, pa.array(captions[first : first + cut], pa.string())


def test_the_best_of_many_whatever_the_batches():
    """The `k` captions of the largest share, ties by the lower row, and the count of all; with a value of one's own, by it."""
    generator = np.random.default_rng(0)
    captions = [" ".join(["cat"] + ["word"] * int(generator.integers(0, 6))) if at % 3 else "dog" for at in range(500)]
    shares = {row: 3 / len(text) for row, text in enumerate(captions) if text.startswith("cat")}
    wanted = sorted(shares, key=lambda row: (-shares[row], row))[:40]
    for cut in (1, 7, 500):
        hits, counts = match_names(["cat", "dog", "bird"], batches(captions, cut), 40)
        assert hits.row[hits.query == 0].tolist() == wanted
        assert hits.rank[hits.query == 0].tolist() == list(range(40))
        assert counts.tolist() == [len(shares), 167, 0] and not (hits.query == 2).any()
        valued, _ = match_names(["cat"], batches(captions, cut), 5, value=lambda query, row: row * 1.0)
        assert valued.row.tolist() == sorted(shares, reverse=True)[:5]


def test_what_is_held_does_not_grow_with_the_pool(monkeypatch):
    """A name in every caption: of a hundred thousand rows no more than the limit is ever held."""
    import importlib

    match = importlib.import_module("reactvl.retrieve.match")
    largest = 0
    plain = match.Best._compact

    def watched(self):
        nonlocal largest
        largest = max(largest, self.count)
        plain(self)

    monkeypatch.setattr(match.Best, "_compact", watched)
    captions = pa.array(["a cat"] * 10_000)
    hits, counts = match_names(["cat"], ((first, captions) for first in range(0, 200_000, 10_000)), 10)
    assert hits.row.tolist() == list(range(10)) and counts.tolist() == [200_000]
    assert largest <= 2 * 10 + 65_536 + 10_000


def test_captions_that_are_no_utf8():
    broken = pa.Array.from_buffers(
        pa.string(),
        2,
        [None, pa.py_buffer(np.array([0, 7, 11], np.int32).tobytes()), pa.py_buffer(b"\xff a cat cat\xe9")],
    )
    assert NameFinder(["cat"]).find(broken)[1].tolist() == [0, 1]
    assert len(NameFinder(["\udcff", "a"]).find(pa.array(["\ufffd a"]))[0]) == 1


def test_equal_names_are_found_together():
    query, row, _ = NameFinder(["Missile", "tank", "missile"]).find(pa.array(["a MISSILE on a tank"]))
    assert sorted(query.tolist()) == [0, 1, 2] and row.tolist() == [0, 0, 0]
