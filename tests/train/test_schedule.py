"""Learning rates by step are open_clip_train's, whose formulas are restated here."""

import math

import pytest

from reactvl.train.schedule import Schedule


def open_clip_cosine(step: int, warmup: int, steps: int) -> float:
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def open_clip_const(step: int, warmup: int, steps: int) -> float:
    return (step + 1) / warmup if step < warmup else 1.0


@pytest.mark.parametrize(("kind", "theirs"), [("cosine", open_clip_cosine), ("const", open_clip_const)])
@pytest.mark.parametrize(("steps", "warmup"), [(100, 10), (7, 0), (50, 1), (66_600, 5_000)])
def test_factors_are_open_clips(kind, theirs, steps, warmup):
    schedule = Schedule(steps, warmup, kind)
    for step in range(0, steps, max(steps // 97, 1)):
        assert schedule.factor(step) == pytest.approx(theirs(step, warmup, steps), rel=1e-12)


def test_a_run_that_is_all_warm_up_rises_to_its_peak():
    schedule = Schedule(5, 5)
    assert [schedule.factor(step) for step in range(5)] == [0.2, 0.4, 0.6, 0.8, 1.0]
