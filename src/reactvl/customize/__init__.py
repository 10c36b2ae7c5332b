"""Continue contrastive training on retrieved pairs: gated-image (the gates alone), locked-text (the image tower), or full.

    reactvl customize run/retrieved --model ViT-B-32:openai --tune gated-image --out run/customized
    torchrun --nproc_per_node 8 -m reactvl customize run/retrieved --model ViT-B-32:openai --name gated --val-share 0.02

The folder holds `model/` (config and safetensors), `metrics.jsonl` (a line a step), `validation.jsonl` and `checkpoints/`. A run
that was stopped goes on from its last checkpoint and ends in the same bytes (on one CPU process). `--batch-size` and
`--workers` are of each process, as open_clip has them. Without pairs, `--imagenet-val` or `--val-data` evaluates and ends.
"""

from pathlib import Path
from typing import Annotated, Literal

from reactvl.customize.flags import translated
from reactvl.manifest import ReactvlError
from reactvl.options import Opt, spelled_by

Tune = Literal["gated-image", "locked-text", "locked-image", "full"]
Precision = Literal["auto", "fp32", "bf16", "fp16", "amp", "amp_bf16", "amp_bfloat16"]


@spelled_by(translated)
def customize(
    model: Annotated[str | object, Opt("model to start from: NAME:TAG, a model folder, an earlier result")],
    pairs: Annotated[
        str | Path | object | None,
        Opt("retrieved pairs, or whole embeddings (a folder), or shards: 'pool/{00000..00009}.tar'", positional=True),
    ] = None,
    *,
    out: Annotated[Path | None, Opt("folder of the customized model (default: LOGS/NAME)", table=False)] = None,
    name: Annotated[str | None, Opt("name of the run, whose folder is LOGS/NAME", table=False)] = None,
    logs: Annotated[Path, Opt("folder of runs that have a name and no --out", table=False)] = Path("logs"),
    tune: Annotated[Tune, Opt("what is trained: new gates, the image tower, or everything")] = "gated-image",
    last_k: Annotated[int | None, Opt("gated blocks, from the top (default: REACT's, 6, and 12 for 48 layers)")] = None,
    freeze: Annotated[list[str], Opt("regular expressions of parameter names that stay frozen all the same")] = [],  # noqa: B006
    rules: Annotated[list[str], Opt("rates of single parameters, EXPRESSION=LR or EXPRESSION=LR:DECAY")] = [],  # noqa: B006
    unlock_last: Annotated[int, Opt("blocks of the locked tower, from the top, that are trained besides")] = 0,
    resume: Annotated[
        str | None, Opt("file of weights to start from; a run's own checkpoint goes first, `latest` means just that")
    ] = None,
    force_quick_gelu: Annotated[
        bool | None, Opt("the activation of weights that do not say theirs: QuickGELU, as OpenAI's, or (--no-...) GELU")
    ] = None,
    train_data: Annotated[str | None, Opt("shards to train on, as the positional pairs: open_clip's spelling")] = None,
    dataset_type: Annotated[
        Literal["auto", "webdataset", "csv", "synthetic"], Opt("format of train_data; webdataset is what there is")
    ] = "auto",
    train_data_upsampling_factors: Annotated[
        str | None, Opt("how often each of several sources is shown, '1::2'; sources are joined by ::")
    ] = None,
    train_num_samples: Annotated[int | None, Opt("samples that count as an epoch (default: one pass)")] = None,
    draw: Annotated[int | None, Opt("train on this many pairs, drawn at random by the seed")] = None,
    epochs: Annotated[float, Opt("passes over the pairs, or --train-num-samples samples each")] = 4.0,
    steps: Annotated[int | None, Opt("optimizer steps; overrides epochs")] = None,
    batch_size: Annotated[int, Opt("pairs a step, of each process")] = 256,
    accum_freq: Annotated[int, Opt("batches that make one step, exactly as one batch of their size")] = 1,
    lr: Annotated[float | None, Opt("peak learning rate (default: REACT's, 5e-4, and 5e-5 for locked-text)")] = None,
    alpha_lr: Annotated[float, Opt("peak learning rate of the gates' alphas")] = 1e-2,
    wd: Annotated[float, Opt("weight decay of matrices")] = 0.1,
    beta1: Annotated[float, Opt("AdamW's beta1")] = 0.9,
    beta2: Annotated[float, Opt("AdamW's beta2")] = 0.98,
    eps: Annotated[float, Opt("AdamW's eps")] = 1e-6,
    warmup: Annotated[int | None, Opt("steps of linear warm-up (default: a tenth of the steps)")] = None,
    lr_scheduler: Annotated[Literal["cosine", "const"], Opt("learning rate after the warm-up")] = "cosine",
    grad_clip_norm: Annotated[float | None, Opt("largest norm of the gradient")] = None,
    aug_cfg: Annotated[
        list[str], Opt("augmentation, KEY=VALUE over REACT's recipe: scale=(0.5,1.0) hflip=0.5 re_prob=0")
    ] = [],  # noqa: B006
    augment_on: Annotated[
        Literal["workers", "device"],
        Opt("where: timm's Pillow pipeline in the workers, or batched on the training device"),
    ] = "workers",
    views: Annotated[
        int, Opt("augmented views of a pair whose frozen features are kept; 0 makes new views every epoch")
    ] = 0,
    view_cache: Annotated[
        Path | None, Opt("folder of kept features (default: `views` beside --out)", table=False)
    ] = None,
    seed: Annotated[int, Opt("seed of order, augmentation and new weights")] = 0,
    precision: Annotated[Precision, Opt("arithmetic; auto is bf16 where the machine has it, amp is fp16")] = "auto",
    compile: Annotated[  # noqa: A002
        bool, Opt("compile the trained part of the towers by torch.compile", also=("torchcompile",))
    ] = False,
    grad_checkpointing: Annotated[
        bool, Opt("compute blocks again in the backward pass, for memory; gates are kept")
    ] = False,
    grad_checkpointing_gates: Annotated[bool, Opt("compute the gates again too")] = False,
    save_every: Annotated[int, Opt("steps between checkpoints")] = 100,
    save_frequency: Annotated[float | None, Opt("epochs between checkpoints, besides those of save_every")] = None,
    keep: Annotated[int, Opt("checkpoints that are kept, the last ones (and the best, where there is validation)")] = 1,
    val_data: Annotated[
        str | Path | None, Opt("held-out pairs (shards or a retrieved folder) for a validation loss")
    ] = None,
    val_share: Annotated[float, Opt("share of the pairs that is held out for validation, drawn by the seed")] = 0.0,
    val_frequency: Annotated[float, Opt("epochs between validation losses")] = 1.0,
    imagenet_val: Annotated[Path | None, Opt("validation images in class folders, for zero-shot accuracy")] = None,
    zeroshot_frequency: Annotated[float, Opt("epochs between zero-shot accuracies")] = 2.0,
    take: Annotated[
        Literal["last", "best"], Opt("which checkpoint becomes the model: the last, or the best by validation")
    ] = "last",
    interpolate: Annotated[
        str | list[float] | None,
        Opt("shares of the tuned weights to try on the validation data, '0.25,0.5,0.75,1'; the best is taken"),
    ] = None,
    report_to: Annotated[list[str], Opt("tensorboard, wandb")] = [],  # noqa: B006
    device: Annotated[str, Opt("auto, cpu or cuda")] = "auto",
    workers: Annotated[int | None, Opt("processes that make views, of each process (default: one a core)")] = None,
    overwrite: Annotated[bool, Opt("replace another result in --out", table=False)] = False,
) -> object:
    """Train a model on image-text pairs, its text tower locked (or not), and write the customized model.

    `pairs` is a `Pairs` or an `Embeddings`, the folder of one, or a pattern of webdataset shards. Returns the customized
    `Model`; without pairs, the figures of `val_data` and `imagenet_val` by name. Text vectors of a locked text tower are
    read from the embeddings where the same model made them, else encoded once. Follows REACT (CVPR 2023): AdamW
    (0.9, 0.98), eps 1e-6, cosine schedule, `logit_scale` trained and held within [1, 100]. Under torchrun every process
    takes its part of each batch; loss and gradients are those of one process with the whole batch.
    Raises ReactvlError for bad options, before any work.
    """
    from reactvl.customize.request import Request
    from reactvl.customize.run import run

    if train_data is not None:
        if pairs is not None:
            raise ReactvlError(f"pairs {pairs} and train_data {train_data}: the same thing twice; give one of them")
        pairs = train_data
    if dataset_type not in ("auto", "webdataset"):
        way = "`reactvl pack` makes shards of a CSV" if dataset_type == "csv" else "give real pairs"
        raise ReactvlError(
            f"dataset_type {dataset_type}: pairs come from webdataset shards or a retrieved folder; {way}"
        )
    given = {key: value for key, value in locals().items() if key in Request.__dataclass_fields__}
    return run(Request(**given | {"interpolate": shares_of(interpolate)}))


def shares_of(interpolate: str | list[float] | None) -> list[float]:
    """`0.25,0.5` or a list, as numbers."""
    parts = interpolate.split(",") if isinstance(interpolate, str) else interpolate or []
    try:
        return [float(part) for part in parts]
    except ValueError:
        raise ReactvlError(
            f"interpolate {interpolate!r}: shares with commas between, such as 0.25,0.5,0.75,1"
        ) from None
