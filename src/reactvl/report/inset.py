"""A piece of a report inside someone else's page: the output of a notebook's cell, light or dark as that page is."""

import functools
from importlib import resources

from markupsafe import Markup

COLOURS = """
  --paper: transparent; --ink: currentColor; --soft: color-mix(in srgb, currentColor 65%, transparent);
  --line: color-mix(in srgb, currentColor 20%, transparent); --tint: color-mix(in srgb, currentColor 6%, transparent);
  --accent: color-mix(in srgb, currentColor 40%, #3d7fe0); --bad: #d5594a; --good: #2f9d6c;
  --c0: #8f95a1; --c1: #4c86dc; --c2: #e27f33; --c3: #35a274; --c4: #bb5bb5; --c5: #c0a144;
  font: 14px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
"""
# a notebook's own rules for tables: figures to the right, zebra stripes
UNDONE = (
    "th, td { white-space: normal; background: none; max-width: none; } .n { text-align: right; white-space: nowrap; }"
)


def inset(html: Markup) -> str:
    """HTML for `_repr_html_`: made of the functions of `report.page`, its look kept to itself. Raises TypeError for a
    plain string, which nothing has escaped."""
    if not isinstance(html, Markup):
        raise TypeError("an inset is made of Markup; escape a plain string first")
    return f'<div class="reactvl"><style>{style()}</style>{html}</div>'


@functools.cache
def style() -> str:
    look = resources.files("reactvl.report").joinpath("look.css").read_text(encoding="utf-8")
    own = "h3 { font-size: 1.05em; margin: 1em 0 0.2em; } p { margin: 0.3em 0; max-width: 52rem; }"
    return f".reactvl {{{COLOURS}{own}\n{look}{UNDONE}\n* {{ box-sizing: border-box; }} }}"
