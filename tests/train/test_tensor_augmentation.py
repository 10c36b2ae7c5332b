"""The tensor path is timm's recipe: its parameters' distributions, its result on the same parameters, the same for any batching."""

import io
import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

from reactvl.clip_imports import timm
from reactvl.manifest import ReactvlError
from reactvl.models import load
from reactvl.pool.images import BadImage, to_pixels
from reactvl.train.augmentation import AugmentationCfg, configure
from reactvl.train.draws import Draws, philox, uniforms
from reactvl.train.tensor_augmentation import (
    TensorAugment,
    argument,
    cropped,
    erasures,
    jitters,
    layer_of,
    policy_of,
)

SAMPLES = np.arange(4000, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
SAME = 1e-4  # below this p-value two samples are held to be of different distributions


def jpeg(seed: int = 0, size=(90, 70)) -> bytes:
    blocks = np.random.default_rng(seed).integers(0, 256, (9, 7, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize(size, Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    return file.getvalue()


def test_philox_gives_the_published_words():
    """The known answers of Random123, kat_vectors."""
    ones = 0xFFFFFFFF
    assert philox((0, 0, 0, 0), (0, 0)) == (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)
    assert philox((ones,) * 4, (ones,) * 2) == (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)
    assert philox((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0)) == (
        0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1,
    )  # fmt: skip


def test_draws_of_a_batch_are_those_of_its_samples():
    epochs = np.arange(5) * 7
    batch = Draws(11, epochs, SAMPLES[:5])[3]
    for at in range(5):
        assert [each[at] for each in batch] == list(uniforms(11, 3, int(epochs[at]), int(SAMPLES[at])))
    first, second = Draws(11, np.zeros(4000), SAMPLES)[0]
    assert stats.kstest(first, "uniform").pvalue > SAME and stats.kstest(second, "uniform").pvalue > SAME
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.08


def test_crops_are_distributed_as_timms(small_model):
    augment = TensorAugment(load(small_model), AugmentationCfg(), seed=1)
    for height, width in ((384, 300), (60, 400)):  # the second falls back to a centre crop now and then
        ours = np.array([augment.box(height, width, 0, int(sample)) for sample in SAMPLES])
        theirs_of = timm.data.transforms.RandomResizedCropAndInterpolation.get_params
        random.seed(5)
        image = Image.new("RGB", (width, height))
        theirs = np.array([theirs_of(image, (0.08, 1.0), (0.75, 1.3333)) for _ in SAMPLES])
        for column in range(4):
            assert stats.ks_2samp(ours[:, column], theirs[:, column]).pvalue > SAME, (height, column)
        assert (ours[:, 0] + ours[:, 2] <= height).all() and (ours[:, 1] + ours[:, 3] <= width).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (700, 2)])
def test_crops_of_extreme_shapes_lie_within(small_model, shape):
    augment = TensorAugment(load(small_model), AugmentationCfg(), seed=1)
    for sample in range(200):
        top, left, height, width = augment.box(*shape, 0, sample)
        assert top >= 0 and left >= 0 and 1 <= height <= shape[0] - top and 1 <= width <= shape[1] - left


@pytest.mark.parametrize("increasing", [True, False])
def test_arguments_are_timms_at_every_magnitude(increasing):
    auto = timm.data.auto_augment
    for name in auto.rand_augment_choices("", increasing):
        to_argument = auto.LEVEL_TO_ARG[name]
        if to_argument is None:
            continue
        for magnitude in (0.0, 0.3, 2.5, 8.999, 9.0, 9.7, 10.0):
            for negative in (False, True):
                random.random, kept = (lambda sign=negative: 0.9 if sign else 0.1), random.random
                try:
                    wanted = to_argument(magnitude, {"translate_pct": 0.45})
                finally:
                    random.random = kept
                wanted = wanted[0] if isinstance(wanted, tuple) else wanted
                made = argument(name, np.array([magnitude]), np.array([negative]))[0]
                assert made == pytest.approx(wanted, abs=1e-12), (name, magnitude, negative)


def test_operations_and_magnitudes_are_drawn_as_timm_draws_them():
    """Against timm's own RandAugment whose operations write down what they are given."""
    auto, seen = timm.data.auto_augment, []
    theirs = auto.rand_augment_transform("rand-m9-mstd0.5-inc1", {"interpolation": Image.Resampling.BICUBIC})
    for op in theirs.ops:
        op.aug_fn = lambda image, *args, name=op.name, **_: (seen.append((name, *args[:1])), image)[1]
    random.seed(1), np.random.seed(1)
    for _ in SAMPLES:
        theirs(None)
    policy = policy_of("rand-m9-mstd0.5-inc1")
    assert policy.operations == tuple(op.name for op in theirs.ops)
    draws, ours = Draws(3, np.zeros(len(SAMPLES)), SAMPLES), []
    for layer in range(2):
        names, arguments, cubic = layer_of(policy, draws, layer, "bicubic")
        assert cubic.all()
        ours += [(name, value) for name, value in zip(names.tolist(), arguments.tolist(), strict=True) if name]
    assert stats.binomtest(len(ours), 2 * len(SAMPLES), 0.5).pvalue > SAME
    count = lambda drawn: [sum(one[0] == name for one in drawn) for name in policy.operations]  # noqa: E731
    assert stats.chi2_contingency([count(ours), count(seen)]).pvalue > SAME
    for name in policy.operations:
        one, other = ([each[1] for each in drawn if each[0] == name and len(each) > 1] for drawn in (ours, seen))
        if other:
            assert stats.ks_2samp(one, other).pvalue > SAME, name


def test_boxes_are_erased_as_timm_erases_them():
    config, size = AugmentationCfg(re_prob=0.6), 64
    (boxes,) = erasures(config, Draws(3, np.zeros(len(SAMPLES)), SAMPLES), size)
    theirs = timm.data.random_erasing.RandomErasing(0.6, mode="const", max_count=1, device="cpu")
    random.seed(2)
    found = []
    for _ in range(2000):
        hole = theirs(torch.ones(1, size, size))[0] == 0
        if hole.any():
            lines, columns = (torch.nonzero(hole.any(axis)).flatten() for axis in (1, 0))
            found.append((lines[0], columns[0], len(lines), len(columns)))
    found, ours = np.array(found), boxes[boxes[:, 2] > 0]
    assert abs(len(ours) / len(boxes) - len(found) / 2000) < 0.06
    for column in range(4):
        assert stats.ks_2samp(ours[:, column], found[:, column]).pvalue > SAME, column
    several = erasures(AugmentationCfg(re_prob=1.0, re_count=3), Draws(3, np.zeros(len(SAMPLES)), SAMPLES), size)
    assert np.allclose([(box[:, 2] > 0).mean() for box in several], [1, 2 / 3, 1 / 3], atol=0.04)


def test_jitter_is_drawn_as_torchvision_draws_it():
    order, factors = jitters((0.4, 1.5, 0.0), Draws(1, np.zeros(len(SAMPLES)), SAMPLES))
    assert np.allclose(factors.min(0), [0.6, 0, 1], atol=0.01) and np.allclose(factors.max(0), [1.4, 2.5, 1], atol=0.01)
    assert stats.kstest((factors[:, 0] - 0.6) / 0.8, "uniform").pvalue > SAME
    assert stats.chisquare(np.unique(order, axis=0, return_counts=True)[1]).pvalue > SAME


def test_the_whole_is_pillows_on_the_same_parameters(small_model):
    """Each sample's own draws, carried out by timm's functions on Pillow one picture at a time: the pixels agree but for the
    last place of those operations that differ there."""
    model, auto = load(small_model), timm.data.auto_augment
    augment = TensorAugment(model, AugmentationCfg(re_prob=0.0), seed=2)
    count = 60
    crops = torch.stack([augment.in_worker(jpeg(at), 1, at) for at in range(count)])
    epochs, samples = np.ones(count), np.arange(count)
    made = augment.on_device(crops, epochs, samples)
    draws, images = Draws(2, epochs, samples), []
    layers = [layer_of(augment.policy, draws, layer, "bicubic") for layer in range(2)]
    for at in range(count):
        image = Image.fromarray(crops[at].permute(1, 2, 0).numpy())
        if draws[11][0][at] < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for names, arguments, _ in layers:
            if names[at] and not (names[at].startswith("Posterize") and arguments[at] == 0):
                given = arguments[at] if names[at][:3] not in ("Pos", "Sol") else int(arguments[at])
                image = auto.NAME_TO_OP[names[at]](image, given, fillcolor=augment.fill, resample=Image.Resampling.BICUBIC) \
                    if auto.LEVEL_TO_ARG[names[at]] else auto.NAME_TO_OP[names[at]](image)  # fmt: skip
        images.append(image)
    wanted = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in images])
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (model.mean, model.std))
    off = ((made * std + mean) * 255 - wanted).abs()
    assert made.dtype == torch.float32 and {name for names, _, _ in layers for name in names.tolist()} > {
        "Rotate",
        "ShearX",
    }
    assert (off > 0.01).float().mean() < 0.01


