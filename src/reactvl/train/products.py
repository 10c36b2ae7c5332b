"""The products of a training step on a CPU: packed weights where they are frozen, one cast a step where they are trained.

A frozen linear layer needs the gradient of its input alone: dX = dY W. Its weight is laid out twice as oneDNN reads it,
as it stands and transposed, and is neither cast nor reordered in a step again. A trained one is cast to bf16 once
a pass, forward and backward. Self-attention is computed in one function of the joint projection (q, k, v): for
the short sequences of a ViT plain products are faster than kernels that work block by block, and the three gradients are
written side by side, where the projection's backward wants them.

`accelerated(module)` puts these in the place of the module's own layers. Parameters are shared, not copied, and decide by
their `requires_grad` what is frozen.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from reactvl.clip_imports import open_clip
from reactvl.models.gates import GatedBlock
from reactvl.models.prepacked import SHORT, apart, flattened

STEEP = 1.702  # QuickGELU is silu(1.702 x) / 1.702


def accelerated(module: nn.Module, dtype: torch.dtype, *, packed: bool = True) -> nn.Module:
    """The module with its linear layers, attentions, MLPs and patch embeddings replaced, in place; itself if it is one.

    `dtype` is that of the products, float32 or bfloat16 (float16 where not packed). `packed=False`, for GPUs: frozen
    weights are held in `dtype`, trained ones are left to autocast and its cache.
    """
    if type(module) is nn.Linear:
        return Linear(module.weight, module.bias, dtype, packed=packed)
    if type(module) is nn.MultiheadAttention:
        return Attention(module, dtype, packed=packed) if plain(module) else module
    if type(module) is nn.Conv2d:
        return Patches(module, dtype) if packed and apart(module) else module
    if packed and is_mlp(module):
        return Mlp(module, dtype)
    for name, child in module.named_children():
        setattr(module, name, accelerated(child, dtype, packed=packed))
    if isinstance(module, GatedBlock) and isinstance(module.attn, Attention):
        module.attend = module.attn.attend  # its own takes the projection's weights out of `attn`
    return module


def plain(attention: nn.MultiheadAttention) -> bool:
    """Whether the attention is one joint projection, a softmax and an output projection, and nothing else."""
    return (
        attention._qkv_same_embed_dim
        and attention.bias_k is None
        and not attention.add_zero_attn
        and attention.dropout == 0
    )


def is_mlp(module: nn.Module) -> bool:
    """Whether the module is open_clip's MLP: a linear layer, GELU or QuickGELU, a linear layer."""
    if not isinstance(module, nn.Sequential) or len(module) != 3:
        return False
    first, activation, last = module
    known = type(activation) in (nn.GELU, open_clip.transformer.QuickGELU)
    return type(first) is nn.Linear and type(last) is nn.Linear and known


