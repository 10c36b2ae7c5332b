"""Heads are open_clip's own by one rule and ELEVATER's by the other, over first or all names, in bounded memory."""

import numpy as np
import pytest

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models import load, text_head
from reactvl.models.encoder import Encoder
from reactvl.models.text_head import class_names, head, logits, softmax

CLASSES = [["red panda", "lesser panda", "fire fox"], "raccoon", "a class {with} braces", ["ox", "bullock"], "ox"]
TEMPLATES = ["a photo of a {}.", "{}", "many {}s, drawn."]


@pytest.fixture(scope="module")
def encoder(small_model):
    return Encoder(load(small_model), device="cpu", precision="fp32")


def restated(encoder, prompts: list[str]) -> np.ndarray:
    """ELEVATER's rule in float64: normalise each prompt's vector, mean, normalise."""
    vectors = encoder.model.net.encode_text(encoder.model.tokenize(prompts)).double().numpy()
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    mean = vectors.mean(axis=0)
    return mean / np.linalg.norm(mean)


def filled(names: list[str]) -> list[str]:
    return [template.replace("{}", name) for name in names for template in TEMPLATES]


@pytest.mark.parametrize("rule", ["elevater", "open_clip"])
@pytest.mark.parametrize("synonyms", ["first", "all"])
def test_both_rules_agree_with_a_float64_restatement(encoder, rule, synonyms):
    names = [[one] if isinstance(one, str) else one for one in CLASSES]
    expected = [restated(encoder, filled(some if synonyms == "all" else some[:1])) for some in names]
    found = head(encoder, CLASSES, TEMPLATES, rule=rule, synonyms=synonyms)
    assert found.dtype == np.float32 and found.shape == (5, 32)
    np.testing.assert_allclose(found, expected, atol=2e-6)
    if synonyms == "first":
        np.testing.assert_array_equal(found[3], found[4])


@pytest.mark.parametrize("templates", [TEMPLATES, ["{}"] * 90], ids=["three", "ninety"])
def test_open_clips_head_is_what_its_function_gives(encoder, templates):
    names = [f"thing {number}" for number in range(23)]
    expected = open_clip.build_zero_shot_classifier(
        encoder.model.net, encoder.model.tokenize, names, templates, num_classes_per_batch=10
    )
    found = head(encoder, names, templates, rule="open_clip")
    np.testing.assert_array_equal(found, expected.T.numpy())
    assert np.abs(head(encoder, names, templates) - found).max() < 1e-6


def test_a_head_is_in_float32_whatever_the_images_precision(small_model, encoder):
    rough = Encoder(encoder.model, device="cpu", precision="bf16")
    for rule in ("elevater", "open_clip"):
        np.testing.assert_array_equal(
            head(rough, CLASSES, TEMPLATES, rule=rule), head(encoder, CLASSES, TEMPLATES, rule=rule)
        )


def test_memory_is_bounded_by_a_batch_of_prompts(encoder, monkeypatch):
    whole = head(encoder, CLASSES, TEMPLATES, synonyms="all")
    sizes = []

    def encode(texts):
        sizes.append(len(texts))
        return encoder.texts(texts)

    monkeypatch.setattr(text_head, "PROMPTS", 4)  # classes of 3 and of 9 prompts lie across batches
    parts = head(encoder, CLASSES, TEMPLATES, synonyms="all", encode=encode)
    np.testing.assert_allclose(parts, whole, atol=1e-6)
    assert sizes == [4, 4, 4, 4, 4, 4]


def test_names_and_their_faults():
    assert class_names(CLASSES)[:2] == [("red panda",), ("raccoon",)]
    assert class_names(CLASSES, "all")[0] == ("red panda", "lesser panda", "fire fox")
    for classes, says in (("ox", "give a list"), (["ox", []], r"classes\[1\]"), ([["ox", " "]], r"classes\[0\]")):
        with pytest.raises(ReactvlError, match=says):
            class_names(classes)
    with pytest.raises(ReactvlError, match="use first or all"):
        class_names(CLASSES, "some")


def test_bad_options_are_refused(encoder):
    for classes, templates in (([], TEMPLATES), (CLASSES, [])):
        with pytest.raises(ReactvlError, match="needs class names and templates"):
            head(encoder, classes, templates)
    with pytest.raises(ReactvlError, match="use elevater or open_clip"):
        head(encoder, CLASSES, TEMPLATES, rule="mean")


def test_logits_and_probabilities_agree_with_float64():
    rng = np.random.default_rng(0)
    features, weights, bias = rng.normal(size=(40, 8)), rng.normal(size=(6, 8)), rng.normal(size=6)
    found = logits(*(values.astype(np.float32) for values in (features, weights, bias)))
    np.testing.assert_allclose(found, 100 * features @ weights.T + bias, rtol=1e-4, atol=1e-3)
    odds = softmax(np.array([[1000.0, 1000.0, -1000.0], [0.0, np.log(3), 0.0]]))
    np.testing.assert_allclose(odds, [[0.5, 0.5, 0], [0.2, 0.6, 0.2]], atol=1e-12)
