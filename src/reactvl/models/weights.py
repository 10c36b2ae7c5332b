"""Weights on disk: read without running code, loaded strictly, identified by hash."""

import hashlib
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from reactvl.manifest import ReactvlError

ARCHIVE_BUFFERS = ("input_resolution", "context_length", "vocab_size")  # of OpenAI's archives; no weights


def read(path: Path | str) -> dict[str, Tensor]:
    """A state dict from `.safetensors` or a torch file (plain, or under `state_dict`, with or without `module.`).

    Raises ReactvlError for a file that is missing or is no state dict. Nothing is unpickled but tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise ReactvlError(f"{path}: no such weights file")
    try:
        if path.suffix == ".safetensors":
            given = load_file(path)
        else:
            given = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, OSError, ValueError, EOFError, pickle.UnpicklingError) as fault:
        raise ReactvlError(f"{path}: not a file of weights ({str(fault).splitlines()[0]})") from None
    given = given.get("state_dict", given) if isinstance(given, dict) else None
    if not given or not all(isinstance(value, Tensor) for value in given.values()):
        raise ReactvlError(f"{path}: holds no state dict")
    given = {name.removeprefix("module."): tensor for name, tensor in given.items()}
    return {name: tensor for name, tensor in given.items() if name not in ARCHIVE_BUFFERS}


def load_strictly(
    net: nn.Module, given: dict[str, Tensor], origin: str, *, optional: frozenset[str] = frozenset()
) -> None:
    """Load a state dict; ReactvlError lists keys that are missing (but `optional`), unexpected, or of another shape."""
    wanted = net.state_dict()
    missing = [name for name in wanted if name not in given and name not in optional]
    unexpected = [name for name in given if name not in wanted]
    shapes = [name for name in given if name in wanted and given[name].shape != wanted[name].shape]
    for fault, found in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)):
        if found:
            listed = ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
            raise ReactvlError(f"{origin}: does not fit the model: {len(found)} tensors {fault} ({listed})")
    net.load_state_dict({name: tensor.to(wanted[name].dtype) for name, tensor in given.items()}, strict=False)


def digest(state: dict[str, Tensor], config: dict[str, Any]) -> str:
    """Hex SHA-256 of every tensor (by name, in float32) and of the config."""
    total = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        total.update(f"{name} {tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().numpy().reshape(-1).view("uint8").data)
    return total.hexdigest()
