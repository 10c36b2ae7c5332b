"""A tower for inference on a CPU: the weights of its linear layers laid out once as oneDNN reads them.

Two things take most of the time that torch needs beyond the arithmetic itself: weights are laid out anew, and for bf16
cast anew, in every product; and under autocast `nn.MultiheadAttention` leaves its fast path for one that copies the
weight of its input projection once a token. Here every `nn.Linear` holds its weight packed, and self-attention is two
packed products around `scaled_dot_product_attention`. Nothing else of the tower changes, and the model that it was made
of not at all: modules are copied, parameters shared.
"""

import copy
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from reactvl.models.gates import GatedBlock

SHORT = 300  # tokens up to which plain products are the faster attention in float32


def prepacked(net: nn.Module, tower: str, dtype: torch.dtype) -> nn.Module:
    """A copy of a CLIP network whose `tower`, "image" or "text", computes its products in `dtype` from packed weights.

    The weights are those of this moment: a change of the network's parameters does not reach the copy. Takes the memory
    of the tower's linear weights in `dtype`. Follows the weight prepacking of torch's inductor for oneDNN.
    """
    shared = [*net.parameters(), *net.buffers()]
    shared += [child for name, child in net.named_children() if (name == "visual") != (tower == "image")]
    made = copy.deepcopy(net, {id(kept): kept for kept in shared})
    with torch.no_grad():
        for name, child in made.named_children():
            if (name == "visual") == (tower == "image"):
                setattr(made, name, packed(child, dtype))
    return made


def can_prepack(precision: str) -> bool:
    """Whether this machine's torch has oneDNN's packed products for this precision ("fp32" or "bf16")."""
    if not torch.backends.mkldnn.is_available() or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False
    return precision == "fp32" or torch.ops.mkldnn._is_mkldnn_bf16_supported()


def packed(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The module with its linear layers and attentions packed, in place; itself replaced if it is one."""
    if type(module) is nn.Linear:
        return PackedLinear(module.weight, module.bias, dtype)
    if type(module) is nn.MultiheadAttention:
        plain = module._qkv_same_embed_dim and module.bias_k is None and not module.add_zero_attn
        return PackedAttention(module, dtype) if plain else module
    if type(module) is nn.Conv2d:
        return PackedPatches(module, dtype) if apart(module) else module
    for name, child in module.named_children():
        setattr(module, name, packed(child, dtype))
    if isinstance(module, nn.Sequential):
        for before, after in pairwise(module._modules):
            absorb(module, before, after)
    if isinstance(module, GatedBlock) and isinstance(module.attn, PackedAttention):
        module.attend = module.attn.attend  # its own takes the projection's weights out of `attn`
    return module


def apart(convolution: nn.Conv2d) -> bool:
    """Whether a convolution's patches lie side by side, so that it is one product."""
    one = convolution.dilation == (1, 1) and convolution.groups == 1 and convolution.padding == (0, 0)
    return one and convolution.stride == convolution.kernel_size


def absorb(module: nn.Sequential, before: str, after: str) -> None:
    """Let a packed linear layer compute the GELU that stands behind it while its product is still in the cache."""
    linear, activation = module._modules[before], module._modules[after]
    if isinstance(linear, PackedLinear) and type(activation) is nn.GELU:
        linear.gelu = activation.approximate
        module._modules[after] = nn.Identity()


class PackedLinear(nn.Linear):
    """A linear layer that computes from a packed copy of its weight; (..., in) to (..., out) in `dtype`."""

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype):
        nn.Module.__init__(self)
        self.out_features, self.in_features = weight.shape
        self.weight, self.bias, self.dtype = weight, bias, dtype
        self.gelu: str | None = None  # the kind of GELU that follows
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype).contiguous())
        self.added = None if bias is None else bias.detach().to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        after = ("gelu", [], self.gelu) if self.gelu else ("none", [], "")
        return torch.ops.mkldnn._linear_pointwise(x.to(self.dtype), self.packed, self.added, *after)


class PackedPatches(nn.Module):
    """A convolution of patches that lie side by side, as one product; (N, in, H, W) to (N, out, h, w)."""

    def __init__(self, original: nn.Conv2d, dtype: torch.dtype):
        super().__init__()
        self.original = original
        self.product = PackedLinear(original.weight.flatten(1), original.bias, dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        patches, grid = flattened(pixels.to(self.product.dtype), self.original.kernel_size)
        return self.product(patches).unflatten(1, grid).permute(0, 3, 1, 2)


def flattened(pixels: Tensor, patch: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
    """Patches (N, h w, in * patch area) of pixels (N, in, H, W), in the order of a convolution's weight, and (h, w)."""
    high, wide = patch
    h, w = pixels.shape[2] // high, pixels.shape[3] // wide
    patches = pixels[..., : h * high, : w * wide].unflatten(3, (w, wide)).unflatten(2, (h, high))
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2), (h, w)


class PackedAttention(nn.Module):
    """`nn.MultiheadAttention` as open_clip's blocks call it; what is no self-attention goes to the original."""

    def __init__(self, original: nn.MultiheadAttention, dtype: torch.dtype):
        super().__init__()
        self.original = original
        self.in_proj = PackedLinear(original.in_proj_weight, original.in_proj_bias, dtype)
        self.out_proj = PackedLinear(original.out_proj.weight, original.out_proj.bias, dtype)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = True, attn_mask=None, **others
    ) -> tuple[Tensor, Tensor | None]:
        same = key is query and value is query and query.dim() == 3
        additive = attn_mask is None or (attn_mask.dim() == 2 and attn_mask.is_floating_point())
        if need_weights or others or not same or not additive:
            return self.original(query, key, value, need_weights=need_weights, attn_mask=attn_mask, **others)
        return self.attend(query, attn_mask), None

    def attend(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Self-attention of tokens (N, L, D), or (L, N, D) as the original takes them, under an additive mask (L, L)."""
        if not self.original.batch_first:
            x = x.transpose(0, 1)
        # each (N, heads, L, D / heads)
        queries, keys, values = self.in_proj(x).unflatten(-1, (3, self.original.num_heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = mix(queries, keys, values, None if mask is None else mask.to(queries.dtype))
        out = self.out_proj(mixed.transpose(1, 2).flatten(2))
        return out if self.original.batch_first else out.transpose(0, 1)


def mix(queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """`scaled_dot_product_attention`, whose blocks suit long sequences: in float32 plain products take a third of its
    time at 50 tokens, a seventh at 9. In bf16 they gain little, and would round the logits."""
    if queries.dtype != torch.float32 or queries.shape[-2] > SHORT:
        return F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
    logits = (queries @ keys.transpose(-2, -1)).mul_(queries.shape[-1] ** -0.5)  # (N, heads, L, L)
    return (logits if mask is None else logits.add_(mask)).softmax(-1) @ values
