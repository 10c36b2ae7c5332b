"""What one customization was asked for: the options of `customize`, checked before any work."""

import dataclasses
from pathlib import Path
from typing import Any

from reactvl.manifest import ReactvlError

# What decides the result: these stand in the manifest and tell one request from another.
DECIDING = (
    "tune", "last_k", "freeze", "epochs", "steps", "batch_size", "lr", "alpha_lr", "wd", "warmup", "grad_clip_norm", "views",
    "train_num_samples", "seed", "precision",
)  # fmt: skip
# These too, but only where they are not what they were before the option came: older results stay up to date.
ADDED = {
    "rules": [], "unlock_last": 0, "augment_on": "workers",
    "draw": None, "accum_freq": 1, "beta1": 0.9, "beta2": 0.98, "eps": 1e-6,
    "lr_scheduler": "cosine", "train_data_upsampling_factors": None, "val_share": 0.0,
    "take": "last", "interpolate": [],
}  # fmt: skip


@dataclasses.dataclass
class Request:
    """The options of `customize`; see its signature."""

    model: Any
    pairs: Any
    out: Path | None
    name: str | None
    logs: Path
    tune: str
    last_k: int | None
    freeze: list[str]
    rules: list[str]
    unlock_last: int
    resume: str | None
    force_quick_gelu: bool | None
    train_data_upsampling_factors: str | None
    train_num_samples: int | None
    draw: int | None
    epochs: float
    steps: int | None
    batch_size: int
    accum_freq: int
    lr: float | None
    alpha_lr: float
    wd: float
    beta1: float
    beta2: float
    eps: float
    warmup: int | None
    lr_scheduler: str
    grad_clip_norm: float | None
    aug_cfg: list[str]
    augment_on: str
    views: int
    view_cache: Path | None
    seed: int
    precision: str
    compile: bool
    grad_checkpointing: bool
    grad_checkpointing_gates: bool
    save_every: int
    save_frequency: float | None
    keep: int
    val_data: Any
    val_share: float
    val_frequency: float
    imagenet_val: Path | None
    zeroshot_frequency: float
    take: str
    interpolate: list[float]
    report_to: list[str]
    device: str
    workers: int | None
    overwrite: bool

    @property
    def trains(self) -> bool:
        return self.pairs is not None

    @property
    def validates(self) -> bool:
        """Whether there is anything to judge a model by."""
        return self.val_data is not None or self.val_share > 0 or self.imagenet_val is not None

    @property
    def folder(self) -> Path | None:
        """`--out`, or LOGS/NAME."""
        if self.out is not None:
            return Path(self.out)
        return None if self.name is None else Path(self.logs) / self.name

    @property
    def kept_views(self) -> Path:
        return Path(self.view_cache or self.folder.parent / "views")

    def options(self) -> dict[str, Any]:
        """What of the request decides the result."""
        from reactvl.train.augmentation import configure

        chosen = {name: getattr(self, name) for name in DECIDING}
        chosen["epochs"] = self.epochs if self.steps is None else None
        chosen["augmentation"] = repr(configure(self.aug_cfg))
        return chosen | {name: getattr(self, name) for name, before in ADDED.items() if getattr(self, name) != before}


def check(request: Request) -> None:
    """Stop at what cannot be, with the way out."""
    from reactvl.train.augmentation import configure
    from reactvl.train.tracking import check_report_to

    if not request.trains and not request.validates:
        raise ReactvlError(
            "pairs: nothing to train on; give retrieved pairs or shards (or --imagenet-val or --val-data alone, to evaluate)"
        )
    if request.views < 0 or request.batch_size < 2 or request.epochs <= 0 or request.save_every < 1:
        raise ReactvlError(
            f"views {request.views}, batch_size {request.batch_size}, epochs {request.epochs}, save_every "
            f"{request.save_every}: views are 0 or more, a batch has at least 2 pairs, the others are above 0"
        )
    above_0 = (
        "steps",
        "train_num_samples",
        "draw",
        "accum_freq",
        "keep",
        "save_frequency",
        "grad_clip_norm",
        "workers",
        "eps",
    )
    for name in above_0:
        value = getattr(request, name)
        if value is not None and not value > 0:
            raise ReactvlError(f"{name} {value}: must be above 0")
    for name in ("warmup", "unlock_last", "val_frequency", "zeroshot_frequency", "wd"):
        value = getattr(request, name)
        if value is not None and value < 0:
            raise ReactvlError(f"{name} {value}: must be 0 or more")
    if not (0 <= request.beta1 < 1 and 0 <= request.beta2 < 1):
        raise ReactvlError(f"beta1 {request.beta1}, beta2 {request.beta2}: must be in [0, 1)")
    if not 0 <= request.val_share < 1:
        raise ReactvlError(f"val_share {request.val_share}: a share of the pairs from 0 up to below 1, such as 0.02")
    if request.val_share and request.val_data is not None:
        raise ReactvlError("val_share and val_data: the validation loss is of one of them; leave the other out")
    if request.seed < 0 or request.seed >= 2**63:
        raise ReactvlError(f"seed {request.seed}: must be from 0 up to below 2^63")
    for share in request.interpolate:
        if not 0 <= share <= 1:
            raise ReactvlError(f"interpolate {share}: shares are from 0 (the base model) to 1 (the tuned one)")
    for name in ("interpolate", "take"):
        if getattr(request, name) not in ([], "last") and not request.validates:
            raise ReactvlError(
                f"{name}: it is chosen on validation data, never on test labels; give --val-share 0.02, --val-data or --imagenet-val"
            )
    if request.trains and request.folder is None:
        raise ReactvlError("out: where should the model go? give --out FOLDER, or --name NAME for LOGS/NAME")
    if request.name is not None and (not request.name.strip() or request.name in (".", "..") or "/" in request.name):
        raise ReactvlError(f"name {request.name!r}: is a folder's name, without /; --logs says where it lies")
    check_report_to(request.report_to)
    configure(request.aug_cfg)
