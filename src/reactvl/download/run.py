"""One download: a data set's parquet, checked, with the command that fetches its pictures; or a model's weights."""

import dataclasses
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from reactvl.manifest import ReactvlError, replacing
from reactvl.models import hub
from reactvl.pool.fetching import fetch_command
from reactvl.progress import say


@dataclasses.dataclass(frozen=True)
class Published:
    """A data set on the hub: one parquet file of URLs and captions."""

    repository: str
    file: str
    columns: tuple[str, str]  # of the URL and of the caption


DATASETS = {
    "imagenet-10m": Published("react-vl/react-retrieval-datasets", "imagenet_10m.parquet", ("URL", "TEXT")),
}


def fetch_dataset(name: str, out: Path | None) -> Path:
    """Fetch, check, put where it is wanted, and say what to run next."""
    chosen = DATASETS.get(name.lower().replace("_", "-"))
    if chosen is None:
        raise ReactvlError(f"{name}: no such data set ({', '.join(DATASETS)}), and no model either: those are NAME:TAG")
    if out is not None and out.exists() and not out.is_dir():
        raise ReactvlError(f"{out}: is a file; --out takes a folder")
    path = hub.fetch(chosen.repository, chosen.file, dataset=True)
    rows = checked(path, chosen.columns)
    if out is not None:
        target = out / chosen.file
        if not target.exists() or target.stat().st_size != path.stat().st_size:
            with replacing(target) as part:
                shutil.copyfile(path, part)
        path = target
    say(f"download: {rows:,} rows of {' and '.join(chosen.columns)} -> {path}")
    say("download: fetch their pictures next (pip install img2dataset, in an environment of its own):")
    say(fetch_command(path, rows, chosen.columns, (out or Path()) / "pool"))
    return path


def checked(path: Path, columns: tuple[str, ...]) -> int:
    """The number of rows of a parquet file of texts; ReactvlError when it is another or none."""
    try:
        with pq.ParquetFile(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
    except (pa.ArrowException, OSError) as fault:
        raise ReactvlError(f"{path}: not a parquet file ({fault}); delete it and run the same again") from None
    kinds = {field.name: field.type for field in schema}
    missing = [name for name in columns if name not in kinds]
    if missing:
        raise ReactvlError(f"{path}: has no column {' and '.join(missing)} (it has {', '.join(kinds) or 'none'})")
    for name in columns:
        if not (pa.types.is_string(kinds[name]) or pa.types.is_large_string(kinds[name])):
            raise ReactvlError(f"{path}: column {name} holds {kinds[name]}, not text")
    if not rows:
        raise ReactvlError(f"{path}: has no rows")
    return rows


def fetch_model(name: str, out: Path | None) -> Path:
    """Bring a model's weights into the cache, where `load(NAME)` finds them."""
    from reactvl.models.loading import fetch_weights

    if out is not None:
        raise ReactvlError(f"{name}: weights go into the hub's cache, where the name finds them; leave --out away")
    path = fetch_weights(name)
    say(f"download: {name} ({path.stat().st_size / 1e6:,.0f} MB) -> {path}")
    return path
