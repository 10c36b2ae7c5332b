"""Plots draw whatever a run can hand them: nothing, one point, NaN, one class, hundreds."""

import re

import numpy as np
import pytest

from reactvl.report import plots


def texts(html: str) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", html)


def test_score_table_sets_the_best_in_bold_and_ties_both():
    html = plots.score_table(
        [("a", [1.0, 2.0]), ("b", [3.04, 3.01]), ("mean", [2.0, None])], ["x", "y"], {(0, 1): "+1.0"}
    )
    assert re.findall(r"<b>(.*?)</b>", html) == ["2.0", "3.0", "3.0"]
    assert "<small>+1.0</small>" in html


def test_learning_curves_show_the_columns_that_runs_have():
    rows = [{"step": step, "loss": 1.0 / (step + 1), "lr": 0.1} for step in range(1000)]
    html = plots.learning_curves({"one": rows, "two": [{"step": 0, "loss": float("nan")}, {"note": "x"}]})
    assert {"loss", "lr"} <= set(texts(html)) and "accuracy" not in texts(html)
    assert len(html) < 100_000
    assert plots.learning_curves({}) == plots.learning_curves({"one": [{"step": 1}]}) == ""


def test_class_gains_of_many_classes_show_the_ends():
    gains = np.arange(100.0) - 50
    gains[3] = np.nan
    shown = texts(plots.class_gains([f"class {n}" for n in range(100)], gains, title="t"))
    assert "class 99" in shown and "class 0" in shown and "class 50" not in shown and "class 3" not in shown
    assert "class 0" in texts(plots.class_gains(["class 0"], [0.0]))


def test_gains_with_intervals_leave_out_what_is_missing():
    html = plots.gains_with_intervals(["a", "b"], {"m": [(1.0, 3.0, 2.0), None], "n": [None, None]})
    assert {"a", "b", "m", "n"} <= set(texts(html))


@pytest.mark.parametrize("values", [[0.5], [0.5, 0.5], [float("nan"), 0.1], list(np.linspace(0, 1, 999))])
def test_histogram_of_few_equal_and_missing_values(values):
    assert "<svg" in plots.histogram({"x": values, "y": [0.2, 0.3]}, xlabel="score")


def test_nothing_to_draw_is_an_empty_block():
    assert plots.histogram({}, xlabel="x") == plots.histogram({"a": [float("nan")]}, xlabel="x") == ""
    assert plots.time_bar({}) == plots.time_bar({"a": 0.0}) == ""


def test_time_bar_gives_seconds_and_share():
    assert "towers: 3.0 s, 75%" in texts(plots.time_bar({"towers": 3.0, "wait": 1.0}))


def test_smoothing_keeps_a_constant_and_the_mean_of_a_window():
    np.testing.assert_allclose(plots.smoothed(np.full(9, 2.0), 3), 2.0)
    np.testing.assert_allclose(plots.smoothed(np.arange(5.0), 1), [0.5, 1, 2, 3, 3.5])
    np.testing.assert_allclose(plots.smoothed(np.arange(5.0), 0), np.arange(5.0))


def test_reliability_diagrams_draw_the_bins_that_hold_images():
    bins = {"confidence": [0.1, None, 0.9], "accuracy": [0.2, None, 0.8], "count": [5, 0, 7]}
    empty = {"confidence": [None], "accuracy": [None], "count": [0]}
    html = plots.reliability_diagrams([(f"task {number}", {"base": bins, "tuned": bins}) for number in range(6)])
    assert {"base", "tuned", *(f"task {number}" for number in range(6))} <= set(texts(html))
    one = plots.reliability_diagrams([("alone", {"base": bins})])
    assert "alone" in texts(one) and len(one) < len(html)
    assert "nothing" in texts(plots.reliability_diagrams([("nothing", {"base": empty}), ("b", {})]))


def test_a_model_keeps_its_colour_in_every_panel():
    bins = {"confidence": [0.1, 0.9], "accuracy": [0.2, 0.8], "count": [5, 7]}
    html = plots.reliability_diagrams([("a", {"x": bins, "y": bins}), ("b", {"y": bins})])
    assert html.count("var(--c1)") > html.count("var(--c0)") > 0


def test_confusions_say_how_often_and_need_no_picture():
    html = plots.confusion_examples([("cat", "<dog>", "3 images, 9 by base", []), ("a", "b", "1 image", [])])
    assert "&lt;dog&gt;" in html and "3 images, 9 by base" in html and "gallery" not in html
