"""The guides as data: their code blocks with what stands around them, and the `reactvl` commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs").glob("*.md"))
PAGES = [ROOT / "README.md", *GUIDES]
FENCE = re.compile(r"^(`{3,})([^\n`]*)\n(.*?)^\1[ \t]*$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?:\A|\n\n)((?:(?: {4}[^\n]*|[ \t]*)(?:\n|\Z))+)")


@dataclass(frozen=True)
class Block:
    """A code block: the words behind its fence (empty for an indented one), its text, its line, the paragraphs before and
    after it."""

    page: Path
    words: tuple[str, ...]
    text: str
    line: int
    before: str
    after: str

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """All code blocks of a page in order, fenced and indented."""
    text = page.read_text()
    fences = [(match.start(), match.end(), tuple(match[2].split()), match[3]) for match in FENCE.finditer(text)]
    outside = FENCE.sub(lambda match: re.sub(r"[^\n]", "-", match[0]), text)  # no indented block inside a fence
    plain = [
        (match.start(1), match.end(1), (), re.sub(r"^ {4}", "", match[1], flags=re.MULTILINE))
        for match in INDENTED.finditer(outside)
        if match[1].strip()
    ]
    return [
        Block(page, words, body, text.count("\n", 0, start) + 1, last(text[:start]), first(text[end:]))
        for start, end, words, body in sorted(fences + plain)
    ]


def last(text: str) -> str:
    return text.rstrip().rpartition("\n\n")[2]


def first(text: str) -> str:
    return text.lstrip().partition("\n\n")[0]


def lines(block: Block) -> list[str]:
    """The command lines of a block: continued ones joined, blank ones and comments left out."""
    joined = block.text.replace("\\\n", " ").splitlines()
    return [line.strip().removeprefix("$ ") for line in joined if line.strip() and not line.lstrip().startswith("#")]


def commands(block: Block) -> list[list[str]]:
    """The words of every `reactvl` command in a block, from `reactvl` on, behind a launcher or a pipe too."""
    found = []
    for line in lines(block):
        if not re.search(r"(^|-m |\| )reactvl\s", line):
            continue
        words = shlex.split(line, comments=True)
        at = words.index("reactvl")
        ends = (number for number, word in enumerate(words) if number > at and word in ("|", "&&", ";", ">", "&"))
        found.append(words[at : next(ends, len(words))])
    return found
