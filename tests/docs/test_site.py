"""The site builds strict from what is there, fetches nothing from elsewhere, and every link in it leads somewhere; so do
the links of the same files where GitHub shows them."""

import json
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import yaml
from guide_blocks import FENCE, GUIDES, PAGES, ROOT

RESOURCES = {"img": "src", "script": "src", "link": "href", "source": "src", "iframe": "src", "video": "src"}
LINK = re.compile(r"\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
MARKDOWN = [*PAGES, ROOT / "demo/README.md", ROOT / "benchmarks/README.md"]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The built site; warnings are errors (with --quiet they would not be: MkDocs counts those that it prints)."""
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", out],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


class Page(HTMLParser):
    """What a built page loads, links to and can be linked to."""

    def __init__(self, path: Path):
        super().__init__()
        self.path, self.loads, self.links, self.anchors, self.unlabelled = path, [], [], set(), []
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        given = dict(attributes)
        self.anchors |= {given[name] for name in ("id", "name") if given.get(name)}
        if tag == "a" and given.get("href"):
            self.links.append(given["href"])
        elif tag in RESOURCES and given.get(RESOURCES[tag]) and given.get("rel") != "canonical":
            self.loads.append(given[RESOURCES[tag]])
        if tag == "img" and not given.get("alt"):
            self.unlabelled.append(given.get("src"))


@pytest.fixture(scope="module")
def pages(site) -> list[Page]:
    return [Page(path) for path in sorted(site.rglob("*.html"))]


def test_every_guide_is_a_page_and_stands_in_the_navigation(site):
    assert {path.stem for path in GUIDES} <= {path.stem for path in site.glob("*.html")}
    nav = re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text())
    assert sorted(nav) == sorted(set(nav)) and {path.name for path in GUIDES} == set(nav)


def test_nothing_is_fetched_from_elsewhere(site, pages):
    for page in pages:
        assert not [one for one in page.loads if urlsplit(one).scheme or one.startswith("//")], page.path
        assert "mermaid" not in page.path.read_text()  # the theme would fetch its script
    for sheet in site.rglob("*.css"):
        assert not re.findall(r"url\(['\"]?(?:https?:)?//", sheet.read_text()), sheet


def test_every_link_of_the_site_leads_to_a_page_and_a_heading(site, pages):
    anchors = {page.path: page.anchors for page in pages}
    for page in pages:
        if page.path.name == "404.html":  # shown at any depth: its links are from the site's root
            continue
        for link in [*page.links, *page.loads]:
            if urlsplit(link).scheme:
                assert urlsplit(link).scheme in ("http", "https"), (page.path, link)
                continue
            path, _, anchor = link.partition("#")
            target = (page.path.parent / unquote(path.partition("?")[0])).resolve() if path else page.path
            if target.is_dir():
                target /= "index.html"
            assert target.is_file(), f"{page.path.relative_to(site)}: {link}"
            if anchor and target.suffix == ".html":
                assert unquote(anchor) in anchors[target] or anchor.startswith("__"), (page.path, link)


def test_pictures_say_what_they_show(pages):
    assert [(page.path.name, one) for page in pages for one in page.unlabelled] == []


def test_search_finds_the_guides_and_no_source_file(site):
    entries = json.loads((site / "search/search_index.json").read_text())["docs"]
    found = {entry["location"].partition("#")[0] for entry in entries}
    assert {f"{path.stem}.html" for path in GUIDES if path.stem != "index"} <= found
    assert not {one for one in found if re.search(r"\.(py|toml|txt|yml)\.html$", one)}
    assert any("retrieved linear" in entry["text"] for entry in entries)


def test_a_run_block_says_so_and_keeps_its_colours(site):
    page = (site / "own-classes.html").read_text()
    assert page.count("run by the tests</span>") >= 8 and "```" not in page
    assert re.search(r'<span class="filename">run by the tests</span>.{,80}<code>.*?<span class="w">', page, re.DOTALL)


def test_a_bar_in_code_in_a_table_is_escaped_and_shown_without(site):
    """GitHub ends a cell at a bare one, in code too."""
    for page in MARKDOWN:
        for row in re.findall(r"^\|.*$", FENCE.sub("", page.read_text()), re.MULTILINE):
            assert not [code for code in re.findall(r"`[^`]+`", row) if re.search(r"(?<!\\)\|", code)], (
                f"{page.name}: {row}"
            )
    assert "<code>red panda|lesser panda</code>" in (site / "retrieve.html").read_text()


def test_a_linked_source_file_is_a_page(site):
    page = (site / "repository/examples/own-classes.toml.html").read_text()
    assert "own-classes.toml" in page and "locked-text" in page


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere_on_github(page):
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if urlsplit(link).scheme:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / unquote(path)).resolve() if path else page
        assert target.exists(), f"{page.name}: {link}"
        assert target.is_relative_to(ROOT), f"{page.name}: {link} leaves the repository"
        if anchor and target.suffix == ".md":
            assert anchor in headings(target), f"{page.name}: {link}"


def headings(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    found: set[str] = set()
    for title in re.findall(r"^#{1,6}[ \t]+(.+?)[ \t]*#*$", FENCE.sub("", page.read_text()), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        slug = re.sub(r"[^\w\- ]", "", text).replace(" ", "-")
        number = 0
        while (one := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(one)
    return found


def test_the_glossary_is_in_alphabetical_order():
    words = re.findall(r"^\| ([^|]+) \|", (ROOT / "docs/glossary.md").read_text(), re.MULTILINE)[1:]
    assert len(words) > 40 and words == sorted(words, key=str.lower)


def test_a_link_to_nothing_ends_the_build(tmp_path):
    """Both kinds: to a guide, which MkDocs sees, and to a file of the repository, which the hook sees."""
    docs = tmp_path / "docs"
    shutil.copytree(ROOT / "docs/_site", docs / "_site")
    raw = (ROOT / "mkdocs.yml").read_text()
    (tmp_path / "mkdocs.yml").write_text(re.sub(r"(?s)^nav:.*?(?=^theme:)", "", raw, flags=re.MULTILINE))
    for text in ("[a](no-guide.md)", "[a](../src/no_module.py)", "[a](#no-heading)"):
        (docs / "index.md").write_text(f"# Title\n\n{text}\n")
        done = subprocess.run(
            [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "out"],
            cwd=tmp_path,
            env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
            capture_output=True,
            text=True,
        )
        told = re.findall(r"no-guide|no_module|no-heading", done.stderr)
        assert done.returncode != 0 and told and told[0] in text, done.stderr


def test_the_theme_loads_no_fonts():
    """Read without the tags that name Python objects, which a plain YAML reader refuses."""
    config = yaml.safe_load(re.sub(r"!!python/\S+", "", (ROOT / "mkdocs.yml").read_text()))
    assert config["theme"]["font"] is False and "analytics" not in config["extra"]
    assert [palette["scheme"] for palette in config["theme"]["palette"]] == ["default", "slate"]
