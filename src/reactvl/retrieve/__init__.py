"""The retrieve stage: the pairs of a pool that belong to classes of which only the names are known.

    reactvl retrieve run/embeddings --classes classes.txt --templates openai --per-class 200 --out run/retrieved

The output is a view: it names pairs by their place in the pool and copies no picture.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from reactvl.handles.embeddings import Embeddings
from reactvl.handles.pairs import Pairs
from reactvl.options import Opt


def retrieve(
    embeddings: Annotated[str | Embeddings, Opt("folder made by `embed`", positional=True)],
    *,
    classes: Annotated[str | Sequence[str], Opt("file with one class name a line, or a comma list")],
    out: Annotated[Path, Opt("folder to write", table=False)],
    templates: Annotated[
        str | Sequence[str], Opt("openai (80), simple (7), a file with one a line, or one template")
    ] = "openai",
    modes: Annotated[
        list[Literal["image", "text"]], Opt("what queries are compared with: pictures, captions, or both")
    ] = [  # noqa: B006
        "image",
        "text",
    ],
    per_class: Annotated[int, Opt("pairs a class at most")] = 200,
    candidates: Annotated[int | None, Opt("nearest pairs taken of every query (default: twice per_class)")] = None,
    min_similarity: Annotated[float | None, Opt("cosine below which a found pair is not taken")] = None,
    min_score: Annotated[
        float | None,
        Opt("least score of a pair, in standard deviations over the pool; 4 to 6 trade number for precision"),
    ] = None,
    rivals: Annotated[
        Literal["all", "finders"], Opt("a pair must fit its class best of all classes, or of those that found it")
    ] = "all",
    search: Annotated[str, Opt("exact, or the folder of an index over the same embeddings")] = "exact",
    model: Annotated[str | object | None, Opt("model that encodes the prompts (default: the embeddings' own)")] = None,
    exclude: Annotated[
        Path | None, Opt("file of what to leave out, a line each: shard/key or sha256 of an image")
    ] = None,
    seed: Annotated[int, Opt("seed of the pool sample that scores are measured against")] = 0,
    device: Annotated[str, Opt("where prompts are encoded: auto, cpu, cuda")] = "auto",
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], Opt("arithmetic of the text tower; auto: bf16 where in hardware")
    ] = "auto",
    overwrite: Annotated[bool, Opt("replace another result in the output folder", table=False)] = False,
) -> Pairs:
    """Choose pairs for every class from an embedded pool.

    Every class name in every template is a query, compared with the pool's pictures (T2I), captions (T2T) or both; a
    class gets the union, ranked by the z-scores of its mean query joined over the modes, each picture for the one
    class that it fits best (see `selection.py` for why), at most `per_class`. No label is used. The same embeddings and
    options give the same bytes. Raises ReactvlError for an empty class list, an unknown mode, embeddings without the
    vectors that a mode needs, a model or an index that does not belong to the embeddings, and options out of range.
    """
    from reactvl.retrieve.run import Request, run

    return run(
        Request(
            embeddings=embeddings,
            classes=classes,
            templates=templates,
            out=Path(out),
            modes=modes,
            per_class=per_class,
            candidates=candidates,
            min_similarity=min_similarity,
            min_score=min_score,
            rivals=rivals,
            search=search,
            model=model,
            exclude=exclude,
            seed=seed,
            device=device,
            precision=precision,
            overwrite=overwrite,
        )
    )
