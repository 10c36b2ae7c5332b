"""The commands as a user types them: a whole run, again = nothing to do, and every bad option in one line and code 2."""

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest
from tests_support import write_model, write_pool, write_task


def reactvl(*args: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "reactvl", *map(str, args)], capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """A pool, a model, another model, class names and a task."""
    home = tmp_path_factory.mktemp("home")
    write_pool(home / "pool", shards=2, pairs=40)
    write_model(home / "base", seed=0)
    write_model(home / "other", seed=1)
    (home / "classes.txt").write_text("red\ngreen\nblue\n")
    write_task(home / "data" / "colours", ["red", "green", "blue"], each=4)
    (home / "recipe.toml").write_text(
        """
pool = "pool/{00000..00001}.tar"
model = "base"
[retrieve]
classes = "classes.txt"
templates = ["{}", "a {} thing"]
per_class = 15
[index]
kind = "flat"
[customize.gated-image]
tune = "gated-image"
steps = 4
batch_size = 16
workers = 1
[evaluate]
data = "data"
"""
    )
    return home


@pytest.fixture(scope="module")
def finished(home) -> Path:
    done = reactvl("run", home / "recipe.toml", "--out", home / "run")
    assert done.returncode == 0, done.stderr
    return home / "run"


def test_a_run_goes_from_pool_to_report(finished):
    results = json.loads((finished / "evaluation" / "results.json").read_text())
    assert [model["label"] for model in results["models"]] == ["base", "gated-image"]
    assert (finished / "report.html").stat().st_size < 12_000_000
    assert (finished / "index" / "index.faiss").exists()
    for folder in ("embeddings", "retrieved", "customized/gated-image", "evaluation", "index"):
        assert reactvl("verify", finished / folder).returncode == 0


def test_every_report_of_a_run_stands_alone_and_leads_to_what_is_there(finished):
    """No outside resource, no script, small enough to send; links between reports lead to files of the run."""
    pages = sorted(str(path.relative_to(finished)) for path in finished.rglob("*.html"))
    assert pages == ["evaluation/report.html", "report.html", "retrieved/report.html"]
    linked = set()
    for name in pages:
        page = finished / name
        html = page.read_text(encoding="utf-8")
        assert page.stat().st_size < 12_000_000 and "<script" not in html and "<link" not in html
        assert set(re.findall(r'src="(data:image/\w+)?', html)) <= {"data:image/webp", "data:image/svg"}
        for target in re.findall(r'href="([^"#]+)"', html):
            assert (page.parent / unquote(target)).is_file(), (name, target)
            linked.add(f"{name} -> {target}")
    assert {"report.html -> retrieved/report.html", "report.html -> evaluation/report.html"} <= linked
    assert f"reactvl serve {finished}" in (finished / "report.html").read_text()
    assert "reactvl serve RUN" in (finished / "retrieved/report.html").read_text()


def test_the_same_run_again_does_nothing(home, finished):
    before = {path: path.stat().st_mtime_ns for path in finished.rglob("manifest.json")}
    assert len(before) == 5
    assert reactvl("run", home / "recipe.toml", "--out", finished).returncode == 0
    assert before == {path: path.stat().st_mtime_ns for path in finished.rglob("manifest.json")}


def test_a_changed_option_remakes_what_depends_on_it(home, finished):
    stamp = {path.parent.name: path.stat().st_mtime_ns for path in finished.rglob("manifest.json")}
    changed = (home / "recipe.toml").read_text().replace("steps = 4", "steps = 5")
    (home / "changed.toml").write_text(changed)
    done = reactvl("run", home / "changed.toml", "--out", finished)
    assert "made anew (steps was 4, is 5)" in done.stdout
    after = {path.parent.name: path.stat().st_mtime_ns for path in finished.rglob("manifest.json")}
    remade = {name for name in stamp if after[name] != stamp[name]}
    assert remade == {"gated-image", "evaluation"}


def test_a_run_without_a_recipe_writes_one(home):
    out = home / "by-flags"
    flags = [
        "--pool",
        home / "pool",
        "--classes",
        home / "classes.txt",
        "--model",
        home / "base",
        "--until",
        "retrieve",
        "--out",
        out,
    ]
    assert reactvl("run", *flags).returncode == 0
    assert 'pool = "' in (out / "recipe.toml").read_text()
    assert (out / "retrieved" / "pairs.parquet").exists()
    assert reactvl("run", "--until", "retrieve", "--out", out).returncode == 0  # again = resume


