"""Baselines, probes, sweeps and verdicts beside the models: what stands in the table and in results.json."""

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import accuracy_score
from tests_support import COLOURS

from reactvl.evaluate import evaluate
from reactvl.handles.pairs import Pairs
from reactvl.manifest import ReactvlError
from reactvl.models import load
from reactvl.models.encoder import Encoder
from reactvl.models.interpolation import interpolated
from reactvl.pool.images import BadImage, to_pixels


@pytest.fixture
def towers(monkeypatch):
    """Counts the images that go through an image tower."""
    seen = []
    original = Encoder.images
    monkeypatch.setattr(Encoder, "images", lambda self, pixels: seen.append(len(pixels)) or original(self, pixels))
    return seen


def run(models, data, out, **options):
    return evaluate(models, data=data, out=out, precision="fp32", device="cpu", **options)


def test_image_vectors(folder, model):
    """Labels and vectors of the readable pictures of a split, by plain calls."""
    pixels, labels = [], []
    for label, name in enumerate(sorted(COLOURS)):
        for path in sorted((folder / name).iterdir()):
            try:
                pixels.append(torch.from_numpy(to_pixels(path.read_bytes(), 32)))
                labels.append(label)
            except BadImage:
                continue
    return np.array(labels), load(model).encode_image(torch.stack(pixels)).numpy()


test_image_vectors.__test__ = False


def test_baselines_come_from_the_pairs_that_the_customized_model_names(
    models, colours, customized, retrieved, tmp_path, towers
):
    scores = run([models[0], customized], colours, tmp_path / "out")
    found = scores.results
    assert [column["method"] for column in found["columns"]] == [
        "zero-shot", "retrieved means", "retrieved linear", "zero-shot",
    ]  # fmt: skip
    assert sum(towers) == 2 * 14  # the pairs' vectors are those of the embeddings

    pairs = Pairs(retrieved)
    table = pairs.table(["class_id", "part", "row"]).to_pylist()
    vectors = np.stack([pairs.embeddings.parts[row["part"]].images()[row["row"]] for row in table]).astype(np.float32)
    ids = np.array([row["class_id"] for row in table])
    labels, shown = test_image_vectors(colours / "colours/test", models[0])
    order = [list(COLOURS).index(name) for name in sorted(COLOURS)]
    unit = lambda v: v / np.linalg.norm(v, axis=-1, keepdims=True)  # noqa: E731
    text = load(models[0]).encode_text([f"a photo of a {name}." for name in sorted(COLOURS)]).numpy()
    means = unit(np.stack([vectors[ids == one].mean(axis=0) for one in order]))
    predicted = (shown @ unit(means + text).T).argmax(axis=1)
    task = found["tasks"][0]["scores"]
    assert task["retrieved means"]["value"] == pytest.approx(accuracy_score(labels, predicted))
    assert task["retrieved means"]["classes_without_pairs"] == 0
    assert task["retrieved means"]["gain"]["difference"] == pytest.approx(
        task["retrieved means"]["value"] - task["base"]["value"]
    )
    assert found["baselines"] == {"model": "base", "pairs": len(pairs), "usable_pairs": len(pairs), "mix": 0.5}

    [verdict] = found["verdicts"]
    assert verdict["model"] == "tuned" and [one["label"] for one in verdict["against"]] == [
        "base", "retrieved means", "retrieved linear",
    ]  # fmt: skip
    for one in verdict["against"]:
        expected = task["tuned"]["value"] - task[one["label"]]["value"]
        assert one["difference"]["difference"] == pytest.approx(expected)
        assert one["beaten"] == (one["difference"]["low"] > 0)
    assert verdict["beats_all"] == all(one["beaten"] for one in verdict["against"])
    last = scores.table().splitlines()[-1]
    assert last.startswith("above every label-free baseline: tuned" if verdict["beats_all"] else "tuned: not above ")
    header = scores.table().splitlines()[0].split("  ")
    assert [name.strip() for name in header if name.strip()] == [
        "base (base)",
        "retrieved means",
        "retrieved linear",
        "tuned",
    ]


def test_pairs_of_another_model_are_encoded_once(models, colours, retrieved, tmp_path, towers):
    first = run(models[1], colours, tmp_path / "out", pairs=retrieved)
    count = len(Pairs(retrieved))
    assert sum(towers) == 14 + count and first.results["baselines"]["usable_pairs"] == count
    towers.clear()
    again = run(models[1], colours, tmp_path / "again", pairs=retrieved, features=tmp_path / "out/features")
    assert not towers and again.results == first.results
    without = run(models[1], colours, tmp_path / "without", pairs=retrieved, baselines=False)
    assert len(without.results["columns"]) == 1 and without.results["baselines"] is None


