"""Tokenizers and preprocessing of SigLIP's and PE-Core's kind follow the config, as open_clip's own do."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import PreTrainedTokenizerFast

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models import load, model
from reactvl.models.loading import config_for
from reactvl.models.model import Model, construct
from reactvl.models.names import parse

TEXTS = ["A red panda!", "two raccoons, one tree", "", "words that nobody knows " * 30]
VISION = {"timm_model_name": "test_vit", "timm_pool": "avg", "timm_proj": "none", "image_size": 160}
SIGLIP = {
    "embed_dim": 64, "init_logit_bias": -10, "custom_text": True, "vision_cfg": VISION,
    "text_cfg": {
        "context_length": 16, "vocab_size": 40, "hf_tokenizer_name": "someone/words", "tokenizer_kwargs": {"clean": "canonicalize"},
        "width": 32, "heads": 2, "layers": 2, "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
    },
}  # fmt: skip
PE_CORE = {
    "embed_dim": 48, "custom_text": True, "vision_cfg": {**VISION, "timm_proj": "linear"},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}  # fmt: skip
HALF = {"size": [160, 160], "mean": [0.5] * 3, "std": [0.5] * 3, "interpolation": "bicubic", "resize_mode": "squash"}


def write_words(folder: Path) -> None:
    """A tokenizer of Hugging Face's kind with forty words, which ends texts with </s> and pads with <pad>."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = [
        "<pad>",
        "</s>",
        "<unk>",
        *["a", "red", "panda", "two", "raccoons", "one", "tree", "words", "that", "nobody", "knows"],
    ]
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    fast = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(str(folder))


def made(model_cfg: dict, name: str = "made") -> Model:
    torch.manual_seed(0)
    config = {"model_cfg": model_cfg, "preprocess_cfg": HALF, "reactvl": {}}
    return Model(name, construct(config), config)


@pytest.fixture
def siglip(tmp_path):
    """A folder with weights, config and tokenizer files, as open_clip pushes SigLIP to the hub."""
    write_words(tmp_path / "siglip")
    made(SIGLIP, str(tmp_path / "siglip")).save(tmp_path / "siglip")
    return tmp_path / "siglip"


def test_every_architectures_tokenizer_is_the_one_that_open_clip_chooses(monkeypatch):
    """Names, contexts, modes and options of all configs, the tokenizers of Hugging Face recorded instead of fetched."""

    class Recorded:
        def __init__(self, name, context_length=77, cache_dir=None, tokenizer_mode=None, **options):
            self.told = str(name), context_length, tokenizer_mode, options

    monkeypatch.setattr(open_clip.tokenizer, "HFTokenizer", Recorded)
    monkeypatch.setattr(open_clip.factory, "HFTokenizer", Recorded)
    kinds, seen = set(), {}
    for name in open_clip.list_models():
        text_cfg = open_clip.get_model_config(name)["text_cfg"]
        key = repr(
            [
                text_cfg.get(field)
                for field in ("hf_tokenizer_name", "context_length", "tokenizer_kwargs", "tokenizer_mode")
            ]
        )
        if key in seen:
            continue
        seen[key] = name
        ours, wanted = model.tokenizer(text_cfg, Path("no/folder")), open_clip.get_tokenizer(name)
        assert type(ours) is type(wanted), name
        kinds.add(type(ours).__name__)
        if isinstance(ours, Recorded):
            assert ours.told == wanted.told, name
        else:
            assert ours.context_length == wanted.context_length and torch.equal(ours(TEXTS), wanted(TEXTS)), name
    assert kinds == {"Recorded", "SimpleTokenizer"} and len(seen) > 10


def test_a_folders_own_tokenizer_files_are_used_as_open_clip_uses_them(siglip):
    tokens = load(str(siglip)).tokenize(TEXTS)
    assert torch.equal(tokens, open_clip.get_tokenizer(f"local-dir:{siglip}")(TEXTS))
    assert tokens.shape == (4, 16) and tokens[0].tolist()[:5] == [3, 4, 5, 1, 0]  # canonicalised: lower case, no "!"


