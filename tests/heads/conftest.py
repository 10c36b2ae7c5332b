"""A small CLIP of random weights."""

import pytest
from tests_support import SMALL


@pytest.fixture(scope="session")
def encoder():
    import torch

    from reactvl.models.encoder import Encoder
    from reactvl.models.model import Model, construct

    torch.manual_seed(0)
    return Encoder(Model("small", construct(SMALL), SMALL), device="cpu", precision="fp32")
