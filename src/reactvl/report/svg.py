"""matplotlib figures as SVG that takes the page's colours, so that one drawing serves light and dark.

Plots are drawn in fixed stand-in colours; `figure` replaces each by its CSS variable. Text stays text (small,
selectable, in the page's font). Output is deterministic: no date, ids made from the content.
"""

import hashlib
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from markupsafe import Markup

# stand-in -> what the page shows. The stand-ins are odd on purpose: no picture inside a plot uses them as text.
INK, SOFT, LINE, PAPER, BAD, GOOD = "#010203", "#616263", "#d1d2d3", "#f1f2f3", "#c10203", "#01c203"
SERIES = ("#818283", "#2152a3", "#d16213", "#11a253", "#a131a3", "#b19123")
COLOURS = {
    INK: "currentColor",
    SOFT: "var(--soft)",
    LINE: "var(--line)",
    PAPER: "var(--paper)",
    BAD: "var(--bad)",
    GOOD: "var(--good)",
}
COLOURS |= {colour: f"var(--c{number})" for number, colour in enumerate(SERIES)}


def figure(drawn: Any, alt: str = "") -> Markup:
    """A matplotlib Figure as inline SVG; `alt` says in words what it shows."""
    import matplotlib

    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "reactvl"}):
        drawn.savefig(
            buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None, "Creator": None}
        )
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r"<!--.*?-->", "", text, flags=re.DOTALL)
    # only inside tags: a label that spells a stand-in colour or an id stays as it is
    text = own_ids(TAG.sub(lambda tag: restyled(tag[0]), text))
    text = re.sub(r"\n\s*", "\n", text)
    label = Markup('<svg role="img" aria-label="{}"').format(alt)
    return Markup('<div class="plot">') + label + Markup(text.removeprefix("<svg")) + Markup("</div>")


TAG = re.compile(r"<[^>]*>")
FONT = re.compile(r"font-family: [^;\"]*|(?<=px )'[^;\"]*")


def restyled(tag: str) -> str:
    """A tag with the page's colours and font."""
    for colour, variable in COLOURS.items():
        tag = tag.replace(colour, variable)
    return FONT.sub(
        lambda match: "font-family: inherit" if match[0].startswith("font-family") else "system-ui, sans-serif", tag
    )


def own_ids(text: str) -> str:
    """Ids that nothing refers to are dropped; the others carry the drawing's hash, so that several share one page."""
    prefix = hashlib.sha256(text.encode()).hexdigest()[:8]
    used = set(REFERENCE.findall(" ".join(TAG.findall(text))))

    def tag(match: re.Match) -> str:
        named = re.sub(
            r' id="([^"]+)"', lambda found: f' id="{prefix}-{found[1]}"' if found[1] in used else "", match[0]
        )
        return REFERENCE.sub(lambda found: found[0].replace("#", f"#{prefix}-"), named)

    return TAG.sub(tag, text)


REFERENCE = re.compile(r'(?:url\(#|href="#)([^)"]+)')


@contextmanager
def canvas(
    width: float = 8.0, height: float = 3.2, columns: int = 1, rows: int = 1, **options: Any
) -> Iterator[tuple[Any, Any]]:
    """A figure and its axes in the reports' style, closed afterwards; sizes in inches.

    Uses no global matplotlib state: neither pyplot nor a backend is chosen for the caller's program.
    """
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn, drawn.subplots(rows, columns, **options)


STYLE = {
    "font.size": 10,
    "font.family": "sans-serif",
    "text.color": INK,
    "axes.labelcolor": SOFT,
    "axes.edgecolor": LINE,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.6,
    "text.parse_math": False,
}
