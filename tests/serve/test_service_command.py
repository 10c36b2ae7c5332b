"""`reactvl serve` as a user types it: one line when it answers, and a quick end that leaves nothing behind."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import httpx
import pytest
from commands import SEARCHED, command, typed

from reactvl.manifest import ReactvlError
from reactvl.serve import serve

START = 120  # seconds, on a busy machine


@contextlib.contextmanager
def started(*args: object, **environment: str):
    """(process, its started line): `reactvl serve ARGS` in a process of its own, killed at the end if it still runs."""
    process = subprocess.Popen(
        command("serve", *args), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=SEARCHED | environment
    )
    timer = threading.Timer(START, process.kill)
    timer.start()
    try:
        line = process.stdout.readline()
        yield process, line
    finally:
        timer.cancel()
        if process.poll() is None:
            process.kill()
        process.communicate()


def address_of(line: str) -> str:
    return re.search(r"http://[\w.:\[\]-]+", line)[0]


def test_it_says_where_it_answers_and_ends_at_once_when_interrupted(small_run):
    with started(small_run, "--port", 0, "--max-k", 50) as (process, line):
        assert re.fullmatch(r"serving run \(90 pairs\) at http://127\.0\.0\.1:\d+/\n", line)
        address = address_of(line)
        with urllib.request.urlopen(f"{address}/api/search?text=a%20red%20thing&k=3", timeout=60) as answer:
            assert len(json.load(answer)["hits"]) == 3
        with pytest.raises(urllib.error.HTTPError, match="422"):
            urllib.request.urlopen(f"{address}/api/search?text=a&k=51", timeout=60)
        idle = socket.create_connection(("127.0.0.1", int(address.rsplit(":", 1)[1])))  # who never says anything
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert time.monotonic() - began < 20
        idle.close()
    assert process.returncode == 0
    assert (out, err) == ("", "")


STUCK = """
import sys, time, types

class Stuck:
    run, folder = None, "."
    embeddings = types.SimpleNamespace(parts=[types.SimpleNamespace(number=0, rows=1)])

    def info(self):
        return {"name": "stuck", "pairs": 1, "classes": []}

    def answer(self, asks):
        print("searching", flush=True)
        time.sleep(600)

sys.modules["reactvl.serve.explorer"] = types.SimpleNamespace(Explorer=lambda *given, **options: Stuck())
from reactvl.cli import main
sys.exit(main(["serve", ".", "--port", "0"]))
"""


def left_alone(address: str) -> None:
    with contextlib.suppress(httpx.HTTPError):
        httpx.get(address, timeout=60)


def test_a_search_that_does_not_end_does_not_keep_the_service():
    process = subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True, env=SEARCHED)
    timer = threading.Timer(START, process.kill)
    timer.start()
    try:
        address = address_of(process.stdout.readline())
        asking = threading.Thread(target=left_alone, args=(f"{address}/api/search?text=red",), daemon=True)
        asking.start()
        assert process.stdout.readline() == "searching\n"
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        assert time.monotonic() - began < 30
    finally:
        timer.cancel()
        process.kill()
        process.communicate()
        asking.join(10)


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    for name in ("fastapi", "uvicorn", "prometheus_client"):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, name, None)
            with pytest.raises(ReactvlError, match=rf"needs {name}; pip install 'reactvl\[serve\]'"):
                serve(tmp_path)


@pytest.mark.slow
def test_elsewhere_it_makes_a_token_and_ends_at_sigterm(small_run):
    with started(small_run, "--port", 0, "--host", "0.0.0.0") as (process, line):
        token = re.search(r"/\?token=([\w-]{40,})\n", line)[1]
        local = "http://127.0.0.1:" + re.search(r":(\d+)/", line)[1]
        assert httpx.get(f"{local}/api/info", timeout=60).status_code == 401
        assert httpx.get(f"{local}/api/health", timeout=60).status_code == 200
        with httpx.Client(base_url=local, timeout=60, follow_redirects=True) as browser:
            assert browser.get(f"/?token={token}").url.path == "/"
            assert browser.get("/api/info").json()["pairs"] == 90
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert token not in out + err


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"serving run \(90 pairs\) at http://127\.0\.0\.1:\d+/"),
        ({"host": "::1"}, r"serving run \(90 pairs\) at http://\[::1\]:\d+/"),
        ({"host": "0.0.0.0"}, r"serving run \(90 pairs\) at http://[^:/]+:\d+/\?token=[\w-]{43}"),
        (
            {"token": "a-token-of-ones-own"},
            r"serving .* at http://127\.0\.0\.1:\d+/\?token=\.\.\. \(the token that was given\)",
        ),
    ],
)
def test_the_started_line_tells_the_address_and_only_a_token_made_here(explorer, monkeypatch, options, said):
    words = []

    class Server:
        """Stands for the server, which here ends at once."""

        def run(self, sockets):
            assert len(sockets) == 1

    monkeypatch.delenv("REACTVL_TOKEN", raising=False)
    monkeypatch.setattr("reactvl.serve.explorer.Explorer", lambda folder, **options: explorer)
    monkeypatch.setattr("reactvl.serve.run.server_of", lambda app, line: words.append(line) or Server())
    if options.get("host") == "::1" and not socket.has_dualstack_ipv6():
        pytest.skip("this machine has no IPv6")
    serve(explorer.folder, **{"port": 0} | options)
    assert re.fullmatch(said, words[0])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"port": 70_000}, "port 70000"),
        ({"port": -1}, "port -1"),
        ({"host": "no such host"}, "is no address"),
        ({"host": "203.0.113.9"}, "cannot be listened on"),
        ({"token": "short"}, "at least 16"),
        ({"max_k": 0}, "max_k 0"),
        ({"max_pixels": -5}, "max_pixels -5"),
        ({"max_upload": "much"}, "max_upload much"),
        ({"index": ["nowhere"]}, "nowhere"),
    ],
)
def test_a_bad_option_stops_at_once_with_the_way_out(small_run, options, said):
    with pytest.raises(ReactvlError, match=said):
        serve(small_run, **{"port": 0} | options)


def test_a_taken_port_and_a_folder_that_is_none_stop_at_once(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ReactvlError, match="give another --port"):
            serve(tmp_path, port=taken.getsockname()[1])
    done = typed("serve", tmp_path / "nothing", "--port", 0)
    assert done.returncode == 2
    assert done.stderr.startswith("reactvl serve: ")
    assert done.stderr.count("\n") == 1
    assert "nothing" in done.stderr
