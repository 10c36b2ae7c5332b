"""MkDocs hook: links from a guide to files of the repository outside docs/ (sources, recipes, the README).

On GitHub such a link leads to the file. The site has no repository beside it, so every file that is linked becomes a page
of its own, `repository/PATH`: text in a code block, markdown as it is, anything else as a copy. A link to what is not
there is a warning, which ends a strict build.
"""

import os
import re
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, InclusionLevel

log = get_plugin_logger("repository_files")
ROOT = Path(__file__).parents[2]
HOME = "repository"
TOKENS = re.compile(r"(?ms)^(`{3,}).*?^\1[ \t]*$|(`+)(?!`).+?(?<!`)\2(?!`)|(\]\()([^)\s]+)((?:\s+\"[^\"]*\")?\))")
LANGUAGES = {
    ".py": "python",
    ".toml": "toml",
    ".yml": "yaml",
    ".json": "json",
    ".sh": "sh",
    ".txt": "text",
    ".tsv": "text",
}
LEXERS = {"Makefile": "make", "LICENSE": "text"}


def on_files(files, config):
    waiting = [file for file in files if file.src_uri.endswith(".md")]
    while waiting:
        page = waiting.pop()
        for target in linked(page.content_string, path_of(page.src_uri)):
            if target.startswith("docs/") or files.get_file_from_path(address(target)):
                continue
            made = file_page(target, config)
            files.append(made)
            if target.endswith(".md"):
                waiting.append(made)
    return files


def on_page_markdown(markdown: str, page, **_) -> str:
    here = path_of(page.file.src_uri)

    def moved(token: re.Match) -> str:
        target = place(token[4], here) if token[3] else None
        if target is None:
            return token[0]
        _, hash_, anchor = token[4].partition("#")
        uri = os.path.relpath(address(target), PurePosixPath(page.file.src_uri).parent)
        return f"{token[3]}{uri}{hash_}{anchor}{token[5]}"

    return TOKENS.sub(moved, markdown)


def linked(markdown: str, here: PurePosixPath) -> list[str]:
    """Files of the repository that a text links to, as paths from its root; a warning for those that are not there."""
    found = []
    for token in TOKENS.finditer(markdown):
        target = place(token[4], here) if token[3] else None
        if target is None:
            continue
        if (ROOT / target).is_file():
            found.append(target)
        elif not target.startswith("docs/"):  # those are MkDocs' own to tell
            log.warning(f"{here}: links to {token[4]}, which is no file of the repository")
    return found


def place(link: str, here: PurePosixPath) -> str | None:
    """The path from the repository's root that a relative link of `here` leads to; None for other links."""
    path = unquote(link.partition("#")[0])
    if not path or ":" in path or path.startswith(("/", "<")):
        return None
    return os.path.normpath(here.parent / path)


def path_of(uri: str) -> PurePosixPath:
    """Where the source of a page lies in the repository."""
    if uri.startswith(f"{HOME}/"):
        path = uri.removeprefix(f"{HOME}/")
        return PurePosixPath(path if (ROOT / path).is_file() else path.removesuffix(".md"))
    return PurePosixPath("docs") / uri


def address(path: str) -> str:
    """The source of the page of a repository's file, from the site's root."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    shown = path.endswith(".md") or language(path) is None
    return f"{HOME}/{path}" if shown else f"{HOME}/{path}.md"


def language(path: str) -> str | None:
    name = PurePosixPath(path)
    return LANGUAGES.get(name.suffix) or LEXERS.get(name.name)


def file_page(path: str, config) -> File:
    """The file as a page out of the navigation and the search; a picture or a notebook as a copy."""
    kept = {"inclusion": InclusionLevel.NOT_IN_NAV}
    if path.endswith(".md"):
        return File.generated(config, address(path), content=(ROOT / path).read_text(), **kept)
    if language(path) is None:
        return File.generated(config, address(path), abs_src_path=str(ROOT / path), **kept)
    text = (ROOT / path).read_text()
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    head = f"---\ntitle: {path}\nsearch:\n  exclude: true\n---\n\n# {path}\n\n"
    return File.generated(config, address(path), content=f"{head}{fence}{language(path)}\n{text}\n{fence}\n", **kept)
