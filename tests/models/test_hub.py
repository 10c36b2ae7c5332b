"""Files of the hub, against a hub on this machine: cached, resumed, checked; every fault in one line with its way out."""

import concurrent.futures
import subprocess
import sys
import time

import pytest
from commands import SEARCHED
from hub_server import serving, use

from reactvl.manifest import ReactvlError
from reactvl.models import hub as client

REPOSITORY, NAME, DATA = "someone/thing", "weights.bin", bytes(range(256)) * 49_152  # 12.6 MB
CHUNK = 10 << 20  # the client writes as much at a time


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving() as hub:
        (tmp_path / NAME).write_bytes(DATA)
        hub.put(REPOSITORY, tmp_path / NAME)
        hub.cache = use(hub, tmp_path / "cache", monkeypatch)
        yield hub


def fetched(hub) -> list[int]:
    return hub.fetched(f"{REPOSITORY}/{NAME}")


def test_a_file_is_fetched_once_and_lies_where_every_tool_looks(hub):
    from huggingface_hub import hf_hub_download

    path = client.fetch(REPOSITORY, NAME)
    assert path.read_bytes() == DATA
    assert client.fetch(REPOSITORY, NAME) == path
    assert fetched(hub) == [0]
    assert hf_hub_download(REPOSITORY, NAME, local_files_only=True) == str(path)
    assert not list(hub.cache.rglob("*.reactvl.*"))


def test_a_connection_that_drops_is_taken_up_where_it_broke(hub):
    hub.cut[f"{REPOSITORY}/{NAME}"], hub.times = CHUNK + 5000, 1
    assert client.fetch(REPOSITORY, NAME).read_bytes() == DATA
    assert fetched(hub) == [0, CHUNK]


def test_a_killed_download_goes_on_from_what_it_has(hub, tmp_path):
    """The process is killed in the middle; the next one asks for the rest alone."""
    hub.cut[f"{REPOSITORY}/{NAME}"], hub.times = CHUNK + 5000, 99
    code = f"from reactvl.models.hub import fetch; fetch({REPOSITORY!r}, {NAME!r})"
    settings = SEARCHED | hub.environment(tmp_path / "home")
    process = subprocess.Popen([sys.executable, "-c", code], env=settings, stderr=subprocess.DEVNULL)
    parts = []
    until = time.monotonic() + 30
    while not parts and time.monotonic() < until:
        parts = [part for part in (tmp_path / "home").rglob("*.reactvl.part") if part.stat().st_size]
        time.sleep(0.01)
    process.kill()
    process.wait()
    (part,) = parts
    kept = part.stat().st_size
    assert 0 < kept < len(DATA)
    hub.times, asked = 0, len(fetched(hub))
    done = subprocess.run([sys.executable, "-c", code], env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert fetched(hub)[asked:] == [kept]
    (blob,) = [path for path in (tmp_path / "home").rglob("blobs/*") if path.is_file()]
    assert blob.read_bytes() == DATA


def test_processes_that_want_the_same_file_fetch_it_once(hub):
    """As torchrun's do. Threads here: the lock is of the open file, not of the process."""
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        paths = list(pool.map(lambda _: client.fetch(REPOSITORY, NAME), range(4)))
    assert len(set(paths)) == 1 and paths[0].read_bytes() == DATA
    assert fetched(hub) == [0]


def test_bytes_that_arrive_changed_are_not_kept(hub):
    hub.spoil.add(f"{REPOSITORY}/{NAME}")
    with pytest.raises(ReactvlError, match="arrived damaged"):
        client.fetch(REPOSITORY, NAME)
    assert not [path for path in hub.cache.rglob("blobs/*") if path.is_file()]
    hub.spoil.clear()
    assert client.fetch(REPOSITORY, NAME).read_bytes() == DATA


def test_a_newer_file_is_fetched_and_an_unreachable_hub_leaves_the_cached_one(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    path = client.fetch(REPOSITORY, NAME)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert client.fetch(REPOSITORY, NAME) == path
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    dead = "http://127.0.0.1:9/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", dead)
    assert client.fetch(REPOSITORY, NAME) == path


@pytest.mark.parametrize(
    ("case", "says"),
    [
        ("offline", "not in the cache .* HF_HUB_OFFLINE is set: unset it once to fetch it, or give it as NAME:FILE"),
        ("unreachable", "could not be fetched from http://127.0.0.1:9 .*check the connection"),
        ("no such file", "has no such file, or give it as NAME:FILE"),
        ("no such repository", "has no such repository, or it is private"),
        ("no name", "use OWNER/NAME"),
        ("a short answer", "could not be fetched"),
    ],
)
def test_faults_are_one_line_with_the_way_out(hub, monkeypatch, case, says):
    from huggingface_hub import constants, file_download

    repository, name = REPOSITORY, NAME
    if case == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif case == "unreachable":
        dead = "http://127.0.0.1:9"
        monkeypatch.setattr(constants, "ENDPOINT", dead)
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", dead + "/{repo_id}/resolve/{revision}/{filename}")
    elif case == "no such file":
        name = "other.bin"
    elif case == "no such repository":
        repository = "no/body"
    elif case == "no name":
        repository = "a b//c"
    else:  # always cut: the client gives up
        monkeypatch.setattr(file_download.time, "sleep", lambda seconds: None)
        hub.cut[f"{REPOSITORY}/{NAME}"], hub.times = 0, 99
    with pytest.raises(ReactvlError, match=says) as fault:
        client.fetch(repository, name, instead="give it as NAME:FILE")
    assert "\n" not in str(fault.value)
    assert name in str(fault.value)
