"""An exported model is the same model where it goes: in open_clip, in the released code's names, in onnxruntime, in here."""

import copy
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from tests_support import SMALL, write_model

import reactvl as rv
from reactvl.cli import main
from reactvl.clip_imports import open_clip
from reactvl.export import export
from reactvl.export.model import foreign
from reactvl.manifest import ReactvlError, read_manifest, sha256_file
from reactvl.models.gates import gate_openings
from reactvl.models.interpolation import interpolated
from reactvl.models.model import Model, construct, with_gates

PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 40, 3), dtype=np.uint8))
TEXTS = ["a red panda", "蓝色, twice"]


@pytest.fixture(scope="session")
def tuned(run):
    """{tune: folder} of models customized on the pairs, their base in run/model."""
    made = {}
    for tune in ("gated-image", "locked-text"):
        made[tune] = run / tune
        options = {"steps": 2, "batch_size": 8, "workers": 1, "lr": 1e-2, "alpha_lr": 0.2, "warmup": 0}
        rv.customize(str(run / "model"), run / "retrieved", out=made[tune], tune=tune, **options)
    return made


def outputs(model) -> list[torch.Tensor]:
    return [model.encode_image([PICTURE]), model.encode_text(TEXTS)]


def near(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Equal but for the last bits, which oneDNN may sum in another order."""
    return one.shape == other.shape and float((one - other).abs().max()) < 1e-6


def same(one, other) -> bool:
    return all(near(a, b) for a, b in zip(outputs(one), outputs(other), strict=True))


def assert_open_clip_agrees(folder, model, tokenizer=None):
    """open_clip's own loader gives the same network, transform and tokens."""
    net, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    tokens = open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    assert torch.equal(preprocess(PICTURE), model.preprocess(PICTURE))
    assert torch.equal(tokens, (tokenizer or model.tokenize)(TEXTS))
    with torch.inference_mode():
        net.eval()
        assert near(net.encode_image(preprocess(PICTURE)[None], normalize=True), model.encode_image([PICTURE]))
        assert near(net.encode_text(tokens, normalize=True), model.encode_text(TEXTS))
    assert all(torch.equal(tensor, model.net.state_dict()[name]) for name, tensor in net.state_dict().items())
    assert torch.equal(net.logit_scale, model.net.logit_scale)


def test_a_locked_text_model_is_an_open_clip_folder(tuned, tmp_path, capsys):
    out = export(tuned["locked-text"], out=tmp_path / "out")
    model = rv.load(str(tuned["locked-text"]))
    assert_open_clip_agrees(out, model)
    assert same(rv.load(str(out)), model) and same(rv.open(out), model)
    manifest = read_manifest(out, "export")
    assert manifest.facts["open_clip"] is True and manifest.counts["gated_layers"] == 0
    assert manifest.model.sha256 == model.id.sha256 == rv.load(str(out)).id.sha256
    assert f'open_clip.create_model_and_transforms("local-dir:{out}")' in capsys.readouterr().out


CONFIGS = {
    "quickgelu, mean and std": {"model_cfg": {"quick_gelu": True}, "preprocess_cfg": {"mean": [0.5] * 3, "std": [0.5] * 3}},
    "CustomTextCLIP": {"model_cfg": {"custom_text": True}, "preprocess_cfg": {"interpolation": "bilinear"}},
    "SigLIP": {
        "model_cfg": {
            "embed_dim": 96,
            "custom_text": True,
            "init_logit_bias": -10,
            "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit3", "timm_pool": "map", "timm_proj": "none"},
        },
        "preprocess_cfg": {"size": 160, "resize_mode": "squash"},
    },
}  # fmt: skip


@pytest.mark.parametrize(("kind", "precision"), [*((kind, "fp32") for kind in CONFIGS), ("SigLIP", "fp16")])
def test_models_of_every_architecture_of_open_clip_are_ordinary_folders(tmp_path, kind, precision):
    config = copy.deepcopy(SMALL)
    for part, more in CONFIGS[kind].items():
        config[part] |= more
    torch.manual_seed(0)
    model = Model(kind, construct(config), config)
    out = export(model, out=tmp_path / "out", precision=precision)
    again = rv.load(str(out))
    assert_open_clip_agrees(out, again)
    assert same(again, model) == (precision == "fp32")
    assert (again.encode_image([PICTURE]) @ model.encode_image([PICTURE]).T).item() > 0.9999
    assert read_manifest(out).model.sha256 == again.id.sha256


