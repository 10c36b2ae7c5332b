"""Checkpoints: whole or not there, the last few and the best kept, everything restored."""

import pytest
import torch
from tests_support import SMALL

from reactvl.manifest import ReactvlError
from reactvl.models.model import construct
from reactvl.train import checkpoints
from reactvl.train.frozen import Split
from reactvl.train.step import Batch, Stepper
from reactvl.train.tuning import choose


def stepper_of(seed: int = 0, precision: str = "fp32", freeze: tuple[str, ...] = ()) -> Stepper:
    torch.manual_seed(seed)
    net = construct(SMALL)
    groups = choose(net, "locked-text", lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=list(freeze))
    whole = Split("pixels", lambda pixels: pixels, net.visual, {})
    return Stepper(net, whole, None, groups, precision=precision, device=torch.device("cpu"))


def step(stepper: Stepper) -> float:
    generator = torch.Generator().manual_seed(stepper.steps)
    given = Batch(torch.randn(6, 3, 32, 32, generator=generator), torch.randn(6, 32, generator=generator), None, 0.0)
    return float(stepper.step(given, 1.0)["loss"])


def test_a_restored_run_goes_on_bit_for_bit(tmp_path):
    whole, other = stepper_of(), stepper_of(seed=1)
    for _ in range(2):
        step(whole)
    checkpoints.save(tmp_path, whole, {"global_batch": 6}, keep=1)
    step(whole)
    [found] = checkpoints.whole(tmp_path)
    assert (found.step, found.facts) == (2, {"global_batch": 6})
    other.net.load_state_dict(
        {**whole.net.state_dict(), **{name: torch.zeros_like(p) for name, p in other.trained.items()}}
    )
    checkpoints.restore(found, other)
    step(other)
    assert other.steps == 3
    for name, tensor in whole.net.state_dict().items():
        assert torch.equal(tensor, other.net.state_dict()[name]), name


def test_the_scaler_of_fp16_is_restored(tmp_path):
    whole, other = stepper_of(precision="fp16"), stepper_of(precision="fp16")
    whole.scaler.load_state_dict(whole.scaler.state_dict() | {"scale": 4096.0, "_growth_tracker": 7})
    checkpoints.save(tmp_path, whole, {}, keep=1)
    checkpoints.restore(checkpoints.whole(tmp_path)[0], other)
    assert other.scaler.state_dict() == whole.scaler.state_dict()


def test_the_last_few_and_the_best_are_kept(tmp_path):
    stepper = stepper_of()
    for number, value in enumerate((0.1, 0.7, None, 0.7, 0.2, None), start=1):
        stepper.steps = number
        checkpoints.save(tmp_path, stepper, {} if value is None else {"validation": value}, keep=2)
    found = checkpoints.whole(tmp_path)
    assert [one.step for one in found] == [2, 5, 6]  # of two equals the first is the best
    assert checkpoints.best(found).step == 2
    checkpoints.publish(tmp_path, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "best.safetensors", "last.safetensors", "step_0000005.safetensors",
    ]  # fmt: skip
    assert checkpoints.header_of(tmp_path / "out" / "best.safetensors")["step"] == 2
    assert checkpoints.header_of(tmp_path / "out" / "last.safetensors")["step"] == 6


def test_what_a_killed_writer_left_is_no_checkpoint_and_goes(tmp_path):
    stepper = stepper_of()
    stepper.steps = 1
    path = checkpoints.save(tmp_path, stepper, {}, keep=3)
    stray = tmp_path / ".step_0000002.safetensors.4711.part"
    stray.write_bytes(path.read_bytes()[:1000])
    assert [one.step for one in checkpoints.whole(tmp_path)] == [1]
    stepper.steps = 3
    checkpoints.save(tmp_path, stepper, {}, keep=3)
    assert not stray.exists()


def test_a_checkpoint_of_other_tensors_or_cut_short_is_refused(tmp_path):
    path = checkpoints.save(tmp_path, stepper_of(), {}, keep=1)
    with pytest.raises(ReactvlError, match="other tensors"):
        checkpoints.restore(checkpoints.whole(tmp_path)[0], stepper_of(freeze=(r"visual\.proj",)))
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(ReactvlError, match="not a checkpoint"):
        checkpoints.whole(tmp_path)
