"""The zero-shot head is ELEVATER's, restated here in float64, and open_clip's gives the same scores on every task that
comes along; rankings are those of a full sort."""

from pathlib import Path

import numpy as np
import pytest

from reactvl.heads.features import encode_images
from reactvl.heads.metrics import METRICS
from reactvl.heads.zero_shot import logits, rank, rank_scores, softmax, zero_shot_head
from reactvl.models import load
from reactvl.models.encoder import Encoder
from reactvl.tasks import find
from reactvl.tasks.templates import read_templates

DEMO = Path(__file__).parents[2] / "demo"


def test_head_agrees_with_a_float64_restatement(encoder):
    classes = ["red panda", "raccoon", "a class {with} braces", "ox"]
    templates = ["a photo of a {}.", "{}", "many {}s, drawn."]
    expected = []
    for name in classes:
        texts = [template.replace("{}", name) for template in templates]
        vectors = encoder.model.encode_text(texts).double().numpy()
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        mean = vectors.mean(axis=0)
        expected.append(mean / np.linalg.norm(mean))
    head = zero_shot_head(encoder, classes, templates)
    assert head.dtype == np.float32 and head.shape == (4, 32)
    np.testing.assert_allclose(head, expected, atol=2e-6)


def test_the_eighty_templates_fill_a_head(encoder):
    head = zero_shot_head(encoder, ["fox", "fox"], read_templates("openai"))
    np.testing.assert_array_equal(head[0], head[1])
    np.testing.assert_allclose(np.linalg.norm(head, axis=1), 1, atol=1e-6)


def test_ranking_agrees_with_a_float64_softmax_and_a_stable_sort():
    rng = np.random.default_rng(0)
    features, weights = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in rng.normal(size=(2, 50, 16)))
    features, weights = features.astype(np.float32), weights.astype(np.float32)
    logits = 100 * features.astype(np.float64) @ weights.T.astype(np.float64)
    odds = np.exp(logits - logits.max(axis=1, keepdims=True))
    odds /= odds.sum(axis=1, keepdims=True)
    ranking = rank(features, weights, k=5)
    assert ranking.classes.dtype == np.int32 and ranking.probabilities.dtype == np.float32
    np.testing.assert_array_equal(ranking.classes, np.argsort(-logits, axis=1, kind="stable")[:, :5])
    np.testing.assert_allclose(
        ranking.probabilities, np.take_along_axis(odds, ranking.classes.astype(int), 1), rtol=1e-3, atol=1e-7
    )


def test_equal_logits_rank_the_first_class_first_and_underflow_keeps_the_order():
    features = np.array([[1.0, 0.0]], np.float32)
    weights = np.array([[-1, 0], [1, 0], [1, 0], [-0.9, np.sqrt(0.19)]], np.float32)
    ranking = rank(features, weights, k=4)
    assert ranking.classes.tolist() == [[1, 2, 3, 0]]
    assert ranking.probabilities[0, :2].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(("images", "classes"), [(0, 3), (3, 1), (3, 2)])
def test_few_classes_and_no_image(images, classes):
    ranking = rank(np.ones((images, 4), np.float32), np.eye(classes, 4, dtype=np.float32))
    assert ranking.classes.shape == ranking.probabilities.shape == (images, min(classes, 5))
    assert ranking.predicted.dtype == np.int64 and len(ranking.predicted) == images


def test_ranks_of_scores_and_with_a_bias_are_those_of_the_logits():
    rng = np.random.default_rng(1)
    features, weights, bias = (rng.normal(size=shape).astype(np.float32) for shape in ((30, 8), (6, 8), (6,)))
    weights /= 100  # logits of about 3
    found = rank(features, weights, k=3, bias=bias)
    scores = logits(features, weights, bias)
    np.testing.assert_array_equal(found.classes, np.argsort(-scores, axis=1, kind="stable")[:, :3])
    given = softmax(scores.astype(np.float64))
    ranked = rank_scores(given, k=3)
    np.testing.assert_array_equal(ranked.classes, found.classes)
    np.testing.assert_allclose(ranked.probabilities, found.probabilities, atol=1e-6)
    assert rank_scores(np.zeros((2, 3))).classes.tolist() == [[0, 1, 2]] * 2


@pytest.fixture(scope="module")
def base():
    return Encoder(load(str(DEMO / "base")), device="cpu", precision="auto")


@pytest.mark.parametrize("name", sorted(path.name for path in (DEMO / "tasks").iterdir() if path.is_dir()))
def test_the_two_rules_differ_by_at_most_a_tenth_of_a_point_on_every_task(base, name):
    """In the arithmetic that a run takes by itself; two of the seven templates, for the sake of time."""
    (task,) = find([name], DEMO / "tasks")
    samples = task.samples("test")
    batches = list(encode_images(base, samples.read, range(len(samples))))
    labels = samples.labels[[row for batch in batches for row in batch.rows]]
    vectors = np.concatenate([batch.vectors for batch in batches])
    assert len(labels) > 100
    scores = [
        METRICS[task.metric](
            labels, softmax(logits(vectors, zero_shot_head(base, task.classes, task.templates[:2], rule=rule)))
        )
        for rule in ("elevater", "open_clip")
    ]
    assert abs(scores[0] - scores[1]) <= 0.001
    assert scores[0] > 1.5 / len(task.classes)  # it has something to say
