"""One encoder for every stage: batches, precision, trimming and repeated captions are decided here and nowhere else.

What comes out for an item depends only on the items of the same call, never on the machine's load, so that the embed
stage, which encodes shard by shard, gives the same bytes again.
"""

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError

if TYPE_CHECKING:
    from reactvl.models.model import Model

TEXT_BATCH = 128


class Encoder:
    """Vectors of images and texts from one model on one device.

    `precision`: "auto" is bf16 where the machine has it (CPUs with AVX512-BF16 or AMX, GPUs since Ampere), else fp32.
    """

    def __init__(self, model: "Model", *, device: str = "auto", precision: str = "auto"):
        self.model = model
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.net = model.net.to(self.device)
        if hasattr(model.net.visual, "conv1") and hasattr(model.net.visual.conv1, "stem"):
            model.net.visual.conv1.stem.to(memory_format=torch.channels_last)  # 3x for bf16 convolutions on CPU
        self.trims = trims_exactly(model)

    def images(self, pixels: Tensor) -> np.ndarray:
        """L2-normalised vectors (B, dim) float32 of uint8 pixels (B, 3, H, W), already resized and cropped."""
        with torch.inference_mode(), autocast(self.device, self.precision):
            inputs = self.model.normalise(pixels.to(self.device, non_blocking=True))
            vectors = self.net.encode_image(inputs)
        return F.normalize(vectors.float(), dim=-1).cpu().numpy()

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """L2-normalised vectors (N, dim) float32; each distinct text is encoded once, among texts of its own length."""
        return self._distinct(
            texts, self.model.id.dim, lambda tokens: F.normalize(text_features(self.net, tokens).float(), dim=-1)
        )

    def pooled_texts(self, texts: Sequence[str]) -> np.ndarray:
        """What a Hugging Face text tower gives before its projection (N, width) float32."""
        tower = self.net.text
        width = tower.transformer.config.hidden_size

        def pooled(tokens: Tensor) -> Tensor:
            mask = (tokens != tower.config.pad_token_id).long()
            return tower.pooler(tower.transformer(input_ids=tokens, attention_mask=mask), mask).float()

        return self._distinct(texts, width, pooled)

    def _distinct(self, texts: Sequence[str], width: int, encode: Callable[[Tensor], Tensor]) -> np.ndarray:
        distinct = list(dict.fromkeys(texts))
        if not distinct:
            return np.zeros((0, width), np.float32)
        tokens = self.model.tokenize(distinct)
        lengths = token_lengths(tokens, self.pad_id)
        vectors = np.empty((len(distinct), width), np.float32)
        for rows in torch.argsort(lengths, stable=True).split(TEXT_BATCH):
            batch = tokens[rows, : int(lengths[rows].max())] if self.trims else tokens[rows]
            with torch.inference_mode(), autocast(self.device, self.precision):
                vectors[rows.numpy()] = encode(batch.to(self.device)).cpu().numpy()
        place = {text: row for row, text in enumerate(distinct)}
        return vectors[[place[text] for text in texts]]

    @property
    def pad_id(self) -> int:
        return pad_id(self.model)


def text_features(net: torch.nn.Module, tokens: Tensor) -> Tensor:
    """Text features (N, dim), not normalised, of tokens (N, L), L at most the context length."""
    if not isinstance(net, open_clip.CLIP):
        return net.text(tokens)
    # open_clip's CLIP.encode_text, with positions and mask cut to the tokens' length
    length = tokens.shape[1]
    dtype = net.transformer.get_cast_dtype()
    x = net.token_embedding(tokens).to(dtype) + net.positional_embedding[:length].to(dtype)  # (N, L, width)
    mask = None if net.attn_mask is None else net.attn_mask[:length, :length]
    x = net.ln_final(net.transformer(x, attn_mask=mask))
    x = open_clip.transformer.text_global_pool(
        x, tokens, net.text_pool_type, eos_token_id=getattr(net, "text_eos_id", None)
    )
    if net.text_projection is None:
        return x
    return net.text_projection(x) if isinstance(net.text_projection, torch.nn.Linear) else x @ net.text_projection


def trims_exactly(model: "Model") -> bool:
    """Whether padding can be cut: a causal tower pooled at its end token, or one that masks padding, as tried here."""
    if (
        isinstance(model.net, open_clip.CLIP)
        and model.net.text_pool_type in ("argmax", "eos")
        and model.net.attn_mask is not None
    ):
        return True
    if isinstance(model.net, open_clip.CLIP):
        return False
    if not isinstance(model.net.text, open_clip.hf_model.HFTextEncoder):
        return False
    tokens = model.tokenize(["a red panda", "two words and some more of them"])
    length = int(token_lengths(tokens, pad_id(model)).max())
    if length == tokens.shape[1]:
        return True
    with torch.inference_mode():
        whole = F.normalize(model.net.text(tokens.to(model.device)).float(), dim=-1)
        cut = F.normalize(model.net.text(tokens[:, :length].to(model.device)).float(), dim=-1)
    return bool((whole - cut).abs().max() < 1e-5)


def token_lengths(tokens: Tensor, pad: int) -> Tensor:
    """The number of tokens (N,) up to the last that is not padding."""
    places = torch.arange(1, tokens.shape[1] + 1)
    return ((tokens != pad) * places).amax(dim=1).clamp(min=1)


def pad_id(model: "Model") -> int:
    """The token that fills up a context."""
    text = getattr(model.net, "text", None)
    return getattr(getattr(text, "config", None), "pad_token_id", None) or 0


def choose_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one; ReactvlError for a device that this machine lacks."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ReactvlError(f"device {device!r}: no such device; use auto, cpu or cuda") from None
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise ReactvlError(f"device {device!r}: this machine's PyTorch sees no GPU")
    return chosen


def choose_precision(precision: str, device: torch.device) -> str:
    """ "bf16" or "fp32"."""
    if precision not in ("auto", "bf16", "fp32"):
        raise ReactvlError(f"precision {precision!r}: use auto, bf16 or fp32")
    if precision != "auto":
        return precision
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
    return "bf16" if torch.cpu._is_avx512_bf16_supported() else "fp32"


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision for the network's forward pass; float32 products go through oneDNN on CPU."""
    if device.type == "cpu" and precision == "fp32":
        torch.set_float32_matmul_precision("medium")
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def fix_threads(count: int | None = None) -> int:
    """Set the number of compute threads of this process (default: its cores) and return it, to be recorded."""
    count = count or len(os.sched_getaffinity(0))
    torch.set_num_threads(count)
    return count
