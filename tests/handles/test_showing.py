"""Handles show themselves: what is shown is what the folders hold, as text and as HTML, whatever the pool holds."""

import os
import re
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests_support import drawing, write_model, write_task

import reactvl as rv
from reactvl.handles import showing
from reactvl.handles.class_pairs import ClassPairs, Pair
from reactvl.handles.embeddings import Embeddings, Hit
from reactvl.handles.scores import verdict_lines
from reactvl.manifest import ModelId, ReactvlError
from reactvl.pool.writer import ShardWriter

COLOURS = ("red", "green", "blue")
HOSTILE = (
    '<script>alert(1)</script><img src="http://evil.example/x" onerror="alert(2)">red',
    "red \x1b[2J\x1b]0;owned\x07 \u202edrow desrever\u202c\r\nsecond line",
    "red " + "x" * 100_000,
    "</figure></div><style>*{display:none}</style>red",
)


class Elements(HTMLParser):
    """What a browser would build: (tag, attributes) of every element, and the text."""

    def __init__(self, html: str):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.found if name == tag]


def elements(shown) -> Elements:
    return Elements(shown._repr_html_())


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A pool of three colours with hostile captions among them, embedded, and its pairs."""
    home = tmp_path_factory.mktemp("showing")
    with ShardWriter(home / "pool", max_count=24) as writer:
        for number in range(48):
            caption = HOSTILE[number // 3] if number < 12 and number % 3 == 0 else f"{COLOURS[number % 3]} {number}"
            writer.write(drawing(number, "png"), "png", caption, {"url": f"https://x.example/{number}.png"})
    model = rv.load(write_model(home / "base", seed=0))
    embeddings = rv.embed(str(home / "pool"), model, out=home / "embeddings", workers=1)
    rv.retrieve(embeddings, classes=[*COLOURS], templates=["{}"], model=model, out=home / "retrieved")
    return home


@pytest.fixture
def embeddings(home) -> Embeddings:
    return rv.open(home / "embeddings")


@pytest.fixture
def pairs(home):
    return rv.open(home / "retrieved")


@pytest.fixture
def vector() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(32).astype(np.float32)


def test_hits_are_a_list_whose_pictures_are_the_pools(embeddings, vector):
    hits = embeddings.search(vector, k=48)
    assert isinstance(hits, list) and len(hits) == 48 and all(isinstance(hit, Hit) for hit in hits)
    assert hits == list(hits) and hits[:5] == list(hits)[:5]
    numbers = [int(hit.url.rpartition("/")[2].removesuffix(".png")) for hit in hits]
    for image, number in zip(hits[:6].images(), numbers, strict=False):
        assert image.tobytes() == Image.open(pngs(number)).tobytes()
    assert hits[:6].captions == [hit.caption for hit in hits[:6]]
    shown = elements(hits[:6])
    assert len(shown.of("img")) == 6 and f"{hits[0].score:.3f}" in shown.text
    assert f"{hits[0].shard}/{hits[0].key}" in shown.text


def pngs(number: int):
    import io

    return io.BytesIO(drawing(number, "png"))


def test_a_terminal_gets_a_line_a_pair_and_no_picture_is_read(embeddings, vector, monkeypatch):
    monkeypatch.setattr(Embeddings, "read_image", lambda *_: pytest.fail("a picture was read"))
    text = repr(embeddings.search(vector, k=48))
    rows = text.splitlines()
    assert rows[0] == "a vector in the pictures: 48 of 48 pairs" and 'save("pictures.html")' in rows[-1]
    assert [int(row.split()[0]) for row in rows[1:-1]] == list(range(1, 49))
    assert all(letter.isprintable() for row in rows for letter in row) and max(map(len, rows[:-1])) <= showing.WIDTH
    assert (
        repr(embeddings.search(vector, k=48).show(3)).count("\n") == 5
    )  # title, three pairs, how many more, how to see


def test_hostile_captions_are_text(pairs):
    shown = elements(pairs.show(100))
    every = elements(rv.gallery([drawing(0)] * 4, HOSTILE, HOSTILE, HOSTILE[0]))
    for found in (shown, every):
        tags = {tag for tag, _ in found.found}
        assert tags <= {"div", "style", "p", "h3", "figure", "img", "figcaption", "small", "br", "wbr"}
        assert len(found.of("style")) == 1
        assert not [name for _, attributes in found.found for name in attributes if name.startswith("on")]
        assert all(image["src"].startswith("data:image/") for image in found.of("img"))
    assert "<script>alert(1)</script>" in every.text and "\u202e" not in every.text and "\x1b" not in every.text
    assert "x" * showing.CAPTION not in every.text


def test_a_saved_page_stands_alone(pairs, tmp_path):
    path = pairs.show(n=20).save(tmp_path / "pairs.html")
    page = path.read_text(encoding="utf-8")
    found = Elements(page)
    assert len(found.of("img")) == sum(min(len(pairs.by_class(name)), 20) for name in COLOURS)
    assert not found.of("script") and not found.of("link") and "default-src 'none'" in page
    assert all(image["src"].startswith("data:image/") for image in found.of("img"))


def test_a_class_is_a_view_on_the_table(pairs):
    table = pairs.table().to_pylist()
    assert sum(len(pairs.by_class(name)) for name in COLOURS) == len(table) > 20
    for number, name in enumerate(COLOURS):
        view, rows = pairs.by_class(name), [row for row in table if row["class"] == name]
        assert view.table().to_pylist() == rows == pairs.by_class(number).table().to_pylist()
        assert [(pair.rank, pair.caption, pair.score, pair.key) for pair in view] == [
            (row["rank"], row["TEXT"], row["score"], row["key"]) for row in rows
        ]
        assert view.captions == [row["TEXT"] for row in rows] and len(view.images()) == len(view) == len(rows)
        assert isinstance(view[-1], Pair) and view[-1] == list(view)[-1]
        assert list(view[2:9:3]) == list(view)[2:9:3] and isinstance(view[1:3], ClassPairs)
        with pytest.raises(IndexError):
            view[len(view)]
    with pytest.raises(ReactvlError, match="no class 'kettle'"):
        pairs.by_class("kettle")


def test_classes_are_shown_as_asked_and_the_others_counted(pairs, monkeypatch):
    monkeypatch.setattr("reactvl.handles.pairs.CLASSES", 2)
    text = repr(pairs.show(2))
    assert "red (" in text and "green (" in text and "blue (" not in text and "1 more classes" in text
    shown = elements(pairs.show(2, classes=["blue", "red"]))
    assert [shown.text.index(name) for name in ("blue (", "red (")] == sorted(
        shown.text.index(name) for name in ("blue (", "red (")
    )
    empty = ClassPairs(pairs, "none of them", pairs.table().slice(0, 0))
    assert list(empty) == empty.images() == [] and "none" in elements(empty).text and "0 pairs" in repr(empty)


@pytest.fixture
def broken(home, tmp_path):
    """The same folders, copied, with one picture of the pool damaged where it lies."""
    import shutil

    for name in ("pool", "embeddings", "retrieved"):
        shutil.copytree(home / name, tmp_path / name)
    embeddings = Embeddings(tmp_path / "embeddings")
    row = embeddings.parts[0].metadata(["shard", "key", "offset", "size"]).to_pylist()[7]
    path = tmp_path / "pool" / row["shard"]
    times = path.stat()
    with path.open("r+b") as file:
        file.seek(row["offset"])
        file.write(b"\0" * row["size"])
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    return tmp_path, f"{row['shard']}/{row['key']}"


def test_a_damaged_picture_leaves_a_tile_and_harms_no_other(broken, vector):
    home, place = broken
    hits = Embeddings(home / "embeddings").search(vector, k=48)
    shown = elements(hits)
    sources = [image["src"] for image in shown.of("img")]
    assert len(sources) == 48 and sum(source.startswith("data:image/svg") for source in sources) == 1
    assert "1 picture could not be shown" in shown.text
    with pytest.raises(ReactvlError, match=re.escape(place)):
        hits.images()


def test_a_pool_that_is_gone_leaves_captions_and_the_way_out(broken, vector):
    home, _ = broken
    (home / "pool").rename(home / "elsewhere")
    pairs = rv.open(home / "retrieved")
    shown = elements(pairs.by_class("blue"))
    assert all(image["src"].startswith("data:image/svg") for image in shown.of("img"))
    assert "could not be shown" in shown.text and "put the pool back" in shown.text and "blue" in shown.text
    assert "put the pool back" in Elements(pairs.show().save(home / "page.html").read_text()).text


URLS = ("https://a.example/x.jpg", "javascript:alert(1)", 'http://a.example/" onclick="x', "HTTPS://b.example/Y", None)


def test_a_pool_of_addresses_shows_captions_and_safe_links(tmp_path):
    for half in ("img_emb", "text_emb", "metadata"):
        (tmp_path / half).mkdir()
    vectors = np.eye(5, 8, dtype=np.float16)
    np.save(tmp_path / "img_emb" / "img_emb_0.npy", vectors)
    np.save(tmp_path / "text_emb" / "text_emb_0.npy", vectors)
    captions = [*HOSTILE, "a plain one"]
    pq.write_table(pa.table({"caption": captions, "url": URLS}), tmp_path / "metadata" / "metadata_0.parquet")
    hits = Embeddings(tmp_path, ModelId("m", "0" * 64, 8)).search(np.arange(8, dtype=np.float32), k=5)
    shown = elements(hits)
    assert not shown.of("img") and len(shown.of("li")) == 5 and "a plain one" in shown.text
    links = [link["href"] for link in shown.of("a")]
    assert sorted(links) == ["HTTPS://b.example/Y", 'http://a.example/" onclick="x', "https://a.example/x.jpg"]
    assert all("noreferrer" in link["rel"] and "onclick" not in link for link in shown.of("a"))
    assert "javascript:alert(1)" in shown.text
    assert "https://a.example/x.jpg  " in repr(hits) and "save(" not in repr(hits)
    with pytest.raises(ReactvlError, match="no pictures"):
        hits.images()


def test_thousands_of_pairs_make_no_larger_output():
    noise = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    data = showing.encoded(Image.fromarray(noise))
    many = [showing.Item("caption " * 40, "1.0", "0.tar/1", lambda: data) for _ in range(5000)]
    shown = showing.Gallery("many", [showing.Shelf("first", many[:2500]), showing.Shelf("second", many[2500:], 7)])
    html = shown._repr_html_()
    kept = html.count("<img ")
    assert len(html.encode()) < showing.ROOM * 1.01 and 100 < kept < 2500
    assert f"and {2500 - kept:,} more" in html and "and 2,507 more" in html
    bare = [item._replace(read=None, url="https://x.example/" + "y" * 900) for item in many]
    assert len(showing.Gallery("bare", [showing.Shelf("", bare * 4)])._repr_html_().encode()) < showing.ROOM * 1.01
    assert len(repr(shown).splitlines()) < 2 * showing.LINES + 10


def test_ones_own_pictures_are_shown_from_files_bytes_and_images(tmp_path):
    (tmp_path / "a.png").write_bytes(drawing(1, "png"))
    palette = Image.open(tmp_path / "a.png").convert("P")
    shown = elements(rv.gallery([tmp_path / "a.png", drawing(2), palette, tmp_path / "gone.png"]))
    sources = [image["src"] for image in shown.of("img")]
    assert [source.startswith("data:image/webp") for source in sources] == [True, True, True, False]
    assert "a.png" in shown.text and "1 picture could not be shown" in shown.text
    with pytest.raises(ReactvlError, match="2 images but 1 captions"):
        rv.gallery([drawing(1), drawing(2)], ["one"])


@pytest.fixture(scope="module")
def scores(home):
    write_task(home / "data" / "colours", [*COLOURS], each=6)
    models = [rv.load(write_model(home / "evaluated" / name, seed=seed)) for seed, name in enumerate(("one", "two"))]
    return rv.evaluate(
        models, data=home / "data", out=home / "evaluation", baselines=False, workers=1, precision="fp32"
    )


def test_scores_show_the_figures_of_the_results(scores):
    shown = elements(scores)
    [task] = scores.results["tasks"]
    for score in task["scores"].values():
        assert f"{100 * score['value']:.1f}" in shown.text
    gain = task["scores"]["two"]["gain"]
    assert f"{100 * gain['difference']:+.1f} [{100 * gain['low']:.1f}, {100 * gain['high']:.1f}]" in shown.text
    assert scores.table() in repr(scores.show()) and str(scores.report) in repr(scores.show())
    assert shown.text == elements(scores.show()).text


def test_compared_models_are_shown_where_one_alone_is_right(scores, home):
    rows = scores.predictions("colours").to_pylist()
    one, two = ({row["image"]: row for row in rows if row["model"] == label} for label in ("one", "two"))
    better = [name for name in one if two[name]["correct"] and not one[name]["correct"]]
    worse = [name for name in one if one[name]["correct"] and not two[name]["correct"]]
    shelves = scores.compare("colours").shelves
    assert [len(shelf.items) for shelf in shelves] == [len(better), len(worse)] and better + worse
    for shelf, names in zip(shelves, (better, worse), strict=True):
        expected = sorted(
            (one[name]["class"], f"one: {one[name]['predicted_class']}", f"two: {two[name]['predicted_class']}")
            for name in names
        )
        assert expected == sorted(
            (item.caption, *(line.rpartition(" ")[0] for line in item.note.split("\n"))) for item in shelf.items
        )
    pictures = {path.read_bytes() for path in (home / "data").rglob("*.png")}
    assert {item.read() for shelf in shelves for item in shelf.items} <= pictures
    assert [len(shelf.items) for shelf in scores.compare("colours", "two", "one").shelves] == [len(worse), len(better)]
    with pytest.raises(ReactvlError, match="no model 'three'; it has one, two"):
        scores.compare("colours", after="three")
    with pytest.raises(ReactvlError, match="itself"):
        scores.compare("colours", "one", "one")
    with pytest.raises(ReactvlError, match="no task"):
        scores.compare("shapes")


def test_answers_are_compared_without_the_pictures_too(scores, home):
    (home / "data").rename(home / "gone")
    try:
        shown = scores.compare("colours")
        assert "not where they were" in repr(shown) and not elements(shown).of("img") and elements(shown).of("li")
    finally:
        (home / "gone").rename(home / "data")


def test_a_verdict_says_what_a_model_was_not_held_against():
    def verdict(**beaten):
        gain = {"difference": 0.1, "low": 0.05, "high": 0.2}
        against = [{"label": label, "difference": gain, "beaten": one} for label, one in beaten.items()]
        told = [one for one in beaten.values() if one is not None]
        return {"model": "m", "against": against, "beats_all": bool(told) and all(told)}

    assert verdict_lines([verdict(base=True, means=True)]) == ["above every label-free baseline: m"]
    assert verdict_lines([verdict(base=True, means=None)]) == ["m: above base; not compared with means"]
    assert verdict_lines([verdict(base=True, means=False)]) == ["m: not above means (+10.0 [5.0, 20.0])"]
    assert "not held against any" in verdict_lines([verdict(base=None, means=None)])[0]


def test_a_run_opens_its_stages(home, tmp_path):
    (home / "recipe.toml").write_text(f'pool = "pool"\nmodel = "base"\n[evaluate]\ndata = "{home / "data"}"\n')
    run = rv.open(home)
    assert isinstance(run, rv.Run) and run.embeddings.folder == home / "embeddings" and len(run.pairs) > 20
    assert "48 pairs embedded by base" in repr(run) and "3 classes" in repr(run)
    assert run.base.id.sha256 == run.embeddings.model.sha256 and run.data == home / "data" and run.models == {}
    (tmp_path / "recipe.toml").write_text('pool = "a"\n')
    empty = rv.open(tmp_path)
    assert "nothing finished yet" in repr(empty) and empty.data is None
    with pytest.raises(ReactvlError, match="no finished retrieved/"):
        empty.pairs  # noqa: B018
    (tmp_path / "recipe.toml").write_text("pool = \n")
    with pytest.raises(ReactvlError, match=r"recipe\.toml: cannot be read"):
        rv.open(tmp_path)
    with pytest.raises(ReactvlError, match="holds no run"):
        rv.Run(tmp_path / "gone")


def test_the_report_of_many_classes_keeps_its_size(monkeypatch):
    """The run's page shows pictures of the first classes and counts the others; a picture that is gone leaves a tile."""
    from reactvl import summary

    def read(shard, offset, size):
        if offset == 0:
            raise ReactvlError("shard 0.tar: gone")
        return data

    data = drawing(0)
    classes = [f"class {number} <b>" for number in range(4000)]
    table = pa.table(
        {
            "class_id": np.repeat(np.arange(4000), 3),
            "score": np.ones(12_000, np.float32),
            "TEXT": ["<i>text</i>" * 20] * 12_000,
            "shard": ["0.tar"] * 12_000,
            "offset": np.arange(12_000),
            "size": [1] * 12_000,
        }
    )
    embeddings = SimpleNamespace(has_pictures=True, read_bytes=read)
    pairs = SimpleNamespace(classes=classes, table=table.select, embeddings=embeddings)
    monkeypatch.setattr(summary, "MOST", 200)
    html = summary.retrieved(pairs)
    assert html.count("<h3>") == html.count("<img ") == 200 and "3,800 more classes" in html
    assert "<b>" not in html and "<i>" not in html and "1 picture could not be shown" in html
    monkeypatch.setattr(summary, "ROOM", 50_000)
    assert len(summary.retrieved(pairs)) < 70_000
