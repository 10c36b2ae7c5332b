"""The review loop as a user goes through it: stop after retrieve, mark pairs, go on with the pruned set."""

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from tests_support import write_pool, write_task

from reactvl.cli import call
from reactvl.recipe import run as run_recipe

CLASSES = ["red", "green", "blue"]
RECIPE = """
pool = "pool/{00000..00001}.tar"
model = "%s"
[retrieve]
classes = "classes.txt"
templates = ["{}", "a {} thing"]
per_class = 8
%s
[index]
kind = "flat"
[customize.gated-image]
tune = "gated-image"
steps = 2
batch_size = 8
workers = 1
[evaluate]
data = "data"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory, small_model) -> Path:
    home = tmp_path_factory.mktemp("home")
    write_pool(home / "pool", shards=2, pairs=40)
    (home / "classes.txt").write_text("\n".join(CLASSES))
    write_task(home / "data" / "colours", CLASSES, each=2)
    (home / "recipe.toml").write_text(RECIPE % (small_model, ""))
    (home / "own.txt").write_text("00001.tar/gone\n")
    run_recipe(home / "recipe.toml", out=home / "embedded", until="embed")
    return home


@pytest.fixture
def ran(capsys):
    """A function: the command with these arguments, in this process; what it said."""

    def command(*args: object) -> str:
        capsys.readouterr()
        assert call(run_recipe, "run", [str(arg) for arg in args]) == 0, capsys.readouterr().err
        return capsys.readouterr().out

    return command


def begun(home: Path, name: str) -> Path:
    """A run of the pool's embeddings and nothing else."""
    return Path(shutil.copytree(home / "embedded", home / name))


def pairs_of(run: Path) -> list[dict]:
    return pq.read_table(run / "retrieved/pairs.parquet").to_pylist()


def named(pair: dict) -> str:
    return f"{pair['shard']}/{pair['key']}"


def stamps(run: Path) -> dict[str, int]:
    return {path.parent.name: path.stat().st_mtime_ns for path in run.rglob("manifest.json")}


def test_a_run_is_pruned_and_goes_on(home, ran):
    run = begun(home, "run")
    said = ran(home / "recipe.toml", "--until", "retrieve", "--out", run)
    assert f"reactvl serve {run}" in said and f"reactvl run --out {run}" in said and "review are used" not in said
    first = pairs_of(run)
    assert set(stamps(run)) == {"embeddings", "index", "retrieved"}

    # as the page saves them: the best pair of each class is wrong, and a blue one was picked as red
    wrong = [pair for pair in first if pair["rank"] == 0]
    picked = next(pair for pair in first if pair["class"] == "blue" and pair["rank"] == 3)
    (run / "review").mkdir()
    (run / "review/exclude.txt").write_text("".join(f"{named(pair)}\n" for pair in wrong))
    (run / "review/positives.tsv").write_text(f"red\t{named(picked)}\n")
    before = stamps(run)
    said = ran("--out", run)
    assert "3 left out" in said and "1 picked by hand" in said and "taken from the earlier result" in said
    after = stamps(run)
    assert {name for name in before if before[name] == after[name]} == {"embeddings", "index"}
    assert {"gated-image", "evaluation"} <= set(after)
    pruned = pairs_of(run)
    assert not {named(pair) for pair in wrong} & {named(pair) for pair in pruned}
    assert named(pruned[0]) == named(picked) and pruned[0]["class"] == "red"
    trained = json.loads((run / "customized/gated-image/manifest.json").read_text())
    assert trained["counts"]["pairs"] == len(pruned)

    # nothing is left to do; and the same from scratch gives the same
    assert ran("--out", run) and stamps(run) == after
    other = begun(home, "other")
    (other / "review").mkdir()
    for name in ("exclude.txt", "positives.tsv"):
        (other / "review" / name).write_bytes((run / "review" / name).read_bytes())
    ran(home / "recipe.toml", "--until", "retrieve", "--out", other)
    assert [(other / "retrieved" / name).read_bytes() for name in RESULT] == [
        (run / "retrieved" / name).read_bytes() for name in RESULT
    ]

    # marks that are taken back give the first pairs again; a file without a mark is none
    (run / "review/exclude.txt").write_text("\n")
    (run / "review/positives.tsv").unlink()
    said = ran("--until", "retrieve", "--out", run)
    assert "review are used" not in said and pairs_of(run) == first


RESULT = ("pairs.parquet", "queries.parquet", "hits.parquet", "manifest.json")


def test_marks_join_what_the_recipe_leaves_out(home, small_model, ran):
    run = begun(home, "joined")
    for word in ('"own.txt"', '["own.txt"]'):
        (home / "joined.toml").write_text(RECIPE % (small_model, f"exclude = {word}"))
        said = ran(home / "joined.toml", "--until", "retrieve", "--out", run)
    first = pairs_of(run)
    (home / "own.txt").write_text(f"{named(first[0])}\n")
    (run / "review").mkdir()
    (run / "review/exclude.txt").write_text(f"{named(first[1])}\n")
    said = ran(home / "joined.toml", "--until", "retrieve", "--out", run)
    assert "1 left out" in said and "own.txt" in (run / "recipe.toml").read_text()
    assert not {named(pair) for pair in first[:2]} & {named(pair) for pair in pairs_of(run)}
    assert "review" not in (run / "recipe.toml").read_text()  # marks stay marks


def test_a_mark_that_cannot_be_is_told_before_any_work(home, capsys):
    run = home / "stopped"
    (run / "review").mkdir(parents=True)
    (run / "review/positives.tsv").write_text("purple\t00000.tar/a\n")
    assert call(run_recipe, "run", [str(home / "recipe.toml"), "--out", str(run)]) == 2
    said = capsys.readouterr().err
    assert not (run / "embeddings").exists() and len(said.strip().splitlines()) == 1
    assert "positives.tsv, line 1: 'purple' is none of the 3 classes" in said
