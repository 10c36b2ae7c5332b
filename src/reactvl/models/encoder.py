"""One encoder for every stage: batches, precision, trimming and repeated captions are decided here and nowhere else.

What comes out for an item depends only on the items of the same call, never on the machine's load, so that the embed
stage, which encodes shard by shard, gives the same bytes again.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models.prepacked import can_prepack, prepacked
from reactvl.models.weights import digest

if TYPE_CHECKING:
    from reactvl.models.model import Model

TEXT_BATCH = 128
IMAGES_A_THREAD = 32


class Encoder:
    """Vectors of images and texts from one model on one device.

    `precision`: "auto" is bf16 where the machine has it (CPUs with AVX512-BF16 or AMX, GPUs since Ampere), else fp32.
    On a CPU a tower computes from a packed copy of its weights, made when it is first used: a later change of the
    model's weights does not reach it.
    """

    def __init__(self, model: "Model", *, device: str = "auto", precision: str = "auto"):
        self.model = model
        self.device = choose_device(device)
        self.precision = choose_precision(precision, self.device)
        self.net = model.net.to(self.device)
        self.hybrid = hasattr(model.net.visual, "conv1") and hasattr(model.net.visual.conv1, "stem")
        if self.hybrid:
            model.net.visual.conv1.stem.to(memory_format=torch.channels_last)  # 3x for bf16 convolutions on CPU
        self.trims = trims_exactly(model)

    def images(self, pixels: Tensor) -> np.ndarray:
        """L2-normalised vectors (B, dim) float32 of uint8 pixels (B, 3, H, W), already resized and cropped."""
        with torch.inference_mode(), autocast(self.device, self.precision):
            # on a CPU a few at a time, so that what a layer gives is still in the cache when the next one takes it
            some = len(pixels) if self.device.type != "cpu" else IMAGES_A_THREAD * torch.get_num_threads()
            vectors = [
                self._image_net.encode_image(self.model.normalise(part.to(self.device, non_blocking=True))).float()
                for part in pixels.split(max(some, 1))
            ]
            return F.normalize(torch.cat(vectors), dim=-1).cpu().numpy()

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """L2-normalised vectors (N, dim) float32; each distinct text is encoded once, among texts of its own length."""
        return self.begin_texts(texts).vectors()

    def begin_texts(self, texts: Sequence[str]) -> "Texts":
        """`texts`, a batch at a time, so that other work can go on in between."""
        return Texts(
            self,
            texts,
            self.model.id.dim,
            lambda tokens: F.normalize(text_features(self._text_net, tokens).float(), dim=-1),
        )

    def pooled_texts(self, texts: Sequence[str]) -> np.ndarray:
        """What a Hugging Face text tower gives before its projection (N, width) float32."""
        tower = self._text_net.text

        def pooled(tokens: Tensor) -> Tensor:
            mask = (tokens != tower.config.pad_token_id).long()
            return tower.pooler(tower.transformer(input_ids=tokens, attention_mask=mask), mask).float()

        return Texts(self, texts, tower.transformer.config.hidden_size, pooled).vectors()

    @functools.cached_property
    def _image_net(self) -> torch.nn.Module:
        return self._for_inference("image")

    @functools.cached_property
    def _text_net(self) -> torch.nn.Module:
        return self._for_inference("text")

    def _for_inference(self, tower: str) -> torch.nn.Module:
        if self.device.type != "cpu" or not can_prepack(self.precision):
            return self.net
        if tower == "image" and self.hybrid:
            return self.net  # its time goes into the convolutions of its stem: 307 images/s as it is, 305 packed
        return prepacked(self.net, tower, torch.bfloat16 if self.precision == "bf16" else torch.float32)

    @functools.cached_property
    def exact(self) -> "Encoder":
        """This encoder in float32: for the few texts that judge many images."""
        if self.precision == "fp32":
            return self
        return Encoder(self.model, device=str(self.device), precision="fp32")

    @property
    def pad_id(self) -> int:
        return pad_id(self.model)

    @functools.cached_property
    def text_sha256(self) -> str:
        """SHA-256 of the text tower: what its vectors depend on. Models customized with a locked text tower share it."""
        return text_sha256(self.model.net.state_dict(), self.model.config)


class Texts:
    """Texts on their way through the text tower: the distinct ones, in batches of about equal length."""

    def __init__(self, encoder: Encoder, texts: Sequence[str], width: int, encode: Callable[[Tensor], Tensor]):
        self.encoder, self.encode = encoder, encode
        distinct = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        self.rows = np.array([distinct[text] for text in texts], np.int64)  # (N,) of the distinct texts' vectors
        self.tokens = encoder.model.tokenize(list(distinct)) if distinct else torch.zeros((0, 1), dtype=torch.int64)
        self.lengths = token_lengths(self.tokens, encoder.pad_id)
        self.batches = torch.argsort(self.lengths, stable=True).split(TEXT_BATCH) if distinct else ()
        self.done = 0  # batches
        self.found = np.empty((len(distinct), width), np.float32)

    def advance(self, share: float) -> None:
        """Encode until `share` (0 to 1) of the batches are done."""
        encoder = self.encoder
        while self.done < share * len(self.batches):
            rows = self.batches[self.done]
            batch = self.tokens[rows, : int(self.lengths[rows].max())] if encoder.trims else self.tokens[rows]
            with torch.inference_mode(), autocast(encoder.device, encoder.precision):
                self.found[rows.numpy()] = self.encode(batch.to(encoder.device)).cpu().numpy()
            self.done += 1

    def vectors(self) -> np.ndarray:
        """The vectors (N, width) float32 of all texts, encoding those that are still to do."""
        self.advance(1)
        return self.found[self.rows]


def text_sha256(state: dict[str, Tensor], config: dict[str, Any]) -> str:
    """SHA-256 of the text tower in a model's state dict and config, the activation included, which both towers share."""
    text = {name: tensor for name, tensor in state.items() if not name.startswith(("visual.", "logit_"))}
    return digest(text, {name: value for name, value in config["model_cfg"].items() if name != "vision_cfg"})


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


def choose_devices(text: str) -> list[torch.device]:
    """The devices of one run: `cuda:all` is every GPU of this machine, `cuda:0,cuda:1` these two, `auto` one."""
    if text == "cuda:all":
        count = torch.cuda.device_count()
        if not count:
            raise ReactvlError("device 'cuda:all': this machine's PyTorch sees no GPU")
        return [torch.device("cuda", number) for number in range(count)]
    return [choose_device(part.strip()) for part in text.split(",")]


def choose_device(device: str) -> torch.device:
    """`auto` is the GPU where there is one; ReactvlError for a device that this machine lacks."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise ReactvlError(f"device {device!r}: no such device; use auto, cpu or cuda") from None
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise ReactvlError(f"device {device!r}: this machine's PyTorch sees {torch.cuda.device_count() or 'no'} GPU")
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
    if device.type == "cpu" and precision == "fp32" and not torch.cpu._is_amx_tile_supported():
        torch.set_float32_matmul_precision("medium")  # where there are bf16 matrix units it would use those
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def fix_threads(count: int | None = None) -> int:
    """Set the number of compute threads of this process (default: its cores) and return it, to be recorded."""
    count = count or len(os.sched_getaffinity(0))
    torch.set_num_threads(count)
    return count
