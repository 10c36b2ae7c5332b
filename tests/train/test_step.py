"""One step: what it computes, restated with torch's own optimizer; precision, clipping, clamping, counting."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from tests_support import SMALL

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models.gates import insert_gates
from reactvl.models.model import construct
from reactvl.train.frozen import Split, freeze_statistics
from reactvl.train.step import Batch, Stepper, precision_of
from reactvl.train.tuning import choose, trained_count

CPU = torch.device("cpu")


def net_of(gates: int = 0) -> torch.nn.Module:
    torch.manual_seed(0)
    net = construct(SMALL)
    if gates:
        insert_gates(net.visual, gates)
    return net


def stepper_of(
    net: torch.nn.Module, tune: str = "locked-text", *, precision: str = "fp32", decay: float = 0.1, **options
) -> Stepper:
    groups = choose(net, tune, lr=1e-3, alpha_lr=1e-2, weight_decay=decay, freeze=[])
    freeze_statistics(net)
    whole = Split("pixels", lambda pixels: pixels, net.visual, {})
    return Stepper(net, whole, None, groups, precision=precision, device=CPU, **options)


def batch(seed: int = 0, rows: int = 8) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randn(rows, 3, 32, 32, generator=generator), torch.randn(rows, 32, generator=generator), None, 0.0
    )


def test_two_steps_are_those_of_torchs_adamw_and_open_clips_loss():
    """The reference runs the whole tower, open_clip's ClipLoss and the plain, unfused AdamW."""
    net = net_of()
    other = copy.deepcopy(net)
    stepper = stepper_of(net)
    losses = [float(stepper.step(batch(seed), factor)["loss"]) for seed, factor in ((0, 0.5), (1, 1.0))]
    decayed = [p for n, p in other.named_parameters() if n.startswith("visual.") and p.ndim >= 2]
    plain = [p for n, p in other.named_parameters() if (n.startswith("visual.") and p.ndim < 2) or n == "logit_scale"]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=1e-3, betas=(0.9, 0.98), eps=1e-6, fused=False, foreach=False,
    )  # fmt: skip
    other.train()
    for (seed, factor), loss in zip(((0, 0.5), (1, 1.0)), losses, strict=True):
        given = batch(seed)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3 * factor
        optimizer.zero_grad()
        images = other.encode_image(given.inputs, normalize=True)
        wanted = open_clip.loss.ClipLoss()(images, F.normalize(given.texts, dim=-1), other.logit_scale.exp())
        wanted.backward()
        optimizer.step()
        assert loss == pytest.approx(float(wanted.detach()), rel=1e-5)
    theirs = dict(other.named_parameters())
    for name, parameter in stepper.trained.items():
        # AdamW divides by the gradient's size: where a gradient is all rounding, so is the step, of at most lr
        close = (parameter - theirs[name]).abs() < 2e-5
        assert close.float().mean() > 0.999, name
        assert (parameter - theirs[name]).abs().max() < 2e-3, name


def test_frozen_tensors_stay():
    net = net_of(gates=1)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    stepper = stepper_of(net, "gated-image")
    for seed in range(2):
        stepper.step(batch(seed), 1.0)
    changed = {name for name, tensor in net.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed <= set(stepper.trained)
    assert any(name.endswith("alpha_attn") for name in changed)


def test_the_logit_scale_stays_within_1_and_100():
    for value, bound in ((5.0, math.log(100)), (-1.0, 0.0)):
        net = net_of()
        stepper = stepper_of(net)
        with torch.no_grad():
            net.logit_scale.fill_(value)
        told = stepper.step(batch(), 0.0)
        assert float(net.logit_scale.detach()) == pytest.approx(bound, abs=1e-6)
        assert float(told["logit_scale"]) == pytest.approx(math.exp(bound), rel=1e-5)


def test_gradients_are_clipped_to_the_norm():
    net = net_of()
    stepper = stepper_of(net, grad_clip=1e-3)
    told = stepper.step(batch(), 1.0)
    norm = torch.stack([parameter.grad.norm() for parameter in stepper.trained.values()]).norm()
    assert float(told["gradient_norm"]) > 1e-2
    assert float(norm) == pytest.approx(1e-3, rel=1e-3)


def test_gates_are_told_by_layer():
    net = net_of(gates=1)
    stepper = stepper_of(net, "gated-image")
    told = stepper.step(batch(), 1.0)
    assert list(stepper.alphas) == ["1.attn", "1.dense"]
    wanted = [float(torch.tanh(parameter.detach())) for parameter in stepper.alphas.values()]
    assert told["gates"].tolist() == pytest.approx(wanted)
    assert max(map(abs, wanted)) == pytest.approx(1e-2, rel=1e-2)  # AdamW's first step is of the learning rate's size


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_steps_stay_near_those_of_float32(precision):
    exact, mixed = net_of(), net_of()
    wanted, found = stepper_of(exact), stepper_of(mixed, precision=precision)
    assert found.scaler.is_enabled() == (precision == "fp16")
    if precision == "fp16":  # a scale that these small gradients do not overflow with
        found.scaler.load_state_dict(found.scaler.state_dict() | {"scale": 256.0})
    losses = [[float(stepper.step(batch(seed), 1.0)["loss"]) for seed in range(3)] for stepper in (wanted, found)]
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)
    assert all(parameter.dtype == torch.float32 for parameter in mixed.parameters())


