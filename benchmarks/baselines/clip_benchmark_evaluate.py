"""CLIP_benchmark's own zero-shot classification, in its environment, on a webdataset task and a model folder of ours.

What is replaced: loading the model, so that the weights are those of the folder and no hub is asked. Data set, loader,
classifier, loop and metrics are CLIP_benchmark's, its command line's choices among them; `--no_amp`, because the
arithmetic is to be fp32. Every number of `workers` is run, model and libraries loaded before; predictions, in the order
of the shards, are those of 0 workers where that is among them.
"""

import contextlib
import io
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import measuring


def work(request: dict) -> dict:
    import torch

    # torchvision's wheel is built for CUDA: beside a CPU torch its import wants these two operators to be there
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        library.define(operator + "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import open_clip
    from clip_benchmark.datasets.builder import build_dataset
    from clip_benchmark.metrics import zeroshot_classification
    from safetensors.torch import load_file

    home = Path(request["model"])
    config = json.loads((home / "open_clip_config.json").read_text())["model_cfg"]
    model = open_clip.CLIP(**{name: value for name, value in config.items() if name != "custom_text"}).eval()
    model.load_state_dict(load_file(next(home.glob("*.safetensors"))))
    transform = open_clip.image_transform(model.visual.image_size, is_train=False)
    tokenizer = open_clip.get_tokenizer("ViT-B-32")

    answers = []
    run = zeroshot_classification.run_classification
    zeroshot_classification.run_classification = lambda *given, **named: (
        answers.append(run(*given, **named)) or answers[-1]
    )

    seconds, predicted, accuracy = {}, [], None
    for workers in request["workers"]:
        with contextlib.redirect_stderr(io.StringIO()):  # its bars
            began = time.perf_counter()
            dataset = build_dataset("wds/task", root=request["task"], transform=transform, split="test")
            loader = torch.utils.data.DataLoader(
                dataset.batched(request["batch"]), batch_size=None, shuffle=False, num_workers=workers
            )
            metrics = zeroshot_classification.evaluate(
                model, loader, tokenizer, dataset.classes, dataset.templates, "cpu", amp=False
            )
            seconds[str(workers)] = time.perf_counter() - began
        accuracy = metrics["acc1"]
        if workers == 0:
            predicted = answers[-1][0].argmax(dim=1).tolist()
    return {
        "seconds": seconds,
        "predicted": predicted,
        "accuracy": accuracy,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("clip-benchmark", "open_clip_torch", "torch")},
    }


if __name__ == "__main__":
    measuring.serve(work)