class Linear(nn.Module):
    """A linear layer over the rows `rows` of a weight; (..., in) of any dtype to (..., out) in `dtype`.

    `scale` multiplies a frozen weight, `bias_scale` its bias. An update of a trained weight in place is seen; a frozen
    weight's values are those of the layer's making.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        bias: nn.Parameter | None,
        dtype: torch.dtype,
        *,
        rows: slice = slice(None),
        packed: bool = True,
        scale: float = 1.0,
        bias_scale: float = 1.0,
    ):
        super().__init__()
        self.weight, self.bias = weight, bias
        self.dtype, self.rows, self.packed = dtype, rows, packed
        self.frozen = not weight.requires_grad and (bias is None or not bias.requires_grad)
        if not self.frozen:
            return
        held = (self.used_part(weight.detach()) * scale).to(dtype)
        self.added = None if bias is None else (bias.detach()[rows] * bias_scale).to(dtype)
        if packed:
            self.forth = torch.ops.mkldnn._reorder_linear_weight(held.contiguous())
            self.back = torch.ops.mkldnn._reorder_linear_weight(held.t().contiguous())
        else:
            self.forth = held

    def forward(self, x: Tensor) -> Tensor:
        weight, bias = self.weight, self.bias
        if not self.packed:
            if self.frozen:
                return F.linear(x.to(self.dtype), self.forth, self.added)
            return F.linear(x, self.used_part(weight), None if bias is None else bias[self.rows])
        if self.rows != slice(None) and bias is not None:
            bias = bias[self.rows]
        return Product.apply(x.to(self.dtype), self.used_part(weight), bias, self)

    def used_part(self, weight: Tensor) -> Tensor:
        """The matrix (out, in) of this layer in a weight, which may be a convolution's."""
        weight = weight if weight.dim() == 2 else weight.flatten(1)
        return weight if self.rows == slice(None) else weight[self.rows]

    def current(self) -> tuple[Tensor, Tensor | None] | None:
        """Weight and bias of a trained layer in `dtype`, as they are now; None for a frozen one.

        Cast in every forward pass, once for its own backward pass: a hundredth of a step. Nothing tells an update
        reliably (fused AdamW leaves `_version` alone), so that no cast is kept from one pass to the next.
        """
        if self.frozen:
            return None
        weight = self.used_part(self.weight.detach()).to(self.dtype)
        return weight, None if self.bias is None else self.bias.detach()[self.rows].to(self.dtype)

    def product(self, x: Tensor, used: tuple[Tensor, Tensor | None] | None) -> Tensor:
        """x W^T + b without autograd; `used` is what `current` gave."""
        return multiplied(x, *((self.forth, self.added) if used is None else used))

    def input_gradient(self, gradient: Tensor, used: tuple[Tensor, Tensor | None] | None) -> Tensor:
        return multiplied(gradient, self.back, None) if used is None else gradient @ used[0]

    def own_gradients(self, gradient: Tensor, x: Tensor, needed: tuple[bool, bool]) -> tuple[Tensor | None, ...]:
        """Gradients of weight and bias, in their dtype."""
        gradient, x = gradient.flatten(0, -2), x.flatten(0, -2)
        weight = (gradient.t() @ x).to(self.weight.dtype) if needed[0] else None
        bias = gradient.sum(0, dtype=self.bias.dtype) if needed[1] else None
        return weight, bias


