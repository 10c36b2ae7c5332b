"""How handles show themselves: pictures with captions in a notebook, a table of text in a terminal, a page in a file.

    pairs.by_class("red panda").show()                     # a notebook's cell shows what its last line is
    display(emb.search("a teapot").show(n=12))             # any other line
    emb.search("a teapot").show().save("teapots.html")     # without a notebook: a page, self-contained

Nothing is drawn before it is looked at: `repr` reads no picture. What comes from the pool is never trusted: captions are
escaped in HTML and stripped of control characters in a terminal, addresses are links only where they are http(s), and the
HTML ends at `ROOM` bytes however many pairs are asked for.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from reactvl.manifest import ReactvlError

if TYPE_CHECKING:
    from markupsafe import Markup
    from PIL.Image import Image

ROOM = 3_000_000  # bytes of a notebook's output
PAGE_ROOM = 10_000_000  # of a saved page, whose limit is 12 MB
SIDE = 128  # pixels
CAPTION, ADDRESS = 160, 80  # letters that are shown
LINES, WIDTH = 60, 110  # of the text


class Item(NamedTuple):
    """One picture to show. `note` is a few words, such as a score; `place` its shard and key; `read` gives the encoded
    image, None where there are captions and addresses alone."""

    caption: str
    note: str = ""
    place: str = ""
    read: Callable[[], bytes] | None = None
    url: str | None = None


class Shelf(NamedTuple):
    """Items under one heading, and how many more there are that were not asked for."""

    heading: str
    items: Sequence[Item]
    more: int = 0


class Gallery:
    """Shelves of pictures with captions that show themselves; `hint` says in a line how to see more."""

    def __init__(self, title: str, shelves: Iterable[Shelf], hint: str = ""):
        self.title, self.hint = clipped(printable(title), CAPTION), hint
        self.shelves = [shelf._replace(heading=clipped(printable(shelf.heading), CAPTION)) for shelf in shelves]

    def save(self, path: str | Path) -> Path:
        """Write a self-contained page of at most 12 MB; returns its path."""
        from reactvl.report.page import Page

        drawing = Drawing(PAGE_ROOM)
        page = Page(self.title)
        for shelf in self.shelves:
            page.section(shelf.heading or "Pairs", drawing.shelf(shelf))
        if drawing.faults:
            page.section("Not readable", drawing.about_faults())
        return page.write(path)

    def _repr_html_(self) -> str:
        from markupsafe import Markup

        from reactvl.report.inset import inset

        drawing = Drawing(ROOM)
        parts = [Markup("<p>{}</p>").format(self.title)] if self.title else []
        for shelf in self.shelves:
            body = drawing.shelf(shelf)
            heading = Markup("<h3>{}</h3>").format(shelf.heading) if shelf.heading else Markup("")
            parts.append(heading + body)
        parts.append(drawing.about_faults())
        if self.hint:
            parts.append(Markup("<p><small>{}</small></p>").format(self.hint))
        return inset(Markup("").join(parts))

    def __repr__(self) -> str:
        lines = [self.title] if self.title else []
        for shelf in self.shelves:
            lines += [shelf.heading] if shelf.heading else []
            lines += text_rows(shelf.items[:LINES])
            left = len(shelf.items) - LINES
            if (more := max(left, 0) + shelf.more) > 0:
                lines.append(f"  ... and {more:,} more")
        if any(item.read for shelf in self.shelves for item in shelf.items):
            lines.append('pictures: shown in a notebook; elsewhere .show().save("pictures.html") writes a page of them')
        return "\n".join([*lines, *([self.hint] if self.hint else [])])


class Drawing:
    """The HTML of shelves within a number of bytes; remembers what could not be read."""

    def __init__(self, room: int, side: int = SIDE):
        self.room, self.side, self.faults, self.first = room, side, 0, ""

    def shelf(self, shelf: Shelf) -> "Markup":
        """Its items in order until the room is used, with a line that says how many are not shown."""
        from markupsafe import Markup

        from reactvl.progress import progress
        from reactvl.report.page import gallery

        pictures, captions, shown = [], [], 0
        with progress("drawing pictures", len(shelf.items), "pictures") as bar:
            for item in shelf.items:
                uri = None if item.read is None else self.picture(item.read)
                caption, note = clipped(printable(item.caption), CAPTION), self.note(item)
                self.room -= len(uri or "") + 6 * len(caption) + len(note) + 120
                if self.room < 0:
                    break
                if uri is None:
                    captions.append(Markup("<li>{} <small>{}</small></li>").format(caption or "(no caption)", note))
                else:
                    pictures.append((uri, caption, note))
                shown += 1
                bar.advance()
        parts = [gallery(pictures)] if pictures else []
        parts += [Markup("<ul>{}</ul>").format(Markup("").join(captions))] if captions else []
        if not shelf.items:
            parts.append(Markup("<p><small>none</small></p>"))
        if more := len(shelf.items) - shown + shelf.more:
            parts.append(Markup("<p><small>and {} more</small></p>").format(f"{more:,}"))
        return Markup("").join(parts)

    def picture(self, read: Callable[[], bytes]) -> str:
        """A thumbnail; a tile with a cross for what cannot be read or is no picture."""
        from reactvl.pool.images import BadImage
        from reactvl.report.thumbnails import BROKEN, thumbnail

        try:
            uri, fault = thumbnail(read(), self.side), "not a picture"
        except (ReactvlError, BadImage, OSError, TypeError) as met:  # TypeError: a row without shard and offset
            uri, fault = BROKEN, str(met)
        if uri == BROKEN:
            self.faults += 1
            self.first = self.first or fault
        return uri

    def note(self, item: Item) -> "Markup":
        """The small lines under a caption."""
        from markupsafe import Markup, escape

        lines = [escape(clipped(line, CAPTION)) for line in printable(item.note, keep="\n").split("\n") if line]
        if item.place:
            lines.append(Markup("/<wbr>").join(clipped(printable(item.place), ADDRESS).split("/")))
        if item.url and item.read is None:
            lines.append(address(item.url))
        return Markup("<br>").join(lines)

    def about_faults(self) -> "Markup":
        from markupsafe import Markup

        if not self.faults:
            return Markup("")
        text = '<p class="warn">{} could not be shown; the first: {}</p>'
        count = f"{self.faults:,} picture{'s' if self.faults != 1 else ''}"
        return Markup(text).format(count, clipped(printable(self.first), 300))


def gallery(
    images: "Sequence[str | Path | bytes | Image]",
    captions: Sequence[str] | None = None,
    notes: Sequence[str] | None = None,
    title: str = "",
) -> Gallery:
    """One's own pictures (files, encoded bytes, PIL images), each with a caption and a note of a few lines, shown as the
    pool's are. Raises ReactvlError when there are not as many captions or notes as pictures."""
    images = list(images)
    for name, given in (("captions", captions), ("notes", notes)):
        if given is not None and len(given) != len(images):
            raise ReactvlError(f"gallery: {len(images):,} images but {len(given):,} {name}; give one each")
    captions = captions if captions is not None else [name_of(image) for image in images]
    notes = notes if notes is not None else [""] * len(images)
    items = [
        Item(str(caption), str(note), read=reader(image))
        for image, caption, note in zip(images, captions, notes, strict=True)
    ]
    return Gallery(title, [Shelf("", items)])


