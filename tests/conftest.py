"""What every test may use; the makers of small real inputs stand in `tests_support.py`."""

import pytest
from tests_support import write_model


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("model"), seed=0)