def test_batching_changes_nothing(small_model):
    augment = TensorAugment(load(small_model), AugmentationCfg(re_prob=0.7, re_count=2), seed=2)
    crops = torch.stack([augment.in_worker(jpeg(at), 0, at) for at in range(24)])
    epochs, samples = np.arange(24) % 3, SAMPLES[:24]
    whole = augment.on_device(crops, epochs, samples)
    parts = [
        TensorAugment(load(small_model), augment.config, seed=2).on_device(crops[some], epochs[some], samples[some])
        for some in (np.arange(24)[::-1].copy()[:11], np.arange(24)[::-1].copy()[11:])
    ]
    assert torch.equal(torch.cat(parts).flip(0), whole)
    assert not torch.equal(augment.on_device(crops, epochs + 1, samples), whole)
    assert not torch.equal(
        TensorAugment(load(small_model), augment.config, seed=3).on_device(crops, epochs, samples), whole
    )
    assert torch.equal(
        crops, torch.stack([augment.in_worker(jpeg(at), 0, at) for at in range(24)])
    )  # left as they were
    assert augment.on_device(torch.empty(0), np.empty(0), np.empty(0)).shape == (0, 3, 32, 32)


def test_erased_pixels_are_normal_noise_and_the_rest_is_untouched(small_model):
    augment = TensorAugment(load(small_model), configure(["simple", "re_prob=1"]), seed=2)
    plain = TensorAugment(load(small_model), configure(["simple"]), seed=2)
    crops = torch.zeros(300, 3, 32, 32, dtype=torch.uint8)
    epochs, samples = np.zeros(300), SAMPLES[:300]
    made, before = (each.on_device(crops, epochs, samples) for each in (augment, plain))
    changed = made != before
    (boxes,) = erasures(augment.config, Draws(2, epochs, samples), 32)
    assert np.array_equal(changed.flatten(2).sum(2)[:, 0].numpy(), boxes[:, 2] * boxes[:, 3])
    noise = made[changed].numpy()
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03
    assert not np.array_equal(made[0][changed[0]][:20], made[1][changed[1]][:20])


