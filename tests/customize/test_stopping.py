"""A run that is stopped anywhere goes on at the next step: by data that go away, while it writes, with other workers."""

import json
import os

import numpy as np
import pytest

import reactvl as rv
from reactvl.customize import texts
from reactvl.manifest import ReactvlError, sha256_file
from reactvl.train import checkpoints, loader
from reactvl.train.distributed import World

SHORT = {
    "steps": 8, "batch_size": 16, "aug_cfg": ["auto_augment=None", "re_prob=0"], "tune": "locked-text", "lr": 1e-3,
    "save_every": 3, "workers": 1,
}  # fmt: skip
FILES = ("model/open_clip_model.safetensors", "metrics.jsonl", "checkpoints/last.safetensors", "skipped.json")


@pytest.fixture(scope="module")
def whole(pool, small_model, tmp_path_factory):
    """A run that was left alone."""
    out = tmp_path_factory.mktemp("whole") / "out"
    rv.customize(small_model, str(pool), out=out, **SHORT)
    return out


def same(one, other) -> None:
    for name in FILES:
        assert sha256_file(one / name) == sha256_file(other / name), name


def test_data_that_go_away_end_the_run_after_its_state_is_saved(whole, pool, small_model, tmp_path, monkeypatch):
    real = loader.batches

    def until_a_shard_goes(*args, **options):
        for number, loaded in enumerate(real(*args, **options)):
            if number == 5:
                raise ReactvlError("shard /pool/00001.tar: has disappeared")
            yield loaded

    monkeypatch.setattr(loader, "batches", until_a_shard_goes)
    out = tmp_path / "out"
    with pytest.raises(ReactvlError, match=r"00001\.tar: has disappeared"):
        rv.customize(small_model, str(pool), out=out, **SHORT)
    # not the regular one of 3 steps: all five steps done
    assert [one.step for one in checkpoints.whole(out / ".work" / "checkpoints")] == [5]
    monkeypatch.undo()
    rv.customize(small_model, str(pool), out=out, **SHORT)
    same(out, whole)


def test_a_run_killed_while_it_writes_a_checkpoint_goes_on_from_the_one_before(
    whole, pool, small_model, tmp_path, monkeypatch
):
    """Half a file is on disk when the power goes; other workers take over."""

    class PowerFailure(BaseException):
        pass

    real = checkpoints.save_file

    def half(tensors, path, header):
        real(tensors, path, header)
        if json.loads(header[checkpoints.HEADER])["step"] == 6:
            data = path.read_bytes()
            (path.parent / f".{path.name}.half.part").write_bytes(data[: len(data) // 2])
            raise PowerFailure

    monkeypatch.setattr(checkpoints, "save_file", half)
    out = tmp_path / "out"
    with pytest.raises(PowerFailure):
        rv.customize(small_model, str(pool), out=out, **SHORT)
    assert [one.step for one in checkpoints.whole(out / ".work" / "checkpoints")] == [3]
    monkeypatch.undo()
    rv.customize(small_model, str(pool), out=out, **SHORT | {"workers": 3})
    same(out, whole)


def test_a_runs_own_checkpoint_goes_before_a_file_of_weights(pool, small_model, whole, tmp_path):
    """`--resume latest` says what happens anyway; a file that is not there stops at once."""
    rv.customize(small_model, str(pool), out=tmp_path / "out", resume="latest", **SHORT)
    same(tmp_path / "out", whole)
    with pytest.raises(ReactvlError, match="no such file"):
        rv.customize(small_model, str(pool), out=tmp_path / "other", resume=str(tmp_path / "weights.pt"), **SHORT)


def test_an_epoch_is_as_many_samples_as_said(pool, small_model, tmp_path):
    options = {key: value for key, value in SHORT.items() if key != "steps"}
    out = tmp_path / "out"
    rv.customize(small_model, str(pool), out=out, epochs=2, train_num_samples=40, **options)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(lines) == 5  # 80 samples, 16 a step
    assert [line["epoch"] for line in lines] == [0.0, 0.4, 0.8, 1.2, 1.6]


def test_a_name_is_a_folder_of_logs(pool, small_model, tmp_path):
    rv.customize(
        small_model,
        train_data=str(pool),
        dataset_type="webdataset",
        name="gated",
        logs=tmp_path,
        **SHORT | {"steps": 1},
    )
    assert (tmp_path / "gated" / "model").is_dir()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"out": None}, "--name NAME"),
        ({"out": None, "name": "a/b"}, "without /"),
        ({"train_data": "more.tar"}, "the same thing twice"),
        ({"dataset_type": "csv"}, "reactvl pack"),
        ({"accum_freq": 0}, "accum_freq 0"),
        ({"keep": 0}, "keep 0"),
        ({"warmup": -1}, "warmup -1"),
        ({"val_share": 1.0}, "val_share 1.0"),
        ({"take": "best"}, "never on test labels"),
        ({"interpolate": "0.5,x"}, "0.25,0.5"),
        ({"interpolate": [1.5], "val_share": 0.1}, "from 0"),
        ({"report_to": ["mlflow"]}, "tensorboard and wandb"),
        ({"seed": -1}, "seed -1"),
    ],
)
def test_bad_options_stop_before_any_work(pool, small_model, tmp_path, change, says):
    with pytest.raises(ReactvlError, match=says):
        rv.customize(**{"model": small_model, "pairs": str(pool), "out": tmp_path / "out"} | SHORT | change)
    assert not os.path.exists(tmp_path / "out" / "manifest.json")  # noqa: PTH110


def test_captions_that_were_encoded_before_a_stop_are_not_encoded_again(tmp_path, monkeypatch):
    monkeypatch.setattr(texts, "CHUNK", 4)
    asked: list[list[str]] = []

    def encode(captions):
        if len(asked) == 2 and not (tmp_path / "stopped").exists():
            (tmp_path / "stopped").touch()
            raise KeyboardInterrupt
        asked.append(list(captions))
        return np.array([[len(caption), ord(caption[0])] for caption in captions], np.float32)

    captions = [chr(97 + number) * (number + 1) for number in range(10)]
    with pytest.raises(KeyboardInterrupt):
        texts.encoded(encode, captions, World.alone(), tmp_path)
    found = texts.encoded(encode, captions, World.alone(), tmp_path)
    assert asked == [captions[:4], captions[4:8], captions[8:]]
    np.testing.assert_array_equal(found.read(), [[len(caption), ord(caption[0])] for caption in captions])
