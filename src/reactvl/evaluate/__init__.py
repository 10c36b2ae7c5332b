"""Scores of several models on labelled tasks, side by side, with intervals, label-free baselines and a report.

    reactvl evaluate ViT-B-32:openai run/gated-image --data data/ --tasks dtd,food-101 --out run/evaluation
    reactvl evaluate ViT-B-32:openai --data elevater/ --tasks elevater --probe linear --save-predictions --out run/probes
    reactvl evaluate --submission run/probes/elevater/ViT-B-32:openai

The folder holds `results.json`, `predictions/TASK.parquet`, `skipped.parquet`, `report.html`, ELEVATER's prediction
files where they are asked for, and in `features/` the image features, which a later evaluation takes from there instead
of encoding again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from reactvl.handles.scores import Scores
from reactvl.options import Opt


def evaluate(
    models: Annotated[
        list[str | Any],
        Opt(
            "models to compare, the base first: NAME:TAG or a folder; behind --ds also KEY VALUE pairs", positional=True
        ),
    ] = (),
    *,
    data: Annotated[
        Path | None,
        Opt("folder of the tasks: ELEVATER's root, CLIP-benchmark's webdatasets, images by class, shards, IDX files"),
    ] = None,
    out: Annotated[Path | None, Opt("folder of the evaluation", table=False)] = None,
    tasks: Annotated[
        list[str] | None, Opt("names of tasks, or elevater for its 20 (default: all in the data folder)")
    ] = None,
    split: Annotated[str, Opt("which images: test, val or train")] = "test",
    classes: Annotated[
        str | Sequence[str] | None, Opt("class names instead of the task's own: a file, as retrieve takes it")
    ] = None,
    templates: Annotated[
        str | Sequence[str] | None,
        Opt("prompts: openai, simple, or a file, one a line with {} (default: the task's own)"),
    ] = None,
    imagenet_val: Annotated[
        Path | None, Opt("ImageNet's validation images, by class folder or flat with a label file: adds imagenet-1k")
    ] = None,
    head: Annotated[
        Literal["elevater", "open_clip"], Opt("whose rule makes the zero-shot head: ELEVATER's or open_clip's")
    ] = "elevater",
    probe: Annotated[
        list[Literal["linear", "finetune"]], Opt("also train on the tasks' train split: linear, finetune")
    ] = (),
    shots: Annotated[list[str], Opt("training images a class of the probes; all: every one")] = (
        "5",
        "20",
        "50",
        "all",
    ),
    seeds: Annotated[list[int], Opt("draws of the training images of the probes")] = (0, 1, 2),
    baselines: Annotated[
        bool, Opt("the label-free baselines: synonyms, and of retrieved pairs their means and a linear head")
    ] = True,
    pairs: Annotated[
        Path | None, Opt("retrieved pairs of the baselines (default: those that a customized model was made from)")
    ] = None,
    interpolate: Annotated[
        list[float], Opt("also models at these shares of the way from the base to each customized one, as 0.25,0.5")
    ] = (),
    features: Annotated[
        Path | None, Opt("folder that keeps image features, may be shared (default: OUT/features)", table=False)
    ] = None,
    save_predictions: Annotated[bool, Opt("write ELEVATER's prediction files")] = False,
    submission: Annotated[
        Path | None, Opt("merge the prediction files under this folder into all_predictions.zip", table=False)
    ] = None,
    ds: Annotated[Path | None, Opt("ELEVATER's dataset yaml, read as data, tasks and metric", table=False)] = None,
    model_yaml: Annotated[
        Path | None, Opt("ELEVATER's model yaml, read as a model", table=False, also=("model",))
    ] = None,
    batch_size: Annotated[int, Opt("images of a batch")] = 64,
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], Opt("arithmetic; auto is bf16 where the machine has it")
    ] = "auto",
    device: Annotated[str, Opt("auto, cpu, cuda or cuda:N; cuda:all, or a comma list: a process a device")] = "auto",
    executor: Annotated[
        str, Opt("local: in this process; processes[:N]: N processes encode images, each with a copy of the model")
    ] = "local",
    workers: Annotated[
        int | None, Opt("threads of a process that decode images (default: its share of the cores)")
    ] = None,
    overwrite: Annotated[bool, Opt("replace another result in the output folder", table=False)] = False,
) -> Scores | Path:
    """Compare models on tasks: zero-shot classification, retrieval of captions, probes, and label-free baselines.

    `models` are names, folders or `Model`s; gains are over the first, with 95% paired bootstrap intervals clustered by
    class (by image in tasks of fewer than eight classes). All models are scored on the same images: those that every one
    of them could read; the others are counted and listed. A run that was stopped goes on with the features that are
    missing. With `submission` the path of the zip is returned, and `models` may be left out. Raises ReactvlError for bad
    options, a model or task that does not exist, before any image is encoded.
    """
    asked = dict(locals())  # of these names there are only the options yet

    from reactvl.evaluate.run import run_stage

    return run_stage(**asked)
