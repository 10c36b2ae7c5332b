"""One prediction run: which pictures, what answers, and the file."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from reactvl import __version__
from reactvl.heads.features import Clock
from reactvl.manifest import ReactvlError, sha256_json
from reactvl.predict.answering import answering, answers
from reactvl.predict.parts import Answers, Parts
from reactvl.predict.pictures import pictures
from reactvl.predict.tables import STDOUT, Row, skipped_list, tell, writer
from reactvl.progress import progress, say


def classify(
    model: Any,
    images: str | Path | Sequence[str | Path],
    *,
    classes: str | Sequence[str] | None,
    out: Path,
    templates: str | Sequence[str] | None,
    threshold: float | None,
    batch_size: int,
    precision: str,
    device: str,
    workers: int | None,
    overwrite: bool,
) -> Path:
    """See `reactvl.predict.predict`."""
    if batch_size < 1 or (workers is not None and workers < 1):
        raise ReactvlError(f"batch_size {batch_size}, workers {workers}: must be 1 or more")
    if threshold is not None and not 0 <= threshold <= 1:
        raise ReactvlError(f"threshold {threshold}: a probability is from 0 to 1")
    to_file = str(out) != STDOUT
    table, skipped = writer(out, overwrite), skipped_list(out)
    ready = answering(model, classes, templates, device=device, precision=precision)
    given = pictures(images)
    by = ready()

    clock, unsure = Clock(), 0
    parts = Parts(out if to_file else None, sha256_json([__version__, by.sha256, given.sha256, batch_size]))
    with progress("predicting", len(given), "images") as bar, table, skipped:
        skipped.write(given.faults)
        for some, resumed in answers(by, given, parts, batch_size=batch_size, threads=workers, clock=clock):
            made = list(rows(given.names, some, by.classes, threshold))
            unsure += sum(row.name is None for row in made)
            table.write(made)
            skipped.write([(given.names[row], reason) for row, reason in some.bad])
            bar.advance(some.stop - some.start, f"waiting for data {clock.waiting:.0%}", resumed=resumed)
        if not table.count:
            path, reason = skipped.first
            raise ReactvlError(f"predict: none of {skipped.count:,} images could be read ({path}: {reason})")
    parts.drop()
    closing = say if to_file else tell  # standard output holds the lines, and nothing else
    below = "" if threshold is None else f", {unsure:,} below {threshold:g} and left without a class"
    closing(f"predict: {table.count:,} images, {len(by.classes):,} classes{below} -> {out if to_file else 'stdout'}")
    if skipped.count:
        closing(f"predict: {skipped.count:,} images skipped; listed {skipped.where}")
    return out


def rows(names: list[str], some: Answers, classes: list[str], threshold: float | None) -> Iterator[Row]:
    """What the file says of each picture; the class is None where its probability is below the threshold."""
    for row, best, odds in zip(some.rows.tolist(), some.classes.tolist(), some.probabilities.tolist(), strict=True):
        ranking = [(classes[index], chance) for index, chance in zip(best, odds, strict=True)]
        sure = threshold is None or odds[0] >= threshold
        yield Row(names[row], ranking[0][0] if sure else None, ranking)
