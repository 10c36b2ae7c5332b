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
from reactvl.models import folder, gates, hybrid, weights
from reactvl.models.packages import resolve
from reactvl.progress import say

if TYPE_CHECKING:
    from PIL.Image import Image

    from reactvl.models.classifier import Classifier


class Model:
    """A CLIP model: open_clip's network in eval mode with its preprocessing, tokenizer and identity.

    `config` is what a model folder's `open_clip_config.json` holds: open_clip's `model_cfg` and `preprocess_cfg`, and
    under `reactvl` what this project adds (`last_k` gated layers, a convolutional `stem`).
    """

    drawn = False  # the weights are random: an architecture that waits for weights
    settled = True  # the activation is known, was said, or is the architecture's own; False where a gated one's is open

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
        return tokenizer(self.config["model_cfg"]["text_cfg"], Path(self.name))

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
        """Write a model folder (see `folder.py`), with the files of a tokenizer that is not open_clip's own: open_clip reads
        it from there."""
        folder.write(Path(path), self.net, self.config, dtype)
        named = str(self.config["model_cfg"]["text_cfg"].get("hf_tokenizer_name") or "package:")
        if not named.startswith("package:"):
            try:
                self._tokenizer.save_pretrained(str(path))
            except ReactvlError as fault:  # the weights, perhaps of hours of training, are not lost for it
                say(f"{path}: written without its tokenizer, which will be looked for on the hub: {fault}")

    def __repr__(self) -> str:
        return f"Model({self.name!r}, dim={self.id.dim}, gated layers={gates.gated_layers(self.net.visual)})"


def construct(config: dict[str, Any]) -> nn.Module:
    """The network of a config, its packaged towers loaded, all else at PyTorch's initialisation. Nothing is downloaded but the
    description of a text tower that the config names on the hub. Raises ReactvlError for CoCa's models, and for a tower that
    open_clip or timm cannot make."""
    model_cfg = copy.deepcopy(config["model_cfg"])
    extra = config.get("reactvl", {})
    text = model_cfg["text_cfg"]
    packaged = str(text.get("hf_model_name", "")).startswith("package:")
    if text.get("hf_model_name"):
        quiet_transformers()
        text["hf_model_name"] = resolve(text["hf_model_name"])
        text["hf_model_pretrained"] = packaged
    if model_cfg["vision_cfg"].get("timm_model_name"):
        model_cfg["vision_cfg"]["timm_model_pretrained"] = False
    custom = model_cfg.pop("custom_text", False) or bool(text.get("hf_model_name"))
    if "multimodal_cfg" in model_cfg:
        raise ReactvlError("CoCa models have a caption decoder and no plain text tower; choose a CLIP model")
    try:
        net = (open_clip.CustomTextCLIP if custom else open_clip.CLIP)(**model_cfg)
    except (
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
        AssertionError,
    ) as fault:  # an unknown timm model, a text tower's hub
        reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise ReactvlError(f"open_clip {open_clip.__version__} cannot make this model's towers ({reason})") from fault
    if "stem" in extra:
        hybrid.insert_stem(net.visual, extra["stem"]["architecture"], extra["stem"].get("weights"))
    if extra.get("last_k"):
        gates.insert_gates(net.visual, extra["last_k"])
    return net


class NotDrawn(torch.overrides.TorchFunctionMode):
    """Within it, new parameters are not filled with random numbers: for networks whose every tensor is loaded next."""

    DRAWS = frozenset(
        [Tensor.normal_, Tensor.uniform_, nn.init.normal_, nn.init.uniform_, nn.init.trunc_normal_]
        + [getattr(nn.init, f"{kind}_{law}_") for kind in ("kaiming", "xavier") for law in ("normal", "uniform")]
    )

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func in self.DRAWS:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def tokenizer(text_cfg: dict[str, Any], home: Path) -> Any:
    """The tokenizer of a text tower's config, as open_clip chooses it: one of the Hugging Face kind where the config names one
    (from the model's folder `home` where its files lie there, a package, or the hub), else CLIP's own."""
    context, options = text_cfg.get("context_length", 77), text_cfg.get("tokenizer_kwargs", {})
    named = text_cfg.get("hf_tokenizer_name")
    if not named:
        return open_clip.SimpleTokenizer(context_length=context, **options)
    homes = [place for place in (home, home / "model") if (place / "tokenizer_config.json").is_file()]
    quiet_transformers()
    try:
        return open_clip.tokenizer.HFTokenizer(
            str(homes[0]) if homes and not named.startswith("package:") else resolve(named),
            context_length=context,
            tokenizer_mode=text_cfg.get("tokenizer_mode"),
            **options,
        )
    except (OSError, ValueError, ImportError) as fault:
        reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise ReactvlError(
            f"the tokenizer {named} could not be loaded ({reason}): check the connection, or put its files into the model's folder"
        ) from None


def quiet_transformers() -> None:
    """Its bars and reports of unused tensors say nothing to our users; what does not fit is an error of our own loader."""
    try:
        import transformers
    except ImportError:
        raise ReactvlError("this model's text needs transformers: pip install 'reactvl[hf]'") from None

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
