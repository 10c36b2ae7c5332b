"""A ViT-B/32 CLIP of random weights: speed does not depend on what a tower knows, and no model hub is needed.

Its text projection can be fitted so that the prompts of a class come out near a given vector: then the whole of
`retrieve` runs on the mixture of `vectors.py`, with neighbours that mean something.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from reactvl.clip_imports import open_clip
from reactvl.manifest import sha256_json
from reactvl.models import folder, load
from reactvl.models.encoder import text_features, token_lengths
from reactvl.models.model import construct

ARCHITECTURE = "ViT-B-32"
BATCH = 128
RIDGE = 1e-4  # of the features' mean square: what a random tower hardly tells apart is not blown up


def vit_b_32(cache: Path, quick: bool = False) -> Path:
    """A model folder, made once; `quick` is a small tower of the same kind."""
    config = {"model_cfg": open_clip.get_model_config(ARCHITECTURE), "preprocess_cfg": {"size": 224}, "reactvl": {}}
    if quick:
        config["model_cfg"]["vision_cfg"] |= {"layers": 2, "width": 64, "head_width": 32}
        config["model_cfg"]["text_cfg"] |= {"layers": 2, "width": 64, "heads": 2}
    home = cache / f"{ARCHITECTURE}-{sha256_json([config, torch.__version__])[:8]}"
    if not (home / folder.WEIGHTS).exists() or not (home / folder.CONFIG).exists():
        torch.manual_seed(0)
        folder.write(home, construct(config), config)
    return home


def fitted(home: Path, prompts: Sequence[str], wanted: np.ndarray, out: Path) -> Path:
    """The model of `home` with a text projection that brings each of `prompts` near its row of `wanted` (N, dim) float32.

    Least squares with a little ridge over the tower's features before the projection.
    """
    key = sha256_json([str(home), list(prompts), float(np.abs(wanted).sum())])
    made = out / f"fitted-{key[:8]}"
    if (made / folder.CONFIG).exists():
        return made
    model = load(home)
    width, dim = model.net.text_projection.shape
    model.net.text_projection = torch.nn.Parameter(torch.eye(width), requires_grad=False)
    features = torch.cat(
        [features_of(model, prompts[at : at + BATCH]) for at in range(0, len(prompts), BATCH)]
    ).double()
    gram = features.T @ features
    gram += RIDGE * gram.diagonal().mean() * torch.eye(width, dtype=torch.float64)
    projection = torch.linalg.solve(gram, features.T @ torch.from_numpy(wanted).double())  # (width, dim)
    assert projection.shape == (width, dim)
    model.net.text_projection = torch.nn.Parameter(projection.float(), requires_grad=False)
    folder.write(made, model.net, model.config)
    return made


def features_of(model, texts: Sequence[str]) -> torch.Tensor:
    """float32 (N, width) of a batch, padding cut."""
    tokens = model.tokenize(texts)
    tokens = tokens[:, : int(token_lengths(tokens, 0).max())]
    with torch.inference_mode():
        return text_features(model.net, tokens)
