"""docs/serve.md tells the truth: its curl lines and its Python work on a small run, its tables are the service's own."""

import html
import importlib
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from tests_support import drawing

from reactvl.serve import batching, counting, schemas
from reactvl.serve import service as bounds
from reactvl.serve.service import Limits

serve = importlib.import_module("reactvl.serve")  # the package, not the stage of that name
GUIDE = Path(__file__).parents[2] / "docs" / "serve.md"
ADDRESS = "http://127.0.0.1:8080"
TEXT = GUIDE.read_text()
CURLS = [line.strip() for line in TEXT.splitlines() if line.startswith("    curl ")]
HIDDEN = {("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/page/{name}")}  # pages, told in words


@pytest.fixture
def typed_in(tmp_path, monkeypatch) -> Path:
    """The folder that the lines are typed in: it has a photo."""
    (tmp_path / "photo.jpg").write_bytes(drawing(1, "jpg"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("line", CURLS)
def test_a_curl_line_is_answered(line, service, typed_in, monkeypatch):
    monkeypatch.setenv("REACTVL_TOKEN", "sixteen-letters-and-more")
    words = [re.sub(r"\$\w+", "sixteen-letters-and-more", word) for word in shlex.split(line.replace(ADDRESS, service))]
    done = subprocess.run([*words, "-sS", "--fail-with-body"], capture_output=True, timeout=60)
    assert done.returncode == 0, (line, done.stdout, done.stderr)
    if "-o" in words:
        assert Path(words[words.index("-o") + 1]).stat().st_size > 100
    else:
        assert json.loads(done.stdout)


def test_the_lines_ask_everything_that_is_searched():
    asked = {path for line in CURLS for path in re.findall(r"8080(/[\w/]+)", line)}
    assert {"/api/search", "/api/search/image", "/api/search/batch", "/api/count", "/api/info"} <= asked


def test_the_python_runs(service, typed_in):
    [code] = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    names: dict = {}
    exec(compile(code.replace(ADDRESS, service), str(GUIDE), "exec"), names)
    assert len(names["hits"]) == len(names["more"]) == 10 and [len(hits) for hits in names["lists"]] == [5, 5]
    assert names["picture"].width > 8 and isinstance(names["above"], int)


def test_the_table_of_endpoints_is_complete(explorer):
    from reactvl.serve.app import build

    app, served = build(explorer)
    served.close()
    document = app.app.app.openapi()
    there = {(method.upper(), path) for path, methods in document["paths"].items() for method in methods}
    section = TEXT.partition("## All endpoints")[2].partition("\n## ")[0]
    told = set(re.findall(r"`(GET|POST|PUT) (/[^`]*)`", section))
    assert told == there - HIDDEN


def test_metrics_that_are_told_are_counted(service):
    import urllib.request

    with urllib.request.urlopen(f"{service}/metrics") as answer:
        counted = answer.read().decode()
    for name in re.findall(r"`(reactvl_\w+)`", TEXT.partition("## Metrics")[2]):
        assert (
            re.search(rf"^{name}(_bucket|_count)?(\{{| )", counted, re.MULTILINE)
            or f"# TYPE {name} " in counted
            or (f"# TYPE {name.removesuffix('_total')} " in counted)
        ), name


def test_limits_are_the_service_s():
    table = TEXT.partition("## Limits")[2].partition("\n## ")[0]
    usual = Limits()
    assert f"| {usual.k:,} | `--max-k`" in table and f"| {usual.upload // 10**6} MB | `--max-upload`" in table
    for name, value in {
        "before it is decoded": usual.pixels,
        "offset": schemas.MAX_OFFSET,
        "terms of a query": schemas.MAX_TERMS,
        "pictures in one request": bounds.MAX_PICTURES,
        "characters of a text": schemas.MAX_TEXT,
        "searches of a batch": schemas.MAX_SEARCHES,
        "thresholds of a count": schemas.MAX_THRESHOLDS,
        "searches that wait": batching.WAITING,
    }.items():
        assert re.search(rf"{name} \| {value:,}\b", table), name
    assert f"up to {batching.MOST} at once" in TEXT and f"{counting.SAMPLE:,} rows" in TEXT


def test_the_keys_are_the_page_s():
    page = (Path(serve.__file__).parent / "page" / "index.html").read_text()
    there = {html.unescape(key) for key in re.findall(r"<kbd>(.*?)</kbd>", page)}
    table = TEXT.partition("| key | does |")[2].partition("\n## ")[0]
    told = {key for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE) for key in re.findall(r"`(.+?)`", row)}
    assert told == there
