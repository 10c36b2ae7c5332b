"""One small model for all imports."""

import pytest

from reactvl.models import load


@pytest.fixture(scope="session")
def model(small_model):
    return load(small_model)
