"""One run of the export stage on a model: as a folder, as the released code's state dict, or as an ONNX classifier."""

import copy
import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from reactvl.manifest import InputId, ReactvlError, Stage, input_id, read_manifest, stage_folder
from reactvl.models import load, onnx, released
from reactvl.models.gates import gated_layers
from reactvl.models.interpolation import interpolated
from reactvl.models.model import Model
from reactvl.progress import say
from reactvl.tasks.classes import read_classes
from reactvl.tasks.templates import read_templates

DTYPES = {"fp32": torch.float32, "fp16": torch.float16}


@dataclasses.dataclass
class Request:
    """The options of `export` that are for models."""

    source: Any
    state_dict: bool
    onnx: bool
    classes: Any
    templates: Any
    interpolate: float | None
    base: Any
    precision: str

    @property
    def form(self) -> str:
        return "onnx" if self.onnx else "state dict" if self.state_dict else "folder"


def run_stage(request: Request, out: Path, *, overwrite: bool) -> Path:
    """See `reactvl.export.export`."""
    check(request)
    names = read_classes(request.classes) if request.onnx else None
    prompts = read_templates(request.templates or "openai") if request.onnx else None
    model, base = the_model(request)
    if request.precision == "fp16":
        model = rounded(model)
    options = {
        "form": request.form,
        "model": model.id.sha256,
        "interpolate": request.interpolate,
        "base": base,
        "precision": request.precision,
        "classes": names,
        "templates": prompts,
    }
    writer = {"folder": write_folder, "state dict": write_state_dict, "onnx": write_onnx}[request.form]
    inputs = inputs_of(request.source, out)
    with stage_folder(out, "export", options=options, inputs=inputs, model=model.id, overwrite=overwrite) as stage:
        if stage.done:
            say(f"export: {out} is up to date")
            return out
        facts, said = written(stage, lambda folder: writer(model, folder, options))
        counts = {"tensors": len(model.net.state_dict()), "gated_layers": len(gated_layers(model.net.visual))}
        stage.finish(counts=counts, facts={"logit_scale": model.logit_scale, **facts})
    say(f"export: {said.format(out=out)}")
    return out


def check(request: Request) -> None:
    """ReactvlError for options that contradict one another, before any work."""
    if request.state_dict and request.onnx:
        raise ReactvlError("export: ask for one of --state-dict and --onnx")
    if request.onnx:
        onnx.require_packages()
        if request.classes is None:
            raise ReactvlError("export: --onnx folds a classifier's head in; name its --classes")
        if request.precision != "fp32":
            raise ReactvlError(
                f"export: --precision {request.precision} is for folders and state dicts; ONNX is float32"
            )
    elif request.classes is not None or request.templates is not None:
        raise ReactvlError("export: --classes and --templates are for --onnx")
    if request.interpolate is None and request.base is not None:
        raise ReactvlError("export: --base is for --interpolate; give a share of the way too")
    if request.interpolate is not None and not 0 <= request.interpolate <= 1:
        raise ReactvlError(
            f"export: --interpolate {request.interpolate}: give a share from 0 (the base) to 1 (the model)"
        )


def the_model(request: Request) -> tuple[Model, str | None]:
    """The model to write, and the hash of the base that entered it."""
    tuned = load(request.source)
    if request.interpolate is None:
        return tuned, None
    base = load(request.base) if request.base is not None else base_of(request.source)
    return interpolated(base, tuned, request.interpolate), base.id.sha256


def base_of(source: Any) -> Model:
    """The model that a customize stage started from; ReactvlError when that is not known, gone or no longer the same."""
    if not isinstance(source, str | Path) or not (Path(source) / "manifest.json").exists():
        raise ReactvlError(f"export: what {source} was tuned from is not known; name it with --base")
    known = read_manifest(source, "customize").model
    try:
        base = load(known.name)
    except ReactvlError as fault:
        raise ReactvlError(f"{source}: its base is not there any more ({fault}); name it with --base") from None
    if base.id.sha256 != known.sha256:
        raise ReactvlError(f"{source}: its base {known.name} has changed since; name the one it was, with --base")
    return base


def rounded(model: Model) -> Model:
    """A copy that computes with the numbers as float16 holds them; ReactvlError for one that it cannot hold."""
    net = copy.deepcopy(model.net)
    for name, tensor in net.state_dict().items():
        if tensor.is_floating_point():
            half = tensor.half()
            if half.isinf().any() and not tensor.isinf().any():
                raise ReactvlError(f"{model.name}: {name} holds numbers that fp16 cannot ({tensor.abs().max():.3g})")
            tensor.copy_(half)
    return Model(model.name, net, copy.deepcopy(model.config))


def inputs_of(source: Any, out: Path) -> dict[str, InputId]:
    """The customize stage's folder; anything else is known by the model's hash."""
    if isinstance(source, str | Path) and (Path(source) / "manifest.json").exists():
        return {"model": input_id(source, out)}
    return {}


def written(stage: Stage, write: Callable[[Path], tuple[dict, str]]) -> tuple[dict, str]:
    """Let `write` fill a folder of work and move what it wrote to its place; nothing stays of what cannot be written."""
    folder = stage.work / "new"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        result = write(folder)
    except ReactvlError:
        shutil.rmtree(stage.work, ignore_errors=True)
        raise
    for path in sorted(folder.iterdir()):
        os.replace(path, stage.out / path.name)
    folder.rmdir()
    return result


def write_folder(model: Model, folder: Path, options: dict[str, Any]) -> tuple[dict, str]:
    """The model folder."""
    model.save(folder, DTYPES[options["precision"]])
    if why := foreign(model):
        return {"open_clip": False}, f"model folder {{out}}: this package loads it ({why})"
    return {"open_clip": True}, 'open_clip folder {out}: open_clip.create_model_and_transforms("local-dir:{out}")'


def foreign(model: Model) -> str | None:
    """What open_clip's own loader would not know of the model; None for an ordinary one."""
    if layers := gated_layers(model.net.visual):
        return f"gates in blocks {layers[0]} to {layers[-1]}"
    if model.config.get("reactvl", {}).get("stem"):
        return "a convolutional stem"
    if str(model.config["model_cfg"]["text_cfg"].get("hf_model_name", "")).startswith("package:"):
        return "its text tower comes in a Python package"
    return None


def write_state_dict(model: Model, folder: Path, options: dict[str, Any]) -> tuple[dict, str]:
    """`model.pt`, plain tensors by name."""
    torch.save(released.state_dict(model, DTYPES[options["precision"]]), folder / "model.pt")
    return {}, "state dict {out}/model.pt, in the names of REACT's released code"


def write_onnx(model: Model, folder: Path, options: dict[str, Any]) -> tuple[dict, str]:
    """`model.onnx`, and how far it is from torch."""
    classes, templates = options["classes"], options["templates"]
    say(f"export: encoding {len(classes):,} classes in {len(templates)} templates, then tracing the image tower")
    widest = onnx.write(model, classes, templates, folder / "model.onnx")
    facts = {"largest_deviation": widest, "allowed_deviation": onnx.TOLERANCE}
    return facts, f"{{out}}/model.onnx, {len(classes):,} classes; its logits are within {widest:.2g} of torch's"