def test_predict_names_ones_own_pictures(home, finished):
    pictures = home / "data" / "colours" / "test" / "red"
    out = home / "predictions.csv"
    done = reactvl(
        "predict", finished / "customized/gated-image", pictures, "--classes", home / "classes.txt", "--out", out
    )
    assert done.returncode == 0, done.stderr
    assert out.read_text().splitlines()[0].startswith("path,class,probability,top5")
    assert len(out.read_text().splitlines()) == 5


BAD = {
    "no such model": (["embed", "pool", "--model", "ViT-B32:openai", "--out", "x"], "no such model"),
    "no such folder": (["embed", "pool", "--model", "./gone", "--out", "x"], "no such model folder"),
    "a folder that is no pool": (["embed", "data", "--model", "./base", "--out", "x"], "holds no .tar"),
    "a missing shard": (
        ["embed", "pool/{00000..00007}.tar", "--model", "./base", "--out", "x"],
        "00002.tar does not exist",
    ),
    "an empty class list": (["retrieve", "run/embeddings", "--classes", "empty.txt", "--out", "x"], "empty.txt"),
    "no class file": (["retrieve", "run/embeddings", "--classes", "gone.txt", "--out", "x"], "gone.txt"),
    "no embeddings": (["retrieve", "data", "--classes", "a,b", "--out", "x"], "no stage's output"),
    "another model": (
        ["retrieve", "run/embeddings", "--classes", "a,b", "--model", "./other", "--out", "x"],
        "other",
    ),
    "an index of another model": (
        ["retrieve", "other-run/embeddings", "--classes", "a,b", "--search", "run/index", "--out", "x"],
        "index",
    ),
    "a task that is not there": (["evaluate", "./base", "--data", "data", "--tasks", "dtd", "--out", "x"], "dtd"),
    "an unknown verb": (["embedd"], "no command"),
    "an unknown recipe key": (["run", "typo.toml", "--out", "x"], "per_clas"),
    "a recipe that is not there": (["run", "gone.toml", "--out", "x"], "no such recipe"),
    "nothing to run": (["run", "--out", "x"], "give a recipe"),
    "a bad setting": (
        ["customize", "run/retrieved", "--model", "./base", "--aug-cfg", "hflip=7", "--out", "x"],
        "hflip",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_option_ends_at_once_in_one_line(home, finished, case, monkeypatch):
    monkeypatch.chdir(home)
    (home / "empty.txt").write_text("\n\n")
    (home / "typo.toml").write_text(
        'pool = "pool"\nmodel = "base"\n[retrieve]\nclasses = "classes.txt"\nper_clas = 3\n'
    )
    if case == "an index of another model" and not (home / "other-run").exists():
        assert reactvl("embed", "pool", "--model", "./other", "--out", "other-run/embeddings").returncode == 0
    args, says = BAD[case]
    done = reactvl(*args)
    assert done.returncode == 2
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1, done.stderr
    assert says in lines[0]
    assert not (home / "x" / "manifest.json").exists()


def test_help_imports_nothing_heavy():
    code = "import sys; from reactvl.cli import main; main(['--help']); print(*sorted(sys.modules), file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stderr.split())
    assert not loaded & {"torch", "numpy", "pyarrow", "open_clip", "tyro", "rich", "faiss", "matplotlib"}
    assert "customize" in done.stdout


@pytest.mark.parametrize("verb", ["embed", "index", "retrieve", "customize", "evaluate", "predict", "run"])
def test_help_of_a_verb_imports_no_torch(verb):
    code = "import sys; from reactvl.cli import stage_of; from reactvl.options import options_of; "
    code += f"print(len(options_of(stage_of({verb!r}))), 'torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[1] == "False"


def test_the_package_is_used_as_the_readme_shows(home, finished):
    """`reactvl.embed` is the function though the package `reactvl.embed` was imported first; handles open."""
    import reactvl as rv
    import reactvl.embed.stage

    assert callable(rv.embed) and callable(rv.customize) and callable(rv.retrieve)
    embeddings = rv.open(finished / "embeddings")
    hits = embeddings.search("red thing", k=3)
    assert len(hits) == 3
    assert hits[0].score >= hits[1].score
    assert rv.open(finished / "customized/gated-image").classifier(["red", "blue"]).classes == ["red", "blue"]
    assert len(rv.open(finished / "retrieved").by_class("red")) > 0
    assert "mean" in rv.open(finished / "evaluation").table() or "colours" in rv.open(finished / "evaluation").table()
