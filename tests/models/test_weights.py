"""Files of weights of every form give the same state dict; what does not fit is listed; a file goes into an architecture."""

import pytest
import torch
from openai_archive import OPENAI, openai_net, write_archive
from safetensors.torch import save_file
from torch import nn

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models import load, weights
from reactvl.models.model import Model, NotDrawn, construct, with_gates

CONFIG = {"model_cfg": OPENAI, "preprocess_cfg": {"size": 32}, "reactvl": {}}


def model_of(**changes) -> Model:
    """A small model of random weights."""
    config = {**CONFIG, "model_cfg": {**OPENAI, **changes}}
    return Model("small", construct(config), config)


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return construct(CONFIG).state_dict()


def training_checkpoint(state: dict[str, torch.Tensor]) -> dict:
    """As open_clip's trainer writes it: DistributedDataParallel's names, optimizer and scaler beside them."""
    net = nn.ParameterDict(
        {name.replace(".", "/"): nn.Parameter(t) for name, t in state.items() if t.is_floating_point()}
    )
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    sum(parameter.sum() for parameter in net.parameters()).backward()
    optimizer.step()
    named = {f"module.{name}": tensor for name, tensor in state.items()}
    return {
        "epoch": 3,
        "name": "run",
        "state_dict": named,
        "optimizer": optimizer.state_dict(),
        "scaler": {"scale": 65536.0},
    }


def write(form: str, state: dict[str, torch.Tensor], home):
    home.mkdir(exist_ok=True)
    path = home / "weights.pt"
    if form == "safetensors":
        save_file(state, path)  # its name says .pt: what it is decides
    elif form == "legacy":
        torch.save(state, path, _use_new_zipfile_serialization=False)
    elif form == "training checkpoint":
        torch.save(training_checkpoint(state), path)
    elif form == "compiled and distributed":
        torch.save({f"module._orig_mod.{name}": tensor for name, tensor in state.items()}, path)
    elif form == "half":
        torch.save({name: tensor.half() for name, tensor in state.items()}, path)
    elif form == "folder":
        torch.save(state, home / "open_clip_pytorch_model.bin")
        return home
    elif form == "folder of safetensors":
        save_file(state, home / "open_clip_model.safetensors")
        (home / "open_clip_pytorch_model.bin").write_bytes(b"older")
        return home
    elif form == "customize's folder":
        (home / "model").mkdir()
        save_file(state, home / "model" / "open_clip_model.safetensors")
        return home
    else:
        torch.save(state, path)
    return path


