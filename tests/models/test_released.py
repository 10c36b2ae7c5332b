"""State dicts in the released code's names: the very key list, and no model that the released code cannot hold."""

import copy

import pytest
import torch
from tests_support import SMALL
from torch import nn

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models import released
from reactvl.models.model import Model, construct, with_gates

GATE = (
    ["alpha_attn", "alpha_dense"]
    + [f"{part}.{kind}" for part in ("ln_1", "ln_2", "attn.out_proj", "mlp.c_fc", "mlp.c_proj") for kind in ("weight", "bias")]
    + ["attn.in_proj_weight", "attn.in_proj_bias"]
)  # fmt: skip
BLOCK = [name for name in GATE if "alpha" not in name]


class OnMeta(Model):
    """Shapes without memory."""

    def __init__(self, net, config):
        self.name, self.net, self.config = "react_ViT-B-32", net, config


def test_gated_vit_b_32_has_the_released_keys(monkeypatch):
    """302 tensors of OpenAI's ViT-B/32, written out here, and 14 for each of the gates in blocks 6 to 11."""
    wanted = {
        "logit_scale",
        "text_projection",
        "positional_embedding",
        "token_embedding.weight",
        "ln_final.weight",
        "ln_final.bias",
    }
    wanted |= {f"transformer.resblocks.{layer}.{name}" for layer in range(12) for name in BLOCK}
    wanted |= {f"visual.{name}" for name in ("class_embedding", "positional_embedding", "proj", "conv1.weight")}
    wanted |= {f"visual.{norm}.{kind}" for norm in ("ln_pre", "ln_post") for kind in ("weight", "bias")}
    wanted |= {f"visual.transformer.resblocks.{layer}.{name}" for layer in range(12) for name in BLOCK}
    assert len(wanted) == 302
    wanted |= {f"visual.transformer.resblocks.{at}.gated_attn_block.{name}" for at in range(6, 12) for name in GATE}
    config = {"model_cfg": open_clip.get_model_config("ViT-B-32"), "reactvl": {"last_k": 6}}
    with torch.device("meta"):
        net = construct(config)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: tensor)  # there are no numbers to bring there
    state = released.state_dict(OnMeta(net, config), torch.float16)
    assert set(state) == wanted
    assert all(tensor.dtype == torch.float16 for tensor in state.values())
    assert sum(tensor.numel() for tensor in state.values()) == 193_804_557


def test_a_text_tower_kept_apart_gets_the_flat_names(small_model):
    """open_clip's own converter leads back."""
    config = copy.deepcopy(SMALL)
    config["model_cfg"]["custom_text"] = True
    model = with_gates(Model("custom", construct(config), config), 1)
    state = released.state_dict(model)
    flat = with_gates(Model("flat", construct(SMALL), SMALL), 1)
    assert set(state) == set(flat.net.state_dict())
    flat.net.load_state_dict(state)
    pixels = torch.randint(0, 256, (1, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(flat.encode_image(pixels), model.encode_image(pixels))
    assert torch.equal(flat.encode_text(["a red panda"]), model.encode_text(["a red panda"]))
    back = open_clip.model.convert_to_custom_text_state_dict(state)
    assert back.keys() == model.net.state_dict().keys()


def test_what_the_released_code_cannot_hold_is_refused():
    config = copy.deepcopy(SMALL)
    model = Model("small", construct(config), config)
    net = model.net
    net.logit_bias = nn.Parameter(torch.zeros(()))
    with pytest.raises(ReactvlError, match="SigLIP's logit_bias"):
        released.state_dict(model)
    net.visual = nn.Identity()
    with pytest.raises(ReactvlError, match="image tower Identity"):
        released.state_dict(model)
    config["model_cfg"] |= {"custom_text": True, "text_cfg": config["model_cfg"]["text_cfg"] | {"embed_cls": True}}
    with pytest.raises(ReactvlError, match="text tower TextTransformer"):
        released.state_dict(Model("coca", construct(config), config))
