"""The customize stage: modes, resume bit for bit, views, errors."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from tests_support import write_pool

import reactvl as rv
from reactvl.manifest import ReactvlError, read_manifest, sha256_file

AUG = ["auto_augment=None", "re_prob=0", "scale=(0.6,1.0)"]
SHORT = {"steps": 6, "batch_size": 16, "aug_cfg": AUG, "workers": 1}


def weights(model) -> dict[str, torch.Tensor]:
    return model.net.state_dict()


@pytest.mark.parametrize("tune", ["gated-image", "locked-text", "full"])
def test_each_mode_trains_what_it_says_and_nothing_else(run, small_model, tmp_path, tune):
    base = rv.load(small_model)
    tuned = rv.customize(base, run / "retrieved", out=tmp_path / tune, tune=tune, lr=1e-3, **SHORT)
    before, after = weights(base), weights(tuned)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    if tune == "gated-image":
        assert changed <= {"logit_scale"}
        assert any("gated_attn_block" in name for name in after)
        assert read_manifest(tmp_path / tune).facts["widest_gate"] > 0
    elif tune == "locked-text":
        assert all(name.startswith("visual.") or name == "logit_scale" for name in changed)
        assert "visual.proj" in changed
    else:
        assert {"visual.proj", "text_projection"} <= changed
    lines = [json.loads(line) for line in (tmp_path / tune / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(6))
    assert all(np.isfinite(line["loss"]) for line in lines)


def test_the_end_says_how_far_the_gates_opened_and_warns_of_shut_ones(run, small_model, tmp_path, capsys):
    for name, rate, warned in (("shut", 1e-5, True), ("open", 0.1, False)):
        rv.customize(small_model, run / "retrieved", out=tmp_path / name, alpha_lr=rate, **SHORT)
        said = capsys.readouterr().out
        widest = read_manifest(tmp_path / name).facts["widest_gate"]
        assert f"max |tanh(alpha)| = {widest:.3f}" in said
        assert ("hardly opened" in said) == warned == (widest < 0.05)


def test_training_lowers_the_loss(run, small_model, tmp_path):
    rv.customize(
        small_model, run / "retrieved", out=tmp_path / "out", tune="locked-text", lr=3e-3, **SHORT | {"steps": 40}
    )
    losses = [json.loads(line)["loss"] for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.1


COMMAND = """
import reactvl as rv
rv.customize({model!r}, {pairs!r}, out={out!r}, tune="gated-image", steps=60, batch_size=16, workers=1, save_every=4, views={views},
             aug_cfg=["auto_augment=None"], view_cache={cache!r})
