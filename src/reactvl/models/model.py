"""A model with all that belongs to it: network, preprocessing, tokenizer, identity.

model = reactvl.load("ViT-B-32:openai")
images = model.encode_image([Image.open("photo.jpg")])              # (1, 512) float32, L2-normalised
texts = model.encode_text(["a photo of a red panda", "a raccoon"])  # (2, 512)
(images @ texts.T) * model.logit_scale
"""

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from reactvl.clip_imports import open_clip
from reactvl.manifest import ModelId, ReactvlError
from reactvl.models import folder, gates, hybrid, names, published, weights
from reactvl.models.packages import resolve

if TYPE_CHECKING:
    from PIL.Image import Image

    from reactvl.models.classifier import Classifier


class Model:
    """A CLIP model: open_clip's network in eval mode with its preprocessing, tokenizer and identity.

    `config` is what a model folder's `open_clip_config.json` holds: open_clip's `model_cfg` and `preprocess_cfg`, and
    under `reactvl` what this project adds (`last_k` gated layers, a convolutional `stem`).
    """

    def __init__(self, name: str, net: nn.Module, config: dict[str, Any]):
        self.name, self.config = name, config
        self.net = net.eval().requires_grad_(False)

    @functools.cached_property
    def id(self) -> ModelId:
        """Name, SHA-256 of weights and config, width of the vectors."""
        return ModelId(
            self.name, weights.digest(self.net.state_dict(), self.config), self.config["model_cfg"]["embed_dim"]
        )

    @property
    def logit_scale(self) -> float:
        """The factor of the cosine (exp of the parameter)."""
        return float(self.net.logit_scale.detach().exp())

    @property
    def _preprocess_cfg(self) -> Any:
        return open_clip.transform.PreprocessCfg(**self.config["preprocess_cfg"])

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        size = self._preprocess_cfg.size
        return size if isinstance(size, int) else size[0]

    @property
    def mean(self) -> tuple[float, ...]:
        return tuple(self._preprocess_cfg.mean)

    @property
    def std(self) -> tuple[float, ...]:
        return tuple(self._preprocess_cfg.std)

    @property
    def interpolation(self) -> str:
        return self._preprocess_cfg.interpolation

    @property
    def resize_mode(self) -> str:
        return self._preprocess_cfg.resize_mode

    @functools.cached_property
    def preprocess(self):
        """open_clip's own evaluation transform: a PIL image to float32 (3, H, W)."""
        return open_clip.transform.image_transform_v2(self._preprocess_cfg, is_train=False)

    @functools.cached_property
    def _tokenizer(self):
        text = self.config["model_cfg"]["text_cfg"]
        context = text.get("context_length", 77)
        if text.get("hf_tokenizer_name"):
            return open_clip.tokenizer.HFTokenizer(
                resolve(text["hf_tokenizer_name"]),
                context_length=context,
                tokenizer_mode=text.get("tokenizer_mode"),
                **text.get("tokenizer_kwargs", {}),
            )
        return (
            open_clip.get_tokenizer(self.name.partition(":")[0], context_length=context)
            if "siglip" in self.name.lower()
            else (open_clip.SimpleTokenizer(context_length=context, **text.get("tokenizer_kwargs", {})))
        )

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Token ids (N, context length) int64."""
        return self._tokenizer(list(texts))

    def encode_image(self, images: "Sequence[Image] | Tensor") -> Tensor:
        """L2-normalised image vectors (N, dim) float32 of PIL images, uint8 pixels or preprocessed floats (N, 3, H, W)."""
        if not isinstance(images, Tensor):
            images = torch.stack([self.preprocess(image) for image in images])
        elif images.dtype == torch.uint8:
            images = self.normalise(images)
        with torch.inference_mode():
            return self.net.encode_image(images.to(self.device), normalize=True).float().cpu()

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """L2-normalised text vectors (N, dim) float32."""
        with torch.inference_mode():
            return self.net.encode_text(self.tokenize(texts).to(self.device), normalize=True).float().cpu()

    def normalise(self, pixels: Tensor) -> Tensor:
        """uint8 pixels (N, 3, H, W) to the float32 input of the network."""
        mean, std = (torch.tensor(values, device=pixels.device).view(3, 1, 1) for values in (self.mean, self.std))
        return pixels.float().mul_(1 / (255 * std)).sub_(mean / std)

    @property
    def device(self) -> torch.device:
        return self.net.logit_scale.device

    def classifier(self, classes: Sequence[str], templates: Sequence[str] = ("a photo of a {}.",)) -> "Classifier":
        """A zero-shot classifier of these classes; ReactvlError for an empty list."""
        from reactvl.models.classifier import Classifier

        return Classifier(self, classes, templates)

    def save(self, path: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Write a model folder (see `folder.py`)."""
        folder.write(Path(path), self.net, self.config, dtype)

    def __repr__(self) -> str:
        return f"Model({self.name!r}, dim={self.id.dim}, gated layers={gates.gated_layers(self.net.visual)})"


