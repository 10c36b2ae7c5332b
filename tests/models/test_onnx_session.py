"""An ONNX classifier read back: the logits of the model it was made of; what is no such file is refused, and why."""

import json
import shutil

import numpy as np
import pytest
import torch

from reactvl.manifest import ReactvlError
from reactvl.models import load, onnx
from reactvl.models.onnx_session import OnnxClassifier, onnx_file

pytest.importorskip("onnxruntime")
CLASSES = ["red panda", "raccoon", "蓝色"]


@pytest.fixture(scope="module")
def exported(small_model, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.onnx"
    onnx.write(load(small_model), CLASSES, ["a {}.", "one {}"], path)
    return path


def changed(exported, tmp_path, **metadata):
    """A copy with other metadata; None takes an entry away."""
    import onnx as onnx_package

    file = onnx_package.load(exported)
    kept = {prop.key: prop.value for prop in file.metadata_props} | metadata
    del file.metadata_props[:]
    for key, value in kept.items():
        if value is not None:
            file.metadata_props.add(key=key, value=value)
    onnx_package.save(file, tmp_path / "changed.onnx")
    return tmp_path / "changed.onnx"


def test_it_gives_the_models_logits(exported, small_model):
    classifier, model = OnnxClassifier(exported, device="cpu"), load(small_model)
    assert (classifier.classes, classifier.templates) == (CLASSES, ["a {}.", "one {}"])
    about = classifier.model
    assert (about.image_size, about.resize_mode, about.interpolation, about.id.dim) == (32, "shortest", "bicubic", 3)
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 3, 32, 32), dtype=np.uint8))
    prompts = [template.format(name) for name in CLASSES for template in ("a {}.", "one {}")]
    texts = model.encode_text(prompts).view(3, 2, -1).mean(1)
    wanted = 100 * model.encode_image(pixels) @ torch.nn.functional.normalize(texts, dim=-1).T
    assert np.abs(classifier.images(pixels) - wanted.numpy()).max() < 1e-2


def test_which_models_are_onnx_files(exported, tmp_path, small_model):
    assert onnx_file(str(exported)) == exported and onnx_file(exported.parent) == exported
    assert onnx_file(small_model) is None and onnx_file("ViT-B-32:openai") is None and onnx_file(object()) is None
    other = shutil.copytree(small_model, tmp_path / "both")
    shutil.copy(exported, other)
    assert onnx_file(other) is None  # a model folder that has its export beside it


def test_the_hash_follows_the_bytes(exported, tmp_path):
    same = shutil.copy(exported, tmp_path / "same.onnx")
    other = changed(exported, tmp_path, classes=json.dumps(["a", "b", "c"]))
    hashes = [OnnxClassifier(path).model.id.sha256 for path in (exported, same, other)]
    assert hashes[0] == hashes[1] != hashes[2]


PREPROCESS = {"size": 32, "resize_mode": "shortest", "interpolation": "bicubic"}


@pytest.mark.parametrize(
    ("metadata", "message"),
    [
        ({"classes": None}, "its metadata has no `classes`"),
        ({"classes": "["}, "its metadata `classes` is no JSON"),
        ({"classes": "[" * 100_000}, "its metadata `classes` is no JSON"),
        ({"classes": '["a", 1]'}, "its metadata `classes` is no list of texts"),
        ({"classes": '["a", "b"]'}, "it has 2 classes and gives"),
        ({"preprocess": None}, "its metadata has no `preprocess`"),
        ({"preprocess": "[]"}, "gives no size"),
        ({"preprocess": json.dumps(PREPROCESS | {"size": 10**9})}, "gives no size"),
        ({"preprocess": json.dumps(PREPROCESS | {"size": 64})}, "it takes .*32.* not .*64"),
        ({"preprocess": json.dumps(PREPROCESS | {"resize_mode": "../x"})}, "gives no size"),
    ],
)
def test_a_file_that_says_too_little_is_refused(exported, tmp_path, metadata, message):
    with pytest.raises(ReactvlError, match=message) as fault:
        OnnxClassifier(changed(exported, tmp_path, **metadata))
    assert "reactvl export MODEL --onnx" in str(fault.value) and "\n" not in str(fault.value)


def test_damaged_files_and_strange_devices_end_in_one_line(exported, tmp_path):
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(exported.read_bytes()[:5000])
    for path, device, message in (
        (cut, "cpu", "cut.onnx: onnxruntime cannot read it"),
        (tmp_path / "gone.onnx", "cpu", "no such ONNX file"),
        (exported, "tpu", "no such device"),
        (exported, "cpu:1", "no such device"),
        (exported, "cuda:9", "this onnxruntime has no CUDA"),
    ):
        with pytest.raises(ReactvlError, match=message) as fault:
            OnnxClassifier(path, device=device)
        assert "\n" not in str(fault.value)