def test_synonyms_are_a_baseline_where_classes_have_them(models, colours, tmp_path):
    names = "blue|azure\ngreen\nred|crimson|scarlet\n"
    (tmp_path / "names.txt").write_text(names)
    found = run(models[:2], colours, tmp_path / "out", classes=str(tmp_path / "names.txt"), templates="a {}").results
    assert [column["label"] for column in found["columns"]] == ["base", "synonyms", "locked-text"]
    labels, shown = test_image_vectors(colours / "colours/test", models[0])
    model = load(models[0])
    head = []
    for line in names.splitlines():
        mean = model.encode_text([f"a {name}" for name in line.split("|")]).numpy().mean(axis=0)
        head.append(mean / np.linalg.norm(mean))
    expected = accuracy_score(labels, (shown @ np.stack(head).T).argmax(axis=1))
    assert found["tasks"][0]["scores"]["synonyms"]["value"] == pytest.approx(expected)
    assert found["tasks"][0]["classes"] == ["blue", "green", "red"]


def test_a_sweep_between_base_and_tuned_is_of_interpolated_models(models, colours, tmp_path, towers):
    scores = run(models[:2], colours, tmp_path / "out", interpolate=[0.75, 0.25])
    assert [model["label"] for model in scores.results["models"]] == [
        "base", "locked-text", "locked-text@0.25", "locked-text@0.75",
    ]  # fmt: skip
    between = interpolated(load(models[0]), load(models[1]), 0.25)
    assert scores.results["models"][2]["sha256"] == between.id.sha256
    own = run(between, colours, tmp_path / "own").results
    assert own["tasks"][0]["scores"][own["models"][0]["label"]]["value"] == pytest.approx(
        scores.results["tasks"][0]["scores"]["locked-text@0.25"]["value"]
    )
    for share in (0, 1, 1.5):
        with pytest.raises(ReactvlError, match="interpolate"):
            run(models[:2], colours, tmp_path / "x", interpolate=[share])
    with pytest.raises(ReactvlError, match="name the base and at least one"):
        run(models[:1], colours, tmp_path / "x", interpolate=[0.5])


def test_probes_stand_in_tables_of_their_own(models, colours, tmp_path, towers):
    given = {"probe": ["linear"], "shots": ["2", "all"], "seeds": [0, 3]}
    scores = run(models[:2], colours, tmp_path / "out", **given)
    found = scores.results
    assert [column["section"] for column in found["columns"]] == ["zero-shot"] * 2 + ["linear-probe, 2 shots"] * 2 + [
        "linear-probe, all images"
    ] * 2
    assert sum(towers) == 2 * (14 + 23)
    task = found["tasks"][0]["scores"]
    few = task["base: linear-probe, 2 shots"]
    assert len(few["seeds"]) == 2 and few["value"] == pytest.approx(np.mean(few["seeds"])) and len(few["chosen"]) == 2
    assert [one["images"] for one in few["chosen"]] == [6, 6]
    assert [one["images"] for one in task["base: linear-probe, all images"]["chosen"]] == [23, 23]
    assert few["gain"] is None and task["locked-text: linear-probe, 2 shots"]["gain"] is not None
    assert task["base: linear-probe, all images"]["value"] > 0.9  # colours are easy
    table = scores.table()
    assert "\n\nlinear-probe, 2 shots\n" in table and "\n\nlinear-probe, all images\n" in table
    towers.clear()
    again = run(models[:2], colours, tmp_path / "again", features=tmp_path / "out/features", **given)
    assert not towers and again.results == found


def test_a_stopped_probe_goes_on_behind_the_last_draw(models, colours, tmp_path, monkeypatch):
    from reactvl.evaluate import probes

    given = {"probe": ["linear"], "shots": ["2"], "seeds": [0, 1, 2]}
    whole = run(models[:1], colours, tmp_path / "whole", **given)
    original, seen = probes.probe_task, []

    def stopping(*args, **options):
        if len(seen) == 2:
            raise KeyboardInterrupt
        seen.append(options["seeds"])
        return original(*args, **options)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(probes, "probe_task", stopping)
        run(models[:1], colours, tmp_path / "out", **given)
    after = []
    monkeypatch.setattr(
        probes, "probe_task", lambda *args, **options: after.append(options["seeds"]) or original(*args, **options)
    )
    resumed = run(models[:1], colours, tmp_path / "out", **given)
    assert seen == [[0], [1]] and after == [[2]] and resumed.results == whole.results


def test_several_processes_give_the_same_features(models, colours, tmp_path, monkeypatch):
    one = run(models[:1], colours, tmp_path / "one", probe=["linear"], shots=["2"], seeds=[0])
    two = run(models[:1], colours, tmp_path / "two", probe=["linear"], shots=["2"], seeds=[0], executor="processes:2")
    assert two.results["tasks"][0]["skipped"] == one.results["tasks"][0]["skipped"] == 1
    for part in sorted((tmp_path / "one/features").rglob("*.npy")):
        other = tmp_path / "two" / part.relative_to(tmp_path / "one")
        assert np.allclose(np.load(part), np.load(other), atol=1e-6)
        key = f"metadata/metadata_{part.stem.rsplit('_', 1)[1]}.parquet"
        assert pq.read_table(part.parents[1] / key).equals(pq.read_table(other.parents[1] / key))


