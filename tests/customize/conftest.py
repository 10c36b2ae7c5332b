"""A pool, its embeddings and retrieved pairs, made by the stages themselves."""

import pytest
from tests_support import write_pool


@pytest.fixture(scope="session")
def pool(tmp_path_factory):
    """90 pairs of three classes in two shards, two of the pictures cut short."""
    return write_pool(tmp_path_factory.mktemp("pool"), shards=2, pairs=45, cut=(10, 50))


@pytest.fixture(scope="session")
def run(tmp_path_factory, small_model, pool):
    """Embeddings and retrieved pairs of the pool."""
    import reactvl as rv

    out = tmp_path_factory.mktemp("run")
    embeddings = rv.embed(str(pool), small_model, out=out / "embeddings")
    classes, templates = ["red", "green", "blue"], ["{}", "a {} thing"]
    rv.retrieve(embeddings, classes=classes, templates=templates, per_class=20, out=out / "retrieved")
    return out
