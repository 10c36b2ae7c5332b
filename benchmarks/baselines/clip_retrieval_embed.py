"""clip-retrieval's own inference worker, in its environment, on a pool and a model folder of ours.

What is replaced: `load_clip`, so that the weights are those of the folder and no hub is asked. Reader, mapper, writer and
runner are clip-retrieval's. Every number of `workers` is run, models and libraries loaded before.
"""

import json
import shutil
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
    from clip_retrieval.clip_inference import mapper, worker
    from safetensors.torch import load_file

    home = Path(request["model"])
    config = json.loads((home / "open_clip_config.json").read_text())["model_cfg"]
    model = open_clip.CLIP(**{name: value for name, value in config.items() if name != "custom_text"}).eval()
    model.load_state_dict(load_file(next(home.glob("*.safetensors"))))
    preprocess = open_clip.image_transform(model.visual.image_size, is_train=False)
    loaded = model, preprocess, open_clip.get_tokenizer("ViT-B-32")
    worker.load_clip = mapper.load_clip = lambda **_: loaded

    shards = sorted(map(str, Path(request["pool"]).glob("*.tar")))
    seconds = {}
    for workers in request["workers"]:
        out = Path(request["out"])
        shutil.rmtree(out, ignore_errors=True)
        began = time.perf_counter()
        worker.worker(
            tasks=[0],
            input_dataset=shards,
            output_folder=str(out),
            output_partition_count=1,
            input_format="webdataset",
            batch_size=request["batch"],
            num_prepro_workers=workers,
            use_jit=False,
        )
        seconds[str(workers)] = time.perf_counter() - began
    return {
        "seconds": seconds,
        "threads": torch.get_num_threads(),
        "versions": {name: version(name) for name in ("clip-retrieval", "open_clip_torch", "torch")},
    }


if __name__ == "__main__":
    measuring.serve(work)
