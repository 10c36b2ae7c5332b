"""The same (seed, view, sample) gives the same pixels; settings are read as open_clip's users write them."""

import numpy as np
import pytest
import torch
from PIL import Image

from reactvl.manifest import ReactvlError
from reactvl.models import load
from reactvl.train.augmentation import Augment, AugmentationCfg, configure


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 50, 3), dtype=np.uint8))


def test_views_are_functions_of_seed_view_and_sample(small_model):
    augment = Augment(load(small_model), AugmentationCfg(), seed=3)
    first = augment(picture(), 1, 2)
    torch.rand(5), np.random.rand(5)  # whoever else draws changes nothing
    assert torch.equal(first, augment(picture(), 1, 2))
    assert first.shape == (3, 32, 32)
    others = [
        augment(picture(), 1, 3),
        augment(picture(), 2, 2),
        Augment(load(small_model), AugmentationCfg(), seed=4)(picture(), 1, 2),
    ]
    assert not any(torch.equal(first, other) for other in others)


def test_the_default_is_the_released_recipe():
    assert configure([]) == AugmentationCfg(
        (0.08, 1.0), (0.75, 1.3333), 0.5, 0.4, "rand-m9-mstd0.5-inc1", 0.25, 1, "bicubic"
    )


def test_settings_are_read():
    made = configure(["use_timm=True", "scale=(0.5,1.0)", "auto_augment=None", "re_prob=0"])
    assert made.scale == (0.5, 1.0)
    assert made.auto_augment is None
    assert made.re_prob == 0


@pytest.mark.parametrize("bad", ["scal=(0.5,1.0)", "hflip", "hflip=2", "scale=0.5", "scale=(1.0,0.5)"])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ReactvlError, match="aug_cfg"):
        configure([bad])
