"""The index stage: a FAISS index over an embeddings folder, tuned to a wanted recall on text queries.

reactvl index run/embeddings --kind hnsw --recall 0.98 --out run/index
"""

from pathlib import Path
from typing import Annotated, Literal

from reactvl.handles.embeddings import Embeddings
from reactvl.handles.index import Index
from reactvl.options import Opt


def index(
    embeddings: Annotated[str | Embeddings, Opt("folder made by `embed`", positional=True)],
    *,
    out: Annotated[Path, Opt("folder to write", table=False)],
    kind: Annotated[
        Literal["flat", "ivf", "hnsw"], Opt("flat is exact; ivf is built fastest; hnsw answers fastest")
    ] = "hnsw",
    keys: Annotated[Literal["image", "text"], Opt("which vectors to index")] = "image",
    recall: Annotated[float, Opt("share of the true nearest that a search must find (0 to 1)")] = 0.98,
    k: Annotated[int, Opt("recall is measured over this many nearest")] = 100,
    queries: Annotated[int, Opt("text queries to tune on, and as many others to measure with")] = 500,
    seed: Annotated[int, Opt("seed of training sample, queries and graph")] = 0,
    threads: Annotated[int, Opt("threads that build it; with more than 1, hnsw differs from run to run")] = 1,
    overwrite: Annotated[bool, Opt("replace another result in the output folder", table=False)] = False,
) -> Index:
    """Make a search index of an embeddings folder and tune it to a recall.

    Queries are captions' text vectors, half of them to choose the search's width (nprobe, efSearch), the other half to
    measure the recall that the manifest states; latency goes to timing.json. Embeddings without text vectors are
    queried with image vectors, and the manifest says so. The same embeddings and options give the same bytes (hnsw:
    with one thread). Raises ReactvlError for embeddings without the wanted half and options out of range.
    """
    from reactvl.index.build import run

    return run(embeddings, out, kind, keys, recall, k, queries, seed, threads, overwrite)
