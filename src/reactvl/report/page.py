"""A report is one HTML file that opens anywhere: no script, no outside resource, light and dark, readable on a phone.

    page = Page("Evaluation", "3 models on 4 tasks")
    page.section("Scores", data_table(["task", "base"], [["food", 0.5]]), intro="Top-1 accuracy.")
    page.write("report.html")

Text is escaped wherever it enters: what is inserted as HTML is `Markup`, made by the functions of this package; a
plain string given in its place is shown as text. The page's content policy forbids scripts and every outside resource,
so that a caption from the web that got past the escaping would still do nothing. A page stays under `LIMIT` bytes:
pictures beyond it are left out, the same share from every section, and the page says how many.
"""

import dataclasses
import functools
import re
import urllib.parse
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from reactvl import __version__
from reactvl.manifest import ReactvlError, write_bytes

LIMIT = 12_000_000  # bytes: what mail and chat programs still carry


@dataclasses.dataclass
class Section:
    heading: str
    html: Markup
    intro: str | Markup
    anchor: str


class Page:
    """A page under construction; sections appear in the order in which they are added."""

    def __init__(self, title: str, subtitle: str = ""):
        self.title, self.subtitle = title, subtitle
        self.sections: list[Section] = []

    def section(self, heading: str, html: str | Markup, intro: str | Markup = "") -> "Page":
        """Add a section. `html` and `intro` are inserted as they are when they are Markup and escaped when they are
        str."""
        anchor = f"s{len(self.sections) + 1}"
        self.sections.append(Section(heading, escape(html), intro, anchor))
        return self

    def html(self, limit: int = LIMIT) -> str:
        """The page as text of at most `limit` bytes in UTF-8.

        Raises ReactvlError when it is too large even without any picture, naming the largest section.
        """
        whole = self._render([section.html for section in self.sections], left_out=0)
        if len(whole.encode()) <= limit:
            return whole
        bare = [without_pictures(section.html, keep=0)[0] for section in self.sections]
        room = limit - len(self._render(bare, left_out=10**9).encode())
        if room < 0:
            largest = max(self.sections, key=lambda section: len(section.html))
            raise ReactvlError(
                f"report '{self.title}': over {limit:,} bytes even without pictures; "
                f"its largest section is '{largest.heading}' ({len(largest.html):,} characters)"
            )
        sizes = [
            len(section.html.encode()) - len(html.encode()) for section, html in zip(self.sections, bare, strict=True)
        ]
        share = room / sum(sizes)
        kept, left_out = [], 0
        for section, size in zip(self.sections, sizes, strict=True):
            html, dropped = without_pictures(section.html, keep=int(size * share))
            kept.append(html)
            left_out += dropped
        return self._render(kept, left_out)

    def write(self, path: Path | str, limit: int = LIMIT) -> Path:
        """Write the page whole or not at all; returns its path."""
        write_bytes(path, self.html(limit).encode())
        return Path(path)

    def _render(self, bodies: list[Markup], left_out: int) -> str:
        sections = [
            dataclasses.replace(section, html=html) for section, html in zip(self.sections, bodies, strict=True)
        ]
        return template().render(
            title=self.title, subtitle=self.subtitle, sections=sections, left_out=left_out, version=__version__
        )


def data_table(
    headers: Sequence[Any],
    rows: Iterable[Sequence[Any]],
    *,
    bold: Collection[tuple[int, int]] = (),
    foot: int = 0,
    right: Collection[int] = (),
    caption: str = "",
) -> Markup:
    """A table. Cells are text, numbers or Markup; columns of figures, and those in `right`, are set to the right.

    `bold` holds (row, column) of cells to stress; the last `foot` rows (a mean, a sum) stand under a line.
    """
    rows = [list(row) for row in rows]
    figures = [
        at in right or (bool(rows) and all(is_figure(row[at]) for row in rows if row[at] != ""))
        for at in range(len(headers))
    ]
    parts = [Markup('<div class="scroll"><table>')]
    if caption:
        parts.append(Markup("<caption>{}</caption>").format(caption))
    parts.append(Markup("<thead><tr>"))
    for at, header in enumerate(headers):
        parts.append(Markup('<th scope="col"{}>{}</th>').format(Markup(' class="n"' if figures[at] else ""), header))
    parts.append(Markup("</tr></thead><tbody>"))
    for number, row in enumerate(rows):
        parts.append(Markup('<tr class="foot">' if number >= len(rows) - foot else "<tr>"))
        for at, cell in enumerate(row):
            tag = Markup('th scope="row"' if at == 0 else "td")
            look = Markup(' class="n"' if figures[at] else "")
            text = Markup("<b>{}</b>").format(shown(cell)) if (number, at) in bold else escape(shown(cell))
            parts.append(Markup("<{}{}>{}</{}>").format(tag, look, text, Markup("th" if at == 0 else "td")))
        parts.append(Markup("</tr>"))
    parts.append(Markup("</tbody></table></div>"))
    return Markup("").join(parts)


