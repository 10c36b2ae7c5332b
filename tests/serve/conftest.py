"""A small run of real files, made once: a pool with URLs, a duplicate and a hostile caption; embeddings, retrieved pairs and
a customized model. Tests that write into a run take `own_run`, a copy."""

import contextlib
import json
import shutil
import threading
import time
from pathlib import Path

import pytest
from page_support import Visits, chromium
from small_pool import write_small_pool


@pytest.fixture(scope="session")
def small_pool(tmp_path_factory) -> Path:
    """3 shards of 30 pairs; see small_pool.py for what is special in them."""
    return write_small_pool(tmp_path_factory.mktemp("serve") / "pool")


@pytest.fixture(scope="session")
def small_run(small_pool, small_model) -> Path:
    """A finished run as `reactvl run` leaves it: recipe.toml, embeddings/, retrieved/, customized/gated-image/. Read only."""
    from reactvl.recipe import run

    home = small_pool.parent
    (home / "recipe.toml").write_text(
        f"""
pool = {json.dumps(str(small_pool))}
model = {json.dumps(small_model)}
[retrieve]
classes = ["red", "green", "blue"]
templates = ["{{}}", "a {{}} thing"]
per_class = 15
[customize.gated-image]
tune = "gated-image"
steps = 2
batch_size = 16
workers = 1
"""
    )
    return run(home / "recipe.toml", out=home / "run")


@pytest.fixture(scope="session")
def small_embeddings(small_run) -> Path:
    """The run's embeddings, served by themselves: no classes, no models beside the base. Read only."""
    return small_run / "embeddings"


@pytest.fixture
def own_run(small_run, tmp_path) -> Path:
    """A copy of the run to write into; its pool stays where it is."""
    return shutil.copytree(small_run, tmp_path / "run", ignore=shutil.ignore_patterns("serve", "review"))


@pytest.fixture(scope="session")
def explorer(small_run):
    """The small run, opened."""
    from reactvl.serve.explorer import Explorer

    return Explorer(small_run)


@pytest.fixture(scope="session")
def running():
    """A function that serves an application on a free port of this machine, as `with running(app) as address:`."""

    @contextlib.contextmanager
    def run(app):
        from reactvl.serve.run import bound, server_of

        with bound("127.0.0.1", 0) as listening:
            server = server_of(app)
            thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
            thread.start()
            while not server.started:
                assert thread.is_alive(), "the server ended before it had started"
                time.sleep(0.005)
            try:
                yield f"http://127.0.0.1:{listening.getsockname()[1]}"
            finally:
                server.should_exit = True
                thread.join(10)

    return run


@pytest.fixture(scope="session")
def service(explorer, running):
    """The address of the small run's service, without a token. Its review must not be written: see `own_service`."""
    from reactvl.serve.app import build

    app, served = build(explorer)
    with running(app) as address:
        yield address
    served.close()


@pytest.fixture
def own_service(own_run, running):
    """The address of a service over `own_run`, for tests that mark."""
    from reactvl.serve.app import build
    from reactvl.serve.explorer import Explorer

    app, served = build(Explorer(own_run))
    with running(app) as address:
        yield address
    served.close()


@pytest.fixture(scope="module")
def browser():
    """A running Chromium: of one module, since Playwright's loop must not stand in the way of other tests'."""
    with chromium() as running:
        yield running


@pytest.fixture
def visits(browser):
    """Opens pages; the test fails for errors that they logged."""
    made = Visits(browser)
    yield made
    made.close()
