"""Imports open_clip (and with it timm and torchvision) so that it works beside a CPU-only torch.

The torchvision wheel is built for CUDA; beside a CPU build of torch its import fails with `operator torchvision::nms does
not exist`, and open_clip's and timm's with it. Defining the two missing operators (without an implementation: nobody here
calls them) lets transforms, models and open_clip import. Everything in this package that needs open_clip, timm or
torchvision imports through here: `from reactvl.clip_imports import open_clip`.
"""

import sys

import torch


def _torchvision() -> object:
    try:
        import torchvision
    except RuntimeError as fault:
        if "torchvision::nms" not in str(fault):
            raise
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]  # half imported
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision

        torchvision._operators_defined_by_reactvl = library  # the definitions live as long as this reference
    return torchvision


torchvision = _torchvision()

import open_clip  # noqa: E402 - only after torchvision is whole
import timm  # noqa: E402

__all__ = ["open_clip", "timm", "torchvision"]
