"""Model folders: open_clip's `open_clip_config.json` + `open_clip_model.safetensors`, with what this project adds.

A model of open_clip's own architecture is an ordinary open_clip folder. Gates and a convolutional stem stand under the
config's `reactvl` key. Weights that come in a Python package (`package:...` in the config) are left out where they are
unchanged: the folder names the package instead.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from reactvl.manifest import ReactvlError, write_bytes, write_json
from reactvl.models import weights

CONFIG, WEIGHTS = "open_clip_config.json", "open_clip_model.safetensors"


def write(path: Path, net: nn.Module, config: dict[str, Any], dtype: torch.dtype = torch.float32) -> None:
    """Write a model folder, each file whole or not at all; `dtype` is of the floating-point tensors on disk."""
    inherited = packaged(net, config)
    state = {
        name: (tensor.to(dtype) if tensor.is_floating_point() else tensor).cpu().contiguous()
        for name, tensor in net.state_dict().items()
        if name not in inherited or not torch.equal(tensor.cpu(), inherited[name])
    }
    path.mkdir(parents=True, exist_ok=True)
    write_bytes(path / WEIGHTS, save(state))
    write_json(path / CONFIG, config)


def read_config(path: Path) -> dict[str, Any]:
    """The config of a model folder; ReactvlError when it is none."""
    if not (path / CONFIG).is_file():
        raise ReactvlError(f"{path}: no model folder (it lacks {CONFIG})")
    try:
        config = json.loads((path / CONFIG).read_text())
        config["model_cfg"]["embed_dim"], config["model_cfg"]["text_cfg"], config["model_cfg"]["vision_cfg"]
    except (ValueError, KeyError, TypeError) as fault:
        raise ReactvlError(f"{path / CONFIG}: not an open_clip config ({fault})") from None
    config.setdefault("reactvl", {})
    known = {"last_k", "stem"}
    if unknown := set(config["reactvl"]) - known:
        raise ReactvlError(
            f"{path / CONFIG}: unknown keys under `reactvl`: {', '.join(sorted(unknown))}; a newer version wrote it"
        )
    config["preprocess_cfg"] = {"size": config["model_cfg"]["vision_cfg"].get("image_size", 224)} | config.get(
        "preprocess_cfg", {}
    )
    return config


def load(path: Path, net: nn.Module, config: dict[str, Any]) -> None:
    """Load a folder's weights into the network of its config, strictly."""
    for name in (WEIGHTS, "open_clip_pytorch_model.bin", "open_clip_model.pt"):
        if (path / name).is_file():
            optional = frozenset(packaged_names(net, config))
            weights.load_strictly(net, weights.read(path / name), str(path / name), optional=optional)
            return
    raise ReactvlError(f"{path}: the model folder lacks {WEIGHTS}")


def packaged_names(net: nn.Module, config: dict[str, Any]) -> list[str]:
    """Names of the tensors that a package brings."""
    prefixes = []
    if str(config["model_cfg"]["text_cfg"].get("hf_model_name", "")).startswith("package:"):
        prefixes.append("text.transformer.")
    if str(config.get("reactvl", {}).get("stem", {}).get("weights", "")).startswith("package:"):
        prefixes.append("visual.conv1.stem.")
    return [name for name in net.state_dict() if name.startswith(tuple(prefixes))] if prefixes else []


def packaged(net: nn.Module, config: dict[str, Any]) -> dict[str, torch.Tensor]:
    """The tensors that a package brings, as it brings them."""
    names = packaged_names(net, config)
    if not names:
        return {}
    from reactvl.models.model import construct

    plain = copy.deepcopy(config)
    plain.get("reactvl", {}).pop("last_k", None)
    fresh = construct(plain).state_dict()
    return {name: fresh[name] for name in names}
