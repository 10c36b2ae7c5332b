"""One prediction run: which images, their classes, and the file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from reactvl.heads.features import Clock, encode_images
from reactvl.heads.zero_shot import rank, zero_shot_head
from reactvl.manifest import ReactvlError
from reactvl.models import load
from reactvl.models.encoder import Encoder, choose_device, choose_precision
from reactvl.pool.images import BadImage
from reactvl.predict.files import image_files
from reactvl.predict.tables import Row, SkippedList, writer
from reactvl.progress import progress, say
from reactvl.tasks.classes import read_classes
from reactvl.tasks.templates import read_templates

TOP = 5


def classify(
    model: Any,
    images: str | Path | list[str],
    *,
    classes: str | list[str],
    out: Path,
    templates: str | list[str],
    batch_size: int,
    precision: str,
    device: str,
    workers: int | None,
    overwrite: bool,
) -> Path:
    """See `reactvl.predict.predict`."""
    if batch_size < 1 or (workers is not None and workers < 1):
        raise ReactvlError(f"batch_size {batch_size}, workers {workers}: must be 1 or more")
    table = writer(out, overwrite)
    precision = choose_precision(precision, choose_device(device))
    names = read_classes(classes)
    prompts = read_templates(templates)
    paths = image_files(images)
    encoder = Encoder(load(model), device=device, precision=precision)
    head = zero_shot_head(encoder, names, prompts)

    clock, read, skipped = Clock(), reading(paths), SkippedList(out.with_name(out.name + ".skipped.csv"))
    with progress("predicting", len(paths), "images") as bar, table, skipped:
        for batch in encode_images(
            encoder, read, range(len(paths)), batch_size=batch_size, threads=workers, clock=clock
        ):
            ranking = rank(batch.vectors, head, TOP)
            table.write(rows(paths, batch.rows, ranking, names))
            skipped.write([(paths[row], reason) for row, reason in batch.bad])
            bar.advance(len(batch.rows) + len(batch.bad), f"waiting for data {clock.waiting:.0%}")
        if not table.count:
            path, reason = skipped.first
            raise ReactvlError(f"predict: none of {len(paths):,} images could be read ({path}: {reason})")
    say(f"predict: {table.count:,} images, {len(names):,} classes -> {out}")
    if skipped.count:
        say(f"predict: {skipped.count:,} images skipped; listed in {skipped.path}")
    return out


def reading(paths: list[Path]):
    """`read(row)` for `encode_images`: a file that cannot be opened is one bad image, not the end of the run."""

    def read(row: int) -> bytes:
        try:
            return paths[row].read_bytes()
        except OSError as fault:
            raise BadImage("unreadable file", str(fault.strerror)) from None

    return read


def rows(paths: list[Path], at: list[int], ranking: Any, names: list[str]) -> Iterator[Row]:
    for row, classes, odds in zip(at, ranking.classes.tolist(), ranking.probabilities.tolist(), strict=True):
        yield Row(str(paths[row]), [(names[index], chance) for index, chance in zip(classes, odds, strict=True)])
