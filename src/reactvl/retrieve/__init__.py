"""The retrieve stage: the pairs of a pool that belong to classes of which only the names are known.

    reactvl retrieve run/embeddings --classes classes.txt --templates openai --per-class 200 --out run/retrieved
    reactvl retrieve run/embeddings --tasks caltech-101 --modes t2i t2t match --search auto --out run/retrieved

The output is a view: it names pairs by their place in the pool and copies no picture (but with `materialize`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from reactvl.handles.embeddings import Embeddings
from reactvl.handles.pairs import Pairs
from reactvl.options import Opt


def retrieve(
    embeddings: Annotated[
        str | Embeddings, Opt("folder made by `embed` or `import`, or published embeddings", positional=True)
    ],
    *,
    out: Annotated[Path, Opt("folder to write", table=False)],
    classes: Annotated[
        str | Sequence[str] | None,
        Opt("file with one class a line, synonyms separated by |; .toml or .json for more; or a comma list"),
    ] = None,
    tasks: Annotated[
        Sequence[str] | None,
        Opt("or benchmarks by name, such as caltech-101: their classes and templates", also=("dataset",)),
    ] = None,
    templates: Annotated[
        str | Sequence[str] | None,
        Opt("openai (80, the default for classes), simple (7), a file with one a line, or one template"),
    ] = None,
    modes: Annotated[
        list[Literal["t2i", "t2t", "i2i", "i2t", "match"]],
        Opt("text against pictures or captions, examples against either, captions that hold the name"),
    ] = ["t2i", "t2t"],  # noqa: B006
    fusion: Annotated[
        Literal["zscore", "union", "rrf", "match-rerank"],
        Opt("how modes become one ranking; match-rerank: captions that hold the name, by their pictures"),
    ] = "zscore",
    per_class: Annotated[int, Opt("pairs a class at most")] = 200,
    per_prompt: Annotated[
        int | None,
        Opt("nearest pairs taken of every query, REACT's --images_per_class (default: twice per_class)"),
    ] = None,
    top_up: Annotated[
        bool, Opt("search deeper for classes that are short, until they are full or the pool is exhausted")
    ] = False,
    min_similarity: Annotated[
        list[str] | float | None, Opt("cosine below which a found pair is not taken: 0.25, or by mode t2i=0.25 t2t=0.6")
    ] = None,
    min_score: Annotated[
        float | None,
        Opt("least score of a pair, in standard deviations over the pool; 4 to 6 trade number for precision"),
    ] = None,
    rivals: Annotated[
        Literal["all", "finders"] | None,
        Opt("a pair must fit its class best of all classes (default), or of its finders (default of match-rerank)"),
    ] = None,
    classes_per_pair: Annotated[
        Literal["one", "margin", "many"], Opt("one class a pair, one that is ahead by a margin, or all that found it")
    ] = "one",
    margin: Annotated[float, Opt("standard deviations that `margin` wants over the next best class")] = 0.5,
    balance: Annotated[float | None, Opt("most pairs of a class, in times those of the median class")] = None,
    dedup: Annotated[
        list[str], Opt("what counts as one picture: sha256, phash[=BITS], embedding[=COSINE], or none")
    ] = [  # noqa: B006
        "sha256"
    ],
    exclude: Annotated[
        list[Path] | Path | None, Opt("files of what to leave out, a line each: shard/key or sha256 of an image")
    ] = None,
    positives: Annotated[
        list[Path] | Path | None,
        Opt("files of pairs picked by hand, a line each: class TAB shard/key (or sha256); first in their class"),
    ] = None,
    exclude_images: Annotated[
        Sequence[str] | None, Opt("folders of evaluation images: they and their near copies are left out")
    ] = None,
    where: Annotated[str | None, Opt('condition on the metadata, in SQL: "width > 200 AND similarity > 0.3"')] = None,
    search: Annotated[
        str | Sequence[str], Opt("exact; auto: the cheaper of exact and an index beside; or indexes, one a side: A,B")
    ] = "exact",
    model: Annotated[str | object | None, Opt("model that encodes the prompts (default: the embeddings' own)")] = None,
    seed: Annotated[int, Opt("seed of the pool sample that scores are measured against, and of the shards")] = 0,
    device: Annotated[str, Opt("where prompts are encoded and exact search runs: auto, cpu, cuda")] = "auto",
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], Opt("arithmetic of the towers; auto: bf16 where in hardware")
    ] = "auto",
    materialize: Annotated[bool, Opt("also write the chosen pairs as shuffled, balanced shards (OUT/shards)")] = False,
    overwrite: Annotated[bool, Opt("replace another result in the output folder", table=False)] = False,
) -> Pairs:
    """Choose pairs for every class from an embedded pool.

    Every name of a class in every template is a query, compared with the pool's pictures (t2i), captions (t2t) or both;
    example pictures and words in captions can join in. A class gets what its queries found, ranked as `fusion` says (by
    default by the z-scores of its mean queries joined over the modes), each picture for the one class that it fits
    best (see `selection.py` for why), at most `per_class`. No label is used. The same embeddings and options give the
    same bytes (with `search="auto"`: while it chooses the same). With `overwrite`, what the queries of the earlier result
    found serves again where only the choosing has changed (exclude, positives, dedup, where, ...). Raises ReactvlError
    for an empty class list, an unknown mode, a line of a list that is no pair, embeddings without the vectors that a mode
    needs, a model or an index that does not belong to the embeddings, and options out of range.
    """
    from reactvl.retrieve.run import Request, run

    return run(
        Request(
            embeddings=embeddings,
            out=Path(out),
            classes=classes,
            tasks=tasks,
            templates=templates,
            modes=modes,
            fusion=fusion,
            per_class=per_class,
            per_prompt=per_prompt,
            top_up=top_up,
            min_similarity=min_similarity,
            min_score=min_score,
            rivals=rivals,
            classes_per_pair=classes_per_pair,
            margin=margin,
            balance=balance,
            dedup=dedup,
            exclude=exclude,
            positives=positives,
            exclude_images=exclude_images,
            where=where,
            search=search,
            model=model,
            seed=seed,
            device=device,
            precision=precision,
            materialize=materialize,
            overwrite=overwrite,
        )
    )
