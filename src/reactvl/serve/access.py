"""Who may ask: on this machine everybody but the pages of others in one's browser, elsewhere those who have the token.

Without a token the service listens on loopback alone. Any page in a browser can send requests there, so the Host header must
name this machine (a rebound DNS name does not), and what a browser says comes from another origin is refused. A token is
shown as `Authorization: Bearer TOKEN`, or by opening `/?token=TOKEN` once, which leaves a cookie that scripts cannot read
and other sites cannot send. It is compared in constant time; the cookie holds a sum that does not tell it.
"""

import hashlib
import hmac
import ipaddress
import os
import re
import secrets
from dataclasses import dataclass
from urllib.parse import parse_qs

import msgspec

from reactvl.manifest import ReactvlError

OPEN_PATHS = ("/", "/favicon.ico", "/api/health")  # the page itself is no secret: what it shows is
LEAST = 16  # characters of a token
VARIABLE = "REACTVL_TOKEN"
HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^:\[\]]+)(:\d{1,5})?")
HEADERS = [  # of every answer
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-frame-options", b"DENY"),
]
CSP, CSP_CLOSED = b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'; sandbox"


def is_loopback(host: str) -> bool:
    """Whether an address to listen on, or a name in a Host header, is this machine's own."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def chosen_token(host: str, given: str | None) -> tuple[str | None, bool]:
    """(token, whether it was made here): the given one, REACTVL_TOKEN's, or one made for a host that wants one.

    Raises ReactvlError for a token that is too short or that no header can hold.
    """
    token = given if given is not None else os.environ.get(VARIABLE) or None
    if token is None:
        return (None, False) if is_loopback(host) else (secrets.token_urlsafe(32), True)
    if len(token) < LEAST or not token.isascii() or not token.isprintable() or " " in token:
        raise ReactvlError(
            f"the token must have at least {LEAST} ASCII characters and no space; leave it out to have one made "
            f"({'--token' if given is not None else VARIABLE})"
        )
    return token, False


@dataclass(frozen=True)
class Refusal:
    """An answer given in place of the app's."""

    status: int
    detail: str
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Access:
    """ASGI: lets those requests through to `app` that may ask, and gives every answer its security headers."""

    def __init__(self, app, token: str | None):
        self.app, self.token = app, token
        if token is not None:
            self._sum = _sum(token)
            session = hmac.new(token.encode(), b"reactvl session", hashlib.sha256).hexdigest()
            self._session = session.encode()
            self._cookie = f"reactvl-{hashlib.sha256(session.encode()).hexdigest()[:8]}".encode()

    async def __call__(self, scope, receive, send) -> None:
        if scope["type"] != "http":
            return
        refusal = self.refusal(scope)

        async def closed(message) -> None:
            if message["type"] == "http.response.start":
                headers = message["headers"] = [*message.get("headers", ()), *HEADERS]
                if not any(name == CSP for name, _ in headers):
                    headers.append((CSP, CSP_CLOSED))
            await send(message)

        if refusal is None:
            await self.app(scope, receive, closed)
            return
        body = b"" if refusal.status == 303 else msgspec.json.encode({"detail": refusal.detail})
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        if scope["method"] not in ("GET", "HEAD"):  # its body is not read
            headers.append((b"connection", b"close"))
        headers.extend(refusal.headers)
        await closed({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    def refusal(self, scope) -> Refusal | None:
        """Why a request is not let through; None where it is."""
        found: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            if name == b"host" and name in found:
                return Refusal(400, "more than one Host header")
            found[name] = value
        if self.token is None:
            return _foreign_host(found) or _foreign_origin(scope, found)
        bearer = found.get(b"authorization", b"")
        if bearer[:7].lower() == b"bearer ":  # no page of another origin can send it unasked
            return None if hmac.compare_digest(_sum(bearer[7:].strip()), self._sum) else WRONG
        if scope["method"] == "GET" and scope["path"] == "/" and b"token=" in scope["query_string"]:
            return self._signed_in(scope)
        path = scope["path"]
        if scope["method"] in ("GET", "HEAD") and (path in OPEN_PATHS or path.startswith("/page/")):
            return None
        if not hmac.compare_digest(_sum(self._of_cookies(scope["headers"])), _sum(self._session)):
            return MISSING
        return _foreign_origin(scope, found)

    def _signed_in(self, scope) -> Refusal:
        given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [""])[-1]
        if not hmac.compare_digest(_sum(given), self._sum):
            return WRONG
        secure = b"; Secure" if scope.get("scheme") == "https" else b""
        cookie = self._cookie + b"=" + self._session + b"; Path=/; HttpOnly; SameSite=Strict" + secure
        return Refusal(303, "", ((b"location", b"./"), (b"set-cookie", cookie), (b"cache-control", b"no-store")))

    def _of_cookies(self, headers) -> bytes:
        for name, value in headers:
            if name == b"cookie":
                for part in value.split(b";"):
                    key, _, held = part.strip().partition(b"=")
                    if key == self._cookie:
                        return held
        return b""


CHALLENGE = ((b"www-authenticate", b'Bearer realm="reactvl"'),)
MISSING = Refusal(
    401,
    "this service wants its token: send the header 'Authorization: Bearer TOKEN', or open /?token=TOKEN in the browser",
    CHALLENGE,
)
WRONG = Refusal(401, "the token is wrong: use the one that `reactvl serve` was given or printed", CHALLENGE)


def _sum(text: str | bytes) -> bytes:
    """Of one length whatever the text's, so that a comparison tells nothing of it."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text).digest()


def _foreign_host(found: dict[bytes, bytes]) -> Refusal | None:
    """On loopback a Host header must name this machine: another name was made to lead here by its owner's DNS."""
    host = HOST.fullmatch(found.get(b"host", b"").decode("latin-1").lower())
    if host is not None and is_loopback(host[1]):
        return None
    return Refusal(
        403,
        "the Host header names another machine: open http://127.0.0.1 or http://localhost, or start the service with a token",
    )


def _foreign_origin(scope, found: dict[bytes, bytes]) -> Refusal | None:
    """A browser says which page a request comes from; those of other origins may not ask, but may be left for this one."""
    origin = found.get(b"origin")
    if origin is not None and origin.lower().partition(b"://")[2] != found.get(b"host", b"").lower():
        return FOREIGN
    site = found.get(b"sec-fetch-site", b"none")
    if site in (b"none", b"same-origin"):
        return None
    opened = found.get(b"sec-fetch-mode") == b"navigate" and found.get(b"sec-fetch-dest") == b"document"
    return None if opened and scope["method"] == "GET" else FOREIGN


FOREIGN = Refusal(403, "requests from another origin are refused: open the service's own page, or use `reactvl.Client`")
