"""The indexes that several questions share, each built in a process of its own and kept in the cache: ours, and peers'."""

import json
import shutil
import sys
from argparse import ArgumentParser
from pathlib import Path

import measuring
import numpy as np
import vectors
from environments.make import required

from reactvl.handles.index import FILE, Index
from reactvl.index import index
from reactvl.search.exact import top_k

PEERS = measuring.HOME / "baselines" / "nearest.py"
STAGES = measuring.HOME / "stages.py"


def options(parser: ArgumentParser) -> None:
    vectors.options(parser)
    parser.add_argument(
        "--memory", default="4GB", help="what either may take for an index (autofaiss's choice is by it)"
    )
    parser.add_argument("--quarter", default="570MB", help="what ours may take: a quarter of autofaiss's 2.3 GB")
    parser.add_argument("--recall", type=float, default=0.98, help="recall@k that ours is tuned to on text queries")
    parser.add_argument("--kind", default="auto", help="kind of our index, as `reactvl index --kind` takes it")


def home(given, data: vectors.Data) -> Path:
    folder = (
        given.cache / "indexes" / (data.embeddings.folder.name if data.mixture else data.embeddings.model.sha256[:8])
    )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def ours(given, data: vectors.Data, *, again: bool = False) -> tuple[Index, dict]:
    """Our index of the images' vectors within `--quarter`, tuned to `--recall`; with what building it took."""
    folder = home(given, data) / "reactvl"
    about = folder.with_suffix(".json")
    asked = {
        "embeddings": str(data.embeddings.folder),
        "out": str(folder),
        "keys": "image",
        "kind": given.kind,
        "memory": given.quarter,
        "recall": given.recall,
    }
    known = json.loads(about.read_text()) if about.exists() else {}
    if again or known.get("asked") != asked or not (folder / "manifest.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        done = measuring.child([sys.executable, STAGES], {"stage": "index", "arguments": asked})
        file = sum(path.stat().st_size for path in folder.iterdir() if path.suffix == ".faiss")
        known = {"asked": asked, **done.answer, "bytes": file, "peak": done.peak, "own": done.own}
        about.write_text(json.dumps(known, indent=1))
    return Index(folder, data.embeddings), known


def ours_at(given, data: vectors.Data, k: int) -> Index:
    """Our index's file, tuned at another `k`: `reactvl index --file index.faiss --k K`. It is tuned on captions of the pool,
    which are not what is asked here, so to a point above `--recall`; a peer is tuned on queries like those asked."""
    made, _ = ours(given, data)
    out = home(given, data) / f"reactvl-at-{k}"
    file = made.folder / FILE
    return index(
        data.embeddings, out=out, file=file, keys="image", k=k, recall=min(given.recall + 0.01, 1.0), overwrite=True
    )


def peer(engine: str, given, data: vectors.Data, *, again: bool = False, memory: str | None = None) -> dict:
    """A peer's index: its file under "index", its key, seconds, CPU seconds, bytes and peak memory."""
    name = f"{engine}-{memory or given.memory}" if engine == "autofaiss" else engine
    about = home(given, data) / f"{name}.json"
    asked = {
        "work": "build",
        "engine": engine,
        "embeddings": str((data.embeddings.folder / "img_emb").resolve()),
        "index": str(about.with_suffix(".index").resolve()),
    }
    if engine == "autofaiss":
        asked["memory"] = (memory or given.memory).removesuffix("B")
    known = json.loads(about.read_text()) if about.exists() else {}
    if again or known.get("asked") != asked or not Path(asked["index"]).exists():
        done = measuring.child([required("autofaiss", given.cache), PEERS], asked)
        known = {"asked": asked, **done.answer, "index": asked["index"], "peak": done.peak, "own": done.own}
        about.write_text(json.dumps(known, indent=1))
    return known


def searched(known: dict, given, queries: np.ndarray, k: int, **asked) -> list[dict]:
    """What a peer's index finds: for each width {"width", "rows" (Q, k) int64, "seconds", "ms"}."""
    folder = given.cache / "asked"
    folder.mkdir(exist_ok=True)
    np.save(folder / "queries.npy", queries)
    request = {
        "work": "search",
        "engine": known["asked"]["engine"],
        "index": known["index"],
        "queries": str((folder / "queries.npy").resolve()),
        "k": k,
        "out": str((folder / "found").resolve()),
        **asked,
    }
    done = measuring.child([required("autofaiss", given.cache), PEERS], request).answer["searches"]
    return [each | {"rows": np.load(each["rows"])} for each in done]


def truth(data: vectors.Data, queries: np.ndarray, k: int) -> np.ndarray:
    """int64 (Q, k): the true nearest images."""
    return top_k(queries, data.parts(), k).row.reshape(len(queries), k)


def rows_of(hits, k: int) -> np.ndarray:
    """int64 (Q, k): the rows that our index found, -1 where it found fewer."""
    rows = np.full((hits.queries, k), -1, np.int64)
    rows[hits.query, hits.rank] = hits.row
    return rows


def setting(known: dict) -> str:
    """How our index is, in words."""
    facts = known["facts"]
    return ", ".join(
        f"{name} {facts[name]}"
        for name in ("factory", "kind", "setting", "setting_value", "nprobe", "ef_search")
        if name in facts
    )
