"""What was left out, as a table and in words; every stage that reads samples writes the same."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

from reactvl.pool.embeddings_format import SKIPPED, SKIPPED_SCHEMA, write_table
from reactvl.pool.records import SUCCESS

SHOWN = 5  # reasons in a line
MAX_OUTCOMES = 50  # of downloads, that a manifest counts one by one; a message may name its host


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


def downloads(shards: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """A manifest's counts of downloads by how they ended, over all shards, the most frequent first; empty where none
    failed or nothing is known of any."""
    ended = sum((Counter(one) for one in shards), Counter())
    if not ended.keys() - {SUCCESS}:
        return {}
    often = sorted(ended.items(), key=lambda item: (-item[1], item[0]))
    rest = sum(count for _, count in often[MAX_OUTCOMES:])
    return dict(often[:MAX_OUTCOMES]) | ({"other": rest} if rest else {})


def rate(ended: Mapping[str, int]) -> str:
    """Counts of downloads in words: `of 80 pictures asked for, 52 were fetched (65.0%); lost: 6 timed out, ...`."""
    total, fetched = sum(ended.values()), ended.get(SUCCESS, 0)
    lost = [f"{count:,} {why}" for why, count in ended.items() if why != SUCCESS]
    more = ", ..." if len(lost) > SHOWN else ""
    return (
        f"of {total:,} pictures asked for, {fetched:,} were fetched ({fetched / total:.1%}); lost: "
        f"{', '.join(lost[:SHOWN])}{more}"
    )