def build(text: str) -> Model:
    """The model of a name or folder; raises ReactvlError in one line that says what to do."""
    name = names.parse(text, open_clip.list_models())
    if name.kind == "folder":
        return read_folder(Path(name.name), text)
    if name.kind == "hub":
        net = fetched(text, name.name, None)
        return Model(
            text, net, config_of(net, open_clip.factory._get_hf_config(name.name.removeprefix("hf-hub:"))["model_cfg"])
        )
    if name.tag is None:
        tags = [*open_clip.list_pretrained_tags_by_model(name.name), *published.tags(name.name, name.last_k)]
        raise ReactvlError(
            f"{text}: which weights? name a tag, as in {text}:{tags[0] if tags else 'weights.pt'} (known: {', '.join(tags)})"
        )
    return named(text, name)


def named(text: str, name: names.ModelName) -> Model:
    """An architecture of open_clip with weights: a tag of open_clip's, a published checkpoint of REACT's, or a file."""
    release = published.find(name.name, name.last_k, name.tag)
    if release is None and name.weights_file is None:
        tags = {names.fold(tag): tag for tag in open_clip.list_pretrained_tags_by_model(name.name)}
        if name.last_k or names.fold(name.tag) not in tags:
            tags = published.tags(name.name, name.last_k) if name.last_k else list(tags.values())
            raise ReactvlError(f"{text}: no such tag; known: {', '.join(tags)}")
        net = fetched(text, name.name, tags[names.fold(name.tag)])
        config = config_of(net, open_clip.get_model_config(name.name))
        config["model_cfg"]["quick_gelu"] = uses_quick_gelu(net)
        return Model(text, net, config)

    config = {"model_cfg": open_clip.get_model_config(name.name), "preprocess_cfg": {}, "reactvl": {}}
    if release:
        config["model_cfg"]["quick_gelu"] = release.quick_gelu
        if release.half_mean:
            config["preprocess_cfg"] = {"mean": [0.5] * 3, "std": [0.5] * 3}
    if name.last_k:
        config["reactvl"]["last_k"] = name.last_k
    net = construct(config)
    path = published.fetch(release) if release else name.weights_file
    weights.load_strictly(net, weights.read(path), str(path))
    return Model(
        text,
        net,
        {**config, **config_of(net, config["model_cfg"], config["preprocess_cfg"]), "reactvl": config["reactvl"]},
    )


def fetched(text: str, name: str, tag: str | None) -> nn.Module:
    """open_clip's model with its own weights, from the cache or the hub."""
    quick_gelu = bool(tag and (open_clip.get_pretrained_cfg(name, tag) or {}).get("quick_gelu"))
    try:
        return open_clip.create_model(name, pretrained=tag, force_quick_gelu=quick_gelu, require_pretrained=True)
    except Exception as fault:  # open_clip and the hub raise many kinds; the reason is passed on whole
        reason = str(fault).splitlines()[0] if str(fault) else type(fault).__name__
        raise ReactvlError(f"{text}: its weights could not be loaded ({reason})") from fault


def read_folder(path: Path, name: str) -> Model:
    """A model folder, or the final model of a customize stage's folder."""
    home = path / "model" if (path / "model").is_dir() else path
    config = folder.read_config(home)
    net = construct(config)
    folder.load(home, net, config)
    return Model(name, net, config)


def construct(config: dict[str, Any]) -> nn.Module:
    """The network of a config, its packaged towers loaded, all else at PyTorch's initialisation."""
    model_cfg = copy.deepcopy(config["model_cfg"])
    extra = config.get("reactvl", {})
    text = model_cfg["text_cfg"]
    packaged = str(text.get("hf_model_name", "")).startswith("package:")
    if text.get("hf_model_name"):
        quiet_transformers()
        text["hf_model_name"] = resolve(text["hf_model_name"])
        text["hf_model_pretrained"] = packaged
    custom = model_cfg.pop("custom_text", False) or bool(text.get("hf_model_name"))
    if "multimodal_cfg" in model_cfg:
        raise ReactvlError("CoCa models have a caption decoder and no plain text tower; choose a CLIP model")
    net = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**model_cfg)
    if "stem" in extra:
        hybrid.insert_stem(net.visual, extra["stem"]["architecture"], extra["stem"].get("weights"))
    if extra.get("last_k"):
        gates.insert_gates(net.visual, extra["last_k"])
    return net


def quiet_transformers() -> None:
    """Its bars and reports of unused tensors say nothing to our users; what does not fit is an error of our own loader."""
    try:
        import transformers
    except ImportError:
        raise ReactvlError("this model's text tower needs transformers: pip install 'reactvl[demo]'") from None

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def with_gates(model: Model, last_k: int) -> Model:
    """A copy of `model` with fresh gates in the last `last_k` blocks; it computes exactly what `model` does."""
    config = copy.deepcopy(model.config)
    config.setdefault("reactvl", {})["last_k"] = last_k
    net = copy.deepcopy(model.net)
    gates.insert_gates(net.visual, last_k)
    return Model(model.name, net, config)


def config_of(net: nn.Module, model_cfg: dict[str, Any], preprocess: dict[str, Any] | None = None) -> dict[str, Any]:
    """The config of a network that open_clip made."""
    given = getattr(net.visual, "preprocess_cfg", None) or preprocess or {}
    given = {"size": net.visual.image_size, **given}
    known = {field: given[field] for field in open_clip.transform.PreprocessCfg.__dataclass_fields__ if field in given}
    return {"model_cfg": copy.deepcopy(model_cfg), "preprocess_cfg": known, "reactvl": {}}


def uses_quick_gelu(net: nn.Module) -> bool:
    return any(isinstance(module, open_clip.transformer.QuickGELU) for module in net.modules())
