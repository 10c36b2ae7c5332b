"""A model hub on this machine: answers as the real one does, to huggingface_hub itself.

HEAD and GET of /OWNER/NAME/resolve/main/FILE answer 302 with X-Repo-Commit, X-Linked-Etag (the SHA-256) and X-Linked-Size, and
lead to another host (localhost instead of 127.0.0.1), which serves ranges. Downloads can be cut, bytes can be changed.
"""

import contextlib
import hashlib
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
BLOCK = 1 << 20


class Hub:
    """`put` files, look at `asked` (method, path, first byte asked for); `cut[file]` is after how many bytes of every answer
    the connection drops, `times` how often; `spoil` flips a byte of what is sent."""

    def __init__(self) -> None:
        self.files: dict[str, tuple[Path, str]] = {}
        self.asked: list[tuple[str, str, int]] = []
        self.cut: dict[str, int] = {}
        self.times = 0
        self.spoil: set[str] = set()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.port = self.server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"

    def put(self, repository: str, path: Path, *, dataset: bool = False) -> None:
        with open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.files[f"{'datasets/' if dataset else ''}{repository}/{path.name}"] = path, digest

    def fetched(self, name: str) -> list[int]:
        """The first bytes of every GET of a file's content."""
        return [first for method, path, first in self.asked if method == "GET" and path == f"/cdn/{name}"]

    def environment(self, home: Path) -> dict[str, str]:
        """Settings of another process that uses this hub."""
        return {"HF_ENDPOINT": self.endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None: ...

            def do_HEAD(self) -> None:
                self.answer(body=False)

            def do_GET(self) -> None:
                self.answer(body=True)

            def answer(self, body: bool) -> None:
                span = self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0]
                hub.asked.append((self.command, self.path, int(span)))
                name = self.path.removeprefix("/cdn/")
                if self.path.startswith("/cdn/") and name in hub.files:
                    self.content(name, int(span), body)
                elif (name := self.path[1:].replace("/resolve/main/", "/")) in hub.files and name != self.path[1:]:
                    self.lead(name)
                else:
                    known = any(self.path[1:].startswith(key.rpartition("/")[0] + "/") for key in hub.files)
                    self.send_response(404)
                    self.send_header("X-Error-Code", "EntryNotFound" if known else "RepoNotFound")
                    self.send_header("X-Repo-Commit", COMMIT)
                    self.send_header("Content-Length", "0")
                    self.end_headers()

            def lead(self, name: str) -> None:
                path, digest = hub.files[name]
                self.send_response(302)
                for header, value in {
                    "X-Repo-Commit": COMMIT,
                    "X-Linked-Etag": f'"{digest}"',
                    "X-Linked-Size": str(path.stat().st_size),
                    "ETag": '"of-the-redirect"',
                    "Location": f"http://localhost:{hub.port}/cdn/{name}",
                    "Content-Length": "0",
                }.items():
                    self.send_header(header, value)
                self.end_headers()

            def content(self, name: str, first: int, body: bool) -> None:
                path, digest = hub.files[name]
                size = path.stat().st_size
                self.send_response(206 if first else 200)
                self.send_header("Content-Length", str(size - first))
                self.send_header("ETag", f'"{digest}"')
                if first:
                    self.send_header("Content-Range", f"bytes {first}-{size - 1}/{size}")
                self.end_headers()
                if not body:
                    return
                left = size - first
                if name in hub.cut and hub.times > 0:
                    hub.times -= 1
                    left, self.close_connection = min(left, hub.cut[name]), True
                with open(path, "rb") as file:
                    file.seek(first)
                    while left and (data := file.read(min(BLOCK, left))):
                        left -= len(data)
                        if name in hub.spoil:
                            data = bytes([data[0] ^ 1]) + data[1:]
                        with contextlib.suppress(OSError):
                            self.wfile.write(data)

        return Handler


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    thread = threading.Thread(target=hub.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.server.shutdown()
        hub.server.server_close()
        thread.join()


def use(hub: Hub, home: Path, patch) -> Path:
    """Let huggingface_hub in this process use the hub and an empty cache under `home`; returns the cache."""
    from huggingface_hub import constants

    patch.setattr(constants, "ENDPOINT", hub.endpoint)
    patch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}")
    patch.setattr(constants, "HF_HUB_CACHE", str(home))
    patch.setattr(constants, "HF_HUB_OFFLINE", False)
    return home
