"""What an earlier result already found is not searched for again, and the bytes are those of a run from scratch."""

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from reactvl.index import index
from reactvl.manifest import read_manifest
from reactvl.retrieve import cache, choosing, exclusion, filters, finding, retrieve

CLASSES = ["red panda", "teapot", "tractor"]
ASKED = {"classes": CLASSES, "templates": ["{}", "a picture of {}"], "per_prompt": 12, "per_class": 6}


@pytest.fixture(autouse=True)
def quick(no_report):
    """Without reports."""


@pytest.fixture
def rows(world):
    """20 pairs a class and 60 of nothing in particular; some captions hold the name."""
    generator = np.random.default_rng(0)
    made = [
        world.row(world.toward(name, 2.0, generator), world.toward(name, 3.0, generator), f"{number} {name}")
        for name in CLASSES
        for number in range(20)
    ]
    made += [
        world.row(world.toward("x", 0.0, generator), world.toward("x", 0.0, generator), f"noise {n}") for n in range(60)
    ]
    return [made[at] for at in generator.permutation(len(made))]


@pytest.fixture
def searched(monkeypatch):
    """The modes of every search that is done, in order."""
    done = []

    def counted(name: str) -> None:
        whole = getattr(finding.Finder, name)

        def search(self, *args):
            done.append(args[0] if name == "_near" else "match")
            return whole(self, *args)

        monkeypatch.setattr(finding.Finder, name, search)

    counted("_near")
    counted("_matched")
    return done


