"""Zero-shot scores of several models on labelled tasks, side by side, with intervals and a report.

    reactvl evaluate ViT-B-32:openai run/gated-image --data data/ --tasks dtd,food-101 --out run/evaluation

The folder holds `results.json`, `predictions/TASK.parquet`, `skipped.parquet`, `report.html`, and in `features/` the
image features, which a later evaluation in the same folder takes from there instead of encoding again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from reactvl.handles.scores import Scores
from reactvl.options import Opt


def evaluate(
    models: Annotated[list[str | Any], Opt("models to compare, the base first: NAME:TAG or a folder", positional=True)],
    *,
    data: Annotated[
        Path, Opt("folder of the tasks' folders (webdataset as CLIP-benchmark has it, or images by class)")
    ],
    out: Annotated[Path, Opt("folder of the evaluation", table=False)],
    tasks: Annotated[list[str] | None, Opt("names of tasks (default: all in the data folder)")] = None,
    split: Annotated[str, Opt("which images: test, val or train")] = "test",
    templates: Annotated[
        str | Sequence[str] | None,
        Opt("prompts: openai, simple, or a file, one a line with {} (default: the task's own)"),
    ] = None,
    batch_size: Annotated[int, Opt("images of a batch")] = 64,
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], Opt("arithmetic; auto is bf16 where the machine has it")
    ] = "auto",
    device: Annotated[str, Opt("auto, cpu, cuda or cuda:N")] = "auto",
    workers: Annotated[int | None, Opt("threads that decode images (default: one a core and one more)")] = None,
    overwrite: Annotated[bool, Opt("replace another result in the output folder", table=False)] = False,
) -> Scores:
    """Compare models on tasks by zero-shot classification with template ensembles.

    `models` are names, folders or `Model`s; gains are over the first, with 95% paired bootstrap intervals clustered by
    class. All models are scored on the same images: those that every one of them could read; the others are counted
    and listed. A run that was stopped goes on with the features that are missing. Raises ReactvlError for bad options,
    a model or task that does not exist, before any image is encoded.
    """
    from reactvl.evaluate.run import run_stage

    return run_stage(
        models,
        data=Path(data),
        out=Path(out),
        tasks=tasks,
        split=split,
        templates=templates,
        batch_size=batch_size,
        precision=precision,
        device=device,
        workers=workers,
        overwrite=overwrite,
    )
