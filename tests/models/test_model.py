"""Models round-trip through folders, load strictly, and encode as open_clip does."""

import numpy as np
import pytest
import torch
from PIL import Image

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models import load
from reactvl.models.encoder import Encoder
from reactvl.models.model import with_gates


def test_a_folder_read_back_is_the_same_model(small_model, tmp_path):
    model = load(small_model)
    model.save(tmp_path / "copy")
    again = load(str(tmp_path / "copy"))
    assert again.id.sha256 == model.id.sha256
    assert all(
        torch.equal(a, b) for a, b in zip(model.net.state_dict().values(), again.net.state_dict().values(), strict=True)
    )


def test_a_plain_folder_is_an_open_clip_folder(small_model):
    net, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{small_model}")
    model = load(small_model)
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8))
    with torch.inference_mode():
        image = net.eval().encode_image(preprocess(picture)[None], normalize=True)
        text = net.encode_text(open_clip.SimpleTokenizer(context_length=24)(["a red panda"]), normalize=True)
    assert torch.equal(model.encode_image([picture]), image)
    assert torch.equal(model.encode_text(["a red panda"]), text)


def test_gated_models_round_trip_and_start_equal(small_model, tmp_path):
    base = load(small_model)
    gated = with_gates(base, 1)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(base.encode_image(pixels), gated.encode_image(pixels))
    gated.save(tmp_path / "gated")
    assert load(str(tmp_path / "gated")).id.sha256 == gated.id.sha256 != base.id.sha256


def test_trimmed_sorted_and_repeated_captions_equal_open_clips_own(small_model):
    model = load(small_model)
    texts = ["a red panda", "x", "a long caption of a red panda in a tree at night", "a red panda", "", "raccoon " * 40]
    vectors = Encoder(model, precision="fp32").texts(texts)
    assert np.abs(vectors - model.encode_text(texts).numpy()).max() < 1e-6  # the same products, other shapes
    assert np.array_equal(vectors[0], vectors[3])


def test_pixels_equal_the_preprocessing_of_open_clip(small_model):
    model = load(small_model)
    picture = Image.fromarray(np.random.default_rng(1).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    pixels = torch.from_numpy(np.asarray(picture)).permute(2, 0, 1)[None]
    assert torch.allclose(model.normalise(pixels)[0], model.preprocess(picture), atol=1e-6)


def test_bf16_stays_near_fp32(small_model):
    model = load(small_model)
    pixels = torch.randint(0, 256, (4, 3, 32, 32), dtype=torch.uint8)
    exact, rough = (Encoder(model, precision=p).images(pixels) for p in ("fp32", "bf16"))
    assert (exact * rough).sum(axis=1).min() > 0.999


def test_a_classifier_names_the_nearest_class(small_model):
    model = load(small_model)
    classifier = model.classifier(["red panda", "raccoon", "ox"], ["a {}.", "one {} here"])
    odds = classifier.probabilities(torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8))
    assert odds.shape == (5, 3)
    assert np.allclose(odds.sum(axis=1), 1, atol=1e-5)
    heads = model.encode_text(
        [t.replace("{}", c) for c in classifier.classes for t in ("a {}.", "one {} here")]
    ).double()
    mean = heads.view(3, 2, -1).mean(1).numpy()
    wanted = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    assert np.abs(classifier.weights - wanted).max() < 2e-2  # bf16 against float32
    with pytest.raises(ReactvlError, match="class names"):
        model.classifier([])


@pytest.mark.parametrize("form", ["plain", "wrapped", "module", "safetensors", "buffers"])
def test_weights_files_of_every_form(small_model, tmp_path, form, monkeypatch):
    from safetensors.torch import save_file

    from reactvl.models import weights

    state = load(small_model).net.state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pt")
    if form == "safetensors":
        save_file(state, path)
    else:
        given = {f"module.{k}": v for k, v in state.items()} if form == "module" else dict(state)
        if form == "buffers":
            given["input_resolution"] = torch.tensor(32)
        torch.save({"state_dict": given, "epoch": 3} if form in ("wrapped", "module") else given, path)
    read = weights.read(path)
    assert read.keys() == state.keys()
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_weights_that_do_not_fit_are_listed(small_model, tmp_path):
    from reactvl.models import weights

    model = load(small_model)
    state = model.net.state_dict()
    removed = dict(state)
    del removed["visual.proj"]
    with pytest.raises(ReactvlError, match=r"1 tensors missing \(visual.proj\)"):
        weights.load_strictly(model.net, removed, "w.pt")
    with pytest.raises(ReactvlError, match=r"1 tensors unexpected \(extra\)"):
        weights.load_strictly(model.net, {**state, "extra": torch.zeros(1)}, "w.pt")
    with pytest.raises(ReactvlError, match="of another shape"):
        weights.load_strictly(model.net, {**state, "visual.proj": torch.zeros(2, 2)}, "w.pt")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    import pickle

    from reactvl.models import weights

    class Evil:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "evil.pt").write_bytes(pickle.dumps({"state_dict": Evil()}))
    torch.save({"state_dict": Evil()}, tmp_path / "evil_zip.pt")
    for name in ("evil.pt", "evil_zip.pt"):
        with pytest.raises(ReactvlError, match="not a file of weights"):
            weights.read(tmp_path / name)
    assert not (tmp_path / "ran").exists()


def test_a_named_architecture_takes_weights_of_ones_own(tmp_path):
    """Every key and shape of react_ViT-B-32, as a released file has them: fp16, no prefix."""
    from reactvl.models.gates import insert_gates

    torch.manual_seed(0)
    net = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32"), quick_gelu=False)
    insert_gates(net.visual, 6)
    torch.save({name: tensor.half() for name, tensor in net.state_dict().items()}, tmp_path / "released.pt")
    model = load(f"react_ViT-B-32:{tmp_path}/released.pt", quick_gelu=False)
    assert model.config["reactvl"]["last_k"] == 6
    wanted = net.state_dict()["visual.transformer.resblocks.11.gated_attn_block.attn.in_proj_weight"]
    assert torch.allclose(
        model.net.state_dict()["visual.transformer.resblocks.11.gated_attn_block.attn.in_proj_weight"],
        wanted,
        atol=1e-3,
    )
    with pytest.raises(ReactvlError, match="unexpected"):
        load(f"ViT-B-32:{tmp_path}/released.pt")


def test_bad_names_and_folders(tmp_path, small_model):
    with pytest.raises(ReactvlError, match="which weights"):
        load("ViT-B-32")
    with pytest.raises(ReactvlError, match="no such tag"):
        load("ViT-B-32:nonsense")
    with pytest.raises(ReactvlError, match=r"lacks open_clip_config\.json"):
        load(str(tmp_path))
    (tmp_path / "open_clip_config.json").write_text("{}")
    with pytest.raises(ReactvlError, match="not an open_clip config"):
        load(str(tmp_path))


def test_packages_are_located_and_not_left(tmp_path):
    from reactvl.models.packages import resolve

    assert resolve("plain/path") == "plain/path"
    assert resolve("package:reactvl/manifest.py").endswith("manifest.py")
    with pytest.raises(ReactvlError, match="not installed"):
        resolve("package:no_such_package/x")
    with pytest.raises(ReactvlError, match="no such file"):
        resolve("package:reactvl/../../etc")
