"""The folder in which the guides' blocks are typed: a clone's demo, its pool cut down to some hundred real pairs."""

import re
import shutil
import tomllib
from pathlib import Path

import pytest
from guide_blocks import ROOT

from reactvl.demo import unpack
from reactvl.pool.reader import read_image
from reactvl.pool.tars import catalogue
from reactvl.pool.writer import ShardWriter

SHARDS = slice(6, 9)  # styles that the base model has not seen
NAMED = re.compile(
    r"\b(car|automobile|taxi|bus|tram|train|truck|lorry|police|airplane|aeroplane|ship)s?\b", re.IGNORECASE
)
EVERY, PER_SHARD = 20, 200  # of the pairs that name no vehicle every 20th: a class is what stands out of a pool


@pytest.fixture(scope="session")
def demo(tmp_path_factory) -> Path:
    """A `demo/` with base model, tasks, templates, class names and recipe as they are, and a small `pool/`."""
    unpack(ROOT / "demo")
    home = tmp_path_factory.mktemp("guides") / "demo"
    for name in ("base", "tasks"):
        shutil.copytree(ROOT / "demo" / name, home / name)
    for name in ("templates.txt", "classes.txt", "recipe.toml"):
        shutil.copy(ROOT / "demo" / name, home)
    listed = tomllib.loads((ROOT / "demo/pool.toml").read_text())["shard"]
    with ShardWriter(home / "pool", max_count=PER_SHARD) as writer:
        for shard in [ROOT / "demo/pool" / one["name"] for one in listed][SHARDS]:
            for number, sample in enumerate(catalogue(shard).samples):
                if number % EVERY == 0 or NAMED.search(sample.caption or ""):
                    data = read_image(shard, sample.offset, sample.size)
                    writer.write(data, sample.ext, sample.caption or "", {})
    return home


@pytest.fixture
def clone(demo, tmp_path) -> Path:
    """A fresh folder that looks like a clone in which `make demo` ran once."""
    shutil.copytree(demo, tmp_path / "clone/demo")
    shutil.copytree(ROOT / "examples", tmp_path / "clone/examples")
    return tmp_path / "clone"
