"""Weights on disk: read without running code, told apart by what they are, loaded strictly, identified by hash.

Read are safetensors; torch's files, plain or under `state_dict`, with or without `module.` (open_clip's and REACT's training
checkpoints among them); OpenAI's TorchScript archives; folders with an open_clip model; this project's own checkpoints.
"""

import copy
import dataclasses
import hashlib
import json
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models import activation, archive

if TYPE_CHECKING:
    from reactvl.models.model import Model

ARCHIVE_BUFFERS = ("input_resolution", "context_length", "vocab_size")  # of OpenAI's archives; no weights
GATE = ".gated_attn_block."
OF_A_FOLDER = (
    "open_clip_model.safetensors", "open_clip_pytorch_model.safetensors", "open_clip_pytorch_model.bin", "open_clip_model.pt",
    "open_clip_pytorch_model.pth", "model.safetensors", "pytorch_model.bin", "pytorch_model.pth", "model.pth",
)  # fmt: skip
WRAPPERS = ("module.", "_orig_mod.")  # DistributedDataParallel's and torch.compile's
OWN = "weight:"  # before the names of this project's training checkpoints, which hold what was trained and no more


@dataclasses.dataclass(frozen=True)
class WeightsFile:
    """A state dict with what else its file says. `openai`: it carries the buffers that only OpenAI's models have.
    `partial`: a training checkpoint of this project, which holds the trained tensors alone."""

    path: Path
    state: dict[str, Tensor]
    openai: bool = False
    partial: bool = False

    @property
    def gated(self) -> bool:
        return any(GATE in name for name in self.state)


def read(path: Path | str) -> dict[str, Tensor]:
    """The state dict of a file or model folder of any of the forms above; the tensors may be views of the file itself.

    Raises ReactvlError for what is missing, damaged or none of these. Nothing is unpickled but tensors and plain values.
    """
    return open_file(path).state


def open_file(path: Path | str) -> WeightsFile:
    """As `read`, with what else is known about the weights."""
    path = found(Path(path))
    try:
        given, own = raw(path)
    except ReactvlError:
        raise
    except Exception as fault:  # torch's readers fail on foreign bytes in as many ways as there are bytes
        reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise ReactvlError(f"{path}: not a file of weights ({reason[:200]})") from None
    if isinstance(given, dict) and isinstance(given.get("state_dict"), dict):
        given = given["state_dict"]
    if not isinstance(given, dict) or not given or not all(isinstance(value, Tensor) for value in given.values()):
        raise ReactvlError(f"{path}: holds no state dict (a table of named tensors, plain or under `state_dict`)")
    for prefix in WRAPPERS:
        if all(name.startswith(prefix) for name in given):
            given = {name.removeprefix(prefix): tensor for name, tensor in given.items()}
    openai = all(name in given for name in ARCHIVE_BUFFERS)
    state = {name: tensor for name, tensor in given.items() if name not in ARCHIVE_BUFFERS}
    return WeightsFile(path, state, openai, own)


def found(path: Path) -> Path:
    """The file itself: of a model folder, or of a customize stage's, its weights."""
    if path.is_dir():
        home = path / "model" if (path / "model").is_dir() else path
        held = [home / name for name in OF_A_FOLDER if (home / name).is_file()]
        if not held:
            raise ReactvlError(f"{path}: the folder holds no weights of a model ({OF_A_FOLDER[0]}, ...)")
        return held[0]
    if not path.is_file():
        raise ReactvlError(f"{path}: no such weights file")
    return path


def raw(path: Path) -> tuple[Any, bool]:
    """What a file holds, told by its first bytes, and whether it is a training checkpoint of this project."""
    with open(path, "rb") as file:
        head = file.read(9)
    if head[:4] == b"PK\x03\x04":
        try:
            with zipfile.ZipFile(path) as zipped:
                names = zipped.namelist()
        except zipfile.BadZipFile:
            raise ReactvlError(f"{path}: is cut short (the list at its end is missing); fetch it again") from None
        if archive.is_archive(names):
            return archive.read(path), False
        if not any(name.endswith("/data.pkl") for name in names):
            raise ReactvlError(f"{path}: a zip without tensors of torch; give a state dict (.pt, .bin, .safetensors)")
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True), False
    if len(head) == 9 and head[8:] == b"{":
        length = int.from_bytes(head[:8], "little")
        if length > path.stat().st_size:
            raise ReactvlError(f"{path}: is cut short (its header alone is {length:,} bytes); fetch it again")
        given = load_file(path)
        kept = {name.removeprefix(OWN): tensor for name, tensor in given.items() if name.startswith(OWN)}
        return kept or given, bool(kept)
    return torch.load(path, map_location="cpu", weights_only=True), False


