"""From a name to a model: which architecture, which weights, which activation, which preprocessing."""

import contextlib
import json
from pathlib import Path
from typing import Any

import torch

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models import activation, folder, gates, hub, names, published, weights
from reactvl.models.model import Model, NotDrawn, config_of, construct, uses_quick_gelu

PREPROCESS = ("mean", "std", "interpolation", "resize_mode")  # what open_clip's tags say of an image


def build(text: str, quick_gelu: bool | None = None) -> Model:
    """The model of a name or folder; `quick_gelu` says the activation where nothing else does.

    Raises ReactvlError in one line that says what to do.
    """
    name = names.parse(text, open_clip.list_models())
    if name.kind != "named":
        model = read_folder(Path(name.name), text) if name.kind == "folder" else from_hub(text)
        activation.check_known(
            text, bool(model.config["model_cfg"].get("quick_gelu")), quick_gelu, "its config says it"
        )
        return model
    if name.tag is None:
        tags = known_tags(name)
        raise ReactvlError(
            f"{text}: which weights? name a tag, as in {text}:{tags[0] if tags else 'weights.pt'} (known: {', '.join(tags)})"
        )
    said = activation.agreed(text, name.quick_gelu, quick_gelu)
    if release := published.find(name.name, name.last_k, name.tag):
        activation.check_known(text, release.quick_gelu, said, "the published checkpoint")
        config = config_for(name, release.quick_gelu)
        if release.half_mean:
            config["preprocess_cfg"] |= {"mean": [0.5] * 3, "std": [0.5] * 3}
        return loaded(text, config, weights.open_file(published.fetch(release)))
    if name.weights_file is not None:
        file = weights.open_file(name.weights_file)
        config = config_for(name, said)
        given = bool(config["model_cfg"].get("quick_gelu"))
        activation.check_file(text, file, text, quick_gelu=given, settled=said is not None or not name.last_k)
        return loaded(name.spelled(said), config, file)
    return tagged(text, name, open_clip_tag(text, name), said)


def architecture(text: str, *, quick_gelu: bool | None = None, seed: int = 0) -> Model:
    """A model of an architecture's name alone, its weights random under `seed`: something to load weights into
    (`weights.load_into`), not to use.

    For `--model react_ViT-B-32-quickgelu --resume ViT-B-32.pt`. Raises ReactvlError for a name with a tag, a folder, and as
    `build` does.
    """
    name = names.parse(text, open_clip.list_models())
    if name.kind != "named" or name.tag is not None:
        raise ReactvlError(f"{text}: not the name of an architecture alone, as ViT-B-32 or react_ViT-B-32 are")
    said = activation.agreed(text, name.quick_gelu, quick_gelu)
    config = config_for(name, said)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = construct(config)
    model = Model(name.spelled(said), net, completed(net, config))
    model.drawn, model.settled = True, said is not None or not name.last_k
    return model


def fetch_weights(text: str) -> Path:
    """Bring the weights of `NAME:TAG` or `hf-hub:...` into the cache, without making the model; returns the file.

    Raises ReactvlError for a name that is not of something published.
    """
    name = names.parse(text, open_clip.list_models())
    if name.kind == "hub":
        return fetch_hub(text)[1]
    if name.kind == "named" and name.tag and name.weights_file is None:
        if release := published.find(name.name, name.last_k, name.tag):
            return published.fetch(release)
        return fetch_tag(text, name, open_clip.get_pretrained_cfg(name.name, open_clip_tag(text, name)))
    raise ReactvlError(f"{text}: nothing to fetch; `reactvl models` lists what is published (NAME:TAG)")


def open_clip_tag(text: str, name: names.ModelName) -> str:
    """open_clip's own spelling of a tag; ReactvlError with those that it has when it has no such."""
    tags = {names.fold(tag): tag for tag in open_clip.list_pretrained_tags_by_model(name.name)}
    if names.fold(name.tag) not in tags:
        raise ReactvlError(f"{text}: no such tag; known: {', '.join(known_tags(name))}")
    return tags[names.fold(name.tag)]


def fetch_tag(text: str, name: names.ModelName, about: dict[str, Any]) -> Path:
    """The file of a tag of open_clip's, from the cache, the hub (resumed, as ours are) or the address that it knows."""
    instead = f"fetch the weights elsewhere and give them as {name.stem}:FILE"
    repository, _, file = (about.get("hf_hub") or "").rpartition("/")
    file = file or open_clip.constants.HF_WEIGHTS_NAME
    for wanted in (*open_clip.pretrained._get_safe_alternatives(file), file) if repository else ():
        with contextlib.suppress(hub.Missing):
            return hub.fetch(repository, wanted, instead=instead)
    try:
        return Path(open_clip.download_pretrained(about))
    except Exception as fault:  # open_clip, the hub's client and urllib raise many kinds; the reason is passed on
        reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise ReactvlError(
            f"{text}: its weights cannot be had ({reason}): check the connection (and HF_HUB_OFFLINE), or {instead}"
        ) from fault


