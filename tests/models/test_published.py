"""The thirteen published checkpoints: layouts against the tables of the paper's code, one fetched and loaded for real."""

import copy

import pytest
import torch
from hub_server import serving, use

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models import load, loading, published, weights
from reactvl.models.gates import gate_openings, gated_layers
from reactvl.models.model import NotDrawn, construct
from reactvl.models.names import GATED, parse

TOWERS = {  # layers x width, gated layers, parameters of a gate, of the base, of both
    "react_ViT-B-32": (12, 768, range(6, 12), 7_087_874, 151_277_313, 193_804_557),
    "react_ViT-B-32-quickgelu": (12, 768, range(6, 12), 7_087_874, 151_277_313, 193_804_557),
    "react_ViT-B-16": (12, 768, range(6, 12), 7_087_874, 149_620_737, 192_147_981),
    "react_ViT-L-14": (24, 1024, range(18, 24), 12_596_226, 427_616_513, 503_193_869),
    "react_ViT-bigG-14": (48, 1664, range(36, 48), 33_248_386, 2_539_567_105, 2_938_547_737),
}


def gate_shapes(width: int) -> dict[str, tuple[int, ...]]:
    """The fourteen tensors of a gate, as the released code names them; its MLP is always four times as wide."""
    return {
        "alpha_attn": (), "alpha_dense": (),
        "ln_1.weight": (width,), "ln_1.bias": (width,), "ln_2.weight": (width,), "ln_2.bias": (width,),
        "attn.in_proj_weight": (3 * width, width), "attn.in_proj_bias": (3 * width,),
        "attn.out_proj.weight": (width, width), "attn.out_proj.bias": (width,),
        "mlp.c_fc.weight": (4 * width, width), "mlp.c_fc.bias": (4 * width,),
        "mlp.c_proj.weight": (width, 4 * width), "mlp.c_proj.bias": (width,),
    }  # fmt: skip


