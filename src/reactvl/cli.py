"""The command `reactvl`: a verb a stage, its options those of the stage's signature.

Only the verb's own module is imported, so that `reactvl --help` answers at once. A fault the user can mend ends in one line on
standard error and exit code 2; an interrupt in 130, after which the same command goes on.
"""

import importlib
import sys
from collections.abc import Callable

from reactvl import __version__
from reactvl.manifest import ReactvlError

VERBS: dict[str, tuple[str, str, str]] = {
    "run": ("reactvl.recipe", "run", "a whole recipe: embed, retrieve, customize, evaluate; again = resume"),
    "embed": ("reactvl.embed", "embed", "vectors of a pool's images and captions, with their catalogue"),
    "index": ("reactvl.index", "index", "a FAISS index over embeddings, its recall measured"),
    "retrieve": ("reactvl.retrieve", "retrieve", "the pairs of a pool that belong to your classes"),
    "customize": ("reactvl.customize", "customize", "train a CLIP model on retrieved pairs"),
    "evaluate": ("reactvl.evaluate", "evaluate", "scores of models on labelled tasks, beside label-free baselines"),
    "predict": ("reactvl.predict", "predict", "classes of your own images"),
    "serve": ("reactvl.serve", "serve", "a page and an API to search, look at and judge pairs"),
    "pack": ("reactvl.pack", "pack", "img2dataset's outputs, folders of pictures and CSVs into a pool of shards"),
    "catalog": ("reactvl.catalog", "catalog", "what is in a pool, without a model: places, captions, fields, hashes"),
    "import": (
        "reactvl.importing",
        "import_embeddings",
        "vectors that others made: index folders, FAISS files, TSVs, npy",
    ),
    "export": ("reactvl.export", "export", "pairs as files or shards; models for open_clip, REACT's code or ONNX"),
    "download": ("reactvl.download", "download", "REACT's published pairs, or a model's weights, from the hub"),
    "models": ("reactvl.models.listing", "models", "names and tags that a model can have"),
    "verify": ("reactvl.recipe", "verify", "check every file of a stage's folder against its manifest"),
    "demo": ("reactvl.demo", "demo", "the whole pipeline on the embedded data, in minutes"),
}


def main(args: list[str] | None = None) -> int:
    """Run one command; returns its exit code."""
    args = sys.argv[1:] if args is None else args
    if not args or args[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if args[0] in ("-V", "--version"):
        print(f"reactvl {__version__}")
        return 0
    verb = args[0]
    if verb not in VERBS:
        print(f"reactvl: no command {verb!r}; it has {', '.join(VERBS)}", file=sys.stderr)
        return 2
    return call(stage_of(verb), verb, args[1:])


def stage_of(verb: str) -> Callable:
    """The function behind a verb."""
    module, name, _ = VERBS[verb]
    return getattr(importlib.import_module(module), name)


def call(stage: Callable, verb: str, args: list[str]) -> int:
    from reactvl.options import command_line

    try:
        stage(**command_line(stage, verb, args))
    except ReactvlError as fault:
        print(f"reactvl {verb}: {fault}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"reactvl {verb}: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output has left
        sys.stderr.close()
        return 0
    return 0


def usage() -> str:
    width = max(map(len, VERBS))
    rows = "\n".join(f"  {verb:<{width}}  {summary}" for verb, (_, _, summary) in VERBS.items())
    return f"""reactvl {__version__}: class names and a pool of image-text pairs in, a CLIP model customized to them out.

  reactvl COMMAND ... ; reactvl COMMAND --help lists its options

{rows}

  reactvl run --pool 'pool/*.tar' --classes classes.txt --model ViT-B-32:openai --out run/"""
