"""REACT's augmentation through timm, as a function of (seed, view, sample): the same call always gives the same pixels."""

import ast
import dataclasses
import hashlib
import random
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from reactvl.clip_imports import timm
from reactvl.manifest import ReactvlError

if TYPE_CHECKING:
    from PIL.Image import Image

    from reactvl.models.model import Model


@dataclasses.dataclass(frozen=True)
class AugmentationCfg:
    """The released recipe; fields in timm's words. open_clip's `--aug-cfg KEY=VALUE` sets them."""

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (0.75, 1.3333)
    hflip: float = 0.5
    color_jitter: float | None = 0.4
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    re_prob: float = 0.25
    re_count: int = 1
    interpolation: str = "bicubic"


def configure(settings: list[str]) -> AugmentationCfg:
    """`["scale=(0.5, 1.0)", "hflip=0"]` over the released recipe; ReactvlError for a key or value that is none of it."""
    fields = {field.name for field in dataclasses.fields(AugmentationCfg)}
    given = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if key == "use_timm" and text in ("", "True", "true"):
            continue  # open_clip's switch to this very pipeline
        if not equals or key not in fields:
            raise ReactvlError(f"aug_cfg {setting!r}: write KEY=VALUE with a key of {', '.join(sorted(fields))}")
        try:
            given[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            given[key] = text
    try:
        config = dataclasses.replace(AugmentationCfg(), **given)
        checked(config)
    except (TypeError, ValueError) as fault:
        raise ReactvlError(f"aug_cfg {' '.join(settings)}: {fault}") from None
    return config


def checked(config: AugmentationCfg) -> None:
    for name in ("scale", "ratio"):
        low, high = getattr(config, name)
        if not 0 < low <= high:
            raise ValueError(f"{name} = {getattr(config, name)} is no range above 0")
    for name in ("hflip", "re_prob"):
        if not 0 <= getattr(config, name) <= 1:
            raise ValueError(f"{name} = {getattr(config, name)} is no probability")


class Augment:
    """PIL image to the float32 input (3, H, W) of the model, augmented."""

    def __init__(self, model: "Model", config: AugmentationCfg, seed: int):
        self.config, self.seed = config, seed
        self.transform = timm.data.create_transform(
            model.image_size,
            is_training=True,
            mean=model.mean,
            std=model.std,
            re_mode="pixel",
            **dataclasses.asdict(config),
        )

    def __call__(self, image: "Image", view: int, sample: int) -> Tensor:
        """View `view` of sample `sample`. timm draws from three global generators; each is seeded here."""
        key = hashlib.sha256(f"{self.seed} {view} {sample}".encode()).digest()
        random.seed(key)
        np.random.seed(np.frombuffer(key, np.uint32))
        torch.manual_seed(int.from_bytes(key[:8], "little", signed=True))
        return self.transform(image)
