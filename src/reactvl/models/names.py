"""What a model's name means, decided from the text alone: no weights are read and nothing is downloaded.

ViT-B-32:openai              open_clip's name and pretrained tag (names are case-sensitive, tags fold case)
ViT-B/32                     OpenAI's spelling: ViT-B-32:openai
react_ViT-B-32:react_clip_ret_laion400m      REACT's gated model with a published checkpoint
react_ViT-B-32:openai        the same with open_clip's weights: its gates are shut
ViT-B-32:weights.pt          open_clip's name with a file of one's own (any form that `weights.py` reads)
react_ViT-B-16-quickgelu:weights.pt, react_ViT-B-16-gelu:weights.pt      the activation said in the name, of any model
hf-hub:... , local-dir:...   open_clip's prefixes
run/customized, base/        a folder: a customize stage's output or a model folder
"""

import dataclasses
import difflib
from pathlib import Path

from reactvl.manifest import ReactvlError

GATED = {  # REACT's gated models: the open_clip model they are made of and the number of gated layers, from the top
    "react_ViT-B-32": ("ViT-B-32", 6),
    "react_ViT-B-32-quickgelu": ("ViT-B-32-quickgelu", 6),
    "react_ViT-B-16": ("ViT-B-16", 6),
    "react_ViT-L-14": ("ViT-L-14", 6),
    "react_ViT-bigG-14": ("ViT-bigG-14", 12),
    "react_ViT-G-14": ("ViT-bigG-14", 12),  # REACT's spelling
}
ALIASES = {"ViT-G-14": "ViT-bigG-14"}  # REACT's spelling; open_clip's ViT-g-14 is another model


@dataclasses.dataclass(frozen=True)
class ModelName:
    """`kind` is "folder" (a path), "hub" (hf-hub:) or "named" (an architecture and perhaps a tag or a weights file)."""

    kind: str
    name: str
    tag: str | None = None
    last_k: int = 0  # gated layers; 0 for a plain model
    quick_gelu: bool | None = None  # the activation that the name says, if it says one
    stem: str = ""  # the name as it was typed, without the activation

    @property
    def weights_file(self) -> Path | None:
        """The tag when it is a file of weights."""
        return Path(self.tag) if self.tag and looks_like_path(self.tag) else None

    def spelled(self, quick_gelu: bool | None) -> str:
        """The name that means this model with this activation, so that other processes load the same by it."""
        suffix = "" if quick_gelu is None else "-quickgelu" if quick_gelu else "-gelu"
        return f"{self.stem}{suffix}" + (f":{self.tag}" if self.tag else "")


def parse(text: str, known: list[str]) -> ModelName:
    """Read a model's name; `known` are open_clip's architectures.

    Raises ReactvlError for a folder that does not exist and for an unknown name, with the nearest known ones.
    """
    if text.startswith("hf-hub:"):
        return ModelName("hub", text)
    if text.startswith("local-dir:"):
        return existing(text.removeprefix("local-dir:"))
    if Path(text).is_dir() and looks_like_path(text):
        return ModelName("folder", text)
    name, _, tag = text.partition(":")
    if "/" in text and text.replace("/", "-") in known:  # OpenAI's spelling
        name, tag = text.replace("/", "-"), "openai"
    if found := architecture(name, known):
        plain, last_k, quick_gelu, stem = found
        return ModelName("named", plain, tag or None, last_k, quick_gelu, stem)
    if Path(text).is_dir() or looks_like_path(text):
        return existing(text)
    near = difflib.get_close_matches(name, [*known, *GATED], n=3)
    hint = f"did you mean {', '.join(near)}?" if near else "`reactvl models` lists the names"
    raise ReactvlError(f"{text}: no such model; {hint}")


def architecture(name: str, known: list[str]) -> tuple[str, int, bool | None, str] | None:
    """open_clip's architecture, the number of gated layers, the activation that the name says, and the name without it; None
    for a name that is no model's. open_clip has `-quickgelu` names of some architectures; here every one has both."""
    stem, _, last = name.rpartition("-")
    said = {"quickgelu": True, "gelu": False}.get(last)
    for tried in (name,) if said is None else (name, stem):
        plain, last_k = GATED.get(tried, (ALIASES.get(tried, tried), 0))
        if plain in known:
            return plain, last_k, said, name if said is None else stem
    return None


def looks_like_path(text: str) -> bool:
    return "/" in text or "\\" in text or text.endswith((".pt", ".pth", ".bin", ".safetensors"))


def existing(path: str) -> ModelName:
    if not Path(path).is_dir():
        what = (
            "is a file: give it as NAME:FILE with the architecture's name"
            if Path(path).exists()
            else "no such model folder"
        )
        raise ReactvlError(f"{path}: {what}")
    return ModelName("folder", path)


def fold(tag: str) -> str:
    """Tags are compared in lower case with `-` as `_`."""
    return tag.lower().replace("-", "_")
