"""Retrieved pairs of a small pool: two classes of one name, a class of two names, a class in another script."""

import pytest
from tests_support import write_model, write_pool

CLASSES = ["red thing", "green/../thing", "red thing", "蓝色", "blue thing|azure thing"]


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A folder with pool/, embeddings/ and retrieved/."""
    from reactvl.embed import embed
    from reactvl.retrieve import retrieve

    home = tmp_path_factory.mktemp("run")
    model = write_model(home / "model", seed=0)
    write_pool(home / "pool", 3, 12)
    (home / "classes.txt").write_text("\n".join(CLASSES))
    embed(str(home / "pool"), model, out=home / "embeddings")
    retrieve(str(home / "embeddings"), classes=str(home / "classes.txt"), per_class=6, out=home / "retrieved")
    return home
