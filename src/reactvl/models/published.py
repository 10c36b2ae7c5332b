"""REACT's thirteen published checkpoints: what each is, and where it lies on the hub."""

import dataclasses
from pathlib import Path

from reactvl.models import hub
from reactvl.models.names import GATED, fold

REPOSITORY = "react-vl/react-in1k"
PARAMETERS = {  # of the models that releases are of
    "ViT-B-32": 151_277_313,
    "ViT-B-16": 149_620_737,
    "react_ViT-B-32": 193_804_557,
    "react_ViT-B-16": 192_147_981,
    "react_ViT-L-14": 503_193_869,
    "react_ViT-bigG-14": 2_938_547_737,
}


@dataclasses.dataclass(frozen=True)
class Release:
    """One checkpoint; accuracies are ImageNet-1K zero-shot top-1 in percent, as published."""

    model: str
    tag: str
    file: str
    top1: float
    base_top1: float
    half_mean: bool = False  # mean = std = 0.5 instead of OpenAI's

    @property
    def quick_gelu(self) -> bool:
        """The activation follows from the base that the tag names: OpenAI's CLIP or OpenCLIP's."""
        return self.tag.startswith("react_clip_")

    @property
    def parameters(self) -> int:
        return PARAMETERS[self.model]

    @property
    def bytes(self) -> int:
        """About the size of the file: its tensors are float16."""
        return 2 * self.parameters


CLIP = "react_clip_ret_laion400m"
OPEN400 = "react_openclip_laion400m_ret_laion400m"
OPEN2B = "react_openclip_laion2b_ret_laion400m"
OPEN2B_2B = "react_openclip_laion2b_ret_laion2b"
RELEASES = [
    Release("ViT-B-32", CLIP, "clip-vit-base-32-locked-text.pt", 66.9, 63.2),
    Release("ViT-B-32", OPEN400, "openclip-vit-base-32-locked-text.pt", 65.7, 62.9),
    Release("ViT-B-32", OPEN2B, "openclip-laion2b-vit-base-32-locked-text.pt", 67.5, 66.6),
    Release("react_ViT-B-32", CLIP, "clip-vit-base-32-gated-image.pt", 68.6, 63.2),
    Release("react_ViT-B-32", OPEN400, "openclip-vit-base-32-gated-image.pt", 66.4, 62.9),
    Release("react_ViT-B-32", OPEN2B, "openclip-laion2b-vit-base-32-gated-image.pt", 69.5, 66.6),
    Release("ViT-B-16", CLIP, "clip-vit-base-16-locked-text.pt", 71.6, 68.6),
    Release("react_ViT-B-16", CLIP, "clip-vit-base-16-gated-image.pt", 73.4, 68.6),
    Release("react_ViT-L-14", CLIP, "clip-vit-large-14-gated-image.pt", 78.1, 75.3),
    Release("react_ViT-L-14", "react_clip_ret_laion2b", "clip-vit-large-14-gated-image-laion2b.pt", 79.8, 75.3),
    Release("react_ViT-L-14", OPEN2B, "openclip-vit-large-14-gated-image.pt", 76.4, 75.3, half_mean=True),
    Release("react_ViT-L-14", OPEN2B_2B, "openclip-vit-large-14-gated-image-laion2b.pt", 78.6, 75.3, half_mean=True),
    Release("react_ViT-bigG-14", OPEN2B_2B, "openclip-vit-bigG-14-gated-image-laion2b.pt", 81.0, 80.1),
]  # fmt: skip


def of(architecture: str, last_k: int) -> list[Release]:
    """The releases of an open_clip architecture, gated (`last_k` > 0) or plain."""
    return [
        release
        for release in RELEASES
        if GATED.get(release.model, (release.model, 0)) == (architecture.removesuffix("-quickgelu"), last_k)
    ]


def tags(architecture: str, last_k: int) -> list[str]:
    return [release.tag for release in of(architecture, last_k)]


def find(architecture: str, last_k: int, tag: str) -> Release | None:
    """The release of a tag, or None."""
    return next((release for release in of(architecture, last_k) if fold(release.tag) == fold(tag)), None)


def fetch(release: Release) -> Path:
    """The checkpoint's file, from the hub's cache or the hub; ReactvlError when it cannot be had."""
    named = f"{release.model}-{'quickgelu' if release.quick_gelu else 'gelu'}:{release.file}"
    instead = "" if release.half_mean else f"fetch it elsewhere and give it as {named}"  # a bare file has OpenAI's mean
    return hub.fetch(REPOSITORY, release.file, instead=instead)
