"""REACT's augmentation through timm, as a function of (seed, view, sample): the same call always gives the same pixels.

This is the reference; `tensor_augmentation.py` is the same recipe in batched tensor operations.
"""

import ast
import dataclasses
import difflib
import hashlib
import random
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from reactvl.clip_imports import timm
from reactvl.manifest import ReactvlError
from reactvl.pool.images import decode, to_pixels

if TYPE_CHECKING:
    from reactvl.models.model import Model

INTERPOLATIONS = ("bicubic", "bilinear", "random")


@dataclasses.dataclass(frozen=True, repr=False)
class AugmentationCfg:
    """The released recipe; fields in timm's words. open_clip's `--aug-cfg KEY=VALUE` sets them.

    As in timm, `color_jitter` is applied only where `auto_augment` is None (or a 3-augment policy). `augment=False` is the
    evaluation's resize and centre crop.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 1.3333)
    hflip: float = 0.5
    color_jitter: float | tuple[float, ...] | None = 0.4
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    re_prob: float = 0.25
    re_count: int = 1
    interpolation: str = "bicubic"
    augment: bool = True

    def __repr__(self) -> str:
        """What names kept features and stands in manifests: stable when a field is added whose default changes nothing."""
        shown = [field.name for field in dataclasses.fields(self) if field.name != "augment" or not self.augment]
        return f"AugmentationCfg({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"


# open_clip's own pipeline, which it uses without use_timm: a random resized crop and no more
SIMPLE = AugmentationCfg(scale=(0.9, 1.0), hflip=0.0, color_jitter=None, auto_augment=None, re_prob=0.0)
NONE = dataclasses.replace(SIMPLE, scale=(1.0, 1.0), augment=False)
ELSEWHERE = {  # keys of open_clip's AugmentationCfg that its timm pipeline drops without a word
    "color_jitter_prob": "open_clip drops it under use_timm; color_jitter=(0.4,0.4,0.4,0.1) auto_augment=None jitters every picture",
    "gray_scale_prob": "open_clip drops it under use_timm; timm's RandAugment takes colour away itself (auto_augment=rand-m9-mstd0.5-inc1)",
}


def configure(settings: list[str]) -> AugmentationCfg:
    """`["scale=(0.5, 1.0)", "hflip=0"]` over the released recipe; ReactvlError for a key or value that is none of it.

    `simple`, or open_clip's `use_timm=False`, starts from its pipeline without timm: a random resized crop of scale
    (0.9, 1.0). `none` is no augmentation at all: the evaluation's resize and centre crop.
    """
    base, given = AugmentationCfg(), {}
    fields = [field.name for field in dataclasses.fields(AugmentationCfg) if field.name != "augment"]
    for setting in settings:
        key, equals, text = setting.partition("=")
        key, text = key.strip().replace("-", "_"), text.strip()
        if key == "use_timm" and text.lower() in ("", "true", "1"):
            continue  # open_clip's switch to this very pipeline
        if (key == "use_timm" and text.lower() in ("false", "0")) or (key == "simple" and not equals):
            base = SIMPLE
        elif key == "none" and not equals:
            if len(settings) > 1:
                raise ReactvlError(f"aug_cfg {' '.join(settings)}: none stands alone")
            return NONE
        elif key in ELSEWHERE:
            raise ReactvlError(f"aug_cfg {setting!r}: {ELSEWHERE[key]}")
        elif not equals or key not in fields:
            near = difflib.get_close_matches(key, fields, 1)
            meant = f"; is {near[0]} meant?" if near else ""
            raise ReactvlError(
                f"aug_cfg {setting!r}: write KEY=VALUE with a key of {', '.join(sorted(fields))}, or simple, or none{meant}"
            )
        elif key in given:
            raise ReactvlError(f"aug_cfg {setting!r}: {key} is given twice")
        else:
            given[key] = value_of(text)
    try:
        config = dataclasses.replace(base, **given)
        checked(config)
    except (TypeError, ValueError, AssertionError) as fault:
        raise ReactvlError(f"aug_cfg {' '.join(settings)}: {fault or 'timm does not take it'}") from None
    return config


def value_of(text: str):
    """A value as Python writes it, a list as a tuple; any other text is that text."""
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return tuple(value) if isinstance(value, list) else value


def checked(config: AugmentationCfg) -> None:
    """ValueError, TypeError or timm's own AssertionError for a recipe that cannot be."""
    for name in ("scale", "ratio"):
        low, high = getattr(config, name)
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"{name} = {getattr(config, name)} is no range above 0")
    if config.scale[1] > 1:
        raise ValueError(f"scale = {config.scale}: a crop has at most the whole area, 1")
    for name in ("hflip", "re_prob"):
        if isinstance(getattr(config, name), bool) or not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} = {getattr(config, name)} is no probability")
    if isinstance(config.re_count, bool) or not isinstance(config.re_count, int) or config.re_count < 1:
        raise ValueError(f"re_count = {config.re_count} is no number of 1 or more")
    if config.interpolation not in INTERPOLATIONS:
        raise ValueError(f"interpolation = {config.interpolation} is none of {', '.join(INTERPOLATIONS)}")
    jitter = config.color_jitter
    if jitter is not None:
        parts = jitter if isinstance(jitter, tuple) and len(jitter) in (3, 4) else (jitter,)
        if not all(isinstance(one, int | float) and not isinstance(one, bool) and one >= 0 for one in parts):
            raise ValueError(f"color_jitter = {jitter}: a number, three or four of them, or None")
    if config.auto_augment is not None and not isinstance(config.auto_augment, str):
        raise TypeError(f"auto_augment = {config.auto_augment!r}: a policy of timm's, such as 'rand-m9-mstd0.5-inc1'")
    transform_of(config, 32, (0.5,) * 3, (0.5,) * 3)


