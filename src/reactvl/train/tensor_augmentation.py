"""REACT's augmentation in batches on the training device: workers decode and crop, all else is tensor operations there.

In Pillow the recipe takes most of a worker's time, and a GPU waits for it. Here a worker decodes a JPEG and resizes its random
crop to uint8 (3, S, S), a quarter of the bytes to move; flip, RandAugment or colour jitter, normalisation and random erasing
run on the device, each operation on all pictures of the batch that drew it. The recipe, its ranges and its order are timm's.

Each parameter is a function of (seed, epoch, sample), by a counter-based generator: batches, workers and devices change none.
"""

import math
import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from reactvl.clip_imports import timm
from reactvl.manifest import ReactvlError
from reactvl.pool.images import decode, to_pixels, vertical_first
from reactvl.train.augmentation import AugmentationCfg
from reactvl.train.draws import Draws, uniforms
from reactvl.train.tensor_operations import GEOMETRIC, POINTWISE, brightness, color, contrast

if TYPE_CHECKING:
    from reactvl.models.model import Model

TRIES = 10  # of timm's random crop and random erasing, before they give up
CROP, CROP_PLACE, FLIP = 0, 10, 11  # blocks of draws; a crop has one a try
LAYER, LAYER_BLOCKS = 16, 3  # of RandAugment: (operation, whether), (magnitude's two), (sign, interpolation)
JITTER = 1 << 16  # (order, brightness), (contrast, saturation)
ERASE, BOX, BOX_BLOCKS = 2 << 16, (2 << 16) + 16, 11  # (whether, how many); a box: (area, aspect) a try, then its place
NOISE = 1 << 20  # normal values that erased pixels are taken from
LEVELS = 10.0  # timm's magnitudes are tenths
MIN_AREA, MAX_AREA, MIN_ASPECT = 0.02, 1 / 3, 0.3  # of random erasing


class Policy(NamedTuple):
    """A RandAugment policy: `operations` are drawn `layers` times, each applied with probability `chance`."""

    operations: tuple[str, ...]
    layers: int
    chance: float
    magnitude: float
    spread: float  # standard deviation of the magnitude; infinite for uniform in [0, magnitude]
    most: float


