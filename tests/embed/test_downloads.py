"""What became of a pool's links is said when the pool is read."""

import io
import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from tests_support import drawing

from reactvl.catalog import catalog
from reactvl.embed import embed


def test_embed_and_catalog_say_what_became_of_the_links(tmp_path, small_model, capsys):
    """Of shards as img2dataset lays them: the counts of its side files in the manifest, and the rate in a line."""
    lost = ["HTTP Error 404: Not Found"] * 3 + ["timed out", "IncompleteRead(9 bytes read, 1 more expected)"]
    for shard in range(2):
        write_downloads(tmp_path / "pool", shard, fetched=6 * (1 - shard), lost=lost)
    line = "of 16 pictures asked for, 6 were fetched (37.5%); lost: 6 HTTP Error 404: Not Found, 2 IncompleteRead, 2 timed out"
    ended = {"success": 6, "HTTP Error 404: Not Found": 6, "IncompleteRead": 2, "timed out": 2}
    found = embed(str(tmp_path / "pool"), small_model, out=tmp_path / "embeddings", device="cpu")
    assert len(found) == 6 and found.manifest.facts["downloads"] == ended
    assert f"embed: {line}\n" in capsys.readouterr().out
    known = catalog(str(tmp_path / "pool"), out=tmp_path / "catalog")
    assert known.manifest.facts["downloads"] == ended
    assert f"catalog: {line}\n" in capsys.readouterr().out


def write_downloads(pool: Path, shard: int, fetched: int, lost: list[str]) -> None:
    """A shard and its side file: rows of failed downloads stand in the latter alone, among the others."""
    pool.mkdir(exist_ok=True)
    rows = []
    with tarfile.open(pool / f"{shard:05}.tar", "w") as tar:
        for place in range(fetched + len(lost)):
            why = lost[place] if place < len(lost) else None
            key = f"{shard:05}{place:04}"
            status = "failed_to_download" if why else "success"
            rows.append({"key": key, "url": f"https://x.example/{key}", "status": status, "error_message": why})
            bodies = {} if why else {"jpg": drawing(place), "txt": b"a thing", "json": json.dumps(rows[-1]).encode()}
            for ext, body in bodies.items():
                member = tarfile.TarInfo(f"{key}.{ext}")
                member.size = len(body)
                tar.addfile(member, io.BytesIO(body))
    pq.write_table(pa.Table.from_pylist(rows), pool / f"{shard:05}.parquet")
