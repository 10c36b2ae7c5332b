"""The arithmetic that a training step needs, and the rate of this machine: their quotient is the least time of a step.

Counted are the products, two operations a multiplication with its addition: forward through everything; backward a product
for the gradient of a layer's input where something below is trained, and one for that of its weight where it is trained
itself. Nothing is counted twice that is computed twice, nor what the pooling does not take: MFU is what is needed at least
over what the machine could have done in the time.
"""

import contextlib
import functools
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from reactvl.models.prepacked import can_prepack
from reactvl.train import towers
from reactvl.train.frozen import TYPES, trains

SIDE = {"cpu": 2048, "cuda": 8192}  # of the square product that shows the machine's rate
TIMES = 5


def step_flops(net: nn.Module, batch: int, *, kept: str | None = None, text_length: int | None = None) -> float:
    """FLOPs of a step of `batch` pairs on a CLIP network, by the `requires_grad` of its parameters.

    `kept`: `Split.at` where the features of the lower part are read instead of computed. `text_length`: tokens of a text
    where the text tower runs in a step.
    """
    each = image_flops(net.visual, kept)
    if text_length:
        each += text_flops(net, text_length)
    return batch * each + 3 * 2 * batch * batch * features_of(net)  # the logits and their two gradients


def peak(device: torch.device | str, precision: str) -> float:
    """FLOP/s of one large square product on this device in this precision ("fp32", "bf16", "fp16"): the best of a few.

    Through the route that training takes: oneDNN's packed products on a CPU that has them. On a CPU with the threads that
    torch has now. Measured once a process, in about a second.
    """
    device = torch.device(device)
    return measured(device, precision, torch.get_num_threads() if device.type == "cpu" else 0)


@functools.cache
def measured(device: torch.device, precision: str, threads: int) -> float:
    side = SIDE.get(device.type, SIDE["cpu"])
    x, weight = (torch.randn(side, side, device=device).to(TYPES[precision]) for _ in range(2))
    packed = device.type == "cpu" and precision in ("fp32", "bf16") and can_prepack(precision)
    if packed:
        weight = torch.ops.mkldnn._reorder_linear_weight(weight)

    def product() -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "") if packed else F.linear(x, weight)

    best = float("inf")
    for _ in range(1 + TIMES):
        synchronise(device)
        began = time.perf_counter()
        product()
        synchronise(device)
        best = min(best, time.perf_counter() - began)
    return 2 * side**3 / best


def synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def image_flops(visual: nn.Module, kept: str | None = None) -> float:
    """FLOPs of an image's forward and backward pass: by formula for open_clip's ViT, counted while one image runs for other
    towers."""
    usual = towers.kind_of(visual) == "open_clip" and visual.attn_pool is None
    if not usual or not all(map(is_usual, towers.blocks_of(visual))):
        return counted_step(visual, torch.zeros(1, 3, *image_size(visual)))
    count = Count()
    tokens = visual.positional_embedding.shape[0]
    lowest = {"pixels": -1, "stem": -1, "features": len(visual.transformer.resblocks) + 1}
    start = 0 if kept is None else lowest.get(kept, -2)
    start = int(kept.removeprefix("block ")) if start == -2 else start  # the first block that runs
    embeds = any(map(trains, towers.embedding_of(visual)))
    if start <= 0 and not (kept or "").startswith("block"):
        stem = getattr(visual.conv1, "stem", None)
        projection = visual.conv1.proj if stem is not None else visual.conv1
        if stem is not None and kept != "stem":
            pixels = torch.zeros(1, 3, *image_size(visual))
            count.total += counted_step(stem, pixels) if trains(stem) else counted_forward(stem, pixels)
        count.linear(tokens - 1, projection.weight, stem is not None and trains(stem))
    reaching = embeds
    blocks = visual.transformer.resblocks
    for index, block in enumerate(blocks):
        if index < start:
            continue
        gate = getattr(block, "gated_attn_block", None)
        if gate is not None:
            reaching = count.block(gate, tokens, tokens, reaching)
        alone = index == len(blocks) - 1 and towers.first_suffices(visual)
        reaching = count.block(block, tokens, 1 if alone else tokens, reaching)
    if visual.proj is not None and kept != "features":
        count.linear(1, visual.proj, reaching or trains(visual.ln_post))
    return count.total


