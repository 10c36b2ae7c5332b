"""Classes for the user's own unlabelled images, to a parquet or CSV file.

    reactvl predict run/customized photos/ --classes classes.txt --out predictions.parquet

Columns: path, class, probability, top5 (in parquet a list of {class, probability}, in CSV text such as
`red panda:0.913; raccoon:0.052`). Images that cannot be read are listed in `OUT.skipped.csv` (path, reason).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from reactvl.options import Opt


def predict(
    model: Annotated[str | Any, Opt("model: NAME:TAG, a model folder, a customize stage's folder", positional=True)],
    images: Annotated[
        str | list[str],
        Opt("a folder (searched through), image files, or a pattern such as 'photos/*.jpg'", positional=True),
    ],
    *,
    classes: Annotated[str | Sequence[str], Opt("class names: a file, one a line, or a comma list")],
    out: Annotated[Path, Opt("file to write: .parquet or .csv", table=False)],
    templates: Annotated[str | Sequence[str], Opt("prompts: openai, simple, or a file, one a line with {}")] = "openai",
    batch_size: Annotated[int, Opt("images of a batch")] = 64,
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], Opt("arithmetic; auto is bf16 where the machine has it")
    ] = "auto",
    device: Annotated[str, Opt("auto, cpu, cuda or cuda:N")] = "auto",
    workers: Annotated[int | None, Opt("threads that decode images (default: one a core and one more)")] = None,
    overwrite: Annotated[bool, Opt("replace the file if it exists", table=False)] = False,
) -> Path:
    """Classify images without labels; returns the path of the file.

    The file appears when it is whole; a run that was stopped starts again from the first image. Memory does not grow
    with the number of images, but for their paths. Raises ReactvlError for bad options, and when no image is found or
    none can be read.
    """
    from reactvl.predict.run import classify

    return classify(
        model,
        images,
        classes=classes,
        out=Path(out),
        templates=templates,
        batch_size=batch_size,
        precision=precision,
        device=device,
        workers=workers,
        overwrite=overwrite,
    )