@pytest.mark.parametrize("kind", ["siglip", "pe-core"])
def test_images_and_texts_are_encoded_as_open_clip_does(kind, siglip, tmp_path):
    folder = siglip if kind == "siglip" else tmp_path / "pe"
    if kind == "pe-core":
        made(PE_CORE).save(folder)
    ours = load(str(folder))
    net, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 200, 3), dtype=np.uint8))
    assert torch.equal(ours.preprocess(picture), preprocess(picture))
    with torch.inference_mode():
        net.eval()
        image = net.encode_image(preprocess(picture)[None], normalize=True)
        text = net.encode_text(open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS), normalize=True)
    assert torch.equal(ours.encode_image([picture]), image)
    assert torch.equal(ours.encode_text(TEXTS), text)
    assert (ours.mean, ours.std, ours.resize_mode, ours.image_size) == ((0.5,) * 3, (0.5,) * 3, "squash", 160)
    odds = ours.classifier(["red panda", "two raccoons"], ["a {}", "one {}"]).probabilities([picture])
    assert odds.shape == (1, 2) and abs(odds.sum() - 1) < 1e-5
    assert ours.logit_scale == pytest.approx(1 / 0.07)


def test_the_word_siglip_in_a_folders_name_changes_nothing(tmp_path):
    made(PE_CORE).save(tmp_path / "my-siglip2-copy")
    ours = load(str(tmp_path / "my-siglip2-copy"))
    assert torch.equal(ours.tokenize(TEXTS), open_clip.SimpleTokenizer(context_length=32)(TEXTS))


def test_a_tokenizer_goes_with_its_model(siglip, tmp_path):
    """A tuned copy keeps the name of its base until it is saved; then its folder stands alone."""
    base = load(str(siglip))
    tuned = Model(base.name, base.net, base.config)
    tuned.save(tmp_path / "tuned" / "model")
    for path in siglip.iterdir():
        path.unlink()
    again = load(str(tmp_path / "tuned"))
    assert torch.equal(again.tokenize(TEXTS), open_clip.get_tokenizer(f"local-dir:{tmp_path}/tuned/model")(TEXTS))


def test_a_tokenizer_that_cannot_be_had_is_said_and_loses_no_weights(tmp_path, monkeypatch, capsys):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    lone = made(SIGLIP)
    with pytest.raises(ReactvlError, match=r"tokenizer someone/words could not be loaded") as fault:
        lone.tokenize(TEXTS)
    assert "\n" not in str(fault.value)
    lone.save(tmp_path / "kept")
    assert "written without its tokenizer" in capsys.readouterr().out
    assert load(str(tmp_path / "kept")).id.sha256 == lone.id.sha256


@pytest.mark.parametrize(
    "name", ["ViT-B-16-SigLIP", "ViT-SO400M-14-SigLIP2", "PE-Core-L-14-336", "ViT-B-32", "ViT-L-14", "RN50"]
)
def test_files_of_ones_own_are_preprocessed_as_their_architectures_tags(name):
    """SigLIP's and PE-Core's mean, std and resizing are not CLIP's; where tags differ (ViT-L-14) CLIP's hold."""
    given = config_for(parse(f"{name}:w.pt", open_clip.list_models()), None)["preprocess_cfg"]
    cfg = open_clip.transform.PreprocessCfg(**given)
    tag = open_clip.get_pretrained_cfg(name, open_clip.list_pretrained_tags_by_model(name)[0])
    assert tuple(cfg.mean) == tuple(tag["mean"]) and tuple(cfg.std) == tuple(tag["std"])
    assert (cfg.interpolation, cfg.resize_mode) == (tag["interpolation"], tag["resize_mode"])


def test_towers_that_cannot_be_made_are_refused():
    bad = {**PE_CORE, "vision_cfg": {**VISION, "timm_model_name": "vit_of_nobody"}}
    with pytest.raises(ReactvlError, match="cannot make this model's towers"):
        construct({"model_cfg": bad})
    with pytest.raises(ReactvlError, match="CoCa"):
        construct({"model_cfg": {**PE_CORE, "multimodal_cfg": {}}})
