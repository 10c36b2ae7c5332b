"""The processes of one training run under torchrun: who they are, and the few things that they tell each other.

    torchrun --nproc_per_node 8 -m reactvl customize run/retrieved --model ViT-B-32:openai --out run/customized

Tensors on a GPU go through nccl, those on a CPU through gloo. One process alone says nothing and needs no group.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from reactvl.manifest import ReactvlError

PATIENCE = datetime.timedelta(
    hours=12
)  # the others wait while the first encodes captions; torchrun ends them if it dies


@dataclasses.dataclass(frozen=True)
class World:
    """This process among `size`; `local_rank` counts on its own machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @classmethod
    def alone(cls) -> "World":
        return cls()

    @classmethod
    def of_environment(cls) -> "World":
        """As torchrun's environment says; alone without it."""
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if "WORLD_SIZE" not in os.environ:
            return cls()
        try:
            rank, size, local = (int(os.environ[name]) for name in names)
        except (KeyError, ValueError):
            given = ", ".join(f"{name}={os.environ.get(name)}" for name in names)
            raise ReactvlError(f"{given}: not what torchrun sets; start with torchrun, or unset WORLD_SIZE") from None
        return cls(rank, size, local)

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes files and speaks."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """This process's share of `count` things in a row; the first processes have one more where it does not come out even."""
        each, more = divmod(count, self.size)
        start = self.rank * each + min(self.rank, more)
        return slice(start, start + each + (self.rank < more))

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            dist.all_reduce(torch.zeros(1))  # on CPU: gloo, whatever the device that computes

    def total(self, value: Tensor) -> Tensor:
        """The sum over the processes, without gradient."""
        if self.size > 1:
            value = value.detach().clone()
            dist.all_reduce(value)
        return value

    def joined(self, mine: Tensor) -> Tensor:
        """All processes' rows (n, ...) in order of rank, without gradient; n may differ."""
        if self.size == 1:
            return mine
        mine = mine.detach().contiguous()
        counts = self.counts(len(mine))
        padded = mine.new_zeros((max(counts), *mine.shape[1:]))
        padded[: len(mine)] = mine
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def counts(self, mine: int) -> list[int]:
        """How many things each process has."""
        if self.size == 1:
            return [mine]
        counts = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(counts, torch.tensor([mine]))
        return [int(count) for count in counts]

    def joined_with_gradient(self, mine: Tensor, first: int) -> Tensor:
        """All processes' rows in order of rank, this one's from `first` on; the gradient of a row is the sum of what all
        processes make of it."""
        return Joined.apply(mine, self, first) if self.size > 1 else mine

    def logsumexp(self, local: Tensor) -> Tensor:
        """logsumexp over the processes of (B,), with the gradient of the sum of all processes' results."""
        return JoinedLogsumexp.apply(local, self) if self.size > 1 else local

    def tell(self, value: Any) -> Any:
        """The first process's value, plain as JSON is, in every process."""
        if self.size == 1:
            return value
        said = json.dumps(value).encode() if self.first else b""
        length = torch.tensor([len(said)])
        dist.broadcast(length, 0)
        data = torch.frombuffer(bytearray(said), dtype=torch.uint8) if self.first else None
        data = torch.empty(int(length), dtype=torch.uint8) if data is None else data
        dist.broadcast(data, 0)
        return json.loads(bytes(data.tolist()))

    def together(self, work: Callable[[], Any]) -> Any:
        """Run `work` in the first process while the others wait; its plain result in all. Where it raises ReactvlError, all do."""
        if self.size == 1:
            return work()
        result, refused = None, None
        if self.first:
            try:
                result = work()
            except ReactvlError as fault:
                refused = str(fault)
        answer = self.tell({"result": result, "refused": refused})
        if answer["refused"] is not None:
            raise ReactvlError(answer["refused"] if self.first else f"process {self.rank} ends with process 0")
        return answer["result"]


@contextlib.contextmanager
def joined_world(device: str) -> Iterator[tuple[World, str]]:
    """This process's World and its device, with the group of processes open during the `with`.

    Under torchrun `auto` and `cuda` are the GPU of the local rank where there are GPUs, else the CPU.
    """
    world = World.of_environment()
    if world.size == 1:
        yield world, device
        return
    if device in ("auto", "cuda"):
        if device == "cuda" or torch.cuda.is_available():
            if world.local_rank >= torch.cuda.device_count():
                raise ReactvlError(
                    f"process {world.local_rank} of this machine has no GPU of its own ({torch.cuda.device_count()} seen): "
                    "choose --nproc_per_node no larger, or --device cpu"
                )
            device = f"cuda:{world.local_rank}"
            torch.cuda.set_device(world.local_rank)
        else:
            device = "cpu"
    elif device != "cpu":
        raise ReactvlError(f"device {device!r}: torchrun gives every process its own; use auto, cpu or cuda")
    opened = not dist.is_initialized()
    if opened:
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        dist.init_process_group(backend, timeout=PATIENCE)
    try:
        yield world, device
    finally:
        if opened and sys.exc_info()[0] is None:  # after an error the others may never come to say goodbye
            dist.destroy_process_group()


class Joined(Function):
    """Rows of all processes; backward sums the gradients over the processes and keeps one's own rows."""

    @staticmethod
    def forward(ctx, mine: Tensor, world: World, first: int) -> Tensor:
        ctx.own, ctx.world = slice(first, first + len(mine)), world
        return world.joined(mine)

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None, None]:
        return ctx.world.total(gradient)[ctx.own], None, None


class JoinedLogsumexp(Function):
    """logsumexp over the processes. Every process goes on alike from the common result, so that the gradient of the sum of
    their losses is `size` times that of one, times the local share exp(local - joined)."""

    @staticmethod
    def forward(ctx, local: Tensor, world: World) -> Tensor:
        parts = [torch.empty_like(local) for _ in range(world.size)]
        dist.all_gather(parts, local.contiguous())
        joined = torch.stack(parts).logsumexp(dim=0)
        ctx.save_for_backward(local, joined)
        ctx.size = world.size
        return joined

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        local, joined = ctx.saved_tensors
        return ctx.size * gradient * (local - joined).exp(), None
