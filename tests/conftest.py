"""Small real things for every test: a CLIP with random weights, pictures, pools."""

from pathlib import Path

import pytest

SMALL = {
    "model_cfg": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "patch_size": 8, "head_width": 32},
        "text_cfg": {"context_length": 24, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    },
    "preprocess_cfg": {"size": 32},
    "reactvl": {},
}


def write_model(folder: Path, seed: int) -> str:
    """A model folder of a small CLIP with random weights; returns its path."""
    import torch

    from reactvl.models.folder import write
    from reactvl.models.model import construct

    torch.manual_seed(seed)
    write(folder, construct(SMALL), SMALL)
    return str(folder)


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("model"), seed=0)
