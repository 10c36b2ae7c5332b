"""MkDocs hook: what GitHub's markdown has and Python-Markdown shows otherwise, so that the guides read alike in both.

- A fence of two words, "```sh run" (run by tests/docs/test_guides.py). GitHub looks at the first; Python-Markdown would show
  the block as text. It gets a title that says what the second word means.
- `a\\|b` in a table's cell. GitHub wants the sign escaped in code too; Python-Markdown would show the backslash.
"""

import re

FENCE = re.compile(r"^(`{3,})(\w+) (\w+)[ \t]*$", re.MULTILINE)
TITLES = dict.fromkeys(("run", "train", "evaluate"), "run by the tests") | {"printed": "printed"}
ROW = re.compile(r"^\|.*$", re.MULTILINE)
CODE = re.compile(r"(`+)(?!`).+?(?<!`)\1(?!`)")


def on_page_markdown(markdown: str, **_) -> str:
    return ROW.sub(lambda row: CODE.sub(unescaped, row[0]), FENCE.sub(titled, markdown))


def titled(fence: re.Match) -> str:
    ticks, language, word = fence.groups()
    return f'{ticks}{language} title="{TITLES[word]}"' if word in TITLES else f"{ticks}{language}"


def unescaped(code: re.Match) -> str:
    return code[0].replace("\\|", "|")
