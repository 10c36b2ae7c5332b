"""A small CLIP of random weights."""

import pytest

CONFIG = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {"size": 32},
    "reactvl": {},
}


@pytest.fixture(scope="session")
def encoder():
    import torch

    from reactvl.models.encoder import Encoder
    from reactvl.models.model import Model, construct

    torch.manual_seed(0)
    return Encoder(Model("small", construct(CONFIG), CONFIG), device="cpu", precision="fp32")