def reader(image: "str | Path | bytes | Image") -> Callable[[], bytes]:
    """What gives the encoded bytes of a picture, when asked."""
    if isinstance(image, bytes):
        return lambda: image
    if isinstance(image, str | Path):
        return lambda: Path(image).read_bytes()
    return lambda: encoded(image)


def encoded(image: "Image") -> bytes:
    """A small PNG of a PIL image."""
    import io

    small, file = image.copy(), io.BytesIO()
    small.thumbnail((2 * SIDE, 2 * SIDE))
    (small if small.mode in ("RGB", "RGBA", "L") else small.convert("RGB")).save(file, "PNG")
    return file.getvalue()


def name_of(image: Any) -> str:
    return Path(image).name if isinstance(image, str | Path) else ""


def text_rows(items: Sequence[Item]) -> list[str]:
    """Numbered lines of aligned columns: note, place (or address), caption."""
    rows = [
        (
            printable(item.note.replace("\n", "; ")).strip(),
            clipped(printable(item.place or item.url or ""), ADDRESS // 2),
            printable(item.caption),
        )
        for item in items
    ]
    widths = [max((len(row[at]) for row in rows), default=0) for at in range(2)]
    lines = []
    for number, row in enumerate(rows, 1):
        columns = [text.ljust(width) for text, width in zip(row, widths, strict=False) if width]
        lines.append(clipped("  ".join([f"{number:4d}", *columns, row[2]]).rstrip(), WIDTH))
    return lines


def picture_of(read: Callable[[], bytes], place: str) -> "Image":
    """The loaded PIL image of encoded bytes; ReactvlError naming the place of one that is damaged."""
    from reactvl.pool.images import BadImage, open_image

    try:
        return open_image(read())
    except BadImage as fault:
        raise ReactvlError(f"{place}: {fault}; .show() shows the others") from None


def place_of(shard: str | None, key: str | None) -> str:
    """Where people find a pair: `00012.tar/000120345`, as `retrieve --exclude` takes it; nothing in a pool of URLs."""
    return f"{shard}/{key}" if shard and key else ""


def address(url: str) -> "Markup":
    """An address as a link, where it is one that a browser may open; else as text."""
    from markupsafe import Markup, escape

    text = clipped(printable(url), ADDRESS)
    if not url.lower().startswith(("http://", "https://")) or printable(url) != url or len(url) > 2000:
        return escape(text)
    return Markup('<a href="{}" target="_blank" rel="noopener noreferrer nofollow">{}</a>').format(url, text)


def printable(text: str, keep: str = "") -> str:
    """Text on one line without control characters: escape sequences of a terminal, marks that turn the writing's
    direction. Those that join letters stay: scripts and emoji need them."""
    return "".join(letter if letter.isprintable() or letter in JOINERS or letter in keep else " " for letter in text)


JOINERS = "\u200c\u200d"


def clipped(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 3] + "..."
