"""Linear probes by stochastic gradient descent from a language-initialised head, many settings at once.

The training of ELEVATER's toolkit: features standardised by channel, a linear layer whose rows begin as the zero-shot head
and whose bias begins at 0, logit scale 1; SGD with momentum 0.9 in batches of 64 at a constant rate, weight decay on
weights and bias alike; cross-entropy, or a binary one per class where an image may have several. Every setting sees the
same batches (there as here, each run shuffles by the same seed), so that the heads of all settings are trained as ONE
matrix. Where this departs from the toolkit:

- channels are standardised by the mean and variance of the training rows, not by running averages over batches, which have
  not settled after the few steps that few shots take;
- features are L2-normalised, as they are kept; a vector's length before that is gone.
"""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from reactvl.heads.products import product

EPOCHS, FINAL_EPOCHS = 10, 50  # of a trial in the sweep, of the head that is kept
BATCH, MOMENTUM, EPS = 64, 0.9, 1e-5
INNER = 32  # classes below which scores are laid out (rows, C, G), because sums along a long last axis are fast
STATE = 1 << 30  # bytes of weights and momenta; more heads are trained in turns


@dataclasses.dataclass(frozen=True)
class Probe:
    """A linear head over features as they are kept: logits = features @ weights.T + bias; weights (C, dim), bias (C,)
    float32. `several`: an image may have several classes."""

    weights: np.ndarray
    bias: np.ndarray
    several: bool = False

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Probabilities float32 (N, C): a softmax, or a sigmoid a class."""
        return probabilities(torch.from_numpy(features @ self.weights.T + self.bias), self.several).numpy()


@dataclasses.dataclass(frozen=True)
class Standard:
    """Features (N, dim) to what the heads are trained on: channels of mean 0 and variance 1 over the training rows, and a
    column of ones for the bias."""

    mean: Tensor
    scale: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Standard":
        variance, mean = torch.var_mean(features.double(), dim=0, correction=0)
        return cls(mean.float(), (1 / (variance + EPS * variance.mean().clamp_min(1e-12)).sqrt()).float())

    def __call__(self, features: Tensor) -> Tensor:
        x = (features - self.mean).mul_(self.scale)
        return torch.cat([x, torch.ones_like(x[:, :1])], dim=1)

    def folded(self, head: Tensor, several: bool) -> Probe:
        """A head (C, dim + 1) over standardised features as one over plain features."""
        weights = head[:, :-1] * self.scale
        return Probe(weights.cpu().numpy(), (head[:, -1] - weights @ self.mean).cpu().numpy(), several)


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    classes: int,
    head: np.ndarray | None,
    lr: float,
    l2: float,
    epochs: int = FINAL_EPOCHS,
    seed: int = 0,
    device: str | torch.device = "cpu",
) -> Probe:
    """The probe of one setting. `features` float32 (N, dim); `labels` int64 (N,) or bool (N, classes); `head` (classes, dim),
    None to begin at 0; `seed` is that of the batches.

    Raises FloatingPointError where the weights grow without bound, ValueError for shapes that do not fit.
    """
    x, y = on(features, device), targets(labels, classes, device)
    standard = Standard.of(x)
    made = train(standard(x), y, initial(head, classes, x.shape[1], device), [lr], [l2], epochs=epochs, seed=seed)
    if not torch.isfinite(made).all():
        raise FloatingPointError(f"learning rate {lr:g} and weight decay {l2:g}: the weights grow without bound")
    return standard.folded(made[0], y.dtype == torch.float32)


def train(
    x: Tensor,
    labels: Tensor,
    start: Tensor,
    lr: Sequence[float],
    l2: Sequence[float],
    *,
    epochs: int,
    seed: int = 0,
    batch_size: int = BATCH,
) -> Tensor:
    """Heads (G, C, dim + 1) after `epochs` over `x` (N, dim + 1) from `start` (C, dim + 1), one for each (lr, l2).

    `labels` int64 (N,), or float (N, C) of 0 and 1. Weights that have grown without bound come back as they are.
    """
    rates, decays = (torch.tensor(values, dtype=torch.float32, device=x.device) for values in (lr, l2))
    turn = max(1, STATE // (start.numel() * 8))
    return torch.cat(
        [
            train_together(x, labels, start, rates[here], decays[here], epochs, seed, batch_size)
            for here in (slice(first, first + turn) for first in range(0, len(rates), turn))
        ]
    )


def train_together(
    x: Tensor, labels: Tensor, start: Tensor, rates: Tensor, decays: Tensor, epochs: int, seed: int, batch_size: int
) -> Tensor:
    heads, (classes, width) = len(rates), start.shape
    inner = classes < INNER
    along = 1 if inner else 2
    weights = start.expand(heads, -1, -1)
    weights = (
        (weights.transpose(0, 1) if inner else weights).reshape(heads * classes, width).clone()
    )  # updated in place
    rate, decay = (
        (values.repeat(classes) if inner else values.repeat_interleave(classes))[:, None] for values in (rates, decays)
    )
    momentum = torch.zeros_like(weights)
    for rows in batches(len(x), epochs, seed, batch_size):
        here, own = x[rows], labels[rows]
        scores = product(here, weights)
        shaped = scores.view(len(here), classes, heads) if inner else scores.view(len(here), heads, classes)
        if own.dtype == torch.int64:
            shaped.sub_(shaped.amax(dim=along, keepdim=True)).exp_()
            shaped.div_(shaped.sum(dim=along, keepdim=True))
            shaped.sub_(torch.nn.functional.one_hot(own, classes).to(scores.dtype).unsqueeze(2 if inner else 1))
            share = 1 / len(here)
        else:
            shaped.sigmoid_().sub_(own.unsqueeze(2 if inner else 1))
            share = 1 / own.numel()
        momentum.mul_(MOMENTUM).addcmul_(weights, decay).addmm_(scores.T, here, alpha=share)
        weights.addcmul_(momentum, rate, value=-1)
    if inner:
        return weights.view(classes, heads, width).transpose(0, 1).contiguous()
    return weights.view(heads, classes, width)


def batches(rows: int, epochs: int, seed: int, batch_size: int) -> Iterator[Tensor]:
    """The rows of every batch, in the order of torch's DataLoader with a generator of that seed; the last of an epoch may
    be smaller."""
    generator = torch.Generator().manual_seed(seed)
    for _ in range(epochs):
        torch.empty((), dtype=torch.int64).random_(generator=generator)  # what a DataLoader seeds its workers with
        yield from torch.randperm(rows, generator=generator).split(batch_size)
        torch.randperm(rows, generator=generator)  # its sampler asks once more, for the rest of an epoch: none


def initial(head: np.ndarray | None, classes: int, dim: int, device: str | torch.device) -> Tensor:
    """(classes, dim + 1): the head's rows and a bias of 0."""
    start = torch.zeros(classes, dim + 1, device=device)
    if head is not None:
        if head.shape != (classes, dim):
            raise ValueError(f"head {head.shape}: must be ({classes}, {dim}), a row a class")
        start[:, :-1] = torch.from_numpy(np.asarray(head, np.float32))
    return start


def targets(labels: np.ndarray, classes: int, device: str | torch.device) -> Tensor:
    """Labels as they are trained on: int64 (N,), or float32 (N, C)."""
    labels = np.asarray(labels)
    if labels.ndim == 1 and labels.dtype.kind in "iu":
        if not len(labels) or labels.min() < 0 or labels.max() >= classes:
            raise ValueError(f"labels must be numbers below {classes}, at least one")
        return torch.from_numpy(labels.astype(np.int64)).to(device)
    if labels.ndim != 2 or labels.shape[1] != classes or not len(labels):
        raise ValueError(f"labels {labels.shape}: must be a row an image and a column for each of {classes} classes")
    return torch.from_numpy(labels.astype(np.float32)).to(device)


def probabilities(logits: Tensor, several: bool) -> Tensor:
    return logits.sigmoid() if several else logits.softmax(dim=-1)


def on(features: np.ndarray, device: str | torch.device) -> Tensor:
    if features.ndim != 2:
        raise ValueError(f"features {features.shape}: must be (N, dim)")
    return torch.from_numpy(np.ascontiguousarray(features, np.float32)).to(device)
