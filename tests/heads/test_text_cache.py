"""Text vectors are encoded once for a tower and its texts, whatever else changes; damage and other towers are seen."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests_support import SMALL

from reactvl.heads import text_cache
from reactvl.heads.text_cache import TextCache
from reactvl.heads.zero_shot import zero_shot_head
from reactvl.models import text_head
from reactvl.models.encoder import Encoder
from reactvl.models.model import Model, construct

CLASSES, TEMPLATES = [["ox", "bullock"], "fox"], ["a {}.", "the {}"]


def made(seed: int = 0, precision: str = "fp32", config=SMALL) -> Encoder:
    torch.manual_seed(seed)
    return Encoder(Model("small", construct(config), config), device="cpu", precision=precision)


@pytest.fixture
def counted(monkeypatch):
    """The texts that any encoder encodes."""
    seen = []
    real = Encoder.texts

    def texts(self, texts):
        seen.extend(texts)
        return real(self, texts)

    monkeypatch.setattr(Encoder, "texts", texts)
    return seen


def heads_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("head-*.npz"))


def test_a_second_head_encodes_nothing_and_is_the_same(tmp_path, counted):
    plain = zero_shot_head(made(), CLASSES, TEMPLATES)
    assert len(counted) == 4
    first = zero_shot_head(made(), CLASSES, TEMPLATES, cache=tmp_path)
    counted.clear()
    told = []
    second = zero_shot_head(made(precision="bf16"), CLASSES, TEMPLATES, cache=tmp_path, advance=told.append)
    assert not counted and told == [4]
    np.testing.assert_array_equal(first, plain)
    np.testing.assert_array_equal(second, plain)
    assert not list(tmp_path.rglob("texts-*.npz"))  # a head that is whole needs its prompts no more


def test_whatever_a_head_depends_on_makes_another(tmp_path, counted):
    zero_shot_head(made(), CLASSES, TEMPLATES, cache=tmp_path)
    gelu = json.loads(json.dumps(SMALL))
    gelu["model_cfg"]["quick_gelu"] = True
    others = [
        (made(), ["ox", "fox", "elk"], TEMPLATES, {}),
        (made(), CLASSES, TEMPLATES[:1], {}),
        (made(), CLASSES, TEMPLATES[::-1], {}),
        (made(), CLASSES, TEMPLATES, {"synonyms": "all"}),
        (made(seed=1), CLASSES, TEMPLATES, {}),
        (made(config=gelu), CLASSES, TEMPLATES, {}),
    ]
    for encoder, classes, templates, options in others:
        counted.clear()
        found = zero_shot_head(encoder, classes, templates, cache=tmp_path, **options)
        assert counted
        np.testing.assert_array_equal(found, zero_shot_head(encoder, classes, templates, **options))
    assert len(heads_in(tmp_path)) == 1 + len(others)
    told = []
    zero_shot_head(made(), CLASSES, TEMPLATES, cache=tmp_path, rule="open_clip", advance=told.append)
    assert told == [4]
    assert len(heads_in(tmp_path)) == 2 + len(others)


def test_of_names_that_are_not_used_a_head_does_not_depend(tmp_path, counted):
    zero_shot_head(made(), CLASSES, TEMPLATES, cache=tmp_path)
    counted.clear()
    zero_shot_head(made(), ["ox", "fox"], TEMPLATES, cache=tmp_path, synonyms="all")
    assert not counted


def test_models_that_share_a_text_tower_share_its_vectors(tmp_path, counted):
    base, customized = made(), made()
    with torch.no_grad():
        customized.model.net.visual.proj += 1
        customized.model.net.logit_scale += 1
    assert base.text_sha256 == customized.text_sha256 and base.model.id.sha256 != customized.model.id.sha256
    zero_shot_head(base, CLASSES, TEMPLATES, cache=tmp_path)
    counted.clear()
    zero_shot_head(customized, CLASSES, TEMPLATES, cache=tmp_path)
    assert not counted


def test_another_tokenizer_is_another_tower(tmp_path, counted, monkeypatch):
    zero_shot_head(made(), CLASSES, TEMPLATES, cache=tmp_path)
    counted.clear()
    real = Model.tokenize
    monkeypatch.setattr(Model, "tokenize", lambda self, texts: real(self, [text.upper()[::-1] for text in texts]))
    zero_shot_head(made(), CLASSES, TEMPLATES, cache=tmp_path)
    assert counted


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign", "nan"])
def test_a_damaged_file_is_made_anew(tmp_path, counted, damage):
    whole = zero_shot_head(made(), CLASSES, TEMPLATES, cache=tmp_path)
    path = heads_in(tmp_path)[0]
    raw = path.read_bytes()
    at = len(raw) // 2
    if damage == "foreign":
        np.savez(path, other=np.ones((2, 2)))
    elif damage == "nan":
        np.savez(path, vectors=np.full_like(whole, np.nan))
    else:
        path.write_bytes(
            {"cut": raw[:-9], "flipped": raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :], "empty": b""}[damage]
        )
    counted.clear()
    np.testing.assert_array_equal(zero_shot_head(made(), CLASSES, TEMPLATES, cache=tmp_path), whole)
    assert counted
    counted.clear()
    zero_shot_head(made(), CLASSES, TEMPLATES, cache=tmp_path)
    assert not counted


def test_a_stopped_head_goes_on_behind_the_last_whole_batch(tmp_path, counted, monkeypatch):
    monkeypatch.setattr(text_head, "PROMPTS", 4)
    classes = [f"thing {number}" for number in range(6)]
    whole = zero_shot_head(made(), classes, TEMPLATES)
    calls = []
    real = Encoder.texts

    def stops(self, texts):
        calls.append(texts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return real(self, texts)

    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "texts", stops)
        with pytest.raises(KeyboardInterrupt):
            zero_shot_head(made(), classes, TEMPLATES, cache=tmp_path)
    counted.clear()
    told = []
    found = zero_shot_head(made(), classes, TEMPLATES, cache=tmp_path, advance=told.append)
    assert len(counted) == 4 and told == [4, 4, 4]
    np.testing.assert_array_equal(found, whole)
    assert len(list(tmp_path.rglob("*.npz"))) == 1 and not list(tmp_path.rglob(".*.part"))


def test_captions_are_kept_in_blocks(tmp_path, counted, monkeypatch):
    monkeypatch.setattr(text_cache, "BLOCK", 5)
    captions = [f"a picture of thing {number % 9}" for number in range(13)]
    encoder = made()
    first = TextCache(encoder, tmp_path).texts(captions)
    np.testing.assert_allclose(first, encoder.texts(captions), atol=1e-6)
    counted.clear()
    np.testing.assert_array_equal(TextCache(made(), tmp_path).texts(captions), first)
    assert not counted
    assert TextCache(encoder, tmp_path).texts([]).shape == (0, 32)
    np.testing.assert_array_equal(TextCache(encoder, None).texts(captions), first)
    TextCache(encoder, tmp_path).texts([*captions[:5], "another"])
    assert counted[-1] == "another" and len(counted) == 13 + 1
