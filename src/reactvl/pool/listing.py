"""What was left out, as a table and in words; every stage that reads samples writes the same."""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from reactvl.pool.embeddings_format import SKIPPED, SKIPPED_SCHEMA, write_table


def write_skipped(folder: Path, left_out: Iterable[tuple[str, str, str, str]]) -> None:
    """Write `skipped.parquet` of (shard, key, reason, detail) rows."""
    import pyarrow as pa

    rows = [dict(zip(SKIPPED_SCHEMA.names, row, strict=True)) for row in left_out]
    write_table(folder / SKIPPED, pa.Table.from_pylist(rows, schema=SKIPPED_SCHEMA))


def by_reason(skipped: Counter[str]) -> dict[str, int]:
    """A manifest's counts of what was left out, in all and by reason."""
    return {
        "skipped": skipped.total(),
        **{f"skipped: {reason}": count for reason, count in sorted(skipped.items())},
    }


def reasons(counts: dict[str, int]) -> str:
    """Counts by reason in words, the most frequent first: `3 no caption, 1 truncated`."""
    found = {name.removeprefix("skipped: "): count for name, count in counts.items() if name.startswith("skipped: ")}
    return ", ".join(f"{count:,} {reason}" for reason, count in sorted(found.items(), key=lambda item: -item[1]))
