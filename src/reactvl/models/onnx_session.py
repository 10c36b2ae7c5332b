"""A classifier from the ONNX file that `reactvl export --onnx` wrote, by onnxruntime: classes and preprocessing are in it.

    pandas = OnnxClassifier("classifier/model.onnx")
    pandas.classes                                   # ["red panda", "raccoon"]
    pandas.images(pixels)                            # logits of uint8 pixels (N, 3, 224, 224)

It stands where an `Encoder` does: `model` says how pixels are made, `images` gives a row an image. Files of other makers,
which lack the metadata, are refused: nothing about their pixels is guessed.
"""

import dataclasses
import hashlib
import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from reactvl.manifest import ModelId, ReactvlError

SUFFIX = ".onnx"
IN_FOLDER = "model.onnx"  # as `export --onnx --out FOLDER` names it
RESIZE_MODES, INTERPOLATIONS = ("shortest", "longest", "squash"), ("bicubic", "bilinear")
MOST_PIXELS = 4096  # of a side


@dataclasses.dataclass(frozen=True)
class OnnxModel:
    """What the file says of itself; `id.dim` is the number of classes, the width of what `images` gives."""

    id: ModelId
    image_size: int
    resize_mode: str
    interpolation: str


def onnx_file(model: Any) -> Path | None:
    """The ONNX file that `model` names: a `.onnx` path, or a folder that `export --onnx` wrote; None for other models."""
    if not isinstance(model, str | Path):
        return None
    path = Path(model).expanduser()
    if path.suffix.lower() == SUFFIX:
        return path
    there = (path / IN_FOLDER).is_file() and not (path / "open_clip_config.json").exists()
    return path / IN_FOLDER if there else None


class OnnxClassifier:
    """An open session. `classes` are the names, `templates` the sentences that its head was made of.

    `device`: auto (a GPU where this onnxruntime has one), cpu, cuda or cuda:N. The arithmetic is float32. Raises
    ReactvlError for a missing package, a file that is gone or damaged, and one that says nothing of its classes.
    """

    precision = "fp32"

    def __init__(self, path: str | Path, *, device: str = "auto"):
        self.path = Path(path).expanduser()
        if importlib.util.find_spec("onnxruntime") is None:
            raise ReactvlError(f"{self.path}: needs onnxruntime: pip install onnxruntime")
        if not self.path.is_file():
            raise ReactvlError(f"{self.path}: no such ONNX file")
        self.session = opened(self.path, providers(device))
        metadata = self.session.get_modelmeta().custom_metadata_map
        self.classes: list[str] = texts(self.path, metadata, "classes")
        self.templates: list[str] = texts(self.path, metadata, "templates")
        self.model = model_of(self.path, metadata, len(self.classes))
        check_tensors(self.path, self.session, self.model)

    def images(self, pixels: Tensor) -> np.ndarray:
        """Logits (N, classes) float32, 100 x cosine, of uint8 pixels (N, 3, size, size), resized and cropped."""
        rows = np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())  # (N, size, size, 3)
        return self.session.run(["logits"], {"images": rows})[0]


def opened(path: Path, wanted: list) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(path, options, providers=wanted)
    except Exception as fault:  # onnxruntime's own kinds, one for every way in which a file can be bad
        reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise ReactvlError(f"{path}: onnxruntime cannot read it ({reason})") from None


def providers(device: str) -> list:
    """onnxruntime's names for a device; ReactvlError for one that this onnxruntime lacks."""
    import onnxruntime

    kind, _, number = device.partition(":")
    have = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
    if kind not in ("auto", "cpu", "cuda") or (number and not (kind == "cuda" and number.isdigit())):
        raise ReactvlError(f"device {device!r}: no such device; use auto, cpu or cuda")
    if kind == "cuda" and not have:
        raise ReactvlError(f"device {device!r}: this onnxruntime has no CUDA; install onnxruntime-gpu or use cpu")
    if kind == "cpu" or not have:
        return ["CPUExecutionProvider"]
    return [("CUDAExecutionProvider", {"device_id": int(number or 0)}), "CPUExecutionProvider"]


def texts(path: Path, metadata: dict[str, str], key: str) -> list[str]:
    """A list of texts from the metadata; ReactvlError where there is none."""
    found = said(path, metadata, key)
    if not isinstance(found, list) or not found or not all(isinstance(text, str) for text in found):
        raise foreign(path, f"its metadata `{key}` is no list of texts")
    return found


def model_of(path: Path, metadata: dict[str, str], classes: int) -> OnnxModel:
    about = said(path, metadata, "preprocess")
    about = about if isinstance(about, dict) else {}
    size, mode, interpolation = (about.get(key) for key in ("size", "resize_mode", "interpolation"))
    good = type(size) is int and 0 < size <= MOST_PIXELS and mode in RESIZE_MODES and interpolation in INTERPOLATIONS
    if not good:
        raise foreign(path, "its metadata `preprocess` gives no size, resize_mode and interpolation that are known")
    return OnnxModel(ModelId(str(path), sha256_of(path), classes), size, mode, interpolation)


def said(path: Path, metadata: dict[str, str], key: str) -> Any:
    if key not in metadata:
        raise foreign(path, f"its metadata has no `{key}`")
    try:
        return json.loads(metadata[key])
    except (ValueError, RecursionError):
        raise foreign(path, f"its metadata `{key}` is no JSON") from None


def check_tensors(path: Path, session: Any, model: OnnxModel) -> None:
    """ReactvlError unless pixels go in and logits of the named classes come out."""
    inputs = {one.name: (one.type, list(one.shape)[1:]) for one in session.get_inputs()}
    wanted = {"images": ("tensor(uint8)", [model.image_size, model.image_size, 3])}
    if inputs != wanted:
        raise foreign(path, f"it takes {inputs}, not {wanted}")
    outputs = {one.name: list(one.shape)[1:] for one in session.get_outputs()}
    if outputs.get("logits") != [model.id.dim]:
        raise foreign(path, f"it has {model.id.dim} classes and gives {outputs}")


def foreign(path: Path, why: str) -> ReactvlError:
    return ReactvlError(f"{path}: {why}; use a file that `reactvl export MODEL --onnx --classes CLASSES` wrote")


def sha256_of(path: Path) -> str:
    """Hex SHA-256 of the file and of the weights beside it."""
    digest = hashlib.sha256()
    for part in (path, path.with_name(f"{path.name}.data")):
        if part.is_file():
            with open(part, "rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
