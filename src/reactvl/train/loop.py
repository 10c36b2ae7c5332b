"""The training loop: AdamW, warm-up and cosine, mixed precision, checkpoints that resume bit for bit.

A step's pairs and views are functions of (seed, step), so a checkpoint holds the step, the trained tensors and the optimizer's
moments, and nothing about loaders.
"""

import contextlib
import dataclasses
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from reactvl.manifest import replacing, write_bytes
from reactvl.models.encoder import autocast
from reactvl.models.gates import gate_openings
from reactvl.progress import progress
from reactvl.train.loss import clip_loss
from reactvl.train.tuning import Group

MAX_LOGIT_SCALE = math.log(100)
BETAS, EPS = (0.9, 0.98), 1e-6
CHECKPOINT = "checkpoint.safetensors"


@dataclasses.dataclass(frozen=True)
class Batch:
    """One step's input: `inputs` go through `upper`, `texts` through `text_upper`."""

    inputs: Tensor
    texts: Tensor
    epoch: float


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Linear warm-up from 0, then a half cosine down to 0 (open_clip's)."""

    steps: int
    warmup: int

    def factor(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(self.steps - self.warmup, 1)))


@dataclasses.dataclass
class Report:
    """What a run of the loop tells: wall-clock figures of this process, not of resumed steps."""

    steps_done: int = 0
    seconds: float = 0.0
    waited: float = 0.0  # seconds spent waiting for data
    pairs: int = 0


def train(
    net: nn.Module,
    upper: Callable[[Tensor], Tensor],
    text_upper: Callable[[Tensor], Tensor],
    groups: list[Group],
    batches: Callable[[int], Iterator[Batch]],
    schedule: Schedule,
    *,
    folder: Path,
    metrics: Path,
    precision: str,
    checkpoint_every: int,
    grad_clip: float | None = None,
) -> Report:
    """Run the steps that `folder`'s checkpoint has not, in place on `net`'s trained parameters.

    `batches(step)` yields the batches from that step on. `metrics` gets one JSON line a step: step, epoch, loss, lr,
    logit_scale, accuracy in the batch, widest gate.
    """
    device = net.logit_scale.device
    parameters = dict(net.named_parameters())
    optimizer = torch.optim.AdamW(
        [
            {"params": [parameters[n] for n in group.names], "lr": group.lr, "weight_decay": group.weight_decay}
            for group in groups
        ],
        betas=BETAS,
        eps=EPS,
    )
    trained = [name for group in groups for name in group.names]
    start = resume(folder, parameters, trained, optimizer, metrics)
    report, began = Report(), time.monotonic()
    source = batches(start)
    with progress("customizing", schedule.steps, "steps") as bar, open(metrics, "a") as log:
        bar.advance(start, resumed=True)
        for step in range(start, schedule.steps):
            waiting = time.monotonic()
            batch = next(source)
            report.waited += time.monotonic() - waiting
            for group, given in zip(optimizer.param_groups, groups, strict=True):
                group["lr"] = given.lr * schedule.factor(step)
            optimizer.zero_grad(set_to_none=True)
            with autocast(device, precision), attention(device):
                images = upper(batch.inputs.to(device))
                texts = text_upper(batch.texts.to(device))
            images, texts = F.normalize(images.float(), dim=-1), F.normalize(texts.float(), dim=-1)
            loss, accuracy = clip_loss(images, texts, net.logit_scale.exp())
            loss.backward()
            if grad_clip:
                nn.utils.clip_grad_norm_([parameters[name] for name in trained], grad_clip)
            optimizer.step()
            with torch.no_grad():
                net.logit_scale.clamp_(0, MAX_LOGIT_SCALE)
            record = {
                "step": step,
                "epoch": round(batch.epoch, 4),
                "loss": round(float(loss.detach()), 6),
                "lr": max(group["lr"] for group in optimizer.param_groups[:1]),
                "logit_scale": round(float(net.logit_scale.detach().exp()), 4),
                "accuracy": round(float(accuracy), 4),
            }
            if openings := gate_openings(net):
                record["widest_gate"] = round(max(openings.values()), 5)
            log.write(json.dumps(record) + "\n")
            report.pairs += len(batch.inputs)
            report.steps_done += 1
            done = step + 1
            if done % checkpoint_every == 0 or done == schedule.steps:
                log.flush()
                save(folder, parameters, trained, optimizer, done)
            share = report.waited / max(time.monotonic() - began, 1e-9)
            bar.advance(1, f"loss {record['loss']:.3f}, waiting for data {share:.0%}")
    report.seconds = time.monotonic() - began
    return report


def attention(device: torch.device) -> contextlib.AbstractContextManager:
    """On CPU the plain products: for a ViT's short sequences they run faster there than the fused kernel, which is for long ones."""
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cpu" else contextlib.nullcontext()


def save(
    folder: Path, parameters: dict[str, nn.Parameter], trained: list[str], optimizer: torch.optim.Optimizer, step: int
) -> None:
    """Write the checkpoint, whole or not at all: every trained tensor as `weight:NAME`, with AdamW's `step:`, `exp_avg:`
    and `exp_avg_sq:` beside it."""
    tensors = {}
    for name in trained:
        kept = {"weight": parameters[name].detach(), **optimizer.state.get(parameters[name], {})}
        tensors |= {f"{kind}:{name}": tensor.cpu().contiguous() for kind, tensor in kept.items()}
    with replacing(folder / CHECKPOINT) as part:
        save_file(tensors, part, {"step": str(step)})


def resume(
    folder: Path,
    parameters: dict[str, nn.Parameter],
    trained: list[str],
    optimizer: torch.optim.Optimizer,
    metrics: Path,
) -> int:
    """Load the checkpoint if there is one, cut `metrics` to its step, and return the step to go on from."""
    path = folder / CHECKPOINT
    if not path.exists():
        write_bytes(metrics, b"")
        return 0
    with safe_open(path, "pt") as file:
        step = int(file.metadata()["step"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    with torch.no_grad():
        for name in trained:
            parameter = parameters[name]
            parameter.copy_(tensors[f"weight:{name}"])
            kept = {kind: tensors.get(f"{kind}:{name}") for kind in ("step", "exp_avg", "exp_avg_sq")}
            if kept["step"] is not None:
                optimizer.state[parameter] = {
                    kind: tensor if kind == "step" else tensor.to(parameter.device) for kind, tensor in kept.items()
                }
    lines = metrics.read_bytes().splitlines(keepends=True)[:step]
    write_bytes(metrics, b"".join(lines))
    return step


def openings_after(net: nn.Module) -> float | None:
    """The widest |tanh(alpha)| of a gated model, None for another."""
    openings = gate_openings(net)
    return max(openings.values()) if openings else None
