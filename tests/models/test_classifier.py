"""A classifier takes images as people have them and answers with the names they gave."""

import numpy as np
import pytest
import torch
from PIL import Image

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models import load


@pytest.fixture(scope="module")
def classifier(small_model):
    return load(small_model).classifier(["red panda", ["raccoon", "coon"], "ox", "ox"], ["a {}.", "one {} here"])


def pictures(count: int) -> list[Image.Image]:
    noise = np.random.default_rng(0).integers(0, 256, (count, 40, 36, 3), dtype=np.uint8)
    return [Image.fromarray(one) for one in noise]


def test_of_a_list_of_names_the_first_is_used_and_equal_names_stay_two(classifier):
    assert classifier.classes == ["red panda", "raccoon", "ox", "ox"]
    assert classifier.weights.shape == (4, 32) and np.allclose(np.linalg.norm(classifier.weights, axis=1), 1, atol=1e-6)
    assert np.allclose(classifier.weights[2], classifier.weights[3])


def test_logits_probabilities_and_names_agree(classifier):
    images = pictures(70)  # more than a batch
    logits, odds = classifier.logits(images), classifier.probabilities(images)
    vectors = classifier.model.encode_image(images).double().numpy()
    assert np.abs(logits - 100 * vectors @ classifier.weights.T.astype(float)).max() < 1e-3
    exact = torch.softmax(torch.from_numpy(logits).double(), dim=1).numpy()
    assert np.abs(odds - exact).max() < 1e-6
    assert classifier.predict(images) == [classifier.classes[row] for row in logits.argmax(1)]
    ranked = classifier.top(images, k=2)
    assert [one[0][0] for one in ranked] == classifier.predict(images)
    for row, best in zip(odds, ranked, strict=True):
        assert [chance for _, chance in best] == pytest.approx(sorted(row, reverse=True)[:2])
    assert all(len(one) == 4 for one in classifier.top(images[:3], k=9))


def test_files_pictures_and_pixels_are_images(classifier, tmp_path):
    images = pictures(2)
    paths = []
    for number, image in enumerate(images):
        paths.append(tmp_path / f"{number}.png")
        image.save(paths[-1])
    wanted = classifier.probabilities(images)
    assert np.array_equal(classifier.probabilities(paths), wanted)
    assert np.array_equal(classifier.probabilities([str(path) for path in paths]), wanted)
    assert np.allclose(classifier.probabilities(images[0]), wanted[:1], atol=1e-5)
    assert np.allclose(classifier.probabilities(str(paths[1])), wanted[1:], atol=1e-5)
    ready = torch.stack([classifier.model.preprocess(image) for image in images])
    assert np.allclose(classifier.probabilities(ready), wanted, atol=1e-6)
    assert classifier.predict([]) == [] and classifier.probabilities([]).shape == (0, 4)


def test_files_that_are_no_pictures_are_named(classifier, tmp_path):
    (tmp_path / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n....")
    for name in ("cut.png", "absent.png"):
        with pytest.raises(ReactvlError, match=rf"{name}: not a picture"):
            classifier.predict([tmp_path / name])


def test_templates_go_by_name(small_model):
    model = load(small_model)
    for name, wanted in (
        ("simple", open_clip.SIMPLE_IMAGENET_TEMPLATES),
        ("openai", open_clip.OPENAI_IMAGENET_TEMPLATES),
    ):
        made = model.classifier(["ox"], name)
        assert made.templates == [template("{}") for template in wanted]
    one = model.classifier(["ox"], "a photo of a {}, a type of pet.")
    assert one.templates == ["a photo of a {}, a type of pet."]
    assert np.array_equal(one.weights, model.classifier(["ox"], ["a photo of a {}, a type of pet."]).weights)


@pytest.mark.parametrize(
    ("classes", "templates", "says"),
    [
        ("red panda", "a {}.", "give a list of names"),
        (["ox", []], "a {}.", r"classes\[1\]: has no name"),
        (["ox", " "], "a {}.", r"classes\[1\]: has no name"),
        (["ox"], ["a {} and a {}"], "exactly once"),
        (["ox"], "elaborate", "named sets are openai and simple"),
        ([], "a {}.", "needs class names"),
        (["ox"], [], "needs class names and templates"),
    ],
)
def test_bad_classes_and_templates_are_refused(small_model, classes, templates, says):
    with pytest.raises(ReactvlError, match=says):
        load(small_model).classifier(classes, templates)