def is_usual(block: nn.Module) -> bool:
    return isinstance(getattr(block, "attn", None), nn.MultiheadAttention) and hasattr(block.mlp, "c_fc")


class Count:
    """A running count of FLOPs from the bottom of a tower upwards."""

    def __init__(self) -> None:
        self.total = 0.0

    def linear(self, rows: int, weight: Tensor, reaching: bool) -> bool:
        """A product of `rows` rows; `reaching` says whether its input needs a gradient. Returns whether its output does."""
        self.total += 2 * rows * weight.numel() * (1 + reaching + weight.requires_grad)
        return reaching or weight.requires_grad

    def block(self, block: nn.Module, tokens: int, asked: int, reaching: bool) -> bool:
        """A residual block, host or gate, of whose tokens `asked` are asked for."""
        attention, width = block.attn, block.attn.embed_dim
        inner = reaching or trains(block.ln_1)
        weight = attention.in_proj_weight
        for rows, share in ((asked, width), (tokens, 2 * width)):  # the queries; the keys and values
            self.total += 2 * rows * width * share * (1 + inner + weight.requires_grad)
        inner = inner or weight.requires_grad
        # logits and mixture, and a gradient for either factor
        self.total += 2 * 2 * asked * tokens * width * (1 + 2 * inner)
        inner = self.linear(asked, attention.out_proj.weight, inner)
        reaching = inner or trains(attention) or trains(block.ls_1) or self.opens(block, "alpha_attn")
        inner = reaching or trains(block.ln_2)
        for layer in (block.mlp.c_fc, block.mlp.c_proj):
            inner = self.linear(asked, layer.weight, inner) or trains(layer)
        return inner or trains(block.ls_2) or self.opens(block, "alpha_dense")

    @staticmethod
    def opens(block: nn.Module, name: str) -> bool:
        alpha = getattr(block, name, None)
        return alpha is not None and alpha.requires_grad


def text_flops(net: nn.Module, length: int) -> float:
    """FLOPs of a text's passes: forward as counted, backward twice that where the tower is trained."""
    text = getattr(net, "text", None)
    device = net.logit_scale.device
    tokens = torch.zeros((1, length), dtype=torch.int64, device=device)
    encoded = net.encode_text if text is None else text
    parts = (net.transformer, net.token_embedding) if text is None else (text,)
    return counted_forward(encoded, tokens) * (3 if any(map(trains, parts)) else 1)


def counted_forward(part, x: Tensor) -> float:
    with torch.no_grad(), plainly(), FlopCounterMode(display=False) as counter:
        part(x)
    return float(counter.get_total_flops())


@contextlib.contextmanager
def plainly() -> Iterator[None]:
    """Attention as products, which torch's counter knows."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def counted_step(part: nn.Module, x: Tensor) -> float:
    """What torch counts in a forward and backward pass of one input; gradients are left as they are."""
    x = x.to(next(part.parameters()).device)
    trained = [parameter for parameter in part.parameters() if parameter.requires_grad]
    with plainly(), FlopCounterMode(display=False) as counter:
        out = part(x)
        if trained:
            out = out if isinstance(out, Tensor) else out[-1]
            torch.autograd.grad(out.float().sum(), trained, allow_unused=True)
    return float(counter.get_total_flops())


def image_size(visual: nn.Module) -> tuple[int, int]:
    size = visual.image_size
    return tuple(size) if isinstance(size, tuple | list) else (size, size)


def features_of(net: nn.Module) -> int:
    """The width of the vectors that the loss compares."""
    size = getattr(net.visual, "output_dim", None)
    if size:
        return size
    with torch.no_grad():
        first = next(net.visual.parameters())
        return net.visual(torch.zeros(1, 3, *image_size(net.visual), device=first.device)).shape[-1]