def gallery(items: Iterable[tuple[str, str, str]]) -> Markup:
    """Pictures in a row that wraps: (data URI from `thumbnail`, caption, note) each; the note is the small grey
    line."""
    parts = [Markup('<div class="gallery">')]
    for uri, caption, note in items:
        if not uri.startswith("data:image/"):
            raise ValueError("a picture of a report is a data URI made by `thumbnail`")
        parts.append(
            Markup(
                '<figure><img alt="{}" loading="lazy" src="{}"><figcaption>{}<small>{}</small></figcaption></figure>'
            ).format(caption, uri, caption, note)
        )
    parts.append(Markup("</div>"))
    return Markup("").join(parts)


def fold(summary: str, html: str | Markup, *, is_open: bool = False) -> Markup:
    """Content behind one line that opens it."""
    return Markup("<details{}><summary>{}</summary>{}</details>").format(
        Markup(" open" if is_open else ""), summary, html
    )


def tiles(facts: Iterable[tuple[str, Any]]) -> Markup:
    """The few figures that matter, large: (what it is, the figure) each."""
    return Markup('<dl class="tiles">{}</dl>').format(
        Markup("").join(
            Markup("<div><dt>{}</dt><dd>{}</dd></div>").format(what, shown(figure)) for what, figure in facts
        )
    )


def note(text: str) -> Markup:
    """Small grey text, for inside a cell or under a figure."""
    return Markup("<small>{}</small>").format(text)


def code(text: str) -> Markup:
    """Preformatted text: a command, a recipe."""
    return Markup("<pre>{}</pre>").format(text)


def link(target: str, text: str = "") -> Markup:
    """A link to a file that lies with the page, by its path from there: `retrieved/report.html`. Raises ValueError for an
    address and for an absolute path: pages are moved and sent, and lead nowhere outside their run."""
    if not target or "://" in target or target.startswith("/"):
        raise ValueError(f"a link of a report is a path relative to it, not {target!r}")
    return Markup('<a href="{}">{}</a>').format(urllib.parse.quote(target), text or target)


def shown(cell: Any) -> Any:
    """A number as people read it: 12,345 and 0.123; anything else as it is."""
    if isinstance(cell, bool) or cell is None:
        return "" if cell is None else ("yes" if cell else "no")
    if isinstance(cell, int):
        return f"{cell:,}"
    return f"{cell:,.3g}" if isinstance(cell, float) else cell


def is_figure(cell: Any) -> bool:
    if isinstance(cell, int | float):
        return True
    text = cell.striptags() if isinstance(cell, Markup) else str(cell)
    return bool(FIGURE.fullmatch(text.strip()))


FIGURE = re.compile(r"[-+±−]?[\d.,]+\s?(%|s|ms|KB|MB|GB)?")

PICTURE = re.compile(r'<img alt="([^"]*)" loading="lazy" src="data:image/[^"]*">')


def without_pictures(html: Markup, keep: int) -> tuple[Markup, int]:
    """The section with its first `keep` bytes of pictures and an empty tile for each of the others; (html, left
    out)."""
    dropped, used = 0, 0

    def tile(match: re.Match) -> str:
        nonlocal dropped, used
        if used + len(match[0]) <= keep:
            used += len(match[0])
            return match[0]
        used = (
            keep  # once one does not fit, later ones do not either: what is shown is a beginning, not a choice by size
        )
        dropped += 1
        return '<span class="missing"></span>'

    return Markup(PICTURE.sub(tile, str(html))), dropped


@functools.cache
def template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("reactvl.report", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")


def __getattr__(name: str) -> Any:
    # Pillow and matplotlib load only when a page has pictures.
    if name == "thumbnail":
        from reactvl.report.thumbnails import thumbnail

        return thumbnail
    if name == "figure":
        from reactvl.report.svg import figure

        return figure
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