def multiplied(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """x W^T + b through oneDNN, the weight packed or not."""
    return torch.ops.mkldnn._linear_pointwise(x.contiguous(), weight, bias, "none", [], "")


class Product(Function):
    """y = x W^T + b of a `Linear`."""

    @staticmethod
    def forward(ctx, x: Tensor, weight: Tensor, bias: Tensor | None, layer: Linear) -> Tensor:
        ctx.layer, ctx.used = layer, layer.current()
        if any(ctx.needs_input_grad[1:3]):
            ctx.save_for_backward(x)
        with torch.autocast(x.device.type, enabled=False):
            return layer.product(x, ctx.used)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        needs = ctx.needs_input_grad
        own = (None, None)
        if needs[1] or needs[2]:
            own = ctx.layer.own_gradients(gradient, ctx.saved_tensors[0], needs[1:3])
        return ctx.layer.input_gradient(gradient, ctx.used) if needs[0] else None, *own, None


class Mlp(nn.Module):
    """open_clip's MLP, of which only the input (where a weight is trained) and the values before the activation are kept
    for the backward pass: the activation is computed again, which costs a hundredth of a product."""

    def __init__(self, original: nn.Sequential, dtype: torch.dtype):
        super().__init__()
        first, activation, last = original
        self.quick = isinstance(activation, open_clip.transformer.QuickGELU)
        self.approximate = None if self.quick else activation.approximate
        frozen = not any(parameter.requires_grad for parameter in original.parameters())
        # of a frozen QuickGELU the weights take the factors, so that what is left is one pass of SiLU
        self.steep = STEEP if self.quick and not frozen else 1.0
        before, after = (STEEP, 1 / STEEP) if self.quick and frozen else (1.0, 1.0)
        self.first = Linear(first.weight, first.bias, dtype, scale=before, bias_scale=before)
        self.last = Linear(last.weight, last.bias, dtype, scale=after)
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        first, last = self.first, self.last
        return TwoProducts.apply(x.to(self.dtype), first.weight, first.bias, last.weight, last.bias, self)

    def activated(self, hidden: Tensor) -> Tensor:
        if not self.quick:
            return F.gelu(hidden, approximate=self.approximate)
        if self.steep == 1:
            return F.silu(hidden)
        return F.silu((hidden * self.steep), inplace=True).mul_(1 / self.steep)

    def activation_gradient(self, gradient: Tensor, hidden: Tensor) -> Tensor:
        if not self.quick:
            return torch.ops.aten.gelu_backward(gradient, hidden, approximate=self.approximate)
        return torch.ops.aten.silu_backward(gradient, hidden if self.steep == 1 else hidden * self.steep)


class TwoProducts(Function):
    """y = activation(x W1^T + b1) W2^T + b2 of an `Mlp`."""

    @staticmethod
    def forward(ctx, x: Tensor, weight_1, bias_1, weight_2, bias_2, mlp: Mlp) -> Tensor:
        ctx.mlp, ctx.used = mlp, (mlp.first.current(), mlp.last.current())
        with torch.autocast(x.device.type, enabled=False):
            hidden = mlp.first.product(x, ctx.used[0])
            kept = x if any(ctx.needs_input_grad[1:3]) else None
            ctx.save_for_backward(kept, hidden)
            return mlp.last.product(mlp.activated(hidden), ctx.used[1])

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        mlp, needs, (x, hidden) = ctx.mlp, ctx.needs_input_grad, ctx.saved_tensors
        gradient = gradient.contiguous()
        last = first = (None, None)
        if needs[3] or needs[4]:
            last = mlp.last.own_gradients(gradient, mlp.activated(hidden), needs[3:5])
        given = None
        if any(needs[:3]):
            inner = mlp.activation_gradient(mlp.last.input_gradient(gradient, ctx.used[1]), hidden)
            if needs[1] or needs[2]:
                first = mlp.first.own_gradients(inner, x, needs[1:3])
            if needs[0]:
                given = mlp.first.input_gradient(inner, ctx.used[0])
        return given, *first, *last, None


class Attention(nn.Module):
    """`nn.MultiheadAttention` as open_clip's blocks call it; what is no plain self-attention goes to the original."""

    def __init__(self, original: nn.MultiheadAttention, dtype: torch.dtype, *, packed: bool = True):
        super().__init__()
        self.original, self.dtype, self.packed = original, dtype, packed
        self.batch_first, self.heads, self.width = original.batch_first, original.num_heads, original.embed_dim
        self.in_proj = Linear(original.in_proj_weight, original.in_proj_bias, dtype, packed=packed)
        self.out_proj = Linear(original.out_proj.weight, original.out_proj.bias, dtype, packed=packed)

    def for_first(self) -> "Attention":
        """Make this an attention of which only the first token's answer is asked: see `first`. Returns itself."""
        weight, bias, width = self.original.in_proj_weight, self.original.in_proj_bias, self.width
        del self.in_proj
        self.of_query = Linear(weight, bias, self.dtype, rows=slice(0, width), packed=self.packed)
        self.of_others = Linear(weight, bias, self.dtype, rows=slice(width, None), packed=self.packed)
        return self

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, need_weights: bool = True, attn_mask=None, **others
    ) -> tuple[Tensor, Tensor | None]:
        same = key is query and value is query and query.dim() == 3
        if need_weights or others or not same or attn_mask is not None:
            return self.original(query, key, value, need_weights=need_weights, attn_mask=attn_mask, **others)
        return self.attend(query), None

    def attend(self, x: Tensor) -> Tensor:
        """Self-attention of tokens (N, L, D), or (L, N, D) as the original takes them."""
        if not self.batch_first:
            x = x.transpose(0, 1)
        joint = self.in_proj(x)  # (N, L, 3 D)
        if self.packed and x.shape[1] <= SHORT:
            mixed = Mixture.apply(joint, self.heads)
        else:
            parts = joint.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # 3, each (N, heads, L, D / heads)
            mixed = F.scaled_dot_product_attention(*parts).transpose(1, 2).flatten(2)
        out = self.out_proj(mixed)
        return out if self.batch_first else out.transpose(0, 1)

    def first(self, x: Tensor) -> Tensor:
        """The first of L tokens (N, L, D) attends to all: (N, 1, D). After `for_first`."""
        query = self.of_query(x[:, :1]).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (N, heads, 1, D / heads)
        keys, values = self.of_others(x).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.out_proj(of_one(query, keys, values))


