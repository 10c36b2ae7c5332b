"""The evaluation's page says what results.json says, for any number of models, tasks and classes, and stays small enough to send."""

import dataclasses
import re
from html import unescape
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tests_support import drawing

from reactvl.evaluate import examples, page, published_figures
from reactvl.evaluate.results import Scored
from reactvl.heads.zero_shot import Ranking
from reactvl.models import published

HOSTILE = '<img src=x onerror=alert(1)> & "q"'


@dataclasses.dataclass
class Pictures:
    """Images of a task; the same drawing stands for all."""

    labels: np.ndarray
    data: bytes = dataclasses.field(default_factory=lambda: drawing(1))
    asked: int = 0

    def read(self, row: int) -> bytes:
        assert 0 <= row < len(self.labels)
        self.asked += 1
        return self.data


def bins(rng) -> dict:
    count = rng.integers(0, 50, 15).tolist()
    held = [bool(number) for number in count]
    return {
        "confidence": [float(at) / 15 if has else None for at, has in enumerate(held)],
        "accuracy": [float(rng.random()) if has else None for has in held],
        "count": count,
    }


def column(label, against=None, model=None, method="zero-shot", shots=None, section="zero-shot") -> dict:
    return {"label": label, "model": model or label, "method": method, "shots": shots, "seeds": [0], "against": against,
            "section": section}  # fmt: skip


def task_of(name, classes, images, columns, rng, *, multilabel=False, benchmark=None) -> tuple[dict, Scored]:
    """A task's part of the results and its answers, drawn by chance."""
    labels = rng.integers(0, classes, images)
    if multilabel:
        labels = rng.random((images, classes)) < 0.3
    names = [f"class {number} of {name}" for number in range(classes)]
    names[0] = HOSTILE
    rankings, scores = {}, {}
    for place, one in enumerate(columns):
        order = np.stack([rng.permutation(classes)[:5] for _ in range(images)]).astype(np.int32)
        if not multilabel:
            right = rng.random(images) < 0.3 + 0.1 * place
            order[right, 0] = labels[right]
        odds = np.sort(rng.random((images, order.shape[1])).astype(np.float32), axis=1)[:, ::-1]
        rankings[one["label"]] = Ranking(order, odds)
        scores[one["label"]] = {
            "value": 0.3 + 0.1 * place,
            "ece": 0.05,
            "recalls": None if multilabel else rng.random(classes).tolist(),
            "reliability": bins(rng),
            "gain": {"difference": 0.1 * place, "low": 0.05, "high": 0.2} if one["against"] else None,
        }
    task = SimpleNamespace(name=name, classes=names)
    given = Scored(
        task=task, templates=["a {}"], samples=Pictures(labels), rows=np.arange(images), rankings=rankings,
        skipped=[(f"{name}/1.png", "cut short")],
    )  # fmt: skip
    about = {"name": name, "metric": "accuracy", "benchmark": benchmark, "multilabel": multilabel, "images": images, "skipped": 1,
             "classes": names, "templates": ["a {}"], "scores": scores}  # fmt: skip
    return about, given


def results_of(tasks, columns, **more) -> dict:
    models = [one for one in columns if one["label"] == one["model"]]
    return {
        "split": "test",
        "templates": "the tasks' own",
        "level": 0.95,
        "models": [
            {"label": one["label"], "name": one["label"], "parameters": 3, "image_size": 32, "dim": 8, "sha256": "ab" * 32}
            for one in models
        ],
        "columns": columns,
        "tasks": tasks,
        "mean": {
            one["label"]: {"value": 0.4, "tasks": len(tasks), "gain": {"difference": 0.1, "low": 0.02, "high": 0.2}}
            for one in columns
        },
        "mean_name": "mean",
        "elevater": None,
        "captions": [],
    } | more  # fmt: skip


def written(tmp_path, results, scored) -> str:
    path = tmp_path / "report.html"
    page.write(path, results, scored, [], {"image tower": 1.0})
    return path.read_text()