class TensorAugment:
    """Pictures to the float32 input (n, 3, S, S) of the model: `in_worker` to the crop, `on_device` the rest.

    ReactvlError for what only Pillow has: policies other than RandAugment's two lists, and hue jitter.
    """

    def __init__(self, model: "Model", config: AugmentationCfg, seed: int):
        self.config, self.seed, self.size = config, seed, model.image_size
        self.mean, self.std = model.mean, model.std
        self.evaluation = {
            "resize_mode": model.resize_mode,
            "interpolation": model.interpolation,
            "fill": model.config["preprocess_cfg"].get("fill_color", 0),
        }
        self.policy = policy_of(config.auto_augment) if config.auto_augment else None
        self.jitter = None if self.policy or config.color_jitter is None else jitter_of(config.color_jitter)
        self.fill = tuple(min(255, round(255 * value)) for value in model.mean)  # timm's img_mean
        self.sample_bytes = 3 * self.size * self.size
        self._noise: Tensor | None = None

    def in_worker(self, data: bytes, epoch: int, sample: int) -> Tensor:
        """An image file's bytes to its random crop, uint8 (3, S, S); BadImage for what is no picture."""
        if not self.config.augment:
            return torch.from_numpy(to_pixels(data, self.size, **self.evaluation))
        array = decode(data)
        top, left, height, width = self.box(array.shape[0], array.shape[1], epoch, sample)
        mode = self.config.interpolation
        if mode == "random":
            mode = "bicubic" if uniforms(self.seed, FLIP, epoch, sample)[1] < 0.5 else "bilinear"
        return cropped(array[top : top + height, left : left + width], self.size, mode)

    def box(self, height: int, width: int, epoch: int, sample: int) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the crop: torchvision's and timm's RandomResizedCrop, by this sample's draws."""
        scale, ratio, area = self.config.scale, self.config.ratio, height * width
        low, high = math.log(ratio[0]), math.log(ratio[1])
        for attempt in range(TRIES):
            part, aspect = uniforms(self.seed, CROP + attempt, epoch, sample)
            target, shape = (scale[0] + (scale[1] - scale[0]) * part) * area, math.exp(low + (high - low) * aspect)
            wide, tall = round(math.sqrt(target * shape)), round(math.sqrt(target / shape))
            if 0 < wide <= width and 0 < tall <= height:
                down, right = uniforms(self.seed, CROP_PLACE, epoch, sample)
                return int(down * (height - tall + 1)), int(right * (width - wide + 1)), tall, wide
        shape = width / height
        wide = width if shape <= max(ratio) else round(height * max(ratio))
        tall = height if shape >= min(ratio) else round(width / min(ratio))
        return (height - tall) // 2, (width - wide) // 2, tall, wide

    def on_device(self, pixels: Tensor, epochs: np.ndarray, samples: np.ndarray) -> Tensor:
        """Crops uint8 (n, 3, S, S), on any device, to float32: flipped, augmented, normalised, erased."""
        if not len(pixels):
            return torch.empty(0, 3, self.size, self.size, device=pixels.device)
        draws = Draws(self.seed, epochs, samples)
        if self.config.augment and self.config.hflip > 0:
            chosen = indices(draws[FLIP][0] < self.config.hflip, pixels)
            pixels = pixels.clone()
            pixels[chosen] = pixels[chosen].flip(-1)
        if self.policy:
            for layer in range(self.policy.layers):
                pixels = self.operated(pixels, *layer_of(self.policy, draws, layer, self.config.interpolation))
        if self.jitter:
            pixels = jittered(pixels, *jitters(self.jitter, draws))
        mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (self.mean, self.std))
        made = pixels.float().div_(255).sub_(mean).div_(std)
        if self.config.re_prob > 0:
            self.erase(made, erasures(self.config, draws, self.size))
        return made

    def operated(self, pixels: Tensor, names: np.ndarray, arguments: np.ndarray, cubic: np.ndarray) -> Tensor:
        """One layer: `names` (n,) of the operations, "" for none, their arguments (n,) float64, and the interpolation."""
        pixels = pixels.clone()
        for name in sorted(set(names.tolist()) - {""}):
            here = names == name
            chosen = indices(here, pixels)
            given = torch.from_numpy(arguments[here])
            given = given.to(pixels.device, torch.float32 if pixels.device.type == "mps" else torch.float64)
            if name in GEOMETRIC:
                fill = torch.tensor(self.fill, dtype=torch.uint8, device=pixels.device)
                made = GEOMETRIC[name](pixels[chosen], given, fill, torch.from_numpy(cubic[here]))
            else:
                made = POINTWISE[name](pixels[chosen], given)
            pixels[chosen] = made
        return pixels

    def erase(self, made: Tensor, boxes: list[np.ndarray]) -> None:
        """Fill boxes (n, 5) of (top, left, height, width, place in the noise), in place, with normal noise a pixel.

        The noise of all pictures lies in one table of a million values; where in it a box begins is the box's own draw.
        """
        if self._noise is None or self._noise.device != made.device:
            generator = torch.Generator().manual_seed(self.seed & 0x7FFFFFFFFFFFFFFF)
            self._noise = torch.randn(NOISE, generator=generator).to(made.device)
        line = torch.arange(self.size, device=made.device)
        pixel = torch.arange(3 * self.size**2, device=made.device)
        for box in boxes:
            chosen = indices(box[:, 2] > 0, made)
            if not len(chosen):
                continue
            top, left, tall, wide, place = torch.from_numpy(box[box[:, 2] > 0].T).to(made.device)[..., None]
            down, across = ((line >= at) & (line < at + size) for at, size in ((top, tall), (left, wide)))
            noise = self._noise[(place + pixel) % NOISE].view(-1, 3, self.size, self.size)
            made[chosen] = torch.where((down[:, :, None] & across[:, None, :])[:, None], noise, made[chosen])