def test_prediction_files_are_merged_into_the_leaderboards_zip(models, colours, tmp_path):
    import zipfile

    out = tmp_path / "out"
    scores = run(models[:1], colours, out, probe=["linear"], shots=["2"], seeds=[0, 1], save_predictions=True)
    files = sorted(str(path.relative_to(out)) for path in (out / "elevater").rglob("*.json"))
    assert files == ["elevater/base/linear-probe_2/colours.json", "elevater/base/zero-shot/colours.json"]
    probed = json.loads((out / files[0]).read_text())
    assert np.shape(probed["predictions"]) == (2, 15, 3) and probed["rnd_seeds"] == [0, 1] and probed["n_shot"] == 2
    assert probed["num_trainable_params"] == 3 * 33
    zero = json.loads((out / files[1]).read_text())
    model = load(models[0])
    assert zero["num_params"] == sum(p.numel() for p in model.net.parameters())
    assert zero["num_visual_params"] == sum(p.numel() for p in model.net.visual.parameters())
    predictions = np.array(zero["predictions"][0])
    labels, shown = test_image_vectors(colours / "colours/test", models[0])
    text = model.encode_text([f"a photo of a {name}." for name in sorted(COLOURS)]).numpy()
    odds = torch.softmax(torch.from_numpy(100 * shown @ text.T), dim=1).numpy()
    unread = 10  # red/0.png: of an image that could not be read every class is as likely
    assert np.allclose(predictions[unread], 1 / 3, atol=1e-6)
    assert np.allclose(np.delete(predictions, unread, axis=0), odds, atol=1e-4)
    assert accuracy_score(labels, odds.argmax(axis=1)) == pytest.approx(
        scores.results["tasks"][0]["scores"]["base"]["value"]
    )
    merged = evaluate(submission=out / "elevater/base/linear-probe_2")
    with zipfile.ZipFile(merged) as archive:
        assert json.loads(archive.read("all_predictions.json"))["data"][0]["dataset_name"] == "colours"
    with pytest.raises(ReactvlError, match="give it alone"):
        evaluate(models[:1], submission=out)


def test_captions_are_scored_by_recall(models, tmp_path, towers):
    import io
    import tarfile

    from tests_support import drawing

    home = tmp_path / "data/pictures"
    (home / "test").mkdir(parents=True)
    (home / "dataset_type.txt").write_text("retrieval")
    texts = {f"{n:03d}": [f"number {n}", f"{COLOURS[n % 3]} thing {n}"] for n in range(8)}
    with tarfile.open(home / "test/0.tar", "w") as tar:
        for number, (key, captions) in enumerate(texts.items()):
            for ext, data in (("png", drawing(number, "png")), ("txt", "\n".join(captions).encode())):
                data = data[:50] if (number, ext) == (3, "png") else data
                member = tarfile.TarInfo(f"{key}.{ext}")
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    scores = run(models[:2], tmp_path / "data", tmp_path / "out")
    [found] = scores.results["captions"]
    assert (found["images"], found["texts"], found["skipped"]) == (7, 14, 1)
    kept = [n for n in range(8) if n != 3]
    for name in models[:2]:
        model = load(name)
        images = model.encode_image(
            torch.stack([torch.from_numpy(to_pixels(drawing(n, "png"), 32)) for n in kept])
        ).numpy()
        words = model.encode_text([text for n in kept for text in texts[f"{n:03d}"]]).numpy()
        cosines = images @ words.T
        owner = np.repeat(np.arange(7), 2)
        for k in (1, 5):
            first = np.argsort(-cosines, axis=1, kind="stable")[:, :k]
            expected = np.mean([(owner[row] == image).any() for image, row in enumerate(first)])
            assert found["scores"][name.split("/")[-1]]["image_to_text"][str(k)] == pytest.approx(expected)
            first = np.argsort(-cosines.T, axis=1, kind="stable")[:, :k]
            expected = np.mean([owner[text] in row for text, row in enumerate(first)])
            assert found["scores"][name.split("/")[-1]]["text_to_image"][str(k)] == pytest.approx(expected)
    assert scores.table().startswith("R@1, R@5, R@10") and "pictures, text to image" in scores.table()
    assert pq.read_table(tmp_path / "out/skipped.parquet").to_pylist()[0]["image"].endswith("003.png")
    towers.clear()
    assert (
        run(models[:2], tmp_path / "data", tmp_path / "b", features=tmp_path / "out/features").results == scores.results
    )
    assert not towers
