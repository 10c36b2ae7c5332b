"""Classes for the user's own unlabelled images, to a parquet, CSV or JSON-lines file.

    reactvl predict run/customized photos/ --classes classes.txt --out predictions.parquet
    reactvl predict run/customized 'shards/{000..099}.tar' --classes classes.txt --threshold 0.6 --out predictions.csv
    find photos -newer yesterday -print0 | reactvl predict classifier/model.onnx - --out - | jq .class

Columns: path, class, probability, top5 (in parquet and JSON a list of {class, probability}, in CSV text such as
`red panda:0.913; raccoon:0.052`). A picture in a shard has the path `SHARD.tar/KEY.jpg`. Images that cannot be read are
listed in `OUT.skipped.csv` (path, reason), or on standard error where the lines go to standard output.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from reactvl.options import Opt


def predict(
    model: Annotated[
        str | Any,
        Opt("model: NAME:TAG, a model folder, a customize stage's folder, an exported .onnx", positional=True),
    ],
    images: Annotated[
        list[str],
        Opt("folders, files, .tar shards, patterns such as 'photos/*.jpg'; - reads paths from stdin", positional=True),
    ],
    *,
    out: Annotated[Path, Opt("file to write: .parquet, .csv or .jsonl; - prints JSON lines", table=False)],
    classes: Annotated[
        str | Sequence[str] | None,
        Opt("class names: a file, one a line, or a comma list (an .onnx has its own)"),
    ] = None,
    templates: Annotated[
        str | Sequence[str] | None, Opt("prompts: openai (the default), simple, or a file, one a line with {}")
    ] = None,
    threshold: Annotated[float | None, Opt("probability below which an image gets no class")] = None,
    batch_size: Annotated[int, Opt("images of a batch")] = 64,
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], Opt("arithmetic; auto is bf16 where the machine has it")
    ] = "auto",
    device: Annotated[str, Opt("auto, cpu, cuda or cuda:N")] = "auto",
    workers: Annotated[int | None, Opt("threads that decode images (default: one a core and one more)")] = None,
    overwrite: Annotated[bool, Opt("replace the file if it exists", table=False)] = False,
) -> Path:
    """Classify images without labels; returns the path of the file.

    The file appears when it is whole. A run that was stopped goes on behind the last whole part of 2,048 images, kept in
    `.OUT.work` until then, given the same model, classes, images (names, sizes, times) and batch size. Shards are read by
    offset. Memory does not grow with the number of images, but for their paths. Raises ReactvlError for bad options, and
    when no image is found or none can be read.
    """
    from reactvl.predict.run import classify

    return classify(
        model,
        images,
        classes=classes,
        out=Path(out),
        templates=templates,
        threshold=threshold,
        batch_size=batch_size,
        precision=precision,
        device=device,
        workers=workers,
        overwrite=overwrite,
    )
