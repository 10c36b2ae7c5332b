"""ONNX files: the same logits as the model's own classifier for any batch, everything a deployer needs in the file."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from reactvl.manifest import ReactvlError
from reactvl.models import load, onnx
from reactvl.models.gates import is_gate
from reactvl.models.model import with_gates

onnxruntime = pytest.importorskip("onnxruntime")
CLASSES = ["red panda", ["raccoon", "coon"], "蓝色"]


@pytest.fixture(scope="module")
def gated(small_model):
    """A gated model with open gates, mean and std of its own."""
    model = load(small_model)
    model.config["preprocess_cfg"] |= {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    model = with_gates(model, 1)
    with torch.no_grad():
        for name, parameter in model.net.named_parameters():
            if is_gate(name):
                parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)) * 0.3)
    return model


@pytest.fixture(scope="module")
def written(gated, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    return path, onnx.write(gated, CLASSES, ["a {}.", "one {}"], path)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_file_computes_what_the_classifier_does(gated, written, count):
    path, deviation = written
    assert 0 <= deviation < 1e-3
    pictures = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    logits, probabilities = session.run(None, {"images": pictures})
    classifier = gated.classifier(CLASSES, ["a {}.", "one {}"])
    wanted = classifier.probabilities([Image.fromarray(picture) for picture in pictures])
    assert logits.shape == probabilities.shape == (count, 3)
    assert np.abs(probabilities - wanted).max() < 0.02  # the classifier's head is encoded in bf16
    texts = gated.encode_text(
        [f"{a} {c}{b}" for c in ("red panda", "raccoon", "蓝色") for a, b in (("a", "."), ("one", ""))]
    )
    head = torch.nn.functional.normalize(texts.view(3, 2, -1).mean(1), dim=-1)
    exact = 100 * gated.encode_image([Image.fromarray(picture) for picture in pictures]) @ head.T
    assert np.abs(logits - exact.numpy()).max() < 1e-2


def test_the_file_says_what_goes_in_and_what_comes_out(gated, written):
    session = onnxruntime.InferenceSession(written[0], providers=["CPUExecutionProvider"])
    facts = {key: json.loads(text) for key, text in session.get_modelmeta().custom_metadata_map.items()}
    assert facts["classes"] == ["red panda", "raccoon", "蓝色"]
    assert facts["preprocess"]["size"] == 32 and facts["preprocess"]["interpolation"] == "bicubic"
    assert facts["preprocess"]["normalised in the graph"] == {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}
    assert facts["model"] == {"name": gated.name, "sha256": gated.id.sha256}
    (images,) = session.get_inputs()
    assert (images.name, images.type, images.shape[1:]) == ("images", "tensor(uint8)", [32, 32, 3])
    assert isinstance(images.shape[0], str)
    assert [(out.name, out.shape[1]) for out in session.get_outputs()] == [("logits", 3), ("probabilities", 3)]


def test_a_file_that_computes_something_else_is_an_error_and_is_removed(gated, written, tmp_path, monkeypatch):
    """As if the exporter had taken the classes in another order."""

    def other(net, size, path):
        shutil.copy(written[0], path)
        net.head = net.head.flip(1)

    monkeypatch.setattr(onnx, "trace", other)
    monkeypatch.setattr(onnx, "describe", lambda path, classifier: None)
    with pytest.raises(ReactvlError, match="differ from torch's by up to"):
        onnx.write(gated, CLASSES, "a {}.", tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_tower_that_cannot_be_traced_is_an_error(gated, tmp_path):
    net = gated.net.visual.transformer.resblocks[1]

    def fickle(x, *others, **named):
        return x if x.sum() > 0 else -x

    net.forward = fickle
    try:
        with pytest.raises(ReactvlError, match=r"cannot be written as ONNX \("):
            onnx.write(gated, CLASSES, "a {}.", tmp_path / "model.onnx")
    finally:
        del net.forward
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named(gated, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx, "PACKAGES", ("onnx", "no_such_package"))
    with pytest.raises(ReactvlError, match=r"needs no_such_package: pip install 'reactvl\[onnx\]'"):
        onnx.write(gated, CLASSES, "a {}.", tmp_path / "model.onnx")