def of_one(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention of one query (N, heads, 1, d) to keys and values (N, heads, L, d): (N, 1, heads d)."""
    return F.scaled_dot_product_attention(query, keys, values).transpose(1, 2).flatten(2)


class Mixture(Function):
    """Softmax attention of a joint projection (N, L, 3 D), query, key, value of all heads: (N, L, D) in its dtype.

    For bf16 the logits are computed in float32 and the weights rounded to bf16, as kernels for GPUs do.
    """

    @staticmethod
    def forward(ctx, joint: Tensor, heads: int) -> Tensor:
        n, length, width = joint.shape[0], joint.shape[1], joint.shape[2] // 3
        with torch.autocast(joint.device.type, enabled=False):
            parts = joint.view(n, length, 3, heads, width // heads).permute(2, 0, 3, 1, 4).contiguous()
            parts = parts.view(3, n * heads, length, -1)  # each (N heads, L, d)
            queries, keys, values = parts
            exact = torch.promote_types(joint.dtype, torch.float32)
            logits = torch.bmm(queries.to(exact), keys.to(exact).transpose(1, 2))
            weights = logits.mul_((width // heads) ** -0.5).softmax(-1).to(joint.dtype)  # (N heads, L, L)
            mixed = torch.bmm(weights, values)
        ctx.heads = heads
        ctx.save_for_backward(parts, weights)
        return mixed.view(n, heads, length, -1).transpose(1, 2).reshape(n, length, width)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor):
        (parts, weights), heads = ctx.saved_tensors, ctx.heads
        (queries, keys, values), (n, length, width) = parts, gradient.shape
        gradient = gradient.unflatten(-1, (heads, -1)).transpose(1, 2).reshape(n * heads, length, -1)
        found = torch.empty_like(parts)
        torch.bmm(weights.transpose(1, 2), gradient, out=found[2])
        inner = torch.bmm(gradient, values.transpose(1, 2))
        inner = torch._softmax_backward_data(inner, weights, -1, weights.dtype).mul_((width // heads) ** -0.5)
        torch.bmm(inner, keys, out=found[0])
        torch.bmm(inner.transpose(1, 2), queries, out=found[1])
        return found.view(3, n, heads, length, -1).permute(1, 3, 0, 2, 4).reshape(n, length, 3 * width), None


class Patches(nn.Module):
    """A convolution of patches that lie side by side, as one product; (N, in, H, W) to (N, out, h, w)."""

    def __init__(self, original: nn.Conv2d, dtype: torch.dtype):
        super().__init__()
        self.kernel_size = original.kernel_size
        self.product = Linear(original.weight, original.bias, dtype)

    def forward(self, pixels: Tensor) -> Tensor:
        patches, grid = flattened(pixels.to(self.product.dtype), self.kernel_size)
        return self.product(patches).unflatten(1, grid).permute(0, 3, 1, 2)
