"""Which queries found the chosen pairs: `search_meta` of the released code's metas."""

from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from reactvl.handles.pairs import Pairs


def synonyms(pairs: Pairs) -> list[list[str]]:
    """The names of every class, the display name first."""
    names = [[name] for name in pairs.classes]
    path = pairs.folder / "queries.parquet"
    if "name" in pq.read_schema(path).names:
        for row in pq.read_table(path, columns=["class_id", "name"]).to_pylist():
            if row["name"] and row["name"] not in names[row["class_id"]]:
                names[row["class_id"]].append(row["name"])
    return names


def search_meta(pairs: Pairs, chosen: pa.Table) -> dict[int, list[dict[str, str | float | None]]]:
    """{row of `chosen`: [{"query": prompt, "dist": cosine}, ...]} of the queries of its class that found it, in the order of
    the queries; without such a hit the pair's own prompt and similarity, and nothing for one that was picked by hand and
    that no query found. `chosen` has class_id, part, row, prompt and
    similarity. Read a row group of hits.parquet at a time."""
    queries = pq.read_table(pairs.folder / "queries.parquet", columns=["query", "class_id", "prompt"]).to_pydict()
    class_of = dict(zip(queries["query"], queries["class_id"], strict=True))
    prompt_of = dict(zip(queries["query"], queries["prompt"], strict=True))
    class_at = np.zeros(max(class_of, default=0) + 1, np.int64)
    class_at[list(class_of)] = list(class_of.values())

    places = placed(chosen)
    known = np.unique(places)
    code = chosen["class_id"].to_numpy().astype(np.int64) * len(known) + np.searchsorted(known, places)
    order = np.argsort(code)
    found: defaultdict[int, list[tuple[int, float]]] = defaultdict(list)
    for hits in pieces(pairs.folder / "hits.parquet"):
        at = np.searchsorted(known, placed(hits)).clip(max=max(len(known) - 1, 0))
        here = known[at] == placed(hits) if len(known) else np.zeros(len(at), bool)
        query, score, at = hits["query"].to_numpy()[here], hits["score"].to_numpy()[here], at[here]
        wanted = class_at[query] * len(known) + at
        near = np.searchsorted(code[order], wanted).clip(max=max(len(code) - 1, 0))
        same = code[order[near]] == wanted if len(code) else np.zeros(len(wanted), bool)
        for row, number, dist in zip(
            order[near[same]].tolist(), query[same].tolist(), score[same].tolist(), strict=True
        ):
            found[row].append((number, dist))
    meta = {
        row: [{"query": prompt_of[number], "dist": dist} for number, dist in sorted(hits)]
        for row, hits in found.items()
    }
    for row in range(chosen.num_rows):
        if row not in meta:
            prompt, similarity = (chosen[column][row].as_py() for column in ("prompt", "similarity"))
            meta[row] = [] if prompt is None else [{"query": prompt, "dist": similarity}]
    return meta


def placed(table: pa.Table) -> np.ndarray:
    """(part, row) as one integer (n,) int64."""
    return (table["part"].to_numpy().astype(np.int64) << 40) | table["row"].to_numpy()


def pieces(path: Path):
    """Hits by cosine, a row group at a time; shares of captions (mode `match`) are no distances."""
    with pq.ParquetFile(path) as file:
        modes = (file.schema_arrow.metadata or {}).get(b"modes", b"").decode().split(",")
        for group in range(file.num_row_groups):
            hits = file.read_row_group(group, ["query", "part", "row", "mode", "score"])
            if "match" in modes:
                hits = hits.filter(pa.array(hits["mode"].to_numpy() != modes.index("match")))
            yield hits
