"""Logistic regression with an L2 penalty, converged, for many penalties at once.

scikit-learn's `LogisticRegression` fits one penalty at a time: thin products that wait for memory, and hundreds of them.
Here the heads of all penalties that are being worked on make ONE matrix product with the features, and there are far
fewer products, for three reasons:

- features are centred and turned to the principal axes of their covariance, so that a diagonal matrix is close to the
  Hessian: class c's curvature along axis j is about mean(p_c (1 - p_c)) x variance_j + penalty (in the spirit of
  Böhning's bound, "Multinomial logistic regression algorithm", 1992, with the probabilities at hand in place of its 1/2).
  L-BFGS starts from it and learns what it misses;
- the path of solutions is smooth in the logarithm of the penalty: a few penalties far apart are solved first, and each
  next level, the midpoints, starts from what its neighbours' solutions interpolate to;
- a head that has converged leaves the product.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from reactvl.heads.products import product

MEMORY = 10  # pairs of steps and gradient differences that L-BFGS keeps
ARMIJO = 1e-4
COARSE = 3  # steps, at least, between the penalties of the first level, which start from nothing
ELEMENTS = 1 << 22  # scores made at once
STATE = 1 << 31  # bytes of L-BFGS's state; more heads than fit are solved in turns


@dataclasses.dataclass(frozen=True)
class Heads:
    """One head a penalty, in the order given: `weights` (G, C, dim) and `bias` (G, C) float32.

    `objective` float64 (G,) is the penalised sum of losses divided by the rows, `excess` (G,) the estimate of how far that
    is above the optimum. `passes` counts products of one head with all features and back.
    """

    l2: np.ndarray
    weights: np.ndarray
    bias: np.ndarray
    objective: np.ndarray
    excess: np.ndarray
    passes: int


def fit(
    features: np.ndarray,
    labels: np.ndarray,
    l2: Sequence[float],
    *,
    classes: int,
    tol: float = 1e-5,
    max_passes: int = 500,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
) -> Heads:
    """The minimum of `sum of losses + l2 / 2 x |weights|^2` for every `l2`; the bias goes free.

    `features` (N, dim) float; `labels` int64 (N,): softmax over the classes, or bool (N, C): a sigmoid each. `l2` is
    scikit-learn's 1 / C; with two classes, as there, one vector w is penalised, and the head's rows are -w/2 and w/2.
    A head is done when its mean objective is within `tol` nats of the optimum by the estimate of `Search.excess`; where
    classes part almost wholly and the penalty is weak, the truth was found to be up to 40 times the estimate (scikit-learn's
    default stops further away there).
    ValueError for shapes that do not fit, labels outside the classes, a penalty that is not positive.
    """
    problem = Problem.of(features, labels, classes, dtype, torch.device(device))
    given = np.asarray(l2, np.float64)
    if given.ndim != 1 or not len(given) or not (np.isfinite(given) & (given > 0)).all():
        raise ValueError(f"penalties must be positive numbers, not {l2}")
    path, place = np.unique(given, return_inverse=True)
    logs, solved = np.log(path), Solved(problem, len(path))
    for level in levels(len(path)):
        start = solved.interpolated(logs, level)
        turn = max(1, STATE // (problem.size * (2 * MEMORY + 8) * features.dtype.itemsize))
        for first in range(0, len(level), turn):
            here = slice(first, first + turn)
            solved.keep(level[here], minimised(problem, path[level[here]], start[here], tol, max_passes))
    weights, bias = problem.original(solved.points)
    return Heads(
        given,
        weights[place],
        bias[place],
        solved.objective[place],
        solved.excess[place],
        solved.passes,
    )


def levels(count: int) -> list[np.ndarray]:
    """Places 0..count-1 in the order of work: every 2^k-th with the last, then midpoints by halving."""
    stride = 1
    while (count - 1) // (2 * stride) >= COARSE:
        stride *= 2
    first = sorted({*range(0, count, stride), count - 1})
    found, done = [np.array(first)], set(first)
    while stride > 1:
        stride //= 2
        new = [place for place in range(0, count, stride) if place not in done]
        done.update(new)
        if new:
            found.append(np.array(new))
    return found


class Solved:
    """The path as far as it is solved: points (G, C, axes + 1), the last of a row the bias."""

    def __init__(self, problem: "Problem", count: int):
        self.problem = problem
        self.points = torch.zeros(count, problem.columns, problem.axes + 1, dtype=problem.dtype, device=problem.device)
        self.objective, self.excess = np.full(count, np.nan), np.full(count, np.nan)
        self.passes = 0

    def interpolated(self, logs: np.ndarray, level: np.ndarray) -> Tensor:
        """A start for each of the level's penalties: Lagrange's cubic through the two solved ones on each side."""
        done = np.flatnonzero(np.isfinite(self.objective))
        if not len(done):
            return self.problem.start().expand(len(level), -1, -1).clone()
        made = []
        for place in level:
            right = int(np.searchsorted(done, place))
            near = done[max(right - 2, 0) : right + 2]
            shares = [
                np.prod([(logs[place] - logs[other]) / (logs[one] - logs[other]) for other in near if other != one])
                for one in near
            ]
            made.append(sum(float(share) * self.points[one] for share, one in zip(shares, near, strict=True)))
        return torch.stack(made)

    def keep(self, level: np.ndarray, result: tuple[Tensor, np.ndarray, np.ndarray, int]) -> None:
        points, self.objective[level], self.excess[level], passes = result
        self.points[torch.from_numpy(level)] = points
        self.passes += passes


@dataclasses.dataclass(frozen=True)
class Problem:
    """Centred features on their principal axes, x (N, axes) of variances `variance`, and what of the labels is needed.

    `sums` (C, axes + 1): the mean over rows of label x (x, 1). The mean loss is mean(logsumexp) - <W, sums>, its gradient
    mean(p (x, 1)) - sums: labels are never looked up in the loop.
    """

    x: Tensor
    variance: Tensor
    sums: Tensor
    prior: Tensor
    softmax: bool
    binary: bool
    mean: Tensor
    turn: Tensor  # (dim, axes)

    @classmethod
    def of(cls, features: np.ndarray, labels: np.ndarray, classes: int, dtype, device) -> "Problem":
        labels = np.asarray(labels)
        single = labels.ndim == 1
        if features.ndim != 2 or len(labels) != len(features) or not len(labels):
            raise ValueError(
                f"features {features.shape} and labels {labels.shape}: rows must be the same, at least one"
            )
        if single and (labels.min() < 0 or labels.max() >= classes):
            raise ValueError(f"labels {labels.min()}..{labels.max()} of {classes} classes")
        if not single and labels.shape[1] != classes:
            raise ValueError(f"labels {labels.shape} of {classes} classes")
        binary = single and classes == 2
        x = torch.from_numpy(np.ascontiguousarray(features)).to(device)
        mean = x.mean(dim=0, dtype=torch.float64)
        x = x.to(torch.float64 if dtype == torch.float64 else torch.float32) - mean.to(x.dtype)
        covariance = (product(x.T.contiguous(), x.T.contiguous()) / len(x)).double()
        variance, turn = torch.linalg.eigh(covariance)
        some = variance > variance[-1].clamp_min(1e-30) * (1e-13 if dtype == torch.float64 else 1e-8)
        variance, turn = variance[some], turn[:, some]
        x = product(x, turn.T.to(x.dtype).contiguous()).to(dtype)
        if binary:
            targets = torch.from_numpy(labels.astype(np.float64)[:, None]).to(device)
        elif single:
            targets = torch.nn.functional.one_hot(torch.from_numpy(labels.astype(np.int64)).to(device), classes)
        else:
            targets = torch.from_numpy(labels).to(device)
        targets = targets.to(dtype)
        sums = torch.cat([targets.T @ x, targets.sum(dim=0)[:, None]], dim=1) / len(x)
        return cls(
            x, variance.to(dtype), sums, sums[:, -1].double(), single and not binary, binary, mean, turn,
        )  # fmt: skip

    @property
    def dtype(self) -> torch.dtype:
        return self.x.dtype

    @property
    def device(self) -> torch.device:
        return self.x.device

    @property
    def columns(self) -> int:
        return len(self.sums)

    @property
    def axes(self) -> int:
        return len(self.variance)

    @property
    def size(self) -> int:
        return self.columns * (self.axes + 1)

    def start(self) -> Tensor:
        """Weights of 0 and the bias of the classes' shares, (C, axes + 1)."""
        point = torch.zeros(self.columns, self.axes + 1, dtype=self.dtype, device=self.device)
        prior = self.prior.clamp(1e-6, 1 - 1e-6)
        point[:, -1] = (prior.log() if self.softmax else torch.logit(prior)).to(self.dtype)
        return point

    def original(self, points: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Weights and bias over the features as they were given."""
        weights = product(points[..., :-1].reshape(-1, self.axes), self.turn.to(points.dtype))
        weights = weights.view(len(points), self.columns, -1)
        bias = points[..., -1].double() - weights.double() @ self.mean
        if self.binary:
            weights = torch.cat([-weights / 2, weights / 2], dim=1)
            bias = torch.cat([-bias / 2, bias / 2], dim=1)
        return weights.float().cpu().numpy(), bias.float().cpu().numpy()

    def losses(self, points: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of every head (G, C, axes + 1): the mean loss float64 (G,), its gradient, and mean p (1 - p) (G, C)."""
        heads, columns, _ = points.shape
        # scores are (rows, C, G) where there are few classes, because sums along a long last axis are fast
        inner = columns < 32 and self.softmax
        laid = points.transpose(0, 1) if inner else points
        weights, bias = laid[..., :-1].reshape(heads * columns, -1), laid[..., -1].reshape(-1)
        weights = weights.contiguous()
        gradient = torch.zeros(heads * columns, self.axes + 1, dtype=self.dtype, device=self.device)
        spread = torch.zeros(heads * columns, dtype=self.dtype, device=self.device)
        total = torch.zeros(heads, dtype=torch.float64, device=self.device)
        counted = 0
        for number, x in enumerate(self.x.split(max(256, ELEMENTS // (heads * columns)))):
            scores = product(x, weights, bias)
            shaped = scores.view(len(x), columns, heads) if inner else scores.view(len(x), heads, columns)
            total += self.normalised(shaped, 1 if inner else 2)
            gradient[:, :-1] += product(scores.T, x.T)
            sums = scores.sum(dim=0)
            gradient[:, -1] += sums
            if number % 2 == 0:  # half of many rows tell the curvature as well as all of them
                counted += len(x)
                spread += sums - torch.linalg.vector_norm(scores, dim=0) ** 2
        gradient /= len(self.x)
        curvature = (spread / counted).clamp_min(1e-7)
        if inner:
            gradient = gradient.view(columns, heads, -1).transpose(0, 1)
            curvature = curvature.view(columns, heads).T
        gradient = gradient.reshape(points.shape)
        loss = total / len(self.x) - (points.double() * self.sums.double()).sum(dim=(1, 2))
        return loss, gradient - self.sums, curvature.reshape(heads, columns)

    def normalised(self, scores: Tensor, along: int) -> Tensor:
        """Turn scores into probabilities in place; the sum over rows of their logsumexp, float64 (G,)."""
        if not self.softmax:
            total = torch.nn.functional.softplus(scores).sum(dim=(0, along), dtype=torch.float64)
            scores.sigmoid_()
            return total
        highest = scores.amax(dim=along, keepdim=True)
        odds = scores.sub_(highest).exp_().sum(dim=along, keepdim=True)
        scores.div_(odds)
        return (highest + odds.log()).sum(dim=(0, along), dtype=torch.float64)


def minimised(
    problem: Problem, l2: np.ndarray, start: Tensor, tol: float, max_passes: int
) -> tuple[Tensor, np.ndarray, np.ndarray, int]:
    """The points (G, C, axes + 1) of least objective from `start`, their objectives, excesses, and the passes made.

    Every pass evaluates all heads that are left at their trial points: a head whose trial is good steps there, another
    shortens its step, so that none waits for another's line search.
    """
    found = start.clone()
    objective, excess = np.empty(len(l2)), np.empty(len(l2))
    search = Search(problem, torch.from_numpy(l2).to(problem.device), start)
    passes, members = len(l2), np.arange(len(l2))
    for number in range(max_passes):
        done = search.done(tol) if number < max_passes - 1 else torch.ones_like(search.stuck)
        if done.any():
            gone = done.cpu().numpy()
            places = torch.from_numpy(members[gone]).to(problem.device)
            found[places] = search.point[done]
            objective[members[gone]] = search.value[done].cpu().numpy()
            excess[members[gone]] = search.excess()[done].cpu().numpy()
            members = members[~gone]
            if not len(members):
                break
            search.only(~done)
        search.trial()
        passes += len(members)
    return found, objective, excess, passes


class Search:
    """L-BFGS of many heads side by side, each with its own history, step length and diagonal first guess."""

    PER_HEAD = ("l2", "point", "value", "gradient", "curvature", "direction", "slope", "length", "stuck")

    def __init__(self, problem: Problem, l2: Tensor, start: Tensor):
        self.problem, self.l2, self.point = problem, l2 / len(problem.x), start.clone()
        self.value, self.gradient, self.curvature = self.evaluate(self.point)
        heads = len(l2)
        self.steps: list[Tensor] = []  # (G, C, axes + 1) each, the oldest first
        self.changes: list[Tensor] = []
        self.weights: list[Tensor] = []  # 1 / <step, change> (G,), 0 where a pair is of no use
        self.length = torch.ones(heads, dtype=torch.float64, device=problem.device)
        self.stuck = torch.zeros(heads, dtype=torch.bool, device=problem.device)
        self.aim()

    def evaluate(self, point: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Objective (G,), gradient and curvature at a point."""
        loss, gradient, curvature = self.problem.losses(point)
        weights = point[..., :-1]
        gradient[..., :-1] += self.l2.to(point.dtype)[:, None, None] * weights
        return loss + self.l2 / 2 * weights.double().square().sum(dim=(1, 2)), gradient, curvature

    def guess(self) -> Tensor:
        """The diagonal of about the Hessian's inverse."""
        axes = self.curvature[..., None] * self.problem.variance + self.l2.to(self.point.dtype)[:, None, None]
        return 1 / torch.cat([axes, self.curvature[..., None]], dim=2)

    def excess(self) -> Tensor:
        """What a Newton step would gain, (G,): half the squared gradient in the metric of `guess`, or in that which the history
        has made of it, whichever is more."""
        plain = dots(self.gradient, self.guess() * self.gradient)
        return torch.maximum(plain, -self.slope) / 2

    def done(self, tol: float) -> Tensor:
        return self.stuck | (self.excess() <= tol)

    def aim(self) -> None:
        """The direction of the next step by the two-loop recursion, and the slope along it."""
        guess = self.guess()
        left, shares = self.gradient.clone(), []
        for step, change, weight in zip(self.steps[::-1], self.changes[::-1], self.weights[::-1], strict=True):
            share = weight * dots(step, left)
            shares.append(share)
            left -= wide(share, left) * change
        if self.steps:
            change, weight = self.changes[-1], self.weights[-1]
            squared = dots(change, guess * change)
            scale = torch.where(weight > 0, 1 / (weight * squared).clamp_min(1e-30), 1.0)
            left *= wide(scale, left)
        left *= guess
        for step, change, weight, share in zip(self.steps, self.changes, self.weights, shares[::-1], strict=True):
            left += wide(share - weight * dots(change, left), left) * step
        slope = -dots(left, self.gradient)
        lost = ~(slope < 0)
        if lost.any():  # rounding has spoilt the history
            left[lost] = (guess * self.gradient)[lost]
            slope[lost] = -dots(left, self.gradient)[lost]
            for weight in self.weights:
                weight[lost] = 0
        self.direction, self.slope = -left, slope
        self.length = torch.ones_like(self.length)

    def trial(self) -> None:
        """Evaluate every head one step on; step where it is good enough, shorten the step elsewhere."""
        ahead = self.point + wide(self.length, self.point) * self.direction
        value, gradient, curvature = self.evaluate(ahead)
        slope = dots(gradient, self.direction)
        gained = value <= self.value + ARMIJO * self.length * self.slope
        # Hager's and Zhang's approximate condition, by the slopes, where rounding hides the gain
        blur = (1e-6 if self.problem.dtype == torch.float32 else 1e-13) * (1 + self.value.abs())
        level = (value <= self.value + blur) & (slope <= (2 * ARMIJO - 1) * self.slope)
        good = (gained | level) & torch.isfinite(value) & torch.isfinite(slope)
        self.remember(good, ahead, gradient)
        rise = (value - self.value - self.length * self.slope).nan_to_num(float("inf"), float("inf"))
        shorter = (-self.slope * self.length / (2 * rise)).clamp(0.1, 0.5)
        lengths = torch.where(good, 1.0, self.length * shorter)
        self.stuck |= lengths < 1e-5
        self.value = torch.where(good, value, self.value)
        mask = wide(good, ahead)
        self.point = torch.where(mask, ahead, self.point)
        self.gradient = torch.where(mask, gradient, self.gradient)
        self.curvature = torch.where(good[:, None], curvature, self.curvature)
        if good.all():
            self.aim()
        else:
            direction, slopes = self.direction, self.slope
            self.aim()
            self.direction = torch.where(mask, self.direction, direction)
            self.slope = torch.where(good, self.slope, slopes)
            self.length = torch.where(good, self.length, lengths)

    def remember(self, good: Tensor, ahead: Tensor, gradient: Tensor) -> None:
        """Keep the pair of step and change of the gradient where it tells of curvature."""
        step, change = ahead - self.point, gradient - self.gradient
        along = dots(step, change)
        useful = good & (along > 1e-9 * dots(step, step).sqrt() * dots(change, change).sqrt())
        if not useful.any():
            return
        self.steps.append(torch.where(wide(useful, step), step, 0))
        self.changes.append(torch.where(wide(useful, step), change, 0))
        self.weights.append(torch.where(useful, 1 / along, 0.0))
        if len(self.steps) > MEMORY:
            for history in (self.steps, self.changes, self.weights):
                history.pop(0)

    def only(self, left: Tensor) -> None:
        """Go on with some of the heads."""
        for name in self.PER_HEAD:
            setattr(self, name, getattr(self, name)[left])
        self.steps = [one[left] for one in self.steps]
        self.changes = [one[left] for one in self.changes]
        self.weights = [one[left] for one in self.weights]


def dots(left: Tensor, right: Tensor) -> Tensor:
    """Inner products of heads, float64 (G,)."""
    return (left * right).sum(dim=(1, 2), dtype=torch.float64)


def wide(values: Tensor, like: Tensor) -> Tensor:
    """(G,) to (G, 1, 1), in the points' dtype unless they say yes or no."""
    return values[:, None, None] if values.dtype == torch.bool else values.to(like.dtype)[:, None, None]
