"""A page is self-contained, escapes what it is given, and stays under its limit."""

import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from markupsafe import Markup
from PIL import Image

from reactvl.manifest import ReactvlError
from reactvl.report.inset import inset
from reactvl.report.page import Page, code, data_table, fold, gallery, link, note, thumbnail, tiles
from reactvl.report.svg import SERIES, canvas, figure

HOSTILE = '</td><script>alert("x")</script><img src=http://evil.example/x onerror=alert(1)> \' & {{ 7 * 7 }}'


def picture(seed: int, side: int = 60) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


class Elements(HTMLParser):
    """What a browser would build: (tag, attributes) of every element."""

    def __init__(self, html: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def test_hostile_text_is_shown_as_text_wherever_it_enters():
    with canvas() as (drawn, axis):
        axis.plot([1, 2], label=HOSTILE)
        axis.set_title(HOSTILE)
        axis.legend()
    page = Page(HOSTILE, HOSTILE)
    page.section(HOSTILE, HOSTILE, intro=HOSTILE)
    page.section("made", data_table([HOSTILE, "b"], [[HOSTILE, 1.0]], bold={(0, 0)}, caption=HOSTILE))
    page.section("made", gallery([(thumbnail(picture(0)), HOSTILE, HOSTILE)]))
    page.section("made", fold(HOSTILE, HOSTILE) + tiles([(HOSTILE, HOSTILE)]) + note(HOSTILE) + code(HOSTILE))
    page.section("made", figure(drawn, HOSTILE))
    html = page.html()
    elements = Elements(html).found
    assert not {"script", "iframe", "object", "embed", "form", "link"} & {tag for tag, _ in elements}
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on")]
    sources = [attributes["src"] for _, attributes in elements if "src" in attributes]
    assert len(sources) == 1 and sources[0].startswith("data:image/webp;base64,")
    assert "{{ 7 * 7 }}" in html and ">49<" not in html
    assert "evil.example" in html  # it is there, as text


def test_a_page_refers_to_nothing_outside_itself():
    with canvas() as (drawn, axis):
        axis.imshow(np.random.default_rng(0).random((8, 8)))
    page = Page("title").section("a", gallery([(thumbnail(picture(1)), "a", "")]) + figure(drawn, "an image"))
    html = page.html()
    for place in re.findall(r'(?:src|href)="([^"]*)"', html):
        assert place.startswith(("data:image/", "#")), place
    assert "default-src 'none'" in html and "<link" not in html and "@import" not in html
    assert "prefers-color-scheme: dark" in html and "width=device-width" in html


def test_pictures_beyond_the_limit_are_left_out_evenly_and_counted():
    page = Page("title")
    for name in ("first", "last"):
        page.section(name, gallery([(thumbnail(picture(seed)), str(seed), "") for seed in range(40)]))
    whole = page.html()
    limit = len(whole.encode()) * 2 // 3
    html = page.html(limit)
    assert len(html.encode()) <= limit < len(whole.encode())
    first, last = (part.count("<img ") for part in html.split(">last</h2>"))
    assert 0 < last < 40 and abs(first - last) <= 1
    assert f"{80 - first - last} pictures are left out" in html
    assert html.count('<span class="missing">') == 80 - first - last


def test_a_page_too_large_without_pictures_is_an_error_that_names_the_section(tmp_path):
    page = Page("title").section("small", "x").section("giant", "y" * 50_000)
    with pytest.raises(ReactvlError, match="'giant'"):
        page.write(tmp_path / "page.html", limit=40_000)
    assert not list(tmp_path.iterdir())


def test_the_same_content_gives_the_same_bytes(tmp_path):
    def written(name):
        with canvas() as (drawn, axis):
            axis.plot([1, 3, 2], color=SERIES[1])
        return Page("t").section("s", figure(drawn)).write(tmp_path / name).read_bytes()

    assert written("a.html") == written("b.html")


@pytest.mark.parametrize("data", [b"", b"no image", picture(3)[:200]], ids=["empty", "text", "cut"])
def test_bytes_that_are_no_image_give_a_tile(data):
    assert thumbnail(data).startswith("data:image/svg+xml")


def test_thumbnails_are_small_webp_of_arrays_and_files_with_transparency_on_white():
    array = np.zeros((300, 150, 3), np.uint8)
    for data in (array, picture(4, 400)):
        uri = thumbnail(data, side=64)
        image = decoded(uri)
        assert image.format == "WEBP" and max(image.size) == 64
    file = io.BytesIO()
    Image.new("RGBA", (50, 50), (0, 0, 0, 0)).save(file, "PNG")
    assert np.asarray(decoded(thumbnail(file.getvalue())).convert("RGB")).min() > 250


def decoded(uri: str) -> Image.Image:
    import base64

    return Image.open(io.BytesIO(base64.b64decode(uri.split(",")[1])))


def test_a_gallery_takes_only_data_uris():
    with pytest.raises(ValueError):
        gallery([("http://evil.example/x.png", "a", "b")])


def test_tables_set_figures_right_and_bold_where_asked():
    html = data_table(["name", "n"], [["a", 1234], ["b", 0.25], ["mean", ""]], bold={(1, 1)}, foot=1)
    assert '<td class="n">1,234</td>' in html and '<td class="n"><b>0.25</b></td>' in html
    assert html.count('<tr class="foot">') == 1 and '<th scope="row">a</th>' in html


def test_figures_take_the_pages_colours_and_leave_labels_alone():
    with canvas() as (drawn, axis):
        axis.plot([1, 2], color=SERIES[2], label=f'{SERIES[2]} id="axes_1" $x_1$')
        axis.legend()
    html = figure(drawn, "words")
    assert isinstance(html, Markup) and "var(--c2)" in html and 'aria-label="words"' in html
    assert f'{SERIES[2]} id="axes_1" $x_1$' in html
    ids = re.findall(r'<[^>]* id="([^"]*)"', re.sub(r">[^<]*<", "><", html))
    assert len(ids) == len(set(ids))
    for used in re.findall(r'(?:url\(#|href="#)([^)"]+)', html):
        assert used in ids


def test_a_link_leads_to_a_file_beside_the_page():
    assert link("retrieved/report.html") == '<a href="retrieved/report.html">retrieved/report.html</a>'
    assert link("a b/java:c.html", "<x>") == '<a href="a%20b/java%3Ac.html">&lt;x&gt;</a>'
    for target in ("http://evil.example/", "/etc/passwd", "//evil.example", ""):
        with pytest.raises(ValueError, match="relative"):
            link(target)


def test_an_inset_keeps_its_look_to_itself():
    """Every rule of the style stands within `.reactvl`, so that the notebook around keeps its own; braces are balanced."""
    html = inset(Markup("<p>text</p>"))
    style = re.search(r"<style>(.*)</style>", html, re.DOTALL)[1]
    assert style.startswith(".reactvl {") and style.count("{") == style.count("}") and style.rstrip().endswith("}")
    depth = [0]
    for sign in re.findall(r"[{}]", style):
        depth.append(depth[-1] + (1 if sign == "{" else -1))
    assert min(depth[1:-1]) == 1 and depth[-1] == 0
    with pytest.raises(TypeError, match="Markup"):
        inset("<p>not escaped</p>")


def test_a_picture_of_too_many_pixels_is_a_tile(monkeypatch):
    monkeypatch.setattr("reactvl.pool.images.MAX_IMAGE_PIXELS", 60 * 60 - 1)
    assert thumbnail(picture(0)).startswith("data:image/svg+xml")
    monkeypatch.setattr("reactvl.pool.images.MAX_IMAGE_PIXELS", 60 * 60)
    assert thumbnail(picture(0)).startswith("data:image/webp")
