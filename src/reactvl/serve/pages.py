"""The page's own files: a fixed list, read once from the package, so that no path is ever taken from a request."""

import hashlib
from importlib import resources
from typing import NamedTuple

from reactvl.manifest import ReactvlError

MIMES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".woff2": "font/woff2",
}
INDEX = "index.html"
CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class File(NamedTuple):
    body: bytes
    mime: str
    etag: str


def page_files() -> dict[str, File]:
    """The files of `reactvl/serve/page` by name; ReactvlError where the installation lacks them."""
    files = {}
    folder = resources.files("reactvl.serve") / "page"
    for entry in sorted(folder.iterdir(), key=lambda entry: entry.name) if folder.is_dir() else ():
        mime = next((mime for end, mime in MIMES.items() if entry.name.endswith(end)), None)
        if mime is not None:
            body = entry.read_bytes()
            files[entry.name] = File(body, mime, f'"{hashlib.sha256(body).hexdigest()[:16]}"')
    if INDEX not in files:
        raise ReactvlError(f"{folder}: lacks {INDEX}; install reactvl again")
    return files
