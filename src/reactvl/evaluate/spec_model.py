"""The model that an ELEVATER model yaml describes, by its name here: an architecture found by its dimensions, and a checkpoint.

MODEL.NAME clip_react, SPEC of ViT-B/32 with RCP_BLOCK.USE_LAST_K 6, hf:react-vl/react-in1k:clip-vit-base-32-gated-image.pt
    -> react_ViT-B-32:react_clip_ret_laion400m
the same with TEST.MODEL_FILE run/gates.pt      -> react_ViT-B-32-quickgelu:run/gates.pt
MODEL.NAME ViT-B/32 (a name of OpenAI's)        -> ViT-B-32:openai
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models import hub, names, published

VISION, TEXT, BLOCK = "MODEL.SPEC.VISION.", "MODEL.SPEC.TEXT.", "MODEL.SPEC.RCP_BLOCK."
# A key of the yaml -> where open_clip's configuration of an architecture has the same number.
DIMENSIONS = {
    "MODEL.SPEC.EMBED_DIM": ("embed_dim",),
    f"{VISION}PATCH_SIZE": ("vision_cfg", "patch_size"),
    f"{VISION}WIDTH": ("vision_cfg", "width"),
    f"{VISION}LAYERS": ("vision_cfg", "layers"),
    f"{TEXT}CONTEXT_LENGTH": ("text_cfg", "context_length"),
    f"{TEXT}VOCAB_SIZE": ("text_cfg", "vocab_size"),
    f"{TEXT}WIDTH": ("text_cfg", "width"),
    f"{TEXT}HEADS": ("text_cfg", "heads"),
    f"{TEXT}LAYERS": ("text_cfg", "layers"),
}
NEEDED = [f"{VISION}PATCH_SIZE", f"{VISION}WIDTH", f"{VISION}LAYERS"]
# What the architectures here have one value of.
ONLY = {
    f"{VISION}MODEL": "vit",
    f"{TEXT}TOKENIZER": "clip",
    f"{TEXT}STYLE": "clip",
    f"{TEXT}USE_RCP_BLOCK": False,
    f"{BLOCK}MODE": "gated_attn",
    f"{BLOCK}GUMBEL_SAMPLE": False,
    f"{BLOCK}USE_FFN": True,
    "MODEL.SPEC.POOL_TYPE": "default",
    "MODEL.SPEC.SKIP_CLS": False,
}
SIZES = ("TRAIN.IMAGE_SIZE", "TEST.IMAGE_SIZE", "DATASET.IMAGE_SIZE")
USED = {
    "MODEL.NAME", "TEST.MODEL_FILE", "INPUT.MEAN", "INPUT.STD", "MODEL.SPEC.USE_QUICK_GELU", f"{VISION}HEADS",
    f"{VISION}MLP_RATIO", f"{VISION}USE_RCP_BLOCK", f"{BLOCK}USE_LAST_K", f"{BLOCK}WIDTH",
    *DIMENSIONS, *ONLY, *SIZES,
}  # fmt: skip
VISION_PARTS = {"image_size", "layers", "width", "patch_size", "head_width", "mlp_ratio"}
TEXT_PARTS = {"context_length", "vocab_size", "width", "heads", "layers"}
OPENAI_MEAN, OPENAI_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Given(Protocol):
    """A key's value, which can say what is wrong with it."""

    value: Any

    def wrong(self, why: str) -> ReactvlError: ...


def name_of(given: Mapping[str, Given]) -> str | None:
    """The model's name here, None where the keys name none. Raises ReactvlError for a model that is not here."""
    named = given.get("MODEL.NAME")
    if named is None or not named.value:
        return None
    text = str(named.value)
    if text.startswith("clip_"):  # ELEVATER's prefix of models that SPEC describes
        host = host_of(given)
        stem = gated_name(given, host)
        return with_checkpoint(given, stem, quick_gelu=bool(value(given, "MODEL.SPEC.USE_QUICK_GELU", True)))
    known = open_clip.list_models()
    openai = text.replace("@336px", "-336").replace("/", "-")
    plain = openai if openai in known else text
    try:
        parsed = names.parse(plain, known)
    except ReactvlError:
        raise named.wrong("no CLIP model that is here; `reactvl models` lists the names") from None
    if parsed.kind != "named" or parsed.tag:
        return plain
    if not checkpoint(given):
        normal(given, OPENAI_MEAN, OPENAI_STD, "OpenAI's")
        return f"{plain}:openai"
    return with_checkpoint(given, plain, quick_gelu=True)


def host_of(given: Mapping[str, Given]) -> str:
    """open_clip's architecture of the dimensions in SPEC."""
    for key, only in ONLY.items():
        if key in given and given[key].value != only:
            raise given[key].wrong(f"is not here; {only} is")
    lacking = next((key for key in NEEDED if key not in given), None)
    if lacking:
        raise given["MODEL.NAME"].wrong(
            f"is described by MODEL.SPEC, which lacks {lacking.removeprefix('MODEL.SPEC.')}"
        )
    size = image_size(given)
    for name in architectures():
        config = open_clip.get_model_config(name)
        same = all(at(config, place) == given[key].value for key, place in DIMENSIONS.items() if key in given)
        if same and config["vision_cfg"].get("image_size", 224) == size and shaped(config["vision_cfg"], given):
            return name
    said = ", ".join(f"{key.removeprefix('MODEL.SPEC.')} {given[key].value}" for key in DIMENSIONS if key in given)
    raise given["MODEL.NAME"].wrong(f"no architecture here has {said} and images of {size} pixels; `reactvl models`")


