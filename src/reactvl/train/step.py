"""One optimizer step: forward, loss, backward, update. The loop and the benchmarks run this very code.

With `accumulate` pieces a step equals one step of the whole batch, in the memory of a piece: features of all pieces first,
without autograd; then the loss and its gradient at the features; then each piece again, with that gradient ("Scaling deep
contrastive learning batch size under memory limited setup", arXiv 2101.06983). In several processes DistributedDataParallel
sums the gradients while the backward pass goes on, once a step.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from reactvl.manifest import ReactvlError
from reactvl.models.encoder import autocast, choose_precision
from reactvl.train.distributed import World
from reactvl.train.frozen import Split
from reactvl.train.loss import clip_loss, siglip_loss
from reactvl.train.tuning import Group

MAX_LOGIT_SCALE = math.log(100)
BETAS, EPS = (0.9, 0.98), 1e-6
WORDS = {"amp": "fp16", "amp_bf16": "bf16", "amp_bfloat16": "bf16"}  # open_clip's for what is done here


@dataclasses.dataclass(frozen=True)
class Batch:
    """One process's part of a step's input.

    `inputs` (n, ...) go through the split's upper part: this process's pictures that can be read. `kept` (b,) bool says
    which of the pictures planned for this process these are, None that nobody left one out. `texts` are tokens or features
    of the same n pairs, which go through `text_upper`; or, where the text tower is locked, the vectors (B, dim) of all that
    is planned in all processes. `epoch`: how far training is.
    """

    inputs: Tensor
    texts: Tensor
    kept: Tensor | None
    epoch: float


class Stepper:
    """A network in training: its optimizer, scaler and processes. `steps` counts the steps done.

    `text_upper` is None where the text tower is locked. `accumulate`: pieces a batch is worked on in.
    """

    def __init__(
        self,
        net: nn.Module,
        split: Split,
        text_upper: Callable[[Tensor], Tensor] | None,
        groups: list[Group],
        *,
        precision: str,
        device: torch.device,
        world: World | None = None,
        accumulate: int = 1,
        grad_clip: float | None = None,
        betas: tuple[float, float] = BETAS,
        eps: float = EPS,
        compiled: bool = False,
        seed: int = 0,
    ):
        self.net, self.groups, self.device, self.precision = net, groups, device, precision
        self.world, self.accumulate = world or World.alone(), accumulate
        self.grad_clip, self.seed = grad_clip, seed
        named = dict(net.named_parameters())
        self.trained = {name: named[name] for group in groups for name in group.names}
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [named[n] for n in group.names], "lr": group.lr, "weight_decay": group.weight_decay}
                for group in groups
            ],
            betas=betas,
            eps=eps,
            fused=True,
        )
        self.scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")
        self.towers = Towers(net, split.upper, text_upper)
        if compiled:
            self.towers.compile()
        self.parallel: nn.Module | None = None  # made at the first batch, which shows what takes part
        self.steps = 0
        self.alphas = {
            gate_name(name): parameter
            for name, parameter in named.items()
            if name.endswith((".alpha_attn", ".alpha_dense"))
        }

    def step(self, batch: Batch, factor: float) -> dict[str, Tensor | float]:
        """Do one step at `factor` of the peak learning rates.

        Returns lr (of the first group) and, as tensors on the device, loss and accuracy in the whole batch, logit_scale
        (the factor), gates (tanh of each alpha, in the order of `alphas`) and, where gradients are clipped, their norm.
        Raises ReactvlError for a batch of fewer than two pictures.
        """
        for group, given in zip(self.optimizer.param_groups, self.groups, strict=True):
            group["lr"] = given.lr * factor
        self.optimizer.zero_grad(set_to_none=True)
        # of dropout, if there is any
        torch.manual_seed(((self.seed << 32) + self.steps * self.world.size + self.world.rank) % 2**63)
        inputs = batch.inputs.to(self.device, non_blocking=True)
        first, kept = self.columns(batch)
        texts = self.compared(batch, kept)
        if self.accumulate > 1 and len(inputs) > 1:
            loss, accuracy = self.in_pieces(inputs, texts, first)
        else:
            loss, accuracy = self.at_once(inputs, texts, first)
        told = self.update()
        self.steps += 1
        shown = self.world.total(torch.stack([loss.detach(), accuracy * len(inputs), accuracy.new_tensor(len(inputs))]))
        return told | {
            "lr": self.optimizer.param_groups[0]["lr"],
            "loss": shown[0],
            "accuracy": shown[1] / shown[2],
            "logit_scale": self.net.logit_scale.detach().exp(),
            **({"gates": torch.stack(list(self.alphas.values())).detach().float().tanh()} if self.alphas else {}),
        }

    def compared(self, batch: Batch, kept: Tensor | None) -> Tensor:
        """What the pictures are held against, on the device: vectors of the texts, or what goes through the text tower."""
        if self.towers.text_upper is not None:
            return batch.texts.to(self.device, non_blocking=True)
        texts = batch.texts[kept] if kept is not None else batch.texts
        return F.normalize(texts.to(self.device, non_blocking=True).float(), dim=-1)

    def columns(self, batch: Batch) -> tuple[int, Tensor | None]:
        """The column of this process's first picture in the whole batch, and which of the planned pairs (B,) stand in it."""
        kept = None if batch.kept is None else self.world.joined(batch.kept)
        if kept is None and self.towers.text_upper is None:
            first, total = self.world.part(len(batch.texts)).start, len(batch.texts)
        else:
            counts = self.world.counts(len(batch.inputs))
            first, total = sum(counts[: self.world.rank]), sum(counts)
        if total < 2:
            raise ReactvlError(f"a batch has {total} readable pictures; is the pool whole?")
        return first, kept

    def at_once(self, inputs: Tensor, texts: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """Loss and gradients of the whole batch in one pass."""
        with self.arithmetic():
            images, made, scale, bias = self.in_parallel(inputs, texts)(inputs, self.own(texts))
        loss, accuracy = self.loss(images, texts if made is None else made, scale, bias, first)
        with attention(self.device):  # for what checkpointing computes again
            self.scaler.scale(self.weighted(loss)).backward()
        return loss, accuracy

    def in_pieces(self, inputs: Tensor, texts: Tensor, first: int) -> tuple[Tensor, Tensor]:
        """The same loss and gradients, a piece of the inputs in memory at a time."""
        pieces = [
            slice(int(rows[0]), int(rows[-1]) + 1)
            for rows in np.array_split(np.arange(len(inputs)), min(self.accumulate, len(inputs)))
        ]
        parallel = self.in_parallel(inputs[:1], texts[:1])
        states, made = [], []
        with torch.no_grad():
            for piece in pieces:
                states.append(random_state(self.device))
                with self.arithmetic():
                    made.append(self.towers(inputs[piece], self.own(texts, piece)))
        images = torch.cat([part[0] for part in made]).requires_grad_()
        own_texts = None if made[0][1] is None else torch.cat([part[1] for part in made]).requires_grad_()
        scale, bias = (None if value is None else value.detach().requires_grad_() for value in made[0][2:])
        loss, accuracy = self.loss(images, texts if own_texts is None else own_texts, scale, bias, first)
        self.scaler.scale(self.weighted(loss)).backward()
        for number, (piece, state) in enumerate(zip(pieces, states, strict=True)):
            last = number == len(pieces) - 1
            quiet = contextlib.nullcontext() if last or self.world.size == 1 else parallel.no_sync()
            with quiet:
                restore_random_state(state, self.device)
                with self.arithmetic():
                    again = parallel(inputs[piece], self.own(texts, piece))
                # what stands outside the pieces takes part in the last, whose backward pass sums over the processes
                share = [images.grad[piece], None if own_texts is None else own_texts.grad[piece]]
                share += [value.grad if last and value is not None else None for value in (scale, bias)]
                pairs = [
                    (out, grad)
                    for out, grad in zip(again, share, strict=True)
                    if grad is not None and out.requires_grad
                ]
                with attention(self.device):
                    torch.autograd.backward([out for out, _ in pairs], [grad for _, grad in pairs])
        return loss, accuracy

    def own(self, texts: Tensor, piece: slice = slice(None)) -> Tensor | None:
        """What goes through the trained part of the text tower."""
        return None if self.towers.text_upper is None else texts[piece]

    def loss(
        self, images: Tensor, texts: Tensor, scale: Tensor, bias: Tensor | None, first: int
    ) -> tuple[Tensor, Tensor]:
        """This process's share of the loss, and the accuracy of its rows; `texts` are all of the batch, or its own, trained."""
        if self.towers.text_upper is not None:
            texts = self.world.joined_with_gradient(texts, first)
        if bias is not None:
            return siglip_loss(images, texts, scale, bias, first=first)
        return clip_loss(images, texts, scale, first=first, world=self.world)

    def weighted(self, loss: Tensor) -> Tensor:
        """DistributedDataParallel takes the mean of the gradients; the loss is their sum."""
        return loss * self.world.size if self.world.size > 1 else loss

    def update(self) -> dict[str, Tensor]:
        """Clip, step, and hold the logit scale within [1, 100]."""
        told = {}
        if self.grad_clip:
            self.scaler.unscale_(self.optimizer)
            told["gradient_norm"] = nn.utils.clip_grad_norm_(list(self.trained.values()), self.grad_clip)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        with torch.no_grad():
            self.net.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
        return told

    def in_parallel(self, inputs: Tensor, texts: Tensor) -> nn.Module:
        """The towers; in several processes, such that their backward pass sums gradients over the processes."""
        if self.world.size == 1:
            return self.towers
        if self.parallel is None:
            self.parallel = nn.parallel.DistributedDataParallel(
                self.towers,
                device_ids=[self.device.index] if self.device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
                find_unused_parameters=self.leaves_some_out(inputs[:2], texts[:2]),
            )
        return self.parallel

    def leaves_some_out(self, inputs: Tensor, texts: Tensor) -> bool:
        """Whether a trained parameter takes no part in the features (a pooler that is not used, say)."""
        state = random_state(self.device)
        with self.arithmetic():
            made = self.towers(inputs, self.own(texts))
        restore_random_state(state, self.device)
        total = sum(part.float().sum() for part in made if part is not None)
        return None in torch.autograd.grad(total, list(self.trained.values()), allow_unused=True)

    @contextlib.contextmanager
    def arithmetic(self) -> Iterator[None]:
        """The precision of the forward pass."""
        with mixed(self.device, self.precision), attention(self.device):
            yield


class Towers(nn.Module):
    """What is trained of both towers: L2-normalised image vectors and, where it is trained, text vectors, float32; the logit
    scale as a factor, and the logit bias of a SigLIP model."""

    def __init__(self, net: nn.Module, upper: Callable, text_upper: Callable | None):
        super().__init__()
        self.net = net
        object.__setattr__(self, "upper", upper)  # not as modules of its own: their parameters are the net's
        object.__setattr__(self, "text_upper", text_upper)

    def forward(self, inputs: Tensor, texts: Tensor | None) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        images = F.normalize(self.upper(inputs).float(), dim=-1)
        made = None if texts is None else F.normalize(self.text_upper(texts).float(), dim=-1)
        bias = getattr(self.net, "logit_bias", None)
        return images, made, self.net.logit_scale.exp(), None if bias is None else bias * 1


def precision_of(word: str, device: torch.device) -> str:
    """ "fp32", "bf16" or "fp16" of a `--precision`, open_clip's words included; "auto" is bf16 where the machine has it."""
    word = WORDS.get(word, word)
    if word == "fp16":
        return word
    if word not in ("auto", "bf16", "fp32"):
        raise ReactvlError(f"precision {word!r}: use auto, fp32, bf16, fp16, or open_clip's amp, amp_bf16")
    return choose_precision(word, device)


def mixed(device: torch.device, precision: str) -> torch.autocast:
    """Mixed precision, as the encoder has it, and fp16 besides."""
    return torch.autocast(device.type, torch.float16) if precision == "fp16" else autocast(device, precision)


def attention(device: torch.device) -> contextlib.AbstractContextManager:
    """On CPU the plain products: for a ViT's short sequences they run faster there than the fused kernel, which is for long ones."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


def gate_name(name: str) -> str:
    """`6.attn` of `visual.transformer.resblocks.6.gated_attn_block.alpha_attn`."""
    layer = next((part for part in name.split(".") if part.isdigit()), name)
    return f"{layer}.{name.rpartition('alpha_')[2]}"


def random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


def restore_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
