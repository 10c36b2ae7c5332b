"""Two ways to take a training step on the same weights and batches: open_clip 3.3.0's and ours.

`Upstream` restates `open_clip_train.train.train_one_epoch` on open_clip's own modules: both towers run in every step,
`ClipLoss` on normalised features, AdamW in two groups, `requires_grad` as the flags of REACT's recipes set it; and as in
the released code a gate whose input needs a gradient is activation-checkpointed. `Ours` is the step that `reactvl customize` takes:
`train.step.Stepper` on `train.frozen.split`.

Run as a process of its own (`measuring.child`) it answers with losses and seconds of a few steps; the parent reads its
peak memory.
"""

import copy
import time
from contextlib import nullcontext

import measuring
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import reactvl as rv
from reactvl.clip_imports import open_clip
from reactvl.models.encoder import Encoder
from reactvl.models.model import Model, with_gates
from reactvl.train import tuning
from reactvl.train.frozen import freeze_statistics, split
from reactvl.train.step import Batch, Stepper, mixed

RATES = {"lr": 1e-4, "alpha_lr": 1e-4, "weight_decay": 0.1}
OPEN = 0.1  # the alphas at the start: shut gates would leave their other weights without gradient
BETAS, EPS = (0.9, 0.98), 1e-6


def prepared(home: str, tune: str, freeze: list[str], seed: int = 0) -> Model:
    """The model of a folder, with slightly open gates for gated-image, in memory of its own."""
    model = rv.load(home)
    if tune == "gated-image":
        layers = len(model.net.visual.transformer.resblocks)
        torch.manual_seed(seed)
        model = with_gates(model, min(6, layers))
        for name, parameter in model.net.named_parameters():
            if ".alpha_" in name:
                nn.init.constant_(parameter, OPEN)
        return model
    return Model(model.name, copy.deepcopy(model.net), model.config)


class Upstream:
    """open_clip's step. `amp` is its `--precision amp_bf16`."""

    def __init__(
        self, model: Model, tune: str, device: torch.device, *, freeze=(), lr: float = RATES["lr"], amp: bool = False
    ):
        net = self.net = model.net.to(device)
        tuning.choose(net, tune, lr=lr, alpha_lr=lr, weight_decay=0.0, freeze=list(freeze))  # which names, nothing else
        net.train()
        for module in net.modules():  # a frozen stem's statistics stay, as with --lock-image-freeze-bn-stats
            if isinstance(module, nn.BatchNorm2d) and not module.weight.requires_grad:
                module.eval()
        text = getattr(net, "text", None)
        if text is not None:
            text.eval()  # a locked Hugging Face tower's dropout, which upstream leaves on: the losses would not compare
        for module in net.modules():
            if hasattr(module, "gated_attn_block"):
                recompute(module.gated_attn_block)
        trained = [(name, p) for name, p in net.named_parameters() if p.requires_grad]
        small = [
            p
            for name, p in trained
            if p.ndim < 2 or "bn" in name or "ln" in name or "bias" in name or "logit_scale" in name
        ]
        ids = set(map(id, small))
        groups = [
            {"params": small, "weight_decay": 0.0},
            {"params": [p for _, p in trained if id(p) not in ids], "weight_decay": RATES["weight_decay"]},
        ]
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=BETAS, eps=EPS)
        self.loss, self.device, self.amp = open_clip.loss.ClipLoss(), device, amp
        self.tokenize = model.tokenize

    def step(self, pixels: Tensor, texts: Tensor) -> float:
        """`pixels` (B, 3, H, W) normalised, `texts` tokens (B, L)."""
        if self.device.type == "cpu":
            torch.set_float32_matmul_precision("highest")  # torch's default, which our own step changes
        pixels, texts = pixels.to(self.device), texts.to(self.device)
        self.optimizer.zero_grad()
        with torch.autocast(self.device.type, torch.bfloat16) if self.amp else nullcontext():
            images = self.net.encode_image(pixels, normalize=True)
            words = self.net.encode_text(texts, normalize=True)
            loss = self.loss(images, words, self.net.logit_scale.exp())
        loss.backward()
        self.optimizer.step()
        with torch.no_grad():
            self.net.logit_scale.clamp_(0, 4.6052)
        return float(loss.detach())


def recompute(gate: nn.Module) -> None:
    """Let a gate checkpoint itself where its input needs a gradient."""
    inner = gate.forward
    gate.forward = lambda x, *others: (
        checkpoint(inner, x, *others, use_reentrant=False) if x.requires_grad else inner(x, *others)
    )


class Ours:
    """The package's step; text vectors of the pairs are known."""

    def __init__(
        self, model: Model, tune: str, device: torch.device, precision: str, *, freeze=(), lr: float = RATES["lr"]
    ):
        net = self.net = model.net.to(device)
        groups = tuning.choose(net, tune, lr=lr, alpha_lr=lr, weight_decay=RATES["weight_decay"], freeze=list(freeze))
        freeze_statistics(net)
        self.split = split(net.visual, precision=precision)
        self.device, self.precision = device, precision
        self.stepper = Stepper(net, self.split, None, groups, precision=precision, device=device)

    def step(self, pixels: Tensor, texts: Tensor) -> float:
        """`pixels` (B, 3, H, W) normalised, `texts` their texts' vectors (B, dim)."""
        with torch.no_grad(), mixed(self.device, self.precision):
            inputs = self.split.lower(pixels.to(self.device))
        return float(self.stepper.step(Batch(inputs, texts, None, 0.0), 1.0)["loss"])


def inputs(model: Model, batch: int, count: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """`count` batches of noise: pixels, tokens, and the vectors of these texts."""
    generator = torch.Generator().manual_seed(1)
    texts = [f"a photograph of thing number {number}, seen from place {number % 7}" for number in range(batch * count)]
    vectors = torch.from_numpy(Encoder(model, device="cpu", precision="fp32").texts(texts))
    tokens = model.tokenize(texts)
    size = model.image_size
    return [
        (
            torch.randn(batch, 3, size, size, generator=generator),
            tokens[at : at + batch],
            F.normalize(vectors[at : at + batch].float(), dim=-1),
        )
        for at in range(0, batch * count, batch)
    ]


def way(name: str, home: str, tune: str, freeze: list[str], device: torch.device) -> Upstream | Ours:
    """ "upstream", "upstream bf16", "fp32" or "bf16" on a model of its own."""
    model = prepared(home, tune, freeze)
    if name.startswith("upstream"):
        return Upstream(model, tune, device, freeze=freeze, amp=name.endswith("bf16"))
    return Ours(model, tune, device, name, freeze=freeze)


def step(made: Upstream | Ours, given: tuple[Tensor, Tensor, Tensor]) -> float:
    pixels, tokens, vectors = given
    return made.step(pixels, tokens if isinstance(made, Upstream) else vectors)


def work(request: dict) -> dict:
    """A few steps of one way: losses and seconds."""
    if request["threads"]:
        torch.set_num_threads(request["threads"])
    device = torch.device(request["device"])
    batches = inputs(rv.load(request["home"]), request["batch"], request["steps"])
    made = way(request["way"], request["home"], request["tune"], request["freeze"], device)
    losses, seconds = [], []
    for given in batches:
        began = time.perf_counter()
        losses.append(step(made, given))
        seconds.append(time.perf_counter() - began)
    memory = torch.cuda.max_memory_allocated() / 2**20 if device.type == "cuda" else None
    return {"losses": losses, "seconds": seconds, "device_memory": memory}


if __name__ == "__main__":
    measuring.serve(work)
