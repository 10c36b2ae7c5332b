"""Every batched operation against timm's own on Pillow, at fixed arguments.

Look-ups, blends and sharpness: equal. Affine ones: Pillow interpolates in float64 and cuts to the whole number below, these
in float32, so that what is a whole number but for rounding comes out one lower or higher. That takes a moved distance that is
a simple fraction of a pixel (21.6, say), and is then some of every hundred values, of a bilinear one above all.
"""

import numpy as np
import pytest
import torch
from PIL import Image

from reactvl.clip_imports import timm
from reactvl.train.augmentation import posterize as black_at_none
from reactvl.train.tensor_operations import GEOMETRIC, POINTWISE, affine

AUTO = timm.data.auto_augment
FILL = (122, 116, 104)


def pictures(size: int = 48) -> list[Image.Image]:
    """Noise, a smooth ramp, one of few values, one of a single value, one dark, one whose channels differ."""
    draw = np.random.default_rng(0)
    noise = draw.integers(0, 256, (size, size, 3))
    ramp = np.add.outer(np.arange(size), np.arange(size))[..., None] * np.array([2, 1, 2]) % 256
    few = draw.choice([7, 9, 200], (size, size, 3))
    flat = np.full((size, size, 3), (10, 130, 250))
    dark = draw.integers(0, 20, (size, size, 3))
    mixed = np.stack([noise[..., 0], np.full((size, size), 255), dark[..., 0]], axis=2)
    return [Image.fromarray(each.astype(np.uint8)) for each in (noise, ramp, few, flat, dark, mixed)]


def stacked(images: list[Image.Image]) -> torch.Tensor:
    return torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])


ARGUMENTS = {
    "AutoContrast": [0], "Equalize": [0], "Invert": [0],
    "Posterize": [0, 1, 3, 4, 8], "PosterizeIncreasing": [0, 1, 4],
    "Solarize": [0, 26, 128, 256], "SolarizeIncreasing": [0, 25, 256], "SolarizeAdd": [0, 1, 99, 110],
    **{name: [0.1, 0.19, 0.5, 1.0, 1.81, 1.9] for name in POINTWISE if name.startswith(("Col", "Con", "Bri", "Sha"))},
    "Rotate": [-30, -27.3, -0.01, 0, 5, 26.95, 30], "ShearX": [-0.3, -0.271, 0.0, 0.123, 0.3], "ShearY": [-0.3, 0.2701],
    "TranslateXRel": [-0.45, -0.4012, 0.0, 1 / 48, 0.1, 0.45], "TranslateYRel": [-0.45, 0.333],
}  # fmt: skip


def pillows(name: str, image: Image.Image, argument: float, resample) -> Image.Image:
    if name.startswith("Posterize"):
        return black_at_none(image, int(argument))
    given = () if name in ("AutoContrast", "Equalize", "Invert") else (argument,)
    return AUTO.NAME_TO_OP[name](image, *given, fillcolor=FILL, resample=resample)


@pytest.mark.parametrize("name", sorted(POINTWISE))
def test_pointwise_operations_are_pillows(name):
    images = pictures()
    for argument in ARGUMENTS[name]:
        made = POINTWISE[name](stacked(images), torch.full((len(images),), float(argument), dtype=torch.float64))
        wanted = stacked([pillows(name, image, argument, Image.Resampling.BICUBIC) for image in images])
        assert made.dtype == torch.uint8
        assert torch.equal(made, wanted), (name, argument, (made.int() - wanted.int()).abs().max())


@pytest.mark.parametrize("name", sorted(GEOMETRIC))
@pytest.mark.parametrize("cubic", [True, False])
def test_geometric_operations_are_pillows_but_for_the_last_place(name, cubic):
    images, resample = pictures(), Image.Resampling.BICUBIC if cubic else Image.Resampling.BILINEAR
    for argument in ARGUMENTS[name]:
        given = torch.full((len(images),), float(argument), dtype=torch.float64)
        kinds = torch.full((len(images),), cubic)
        made = GEOMETRIC[name](stacked(images), given, torch.tensor(FILL, dtype=torch.uint8), kinds)
        wanted = stacked([pillows(name, image, argument, resample) for image in images])
        off = (made.int() - wanted.int()).abs()
        assert off.max() <= 1, (name, argument, off.max())
        assert (off > 0).float().mean() < (2e-3 if cubic else 0.04), (name, argument, (off > 0).float().mean())


def test_pictures_of_a_batch_have_arguments_and_interpolations_of_their_own():
    batch, fill = stacked(pictures()), torch.tensor(FILL, dtype=torch.uint8)
    given, kinds = torch.linspace(-30, 30, len(batch), dtype=torch.float64), torch.arange(len(batch)) % 2 == 0
    together = GEOMETRIC["Rotate"](batch, given, fill, kinds)
    for at in range(len(batch)):
        alone = GEOMETRIC["Rotate"](batch[at : at + 1], given[at : at + 1], fill, kinds[at : at + 1])
        assert torch.equal(together[at], alone[0])
    factors = torch.linspace(0.1, 1.9, len(batch), dtype=torch.float64)
    for name in ("ContrastIncreasing", "PosterizeIncreasing", "SolarizeIncreasing"):
        scaled = factors if name[0] == "C" else (factors * 2).round()
        together = POINTWISE[name](batch, scaled)
        assert all(
            torch.equal(together[at], POINTWISE[name](batch[at : at + 1], scaled[at : at + 1])[0])
            for at in range(len(batch))
        )


def test_a_picture_that_is_moved_out_of_sight_is_all_fill():
    fill = torch.tensor(FILL, dtype=torch.uint8)
    one, none = torch.ones(6, dtype=torch.float64), torch.zeros(6, dtype=torch.float64)
    made = affine(stacked(pictures()), (one, none, one * 1000, none, one, none), fill, none == 0)
    assert (made == fill.view(1, 3, 1, 1)).all()
