"""What was found or made, for those who want it elsewhere.

    reactvl export run/retrieved --scatter --out photos                  # photos/0003_red_panda/000000.jpg and .txt
    reactvl export run/retrieved --tree --dataset caltech-101 --out react  # images/DATASET/CLASS/, metas/DATASET/CLASS.json
    reactvl export run/retrieved --shards --out shards                   # shuffled, balanced, in img2dataset's naming

    reactvl export run/customized --out model                            # an open_clip folder: local-dir:model
    reactvl export run/customized --interpolate 0.5 --out half           # half way between the base and the tuned model
    reactvl export run/customized --state-dict --precision fp16 --out released        # model.pt in the released code's names
    reactvl export run/customized --onnx --classes classes.txt --out classifier       # model.onnx: pixels to probabilities

Nothing of this tool needs it: `customize` reads the pairs where they lie, and every stage takes a customized folder as a model.
A run that was stopped goes on.
"""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from reactvl.manifest import ReactvlError, read_manifest
from reactvl.options import Opt


def export(
    source: Annotated[
        str | Path | object,
        Opt("retrieved pairs, or a model: a customized folder, a model folder, a name", positional=True),
    ],
    *,
    out: Annotated[Path, Opt("folder of the copies", table=False)],
    scatter: Annotated[bool, Opt("pairs: separate image and .txt files, a folder a class")] = False,
    tree: Annotated[bool, Opt("pairs: REACT's images/DATASET/CLASS/ and metas/DATASET/CLASS.json")] = False,
    shards: Annotated[bool, Opt("pairs: tars of shuffled pairs, every class in every tar")] = False,
    dataset: Annotated[str | None, Opt("pairs: DATASET of the tree; the retrieved folder's name if not given")] = None,
    per_shard: Annotated[int, Opt("pairs: number of a shard", also=("number-sample-per-shard",))] = 10_000,
    seed: Annotated[int, Opt("pairs: of the shards' order")] = 0,
    state_dict: Annotated[bool, Opt("model: one .pt file of tensors in the names of REACT's released code")] = False,
    onnx: Annotated[bool, Opt("model: the image tower with a classifier's head as one ONNX file, checked")] = False,
    classes: Annotated[
        str | Sequence[str] | None, Opt("model, --onnx: class names: a file, one a line, or a comma list")
    ] = None,
    templates: Annotated[
        str | Sequence[str] | None, Opt("model, --onnx: prompts: openai, simple, or a file (default: openai)")
    ] = None,
    interpolate: Annotated[
        float | None, Opt("model: this share of the way from its base to it: WiSE-FT, and for gates tanh(alpha)")
    ] = None,
    base: Annotated[
        str | object | None, Opt("model, --interpolate: its base (default: the model that customize started from)")
    ] = None,
    precision: Annotated[Literal["fp32", "fp16"], Opt("model: of the numbers on disk")] = "fp32",
    overwrite: Annotated[bool, Opt("replace another result in the output folder", table=False)] = False,
) -> Path:
    """Copy retrieved pairs out of the pool, or a model out of this tool; returns the folder.

    Of pairs, ask for one of scatter, tree and shards. No name of a file is taken from data unescaped, and two classes of one
    name stay two. Pictures that cannot be read any more are counted by reason, listed in `skipped.parquet` and left out.

    A model becomes a model folder: an ordinary open_clip one where its architecture is open_clip's own, else (gates, a
    convolutional stem, a packaged text tower) one that this package loads. `state_dict` and `onnx` ask for another form.

    Raises ReactvlError for bad options, options that do not fit the source, and a folder that is neither. For pairs also: a
    shard that is gone or has changed, and pairs of which there are only URLs. For models: what `load` raises, a base of
    another architecture, a model that the released code or ONNX cannot hold, and a file that computes something else.
    """
    given = dict(locals())
    kind = kind_of(source)
    refuse_others(given, kind)
    if kind == "pairs":
        from reactvl.export.run import run_stage

        chosen = [name for name in ("scatter", "tree", "shards") if given[name]]
        return run_stage(
            source, Path(out), chosen, dataset=dataset, per_shard=per_shard, seed=seed, overwrite=overwrite
        )

    from reactvl.export.model import Request, run_stage

    request = Request(source, state_dict, onnx, classes, templates, interpolate, base, precision)
    return run_stage(request, Path(out), overwrite=overwrite)


OPTIONS = {
    "pairs": ("scatter", "tree", "shards", "dataset", "per_shard", "seed"),
    "model": ("state_dict", "onnx", "classes", "templates", "interpolate", "base", "precision"),
}
CALLED = {"pairs": "retrieved pairs", "model": "a model"}
CONFIG = "open_clip_config.json"


def kind_of(source: Any) -> str:
    """ "pairs" or "model", by what the folder holds; text that is no folder is a model's name. ReactvlError for another folder."""
    from reactvl.handles.pairs import Pairs

    if isinstance(source, Pairs):
        return "pairs"
    if not isinstance(source, str | Path):
        return "model"
    folder = Path(source)
    if not folder.is_dir() or (folder / CONFIG).exists():
        return "model"
    stage = read_manifest(folder).stage  # or the error that it is no stage's output
    if stage not in ("retrieve", "customize"):
        raise ReactvlError(f"{folder}: holds the output of `{stage}`; export takes retrieved pairs or a model")
    return "pairs" if stage == "retrieve" else "model"


def refuse_others(given: dict[str, Any], kind: str) -> None:
    """ReactvlError for options of the other kind of source."""
    other = "model" if kind == "pairs" else "pairs"
    defaults = inspect.signature(export).parameters
    found = [name for name in OPTIONS[other] if given[name] != defaults[name].default]
    if found:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in found)
        raise ReactvlError(f"export: {flags} is for {CALLED[other]}, and {given['source']} is {CALLED[kind]}")
