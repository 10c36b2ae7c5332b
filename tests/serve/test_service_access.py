"""Who is let in: this machine without a token, those who have it elsewhere, and never a page of another origin."""

import asyncio
import re

import pytest

from reactvl.manifest import ReactvlError
from reactvl.serve.access import Access, chosen_token, is_loopback

TOKEN = "a-token-of-enough-letters"
HOME = {"host": "127.0.0.1:8080"}


async def _app(scope, receive, send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})


def asked(token: str | None, method: str, path: str, headers: dict | list, scheme: str = "http") -> tuple[int, dict]:
    """(status, headers) of one request to an application that lets everything in."""
    sent: list[dict] = []

    async def send(message) -> None:
        sent.append(message)

    path, _, query = path.partition("?")
    pairs = list(headers.items()) if isinstance(headers, dict) else headers
    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "scheme": scheme,
        "headers": [(name.encode(), value.encode("latin-1")) for name, value in pairs],
    }
    asyncio.run(Access(_app, token)(scope, None, send))
    return sent[0]["status"], {name.decode(): value.decode() for name, value in sent[0]["headers"]}


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:8080", 200),
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("localhost.:80", 200),
        ("[::1]:8080", 200),
        ("127.8.8.8:1", 200),
        ("evil.example", 403),
        ("evil.example:8080", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:8080", 403),
        ("127.0.0.1@evil.example", 403),
        ("127.0.0.1:80:80", 403),
        ("192.168.1.9:8080", 403),
        ("0.0.0.0:8080", 403),
        ("[::ffff:8.8.8.8]:1", 403),
        ("2130706433", 403),
        ("", 403),
    ],
)
def test_without_a_token_the_host_header_must_name_this_machine(host, status):
    """Else a page whose name was rebound to 127.0.0.1 reads the pool."""
    assert asked(None, "GET", "/api/info", {"host": host})[0] == status


def test_two_host_headers_are_refused():
    assert asked(None, "GET", "/", [("host", "localhost"), ("host", "evil.example")])[0] == 400
    assert asked(None, "GET", "/", {})[0] == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),  # curl, ClipClient
        ({"origin": "http://127.0.0.1:8080"}, 200),
        ({"origin": "http://127.0.0.1:8080", "sec-fetch-site": "same-origin"}, 200),
        ({"origin": "http://127.0.0.1:3000"}, 403),
        ({"origin": "http://localhost:8080"}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "http://127.0.0.1:8080.evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": ""}, 403),
        ({"sec-fetch-site": "cross-site"}, 403),
        ({"sec-fetch-site": "same-site"}, 403),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"), [("POST", "/api/search"), ("PUT", "/api/review"), ("GET", "/api/search?text=x")]
)
def test_a_browsers_requests_from_other_origins_are_refused(headers, status, method, path):
    assert asked(None, method, path, HOME | headers)[0] == status