def known_tags(name: names.ModelName) -> list[str]:
    return [*published.tags(name.name, name.last_k), *open_clip.list_pretrained_tags_by_model(name.name)]


def config_for(name: names.ModelName, quick_gelu: bool | None) -> dict[str, Any]:
    """The config of an architecture before its network is made."""
    config = {"model_cfg": open_clip.get_model_config(name.name), "preprocess_cfg": usual(name.name), "reactvl": {}}
    if quick_gelu is not None:
        config["model_cfg"]["quick_gelu"] = quick_gelu
    if name.last_k:
        config["reactvl"]["last_k"] = name.last_k
    return config


def usual(name: str) -> dict[str, Any]:
    """Mean, std, interpolation and resizing where all of open_clip's tags of an architecture agree (SigLIP's and PE-Core's
    are not CLIP's); else nothing, which means CLIP's."""
    tags = [open_clip.get_pretrained_cfg(name, tag) for tag in open_clip.list_pretrained_tags_by_model(name)]
    said = [{key: given[key] for key in PREPROCESS if given.get(key) is not None} for given in tags]
    return said[0] if said and all(one == said[0] for one in said) else {}


def completed(net: torch.nn.Module, config: dict[str, Any]) -> dict[str, Any]:
    """The config with what only the network knows (the size of its images)."""
    return {**config_of(net, config["model_cfg"], config["preprocess_cfg"]), "reactvl": config["reactvl"]}


def loaded(text: str, config: dict[str, Any], file: weights.WeightsFile) -> Model:
    """A model of a config whose every tensor comes from a file."""
    if file.partial:
        raise ReactvlError(f"{file.path}: a training checkpoint holds only what was trained; give its run's folder")
    with NotDrawn():
        net = construct(config)
    weights.load_strictly(net, file.state, str(file.path))
    return Model(text, net, completed(net, config))


def tagged(text: str, name: names.ModelName, tag: str, said: bool | None) -> Model:
    """open_clip's model with its own weights, from the cache or the hub; of a gated name, with fresh gates, which are shut."""
    about = open_clip.get_pretrained_cfg(name.name, tag) or {}
    quick_gelu = bool(about.get("quick_gelu") or open_clip.get_model_config(name.name).get("quick_gelu"))
    activation.check_known(text, quick_gelu, said, f"open_clip's tag {tag}")
    path = fetch_tag(text, name, about)
    try:
        net = open_clip.create_model(name.name, pretrained=tag, force_quick_gelu=quick_gelu, require_pretrained=True)
    except Exception as fault:  # as in `fetch_tag`
        reason = (str(fault).strip().splitlines() or [type(fault).__name__])[0]
        raise ReactvlError(
            f"{text}: {path} could not be loaded ({reason}); if it is damaged, delete it and run again"
        ) from fault
    config = config_of(net, open_clip.get_model_config(name.name))
    config["model_cfg"]["quick_gelu"] = uses_quick_gelu(net)
    if name.last_k:
        config["reactvl"]["last_k"] = name.last_k
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            gates.insert_gates(net.visual, name.last_k)
    return Model(text, net, config)


def from_hub(text: str) -> Model:
    """A model folder on the hub: an open_clip one, or a gated one of this project's. Its files go through the cache."""
    config, path = fetch_hub(text)
    described, file = folder.read_config(config.parent), weights.open_file(path)
    quick_gelu = bool(described["model_cfg"].get("quick_gelu"))
    activation.check_file(text, file, text, quick_gelu=quick_gelu, settled=True)
    with NotDrawn():
        net = construct(described)
    weights.load_strictly(net, file.state, f"{text} ({path.name})")
    return Model(text, net, described)


def fetch_hub(text: str) -> tuple[Path, Path]:
    """Config and weights of `hf-hub:OWNER/NAME` in the cache."""
    repository = text.removeprefix("hf-hub:")
    config = hub.fetch(repository, folder.CONFIG)
    for name in weights.OF_A_FOLDER[:4]:
        with contextlib.suppress(hub.Missing):
            return config, hub.fetch(repository, name)
    raise ReactvlError(
        f"{text}: neither the hub nor the cache has weights of it ({', '.join(weights.OF_A_FOLDER[:4])})"
    )


def read_folder(path: Path, name: str) -> Model:
    """A model folder, or the final model of a customize stage's folder."""
    home = path / "model" if (path / "model").is_dir() else path
    config = folder.read_config(home)
    with contextlib.nullcontext() if "package:" in json.dumps(config) else NotDrawn():
        net = construct(config)
    folder.load(home, net, config)
    return Model(name, net, config)
