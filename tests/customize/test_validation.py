"""A run judged on the way and at its end: held-out pairs, ImageNet-style folders, the best checkpoint, interpolation."""

import json
import sys
import types

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests_support import drawing, write_pool, write_task

import reactvl as rv
from reactvl.clip_imports import open_clip
from reactvl.customize.validate import Often
from reactvl.manifest import ReactvlError, read_manifest, sha256_file
from reactvl.models.model import Model
from reactvl.tasks.imagenet import imagenet_names, validation_task

AUG = ["auto_augment=None", "re_prob=0"]
SHORT = {"steps": 8, "batch_size": 16, "aug_cfg": AUG, "workers": 1, "tune": "locked-text", "lr": 3e-3}
WEIGHTS = "model/open_clip_model.safetensors"


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """Twelve pictures in class folders."""
    home = tmp_path_factory.mktemp("labelled")
    write_task(home, ["red", "green", "blue"], 4)
    return home / "test"


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_held_out_pairs_are_never_trained_on_and_their_loss_is_open_clips(pool, small_model, tmp_path):
    out = tmp_path / "out"
    tuned = rv.customize(small_model, str(pool), out=out, val_share=0.2, val_frequency=0.5, **SHORT)
    assert read_manifest(out).counts["pairs"] == 72
    assert read_manifest(out).counts["held_out"] == 18
    records = lines(out / "validation.jsonl")
    assert records[-1]["step"] == 8
    assert len(records) == len({record["step"] for record in records}) >= 3
    from reactvl.customize.data import read_data
    from reactvl.customize.request import Request

    asked = dict.fromkeys(Request.__dataclass_fields__) | {
        "pairs": str(pool),
        "val_share": 0.2,
        "seed": 0,
    }
    data = read_data(Request(**asked), tuned, tmp_path)
    assert not set(data.pairs.keys) & set(data.held_out.keys)
    again = rv.load(str(out))
    images, texts = [], []
    for row in range(18):
        path, offset, size = data.held_out.place(row)
        import io

        from PIL import Image

        try:
            with open(path, "rb") as file:
                file.seek(offset)
                picture = Image.open(io.BytesIO(file.read(size))).convert("RGB")
        except OSError:
            continue
        images.append(again.preprocess(picture))
        texts.append(data.held_out.captions[row])
    with torch.no_grad():
        vectors = again.encode_image(torch.stack(images)), again.encode_text(texts)
        wanted = open_clip.loss.ClipLoss()(*vectors, torch.tensor(again.logit_scale))
    assert records[-1]["val_loss"] == pytest.approx(float(wanted), rel=2e-2)  # bf16 or fp32 towers, in one batch


def test_the_best_checkpoint_becomes_the_model_where_asked(pool, labelled, small_model, tmp_path):
    options = SHORT | {"lr": 0.05, "save_every": 2, "keep": 2}
    for take in ("last", "best"):
        rv.customize(
            small_model, str(pool), out=tmp_path / take, val_share=0.2, val_frequency=0.4, take=take, **options
        )
    records = lines(tmp_path / "best" / "validation.jsonl")
    best = min(records, key=lambda record: record["val_loss"])
    from reactvl.train.checkpoints import header_of

    assert header_of(tmp_path / "best" / "checkpoints" / "best.safetensors")["step"] == best["step"]
    assert {path.name for path in (tmp_path / "best" / "checkpoints").iterdir()} >= {
        "best.safetensors",
        "last.safetensors",
    }
    same = sha256_file(tmp_path / "best" / WEIGHTS) == sha256_file(tmp_path / "last" / WEIGHTS)
    assert same == (best["step"] == records[-1]["step"])


def test_without_pairs_the_model_is_evaluated_and_nothing_trained(pool, labelled, small_model, tmp_path, capsys):
    found = rv.customize(
        small_model,
        imagenet_val=labelled,
        val_data=str(pool),
        name="base",
        logs=tmp_path,
        zeroshot_frequency=1,
        batch_size=256,
        workers=1,
    )
    classes = ["blue", "green", "red"]
    model = rv.load(small_model)
    from PIL import Image

    predicted = model.classifier(classes, ["a photo of a {}."]).predict
    right = [
        predicted([Image.open(path).convert("RGB")])[0] == path.parent.name for path in sorted(labelled.glob("*/*.png"))
    ]
    assert found["zeroshot_top1"] == pytest.approx(np.mean(right), abs=0.09)  # one picture of twelve, by another resize
    assert set(found) == {"zeroshot_top1", "val_loss", "val_accuracy"}
    assert json.loads((tmp_path / "base" / "validation.json").read_text())["val_loss"] == found["val_loss"]
    assert "zeroshot_top1" in capsys.readouterr().out
    with pytest.raises(ReactvlError, match="nothing to train on"):
        rv.customize(small_model)