def architectures() -> list[str]:
    """open_clip's plain CLIPs of a vision transformer, REACT's own hosts first; activations are said apart."""
    hosts = [host for host, _ in names.GATED.values()]
    found = []
    for name in dict.fromkeys([*hosts, *open_clip.list_models()]):
        config = open_clip.get_model_config(name) or {}
        vision, text = config.get("vision_cfg", {}), config.get("text_cfg", {})
        if not name.endswith("-quickgelu") and set(vision) <= VISION_PARTS and set(text) <= TEXT_PARTS:
            found.append(name)
    return found


def shaped(vision: Mapping[str, Any], given: Mapping[str, Given]) -> bool:
    """Whether the tower's heads and MLP are those given, or ELEVATER's defaults (a head of 64, a ratio of 4)."""
    heads = vision["width"] // vision.get("head_width", 64)
    ratio = vision.get("mlp_ratio", 4.0)
    return heads == value(given, f"{VISION}HEADS", vision["width"] // 64) and ratio == value(
        given, f"{VISION}MLP_RATIO", 4.0
    )


def at(config: Mapping[str, Any], place: tuple[str, ...]) -> Any:
    for key in place:
        config = config.get(key, {})
    return config


def image_size(given: Mapping[str, Given]) -> int:
    """The pixels of a side, 224 where none are given; all keys that say it must agree."""
    found: int | None = None
    for key in SIZES:
        if key in given:
            said = given[key].value
            sides = set(said) if isinstance(said, list | tuple) else {said}
            side = sides.pop() if len(sides) == 1 else None
            if not isinstance(side, int):
                raise given[key].wrong("images are square here: [224, 224]")
            if found not in (None, side):
                raise given[key].wrong(f"another key says {found}; images are of one size here")
            found = side
    return found or 224


def gated_name(given: Mapping[str, Given], host: str) -> str:
    """The host's name, or REACT's gated model of it where SPEC gives the image tower gated blocks."""
    if not value(given, f"{VISION}USE_RCP_BLOCK", False):
        return host
    width = given.get(f"{BLOCK}WIDTH")
    if width is not None and width.value != given[f"{VISION}WIDTH"].value:
        raise width.wrong("gated blocks here are as wide as the tower")
    gated, layers = next(((name, k) for name, (of, k) in names.GATED.items() if of == host), (None, 0))
    if gated is None:
        raise given["MODEL.NAME"].wrong(f"there is no gated {host}; REACT's are {', '.join(names.GATED)}")
    last = given.get(f"{BLOCK}USE_LAST_K")
    if last is None or last.value != layers:
        wrong = given["MODEL.NAME"].wrong if last is None else last.wrong
        raise wrong(f"{gated} has gates in its last {layers} layers; a model of other gates is given as its folder")
    return gated


def checkpoint(given: Mapping[str, Given]) -> str:
    """TEST.MODEL_FILE; ELEVATER's run.sh writes `.` for none."""
    text = str(value(given, "TEST.MODEL_FILE", "") or "")
    return "" if text == "." else text


def with_checkpoint(given: Mapping[str, Given], stem: str, *, quick_gelu: bool) -> str:
    """`stem` with its checkpoint: a published one by its tag, another by its file."""
    text, spelled = checkpoint(given), f"{stem}-{'quickgelu' if quick_gelu else 'gelu'}"
    if not text:
        raise given["MODEL.NAME"].wrong("lacks its weights: give TEST.MODEL_FILE, a path or hf:REPOSITORY:FILE")
    said = given["TEST.MODEL_FILE"]
    if not text.startswith("hf:"):
        normal(given, OPENAI_MEAN, OPENAI_STD, "a bare file's")
        if text.startswith(("http:", "https:")):
            raise said.wrong("fetch it and give the file's path")
        if not Path(text).is_file():
            raise said.wrong("no such file, from the folder in which the command is typed")
        return f"{spelled}:{text if names.looks_like_path(text) else f'./{text}'}"
    repository, _, file = text.removeprefix("hf:").partition(":")
    if not repository or not file:
        raise said.wrong("a checkpoint of the hub is written hf:REPOSITORY:FILE")
    release = next((one for one in published.RELEASES if one.file == file), None)
    if repository != published.REPOSITORY or release is None:
        normal(given, OPENAI_MEAN, OPENAI_STD, "a bare file's")
        return f"{spelled}:{hub.fetch(repository, file, instead='give the file itself: TEST.MODEL_FILE PATH')}"
    if release.model != stem:
        raise said.wrong(f"is of {release.model}, but MODEL.SPEC describes {stem}")
    if release.quick_gelu != quick_gelu:
        raise said.wrong(f"was trained with {'QuickGELU' if release.quick_gelu else 'GELU'}: give "
                         f"MODEL.SPEC.USE_QUICK_GELU {release.quick_gelu}")  # fmt: skip
    half = ((0.5,) * 3, (0.5,) * 3)
    normal(given, *(half if release.half_mean else (OPENAI_MEAN, OPENAI_STD)), f"{file}'s")
    return f"{release.model}:{release.tag}"


def normal(given: Mapping[str, Given], mean: tuple[float, ...], std: tuple[float, ...], whose: str) -> None:
    """INPUT.MEAN and INPUT.STD must be those that the checkpoint is used with here."""
    for key, own in (("INPUT.MEAN", mean), ("INPUT.STD", std)):
        if key in given:
            said = given[key].value
            try:
                same = len(said) == 3 and all(abs(float(a) - b) < 1e-4 for a, b in zip(said, own, strict=True))
            except (TypeError, ValueError):
                same = False
            if not same:
                raise given[key].wrong(f"{whose} is {list(own)} here; for another, give the model as a folder, whose "
                                       "config says it, instead of --model-yaml")  # fmt: skip


def value(given: Mapping[str, Given], key: str, default: Any) -> Any:
    return given[key].value if key in given else default
