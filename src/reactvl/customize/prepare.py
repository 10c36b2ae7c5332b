"""The model to start from, and the model to train."""

import copy
from pathlib import Path

import torch

from reactvl.customize.request import Request
from reactvl.manifest import ReactvlError
from reactvl.models import load
from reactvl.models.gates import gated_layers, residual_blocks
from reactvl.models.model import Model, with_gates


def starting_model(request: Request) -> Model:
    """The model that the request names, with the weights of `--resume FILE` where it gives one.

    `--resume latest` is what a run does anyway, to go on from its own checkpoint; the model's weights stand in its name.
    """
    flags = {"quick_gelu": request.force_quick_gelu}
    if request.resume is None or request.resume == "latest":
        return load(request.model, **flags)
    path = Path(request.resume)
    if not path.exists():
        raise ReactvlError(f"resume {request.resume}: no such file; give a file of weights, or `latest`")
    from reactvl.models.weights import load_into

    if names_architecture(request.model):
        from reactvl.models import architecture

        return load_into(architecture(str(request.model), seed=request.seed, **flags), path)
    return load_into(load(request.model, **flags), path)


def names_architecture(model: object) -> bool:
    """Whether a model is given as an architecture's name alone, without a tag and no file or folder."""
    return isinstance(model, str) and not any(sign in model for sign in ":/\\") and not Path(model).exists()


def trained_model(request: Request, base: Model) -> Model:
    """The model to train: a copy of the base, with fresh gates where gates are to be trained and it has none."""
    layers = gated_layers(base.net.visual)
    if request.tune != "gated-image":
        if request.last_k is not None:
            raise ReactvlError(f"last_k = {request.last_k}: only tune gated-image makes gates")
        return copy_of(base)
    if layers:
        if request.last_k not in (None, len(layers)):
            raise ReactvlError(
                f"last_k = {request.last_k}: the model has gates in {len(layers)} blocks already; leave last_k out"
            )
        return copy_of(base)
    count = len(residual_blocks(base.net.visual))
    last_k = request.last_k or (12 if count >= 48 else min(6, count))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(request.seed)
        return with_gates(base, last_k)


def copy_of(base: Model) -> Model:
    """A copy whose training leaves the base as it is."""
    return Model(base.name, copy.deepcopy(base.net), copy.deepcopy(base.config))