FORMS = [
    "plain", "safetensors", "legacy", "training checkpoint", "compiled and distributed", "half", "folder", "folder of safetensors",
    "customize's folder",
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_state_dict(state, tmp_path, form):
    read = weights.read(write(form, state, tmp_path / "w"))
    assert read.keys() == state.keys()
    for name, tensor in state.items():
        assert torch.equal(read[name], tensor.half() if form == "half" else tensor), name


@pytest.mark.parametrize("form", FORMS)
def test_every_form_goes_into_an_existing_model(state, tmp_path, form):
    torch.manual_seed(1)
    model = model_of()
    before = {name: tensor.clone() for name, tensor in model.net.state_dict().items()}
    filled = weights.load_into(model, write(form, state, tmp_path / "w"))
    for name, tensor in filled.net.state_dict().items():
        assert torch.allclose(tensor, state[name], atol=1e-3 if form == "half" else 0), name
    assert all(
        torch.equal(before[name], tensor) for name, tensor in model.net.state_dict().items()
    )  # a copy was filled


BAD = {
    "gone": (None, "no such weights file"),
    "text": (b"these are no weights", "not a file of weights"),
    "empty": (b"", "not a file of weights"),
    "a cut zip": (b"PK\x03\x04" + bytes(200), "cut short"),
    "a safetensors header beyond the file": (b"\xff\xff\xff\x7f\0\0\0\0{", "cut short"),
    "a safetensors header of nonsense": (b"\x10\0\0\0\0\0\0\0{" + b'"a": nonsense}!!!!!', "not a file of weights"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_file_of_weights_is_refused(tmp_path, case):
    data, says = BAD[case]
    if data is not None:
        (tmp_path / "w.pt").write_bytes(data)
    with pytest.raises(ReactvlError, match=says) as fault:
        weights.read(tmp_path / "w.pt")
    assert "w.pt" in str(fault.value) and "\n" not in str(fault.value)


def test_files_without_a_state_dict_are_refused(tmp_path):
    import numpy as np

    np.savez(tmp_path / "big_vision.npz", a=np.zeros(3))
    torch.save({"epoch": 3}, tmp_path / "epoch.pt")
    torch.save([torch.zeros(2)], tmp_path / "list.pt")
    torch.save({}, tmp_path / "empty.pt")
    (tmp_path / "folder").mkdir()
    for name, says in [
        ("big_vision.npz", "a zip without tensors of torch"),
        ("epoch.pt", "holds no state dict"),
        ("list.pt", "holds no state dict"),
        ("empty.pt", "holds no state dict"),
        ("folder", "holds no weights of a model"),
    ]:
        with pytest.raises(ReactvlError, match=says):
            weights.read(tmp_path / name)


def test_truncated_files_of_every_form_are_refused(state, tmp_path):
    for form in ("plain", "safetensors", "legacy"):
        path = write(form, state, tmp_path / form)
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) * 2 // 3])
        with pytest.raises(ReactvlError, match=r"weights\.pt"):
            weights.read(path)


def test_plain_weights_leave_the_gates_of_a_gated_model_as_they_are(state, tmp_path):
    torch.manual_seed(2)
    gated = with_gates(model_of(), 1)
    for name, parameter in gated.net.named_parameters():
        if "gated_attn_block" in name:
            nn.init.normal_(parameter.data)
    filled = weights.load_into(gated, write("plain", state, tmp_path / "w"))
    for name, tensor in filled.net.state_dict().items():
        wanted = gated.net.state_dict()[name] if "gated_attn_block" in name else state[name]
        assert torch.equal(tensor, wanted), name


def test_gated_weights_go_whole_into_a_gated_model_and_into_no_other(tmp_path):
    torch.manual_seed(3)
    gated = with_gates(model_of(), 1)
    torch.save(training_checkpoint(gated.net.state_dict()), tmp_path / "react.pt")
    torch.manual_seed(4)
    filled = weights.load_into(with_gates(model_of(), 1), tmp_path / "react.pt")
    assert all(torch.equal(t, gated.net.state_dict()[name]) for name, t in filled.net.state_dict().items())
    with pytest.raises(ReactvlError, match=r"14 tensors unexpected .*the file has gates: give it as react_NAME:FILE"):
        weights.load_into(model_of(), tmp_path / "react.pt")
    with pytest.raises(ReactvlError, match=r"14 tensors missing .*resblocks\.0\.gated_attn_block"):
        weights.load_into(with_gates(model_of(), 2), tmp_path / "react.pt")
    lacking = {name: t for name, t in gated.net.state_dict().items() if not name.endswith("alpha_attn")}
    torch.save(lacking, tmp_path / "lacking.pt")
    with pytest.raises(
        ReactvlError, match=r"1 tensors missing \(visual\.transformer\.resblocks\.1\.gated_attn_block\.alpha_attn"
    ):
        weights.load_into(with_gates(model_of(), 1), tmp_path / "lacking.pt")


def test_a_training_checkpoint_of_ours_changes_what_was_trained_and_no_more(tmp_path):
    torch.manual_seed(5)
    model = model_of()
    trained = {"visual.proj": torch.randn_like(model.net.visual.proj), "logit_scale": torch.tensor(3.0)}
    moments = {f"exp_avg:{name}": torch.zeros_like(tensor) for name, tensor in trained.items()}
    save_file(
        {f"weight:{name}": t for name, t in trained.items()} | moments, tmp_path / "last.safetensors", {"step": "7"}
    )
    filled = weights.load_into(model, tmp_path / "last.safetensors")
    for name, tensor in filled.net.state_dict().items():
        assert torch.equal(tensor, trained.get(name, model.net.state_dict()[name])), name


def test_nothing_is_resized(state, tmp_path):
    path = write("plain", state, tmp_path / "w")
    larger = model_of(vision_cfg={**OPENAI["vision_cfg"], "image_size": 64})
    with pytest.raises(ReactvlError, match=r"of another shape \(visual\.positional_embedding\); .*nothing is resized"):
        weights.load_into(larger, path)


def test_older_layouts_are_taken_as_open_clip_takes_them(state, tmp_path):
    """A text tower under `text.`, a logit scale of shape (1,), a stored mask: against open_clip's own loader."""
    older = {**state, "logit_scale": state["logit_scale"].reshape(1), "attn_mask": torch.zeros(77, 77)}
    torch.save(older, tmp_path / "older.pt")
    del older["attn_mask"]
    torch.save(older, tmp_path / "for_open_clip.pt")
    config = {**CONFIG, "model_cfg": {**OPENAI, "custom_text": True}}
    torch.manual_seed(6)
    reference = construct(config)
    open_clip.load_checkpoint(reference, str(tmp_path / "for_open_clip.pt"))
    filled = weights.load_into(Model("custom", construct(config), config), tmp_path / "older.pt")
    assert isinstance(filled.net, open_clip.CustomTextCLIP)
    assert all(torch.equal(t, reference.state_dict()[name]) for name, t in filled.net.state_dict().items())


def test_openais_archive_is_a_model_of_quick_gelu(tmp_path):
    net = openai_net()
    write_archive(tmp_path / "ViT.pt", net)
    filled = weights.load_into(model_of(quick_gelu=True), tmp_path / "ViT.pt")
    pixels, tokens = torch.randn(2, 3, 32, 32), filled.tokenize(["a red panda", "x"])
    with torch.inference_mode():
        wanted = net.float().get_logits(pixels, tokens)[0]
        assert torch.allclose(filled.net.get_logits(pixels, tokens)[0], wanted, atol=1e-5)


def test_networks_that_are_loaded_next_are_not_drawn_first():
    """Their parameters stay what memory held, and a network drawn afterwards is drawn as ever."""
    torch.manual_seed(0)
    wanted = construct(CONFIG).state_dict()
    torch.manual_seed(0)
    with NotDrawn():
        state = torch.random.get_rng_state()
        nn.Linear(50, 50), nn.MultiheadAttention(8, 2), nn.Conv2d(3, 4, 2)
        assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(0)
    assert all(torch.equal(t, wanted[name]) for name, t in construct(CONFIG).state_dict().items())


def test_a_folder_is_loaded_whole_though_its_network_is_not_drawn(tmp_path):
    """Every tensor and buffer, a BatchNorm's and a timm tower's position tables among them."""
    vision = {"timm_model_name": "test_vit", "timm_pool": "", "timm_proj": "linear", "image_size": 160}
    config = {**CONFIG, "model_cfg": {**OPENAI, "vision_cfg": vision}}
    torch.manual_seed(7)
    model = Model("timm", construct(config), config)
    model.save(tmp_path / "m")
    again = load(str(tmp_path / "m"))
    buffers = dict(model.net.named_buffers())
    assert all(torch.equal(t, model.net.state_dict()[name]) for name, t in again.net.state_dict().items())
    assert all(torch.equal(t, buffers[name]) for name, t in again.net.named_buffers())
