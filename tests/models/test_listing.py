"""`reactvl models`: a table of what is published, from data alone."""

import re

import pytest

from reactvl.cli import main
from reactvl.clip_imports import open_clip
from reactvl.models import published
from reactvl.models.listing import models, size


def shown(capsys, name: str = "") -> str:
    models(name)
    return capsys.readouterr().out


def test_every_release_stands_with_its_size_and_accuracy(capsys):
    out = shown(capsys)
    for release in published.RELEASES:
        (line,) = re.findall(rf"^{re.escape(f'{release.model}:{release.tag}')} .*$", out, re.M)
        for value in (f"{release.parameters:,}", size(release.bytes), f"{release.top1}", f"{release.base_top1}"):
            assert value in line
        assert ("QuickGELU" in line) == release.quick_gelu and line.rstrip().endswith(", 0.5") == release.half_mean
    assert "about 388 MB" in out and "about 5.9 GB" in out and "+5.4" in out
    assert max(map(len, out.splitlines())) <= 150


def test_open_clips_names_with_their_tags_and_no_refused_ones(capsys):
    out = shown(capsys)
    for name in ("ViT-B-32", "ViT-B-16-SigLIP", "PE-Core-B-16", "RN50"):
        assert re.search(rf"^{name} .*{open_clip.list_pretrained_tags_by_model(name)[0]}", out, re.M)
    assert "coca_" not in out


@pytest.mark.parametrize("wanted", ["react_vit-b-16", "REACT-ViT-B_16", "ViT-B-16:openai"])
def test_names_are_found_in_any_spelling(capsys, wanted):
    out = shown(capsys, wanted)
    assert "ViT-B-16" in out and "ViT-L-14" not in out and "bigG" not in out


def test_what_is_not_there_gives_nothing(capsys):
    assert shown(capsys, "nothing is called so") == ""


def test_the_command_shows_it(capsys):
    assert main(["models", "react_ViT-bigG-14"]) == 0
    out = capsys.readouterr().out
    assert "2,938,547,737" in out and "81.0" in out
