"""Continue contrastive training on retrieved pairs: gated-image (the gates alone), locked-text (the image tower), or full.

    reactvl customize run/retrieved --model ViT-B-32:openai --tune gated-image --out run/customized

The folder holds `model/` (config and safetensors), `metrics.jsonl` (a line a step) and `checkpoints/last.safetensors`. A run that was
stopped goes on from its last checkpoint and ends in the same bytes.
"""

from pathlib import Path
from typing import Annotated, Literal

from reactvl.manifest import ReactvlError, input_id, read_manifest, stage_folder
from reactvl.options import Opt
from reactvl.progress import say

Tune = Literal["gated-image", "locked-text", "full"]


def customize(
    model: Annotated[str | object, Opt("model to start from: NAME:TAG, a model folder, an earlier result")],
    pairs: Annotated[
        str | Path | object,
        Opt("retrieved pairs, or whole embeddings (a folder), or shards: 'pool/{00000..00009}.tar'", positional=True),
    ],
    *,
    out: Annotated[Path, Opt("folder of the customized model", table=False)],
    tune: Annotated[Tune, Opt("what is trained: new gates, the image tower, or everything")] = "gated-image",
    last_k: Annotated[int | None, Opt("gated blocks, from the top (default: REACT's, 6, and 12 for 48 layers)")] = None,
    freeze: Annotated[list[str], Opt("regular expressions of parameter names that stay frozen all the same")] = [],  # noqa: B006
    epochs: Annotated[float, Opt("passes over the pairs")] = 4.0,
    steps: Annotated[int | None, Opt("optimizer steps; overrides epochs")] = None,
    batch_size: Annotated[int, Opt("pairs a step")] = 256,
    lr: Annotated[float | None, Opt("peak learning rate (default: REACT's, 5e-4, and 5e-5 for locked-text)")] = None,
    alpha_lr: Annotated[float, Opt("peak learning rate of the gates' alphas")] = 1e-2,
    wd: Annotated[float, Opt("weight decay of matrices")] = 0.1,
    warmup: Annotated[int | None, Opt("steps of linear warm-up (default: a tenth of the steps)")] = None,
    grad_clip_norm: Annotated[float | None, Opt("largest norm of the gradient")] = None,
    aug_cfg: Annotated[
        list[str], Opt("augmentation, KEY=VALUE over REACT's recipe: scale=(0.5,1.0) hflip=0.5 re_prob=0")
    ] = [],  # noqa: B006
    views: Annotated[
        int, Opt("augmented views of a pair whose frozen features are kept; 0 makes new views every epoch")
    ] = 0,
    view_cache: Annotated[
        Path | None, Opt("folder of kept features (default: `views` beside --out)", table=False)
    ] = None,
    train_num_samples: Annotated[int | None, Opt("train on this many pairs, drawn at random")] = None,
    seed: Annotated[int, Opt("seed of order, augmentation and new weights")] = 0,
    precision: Annotated[
        Literal["auto", "bf16", "fp32"], Opt("arithmetic; auto is bf16 where the machine has it")
    ] = "auto",
    save_every: Annotated[int, Opt("steps between checkpoints")] = 100,
    device: Annotated[str, Opt("auto, cpu or cuda")] = "auto",
    workers: Annotated[int | None, Opt("processes that make views (default: one a core)")] = None,
    overwrite: Annotated[bool, Opt("replace another result in --out", table=False)] = False,
) -> object:
    """Train a model on image-text pairs, its text tower locked (or not), and write the customized model.

    `pairs` is a `Pairs` or an `Embeddings`, the folder of one, or a pattern of webdataset shards. Returns the customized
    `Model`. Text vectors of a locked text tower are read from the embeddings where the same model made them, else encoded
    once. Follows REACT (CVPR 2023): AdamW (0.9, 0.98), eps 1e-6, cosine schedule, `logit_scale` trained and held within
    [1, 100].
    Raises ReactvlError for bad options, before any work.
    """
    from reactvl.customize.run import Request, execute
    from reactvl.models import load
    from reactvl.train.augmentation import configure

    if views < 0 or batch_size < 2 or epochs <= 0 or (steps is not None and steps < 1) or save_every < 1:
        raise ReactvlError(
            f"views {views}, batch_size {batch_size}, epochs {epochs}, steps {steps}, save_every {save_every}: "
            "views are 0 or more, a batch has at least 2 pairs, the others are above 0"
        )
    augmentation = configure(aug_cfg)
    base = load(model)
    inputs, source = pairs_of(pairs, out)
    options = {
        "model": base.id.sha256,
        **source,
        "tune": tune,
        "last_k": last_k,
        "freeze": freeze,
        "epochs": epochs if steps is None else None,
        "steps": steps,
        "batch_size": batch_size,
        "lr": lr,
        "alpha_lr": alpha_lr,
        "wd": wd,
        "warmup": warmup,
        "grad_clip_norm": grad_clip_norm,
        "augmentation": repr(augmentation),
        "views": views,
        "train_num_samples": train_num_samples,
        "seed": seed,
        "precision": precision,
    }
    with stage_folder(out, "customize", options=options, inputs=inputs, model=base.id, overwrite=overwrite) as stage:
        if not stage.done:
            request = Request(
                base=base, pairs=pairs, tune=tune, last_k=last_k, freeze=freeze, epochs=epochs, steps=steps, batch_size=batch_size,
                lr=lr, alpha_lr=alpha_lr, wd=wd, warmup=warmup, grad_clip_norm=grad_clip_norm, augmentation=augmentation, views=views,
                view_cache=Path(view_cache or Path(out).parent / "views"), train_num_samples=train_num_samples, seed=seed,
                precision=precision, save_every=save_every, device=device, workers=workers,
            )  # fmt: skip
            execute(request, stage)
        else:
            say(f"customize: {out} is up to date")
    return load(str(out) if "/" in str(out) else f"./{out}")


def pairs_of(pairs: object, out: Path) -> tuple[dict, dict]:
    """Inputs and options that identify the pairs: the hash of a view's or embeddings' manifest, or the fingerprints of
    shards.

    Raises ReactvlError for a folder of another stage, and for pairs that lead to no pictures (a pool of URLs).
    """
    from reactvl.handles.embeddings import STAGES, Embeddings
    from reactvl.handles.foreign import is_published
    from reactvl.handles.pairs import FILE, Pairs

    folder = Path(str(getattr(pairs, "folder", pairs)))
    if (folder / "manifest.json").exists():
        stage = read_manifest(folder).stage
        if stage in STAGES:
            embeddings = pairs if isinstance(pairs, Embeddings) else Embeddings(folder)
            embeddings.require_pictures()
            return {"pairs": embeddings.identity(out)}, {}
        if stage != "retrieve":
            raise ReactvlError(f"{folder}: holds the output of `{stage}`; give retrieved pairs, embeddings or shards")
        view = pairs if isinstance(pairs, Pairs) else Pairs(folder)
        view.embeddings.require_pictures(folder / FILE)
        return {"pairs": input_id(folder, out)}, {}
    if is_published(folder):
        raise ReactvlError(
            f"{folder}: published embeddings have no pictures to train on; `reactvl import` them with --pool where you have "
            "their shards, or `reactvl retrieve` pairs and download those (img2dataset on pairs.parquet, columns URL and "
            "TEXT), then give the shards"
        )
    from reactvl.pool.patterns import expand
    from reactvl.pool.tars import fingerprint

    shards = {path.name: fingerprint(path).ends_sha256 for path in expand(str(pairs))}
    return {}, {"shards": shards}
