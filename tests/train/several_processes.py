"""One step of several kinds in N processes, started as torchrun starts them: `several_processes.py N OUT.npz`.

Rank 0 writes loss, accuracy and every gradient. Children are forked before anything is computed, so that the imports are paid once.
"""

import os
import sys

import numpy as np
import torch
from tests_support import SMALL

from reactvl.models.encoder import text_features
from reactvl.models.model import construct
from reactvl.train.distributed import World, joined_world
from reactvl.train.frozen import freeze_statistics, split
from reactvl.train.step import Batch, Stepper
from reactvl.train.tuning import choose

ROWS, LOST = (
    14,
    (3, 4, 5, 6),
)  # pictures planned, and those that cannot be read: of four processes, the second has none left
CASES = ("locked", "trained", "siglip", "siglip-trained", "pieces", "trained-pieces", "clipped")


def stepper_of(case: str, world: World) -> tuple[Stepper, bool]:
    torch.manual_seed(0)
    config = {**SMALL, "model_cfg": {**SMALL["model_cfg"]}}
    if "siglip" in case:
        config["model_cfg"]["init_logit_bias"] = -3.0
    net = construct(config)
    trains_text = "trained" in case
    groups = choose(net, "full" if trains_text else "locked-text", lr=1e-3, alpha_lr=1e-2, weight_decay=0.1, freeze=[])
    freeze_statistics(net)
    return Stepper(
        net, split(net.visual), (lambda tokens: text_features(net, tokens)) if trains_text else None, groups,
        precision="fp32", device=torch.device("cpu"), world=world, accumulate=3 if "pieces" in case else 1,
        grad_clip=0.01 if case == "clipped" else None,
    ), trains_text  # fmt: skip


def batch_of(case: str, trains_text: bool, world: World) -> Batch:
    """The same global batch for any number of processes."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randn(ROWS, 3, 32, 32, generator=generator)
    vectors = torch.randn(ROWS, 32, generator=generator)
    tokens = torch.randint(1, 400, (ROWS, 9), generator=generator)
    tokens[:, -1] = 49407
    kept = torch.tensor([row not in LOST for row in range(ROWS)])
    part = world.part(ROWS)
    mine = kept[part]
    texts = tokens[part][mine] if trains_text else vectors
    return Batch(pixels[part][mine], texts, mine, 0.0)


def work(path: str) -> None:
    torch.set_num_threads(1)
    with joined_world("cpu") as (world, _):
        found = {}
        for case in CASES:
            stepper, trains_text = stepper_of(case, world)
            told = stepper.step(batch_of(case, trains_text, world), 1.0)
            for name, parameter in stepper.trained.items():
                if parameter.grad is not None:
                    found[f"{case} grad {name}"] = parameter.grad.detach().clone().numpy()
            for name in ("loss", "accuracy", "gradient_norm"):
                if name in told:
                    found[f"{case} {name}"] = told[name].numpy()
            weights = torch.cat([parameter.detach().flatten() for parameter in stepper.trained.values()])
            alike = world.joined(weights[None])
            assert torch.equal(alike.amin(0), alike.amax(0)), "the processes' weights differ"
        assert world.tell({"a": [1, "é"]} if world.first else None) == {"a": [1, "é"]}
        if world.first:
            np.savez(path, **found)


def main() -> None:
    size, path = int(sys.argv[1]), sys.argv[2]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[3], "WORLD_SIZE": str(size)}
    children = []
    for rank in range(size):
        child = os.fork()
        if not child:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            code = 1
            try:
                work(path)
                code = 0
            except BaseException as fault:
                print(repr(fault), file=sys.stderr)
            sys.stderr.flush()
            os._exit(code)  # gloo's threads may abort at an ordinary exit
        children.append(child)
    codes = [os.waitpid(child, 0)[1] for child in children]
    os._exit(max(map(bool, codes)))


if __name__ == "__main__":
    main()