def test_a_picture_on_anothers_page_is_refused_and_a_link_is_not():
    foreign = HOME | {"sec-fetch-site": "cross-site"}
    image = foreign | {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    link = foreign | {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    frame = foreign | {"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
    assert asked(None, "GET", "/api/pairs/0/0/image", image)[0] == 403
    assert asked(None, "GET", "/", frame)[0] == 403
    assert asked(None, "GET", "/", link)[0] == 200
    assert asked(None, "POST", "/", link)[0] == 403


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": f"Bearer {TOKEN}"}, 200),
        ({"authorization": f"bearer  {TOKEN} "}, 200),
        ({"authorization": f"Bearer {TOKEN}x"}, 401),
        ({"authorization": f"Bearer {TOKEN[:-1]}"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"authorization": "Bearer \xff\xfe"}, 401),
        ({"authorization": f"Basic {TOKEN}"}, 401),
        ({"authorization": TOKEN}, 401),
        ({"cookie": f"reactvl={TOKEN}"}, 401),
        ({"cookie": f"token={TOKEN}; ; =; a"}, 401),
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/info"),
        ("POST", "/api/search"),
        ("POST", "/"),
        ("GET", "/metrics"),
        ("GET", "/docs"),
        ("GET", "/page"),
    ],
)
def test_with_a_token_every_request_shows_it(headers, status, method, path):
    found, answer = asked(TOKEN, method, path, {"host": "pool.example"} | headers)
    assert found == status
    assert ("www-authenticate" in answer) == (status == 401)


def test_what_is_no_secret_is_open():
    for path in ("/", "/page/app.js", "/api/health"):
        assert asked(TOKEN, "GET", path, {"host": "pool.example"})[0] == 200
        assert asked(TOKEN, "POST", path, {"host": "pool.example"})[0] == 401


def test_opening_the_address_with_its_token_leaves_a_cookie_that_lets_one_in():
    status, headers = asked(TOKEN, "GET", f"/?token={TOKEN}", {"host": "pool.example"})
    assert (status, headers["location"]) == (303, "./")
    cookie = headers["set-cookie"]
    name, value = re.match(r"([^=;]+)=([^;]+);", cookie).groups()
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert TOKEN not in cookie
    assert "Secure" in asked(TOKEN, "GET", f"/?token={TOKEN}", {"host": "pool.example"}, "https")[1]["set-cookie"]

    mine = {"host": "pool.example", "cookie": f"other=1; {name}={value}"}
    assert asked(TOKEN, "GET", "/api/info", mine)[0] == 200
    assert asked(TOKEN, "POST", "/api/search", mine | {"origin": "http://pool.example"})[0] == 200
    assert asked(TOKEN, "POST", "/api/search", mine | {"origin": "http://pool.example:81"})[0] == 403
    assert asked(TOKEN, "POST", "/api/search", mine | {"origin": "https://evil.example"})[0] == 403
    assert asked(TOKEN, "GET", "/api/info", {"host": "pool.example", "cookie": f"{name}={value}0"})[0] == 401
    assert asked(TOKEN + "2", "GET", "/api/info", mine)[0] == 401


@pytest.mark.parametrize("query", ["token=", "token=wrong", f"token={TOKEN}&token=wrong", "token=%ff", "xtoken=1"])
def test_a_wrong_token_in_the_address_leaves_no_cookie(query):
    status, headers = asked(TOKEN, "GET", f"/?{query}", {"host": "pool.example"})
    assert status == 401
    assert "set-cookie" not in headers


def test_every_answer_and_every_refusal_has_the_security_headers():
    for token, host in ((None, "127.0.0.1"), (None, "evil.example"), (TOKEN, "x")):
        headers = asked(token, "GET", "/api/info", {"host": host})[1]
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert headers["x-frame-options"] == "DENY"
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "access-control-allow-origin" not in headers


def test_a_host_elsewhere_gets_a_token(monkeypatch):
    monkeypatch.delenv("REACTVL_TOKEN", raising=False)
    for host in ("127.0.0.1", "localhost", "::1"):
        assert chosen_token(host, None) == (None, False)
    for host in ("0.0.0.0", "::", "192.168.1.9", "pool.example", "", "127.0.0.1.evil.example"):
        first, made = chosen_token(host, None)
        assert made
        assert len(first) >= 40
        assert first != chosen_token(host, None)[0]
    monkeypatch.setenv("REACTVL_TOKEN", TOKEN)
    assert chosen_token("0.0.0.0", None) == (TOKEN, False)
    assert chosen_token("127.0.0.1", None) == (TOKEN, False)
    assert chosen_token("0.0.0.0", TOKEN + "2") == (TOKEN + "2", False)
    for bad in ("", "short", "with a space in it here", "línea-de-más-de-dieciséis", "tab\tin the token here"):
        with pytest.raises(ReactvlError, match="at least 16"):
            chosen_token("127.0.0.1", bad)


def test_loopback_names():
    assert not is_loopback("::ffff:8.8.8.8")
    assert is_loopback("[::1]")
