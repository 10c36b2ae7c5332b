"""customize under torchrun: the weights of one process, from processes that share each batch; stopped and gone on in another number."""

import json
import subprocess
import sys

import pytest
from commands import SEARCHED
from safetensors.torch import load_file

import reactvl as rv
from reactvl.manifest import read_manifest

OPTIONS = {
    "tune": "gated-image",
    "lr": 1e-3,
    "epochs": 0.7,
    "batch_size": 8,
    "workers": 1,
    "save_every": 1,
    "device": "cpu",
}
OPTIONS["precision"] = "fp32"  # in bf16, sums of another order lie apart by 1e-3 within a few steps
AUG = ["auto_augment=None", "re_prob=0"]


def typed(pool, model, out, **more) -> list[str]:
    options = {**OPTIONS, **more}
    flags = [text for name, value in options.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    return ["customize", str(pool), "--model", model, "--out", str(out), *flags, "--aug-cfg", *AUG]


def torchrun(size: int, arguments: list[str]) -> subprocess.CompletedProcess:
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        str(size),
        "-m",
        "reactvl",
    ]
    environment = SEARCHED | {"OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *arguments], capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def two(pool, small_model, tmp_path_factory):
    """A run in two processes, some of whose pictures cannot be read, and what it printed."""
    out = tmp_path_factory.mktemp("two") / "out"
    return out, torchrun(2, typed(pool, small_model, out, val_share=0.1))


def test_two_processes_train_what_one_trains(two, pool, small_model, tmp_path):
    out, ended = two
    assert (out / "manifest.json").exists(), ended.stderr
    one = tmp_path / "one"
    rv.customize(small_model, str(pool), out=one, aug_cfg=AUG, val_share=0.1, **OPTIONS | {"batch_size": 16})
    manifest = read_manifest(out)
    assert manifest.counts == read_manifest(one).counts
    assert (manifest.facts["processes"], manifest.facts["global_batch"]) == (2, 16)
    mine, theirs = (load_file(path / "model" / "open_clip_model.safetensors") for path in (out, one))
    for name, tensor in theirs.items():
        # sums of float32 in another order, and AdamW's division by the gradient's size: of the order of lr where a gradient is
        # all rounding, far less elsewhere
        close = (mine[name] - tensor).abs() < 1e-4
        assert close.float().mean() > 0.99, name
        assert (mine[name] - tensor).abs().max() < 4e-3, name
    losses = [
        [json.loads(line)["loss"] for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (out, one)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    validated = [
        json.loads((path / "validation.jsonl").read_text().splitlines()[-1])["val_loss"] for path in (out, one)
    ]
    assert validated[0] == pytest.approx(validated[1], rel=1e-3)
    assert (
        json.loads((out / "skipped.json").read_text()).keys() == json.loads((one / "skipped.json").read_text()).keys()
    )


def test_only_the_first_process_speaks_and_all_end_when_it_refuses(two, pool, small_model):
    out, ended = two
    assert ended.stdout.count("wrote") == 1
    refused = torchrun(2, typed(pool, small_model, out, seed=5))
    assert "holds another result (seed was 0, is 5)" in refused.stderr
    assert "process 1 ends with process 0" in refused.stderr


def test_a_run_of_one_process_goes_on_in_two_with_its_global_batch(pool, small_model, tmp_path, monkeypatch):
    """Stopped after two steps: the steps that follow see the same pairs, 16 a step."""
    from reactvl.train import loop

    class Stopped(Exception):
        pass

    save, whole, stopped = loop.checkpoints.save, tmp_path / "whole", tmp_path / "stopped"
    options = OPTIONS | {"batch_size": 16}
    rv.customize(small_model, str(pool), out=whole, aug_cfg=AUG, **options)

    def save_and_stop(folder, stepper, facts, keep):
        save(folder, stepper, facts, keep)
        if stepper.steps == 2:
            raise Stopped

    monkeypatch.setattr(loop.checkpoints, "save", save_and_stop)
    with pytest.raises(Stopped):
        rv.customize(small_model, str(pool), out=stopped, aug_cfg=AUG, **options)
    ended = torchrun(2, typed(pool, small_model, stopped, batch_size=16))
    assert (stopped / "manifest.json").exists(), ended.stderr
    assert "goes on with 16 pairs a step" in ended.stdout
    losses = [
        [json.loads(line)["loss"] for line in (path / "metrics.jsonl").read_text().splitlines()]
        for path in (stopped, whole)
    ]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
