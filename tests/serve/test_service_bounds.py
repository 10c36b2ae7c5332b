"""Hostile requests: each is refused in one sentence, within bounds, and the service goes on answering."""

import base64
import contextlib
import io
import json
import socket
import threading
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from PIL import Image
from tests_support import drawing

from reactvl.serve.app import build
from reactvl.serve.service import Limits


@pytest.fixture(scope="module")
def bounded(explorer, running):
    """A service with narrow limits: 100 hits, 200 kB, 1 MP, a third of a second for a body."""
    app, served = build(explorer, limits=Limits(k=100, upload=200_000, pixels=1_000_000, seconds=0.3))
    with running(app) as address, httpx.Client(base_url=address, timeout=20) as api:
        yield api
    served.close()


@pytest.fixture(autouse=True)
def still_answers(bounded):
    yield
    assert bounded.get("/api/search", params={"text": "red", "k": 1}).status_code == 200


def query(**term) -> bytes:
    return json.dumps({"query": [term]}).encode()


BODIES = {
    "not JSON": b"red panda",
    "nothing": b"",
    "cut JSON": b'{"query": [{"text": "re',
    "bad UTF-8": b'{"query": [{"text": "\xff\xfe"}]}',
    "a lone surrogate": rb'{"query": [{"text": "\ud800"}]}',
    "NaN": b'{"query": [{"vector": [NaN, 1.0]}]}',
    "Infinity": b'{"query": [{"vector": [1e999, 1.0]}]}',
    "above float32": query(vector=[1e39] * 32),
    "all zeros": query(vector=[0.0] * 32),
    "a short vector": query(vector=[0.5] * 31),
    "a long vector": query(vector=[0.5] * 20_000),
    "deep nesting": b'{"query": ' + b"[" * 60_000 + b"]" * 60_000 + b"}",
    "deep objects": b'{"query": [' + b'{"pair": ' * 10_000 + b"1" + b"}" * 10_000 + b"]}",
    "a list at the top": b"[]",
    "no terms": b'{"query": []}',
    "an empty term": b'{"query": [{}]}',
    "two things in a term": query(text="red", pair=[0, 1]),
    "too many terms": json.dumps({"query": [{"text": "a"}] * 17}).encode(),
    "an empty text": query(text=""),
    "a text of a book": query(text="a" * 100_000),
    "a weight without bound": query(text="a", weight=1e300),
    "weights that cancel": json.dumps({"query": [{"text": "a"}, {"text": "a", "weight": -1}]}).encode(),
    "an unknown field": json.dumps({"query": [{"text": "a"}], "min_similarty": 0.3}).encode(),
    "an unknown side": json.dumps({"query": [{"text": "a"}], "keys": "audio"}).encode(),
    "an unknown model": json.dumps({"query": [{"text": "a"}], "model": "../../etc/passwd"}).encode(),
    "an unknown class": json.dumps({"query": [{"text": "a"}], "class_id": 99}).encode(),
    "k of 0": json.dumps({"query": [{"text": "a"}], "k": 0}).encode(),
    "k above the limit": json.dumps({"query": [{"text": "a"}], "k": 101}).encode(),
    "k of a googol": b'{"query": [{"text": "a"}], "k": 1' + b"0" * 100 + b"}",
    "k of many digits": b'{"query": [{"text": "a"}], "k": 1' + b"0" * 50_000 + b"}",
    "an offset without end": json.dumps({"query": [{"text": "a"}], "offset": 10_001}).encode(),
    "a similarity above 1": json.dumps({"query": [{"text": "a"}], "min_similarity": 2}).encode(),
    "a pair that is not there": query(pair=[0, 90]),
    "a pair of a part that is not there": query(pair=[2**40, 0]),
    "a pair before the first": query(pair=[0, -1]),
    "a pair of three": query(pair=[0, 1, 2]),
    "no base64": query(image="!!!!"),
    "a picture's name": query(image="/etc/passwd"),
    "a link": query(image="http://127.0.0.1/x.jpg"),
    "text for a picture": query(image=base64.b64encode(b"hello").decode()),
    "a cut picture": query(image=base64.b64encode(drawing(1)[:200]).decode()),
    "an SVG": query(image=base64.b64encode(b"<svg xmlns='http://www.w3.org/2000/svg'/>").decode()),
    "PostScript": query(image=base64.b64encode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n").decode()),
    "a data URL without base64": query(image="data:image/png,abc"),
}


@pytest.mark.parametrize("name", BODIES)
def test_a_bad_search_is_refused_in_one_sentence(bounded, name):
    answer = bounded.post("/api/search", content=BODIES[name])
    assert answer.status_code == 422
    detail = answer.json()["detail"]
    assert isinstance(detail, str)
    assert 5 < len(detail) < 1000
    assert "Traceback" not in detail


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/count", {"query": [{"text": "a"}], "thresholds": [0.1] * 65}),
        ("/api/count", {"query": [{"text": "a"}], "thresholds": ["x"]}),
        ("/api/search/batch", {"searches": []}),
        ("/api/search/batch", {"searches": [{"query": [{"text": "a"}], "k": 1}] * 257}),
        ("/api/search/batch", {"searches": [{"query": [{"text": "a"}], "k": 100}] * 101}),
        ("/api/search/batch", {"searches": [{"query": [{"image": "AAAA"}], "k": 1}] * 33}),
        ("/knn-service", {"text": "a", "num_images": 101}),
        ("/knn-service", {"text": "a" * 3000}),
        ("/knn-service", {}),
        ("/metadata", {"ids": [0] * 10_001}),
    ],
)
def test_other_requests_have_their_bounds(bounded, path, body):
    answer = bounded.post(path, json=body)
    assert answer.status_code == 422
    assert isinstance(answer.json()["detail"], str)


