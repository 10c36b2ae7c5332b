"""The recipes worth copying are accepted by `reactvl run`'s reader, and open with the command, its run time and its result."""

import re
import shlex
from pathlib import Path

import pytest
from guide_blocks import ROOT

from reactvl.cli import main, stage_of
from reactvl.manifest import ReactvlError
from reactvl.options import command_line
from reactvl.recipe import options, read
from reactvl.tasks.benchmarks import benchmark, elevater
from reactvl.train.augmentation import configure

RECIPES = [ROOT / "demo/recipe.toml", *sorted((ROOT / "examples").glob("*.toml"))]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_read_and_its_names_are_known(path):
    recipe = read(path)
    chosen = options(recipe.retrieve)
    assert ("classes" in chosen) != ("tasks" in chosen)
    for name in chosen.get("tasks", []):
        assert benchmark(name).name == name
    assert recipe.customize
    for name, each in recipe.customize.items():
        given = options(each)
        assert given["tune"] == name
        configure(given.get("aug_cfg", []))


@pytest.mark.parametrize("path", RECIPES[1:], ids=lambda path: path.stem)
def test_a_recipe_opens_with_command_time_and_result(path):
    head = path.read_text().partition("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert "# Expected run time" in head and "# Expected result" in head
    typed = [shlex.split(words, comments=True) for words in re.findall(r"^#     (reactvl .*)$", head, re.MULTILINE)]
    assert any(words[1:3] == ["run", f"examples/{path.name}"] for words in typed)
    for words in typed:
        command_line(stage_of(words[1]), words[1], words[2:])


def test_elevaters_recipe_names_its_20_data_sets():
    assert sorted(options(read(ROOT / "examples/elevater.toml").retrieve)["tasks"]) == sorted(elevater())


def test_start_here_lists_every_recipe():
    text = (ROOT / "docs/index.md").read_text()
    assert [path.name for path in RECIPES if f"({Path('..') / path.relative_to(ROOT)})" not in text] == []


def test_a_mistyped_key_of_a_copied_recipe_is_named(tmp_path, capsys):
    text = (ROOT / "examples/photos.toml").read_text()
    (tmp_path / "mine.toml").write_text(text.replace("per_class", "per_clas"))
    with pytest.raises(ReactvlError, match=r"per_clas.*did you mean `per_class`"):
        read(tmp_path / "mine.toml")
    assert main(["run", str(tmp_path / "mine.toml"), "--out", str(tmp_path / "run")]) == 2
    assert "per_class" in capsys.readouterr().err
