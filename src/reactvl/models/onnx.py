"""A classifier as one ONNX file: pixels in, logits and probabilities out; no Python, text tower or tokenizer where it runs.

    session = onnxruntime.InferenceSession("model.onnx")
    logits, probabilities = session.run(None, {"images": pixels})       # pixels: uint8 (N, 224, 224, 3), RGB
    classes = json.loads(session.get_modelmeta().custom_metadata_map["classes"])

The input is what a decoder and a resize leave: bytes, a quarter of the traffic of floats. Mean and std are part of the graph, so
that no caller can get them wrong; size, resize and crop, which are the caller's, stand in the metadata under `preprocess`.
"""

import contextlib
import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reactvl.manifest import ReactvlError
from reactvl.models.classifier import LOGIT_SCALE, Classifier
from reactvl.models.model import Model

PACKAGES = ("onnx", "onnxruntime", "onnxscript")
TOLERANCE = 0.01  # of a logit, which is 100 x cosine; float32 runtimes differ by about 1e-4
ONE_FILE = 1_800_000_000  # bytes of weights that still fit into a protobuf; above, they lie beside the file
FORMAT = {
    "input": "images: uint8 (N, height, width, 3), RGB",
    "outputs": "logits (100 x cosine), probabilities (softmax)",
}


def require_packages() -> None:
    """ReactvlError when what writes and checks ONNX files is not installed."""
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise ReactvlError(f"ONNX export needs {', '.join(missing)}: pip install 'reactvl[onnx]'")


def write(model: Model, classes: Sequence, templates: str | Sequence[str], path: str | Path) -> float:
    """Write the image tower with the classes' head; returns the largest deviation of a logit, onnxruntime against torch.

    Batches of any size; the arithmetic is float32. Weights of over 1.8 GB go to `NAME.onnx.data` beside the file. Raises
    ReactvlError when the packages are missing, and, leaving no file, when the tower cannot be exported or the file
    computes something else than the model.
    """
    require_packages()
    path = Path(path)
    classifier = Classifier(model, classes, templates, precision="fp32")
    net = ImageClassifier(model, classifier.weights)
    try:
        trace(net, model.image_size, path)
        describe(path, classifier)
        return deviation(net, model.image_size, path)
    except BaseException:
        for left in (path, path.with_name(f"{path.name}.data")):
            left.unlink(missing_ok=True)
        raise


class ImageClassifier(nn.Module):
    """Pixels uint8 (N, H, W, 3) to logits and probabilities (N, classes) float32."""

    def __init__(self, model: Model, head: np.ndarray):
        super().__init__()
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.mean, model.std))
        self.visual = model.net.visual
        self.register_buffer("factor", 1 / (255 * std))
        self.register_buffer("offset", mean / std)
        self.register_buffer("head", LOGIT_SCALE * torch.from_numpy(head).T.contiguous())  # (dim, classes)
        self.to(model.device).eval()

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.permute(0, 3, 1, 2).to(torch.float32) * self.factor - self.offset  # (N, 3, H, W)
        features = self.visual(pixels)
        features = features[0] if isinstance(features, tuple) else features  # towers that give their tokens as well
        logits = F.normalize(features, dim=-1) @ self.head
        return logits, logits.softmax(dim=-1)


def trace(net: ImageClassifier, size: int, path: Path) -> None:
    """The file, by torch's exporter; ReactvlError with its reason where it cannot."""
    weights = sum(tensor.numel() * tensor.element_size() for tensor in net.state_dict().values())
    sample = torch.zeros((2, size, size, 3), dtype=torch.uint8, device=net.head.device)
    batch = torch.export.Dim("batch", min=1, max=1 << 20)
    try:
        with quiet(), torch.inference_mode(False), torch.no_grad():
            torch.onnx.export(
                net, (sample,), path, dynamo=True, external_data=weights > ONE_FILE, dynamic_shapes={"images": {0: batch}},
                input_names=["images"], output_names=["logits", "probabilities"], verbose=False,
            )  # fmt: skip
    except (torch.onnx.errors.OnnxExporterError, torch._dynamo.exc.TorchDynamoException, RuntimeError) as fault:
        reason = str(fault).strip().splitlines() or [type(fault).__name__]
        raise ReactvlError(f"{path.name}: the image tower cannot be written as ONNX ({reason[0]})") from fault


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """The exporter tells its progress and its plans for later versions; what fails still raises."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def describe(path: Path, classifier: Classifier) -> None:
    """Class names, preprocessing and origin into the file's `metadata_props`, as JSON."""
    import onnx

    model = classifier.model
    facts = {
        "classes": classifier.classes,
        "templates": classifier.templates,
        "preprocess": {
            "size": model.image_size,
            "resize_mode": model.resize_mode,
            "interpolation": model.interpolation,
            "colour": "RGB",
            "normalised in the graph": {"mean": list(model.mean), "std": list(model.std)},
        },
        "format": FORMAT,
        "model": {"name": model.name, "sha256": model.id.sha256},
    }
    file = onnx.load(path, load_external_data=False)
    for key, value in facts.items():
        file.metadata_props.add(key=key, value=json.dumps(value, ensure_ascii=False))
    path.write_bytes(file.SerializeToString())


def deviation(net: ImageClassifier, size: int, path: Path) -> float:
    """The largest difference of a logit between onnxruntime and torch, on batches of 1 and 3 pictures; ReactvlError above
    TOLERANCE, and where the probabilities are not the logits' softmax."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as fault:  # onnxruntime's own kinds, one for every way in which a file can be bad
        raise ReactvlError(
            f"{path.name}: onnxruntime cannot read what was written ({str(fault).splitlines()[0]})"
        ) from None
    widest = 0.0
    for pixels in probes(size):
        given = session.run(None, {"images": pixels.numpy()})
        with torch.inference_mode(), torch.autocast(net.head.device.type, enabled=False):
            wanted = [out.cpu().numpy() for out in net(pixels.to(net.head.device))]
        odd = float(np.abs(given[1] - wanted[1]).max())
        widest = max(widest, float(np.abs(given[0] - wanted[0]).max()))
        if not (widest <= TOLERANCE and odd <= TOLERANCE):  # not: NaN is a failure too
            raise ReactvlError(
                f"{path.name}: onnxruntime's logits differ from torch's by up to {widest:.3g} (allowed {TOLERANCE}); not written"
            )
    return widest


def probes(size: int) -> list[Tensor]:
    """Pixels to compare on: noise, a smooth gradient, and black."""
    noise = torch.randint(0, 256, (size, size, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    ramp = torch.linspace(0, 255, size).to(torch.uint8)
    smooth = torch.stack([ramp.expand(size, size), ramp.expand(size, size).T, ramp.flip(0).expand(size, size)], dim=-1)
    return [noise[None], torch.stack([noise, smooth, torch.zeros_like(noise)])]
