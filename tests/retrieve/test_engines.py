"""Which engine searches a side, and what is said of it."""

from pathlib import Path
from types import SimpleNamespace

import pytest

from reactvl.manifest import ReactvlError
from reactvl.retrieve import engines
from reactvl.retrieve.engines import Load, about, chosen, given


@pytest.fixture
def cost(monkeypatch):
    """Exact search that takes a microsecond for a query and a thousand rows."""
    monkeypatch.setattr(engines, "exact_seconds", lambda queries, rows, dim, k, device: queries * rows * 1e-9)
    monkeypatch.setattr(engines, "beside", lambda embeddings: {})


POOL = SimpleNamespace(folder=Path("run/embeddings"))


def index_of(side: str, qps: float) -> SimpleNamespace:
    return SimpleNamespace(keys=side, qps=qps, recall=0.985, folder=Path(f"run/{side}-index"))


def test_words_of_search(tmp_path):
    assert given("exact") == ["exact"] and given("auto") == ["auto"]
    assert given("a,b") == given(["a", "b"]) == given([Path("a"), Path("b")]) == ["a", "b"]
    (tmp_path / "a,b").mkdir()
    assert given(str(tmp_path / "a,b")) == [str(tmp_path / "a,b")]  # a folder's name may hold a comma
    for wrong in ("", [], "exact,a"):
        with pytest.raises(ReactvlError, match="use exact, auto"):
            given(wrong)


def test_auto_takes_the_cheaper(cost, capsys):
    """An index where it saves time that is worth saving; exact search under ten seconds, and where there is no index."""
    named = {"image": index_of("image", 1000.0)}
    for rows, through in ((10_000, {}), (100_000_000, named), (800_000, {})):
        assert chosen(["auto"], named, POOL, {"image": Load(20_000, rows, 512, 200)}) == through
    assert chosen(["auto"], named, POOL, {"text": Load(20_000, 100_000_000, 512, 200)}) == {}
    said = capsys.readouterr().out.splitlines()
    assert "20,000 queries for 200 nearest of 10,000 image vectors through exact search (exact about 0.2 s" in said[0]
    assert "through the index" in said[1] and "exact about 33:20, image-index about 0:20 at recall 0.985" in said[1]
    assert "through exact search" in said[2]
    assert "no index of them lies beside run/embeddings" in said[3]


def test_long_searches_say_so_before_they_begin(cost, capsys):
    """From a million rows on, whatever searches; below it nothing is said unless `auto` chose."""
    chosen(["exact"], {}, POOL, {"image": Load(80_000, 999_999, 512, 200)})
    assert capsys.readouterr().out == ""
    chosen(["exact"], {}, POOL, {"image": Load(80_000, 12_000_000, 512, 200)})
    assert "12,000,000 image vectors through exact search, about 16:00" in capsys.readouterr().out
    chosen(["x"], {"image": index_of("image", 100.0)}, POOL, {"image": Load(80_000, 12_000_000, 512, 200)})
    assert "image-index, about 13:20" in capsys.readouterr().out


def test_the_estimate_is_that_of_the_search():
    """More of anything costs more, and a small search costs next to nothing."""
    small, large = (Load(100, rows, 64, 10).exact for rows in (10_000, 1_000_000))
    assert 0 < small < 5 and large > 10 * small


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.001, "about 0.1 s"), (3.4, "about 3 s"), (61, "about 1:01")],
)
def test_times_in_words(seconds, words):
    assert words in about(seconds)