def released_layout(model: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a released file, put together from open_clip's own network and the table above."""
    plain = GATED.get(model, (model, 0))[0]
    with torch.device("meta"):
        base = open_clip.CLIP(**open_clip.get_model_config(plain)).state_dict()
    layout = {name: tuple(tensor.shape) for name, tensor in base.items()}
    if model in TOWERS:
        _, width, layers, *_ = TOWERS[model]
        for layer in layers:
            prefix = f"visual.transformer.resblocks.{layer}.gated_attn_block."
            layout |= {prefix + name: shape for name, shape in gate_shapes(width).items()}
    return layout


def elements(layout: dict[str, tuple[int, ...]]) -> int:
    return sum(torch.Size(shape).numel() for shape in layout.values())


@pytest.mark.parametrize("model", TOWERS)
def test_layouts_are_those_of_the_tables(model):
    layers, width, gated, each, base, both = TOWERS[model]
    with torch.device("meta"):
        net = construct(
            {"model_cfg": open_clip.get_model_config(GATED[model][0]), "reactvl": {"last_k": GATED[model][1]}}
        )
    layout = released_layout(model)
    assert {name: tuple(tensor.shape) for name, tensor in net.state_dict().items()} == layout
    assert len(net.visual.transformer.resblocks) == layers and net.visual.transformer.width == width
    assert gated_layers(net.visual) == list(gated)
    gates = {name: shape for name, shape in layout.items() if "gated_attn_block" in name}
    assert len(gates) == 14 * len(gated) and elements(gates) == each * len(gated)
    assert elements(layout) - elements(gates) == base and elements(layout) == both


@pytest.mark.parametrize("model", published.PARAMETERS)
def test_the_listed_parameter_counts_are_the_networks(model):
    assert published.PARAMETERS[model] == elements(released_layout(model))
    assert {release.model for release in published.RELEASES} == set(published.PARAMETERS)


@pytest.mark.parametrize("release", published.RELEASES, ids=lambda release: f"{release.model}:{release.tag}")
def test_every_release_has_its_activation_and_its_mean(release, monkeypatch, tmp_path):
    """By (model, tag), the file standing for itself: fp16 tensors of the released layout without storage."""
    layout = released_layout(release.model)
    with torch.device("meta"):
        state = {name: torch.empty(shape, dtype=torch.float16) for name, shape in layout.items()}
        monkeypatch.setattr(published.hub, "fetch", lambda repository, file, **_: tmp_path / repository / file)
        monkeypatch.setattr(loading.weights, "open_file", lambda path: weights.WeightsFile(path, state))
        model = load(f"{release.model}:{release.tag.upper().replace('_', '-')}")
    blocks = [module for name, module in model.net.named_modules() if name.endswith("mlp.gelu")]
    gates = [name for name, _ in model.net.named_modules() if name.endswith("gated_attn_block.mlp.gelu")]
    assert {type(block).__name__ for block in blocks} == {"QuickGELU" if "react_clip_" in release.tag else "GELU"}
    assert len(gates) == len(TOWERS[release.model][2] if release.model in TOWERS else ())
    halved = release.model == "react_ViT-L-14" and "openclip_laion2b" in release.tag
    assert (model.mean, model.std) == (
        ((0.5,) * 3,) * 2 if halved else (open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD)
    )
    assert model.image_size == 224 and model.interpolation == "bicubic" and model.resize_mode == "shortest"
    assert {parameter.dtype for parameter in model.net.parameters()} == {torch.float32}
    assert model.name.startswith(release.model)


def test_reacts_spelling_of_bigg_is_bigg():
    """And open_clip's ViT-g-14 is another model."""
    known = open_clip.list_models()
    tag = "react_openclip_laion2b_ret_laion2b"
    for text in ("react_ViT-G-14", "react_ViT-bigG-14"):
        name = parse(f"{text}:{tag}", known)
        assert published.find(name.name, name.last_k, name.tag).model == "react_ViT-bigG-14"
    assert parse(f"ViT-g-14:{tag}", known).name == "ViT-g-14"
    with pytest.raises(ReactvlError, match="no such model"):
        parse(f"react_ViT-g-14:{tag}", known)


@pytest.mark.parametrize("spoilt", ["lacks a gate", "has one more", "of another model"])
def test_released_files_are_loaded_strictly(spoilt, monkeypatch, tmp_path):
    layout = released_layout("react_ViT-B-32")
    gone = "visual.transformer.resblocks.9.gated_attn_block.alpha_dense"
    if spoilt == "lacks a gate":
        del layout[gone]
        says = f"1 tensors missing \\({gone}\\)"
    elif spoilt == "has one more":
        layout["visual.extra"] = (1,)
        says = r"1 tensors unexpected \(visual\.extra\)"
    else:
        layout |= {name: (*shape[:-1], 7) for name, shape in layout.items() if name == "visual.conv1.weight"}
        says = r"1 tensors of another shape \(visual\.conv1\.weight\)"
    with torch.device("meta"):
        state = {name: torch.empty(shape, dtype=torch.float16) for name, shape in layout.items()}
        monkeypatch.setattr(published.hub, "fetch", lambda repository, file, **_: tmp_path / file)
        monkeypatch.setattr(loading.weights, "open_file", lambda path: weights.WeightsFile(path, state))
        with pytest.raises(ReactvlError, match=says):
            load("react_ViT-B-32:react_clip_ret_laion400m")


def write_released(path, model: str) -> None:
    """A released file's twin: its layout in fp16, random weights of the size that open_clip draws, gates shut."""
    noise = torch.randn(1 << 20, generator=torch.Generator().manual_seed(0)).half() * 0.02

    def tensor(name: str, shape: tuple[int, ...]) -> torch.Tensor:
        if name.endswith(("alpha_attn", "alpha_dense")):
            return torch.zeros(shape, dtype=torch.float16)
        if name == "logit_scale":
            return torch.tensor(4.605, dtype=torch.float16)
        size = torch.Size(shape).numel()
        drawn = noise.repeat(size // len(noise) + 1)[:size].view(shape).clone()
        return drawn + 1 if ".ln_" in name and name.endswith("weight") else drawn

    torch.save({name: tensor(name, shape) for name, shape in released_layout(model).items()}, path)


def test_a_release_is_fetched_loaded_and_equals_open_clips_own_tower(tmp_path, monkeypatch):
    """react_ViT-B-32 of OpenAI's base in full size: 388 MB in fp16 over HTTP; its gates at zero, its logits are open_clip's."""
    release = published.find("ViT-B-32", 6, "react_clip_ret_laion400m")
    file = tmp_path / release.file
    write_released(file, "react_ViT-B-32")
    assert abs(file.stat().st_size - release.bytes) < 0.001 * release.bytes
    with serving() as hub:
        hub.put(published.REPOSITORY, file)
        use(hub, tmp_path / "cache", monkeypatch)
        model = load("react_ViT-B-32:react_clip_ret_laion400m")
        assert hub.fetched(f"{published.REPOSITORY}/{release.file}") == [0]
    (blob,) = (tmp_path / "cache").rglob("blobs/*")
    blob.unlink()
    given = torch.load(file, weights_only=True, mmap=True)
    state = model.net.state_dict()
    for name in (
        "visual.conv1.weight",
        "visual.transformer.resblocks.11.gated_attn_block.mlp.c_fc.weight",
        "logit_scale",
    ):
        assert state[name].dtype == torch.float32 and torch.equal(state[name], given[name].float())
    del given
    assert len(gate_openings(model.net)) == 12 and not any(gate_openings(model.net).values())

    with NotDrawn():
        reference = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32"), quick_gelu=True).eval()
    plain = {name: tensor for name, tensor in state.items() if "gated_attn_block" not in name}
    reference.load_state_dict(plain, assign=True)
    pixels, tokens = torch.randn(2, 3, 224, 224), open_clip.get_tokenizer("ViT-B-32")(["a red panda", "two raccoons"])
    with torch.inference_mode():
        wanted = reference.get_logits(pixels, tokens)[0]
        assert torch.allclose(model.net.get_logits(pixels, tokens)[0], wanted, atol=1e-4)
        assert wanted.abs().max() > 1  # of a scale of 100
        block = model.net.visual.transformer.resblocks[-1].gated_attn_block
        block.alpha_dense.fill_(1.0)
        assert not torch.allclose(model.net.get_logits(pixels, tokens)[0], wanted, atol=1e-2)


def test_open_clips_own_tags_come_from_the_same_hub(tmp_path, monkeypatch, small_hub_model):
    """A plain model under a tag of open_clip's, and a gated one made of it: gates shut, so equal."""
    hub, text, gated = small_hub_model
    plain, fresh = load(text), load(gated)
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(plain.encode_image(pixels), fresh.encode_image(pixels))
    assert gated_layers(fresh.net.visual) == [1] and fresh.config["reactvl"] == {"last_k": 1}
    assert fresh.id == load(gated).id != plain.id
    assert plain.config["model_cfg"]["quick_gelu"] is True
    path = loading.fetch_weights(text)
    assert path.is_relative_to(tmp_path / "cache") and path.name == "open_clip_model.safetensors"
    assert hub.fetched("someone/small/open_clip_model.safetensors") == [0]
    with pytest.raises(ReactvlError, match="no such tag; known: published"):
        load("Small:other")
    path.resolve().write_bytes(b"damaged")
    with pytest.raises(ReactvlError, match="if it is damaged, delete it") as fault:
        load(text)
    assert str(path) in str(fault.value)


@pytest.fixture
def small_hub_model(tmp_path, monkeypatch):
    """A tag `published` of the architecture `Small` on a hub of this machine."""
    from openai_archive import OPENAI
    from safetensors.torch import save_file

    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", {**open_clip.factory._MODEL_CONFIGS, "Small": OPENAI})
    tags = copy.copy(open_clip.pretrained._PRETRAINED)
    tags["Small"] = {"published": open_clip.pretrained._pcfg(hf_hub="someone/small/", quick_gelu=True)}
    monkeypatch.setattr(open_clip.pretrained, "_PRETRAINED", tags)
    monkeypatch.setitem(GATED, "react_Small", ("Small", 1))
    torch.manual_seed(0)
    save_file(construct({"model_cfg": OPENAI}).state_dict(), tmp_path / "open_clip_model.safetensors")
    with serving() as hub:
        hub.put("someone/small", tmp_path / "open_clip_model.safetensors")
        use(hub, tmp_path / "cache", monkeypatch)
        yield hub, "Small:published", "react_Small:PUBLISHED"


def test_models_of_the_hub_by_hf_hub(tmp_path, monkeypatch):
    """A folder on the hub: open_clip's own kind, and one with gates."""
    from tests_support import write_model

    from reactvl.models.model import with_gates

    base = load(write_model(tmp_path / "plain", seed=3))
    gated = with_gates(base, 1)
    gated.save(tmp_path / "gated")
    with serving() as hub:
        for name in ("plain", "gated"):
            for file in ("open_clip_config.json", "open_clip_model.safetensors"):
                hub.put(f"someone/{name}", tmp_path / name / file)
        use(hub, tmp_path / "cache", monkeypatch)
        assert load("hf-hub:someone/plain").id.sha256 == base.id.sha256
        assert load("hf-hub:someone/gated").id.sha256 == gated.id.sha256
        with pytest.raises(ReactvlError, match="has no such repository"):
            load("hf-hub:no/body")
        hub.put("someone/empty", tmp_path / "plain" / "open_clip_config.json")
        with pytest.raises(ReactvlError, match="neither the hub nor the cache has weights of it"):
            load("hf-hub:someone/empty")
        from huggingface_hub import constants

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        assert load("hf-hub:someone/gated").id.sha256 == gated.id.sha256
        with pytest.raises(ReactvlError, match="HF_HUB_OFFLINE"):
            load("hf-hub:no/body")
        with pytest.raises(ReactvlError, match=r"cannot be had .*HF_HUB_OFFLINE.*give them as ViT-B-32:FILE") as fault:
            load("ViT-B-32:openai")
        assert "\n" not in str(fault.value)
        with pytest.raises(ReactvlError, match=r"react_ViT-B-16-quickgelu:clip-vit-base-16-gated-image\.pt"):
            load("react_ViT-B-16:react_clip_ret_laion400m")