def cropped(crop: np.ndarray, size: int, mode: str) -> Tensor:
    """uint8 (h, w, 3) to uint8 (3, size, size) as Pillow resizes, within 2 of 255."""
    crop = np.ascontiguousarray(crop)
    height, width, _ = crop.shape
    picture = torch.from_numpy(crop).unsqueeze(0).permute(0, 3, 1, 2)  # channels last, which torch's kernel is fast for
    steps = [(size, width), (size, size)] if vertical_first(height, width, size, size) else [(size, size)]
    for step in steps:
        if picture.shape[2:] != step:
            picture = torch.nn.functional.interpolate(picture, step, mode=mode, antialias=True)
    return picture[0].contiguous()


def policy_of(text: str) -> Policy:
    """timm's `rand-m9-n2-p0.5-mstd0.5-mmax10-inc1`; ReactvlError for a policy that is none of these."""
    head, *words = text.split("-")
    known: dict[str, float] = {"m": LEVELS, "n": 2, "p": 0.5, "mstd": 0.0, "mmax": LEVELS, "inc": 0}
    for word in words:
        match = re.fullmatch(r"([a-z]+)(\d.*)", word)
        try:
            known[match[1] if match and match[1] in known else "?"] = float(match[2]) if match else 0.0
        except ValueError:
            known["?"] = 0.0
    if head != "rand" or "?" in known:
        raise ReactvlError(
            f"auto_augment {text!r}: only rand-m..-n..-p..-mstd..-mmax..-inc.. runs on the device; use --augment-on workers"
        )
    names = timm.data.auto_augment.rand_augment_choices("", increasing=bool(known["inc"]))
    spread = math.inf if known["mstd"] > 100 else known["mstd"]
    return Policy(tuple(names), int(known["n"]), known["p"], known["m"], spread, known["mmax"] or LEVELS)


