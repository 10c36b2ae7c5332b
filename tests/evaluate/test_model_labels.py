"""Models are called by short names that differ."""

import pytest

from reactvl.evaluate.candidates import labels


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["demo/base", "run/locked-text", "/abs/run/gated-image/"], ["base", "locked-text", "gated-image"]),
        (["run/locked-text/model", "x/model"], ["locked-text", "x"]),
        (["ViT-B-32:openai", "run/customized"], ["ViT-B-32:openai", "customized"]),
        (["run1/customized", "run2/customized"], ["run1/customized", "run2/customized"]),
        (["a/x/c", "b/x/c", "d"], ["a/x/c", "b/x/c", "d"]),
        (["a/b", "a/b"], ["a/b #1", "a/b #2"]),
        (["b/c", "a/b/c"], ["b/c", "a/b/c"]),
        (["local-dir:demo/base"], ["base"]),
        (["hf-hub:org/name"], ["hf-hub:org/name"]),
        (["ViT-B-32:w/weights.pt"], ["ViT-B-32:w/weights.pt"]),
    ],
)
def test_labels(given, expected):
    assert labels(given) == expected
    assert len(set(labels(given))) == len(given)
