"""What every test may use; the makers of small real inputs stand in `tests_support.py`."""

import os

if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # a core each, before anything counts them: two processes that compute on the same two cores slow each other tenfold
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

import pytest
from tests_support import write_model


@pytest.fixture(scope="session")
def small_model(tmp_path_factory) -> str:
    return write_model(tmp_path_factory.mktemp("model"), seed=0)
