"""An import that is killed at any point ends, typed again, in the bytes of one that never was; and the command as typed."""

import random
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from commands import killed
from importing_support import files, vectors
from test_import_features import EACH, write
from tests_support import write_pool

import reactvl as rv
from reactvl.cli import main
from reactvl.importing import import_embeddings, run
from reactvl.importing.pieces import Piece

SHARDS = 24


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Feature TSVs with some bad lines, and their pool."""
    home = tmp_path_factory.mktemp("home")
    write(home / "features", SHARDS, EACH, replaced={2: b"k\tonly two\n", 3 * EACH: b"", 40: b"\t\t\t\n"})
    write_pool(home / "pool", SHARDS, EACH)
    return home


def pieces(out):
    return len(list((out / ".work" / "pieces").glob("[!.]*.json")))


def said(*args):
    """The exit code of a command, as typed, in this process."""
    return main([str(arg) for arg in args])


def test_killed_and_typed_again_it_ends_in_the_same_bytes(home, small_model, tmp_path, capsys):
    args = ["import", home / "features", "--model", small_model, "--pool", home / "pool", "--part-rows", 2 * EACH]
    assert said(*args, "--out", tmp_path / "whole") == 0
    out = tmp_path / "killed"
    wanted = random.Random(0).randint(1, SHARDS // 2)
    killed(*args, "--out", out, when=lambda: pieces(out) >= wanted)
    assert not (out / "manifest.json").exists()
    killed(*args, "--out", out, when=lambda: (out / "img_emb").exists())  # while the parts are written
    before = pieces(out)
    assert before == SHARDS
    assert said(*args, "--out", out) == 0
    assert f"{SHARDS} of {SHARDS} pieces done before" in capsys.readouterr().out
    assert files(out) == files(tmp_path / "whole") and not (out / ".work").exists()


@pytest.mark.parametrize("at", ["add", "drop", "__exit__"])
def test_stopped_within_a_piece_it_is_made_anew(home, model, tmp_path, monkeypatch, at):
    import_embeddings(home / "features", model, out=tmp_path / "whole")
    calls = iter(range(1000))
    original = getattr(run.PieceWriter, at)

    def stopping(self, *args):
        if next(calls) == 5:
            raise KeyboardInterrupt
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(run.PieceWriter, at, stopping)
        with pytest.raises(KeyboardInterrupt):
            import_embeddings(home / "features", model, out=tmp_path / "out")
    assert 0 < pieces(tmp_path / "out") < SHARDS
    import_embeddings(home / "features", model, out=tmp_path / "out")
    assert files(tmp_path / "out") == files(tmp_path / "whole")


def test_a_piece_without_its_head_is_not_done(tmp_path):
    piece = Piece(tmp_path, 3)
    assert piece.head() is None
    piece.about.write_text("{")
    assert piece.head() is None


def test_unfinished_work_of_a_changed_source_is_dropped(home, model, tmp_path, monkeypatch):
    folder = write(tmp_path / "features", 3, EACH)
    with monkeypatch.context() as patch:
        patch.setattr(run, "write", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            import_embeddings(folder, model, out=tmp_path / "out")
    write(folder, 3, EACH, replaced={0: b"changed\n"})
    found = import_embeddings(folder, model, out=tmp_path / "out")
    assert len(found) == 3 * EACH - 1 and found.manifest.counts["skipped: wrong columns"] == 1


def test_what_is_imported_is_an_embeddings_folder_for_every_verb(home, small_model, tmp_path, capsys):
    """Typed in a row: import with pictures, verify, retrieve, index."""
    emb, classes = tmp_path / "emb", tmp_path / "classes.txt"
    assert said("import", home / "features", "--model", small_model, "--pool", home / "pool", "--out", emb) == 0
    told = capsys.readouterr().out
    assert "import: 189 pairs of feature TSVs" in told
    assert "4 skipped (2 other row count, 1 missing key, 1 wrong columns)" in told
    assert said("verify", emb) == 0
    classes.write_text("red thing\nblue thing\n")
    assert said("retrieve", emb, "--classes", classes, "--per-class", 5, "--out", tmp_path / "r") == 0
    pairs = rv.open(tmp_path / "r")
    assert len(pairs) and pairs.read_image(0)
    assert said("index", emb, "--kind", "flat", "--out", tmp_path / "index") == 0
    assert isinstance(rv.open(emb), rv.Embeddings)


def test_a_pool_of_urls_is_retrieved_from_and_not_trained_on(small_model, tmp_path, capsys):
    """Published embeddings used as they are: retrieve gives what img2dataset takes, customize says that pictures lack."""
    for half, name in enumerate(("img_emb", "text_emb")):
        (tmp_path / "emb" / name).mkdir(parents=True)
        np.save(tmp_path / "emb" / name / f"{name}_0000.npy", vectors(range(40), half))
    (tmp_path / "emb" / "metadata").mkdir()
    urls = [f"https://example.org/{row}.jpg" for row in range(40)]
    table = pa.table({"URL": urls, "TEXT": [f"thing {row}" for row in range(40)]})
    pq.write_table(table, tmp_path / "emb" / "metadata" / "metadata_0000.parquet")
    (tmp_path / "classes.txt").write_text("red thing\nblue thing\n")
    args = [
        "retrieve",
        tmp_path / "emb",
        "--classes",
        tmp_path / "classes.txt",
        "--per-class",
        5,
        "--out",
        tmp_path / "r",
    ]
    assert said(*args) == 2 and "pass --model" in capsys.readouterr().err
    assert said(*args, "--model", small_model) == 0
    pairs = pq.read_table(tmp_path / "r" / "pairs.parquet", columns=["URL", "TEXT"])
    assert pairs.num_rows and set(pairs["URL"].to_pylist()) <= set(urls)
    capsys.readouterr()
    assert said("customize", tmp_path / "r", "--model", small_model, "--out", tmp_path / "tuned") == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and f"img2dataset --url_list {tmp_path / 'r' / 'pairs.parquet'}" in told[0]
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["gone"], "does not exist"),
        (["empty"], "holds nothing that can be imported"),
        (["features", "--keys", "image"], "--keys is for FAISS files"),
        (["features", "--pool", "features"], "holds no .tar"),
        (["features", "--part-rows", "0"], "part_rows"),
    ],
)
def test_a_bad_option_ends_at_once_in_one_line(home, small_model, args, says, monkeypatch, capsys):
    monkeypatch.chdir(home)
    (home / "empty").mkdir(exist_ok=True)
    assert said("import", *args, "--model", small_model, "--out", "x") == 2
    told = capsys.readouterr().err.strip().splitlines()
    assert len(told) == 1 and says in told[0]
    assert not (home / "x").exists()


def test_the_verbs_help_needs_nothing_heavy():
    code = "import sys; from reactvl.cli import stage_of; stage_of('import'); print(sorted(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not any(f"'{name}'" in loaded for name in ("torch", "pyarrow", "faiss", "duckdb", "PIL", "numpy"))
    assert rv.import_embeddings is import_embeddings