def test_a_hugging_face_tokenizer_goes_along(tmp_path):
    """open_clip looks for it in the folder."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = {word: number for number, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "panda"])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, "[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    marks = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=made, **marks).save_pretrained(tmp_path / "tokenizer")
    config = copy.deepcopy(SMALL)
    config["model_cfg"]["custom_text"] = True
    config["model_cfg"]["text_cfg"] |= {
        "hf_tokenizer_name": str(tmp_path / "tokenizer"),
        "tokenizer_kwargs": {"clean": "lower"},
    }
    model = Model("words", construct(config), config)
    wanted = model.tokenize(TEXTS)
    out = export(model, out=tmp_path / "out")
    shutil.rmtree(tmp_path / "tokenizer")
    assert_open_clip_agrees(out, model, tokenizer=lambda texts: wanted)


def test_a_gated_model_is_a_folder_of_this_package(tuned, tmp_path, capsys):
    out = export(str(tuned["gated-image"]), out=tmp_path / "out")
    model = rv.load(str(tuned["gated-image"]))
    assert same(rv.load(str(out)), model) and same(rv.open(out), model)
    assert json.loads((out / "open_clip_config.json").read_text())["reactvl"] == {"last_k": 2}
    assert read_manifest(out).facts["open_clip"] is False and read_manifest(out).counts["gated_layers"] == 2
    assert "this package loads it (gates in blocks 0 to 1)" in capsys.readouterr().out
    assert same(rv.load(str(export(out, out=tmp_path / "again"))), model)  # an exported model is a model


def test_what_open_clip_cannot_load_is_told_apart(small_model):
    model = rv.load(small_model)
    assert foreign(model) is None
    for part, key, value, says in (
        ("reactvl", "stem", {"architecture": "x"}, "stem"),
        ("text_cfg", "hf_model_name", "package:x/y", "package"),
    ):
        other = Model("other", model.net, copy.deepcopy(model.config))
        (other.config if part == "reactvl" else other.config["model_cfg"])[part][key] = value
        assert says in foreign(other)
    assert "gates in blocks 1 to 1" in foreign(with_gates(model, 1))


@pytest.mark.parametrize("tune", ["gated-image", "locked-text"])
def test_interpolated_models_know_their_base(run, tuned, tmp_path, tune):
    base, model = rv.load(str(run / "model")), rv.load(str(tuned[tune]))
    half = rv.load(str(export(tuned[tune], out=tmp_path / "half", interpolate=0.5)))
    assert same(half, interpolated(base, model, 0.5)) and not same(half, model)
    named = export(str(tuned[tune] / "model"), out=tmp_path / "named", interpolate=0.5, base=run / "model")
    assert same(rv.load(str(named)), half)
    if tune == "locked-text":
        assert_open_clip_agrees(tmp_path / "half", half)
    else:
        openings = zip(gate_openings(half.net).values(), gate_openings(model.net).values(), strict=True)
        assert all(one == pytest.approx(whole / 2, rel=1e-5) and whole > 0 for one, whole in openings)
    assert same(rv.load(str(export(tuned[tune], out=tmp_path / "none", interpolate=0))), base)


def test_a_base_that_is_gone_or_changed_is_no_base(run, tuned, tmp_path):
    home = tmp_path / "model"
    shutil.copytree(run / "model", home)
    options = {"steps": 1, "batch_size": 8, "workers": 1}
    rv.customize(str(home), run / "retrieved", out=tmp_path / "tuned", tune="locked-text", **options)
    write_model(home, seed=5)
    with pytest.raises(ReactvlError, match="has changed since; name the one it was, with --base"):
        export(tmp_path / "tuned", out=tmp_path / "out", interpolate=0.5)
    shutil.rmtree(home)
    with pytest.raises(ReactvlError, match=r"is not there any more .* name it with --base"):
        export(tmp_path / "tuned", out=tmp_path / "out", interpolate=0.5)
    with pytest.raises(ReactvlError, match="is not known; name it with --base"):
        export(run / "model", out=tmp_path / "out", interpolate=0.5)
    with pytest.raises(ReactvlError, match="cannot be interpolated"):
        export(run / "model", out=tmp_path / "out", interpolate=0.5, base=str(tuned["gated-image"]))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_state_dict_holds_plain_tensors_in_the_released_names(tuned, tmp_path, precision):
    out = export(tuned["gated-image"], out=tmp_path / "out", state_dict=True, precision=precision)
    state = torch.load(out / "model.pt", weights_only=True)
    model = rv.load(str(tuned["gated-image"]))
    assert state.keys() == model.net.state_dict().keys()
    assert "visual.transformer.resblocks.1.gated_attn_block.mlp.c_fc.weight" in state
    dtype = {"fp32": torch.float32, "fp16": torch.float16}[precision]
    for name, tensor in model.net.state_dict().items():
        assert state[name].dtype == dtype and torch.equal(state[name], tensor.to(dtype))


def test_numbers_too_large_for_fp16_are_refused(small_model, tmp_path):
    model = rv.load(small_model)
    with torch.no_grad():
        model.net.visual.proj[0, 0] = 1e5
    with pytest.raises(ReactvlError, match=r"visual\.proj holds numbers that fp16 cannot \(1e\+05\)"):
        export(model, out=tmp_path / "out", precision="fp16")


def test_the_onnx_command(tuned, tmp_path, capsys):
    """The options as users type them; the file answers as the model's own classifier does."""
    onnxruntime = pytest.importorskip("onnxruntime")
    (tmp_path / "classes.txt").write_text("red panda|lesser panda\nraccoon\n")
    args = ["export", tuned["gated-image"], "--onnx", "--classes", tmp_path / "classes.txt", "--out", tmp_path / "out"]
    args = [*map(str, args), "--templates", "a photo of a {}."]
    assert main(args) == 0
    deviation = read_manifest(tmp_path / "out").facts["largest_deviation"]
    assert f"2 classes; its logits are within {deviation:.2g} of torch's" in capsys.readouterr().out
    assert deviation < 1e-3
    session = onnxruntime.InferenceSession(tmp_path / "out" / "model.onnx", providers=["CPUExecutionProvider"])
    assert json.loads(session.get_modelmeta().custom_metadata_map["classes"]) == ["red panda", "raccoon"]
    pixels = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    _, odds = session.run(None, {"images": pixels})
    classifier = rv.load(str(tuned["gated-image"])).classifier(["red panda", "raccoon"], "a photo of a {}.")
    assert np.abs(odds - classifier.probabilities(torch.from_numpy(pixels).permute(0, 3, 1, 2))).max() < 0.02
    assert main(args) == 0 and "up to date" in capsys.readouterr().out
    assert main(["export", str(tuned["gated-image"]), "--scatter", "--out", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.startswith("reactvl export: export: --scatter is for retrieved pairs")


def test_a_failed_check_leaves_nothing(tuned, tmp_path, monkeypatch):
    from reactvl.models import onnx

    def wrong(model, classes, templates, path):
        path.write_bytes(b"half")
        raise ReactvlError("logits differ")

    monkeypatch.setattr(onnx, "write", wrong)
    with pytest.raises(ReactvlError, match="logits differ"):
        export(tuned["gated-image"], out=tmp_path / "out", onnx=True, classes=["ox"])
    assert not list((tmp_path / "out").iterdir())


def test_a_stopped_export_ends_in_the_same_bytes_and_another_request_is_refused(tuned, tmp_path, monkeypatch):
    whole = export(tuned["locked-text"], out=tmp_path / "whole")
    replace = os.replace

    def stopping(source, target):
        if str(target) == str(tmp_path / "out" / "open_clip_model.safetensors"):
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopping)
        with pytest.raises(KeyboardInterrupt):
            export(tuned["locked-text"], out=tmp_path / "out")
    assert (tmp_path / "out" / "open_clip_config.json").exists()
    assert not (tmp_path / "out" / "manifest.json").exists()
    out = export(tuned["locked-text"], out=tmp_path / "out")
    for name in ("open_clip_config.json", "open_clip_model.safetensors", "manifest.json"):
        assert sha256_file(out / name) == sha256_file(whole / name)
    stamp = (out / "manifest.json").stat().st_mtime_ns
    export(tuned["locked-text"], out=out)
    assert (out / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(ReactvlError, match="form was"):
        export(tuned["locked-text"], out=out, state_dict=True)
    export(tuned["locked-text"], out=out, state_dict=True, overwrite=True)
    assert (out / "model.pt").exists() and not (out / "open_clip_config.json").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"scatter": True}, "--scatter is for retrieved pairs, and .* is a model"),
        ({"tree": True, "seed": 3}, "--tree, --seed is for retrieved pairs"),
        ({"onnx": True, "state_dict": True, "classes": ["ox"]}, "one of --state-dict and --onnx"),
        ({"onnx": True}, "name its --classes"),
        ({"onnx": True, "classes": ["ox"], "templates": "no place"}, "must hold {} exactly once"),
        ({"onnx": True, "classes": ["ox"], "precision": "fp16"}, "ONNX is float32"),
        ({"classes": ["ox"]}, "are for --onnx"),
        ({"templates": "openai"}, "are for --onnx"),
        ({"interpolate": 1.5}, "from 0"),
        ({"base": "ViT-B-32:openai"}, "--base is for --interpolate"),
    ],
)
def test_options_that_do_not_fit_stop_at_once(small_model, tmp_path, options, words):
    with pytest.raises(ReactvlError, match=words):
        export(small_model, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_pairs_and_other_folders_are_told_apart_from_models(run, tmp_path):
    with pytest.raises(ReactvlError, match=r"--onnx, --classes is for a model, and .* is retrieved pairs"):
        export(run / "retrieved", out=tmp_path / "out", onnx=True, classes=["ox"])
    with pytest.raises(ReactvlError, match="holds the output of `embed`; export takes retrieved pairs or a model"):
        export(run / "embeddings", out=tmp_path / "out")
    with pytest.raises(ReactvlError, match="no such model"):
        export(run / "absent", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