def shown(html: str) -> str:
    """The words of the page, tags left out."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]+>", " ", html)))


COLUMNS = [
    column("ViT-B-32:openai"),
    column("gated-image", "ViT-B-32:openai"),
    column("retrieved means", "ViT-B-32:openai", "ViT-B-32:openai", "retrieved means"),
    column(
        "ViT-B-32:openai: linear-probe, 5 shots", None, "ViT-B-32:openai", "linear-probe", "5", "linear-probe, 5 shots"
    ),
]


def test_models_baselines_and_probes_stand_side_by_side(tmp_path):
    rng = np.random.default_rng(0)
    made = [task_of("dtd", 6, 80, COLUMNS, rng), task_of("imagenet-1k", 9, 60, COLUMNS, rng, benchmark="imagenet-1k")]
    verdict = [
        {"label": "ViT-B-32:openai", "difference": {"difference": 0.1, "low": 0.05, "high": 0.2}, "beaten": True},
        {"label": "retrieved means", "difference": {"difference": -0.01, "low": -0.05, "high": 0.02}, "beaten": False},
    ]
    found = results_of(
        [one for one, _ in made], COLUMNS, mean_name="mean of 20",
        verdicts=[{"model": "gated-image", "against": verdict, "beats_all": False}],
        baselines={"model": "ViT-B-32:openai", "pairs": 1200, "usable_pairs": 1199, "mix": 0.5},
        captions=[{"name": "flickr", "images": 5, "texts": 25, "skipped": 0,
                   "scores": {"gated-image": {"image_to_text": {"1": 0.9}, "text_to_image": {"1": 0.765}}}}],
    )  # fmt: skip
    found["mean"]["retrieved means"] |= {"value": None, "gain": None}
    html = written(tmp_path, found, [one for _, one in made])
    words = shown(html)
    assert "gated-image does not beat retrieved means" in words and "-1.0 [-5.0, 2.0]" in words
    assert "with 1,200 retrieved pairs of which 1,199 could be read" in words
    assert "ViT-B-32:openai (base)" in words and "Linear-probe, 5 shots" in words and "mean of 20" in words
    assert "ViT-B-32:openai imagenet-1k 63.2 30.0 -33.2" in words  # published beside ours
    assert "ViT-B-32:openai mean of ELEVATER's 20 ~56.8 40.0 -16.8" in words
    assert "image to text 90.0" in words and "text to image 76.5" in words
    assert "Calibration" in words and "Most changed classes" in words and "Confusions" in words
    assert "<img src=x" not in html and "onerror=alert(1)&gt;" in html
    assert "dtd/1.png" in words


def test_a_verdict_that_is_good_says_so(tmp_path):
    rng = np.random.default_rng(0)
    about, scored = task_of("dtd", 6, 80, COLUMNS[:2], rng)
    against = [
        {"label": "ViT-B-32:openai", "difference": {"difference": 0.1, "low": 0.05, "high": 0.2}, "beaten": True}
    ]
    verdicts = [{"model": "gated-image", "against": against, "beats_all": True}]
    words = shown(written(tmp_path, results_of([about], COLUMNS[:2], verdicts=verdicts), [scored]))
    assert "gated-image beats every label-free baseline" in words and "does not beat" not in words


def test_changed_classes_are_those_whose_recall_changed_most():
    labels = np.repeat(np.arange(5), 10)
    before, after = np.full(50, 4, np.int32), np.full(50, 4, np.int32)
    after[0:7] = 0  # class 0: 0 to 7; class 1: 0 to 10; class 4: 10 to 6
    after[10:20] = 1
    after[40:44] = 2
    odds = np.full((50, 1), 0.5, np.float32)
    one = Scored(
        task=SimpleNamespace(name="t", classes=list("abcde")), templates=[], samples=Pictures(labels), rows=np.arange(50),
        rankings={"x": Ranking(before[:, None], odds), "y": Ranking(after[:, None], odds)}, skipped=[],
    )  # fmt: skip
    assert examples.most_changed(one, "x", "y") == [1, 0, 4]
    words = shown(examples.changed([one], "x", "y"))
    assert "b 10 of 10 images found, 0 before" in words and "e 6 of 10 images found, 10 before" in words
    assert words.count("was: e") == 2 * examples.OF_CLASS and words.count("now: c") == 4
    words = shown(examples.confused([one], "x", "y"))
    assert "c taken for e 10 images, 10 by x" in words and "e taken for c 4 images, 0 by x" in words


@pytest.mark.parametrize("multilabel", [False, True])
def test_one_model_one_task_and_figures_that_do_not_exist(tmp_path, multilabel):
    rng = np.random.default_rng(1)
    about, scored = task_of("dtd", 3, 20, COLUMNS[:1], rng, multilabel=multilabel)
    score = about["scores"]["ViT-B-32:openai"]
    score |= {"value": None, "recalls": None, "ece": None, "reliability": None}
    found = results_of([about], COLUMNS[:1])
    found["mean"]["ViT-B-32:openai"] |= {"value": None, "gain": None}
    words = shown(written(tmp_path, found, [scored]))
    assert "Evaluation of ViT-B-32:openai" in words and ("Confusions" in words) != multilabel


def test_a_page_of_captions_alone(tmp_path):
    score = {"image_to_text": {"1": 0.5, "5": 1.0}, "text_to_image": {"1": 0.25, "5": 0.75}}
    captions = [{"name": "flickr", "images": 5, "texts": 25, "skipped": 0, "scores": {"ViT-B-32:openai": score}}]
    found = results_of([], COLUMNS[:1], captions=captions)
    found["mean"]["ViT-B-32:openai"] |= {"value": None, "gain": None}
    words = shown(written(tmp_path, found, []))
    assert "flickr image to text 50.0 100.0" in words and "Scores" not in words


def test_twenty_one_tasks_of_five_models_are_one_page_of_bounded_size(tmp_path):
    rng = np.random.default_rng(2)
    columns = [column("base"), *(column(f"model {number}", "base") for number in range(4))]
    made = [task_of(f"task {number}", 1000 if number == 0 else 10, 400, columns, rng) for number in range(21)]
    html = written(tmp_path, results_of([one for one, _ in made], columns), [one for _, one in made])
    assert len(html.encode()) < 6_000_000
    assert 100 < html.count("<img ") <= 2 * examples.PICTURES
    assert sum(one.samples.asked for _, one in made) == html.count("<img ")
    assert shown(html).count("images found") >= 21 * 2


def test_published_figures_are_those_of_the_model_in_any_spelling():
    gated = "react_ViT-B-32:react_clip_ret_laion400m"
    for name in (gated, "react_ViT-B-32-quickgelu:REACT-clip-ret-laion400m"):
        assert [(one.task, one.value) for one in published_figures.of_model(name)] == [("imagenet-1k", 68.6)]
    assert {one.value for one in published_figures.of_model("ViT-B/32")} == {63.2, 56.8, 65.4, 63.3, 78.4, 80.4}
    for name in ("run/gated-image", "ViT-B-32", "ViT-B-32:weights.pt", "nothing:openai", "hf-hub:a/b"):
        assert published_figures.of_model(name) == []
    assert len({(one.task, one.of, one.model, one.method, one.shots) for one in published_figures.figures()}) == len(
        published_figures.figures()
    )


def test_the_published_figures_in_the_docs_are_those_of_the_code():
    """docs/results.md has a row a checkpoint and a row a way of adapting on ELEVATER, and calls nothing reproduced that is not."""
    text = (Path(__file__).parents[2] / "docs" / "results.md").read_text()
    for release in published.RELEASES:
        row = f"| `{release.model}:{release.tag}` | {release.top1} | {release.base_top1} | `{published_figures.base_of(release)}` |"
        assert text.count(row) == 1
    ways = {("zero-shot", None): "zero-shot", ("linear-probe", "5"): "linear probe, 5 shots", ("finetune", "5"): "fine-tuning, 5 shots",
            ("linear-probe", "all"): "linear probe, all images", ("finetune", "all"): "fine-tuning, all images"}  # fmt: skip
    for (method, shots), name in ways.items():
        pair = [
            one
            for one in published_figures.figures()
            if (one.task, one.method, one.shots) == ("elevater", method, shots)
        ]
        clip, react = sorted(pair, key=lambda one: one.value)
        assert f"| {name} | ~{clip.value} | ~{react.value} |" in text and clip.eye and react.eye
