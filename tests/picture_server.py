"""A web of pictures on this machine, as rotten as the real one: what a fetching tool meets, without the internet.

Every picture has a fate (`FATES`): it is served, led to, late, refused, cut short, or something else comes in its place.
Fates are dealt by `dealt`, so many of each; the URL of a name never says its fate but where the host itself is dead.
"""

import contextlib
import http.server
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence

FATES = {
    "served": "200 and the picture",
    "redirected": "302 to a place where it is served",
    "missing": "404",
    "removed": "410",
    "forbidden": "403",
    "busy": "503 at the first time of asking, then the picture",
    "refused": "nobody listens at that port",
    "unresolvable": "a host name that no resolver can be asked for",
    "trickling": "200 and the picture, in PIECES with a PAUSE before each",
    "slow": "nothing is said until the server is closed or PATIENCE is over",
    "dropped": "200, and the connection ends in the middle of the picture",
    "truncated": "200, whole by its Content-Length, but half of the file",
    "page": "200 and an HTML page that says that the picture is gone",
    "text": "200 as image/jpeg, and a line of text",
    "empty": "200 and no byte",
    "opted out": "200 and the picture, with X-Robots-Tag: noai",
    "endless": "302 to itself",
}
PATIENCE = 60  # seconds; longer than img2dataset's ten
PIECES, PAUSE = 5, 0.7  # together longer than a timeout of 2 seconds, each shorter
PAGE = b"<!DOCTYPE html><title>gone</title><p>This picture is no longer here."
TYPES = {b"\xff\xd8": "image/jpeg", b"\x89P": "image/png", b"RI": "image/webp"}
# every label is short enough for a URL, and the whole too long for the DNS: the resolver says no by itself
NO_HOST = ".".join(["a" * 60] * 5) + ".invalid"


class PictureServer:
    """`pictures` by name, and the fates of those that are not simply served; `asked` counts requests by name; `pause`:
    seconds between the pieces of a picture that trickles."""

    def __init__(self, pictures: Mapping[str, bytes], fates: Mapping[str, str]):
        self.pictures, self.fates = dict(pictures), dict(fates)
        unknown = set(self.fates.values()) - FATES.keys()
        assert not unknown, f"no such fate: {', '.join(sorted(unknown))}"
        self.asked: Counter[str] = Counter()
        self.pause = PAUSE
        self.closed = threading.Event()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.daemon_threads = True
        self.silent = socket.socket()  # bound, so that nobody else is, and not listening
        self.silent.bind(("127.0.0.1", 0))

    def url(self, name: str) -> str:
        """Where the picture of a name is said to lie."""
        fate = self.fates.get(name)
        if fate == "unresolvable":
            return f"http://{NO_HOST}/{name}"
        port = (self.silent if fate == "refused" else self.server.socket).getsockname()[1]
        return f"http://127.0.0.1:{port}/{name}"

    def handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None: ...

            def do_GET(self) -> None:
                name = self.path.removeprefix("/moved").removeprefix("/")
                web.asked[name] += 1
                if name not in web.pictures:
                    self.send_error(404)
                elif self.path.startswith("/moved/"):
                    self.body(web.pictures[name])
                else:
                    self.meet(web.fates.get(name, "served"), name, web.pictures[name])

            def meet(self, fate: str, name: str, picture: bytes) -> None:
                if fate == "slow":
                    web.closed.wait(PATIENCE)
                    self.close_connection = True
                elif fate in ("missing", "removed", "forbidden"):
                    self.send_error({"missing": 404, "removed": 410, "forbidden": 403}[fate])
                elif fate == "busy" and web.asked[name] == 1:
                    self.send_error(503)
                elif fate in ("redirected", "endless"):
                    self.body(b"", status=302, Location=f"/moved/{name}" if fate == "redirected" else f"/{name}")
                elif fate == "dropped":
                    self.body(picture[: len(picture) // 2], length=len(picture))
                elif fate == "truncated":
                    self.body(picture[: len(picture) // 2])
                elif fate == "trickling":
                    self.body(b"", kind="image/jpeg", length=len(picture))
                    for piece in range(PIECES):
                        web.closed.wait(web.pause)
                        with contextlib.suppress(OSError):
                            self.wfile.write(
                                picture[piece * len(picture) // PIECES : (piece + 1) * len(picture) // PIECES]
                            )
                elif fate == "page":
                    self.body(PAGE, kind="text/html")
                elif fate == "text":
                    self.body(b"Moved to our new site!\n", kind="image/jpeg")
                elif fate == "empty":
                    self.body(b"", kind="image/jpeg")
                elif fate == "opted out":
                    self.body(picture, **{"X-Robots-Tag": "noai, noindex"})
                else:
                    self.body(picture)

            def body(
                self, data: bytes, status: int = 200, kind: str | None = None, length: int | None = None, **headers: str
            ) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind or TYPES.get(data[:2], "application/octet-stream"))
                self.send_header("Content-Length", str(len(data) if length is None else length))
                for header, value in headers.items():
                    self.send_header(header, value)
                self.end_headers()
                with contextlib.suppress(OSError):
                    self.wfile.write(data)

        return Handler


@contextlib.contextmanager
def serving(pictures: Mapping[str, bytes], fates: Mapping[str, str] | None = None) -> Iterator[PictureServer]:
    """A server of the pictures on a free port of the loopback interface, for as long as the block lasts."""
    web = PictureServer(pictures, fates or {})
    thread = threading.Thread(target=web.server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.closed.set()
        web.server.shutdown()
        web.server.server_close()
        web.silent.close()
        thread.join()


def dealt(names: Sequence[str], counts: Mapping[str, int], seed: int = 0) -> dict[str, str]:
    """A fate for `counts[fate]` of the names each, drawn without returning; the other names have none."""
    import numpy as np

    assert sum(counts.values()) <= len(names), f"{sum(counts.values())} fates for {len(names)} names"
    order = iter(np.random.default_rng(seed).permutation(len(names)).tolist())
    return {names[next(order)]: fate for fate, count in counts.items() for _ in range(count)}
