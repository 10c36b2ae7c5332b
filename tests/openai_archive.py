"""A TorchScript archive as OpenAI published its models: a bare tree of modules with fp16 weights and three buffers."""

from pathlib import Path

import torch
from torch import nn

from reactvl.clip_imports import open_clip

OPENAI = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}  # a small model of OpenAI's layout: what `open_clip.load_openai_model` takes


class Bare(nn.Module):
    """A module of any attributes and no forward."""


def openai_net(seed: int = 0, config: dict = OPENAI) -> nn.Module:
    """open_clip's network of OpenAI's layout, its weights partly fp16 as in OpenAI's files."""
    torch.manual_seed(seed)
    net = open_clip.CLIP(**config, quick_gelu=True)
    open_clip.convert_weights_to_fp16(net)
    return net.eval()


def tree(state: dict[str, torch.Tensor], **buffers: int) -> nn.Module:
    """Modules that hold a state dict, and integer buffers at the top."""
    root = Bare()
    for name, tensor in state.items():
        *path, last = name.split(".")
        place = root
        for part in path:
            if part not in place._modules:
                place.add_module(part, Bare())
            place = place._modules[part]
        place.register_parameter(last, nn.Parameter(tensor.clone(), requires_grad=False))
    for name, value in buffers.items():
        root.register_buffer(name, torch.tensor(value))
    return root


def write_archive(path: Path, net: nn.Module) -> torch.jit.ScriptModule:
    """Script the bare tree of a network, with OpenAI's buffers, to a file; returns what was written."""
    scripted = torch.jit.script(tree(net.state_dict(), input_resolution=32, context_length=77, vocab_size=49408))
    scripted.save(str(path))
    return scripted
