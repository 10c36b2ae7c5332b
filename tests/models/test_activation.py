"""QuickGELU or GELU: known, said by flag or name, or refused; and names that mean the same in other processes."""

import pytest
import torch
from openai_archive import OPENAI, openai_net, write_archive

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models import architecture, load, weights
from reactvl.models.loading import build
from reactvl.models.model import construct, uses_quick_gelu
from reactvl.models.names import GATED, parse


@pytest.fixture(autouse=True)
def small_architectures(monkeypatch):
    """`Small` and `Small-quickgelu` beside open_clip's, and `react_Small`, so that files of them are small."""
    configs = {**open_clip.factory._MODEL_CONFIGS, "Small": OPENAI, "Small-quickgelu": {**OPENAI, "quick_gelu": True}}
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", configs)
    monkeypatch.setitem(GATED, "react_Small", ("Small", 1))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """OpenAI's archive, its state dict with the buffers, a plain state dict, a gated one."""
    home = tmp_path_factory.mktemp("files")
    scripted = write_archive(home / "openai.pt", openai_net())
    torch.save(scripted.state_dict(), home / "openai_state.pt")
    torch.manual_seed(0)
    torch.save(construct({"model_cfg": OPENAI}).state_dict(), home / "plain.pt")
    torch.save(construct({"model_cfg": OPENAI, "reactvl": {"last_k": 1}}).state_dict(), home / "gated.pt")
    return home


def activations(net) -> set[str]:
    """Of every block's MLP, gates included."""
    return {type(module).__name__ for name, module in net.named_modules() if name.endswith("mlp.gelu")}


@pytest.mark.parametrize("file", ["openai.pt", "openai_state.pt"])
def test_openais_weights_are_refused_by_a_gelu_config_and_taken_where_quick_gelu_is_said(files, file):
    for name, flag in [("Small", None), ("Small", False), ("Small-gelu", None)]:
        with pytest.raises(
            ReactvlError, match=r"OpenAI's weights, made with QuickGELU.*--force-quick-gelu \(quick_gelu=True\)"
        ):
            load(f"{name}:{files}/{file}", quick_gelu=flag)
    for name, flag in [("Small", True), ("Small-quickgelu", None), ("Small-quickgelu", True)]:
        model = load(f"{name}:{files}/{file}", quick_gelu=flag)
        assert activations(model.net) == {"QuickGELU"}
        assert model.name == f"Small-quickgelu:{files}/{file}"
    with pytest.raises(ReactvlError, match="--force-quick-gelu"):
        weights.load_into(architecture("Small"), files / file)
    for name in ("Small-quickgelu", "react_Small-quickgelu"):
        assert activations(weights.load_into(architecture(name), files / file).net) == {"QuickGELU"}


def test_a_plain_file_is_what_its_architecture_says_as_open_clip_has_it(files):
    assert activations(load(f"Small:{files}/plain.pt").net) == {"GELU"}
    assert activations(load(f"Small-quickgelu:{files}/plain.pt").net) == {"QuickGELU"}
    assert activations(load(f"Small:{files}/plain.pt", quick_gelu=True).net) == {"QuickGELU"}
    assert activations(load(f"Small-quickgelu:{files}/plain.pt", quick_gelu=True).net) == {"QuickGELU"}
    with pytest.raises(ReactvlError, match="the name says QuickGELU, the flag GELU"):
        load(f"Small-quickgelu:{files}/plain.pt", quick_gelu=False)


def test_a_gated_file_is_refused_until_the_activation_is_said(files):
    text = f"react_Small:{files}/gated.pt"
    with pytest.raises(
        ReactvlError, match=r"spell the name react_Small-quickgelu or react_Small-gelu, or pass --force-quick-gelu"
    ):
        load(text)
    for said, name in [(True, "react_Small-quickgelu"), (False, "react_Small-gelu")]:
        by_flag, by_name = load(text, quick_gelu=said), load(f"{name}:{files}/gated.pt")
        assert activations(by_flag.net) == activations(by_name.net) == {"QuickGELU" if said else "GELU"}
        assert by_flag.name == by_name.name == f"{name}:{files}/gated.pt"
        assert by_flag.id == by_name.id == build(by_flag.name).id  # another process loads the same by the name
    with pytest.raises(ReactvlError, match="nothing in a gated file says"):
        weights.load_into(architecture("react_Small"), files / "gated.pt")
    assert activations(weights.load_into(architecture("react_Small", quick_gelu=False), files / "gated.pt").net) == {
        "GELU"
    }
    assert activations(weights.load_into(architecture("react_Small-quickgelu"), files / "gated.pt").net) == {
        "QuickGELU"
    }