def png(width: int, height: int) -> bytes:
    """A PNG of one colour, far smaller than its pixels."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG", optimize=True)
    return file.getvalue()


def test_a_picture_of_too_many_pixels_is_refused_before_it_is_decoded(bounded):
    fits, bomb = png(1000, 1000), png(8000, 8000)
    assert len(bomb) < 100_000
    assert bounded.post("/api/search/image", content=fits).status_code == 200
    began = time.process_time()
    answers = [bounded.post("/api/search/image", content=bomb) for _ in range(5)]
    assert time.process_time() - began < 2
    for answer in answers:
        assert answer.status_code == 422
        assert "1,000,000" in answer.json()["detail"]


def test_a_picture_that_lies_about_its_size_is_refused(bounded):
    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    header = (10).to_bytes(4, "big") * 2 + bytes([8, 2, 0, 0, 0])
    inflating = zlib.compress(bytes(30_000_000), 9)
    lie = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", inflating[:150_000]) + chunk(b"IEND", b"")
    assert bounded.post("/api/search/image", content=lie).status_code in (200, 422)  # 10 x 10 pixels are read, no more
    text = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"zTXt", b"a\0\0" + inflating) + chunk(b"IEND", b"")
    assert bounded.post("/api/search/image", content=text).status_code == 422


def test_a_form_is_told_how_to_send_a_picture(bounded):
    answer = bounded.post("/api/search/image", files={"image": drawing(1)})
    assert answer.status_code == 415
    assert "--data-binary" in answer.json()["detail"]


@pytest.mark.parametrize("path", ["/api/search", "/api/search/image", "/api/count", "/knn-service", "/api/review"])
def test_a_body_above_the_limit_is_refused_and_its_sender_reads_why(bounded, path):
    method = "PUT" if path == "/api/review" else "POST"
    answer = bounded.request(method, path, content=b" " * 200_001)
    assert answer.status_code == 413
    assert "200,000 bytes" in answer.json()["detail"]

    exactly = bounded.request(method, path, content=b" " * 200_000)
    assert exactly.status_code == 422

    def pieces():
        for _ in range(40):
            yield b" " * 10_000

    assert bounded.request(method, path, content=pieces()).status_code == 413  # chunked: no length is said


@contextlib.contextmanager
def connected(api):
    with socket.create_connection((api.base_url.host, api.base_url.port), timeout=10) as wire:
        yield wire


def answered(wire: socket.socket) -> bytes:
    """All that comes until the other side closes."""
    data = b""
    with contextlib.suppress(ConnectionResetError):
        while piece := wire.recv(65536):
            data += piece
    return data


POST = b"POST /api/search HTTP/1.1\r\nHost: 127.0.0.1\r\n"


def test_a_length_of_a_terabyte_is_refused_before_any_body(bounded):
    with connected(bounded) as wire:
        wire.sendall(POST + b"Content-Length: 1000000000000\r\n\r\n")
        assert b" 413 " in answered(wire).splitlines()[0]


def test_a_body_that_does_not_come_is_given_up(bounded):
    with connected(bounded) as wire:
        wire.sendall(POST + b"Content-Length: 100\r\n\r\n" + b"{")
        assert b" 408 " in answered(wire).splitlines()[0]


def test_a_body_that_drips_is_given_up(bounded):
    with connected(bounded) as wire:
        wire.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(20):
            with contextlib.suppress(OSError):
                wire.sendall(b"1\r\n \r\n")
            time.sleep(0.03)
        assert b" 408 " in answered(wire).splitlines()[0]


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        POST + b"Content-Length: -1\r\n\r\n",
        POST + b"Content-Length: 1e3\r\n\r\n",
        POST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: gzip\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
        b"GET / HTTP/9.9\r\n\r\n",
        b"\r\n\r\n\r\n\0\0\0\r\n\r\n",
    ],
)
def test_what_is_no_request_ends_its_own_connection(bounded, request_bytes):
    with connected(bounded) as wire:
        with contextlib.suppress(OSError):
            wire.sendall(request_bytes)
            wire.shutdown(socket.SHUT_WR)
        data = answered(wire)
    assert not data or data.split()[1][:1] in (b"4", b"5")


def test_a_sender_that_leaves_harms_nobody(bounded):
    for _ in range(5):
        with connected(bounded) as wire:
            wire.sendall(POST + b"Content-Length: 100\r\n\r\n{")
    for _ in range(5):
        body = query(text="a")
        with connected(bounded) as wire:
            wire.sendall(POST + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)


class Hindered:
    """An explorer that calls `before_answer` first, and keeps the texts that were counted in `made`."""

    def __init__(self, explorer, before_answer):
        self.explorer, self.before_answer, self.made = explorer, before_answer, []

    def __getattr__(self, name):
        return getattr(self.explorer, name)

    def answer(self, asks):
        self.before_answer()
        return self.explorer.answer(asks)

    def count(self, ask, thresholds):
        self.made.append(ask.terms[0].text)
        return self.explorer.count(ask, thresholds)


def test_connections_that_only_wait_are_closed_and_a_slow_answer_is_not(explorer, running, monkeypatch):
    from reactvl.serve.connections import Connection

    monkeypatch.setattr(Connection, "seconds", 0.2)
    app, served = build(Hindered(explorer, lambda: time.sleep(0.7)))
    with running(app) as address, httpx.Client(base_url=address, timeout=20) as api:
        with connected(api) as silent, connected(api) as dripping, connected(api) as kept:
            kept.sendall(b"GET /api/health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            with contextlib.suppress(OSError):
                for byte in (b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX: " + b"a" * 300)[:60]:
                    dripping.sendall(bytes([byte]))
                    time.sleep(0.02)
            assert answered(silent) == answered(dripping) == b""
            assert answered(kept).endswith(b'{"status":"ok"}')
        assert api.get("/api/search?text=red").status_code == 200
    served.close()


def test_a_count_that_nobody_waits_for_any_more_is_not_made(explorer, running):
    begun, go_on = threading.Event(), threading.Event()

    hindered = Hindered(explorer, lambda: (begun.set(), go_on.wait(20)))
    app, served = build(hindered)
    with running(app) as address, httpx.Client(base_url=address, timeout=20) as api:
        searching = threading.Thread(target=api.get, args=("/api/search?text=red",))
        searching.start()
        assert begun.wait(20)
        body = json.dumps({"query": [{"text": "left"}]}).encode()
        for _ in range(3):
            with connected(api) as wire:
                wire.sendall(POST.replace(b"search", b"count") + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
                while len(served.batcher) == 0:
                    time.sleep(0.01)
        time.sleep(0.1)
        go_on.set()
        searching.join()
        assert api.post("/api/count", json={"query": [{"text": "stayed"}]}).status_code == 200
    served.close()
    assert hindered.made == ["stayed"]


def test_too_many_that_wait_are_turned_away_with_the_time_to_come_back(explorer, running):
    begun, go_on = threading.Event(), threading.Event()

    app, served = build(Hindered(explorer, lambda: (begun.set(), go_on.wait(20))))
    served.batcher.waiting = 4
    with running(app) as address:

        def ask(text: str) -> httpx.Response:
            return httpx.get(f"{address}/api/search", params={"text": text, "k": 1}, timeout=20)

        with ThreadPoolExecutor(5) as pool:
            first = pool.submit(ask, "first")
            assert begun.wait(20)
            rest = [pool.submit(ask, str(number)) for number in range(4)]
            while len(served.batcher) < 4:
                time.sleep(0.01)
            refused = ask("one too many")
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "1")
            assert httpx.get(f"{address}/api/health").status_code == 200
            go_on.set()
            assert [work.result().status_code for work in (first, *rest)] == [200] * 5
        assert b"reactvl_busy_total 1.0" in httpx.get(f"{address}/metrics").content
    served.close()


def test_a_request_under_way_is_answered_when_the_service_is_stopped(explorer, running):
    begun = threading.Event()

    app, served = build(Hindered(explorer, lambda: (begun.set(), time.sleep(0.5))))
    with ThreadPoolExecutor(1) as pool:
        with running(app) as address:
            work = pool.submit(httpx.get, f"{address}/api/search?text=red", timeout=20)
            assert begun.wait(20)
        assert work.result().status_code == 200
    assert served.close()
