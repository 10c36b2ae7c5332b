"""The benchmarks that need no foreign environment run through at tiny sizes; figures are not looked at."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HOME = Path(__file__).parents[2]
QUICK = ("pool_access", "embeddings_io", "embed", "exact_search", "augmentation", "evaluate", "fashion_mnist")


def run(script: str, *args: str | Path) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, f"benchmarks/{script}.py", *map(str, args)],
        cwd=HOME,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    """Results of every quick benchmark."""
    out = tmp_path_factory.mktemp("results")
    for script in QUICK:
        run(script, "--quick", "--cache", out / "cache", "--results", out / "results")
    return out / "results"


def test_quick_benchmarks_run_and_judge_nothing(results):
    for script in QUICK:
        judges_nothing(results, script)
    exact = json.loads((results / "exact_search.json").read_text())["rows"]
    assert [row["ours"] for row in exact if row["label"] == "places equal to float64's"] == [1.0]


@pytest.mark.slow
def test_the_training_step_s_benchmark_runs(tmp_path):
    run("customize", "--quick", "--cache", tmp_path / "cache", "--results", tmp_path / "results")
    judges_nothing(tmp_path / "results", "customize")


@pytest.mark.slow
def test_the_service_s_benchmark_runs(tmp_path):
    run("serve", "--quick", "--cache", tmp_path / "cache", "--results", tmp_path / "results")
    judges_nothing(tmp_path / "results", "serve")


def judges_nothing(results: Path, script: str) -> None:
    kept = json.loads((results / f"{script}.json").read_text())
    assert kept["name"] == script and kept["rows"] and kept["versions"]["torch"]
    assert {row["met"] for row in kept["rows"]} == {None}


def test_the_page_has_every_result_with_its_command(results, tmp_path):
    run("tables", "--results", results, "--out", tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text()
    for script in QUICK:
        assert f"benchmarks/{script}.py --quick" in page


@pytest.fixture
def benchmarks(monkeypatch):
    monkeypatch.syspath_prepend(str(HOME / "benchmarks"))


def test_a_row_that_misses_is_printed_as_missed(benchmarks, tmp_path, capsys):
    import measuring

    given = measuring.parsed(
        measuring.parser("A question."), {}, ["--cache", str(tmp_path), "--results", str(tmp_path)]
    )
    report = measuring.Report("test", "is it fast?", given, minutes=0)
    report.row("slow", 2.0, 3.0, need=measuring.times(2))
    report.row("fast", 1.0, 3.0, need=measuring.times(2))
    report.row("fast but wrong", 1.0, 3.0, need=measuring.times(2), also=False)
    assert not report.finish()
    lines = capsys.readouterr().out.splitlines()
    assert [line.rpartition("| ")[2] for line in lines if "required" in line] == ["MISSED", "met", "MISSED"]


def test_a_mixture_is_the_same_again_and_its_rows_are_unit_vectors_about_a_mean(benchmarks):
    from vectors import Mixture

    once, again = ([images for _, images, _ in Mixture(3000).chunks()] for _ in range(2))
    assert np.array_equal(np.concatenate(once), np.concatenate(again))
    rows = np.concatenate(once).astype(np.float64)
    assert np.abs(np.linalg.norm(rows, axis=1) - 1).max() < 1e-3
    cosines = rows[:1000] @ rows[1000:2000].T
    assert 0.25 < cosines.mean() < 0.55  # the shared mean


def test_peak_memory_of_a_child_is_its_own(benchmarks, tmp_path):
    import measuring

    script = tmp_path / "child.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(HOME / 'benchmarks')!r})\n"
        "import measuring, time\n"
        "def held(size):\n"
        "    block = bytearray(b'x') * size\n"
        "    time.sleep(0.5)  # memory is sampled from outside\n"
        "    return len(block)\n"
        "measuring.serve(held)\n"
    )
    small, large = (measuring.child([sys.executable, script], size) for size in (1, 200 << 20))
    assert large.answer == 200 << 20
    assert 190 < large.own - small.own < 230
    assert 190 < large.peak - small.peak < 230