@pytest.mark.parametrize("shape", [(90, 70), (70, 200), (33, 32), (32, 32), (5, 400), (20, 10)])
def test_a_crop_is_resized_as_pillow_does_within_2(shape):
    array = np.random.default_rng(1).integers(0, 256, (*shape, 3), dtype=np.uint8)
    made = cropped(array[1:, 2:], 32, "bicubic")
    wanted = np.array(Image.fromarray(array[1:, 2:]).resize((32, 32), Image.Resampling.BICUBIC)).transpose(2, 0, 1)
    assert made.shape == (3, 32, 32) and made.is_contiguous()
    assert np.abs(made.numpy().astype(int) - wanted).max() <= 2


def test_colour_jitter_is_applied_where_timm_applies_it(small_model):
    model = load(small_model)
    both = TensorAugment(model, AugmentationCfg(), seed=0)
    assert both.policy and both.jitter is None  # timm: none beside RandAugment
    alone = TensorAugment(model, configure(["auto_augment=None", "re_prob=0", "hflip=0"]), seed=0)
    assert alone.policy is None and alone.jitter == (0.4, 0.4, 0.4)
    crops = torch.full((50, 3, 32, 32), 100, dtype=torch.uint8)
    values = alone.on_device(crops, np.zeros(50), SAMPLES[:50]).flatten(1)[:, 0]
    assert len(values.unique()) > 20


def test_no_augmentation_is_the_evaluations_view(small_model):
    model = load(small_model)
    augment = TensorAugment(model, configure(["none"]), seed=0)
    pixels = augment.in_worker(jpeg(), 0, 0)
    assert np.array_equal(pixels.numpy(), to_pixels(jpeg(), 32))
    made = augment.on_device(pixels[None], np.zeros(1), np.zeros(1))
    assert torch.allclose(made, model.normalise(pixels[None]), atol=1e-6)


def test_damaged_bytes_are_a_bad_image(small_model):
    with pytest.raises(BadImage, match="not an image"):
        TensorAugment(load(small_model), AugmentationCfg(), seed=0).in_worker(b"nothing", 0, 0)


@pytest.mark.parametrize("setting", ["auto_augment=augmix-m3", "auto_augment=original", "auto_augment=rand-m9-tweights",
                                     "auto_augment=rand-m9-3a"])  # fmt: skip
def test_what_only_pillow_has_is_refused(small_model, setting):
    with pytest.raises(ReactvlError, match="augment-on workers"):
        TensorAugment(load(small_model), AugmentationCfg(auto_augment=setting.partition("=")[2]), seed=0)
    with pytest.raises(ReactvlError, match="hue"):
        TensorAugment(load(small_model), configure(["color_jitter=(0.4,0.4,0.4,0.1)", "auto_augment=None"]), seed=0)


def test_policies_are_read_as_timm_reads_them():
    made = policy_of("rand-n3-m7-p0.8-mstd101-mmax15")
    assert made[1:] == (3, 0.8, 7.0, math.inf, 15.0) and "Posterize" in made.operations