def test_interpolation_is_chosen_on_validation_data_alone(pool, labelled, small_model, tmp_path, monkeypatch):
    """With a stand-in of `models.interpolation` that mixes the tensors: the table is of its models, the best is written."""
    made = types.ModuleType("reactvl.models.interpolation")

    def interpolated(base, tuned, share):
        import copy

        net = copy.deepcopy(tuned.net)
        old, new = base.net.state_dict(), tuned.net.state_dict()
        net.load_state_dict({name: (1 - share) * old[name] + share * new[name] for name in new})
        return Model(tuned.name, net, tuned.config)

    made.interpolated = interpolated
    monkeypatch.setitem(sys.modules, "reactvl.models.interpolation", made)
    out = tmp_path / "out"
    options = SHORT | {"lr": 0.05}
    tuned = rv.customize(small_model, str(pool), out=out, val_share=0.2, interpolate="0,0.5,1", **options)
    table = json.loads((out / "interpolation.json").read_text())
    assert [row["share"] for row in table["shares"]] == [0, 0.5, 1]
    best = min(table["shares"], key=lambda row: row["val_loss"])
    assert table["best"] == best["share"]
    whole = rv.customize(small_model, str(pool), out=tmp_path / "whole", val_share=0.2, **options)
    wanted = interpolated(rv.load(small_model), whole, table["best"])
    for name, tensor in wanted.net.state_dict().items():
        assert torch.allclose(tensor, tuned.net.state_dict()[name], atol=1e-6), name
    with pytest.raises(ReactvlError, match="never on test labels"):
        rv.customize(small_model, str(pool), out=tmp_path / "no", interpolate=[0.5], **SHORT)


def test_folders_named_by_wordnet_ids_are_imagenets_classes(tmp_path):
    names = imagenet_names()
    assert len(names) == 1000
    assert list(names) == sorted(names)
    assert (names["n01440764"], names["n02123045"], names["n15075141"]) == ("tench", "tabby cat", "toilet paper")
    for code in ("n02123045", "n01440764"):
        (tmp_path / "val" / code).mkdir(parents=True)
        (tmp_path / "val" / code / "a.JPEG").write_bytes(drawing(1))
    for folder in (tmp_path, tmp_path / "val"):
        task, samples = validation_task(folder)
        assert task.classes == ["tench", "tabby cat"]
        assert len(task.templates) == 80
        assert samples.labels.tolist() == [0, 1]
    (tmp_path / "val" / "n00000001").mkdir()
    (tmp_path / "val" / "n00000001" / "a.JPEG").write_bytes(drawing(1))
    with pytest.raises(ReactvlError, match="n00000001 is none of ImageNet's"):
        validation_task(tmp_path)


def test_a_task_with_a_test_split_alone_judges_no_run(tmp_path):
    write_task(tmp_path, ["red", "green"], 1)
    with pytest.raises(ReactvlError, match="never judged by test labels"):
        validation_task(tmp_path)
    with pytest.raises(ReactvlError, match="no such folder"):
        validation_task(tmp_path / "nowhere")


def test_epochs_come_due_with_the_step_that_completes_them():
    often = Often(batch=16, per_epoch=50, steps=10)
    assert [done for done in range(1, 11) if often.due(done, 1)] == [4, 7, 10]
    assert [done for done in range(1, 11) if often.due(done, 2)] == [7]
    assert [done for done in range(1, 11) if often.validation_due(done, 2)] == [7, 10]
    assert not any(often.due(done, 0) or often.validation_due(done, 0) for done in range(1, 11))


def test_a_folder_of_another_pool_validates_too(pool, small_model, tmp_path):
    other = write_pool(tmp_path / "other", shards=1, pairs=20)
    rv.customize(small_model, str(pool), out=tmp_path / "out", val_data=str(other), **SHORT | {"steps": 2})
    [record] = lines(tmp_path / "out" / "validation.jsonl")
    assert record["step"] == 2
    assert 0 < record["val_loss"] < F.cross_entropy(torch.zeros(1, 20), torch.tensor([0])) * 2
