"""Flags of open_clip's trainer and of REACT's fork, in the words of `customize`.

Most are spelled alike and need nothing. Some are said in another way here, some are how it is always done, and some have no
equal: those end the command with a line that says what to use.
"""

from collections.abc import Sequence

from reactvl.manifest import ReactvlError
from reactvl.progress import say

LOCKS = ("lock-image", "lock-text", "lock-image-unlock-gated")
ALWAYS = {  # flag: why nothing is to be said
    "local-loss": "every process computes its own rows of the loss",
    "gather-with-grad": "the gradient is that of the whole batch",
    "ddp-static-graph": "the graph is the same at every step",
    "no-set-device-rank": "the process's device follows from torchrun",
    "save-most-recent": "the newest checkpoint is always kept",
    "lock-image-freeze-bn-stats": "a frozen part keeps its statistics",
    "lock-text-freeze-layer-norm": "a locked tower is locked whole",
    "log-local": "metrics.jsonl is written beside the model",
}
INSTEAD = {  # flag: what to use
    "csv-separator": "`reactvl pack FILE.csv --out POOL` makes shards of a CSV once; train on those",
    "csv-img-key": "`reactvl pack FILE.csv --out POOL` makes shards of a CSV once; train on those",
    "csv-caption-key": "`reactvl pack FILE.csv --out POOL` makes shards of a CSV once; train on those",
    "dataset-resampled": "leave it out: every pass is an exact permutation; --train-num-samples says how long an epoch is",
    "val-num-samples": "leave it out: --val-data is used whole; give fewer shards",
    "imagenet-v2": "`reactvl evaluate MODEL --tasks FOLDER` evaluates on any labelled folder",
    "cache-dir": "set HF_HOME: the hub's cache is where huggingface_hub puts it",
    "epochs-cooldown": "--lr-scheduler has cosine and const",
    "lr-cooldown-end": "--lr-scheduler has cosine and const",
    "lr-cooldown-power": "--lr-scheduler has cosine and const",
    "opt": "the optimizer is AdamW; --beta1, --beta2, --eps and --wd are its own",
    "momentum": "the optimizer is AdamW; --beta1, --beta2, --eps and --wd are its own",
    "use-bn-sync": "leave it out: CLIP's transformers have no batch norm",
    "pretrained-image": "`--model NAME:TAG` loads whole towers",
    "force-patch-dropout": "set patch_dropout in the model folder's open_clip_config.json",
    "force-image-size": "choose a model of that size, or a model folder whose config says so",
    "force-custom-text": "the config of a model folder decides (custom_text)",
    "image-mean": "the model's preprocess_cfg says it; a model folder's config can be edited",
    "image-std": "the model's preprocess_cfg says it; a model folder's config can be edited",
    "image-interpolation": "the model's preprocess_cfg says it; a model folder's config can be edited",
    "image-resize-mode": "the model's preprocess_cfg says it; a model folder's config can be edited",
    "force-context-length": "the config of a model folder decides (context_length)",
    "torchscript": "`reactvl export FOLDER --onnx` after training",
    "trace": "`reactvl export FOLDER --onnx` after training",
    "dist-url": "start it with `torchrun --nproc_per_node N -m reactvl customize ...`",
    "dist-backend": "start it with `torchrun --nproc_per_node N -m reactvl customize ...`",
    "horovod": "start it with `torchrun --nproc_per_node N -m reactvl customize ...`",
    "loss-dist-impl": "leave it out: no features are exchanged with a locked text tower",
    "wandb-notes": "set WANDB_NOTES; wandb reads its own environment",
    "wandb-project-name": "set WANDB_PROJECT; wandb reads its own environment",
    "log-every-n-steps": "leave it out: every step is a line of metrics.jsonl",
    "debug": "leave it out: an error says where",
    "copy-codebase": "leave it out: the manifest holds the version",
    "remote-sync": "copy the run's folder; its files are written whole",
    "remote-sync-frequency": "copy the run's folder; its files are written whole",
    "remote-sync-protocol": "copy the run's folder; its files are written whole",
    "coca-caption-loss-weight": "CoCa models are not trained here; choose a CLIP model",
    "coca-contrastive-loss-weight": "CoCa models are not trained here; choose a CLIP model",
    "distill-model": "there is no distillation here",
    "distill-pretrained": "there is no distillation here",
    "use-bnb-linear": "--precision bf16 is the fast arithmetic",
    "siglip": "leave it out: the loss follows the model, SigLIP's for one with a logit_bias",
}


