"""The command behind `reactvl serve`: options are checked and the port taken first, then the pool is opened, then it answers."""

import atexit
import contextlib
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reactvl.manifest import ReactvlError
from reactvl.progress import say
from reactvl.search.kinds import bytes_of
from reactvl.serve.access import chosen_token

if TYPE_CHECKING:
    import uvicorn

CONNECTIONS = 1024  # open at once; more are answered 503
KEEP_ALIVE = 60  # seconds that an idle connection is kept for its next request
GRACE = 3  # seconds that requests under way have to end after a signal


def run(
    folder: Path,
    *,
    index: Sequence[Path],
    model: str | None,
    host: str,
    port: int,
    token: str | None,
    max_k: int,
    max_upload: str,
    max_pixels: int,
    device: str,
    precision: str,
) -> None:
    """Serve until a signal ends it; see `reactvl.serve.serve`."""
    try:
        import fastapi  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as lack:
        raise ReactvlError(f"serve: needs {lack.name}; pip install 'reactvl[serve]'") from None
    from reactvl.serve.service import Limits

    for name, value in (("max_k", max_k), ("max_pixels", max_pixels)):
        if value < 1:
            raise ReactvlError(f"{name} {value}: must be above 0")
    limits = Limits(k=max_k, upload=upload_of(max_upload), pixels=max_pixels)
    secret, made = chosen_token(host, token)
    with bound(host, port) as listening:
        from reactvl.serve.app import build
        from reactvl.serve.explorer import Explorer

        explorer = Explorer(folder, index=index, model=model, device=device, precision=precision)
        app, service = build(explorer, token=secret, limits=limits)
        address = shown(host, listening.getsockname()[1])
        words = f"serving {service.info['name']} ({service.info['pairs']:,} pairs) at {address}"
        if secret is not None:
            words = f"{words}?token={secret}" if made else f"{words}?token=... (the token that was given)"
        try:
            with signals_kept():
                server_of(app, words).run(sockets=[listening])
        finally:
            if not service.close():
                # The search under way runs in native code, which must not wake in an interpreter that has been torn down.
                atexit.register(_leave)


def upload_of(text: str) -> int:
    try:
        return bytes_of(text)
    except ReactvlError:
        raise ReactvlError(f"max_upload {text}: is no size; write it as 20MB or 512kB") from None


def server_of(app: Any, words: str | None = None) -> "uvicorn.Server":
    """A server of an application, not started; `words` are printed once it answers. Its `run` takes the sockets."""
    import uvicorn

    from reactvl.serve.connections import Connection

    class Server(uvicorn.Server):
        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            if words is not None and not self.should_exit:
                say(words)

    return Server(
        uvicorn.Config(
            app,
            http=Connection,
            lifespan="off",
            ws="none",
            access_log=False,  # an address opened with its token must not end in a log
            log_level="warning",
            server_header=False,
            date_header=False,
            proxy_headers=False,
            limit_concurrency=CONNECTIONS,
            timeout_keep_alive=KEEP_ALIVE,
            timeout_graceful_shutdown=GRACE,
        )
    )


@contextlib.contextmanager
def bound(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that has its port; ReactvlError when there is no such address or the port is taken."""
    if not 0 <= port <= 65535:
        raise ReactvlError(f"port {port}: is 0 (any free one) to 65535")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as fault:
        raise ReactvlError(f"host {host}: is no address ({fault})") from None
    # With its protocol named, or asyncio leaves Nagle's algorithm on and every answer comes 40 ms late.
    with socket.socket(family, kind, protocol) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
        except OSError as fault:
            raise ReactvlError(
                f"{host}:{port}: cannot be listened on ({os.strerror(fault.errno or 0)}); give another --port, or 0 for any"
            ) from None
        yield listening


def shown(host: str, port: int) -> str:
    """The address to open; for a host that is every address of this machine, its name."""
    if host in ("0.0.0.0", "::"):
        host = socket.gethostname()
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


@contextlib.contextmanager
def signals_kept() -> Iterator[None]:
    """uvicorn ends at SIGINT and SIGTERM, then raises them again for whoever was there before: here nobody, as the end was
    asked for and came."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
