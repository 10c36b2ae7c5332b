"""reactvl: class names and a pool of image-text pairs in, a CLIP model customized to those classes out (REACT, CVPR 2023).

    import reactvl as rv
    base  = rv.load("ViT-B-32:openai")
    emb   = rv.embed("pool/{00000..00897}.tar", base, out="run/embeddings")
    pairs = rv.retrieve(emb, classes="classes.txt", templates="openai", per_class=200, out="run/retrieved")
    tuned = rv.customize(base, pairs, tune="gated-image", epochs=4, out="run/customized")
    score = rv.evaluate([base, tuned], tasks=["dtd", "food-101"], data="data/", out="run/evaluation")
    print(score.table())

Names are looked up when first used, so that `import reactvl` costs nothing.
"""

import importlib
import sys
import types

__version__ = "0.1.0"

HOMES = {
    "load": "reactvl.models",
    "Model": "reactvl.models",
    "embed": "reactvl.embed",
    "index": "reactvl.index",
    "retrieve": "reactvl.retrieve",
    "customize": "reactvl.customize",
    "evaluate": "reactvl.evaluate",
    "predict": "reactvl.predict",
    "pack": "reactvl.pack",
    "catalog": "reactvl.catalog",
    "export": "reactvl.export",
    "download": "reactvl.download",
    "import_embeddings": "reactvl.importing",
    "run": "reactvl.recipe",
    "open": "reactvl.recipe",
    "Embeddings": "reactvl.handles.embeddings",
    "Index": "reactvl.handles.index",
    "Pairs": "reactvl.handles.pairs",
    "Scores": "reactvl.handles.scores",
    "Catalog": "reactvl.handles.catalog",
    "Client": "reactvl.serve.client",
    "Pool": "reactvl.handles.pool",
    "Run": "reactvl.handles.run",
    "gallery": "reactvl.handles.showing",
    "ReactvlError": "reactvl.manifest",
}
__all__ = [*HOMES, "__version__"]


def __getattr__(name: str) -> object:
    if name not in HOMES:
        raise AttributeError(f"module 'reactvl' has no attribute {name!r}")
    return getattr(importlib.import_module(HOMES[name]), name)


class _Package(types.ModuleType):
    """`reactvl.embed` is the stage's function, though its package has the same name and was perhaps imported first."""

    def __setattr__(self, name: str, value: object) -> None:
        if name in HOMES and isinstance(value, types.ModuleType):
            value = getattr(value, name)
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __dir__() -> list[str]:
    return __all__
