"""Steps on labelled pictures: torch's own cross-entropy and AdamW, restated over the whole tower."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests_support import SMALL

from reactvl.models.model import construct
from reactvl.train.classification import HEAD, ClassificationStepper, classification_loss, without_head
from reactvl.train.step import Batch

CPU = torch.device("cpu")


def parts(classes: int = 4) -> tuple[torch.nn.Module, np.ndarray]:
    torch.manual_seed(0)
    head = np.random.default_rng(0).standard_normal((classes, 32)).astype(np.float32)
    return construct(SMALL), head / np.linalg.norm(head, axis=1, keepdims=True)


def pictures(rows: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("several", [False, True])
def test_two_steps_are_those_of_torchs_adamw_and_cross_entropy(several):
    net, head = parts()
    other, layer = copy.deepcopy(net), torch.nn.Linear(32, 4)
    layer.weight.data, layer.bias.data = torch.from_numpy(head.copy()), torch.zeros(4)
    labels = torch.arange(8) % 4
    if several:
        labels = (torch.arange(32).view(8, 4) % 3 == 0).float()
    stepper = ClassificationStepper.of(net, head, lr=1e-3, l2=0.1, precision="fp32", device=CPU)
    losses = [float(stepper.step(Batch(pictures(seed=seed), labels, None, 0.0), 1.0)["loss"]) for seed in (0, 1)]

    other.train()
    named = [*other.visual.parameters(), *layer.parameters()]
    optimizer = torch.optim.AdamW(
        [
            {"params": [one for one in named if one.ndim >= 2], "weight_decay": 0.1},
            {"params": [one for one in named if one.ndim < 2], "weight_decay": 0.0},
        ],
        lr=1e-3, betas=(0.9, 0.98), eps=1e-6, fused=False, foreach=False,
    )  # fmt: skip
    criterion = torch.nn.BCEWithLogitsLoss() if several else torch.nn.CrossEntropyLoss()
    for seed, loss in zip((0, 1), losses, strict=True):
        optimizer.zero_grad()
        images = other.encode_image(pictures(seed=seed), normalize=True)
        wanted = criterion(100 * images @ layer.weight.T + layer.bias, labels)
        wanted.backward()
        optimizer.step()
        assert loss == pytest.approx(float(wanted.detach()), rel=1e-4)
    weights, bias = without_head(net)
    # AdamW divides by the gradient's size: where a gradient is all rounding, so is the step, of at most lr
    assert np.mean(np.abs(weights - layer.weight.detach().numpy()) < 1e-4) > 0.98
    np.testing.assert_allclose(bias, layer.bias.detach().numpy(), atol=1e-4)
    assert not hasattr(net, HEAD)


def test_the_text_tower_and_the_logit_scale_stay():
    net, head = parts()
    before = {name: one.clone() for name, one in net.state_dict().items()}
    stepper = ClassificationStepper.of(net, head, lr=1e-2, l2=0.0, precision="fp32", device=CPU)
    for seed in range(2):
        stepper.step(Batch(pictures(seed=seed), torch.arange(8) % 4, None, 0.0), 1.0)
    without_head(net)
    after = net.state_dict()
    changed = {name for name, one in after.items() if not torch.equal(one, before[name])}
    assert {name for name in changed if not name.startswith("visual.")} == {
        "logit_scale"
    }  # set to 100, whatever it was
    assert float(net.logit_scale.exp()) == pytest.approx(100, rel=1e-5)
    assert "visual.proj" in changed


def test_step_zero_scores_as_the_zero_shot_head():
    net, head = parts()
    images = net.encode_image(pictures(), normalize=True).detach()
    stepper = ClassificationStepper.of(net, head, lr=0.0, l2=0.0, precision="fp32", device=CPU)
    told = stepper.step(Batch(pictures(), torch.arange(8) % 4, None, 0.0), 1.0)
    logits = 100 * images @ torch.from_numpy(head).T
    assert float(told["loss"]) == pytest.approx(float(F.cross_entropy(logits, torch.arange(8) % 4)), rel=1e-4)
    assert float(told["accuracy"]) == pytest.approx(float((logits.argmax(1) == torch.arange(8) % 4).float().mean()))


def test_a_batch_of_one_picture_is_a_batch():
    net, head = parts()
    stepper = ClassificationStepper.of(net, head, lr=1e-3, l2=0.0, precision="fp32", device=CPU)
    assert np.isfinite(float(stepper.step(Batch(pictures(1), torch.tensor([2]), None, 0.0), 1.0)["loss"]))


def test_the_share_that_is_right_counts_every_label():
    logits = torch.tensor([[3.0, -1.0], [-2.0, 0.5]])
    loss, right = classification_loss(logits, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert float(right) == 0.75
    assert float(loss) == pytest.approx(float(F.softplus(torch.tensor([-3.0, -1.0, 2.0, -0.5])).mean()))