def test_an_overflow_in_fp16_skips_the_step_and_lowers_the_scale():
    net = net_of()
    stepper = stepper_of(net, precision="fp16")
    stepper.scaler.load_state_dict(stepper.scaler.state_dict() | {"scale": 2.0**120})
    before = net.visual.proj.detach().clone()
    stepper.step(batch(), 1.0)
    assert torch.equal(net.visual.proj.detach(), before)
    assert stepper.scaler.get_scale() == 2.0**119


def test_words_for_precision_are_open_clips_too():
    given = ["amp", "amp_bf16", "amp_bfloat16", "fp32", "bf16", "fp16"]
    assert [precision_of(word, CPU) for word in given] == ["fp16", "bf16", "bf16", "fp32", "bf16", "fp16"]
    assert precision_of("auto", CPU) in ("fp32", "bf16")
    with pytest.raises(ReactvlError, match="pure_bf16"):
        precision_of("pure_bf16", CPU)


def dropping(**options) -> Stepper:
    """A tower that drops half of its patches."""
    net = net_of()
    net.visual.patch_dropout = open_clip.transformer.PatchDropout(0.5)
    stepper = stepper_of(net, **options)
    net.visual.patch_dropout.train()
    return stepper


def test_dropout_is_a_function_of_seed_and_step():
    """A run that goes on at step 1 drops what the run that was left alone dropped."""

    whole, resumed = dropping(), dropping()
    whole.step(batch(0), 0.0)
    resumed.steps = 1
    torch.rand(7)
    assert float(whole.step(batch(1), 0.0)["loss"]) == float(resumed.step(batch(1), 0.0)["loss"])
    resumed.steps = 1
    resumed.seed = 5
    assert float(resumed.step(batch(1), 0.0)["loss"]) != float(whole.step(batch(1), 0.0)["loss"])


def test_pieces_drop_the_same_in_both_passes():
    """With dropout the features of the first pass and of the second are the same, or the gradient would be of another loss."""
    stepper, made = dropping(accumulate=2), []
    upper = stepper.towers.upper
    object.__setattr__(stepper.towers, "upper", lambda inputs: made.append(upper(inputs)) or made[-1])
    stepper.step(batch(), 1.0)
    assert torch.equal(made[0], made[2])
    assert torch.equal(made[1], made[3])
    assert not torch.equal(made[0], made[1])


def test_a_batch_of_one_picture_is_refused():
    one = Batch(torch.randn(1, 3, 32, 32), torch.randn(3, 32), torch.tensor([False, True, False]), 0.0)
    with pytest.raises(ReactvlError, match="1 readable"):
        stepper_of(net_of()).step(one, 1.0)


def test_gated_vit_b_32_trains_the_released_number_of_scalars():
    """42,527,244 of the gates and the logit scale, counted without memory for any of them."""
    with torch.device("meta"):
        net = open_clip.CLIP(**open_clip.get_model_config("ViT-B-32"))
        insert_gates(net.visual, 6)
    choose(net, "gated-image", lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=[])
    assert trained_count(net) == 42_527_245


@pytest.mark.slow
def test_compiled_towers_give_the_same_steps():
    plain, fast = stepper_of(net_of(gates=1), "gated-image"), stepper_of(net_of(gates=1), "gated-image", compiled=True)
    for seed in range(2):
        losses = [float(stepper.step(batch(seed), 1.0)["loss"]) for stepper in (plain, fast)]
        assert losses[1] == pytest.approx(losses[0], rel=1e-5)