def translated(args: Sequence[str]) -> list[str]:
    """The arguments of open_clip's trainer as `customize` takes them; its own pass unchanged.

    Raises ReactvlError for a flag that has no equal here, with what to use, and for locks that contradict each other.
    """
    words = [part for word in args for part in separated(word)]
    found: dict[str, str | None] = {}
    left: list[str] = []
    at = 0
    while at < len(words):
        name = words[at].removeprefix("--").replace("_", "-") if words[at].startswith("--") else ""
        if name in INSTEAD:
            raise ReactvlError(f"--{name}: {INSTEAD[name]}")
        if name in ALWAYS:
            say(f"customize: --{name} is not needed: {ALWAYS[name]}")
        elif name in LOCKS or name in ("skip-scheduler", "delete-previous-checkpoint"):
            found[name] = None
        elif name in ("lock-text-unlocked-layers", "lock-image-unlocked-groups"):
            found[name], at = value(words, at), at + 1
        else:
            left.append(words[at])
        at += 1
    return [*left, *locked(found, left), *others(found)]


def separated(word: str) -> list[str]:
    """`--flag=value` of the flags that are looked at here in two words; all others as they are."""
    name, equals, text = word.partition("=")
    plain = name.removeprefix("--").replace("_", "-")
    return [name, text] if equals and name.startswith("--") and plain in (*INSTEAD, *UNLOCKS) else [word]


UNLOCKS = ("lock-text-unlocked-layers", "lock-image-unlocked-groups")


def value(words: list[str], at: int) -> str:
    text = words[at + 1] if at + 1 < len(words) else ""
    if not text.isdigit():
        raise ReactvlError(f"{words[at]}: wants a number")
    return text


def locked(found: dict[str, str | None], left: list[str]) -> list[str]:
    """What the locks say is tuned, as `--tune`, and how many blocks of the locked tower are not."""
    image, text, gated = ("lock-image" in found, "lock-text" in found, "lock-image-unlock-gated" in found)
    if not (image or text or gated):
        if unlocked := [name for name in UNLOCKS if name in found]:
            raise ReactvlError(f"--{unlocked[0]}: the tower is not locked; add --{unlocked[0].rpartition('-un')[0]}")
        return []
    if any(word == "--tune" or word.startswith("--tune=") for word in left):
        raise ReactvlError("--tune and open_clip's --lock-... say the same thing; give one of them")
    if gated and not text:
        raise ReactvlError("--lock-image-unlock-gated: gates are tuned under a locked text tower; add --lock-text")
    if image and text and not gated:
        raise ReactvlError(
            "--lock-image --lock-text: nothing is left to train; leave one out, or --lock-image-unlock-gated"
        )
    tune = "gated-image" if gated else "locked-text" if text else "locked-image"
    count = 0
    if layers := int(found.get("lock-text-unlocked-layers") or 0):
        if tune != "locked-text":
            raise ReactvlError(
                f"--lock-text-unlocked-layers: with {tune} --unlock-last opens the image tower; leave it out"
            )
        count = layers
    if groups := int(found.get("lock-image-unlocked-groups") or 0):
        if tune == "locked-text" or groups < 2:
            raise ReactvlError(
                rf"--lock-image-unlocked-groups {groups}: say --rules 'visual\.proj=LR' for the projection alone, or 2 and more "
                "groups (each further one is a block) of a locked image tower"
            )
        count = groups - 1  # the first group is the projection
    return ["--tune", tune, *(["--unlock-last", str(count)] if count else [])]


def others(found: dict[str, str | None]) -> list[str]:
    words = ["--lr-scheduler", "const", "--warmup", "0"] if "skip-scheduler" in found else []
    return [*words, *(["--keep", "1"] if "delete-previous-checkpoint" in found else [])]
