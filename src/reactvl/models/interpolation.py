"""Between a base model and the one that was tuned from it: WiSE-FT, and its analogue for gates.

A tensor that both models have becomes (1 - share) * base + share * tuned ("Robust fine-tuning of zero-shot models", CVPR 2022,
arXiv 2109.01903). Gates that only the tuned model has are opened to `share` of their width: tanh(alpha) is scaled, which takes
the gate's contribution from nothing to what was learned, while its weights, which have no counterpart, stay.

    for share in (0.25, 0.5, 0.75):
        model = interpolated(base, tuned, share)        # choose the share on validation data, never on test labels
"""

import copy
import json
from typing import Any

import torch
from torch import Tensor

from reactvl.manifest import ReactvlError
from reactvl.models.gates import is_alpha, is_gate
from reactvl.models.model import Model


def interpolated(base: Model, tuned: Model, share: float) -> Model:
    """A new model at `share` of the way: 0 computes what `base` does, 1 is `tuned`, tensor for tensor.

    It keeps the tuned model's name, by which its tokenizer is found, and has an identity (`id.sha256`) of its own.

    Raises ReactvlError for a share outside [0, 1] and for models that are not of one architecture but for the tuned one's gates.
    """
    if not 0 <= share <= 1:
        raise ReactvlError(f"interpolate {share}: give a share from 0 (the base) to 1 (the tuned model)")
    old, new = base.net.state_dict(), tuned.net.state_dict()
    require_alike(base, tuned, old, new)
    net = copy.deepcopy(tuned.net)
    mixed = {name: between(name, old.get(name), tensor, share) for name, tensor in new.items()}
    net.load_state_dict(mixed)
    return Model(tuned.name, net, copy.deepcopy(tuned.config))


def between(name: str, old: Tensor | None, new: Tensor, share: float) -> Tensor:
    """One tensor at `share` of the way; `old` is None where only the tuned model has it."""
    if share == 1 or not new.is_floating_point():
        return new
    if old is not None:
        return ((1 - share) * old.to(new.device, torch.float64) + share * new.double()).to(new.dtype)
    # in float64, where tanh of an alpha up to 18 is still below 1
    return torch.atanh(share * torch.tanh(new.double())).to(new.dtype) if is_alpha(name) else new


def require_alike(base: Model, tuned: Model, old: dict[str, Tensor], new: dict[str, Tensor]) -> None:
    """Refuse two models of which one was not tuned from the other: other tensors, other shapes, another activation or input."""
    between_them = f"{base.name} and {tuned.name} cannot be interpolated"
    missing = [name for name in old if name not in new]
    added = [name for name in new if name not in old and not is_gate(name)]
    shapes = [name for name in old if name in new and old[name].shape != new[name].shape]
    for fault, names in (("only the base has", missing), ("only the tuned has", added), ("differ in shape:", shapes)):
        if names:
            raise ReactvlError(
                f"{between_them}: {len(names)} tensors {fault} {names[0]}; give the base it was tuned from"
            )
    for what, before, after in zip(("architecture", "preprocessing"), described(base), described(tuned), strict=True):
        for key in sorted({*before, *after}):
            if before.get(key) != after.get(key):
                raise ReactvlError(
                    f"{between_them}: their {what} differs ({key} is {before.get(key)} in the base, {after.get(key)} in the tuned)"
                )


def described(model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """What tensors do not show: the options of the towers, and how pictures are made ready."""
    architecture = {"quick_gelu": False, "custom_text": False} | model.config["model_cfg"]
    architecture["stem"] = model.config.get("reactvl", {}).get("stem")
    preprocessing = {
        name: getattr(model, name) for name in ("image_size", "mean", "std", "interpolation", "resize_mode")
    }
    return tuple(json.loads(json.dumps(part)) for part in (architecture, preprocessing))