def result(folder) -> dict:
    """All of a result but when and how fast it was made."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file() and path.name != "timing.json"}


@pytest.fixture
def twice(embedded, rows, text_tower, searched, tmp_path):
    """A function: retrieve with some options, then with others into the same folder; what the second run searched and how
    many texts it encoded. It compares the result with that of a run from scratch."""
    embeddings = embedded(rows, parts=3)
    made: dict[str, Path] = {}

    def run(first: dict, second: dict) -> tuple[list[str], int]:
        for name in ("again", "scratch"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        if (asked := repr(first)) not in made:
            made[asked] = tmp_path / f"first-{len(made)}"
            retrieve(embeddings, **{**ASKED, **first}, out=made[asked])
        shutil.copytree(made[asked], tmp_path / "again")
        searched.clear(), text_tower.clear()
        retrieve(embeddings, **{**ASKED, **second}, out=tmp_path / "again", overwrite=True)
        known = list(searched), len(text_tower)
        retrieve(embeddings, **{**ASKED, **second}, out=tmp_path / "scratch")
        assert result(tmp_path / "again") == result(tmp_path / "scratch")
        return known

    run.embeddings = embeddings
    return run


@pytest.fixture
def listed(tmp_path):
    """A file of names to exclude, and one of pairs that are picked."""
    wrong, picked = tmp_path / "wrong.txt", tmp_path / "picked.tsv"

    def write(embeddings):
        table = embeddings.parts[0].metadata(["shard", "key"]).to_pylist()
        wrong.write_text("".join(f"{row['shard']}/{row['key']}\n" for row in table[:15]))
        picked.write_text("".join(f"teapot\t{row['shard']}/{row['key']}\n" for row in table[15:18]))
        return {"exclude": wrong, "positives": picked}

    return write


def test_choosing_anew_searches_nothing_and_encodes_nothing(twice, listed):
    marks = listed(twice.embeddings)
    everything = {"modes": ["t2i", "t2t", "match"]}
    changes = [
        {"exclude": marks["exclude"]},
        {"positives": marks["positives"]},
        marks,
        {"per_class": 3},
        {"min_score": 2.0},
        {"min_similarity": 0.5},
        {"rivals": "finders"},
        {"classes_per_pair": "many"},
        {"balance": 1.0},
        {"dedup": ["none"]},
        {"where": "caption NOT LIKE '%noise%'"},
        {"fusion": "rrf"},
        {"seed": 7},
    ]
    for change in changes:
        assert twice(everything, {**everything, **change}) == ([], 0), change
    assert twice({**everything, **marks}, everything) == ([], 0)  # marks that are taken back


@pytest.mark.parametrize(
    "change",
    [
        {"per_prompt": 13},
        {"per_class": 7, "per_prompt": None},
        {"modes": ["t2i"]},
        {"modes": ["t2i", "match"], "fusion": "match-rerank"},
    ],
)
def test_another_search_is_done(twice, change):
    first = {"modes": ["t2i", "match"]} if "fusion" in change else {}
    searches, texts = twice(first, change)
    assert searches and not texts  # the prompts are the same


@pytest.mark.parametrize("change", [{"templates": ["{}"]}, {"classes": ["red panda", "teapot"]}, {"precision": "bf16"}])
def test_other_queries_are_encoded_and_searched(twice, change):
    searches, texts = twice({"precision": "fp32"}, {"precision": "fp32", **change})
    assert searches == ["t2i", "t2t"] and texts > 0


def test_a_topped_up_result_is_searched_again(twice, listed):
    """Its hits are those of several searches; where no class was short it is like any other."""
    marks = listed(twice.embeddings)
    asked = {"top_up": True, "per_prompt": 6, "per_class": 18}
    searches, texts = twice(asked, {**asked, **marks})
    assert searches[:2] == ["t2i", "t2t"] and not texts
    searches, _ = twice(asked, {**asked, "top_up": False})
    assert searches == ["t2i", "t2t"]
    asked = {"top_up": True, "per_prompt": 24, "per_class": 2}
    assert twice(asked, {**asked, "exclude": marks["exclude"]}) == ([], 0)
    # an earlier result that was not topped up gives the first round, and deeper ones follow
    asked = {"per_prompt": 6, "per_class": 18}
    searches, texts = twice(asked, {**asked, "top_up": True})
    assert searches and not texts
    first_rounds, _ = twice({**asked, "per_prompt": 7}, {**asked, "top_up": True})
    assert len(first_rounds) == len(searches) + 2


def test_another_model_or_pool_is_searched(rows, embedded, text_tower, searched, tmp_path, world):
    embeddings = embedded(rows)
    retrieve(embeddings, **ASKED, out=tmp_path / "out")
    other = embedded(rows[::-1], name="other")
    searched.clear(), text_tower.clear()
    retrieve(other, **ASKED, out=tmp_path / "out", overwrite=True)
    assert searched == ["t2i", "t2t"] and not text_tower
    retrieve(other, **ASKED, out=tmp_path / "scratch")
    assert result(tmp_path / "out") == result(tmp_path / "scratch")


def test_an_index_and_exact_search_do_not_stand_in_for_each_other(twice, tmp_path):
    made = [
        index(twice.embeddings, out=tmp_path / name, kind="flat", keys="image", recall=1.0, k=k, queries=40)
        for name, k in (("one", 20), ("two", 10))
    ]
    one, two = ({"modes": ["t2i"], "search": str(each.folder)} for each in made)
    exact = {"modes": ["t2i"]}
    assert twice(one, {**one, "min_score": 1.0})[0] == []
    assert twice(one, two)[0] == twice(one, exact)[0] == twice(exact, one)[0] == ["t2i"]
    auto = {**exact, "search": "auto"}
    assert twice(auto, {**auto, "min_score": 1.0})[0] == []  # exact search was chosen, and is again


def test_hits_that_were_changed_are_not_taken(twice, embedded, rows, searched, tmp_path, capsys):
    retrieve(twice.embeddings, **ASKED, out=tmp_path / "out")
    path = tmp_path / "out/hits.parquet"
    hits = pq.read_table(path)
    pq.write_table(hits.slice(0, len(hits) - 1), path)
    searched.clear(), capsys.readouterr()
    retrieve(twice.embeddings, **ASKED, min_score=1.0, out=tmp_path / "out", overwrite=True)
    assert searched == ["t2i", "t2t"] and "not as it was written" in capsys.readouterr().out
    retrieve(twice.embeddings, **ASKED, min_score=1.0, out=tmp_path / "scratch")
    assert result(tmp_path / "out") == result(tmp_path / "scratch")


def test_a_manifest_that_does_not_tell_how_deep_it_searched_is_no_help(twice, searched, tmp_path):
    retrieve(twice.embeddings, **ASKED, out=tmp_path / "out")
    path = tmp_path / "out/manifest.json"
    for lost in ("deepest", "searched_through"):
        manifest = json.loads(path.read_text())
        del manifest["facts"][lost]
        path.write_text(json.dumps(manifest))
        searched.clear()
        retrieve(twice.embeddings, **ASKED, min_score=float(len(lost)), out=tmp_path / "out", overwrite=True)
        assert searched == ["t2i", "t2t"]


def test_a_stopped_pruning_goes_on_from_the_earlier_hits(twice, searched, tmp_path, monkeypatch):
    retrieve(twice.embeddings, **ASKED, out=tmp_path / "out")
    pruned = {**ASKED, "min_score": 1.0}
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(choosing.Chooser, "choose", _interrupt)
        retrieve(twice.embeddings, **pruned, out=tmp_path / "out", overwrite=True)
    searched.clear()
    retrieve(twice.embeddings, **pruned, out=tmp_path / "out", overwrite=True)
    assert searched == []
    retrieve(twice.embeddings, **pruned, out=tmp_path / "scratch")
    assert result(tmp_path / "out") == result(tmp_path / "scratch")


def test_what_a_stopped_run_found_serves_another_choice(twice, searched, tmp_path, monkeypatch):
    """Stopped while choosing, and while it searched the second side; then asked for something else."""
    pruned = {**ASKED, "min_score": 1.0}
    for stopped, left in (((choosing.Chooser, "choose"), []), ((finding.Finder, "_near"), ["t2t"])):
        out = tmp_path / stopped[1]
        with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
            whole = getattr(*stopped)
            broken.setattr(*stopped, lambda *args, whole=whole: _interrupt() if args[1] != "t2i" else whole(*args))
            retrieve(twice.embeddings, **ASKED, out=out)
        searched.clear()
        retrieve(twice.embeddings, **pruned, out=out)
        assert searched == left
        retrieve(twice.embeddings, **pruned, out=tmp_path / "scratch")
        assert result(out) == result(tmp_path / "scratch")
    other = {**pruned, "per_prompt": 13}
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(choosing.Chooser, "choose", _interrupt)
        retrieve(twice.embeddings, **ASKED, out=tmp_path / "other")
    searched.clear()
    retrieve(twice.embeddings, **other, out=tmp_path / "other")
    assert searched == ["t2i", "t2t"]


def _interrupt(*_):
    raise KeyboardInterrupt


def test_a_cache_is_no_part_of_the_result_and_damage_to_it_does_no_harm(twice, text_tower, tmp_path):
    retrieve(twice.embeddings, **ASKED, out=tmp_path / "out")
    assert set(read_manifest(tmp_path / "out").files) == {
        "pairs.parquet",
        "queries.parquet",
        "hits.parquet",
        "report.html",
    }
    path = tmp_path / "out/features/queries.npz"
    whole = path.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-400] + b"x" * 400, b"PK\x03\x04nothing"):
        path.write_bytes(damaged)
        text_tower.clear()
        retrieve(twice.embeddings, **ASKED, **scored(damaged), out=tmp_path / "out", overwrite=True)
        assert len(text_tower) == 6 and path.read_bytes() == whole


def scored(damaged: bytes) -> dict:
    return {"min_score": float(len(damaged) % 97) / 100}


def test_a_condition_is_decided_once(twice, tmp_path, monkeypatch):
    decided = []

    def counted(embeddings, condition):
        decided.append(condition.text)
        return filters.decided(embeddings, condition)

    monkeypatch.setattr(choosing, "decided", counted)
    few, most = ({"where": f"caption LIKE '%{sign}%'"} for sign in ("1", "n"))
    for asked in (few, {**few, "min_score": 1.0}, {**few, "min_score": 2.0}, most, few):
        retrieve(twice.embeddings, **ASKED, **asked, out=tmp_path / "out", overwrite=True)
        assert len(list((tmp_path / "out/features").glob("where-*"))) == 1
    assert decided == [few["where"], most["where"], few["where"]]
    retrieve(twice.embeddings, **ASKED, **few, out=tmp_path / "scratch")
    assert result(tmp_path / "out") == result(tmp_path / "scratch")


def test_evaluation_images_are_read_once(twice, world, tmp_path, monkeypatch):
    (tmp_path / "evaluation").mkdir()
    picture = tmp_path / "evaluation/a.png"
    world.example(picture, 3, world.toward("teapot", 2.0, np.random.default_rng(5)))
    read = []

    def counted(*given):
        read.append(len(given[0]))
        return whole(*given)

    whole = exclusion._hashed
    monkeypatch.setattr(exclusion, "_hashed", counted)
    asked = {"exclude_images": [str(tmp_path / "evaluation")]}
    for more in ({}, {"min_score": 1.0}):
        retrieve(twice.embeddings, **ASKED, **asked, **more, out=tmp_path / "out", overwrite=True)
    assert read == [1]
    world.example(tmp_path / "evaluation/b.png", 4, world.toward("teapot", 2.0, np.random.default_rng(6)))
    retrieve(twice.embeddings, **ASKED, **asked, out=tmp_path / "out", overwrite=True)
    assert read == [1, 2]


def test_arrays_are_kept_for_what_they_were_made_of(tmp_path):
    path = tmp_path / "features/a.npz"
    assert cache.kept(path, "this") is None
    cache.keep(path, "this", a=np.arange(3))
    assert cache.kept(path, "this")["a"].tolist() == [0, 1, 2] and cache.kept(path, "that") is None
    np.savez(path, a=np.array([{}], dtype=object))  # pickled: not read
    assert cache.kept(path, "this") is None