def transform_of(config: AugmentationCfg, size: int, mean: tuple[float, ...], std: tuple[float, ...]):
    """timm's transform of the recipe, a PIL image to float32 (3, size, size), that no magnitude can bring to fall."""
    settings = {name: value for name, value in dataclasses.asdict(config).items() if name != "augment"}
    transform = timm.data.create_transform(size, is_training=True, mean=mean, std=std, re_mode="pixel", **settings)
    for step in transform.transforms:
        for op in operations(step):
            if op.name.startswith("Posterize"):
                op.aug_fn = posterize
    names = [type(step).__name__ for step in transform.transforms]
    if names.count("MaybeToTensor") == 1 and (at := names.index("MaybeToTensor")) + 1 == names.index("Normalize"):
        transform.transforms[at : at + 2] = [Normalised(mean, std)]
    return transform


class Normalised:
    """timm's two last steps in one: the same operations on every value, with two copies of the picture fewer."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (mean, std))

    def __call__(self, image: Image.Image) -> Tensor:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)  # (3, S, S), channels last in memory
        made = pixels.to(torch.float32, memory_format=torch.contiguous_format)
        return made.div_(255).sub_(self.mean).div_(self.std)


def operations(step) -> list:
    """The AugmentOps of one of timm's policies, however deep they lie; none for another step."""
    found, waiting = [], [getattr(step, "ops", None), getattr(step, "policy", None)]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list | tuple):
            waiting.extend(part)
        elif isinstance(part, timm.data.auto_augment.AugmentOp):
            found.append(part)
    return found


def posterize(image: Image.Image, bits: int, **_) -> Image.Image:
    """timm's, but for 0 bits, which magnitudes of 10 ask for (one picture in 650 at m9-mstd0.5): black, as Pillow gave until
    it began to raise ValueError (13)."""
    if bits >= 8:
        return image
    return ImageOps.posterize(image, bits) if bits > 0 else Image.new(image.mode, image.size)


class Augment:
    """Pictures to the float32 input (3, S, S) of the model, augmented by timm in Pillow."""

    def __init__(self, model: "Model", config: AugmentationCfg, seed: int):
        self.config, self.seed, self.size = config, seed, model.image_size
        self.transform = transform_of(config, model.image_size, model.mean, model.std)
        self.evaluation = {
            "resize_mode": model.resize_mode,
            "interpolation": model.interpolation,
            "fill": model.config["preprocess_cfg"].get("fill_color", 0),
        }
        self.mean, self.std = (torch.tensor(values).view(3, 1, 1) for values in (model.mean, model.std))
        self.sample_bytes = 3 * self.size * self.size * 4

    def __call__(self, image: Image.Image, view: int, sample: int) -> Tensor:
        """View `view` of sample `sample`. timm draws from three global generators; each is seeded here."""
        key = hashlib.sha256(f"{self.seed} {view} {sample}".encode()).digest()
        random.seed(key)
        np.random.seed(np.frombuffer(key, np.uint32))
        # as torch.manual_seed does, which goes through every kind of device and a traceback for each, a tenth of the time
        torch.default_generator.manual_seed(int.from_bytes(key[:8], "little", signed=True))
        return self.transform(image)

    def in_worker(self, data: bytes, epoch: int, sample: int) -> Tensor:
        """The whole of the work: an image file's bytes to float32 (3, S, S); BadImage for what is no picture."""
        if not self.config.augment:
            pixels = torch.from_numpy(to_pixels(data, self.size, **self.evaluation))
            return pixels.float().div_(255).sub_(self.mean).div_(self.std)
        return self(Image.fromarray(decode(data)), epoch, sample)

    def on_device(self, pixels: Tensor, epochs: np.ndarray, samples: np.ndarray) -> Tensor:
        """Nothing is left to do."""
        return pixels
