"""A model's weights in the names of REACT's released code, for those who go on with that code.

Its networks are open_clip's `CLIP` with gates: the flat names `visual.`, `transformer.`, `token_embedding.`, ... A model whose
text tower open_clip keeps apart (`CustomTextCLIP`, names `text.`) is the same network under other names, if both towers are
open_clip's own.
"""

import torch
from torch import Tensor

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models.model import Model


def state_dict(model: Model, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The model's tensors, on the CPU, under the released names; floating-point ones in `dtype` (released files are float16).

    Raises ReactvlError for a model that the released code has no network for.
    """
    net = model.net
    refuse = f"{model.name}: the released code has no such network"
    if not isinstance(net.visual, open_clip.transformer.VisionTransformer) or hasattr(net.visual.conv1, "stem"):
        raise ReactvlError(f"{refuse} (image tower {type(net.visual).__name__}); export the model folder instead")
    text = getattr(net, "text", None)
    if text is not None and (type(text) is not open_clip.transformer.TextTransformer or text.cls_emb is not None):
        raise ReactvlError(f"{refuse} (text tower {type(text).__name__}); export the model folder instead")
    if net.logit_bias is not None:
        raise ReactvlError(f"{refuse} (SigLIP's logit_bias); export the model folder instead")
    return {
        name.removeprefix("text."): (tensor.to(dtype) if tensor.is_floating_point() else tensor).cpu().clone()
        for name, tensor in net.state_dict().items()
    }
