"""The notebook runs from its first cell to its last on real demo data, and shows what its text says."""

import lzma
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import nbformat
import pytest
from commands import SEARCHED, typed
from nbclient import NotebookClient

ROOT = Path(__file__).parents[2]
NOTEBOOK, DEMO = ROOT / "examples" / "explore.ipynb", ROOT / "demo"
SHARD, PAIRS = "00001.tar", 520  # of the demo's pool: every cell has something to show


def notebook() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


def part_of_a_shard(home: Path) -> Path:
    """The first pairs of a demo shard as a pool."""
    home.mkdir(parents=True)
    with (
        lzma.open(DEMO / "pool" / f"{SHARD}.xz") as packed,
        tarfile.open(fileobj=packed, mode="r|") as whole,
        tarfile.open(home / SHARD, "w") as part,
    ):
        seen = set()
        for member in whole:
            seen.add(member.name.partition(".")[0])
            if len(seen) > PAIRS:
                break
            part.addfile(member, whole.extractfile(member))
    return home


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> Path:
    """A run up to its pairs, on a part of the demo's pool with the demo's base model and classes."""
    home = tmp_path_factory.mktemp("notebook")
    part_of_a_shard(home / "pool")
    (home / "recipe.toml").write_text(
        f"""
pool = "pool/{SHARD}"
model = "{DEMO / "base"}"
[embed]
threads = 1
[retrieve]
classes = "{DEMO / "classes.txt"}"
templates = ["{{}}", "a drawing of a {{}}."]
per_class = 20
min_score = 4.0
[evaluate]
data = "{DEMO / "tasks"}"
"""
    )
    done = typed("run", home / "recipe.toml", "--until", "retrieve", "--out", home / "run")
    assert done.returncode == 0, done.stderr
    return home / "run"


def executed(run: Path, home: Path, seconds: int) -> nbformat.NotebookNode:
    """The notebook with its outputs, run on a run's folder; a cell that raises fails the test with its traceback."""
    found = notebook()
    client = NotebookClient(found, timeout=seconds, kernel_name="python3", resources={"metadata": {"path": str(home)}})
    own = {"REACTVL_RUN": str(run), "IPYTHONDIR": str(home / "ipython"), "OMP_NUM_THREADS": "1"}
    client.execute(env=SEARCHED | own)
    return found


def outputs(found: nbformat.NotebookNode) -> dict[str, str]:
    """By cell: its HTML where it has some, else its text."""
    shown = {}
    for cell in found.cells:
        results = [output.data for output in cell.get("outputs", ()) if "data" in output]
        shown[cell.id] = "".join(data.get("text/html") or data["text/plain"] for data in results)
    return shown


def check(shown: dict[str, str]) -> None:
    """Pictures where pictures are promised, the table of both models, both answers to one picture."""
    for cell in ("ask-text", "ask-captions-code", "ask-picture-code", "ask-mix-code"):
        assert shown[cell].count("<img ") == 7, cell
        assert "could not be shown" not in shown[cell]
    assert "pizza (" in shown["classes"] and "bicycle (" in shown["classes"] and "<img " in shown["classes"]
    assert "Run(" in shown["open"] and "pairs embedded" in shown["open"]
    assert "<img " in shown["own-look-code"] and "mouse: " in shown["own-exclude-code"]
    assert {"animals", "food"} <= set(re.findall(r'<th scope="row">([^<]*)</th>', shown["scores"]))
    assert "base (base)" in shown["scores"] and "customized" in shown["scores"]
    assert "by customized, not by base" in shown["compare-code"] and "<img " in shown["compare-code"]
    every = "".join(shown.values())
    assert not re.search(r'(?:src|href)="(?!data:image/)', every), "an output refers to something outside"


def test_the_notebook_runs_on_a_small_run_of_the_demo(small, tmp_path):
    shown = outputs(executed(small, tmp_path, 900))
    check(shown)
    import reactvl as rv

    mine = rv.open(small / "mine" / "customized")
    assert mine.config["reactvl"]["last_k"]
    excluded = (small / "mine" / "wrong.txt").read_text().split()
    kept = {f"{pair.shard}/{pair.key}" for pair in rv.open(small / "mine" / "retrieved").by_class("mouse")}
    assert not kept & set(excluded)
    assert not list(tmp_path.glob("*.ipynb"))  # nothing is written beside the notebook


def test_the_notebook_is_stored_clean():
    """No outputs, no counts, no path of anyone's machine; short cells, each with a name that links can point at."""
    found = notebook()
    nbformat.validate(found)
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert str(ROOT) not in text and str(Path.home()) not in text and len(text) < 20_000
    for cell in found.cells:
        assert re.fullmatch(r"[a-z-]+", cell.id)
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            assert len(cell.source.splitlines()) <= 14
        else:
            assert len(cell.source) < 900


def test_every_function_of_the_notebook_is_a_command():
    """`rv.retrieve(...)` is `reactvl retrieve`: the notebook's stages and options are the commands'."""
    import reactvl as rv
    from reactvl.cli import VERBS

    source = "\n".join(cell.source for cell in notebook().cells if cell.cell_type == "code")
    called = set(re.findall(r"\brv\.(\w+)\(", source))
    assert called - {"open"} <= set(VERBS) and {"retrieve", "customize", "evaluate"} <= called
    assert called <= set(rv.__all__)


@pytest.mark.slow
def test_the_notebook_runs_on_the_whole_demo(tmp_path):
    """After `reactvl demo`, as its text says: the model customized for a minute answers more animals than the base."""
    done = subprocess.run(
        [sys.executable, "-m", "reactvl", "demo", "--out", tmp_path / "demo"],
        capture_output=True,
        text=True,
        env=SEARCHED,
    )
    assert done.returncode == 0, done.stderr
    check(outputs(executed(tmp_path / "demo", tmp_path, 900)))
    import reactvl as rv

    results = rv.open(tmp_path / "demo" / "mine" / "evaluation").results
    [animals] = [task for task in results["tasks"] if task["name"] == "animals"]
    assert animals["scores"]["customized"]["gain"]["low"] > 0
    left = (tmp_path / "demo" / "mine" / "wrong.txt").read_text().splitlines()
    assert 4 <= len(left) <= 20  # computer mice, pointers and traps among the mice