"""


@pytest.mark.parametrize("views", [0, 2])
def test_a_killed_run_resumes_to_the_same_bytes(run, small_model, tmp_path, views):
    """kill -9 at two random steps; the files end up equal to those of a run that was left alone."""

    def command(out, cache):
        text = COMMAND.format(
            model=small_model, pairs=str(run / "retrieved"), out=str(out), views=views, cache=str(cache)
        )
        return [sys.executable, "-c", text]

    subprocess.run(command(tmp_path / "whole", tmp_path / "views-a"), check=True, capture_output=True)
    generator = np.random.default_rng(views)
    killed, ends = tmp_path / "killed", []
    for _ in range(2):
        wanted = int(generator.integers(3, 25))
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        process = subprocess.Popen(command(killed, tmp_path / "views-b"), **quiet)
        deadline = time.monotonic() + 120
        home = killed / ".work" / "checkpoints"
        began = sorted(home.glob("step_*"))
        while process.poll() is None and time.monotonic() < deadline:
            written = sorted(home.glob("step_*"))
            if written and written != began and wanted <= 0:
                break
            wanted -= bool(written)
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGKILL)
        ends.append(process.wait())
    assert -signal.SIGKILL in ends
    subprocess.run(command(killed, tmp_path / "views-b"), check=True, capture_output=True)
    for name in ("model/open_clip_model.safetensors", "metrics.jsonl", "checkpoints/last.safetensors"):
        assert sha256_file(killed / name) == sha256_file(tmp_path / "whole" / name), name


def test_text_vectors_come_from_the_embeddings(run, small_model, tmp_path, monkeypatch):
    """A locked text tower that made the embeddings is never run again."""
    from reactvl.models.encoder import Encoder

    def refuse(self, texts):
        raise AssertionError("the text tower was run")

    monkeypatch.setattr(Encoder, "texts", refuse)
    rv.customize(small_model, run / "retrieved", out=tmp_path / "out", tune="locked-text", **SHORT)
    assert (tmp_path / "out" / "model").is_dir()


def test_shards_can_be_trained_on_directly_and_bad_pictures_are_left_out(pool, small_model, tmp_path):
    for views in (0, 1):
        out = tmp_path / f"views-{views}"
        rv.customize(small_model, str(pool), out=out, tune="gated-image", views=views, **SHORT | {"steps": 12})
        assert read_manifest(out).counts == {"pairs": 90, "steps": 12, "unread": 2}
        assert set(json.loads((out / "skipped.json").read_text())) == {"00000.tar/000000010", "00001.tar/000010005"}


def test_a_random_subset_is_a_function_of_the_seed(pool, small_model, tmp_path):
    digests = []
    for number, seed in enumerate((0, 0, 1)):
        out = tmp_path / str(number)
        rv.customize(small_model, str(pool), out=out, tune="locked-text", draw=30, seed=seed, **SHORT)
        digests.append(sha256_file(out / "model" / "open_clip_model.safetensors"))
    assert digests[0] == digests[1] != digests[2]


def test_views_are_shared_between_modes_only_where_the_frozen_part_is_the_same(run, small_model, tmp_path):
    options = SHORT | {"views": 2}
    for name, last_k in (("a", 1), ("b", 1), ("c", 2)):
        rate = 0.1 if name == "b" else 0.01
        rv.customize(small_model, run / "retrieved", out=tmp_path / name, last_k=last_k, alpha_lr=rate, **options)
    assert len(list((tmp_path / "views").iterdir())) == 2
    with pytest.raises(ReactvlError, match="no part of the image tower"):
        rv.customize(small_model, run / "retrieved", out=tmp_path / "d", tune="locked-text", **options)


def test_kept_views_of_another_pool_of_equal_names_are_not_taken(small_model, tmp_path):
    """Shards and keys are called 00000.tar and 000000000 in every pool; what is kept of one must not serve another."""
    options = SHORT | {"views": 1, "tune": "gated-image"}
    first, second = (write_pool(tmp_path / name, shards=1, pairs=pairs) for name, pairs in (("one", 40), ("two", 41)))
    rv.customize(small_model, str(first), out=tmp_path / "a", view_cache=tmp_path / "shared", **options)
    rv.customize(small_model, str(second), out=tmp_path / "b", view_cache=tmp_path / "shared", **options)
    rv.customize(small_model, str(second), out=tmp_path / "c", view_cache=tmp_path / "fresh", **options)
    kept = sorted(len(np.load(path)) for path in tmp_path.glob("shared/*/block_*/ids.npy"))
    assert kept == [40, 41]
    name = "model/open_clip_model.safetensors"
    assert sha256_file(tmp_path / "b" / name) == sha256_file(tmp_path / "c" / name)


def test_an_up_to_date_folder_is_left_alone_and_another_request_is_refused(run, small_model, tmp_path):
    out = tmp_path / "out"
    rv.customize(small_model, run / "retrieved", out=out, **SHORT)
    stamp = (out / "manifest.json").stat().st_mtime_ns
    rv.customize(small_model, run / "retrieved", out=out, **SHORT)
    assert (out / "manifest.json").stat().st_mtime_ns == stamp
    with pytest.raises(ReactvlError, match="steps was 6, is 7"):
        rv.customize(small_model, run / "retrieved", out=out, **SHORT | {"steps": 7})
    rv.customize(small_model, run / "retrieved", out=out, overwrite=True, **SHORT | {"steps": 7})
    assert read_manifest(out).counts["steps"] == 7


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"batch_size": 1}, "batch"),
        ({"aug_cfg": ["nonsense=1"]}, "aug_cfg"),
        ({"tune": "locked-text", "last_k": 2}, "only tune gated-image"),
        ({"last_k": 9}, "choose 1 to 2"),
        ({"freeze": ["nothing"]}, "matches no parameter"),
        ({"draw": 10**6}, "there are"),
        ({"device": "warp"}, "no such device"),
    ],
)
def test_bad_options_stop_at_once(run, small_model, tmp_path, change, says):
    with pytest.raises(ReactvlError, match=says):
        rv.customize(small_model, run / "retrieved", out=tmp_path / "out", **SHORT | change)
    assert not (tmp_path / "out" / "manifest.json").exists()