def layer_of(policy: Policy, draws: Draws, layer: int, interpolation: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What one layer does to each sample: operation (n,) ("" for none), argument (n,) float64, whether it is bicubic (n,)."""
    first = LAYER + layer * LAYER_BLOCKS
    (which, applied), (one, other), (sign, cubic) = (draws[first + at] for at in range(LAYER_BLOCKS))
    magnitude = np.full(len(which), policy.magnitude)
    if math.isinf(policy.spread):
        magnitude = policy.magnitude * one
    elif policy.spread:  # Box-Muller; 1 - one lies in (0, 1]
        magnitude = magnitude + policy.spread * np.sqrt(-2 * np.log(1 - one)) * np.cos(2 * np.pi * other)
    magnitude = magnitude.clip(0, policy.most)
    names = np.array(policy.operations)[(which * len(policy.operations)).astype(np.int64)]
    arguments = np.zeros(len(which))
    for name in set(names.tolist()):
        here = names == name
        arguments[here] = argument(name, magnitude[here], sign[here] > 0.5)
    bicubic = cubic < 0.5 if interpolation == "random" else np.full(len(which), interpolation == "bicubic")
    return np.where(applied <= policy.chance, names, ""), arguments, bicubic


def argument(name: str, magnitude: np.ndarray, negative: np.ndarray) -> np.ndarray:
    """timm's LEVEL_TO_ARG: the argument (n,) of an operation at magnitudes (n,); `negative` turns signed ones."""
    level, sign = magnitude / LEVELS, np.where(negative, -1.0, 1.0)
    if name in ("AutoContrast", "Equalize", "Invert"):
        return np.zeros(len(magnitude))
    if name == "Rotate":
        return level * 30.0 * sign
    if name in ("ShearX", "ShearY"):
        return level * 0.3 * sign
    if name in ("TranslateXRel", "TranslateYRel"):
        return level * 0.45 * sign
    if name == "Posterize":
        return np.trunc(level * 4)
    if name == "PosterizeIncreasing":
        return 4 - np.trunc(level * 4)
    if name == "Solarize":
        return np.minimum(256, np.trunc(level * 256))
    if name == "SolarizeIncreasing":
        return 256 - np.minimum(256, np.trunc(level * 256))
    if name == "SolarizeAdd":
        return np.minimum(128, np.trunc(level * 110))
    if name.endswith("Increasing"):  # Color, Contrast, Brightness, Sharpness
        return np.maximum(0.1, 1.0 + level * 0.9 * sign)
    return level * 1.8 + 0.1


def jitter_of(value: float | tuple[float, ...]) -> tuple[float, float, float]:
    """Brightness, contrast and saturation; ReactvlError for hue, which only Pillow has."""
    values = tuple(value) if isinstance(value, tuple) else (float(value),) * 3
    if len(values) == 4 and values[3]:
        raise ReactvlError(f"color_jitter = {value}: hue does not run on the device; use --augment-on workers")
    return values[:3]


def jitters(jitter: tuple[float, float, float], draws: Draws) -> tuple[np.ndarray, np.ndarray]:
    """torchvision's ColorJitter: in which order (n, 3) its three are applied, and their factors (n, 3)."""
    (order, bright), (contrasts, saturation) = draws[JITTER], draws[JITTER + 1]
    every = np.array([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    low = np.maximum(0.0, 1.0 - np.array(jitter))
    drawn = np.stack([bright, contrasts, saturation], axis=1)
    return every[(order * 6).astype(np.int64)], low + (1.0 + np.array(jitter) - low) * drawn


def jittered(pixels: Tensor, order: np.ndarray, factors: np.ndarray) -> Tensor:
    pixels = pixels.clone()
    for turn in range(3):
        for kind, operation in enumerate((brightness, contrast, color)):
            here = order[:, turn] == kind
            if here.any():
                chosen = indices(here, pixels)
                given = torch.from_numpy(factors[here, kind].astype(np.float32)).to(pixels.device)
                pixels[chosen] = operation(pixels[chosen], given)
    return pixels


def erasures(config: AugmentationCfg, draws: Draws, size: int) -> list[np.ndarray]:
    """timm's RandomErasing: int64 (n, 5) of (top, left, height, width, place in the noise) for each of up to `re_count` boxes
    in turn; height 0 for none."""
    whether, many = draws[ERASE]
    erased = whether <= config.re_prob
    count = 1 + (many * config.re_count).astype(np.int64)
    low, high = math.log(MIN_ASPECT), math.log(1 / MIN_ASPECT)
    boxes = []
    for number in range(config.re_count):
        box, first = np.zeros((len(whether), 5), np.int64), BOX + number * BOX_BLOCKS
        left = erased & (count > number)
        if left.any():
            down, right = draws[first + TRIES]
            box[:, 4] = draws[first + TRIES + (1 << 15)][0] * NOISE
        for attempt in range(TRIES):
            if not left.any():
                break
            area, aspect = draws[first + attempt]
            target = (MIN_AREA + (MAX_AREA - MIN_AREA) * area) * size * size / count
            shape = np.exp(low + (high - low) * aspect)
            tall, wide = np.rint(np.sqrt(target * shape)), np.rint(np.sqrt(target / shape))
            fits = left & (tall < size) & (wide < size)
            place = [(down * (size - tall + 1)), (right * (size - wide + 1)), tall, wide]
            box[fits, :4] = np.stack(place, axis=1)[fits]
            left &= ~fits
        boxes.append(box)
    return boxes


def indices(chosen: np.ndarray, beside: Tensor) -> Tensor:
    """The places (m,) where `chosen` (n,) holds, as an index on the device of `beside`."""
    return torch.from_numpy(np.flatnonzero(chosen)).to(beside.device)
