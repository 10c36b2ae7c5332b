"""MkDocs hook: a fence "```sh run" (run by tests/docs/test_guides.py) gets a title that says so; others lose their second word.

GitHub shows such a fence as it is; Python-Markdown takes one word behind the fence and would show the block as text.
"""

import re

FENCE = re.compile(r"^(`{3,})(\w+) (\w+)[ \t]*$", re.MULTILINE)
TITLES = dict.fromkeys(("run", "train", "evaluate"), "run by the tests") | {"printed": "printed"}


def on_page_markdown(markdown: str, **_) -> str:
    return FENCE.sub(titled, markdown)


def titled(fence: re.Match) -> str:
    ticks, language, word = fence.groups()
    return f'{ticks}{language} title="{TITLES[word]}"' if word in TITLES else f"{ticks}{language}"