def load_into(model: "Model", path: Path | str) -> "Model":
    """`--resume FILE`: a copy of `model` with the weights of a file or folder.

    Plain CLIP weights in a gated model leave its gates as they are; a training checkpoint of this project leaves what it did
    not train. All else must fit exactly. Raises ReactvlError with the keys that do not, for OpenAI's weights in a model of
    GELU, and for a gated file where nothing says which activation its base has.
    """
    from reactvl.models.folder import packaged_names

    file = open_file(path)
    quick_gelu = bool(model.config["model_cfg"].get("quick_gelu"))
    activation.check_file(str(path), file, model.name, quick_gelu=quick_gelu, settled=model.settled)
    net = copy.deepcopy(model.net)
    optional = set(packaged_names(net, model.config))
    if file.partial:
        optional |= set(net.state_dict())
    elif not file.gated:
        optional |= {name for name in net.state_dict() if GATE in name}
    load_strictly(net, file.state, str(path), optional=frozenset(optional))
    name = f"{model.name}:{path}" if model.drawn else f"{model.name}, weights of {path}"
    return type(model)(name, net, copy.deepcopy(model.config))


def load_strictly(
    net: nn.Module, given: dict[str, Tensor], origin: str, *, optional: frozenset[str] = frozenset()
) -> None:
    """Load a state dict; ReactvlError lists keys that are missing (but `optional`), unexpected, or of another shape."""
    wanted = net.state_dict()
    given = renamed(net, given, wanted)
    missing = [name for name in wanted if name not in given and name not in optional]
    unexpected = [name for name in given if name not in wanted]
    shapes = [name for name in given if name in wanted and given[name].shape != wanted[name].shape]
    for fault, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)):
        if names:
            listed = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
            raise ReactvlError(
                f"{origin}: does not fit the model: {len(names)} tensors {fault} ({listed}){hint(fault, names)}"
            )
    with torch.no_grad():
        for name, tensor in given.items():
            wanted[name].copy_(tensor)  # state_dict's tensors are the network's own


def hint(fault: str, names: list[str]) -> str:
    """The likely way out."""
    if all(GATE in name for name in names):
        return {
            "missing": "; the file has no gates: give it without `react_`, or train gates from it: customize --resume FILE",
            "unexpected": "; the file has gates: give it as react_NAME:FILE",
        }.get(fault, "")
    if fault == "of another shape" and any("positional_embedding" in name or "pos_embed" in name for name in names):
        return "; the file is of another resolution or context length: nothing is resized"
    return ""


def renamed(net: nn.Module, given: dict[str, Tensor], wanted: dict[str, Tensor]) -> dict[str, Tensor]:
    """The names and shapes of older files as open_clip takes them: a text tower at the top of a model that keeps it under
    `text.`, logit scale and bias of shape () or (1,), buffers that were stored once. Values stay; nothing is resized."""
    given = open_clip.convert.convert_state_dict(net, dict(given))
    if "positional_embedding" in given and not hasattr(net, "positional_embedding"):
        given = open_clip.model.convert_to_custom_text_state_dict(given)
    for name in ("logit_scale", "logit_bias"):
        if name in given and name in wanted and given[name].numel() == 1:
            given[name] = given[name].reshape(wanted[name].shape)
    stored_once = ("attn_mask", "embeddings.position_ids")
    return {name: tensor for name, tensor in given.items() if name in wanted or not name.endswith(stored_once)}


def digest(state: dict[str, Tensor], config: dict[str, Any]) -> str:
    """Hex SHA-256 of every tensor (by name, in float32) and of the config."""
    total = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for name in sorted(state):
        tensor = state[name].detach().cpu()
        tensor = tensor.float() if tensor.is_floating_point() else tensor
        total.update(f"{name} {tuple(tensor.shape)}".encode())
        total.update(tensor.contiguous().numpy().reshape(-1).view("uint8").data)
    return total.hexdigest()
