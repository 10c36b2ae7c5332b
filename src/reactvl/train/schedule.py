"""Learning rates by step: linear warm-up, then a half cosine down to 0 or a constant (open_clip's `--lr-scheduler`).

A function of the step alone: a checkpoint that holds the step holds the schedule.
"""

import dataclasses
import math
from typing import Literal

Kind = Literal["cosine", "const"]


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Factors of the peak learning rate over `steps` steps, of which the first `warmup` rise."""

    steps: int
    warmup: int
    kind: Kind = "cosine"

    def factor(self, step: int) -> float:
        """The factor of step `step`, counted from 0; 1/warmup at the first step of a warm-up."""
        if step < self.warmup:
            return (step + 1) / self.warmup
        if self.kind == "const":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - self.warmup) / max(self.steps - self.warmup, 1)))
