"""What a model's name means, and what a wrong one says."""

import pytest

from reactvl.manifest import ReactvlError
from reactvl.models import published
from reactvl.models.names import parse

KNOWN = ["ViT-B-32", "ViT-B-32-quickgelu", "ViT-B-16", "ViT-L-14", "ViT-g-14", "ViT-bigG-14", "RN50"]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ViT-B-32:openai", ("named", "ViT-B-32", "openai", 0)),
        ("ViT-B/32", ("named", "ViT-B-32", "openai", 0)),
        ("ViT-B-32", ("named", "ViT-B-32", None, 0)),
        ("react_ViT-B-32:react_clip_ret_laion400m", ("named", "ViT-B-32", "react_clip_ret_laion400m", 6)),
        ("react_ViT-G-14:x", ("named", "ViT-bigG-14", "x", 12)),
        ("ViT-G-14:laion2b", ("named", "ViT-bigG-14", "laion2b", 0)),
        ("ViT-g-14:laion2b", ("named", "ViT-g-14", "laion2b", 0)),  # open_clip's: another model
        ("ViT-B-32:my/weights.pt", ("named", "ViT-B-32", "my/weights.pt", 0)),
        ("hf-hub:someone/model", ("hub", "hf-hub:someone/model", None, 0)),
    ],
)
def test_names(text, wanted):
    name = parse(text, KNOWN)
    assert (name.kind, name.name, name.tag, name.last_k) == wanted


def test_folders(tmp_path):
    assert parse(str(tmp_path), KNOWN).kind == "folder"
    assert parse(f"local-dir:{tmp_path}", KNOWN).name == str(tmp_path)
    with pytest.raises(ReactvlError, match="no such model folder"):
        parse(str(tmp_path / "gone"), KNOWN)
    (tmp_path / "weights.pt").write_bytes(b"x")
    with pytest.raises(ReactvlError, match="NAME:FILE"):
        parse(str(tmp_path / "weights.pt"), KNOWN)


def test_an_unknown_name_says_the_nearest():
    with pytest.raises(ReactvlError, match="did you mean ViT-B-32"):
        parse("ViT-B32:openai", KNOWN)
    with pytest.raises(ReactvlError, match="reactvl models"):
        parse("qqqqqq", KNOWN)


def test_published_checkpoints_are_thirteen_and_found_by_any_spelling_of_their_tag():
    assert len(published.RELEASES) == 13
    found = published.find("ViT-L-14", 6, "REACT-openclip-laion2b_ret_laion2b")
    assert found.file == "openclip-vit-large-14-gated-image-laion2b.pt"
    assert found.half_mean and not found.quick_gelu
    assert published.find("ViT-B-32", 6, "react_clip_ret_laion400m").quick_gelu
    assert published.find("ViT-B-32", 0, "react_clip_ret_laion400m").file == "clip-vit-base-32-locked-text.pt"
    assert published.find("ViT-B-32", 0, "openai") is None
