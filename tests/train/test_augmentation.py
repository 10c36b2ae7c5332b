"""The same (seed, view, sample) gives the same pixels; settings are read as open_clip's users write them."""

import hashlib
import io
import random

import numpy as np
import pytest
import torch
from PIL import Image

from reactvl.clip_imports import timm
from reactvl.manifest import ReactvlError
from reactvl.models import load
from reactvl.train.augmentation import Augment, AugmentationCfg, configure, posterize


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


GIVEN = [
    "use_timm=True", "scale=(0.08,1.0)", "ratio=(0.75,1.3333333)", "hflip=0.5", "interpolation=bicubic", "color_jitter=0.4",
    "auto_augment='rand-m9-mstd0.5-inc1'", "re_prob=0.25", "re_count=1",
]  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "theirs"),
    [
        (
            GIVEN,
            {
                "scale": (0.08, 1.0), "ratio": (0.75, 1.3333333), "hflip": 0.5, "interpolation": "bicubic",
                "color_jitter": 0.4, "auto_augment": "rand-m9-mstd0.5-inc1", "re_prob": 0.25, "re_count": 1,
            },
        ),
        (["simple"], {"scale": (0.9, 1.0), "ratio": (0.75, 1.3333), "hflip": 0.0, "color_jitter": None, "interpolation": "bicubic"}),
        (
            ["auto_augment=None", "color_jitter=(0.4,0.4,0.4,0.1)", "re_prob=1", "re_count=3", "interpolation=random"],
            {
                "scale": (0.08, 1.0), "ratio": (0.75, 1.3333), "color_jitter": (0.4, 0.4, 0.4, 0.1), "re_prob": 1,
                "re_count": 3, "interpolation": "random",
            },
        ),
        (["auto_augment=augmix-m3-w2", "re_prob=0"], {"ratio": (0.75, 1.3333), "auto_augment": "augmix-m3-w2", "interpolation": "bicubic"}),
    ],
)  # fmt: skip
def test_the_settings_as_spelled_are_timms_transform_with_the_same_seed(small_model, settings, theirs):
    """Of bytes, as a worker gets them, for views of 30 pictures; timm's own transform has the global seeds of each view."""
    model, images = load(small_model), [picture_file(at) for at in range(30)]
    augment = Augment(model, configure(settings), seed=5)
    transform = timm.data.create_transform(
        32, is_training=True, mean=model.mean, std=model.std, re_mode="pixel", **theirs
    )
    for at, data in enumerate(images):
        key = hashlib.sha256(f"5 2 {at}".encode()).digest()
        random.seed(key), np.random.seed(np.frombuffer(key, np.uint32))
        torch.manual_seed(int.from_bytes(key[:8], "little", signed=True))
        wanted = transform(Image.open(io.BytesIO(data)).convert("RGB"))
        made = augment.on_device(augment.in_worker(data, 2, at)[None], np.array([2]), np.array([at]))[0]
        assert torch.equal(made, wanted), at


def picture_file(seed: int) -> bytes:
    blocks = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((60 + seed, 50), Image.Resampling.BICUBIC).save(file, "JPEG" if seed % 3 else "PNG")
    return file.getvalue()


def test_no_magnitude_brings_the_transform_to_fall(small_model):
    """Magnitude 10, which one picture in some hundreds draws, asks posterize for 0 bits; Pillow 13 raises there."""
    augment = Augment(load(small_model), configure(["auto_augment=rand-m10-p1-inc1", "re_prob=0"]), seed=0)
    for sample in range(150):
        assert torch.isfinite(augment(picture(), 0, sample)).all()
    black = posterize(picture(), 0)
    assert black.getextrema() == ((0, 0),) * 3 and posterize(picture(), 8).tobytes() == picture().tobytes()


def test_none_is_the_evaluations_transform(small_model):
    model = load(small_model)
    augment, data = Augment(model, configure(["none"]), seed=0), picture_file(3)  # a PNG, which takes Pillow's path
    assert torch.equal(augment.in_worker(data, 0, 1), model.preprocess(Image.open(io.BytesIO(data))))
    assert torch.equal(augment.in_worker(data, 0, 1), augment.in_worker(data, 5, 2))


def test_what_names_kept_features_has_not_changed():
    """Folders of `views` and manifests of earlier runs are known by this text."""
    assert repr(configure(["scale=(0.4,1.0)", "auto_augment=None", "re_prob=0"])) == (
        "AugmentationCfg(scale=(0.4, 1.0), ratio=(0.75, 1.3333), hflip=0.5, color_jitter=0.4, auto_augment=None, re_prob=0, "
        "re_count=1, interpolation='bicubic')"
    )
    assert repr(configure(["none"])).endswith("augment=False)")


@pytest.mark.parametrize(
    ("bad", "says"),
    [
        (["color_jitter_prob=0.8"], "open_clip drops it"),
        (["gray_scale_prob=0.2"], "open_clip drops it"),
        (["auto_augment=rand-m9-q5"], "aug_cfg"),
        (["auto_augment=3"], "policy"),
        (["interpolation=cubic"], "bicubic, bilinear, random"),
        (["re_count=0"], "re_count"),
        (["color_jitter=(0.1,0.2)"], "aug_cfg"),
        (["color_jitter=-1"], "color_jitter"),
        (["scale=(0.5,1.5)"], "at most the whole area"),
        (["hflip=nan"], "aug_cfg"),
        (["hflip=0.1", "hflip=0.2"], "twice"),
        (["none", "hflip=0.1"], "stands alone"),
        (["auto_augmentation=None"], "is auto_augment meant"),
        (["augment=False"], "KEY=VALUE"),
    ],
)
def test_errors_say_what_to_write(bad, says):
    with pytest.raises(ReactvlError, match=says):
        configure(bad)


def test_open_clips_pipeline_without_timm_is_the_simple_one():
    assert configure(["use_timm=False"]) == configure(["simple"]) == AugmentationCfg(
        scale=(0.9, 1.0), hflip=0.0, color_jitter=None, auto_augment=None, re_prob=0.0
    )  # fmt: skip
    assert configure(["scale=(0.5,1.0)", "simple"]).scale == (0.5, 1.0)