def test_the_outputs_of_both_differ():
    """What a wrong activation would do silently."""
    torch.manual_seed(0)
    quick, plain = construct({"model_cfg": {**OPENAI, "quick_gelu": True}}), construct({"model_cfg": OPENAI})
    plain.load_state_dict(quick.state_dict())
    pixels = torch.randn(1, 3, 32, 32)
    with torch.inference_mode():
        assert (quick.encode_image(pixels) - plain.encode_image(pixels)).abs().max() > 1e-4


def test_folders_and_models_say_their_own(small_model):
    assert not uses_quick_gelu(load(small_model, quick_gelu=False).net)
    with pytest.raises(ReactvlError, match="made with GELU; leave out --force-quick-gelu"):
        load(small_model, quick_gelu=True)
    with pytest.raises(ReactvlError, match="made with GELU"):
        load(load(small_model), quick_gelu=True)


def test_the_seeds_line_an_architecture_and_a_plain_file(files):
    """`--model react_ViT-B-32-quickgelu --resume ViT-B-32.pt`: the file's weights, gates fresh and shut."""
    model = architecture("react_Small-quickgelu")
    assert model.drawn and model.config["model_cfg"]["quick_gelu"] is True and model.config["reactvl"] == {"last_k": 1}
    filled = weights.load_into(model, files / "openai.pt")
    assert not filled.drawn
    plain = load(f"Small-quickgelu:{files}/openai.pt")
    pixels = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    assert torch.equal(filled.encode_image(pixels), plain.encode_image(pixels))
    fresh = {name: tensor for name, tensor in model.net.state_dict().items() if "gated_attn_block" in name}
    assert len(fresh) == 14
    assert all(torch.equal(filled.net.state_dict()[name], tensor) for name, tensor in fresh.items())


def test_an_architecture_is_the_same_every_time_and_leaves_the_generator_alone():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first, second, other = architecture("react_Small"), architecture("react_Small"), architecture("react_Small", seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert first.id == second.id != other.id
    for text in ("Small:openai", "./gone", "hf-hub:a/b"):
        with pytest.raises(ReactvlError):
            architecture(text)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("ViT-B-32-quickgelu:x.pt", ("ViT-B-32-quickgelu", 0, True)),
        ("ViT-B-32-gelu:x.pt", ("ViT-B-32", 0, False)),
        ("react_ViT-B-16-quickgelu:x.pt", ("ViT-B-16", 6, True)),
        ("react_ViT-B-32-quickgelu:x.pt", ("ViT-B-32-quickgelu", 6, True)),
        ("react_ViT-G-14-gelu:x.pt", ("ViT-bigG-14", 12, False)),
        ("EVA02-B-16-quickgelu:x.pt", ("EVA02-B-16", 0, True)),
        ("ViT-B-32:x.pt", ("ViT-B-32", 0, None)),
    ],
)
def test_names_say_the_activation_and_are_spelled_again(text, wanted):
    name = parse(text, open_clip.list_models())
    assert (name.name, name.last_k, name.quick_gelu) == wanted
    assert name.spelled(name.quick_gelu) == text
    again = parse(name.spelled(True), open_clip.list_models())
    assert again.quick_gelu is True and again.last_k == name.last_k


@pytest.mark.parametrize("text", ["-quickgelu:x.pt", "quickgelu", "ViT-B-32-silu:x.pt", "react_-gelu"])
def test_what_is_no_name_stays_none(text):
    with pytest.raises(ReactvlError, match="no such model"):
        parse(text, open_clip.list_models())


@pytest.mark.parametrize(
    ("text", "flag", "says"),
    [
        ("react_ViT-B-32:react_clip_ret_laion400m", False, "published checkpoint was made with QuickGELU"),
        (
            "react_ViT-B-32-quickgelu:react_openclip_laion2b_ret_laion400m",
            None,
            "published checkpoint was made with GELU",
        ),
        ("ViT-B-32:openai", False, "open_clip's tag openai was made with QuickGELU; leave out quick_gelu=False"),
        ("ViT-B-32:laion2b_s34b_b79k", True, "was made with GELU; leave out --force-quick-gelu"),
    ],
)
def test_a_known_tag_is_not_overruled(text, flag, says):
    with pytest.raises(ReactvlError, match=says):
        load(text, quick_gelu=flag)
