"""The index stage: a FAISS index over an embeddings folder, chosen for a memory budget, tuned to a recall on text queries.

reactvl index run/embeddings --memory 2GB --recall 0.98 --out run/index
reactvl index run/embeddings --tasks food-101 --kind IVF4096,SQ8 --out run/index     # tuned on that task's prompts
reactvl index run/more --add run/index --out run/index-2                             # the embeddings grew
reactvl index run/embeddings --chunk 1/2 --out run/i1; reactvl index run/embeddings --chunk 2/2 --out run/i2
reactvl index run/embeddings --merge run/i1 run/i2 --out run/index                   # the same index as in one go
"""

from collections.abc import Sequence
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
        str, Opt("auto, flat (exact), ivf-flat, ivf-sq8, hnsw, or any faiss factory string such as IVF4096,SQ8")
    ] = "auto",
    keys: Annotated[Literal["image", "text"], Opt("which vectors to index")] = "image",
    memory: Annotated[str | None, Opt("most bytes of the index, such as 2GB or 500MB (default: no limit)")] = None,
    recall: Annotated[float, Opt("share of the true nearest that a search must find (0 to 1)")] = 0.98,
    k: Annotated[int, Opt("recall is tuned over this many nearest; it is also measured at 1 and 10")] = 200,
    classes: Annotated[
        str | Sequence[str] | None, Opt("tune on prompts of these classes: a file of one name a line, or a comma list")
    ] = None,
    tasks: Annotated[list[str] | None, Opt("tune on prompts of these benchmarks, such as food-101")] = None,
    templates: Annotated[
        str | Sequence[str] | None, Opt("of the prompts (default: the task's own; openai for --classes)")
    ] = None,
    queries: Annotated[int, Opt("text queries to tune on, and as many others to measure with")] = 500,
    nprobe: Annotated[int | None, Opt("lists searched, instead of tuning it")] = None,
    ef_search: Annotated[int | None, Opt("HNSW's width of search, instead of tuning it")] = None,
    refine: Annotated[float | None, Opt("candidates re-ranked for each row wanted, instead of tuning it")] = None,
    add: Annotated[Path | None, Opt("an index of fewer of these rows, to add the new ones to", table=False)] = None,
    chunk: Annotated[str, Opt("I/N: index only this share of the rows, to be merged", table=False)] = "1/1",
    merge: Annotated[list[Path] | None, Opt("the indexes of all chunks, to join", table=False)] = None,
    file: Annotated[
        Path | None, Opt("a FAISS file of these embeddings from elsewhere, to tune and measure", table=False)
    ] = None,
    model: Annotated[str | object | None, Opt("model that encodes the prompts (default: the embeddings' own)")] = None,
    device: Annotated[str, Opt("where lists are trained and prompts encoded: auto, cpu, cuda")] = "auto",
    seed: Annotated[int, Opt("seed of training sample, queries and graph")] = 0,
    threads: Annotated[
        int, Opt("threads that build it; 0: all cores, but one for graphs, which differ from run to run with more")
    ] = 0,
    overwrite: Annotated[bool, Opt("replace another result in the output folder", table=False)] = False,
) -> Index:
    """Make a search index of an embeddings folder and tune it to a recall on text queries.

    Queries are prompts of the classes or tasks named, else captions' vectors; half of them choose the search's width
    (nprobe, efSearch) and refine factor, the other half, of other classes, measure the recalls that the manifest states.
    Embeddings without text vectors are queried with image vectors, and the manifest says so. The same embeddings and
    options give the same bytes (graphs: with one thread). Raises ReactvlError for embeddings without the wanted half, options
    out of range, a factory string that FAISS refuses, a memory budget that cannot be met (with what can), and a model other
    than the embeddings'.
    """
    from reactvl.index.request import Request
    from reactvl.index.run import run

    return run(
        Request(
            embeddings=embeddings,
            out=Path(out),
            kind=kind,
            keys=keys,
            memory=memory,
            recall=recall,
            k=k,
            classes=classes,
            tasks=tasks,
            templates=templates,
            queries=queries,
            nprobe=nprobe,
            ef_search=ef_search,
            refine=refine,
            add=add,
            chunk=chunk,
            merge=merge,
            file=file,
            model=model,
            device=device,
            seed=seed,
            threads=threads,
            overwrite=overwrite,
        )
    )
