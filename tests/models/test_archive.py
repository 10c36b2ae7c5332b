"""OpenAI's archives are read tensor by tensor as torch reads them, and nothing in them is run."""

import io
import pickle
import struct
import zipfile

import numpy as np
import pytest
import torch
from openai_archive import openai_net, tree, write_archive
from torch import nn

from reactvl.clip_imports import open_clip
from reactvl.manifest import ReactvlError
from reactvl.models import archive, weights


def test_every_tensor_is_the_scripted_modules_own(tmp_path):
    net = openai_net()
    scripted = write_archive(tmp_path / "ViT.pt", net)
    read, wanted = archive.read(tmp_path / "ViT.pt"), scripted.state_dict()
    assert read.keys() == wanted.keys()
    assert {"input_resolution", "context_length", "vocab_size"} <= read.keys()
    for name, tensor in wanted.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name
    assert {tensor.dtype for tensor in read.values()} == {torch.float16, torch.float32, torch.int64}
    state = weights.read(tmp_path / "ViT.pt")
    assert state.keys() == net.state_dict().keys()


def test_open_clip_builds_the_same_model_from_what_is_read(tmp_path):
    """The reference: open_clip's own way, which compiles and loads the archive."""
    write_archive(tmp_path / "ViT.pt", openai_net())
    reference = open_clip.load_openai_model(str(tmp_path / "ViT.pt"), precision="fp32", device="cpu")
    ours = open_clip.model.build_model_from_openai_state_dict(archive.read(tmp_path / "ViT.pt")).float()
    assert all(
        torch.equal(a, b) for a, b in zip(reference.state_dict().values(), ours.state_dict().values(), strict=True)
    )


class Mixed(nn.Module):
    """Layers with a forward, views that are not contiguous, tied weights, attributes that are no tensors."""

    def __init__(self):
        super().__init__()
        self.conv, self.attn = nn.Conv2d(3, 4, 2, bias=False), nn.MultiheadAttention(4, 2)
        self.layers = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
        whole = torch.randn(6, 5).half()
        self.turned = nn.Parameter(whole.t(), requires_grad=False)
        self.part = nn.Parameter(whole[1:5:2, 1:4], requires_grad=False)
        self.embedding = nn.Embedding(5, 4)
        self.tied = self.embedding.weight
        self.register_buffer("empty", torch.zeros(0, 3))
        self.register_buffer("flags", torch.tensor([True, False]))
        self.register_buffer("numbers", torch.arange(3, dtype=torch.int32))
        self.rate, self.names = 0.5, ["a", "b"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@pytest.mark.parametrize("way", ["script", "trace"])
def test_views_ties_and_types_survive(tmp_path, way):
    torch.manual_seed(0)
    module = Mixed().eval()
    made = torch.jit.script(module) if way == "script" else torch.jit.trace(module, torch.randn(2, 4))
    made.save(str(tmp_path / "m.pt"))
    read, wanted = archive.read(tmp_path / "m.pt"), made.state_dict()
    assert read.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert (read[name].dtype, read[name].shape, read[name].stride()) == (
            tensor.dtype,
            tensor.shape,
            tensor.stride(),
        )
        assert torch.equal(read[name], tensor), name
    assert read["tied"].data_ptr() == read["embedding.weight"].data_ptr()
    assert read["turned"].untyped_storage().data_ptr() == read["part"].untyped_storage().data_ptr()


@pytest.fixture
def whole(tmp_path):
    """A sound archive of three tensors, and a way to write it again with other members."""
    state = {"a.weight": torch.randn(3, 4), "a.bias": torch.randn(4).half(), "b.0": torch.randn(2)}
    torch.jit.script(tree(state)).save(str(tmp_path / "x.pt"))

    def again(change=None, add=(), leave_out=(), compress=()):
        path = tmp_path / "changed.pt"
        with zipfile.ZipFile(tmp_path / "x.pt") as old, zipfile.ZipFile(path, "w") as new:
            for info in old.infolist():
                if info.filename not in leave_out:
                    data = (change or {}).get(info.filename, old.read(info))
                    how = zipfile.ZIP_DEFLATED if info.filename in compress else zipfile.ZIP_STORED
                    new.writestr(info.filename, data, how)
            for name, data in add:
                new.writestr(name, data)
        return path

    return again


def refused(path, says):
    with pytest.raises(ReactvlError, match=says) as fault:
        weights.read(path)
    assert str(path) in str(fault.value) and "\n" not in str(fault.value)


class Call:
    """Pickles as a call."""

    def __init__(self, function, *args):
        self.called = function, args

    def __reduce__(self):
        return self.called


HOSTILE = {
    "os.system": b"cos\nsystem\n(S'touch ran'\ntR.",
    "posix.system": b"\x80\x02cposix\nsystem\nX\x09\x00\x00\x00touch ran\x85R.",
    "builtins.eval": b"\x80\x02cbuiltins\neval\nX\x10\x00\x00\x00open('ran', 'w')\x85R.",
    "builtins.getattr": b"\x80\x02cbuiltins\ngetattr\n.",
    "torch.load": b"\x80\x02ctorch\nload\nX\x01\x00\x00\x00x\x85R.",
    "a dotted name": b"\x80\x02c__torch__.os\nsystem\nX\x09\x00\x00\x00touch ran\x85R.",
    "torch.jit._pickle's other names": b"\x80\x02ctorch.jit._pickle\nos.system\n.",
    "instances by INST": b"(S'touch ran'\nios\nsystem\n.",
    "stack globals": b"\x80\x04\x8c\x02os\x8c\x06system\x93.",
    "extension registry": b"\x80\x02\x82\x01.",
    "a huge memo": b"\x80\x02]r\xff\xff\xff\x7f.",
    "no end": b"\x80\x02]q\x00h\x00",
    "nothing": b"",
    "no module": b"\x80\x02K\x01.",
    "a state that is no table": b"\x80\x02c__torch__\nM\n)\x81K\x01b.",
    "attributes of the reader": b"\x80\x02ccollections\nOrderedDict\nN}X\x01\x00\x00\x00aK\x01s\x86b.",
    "text for numbers": b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n(K\x01K\x02K\x03K\x04tR.",
    "a module in itself": b"\x80\x02c__torch__\nM\n)\x81q\x00}X\x01\x00\x00\x00ah\x00sb.",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_pickles_that_are_no_tree_of_tensors_are_refused(whole, tmp_path, monkeypatch, case):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    refused(whole({"x/data.pkl": HOSTILE[case]}), "not an archive of weights")
    assert not list((tmp_path / "here").iterdir())


def test_a_tree_that_branches_without_end_is_refused_at_once(whole):
    """Forty modules, each twice the attribute of the next: 2^40 paths in 1 kB."""
    node = b"c__torch__\nM\n)\x81q\x00"
    for place in range(40):
        before = struct.pack("<B", place)
        node += b"c__torch__\nM\n)\x81}(X\x01\x00\x00\x00ah" + before + b"X\x01\x00\x00\x00bh" + before + b"ub"
        node += b"q" + struct.pack("<B", place + 1)
    refused(whole({"x/data.pkl": b"\x80\x02" + node + b"."}), "no end")


def tensor_pickle(key: str, count: int, offset: object, shape: tuple, strides: tuple) -> bytes:
    """A module with one tensor as TorchScript writes it."""

    def number(value: object) -> bytes:
        return pickle.dumps(value, 2)[2:-1]  # without PROTO and STOP

    storage = b"(" + number("storage") + b"ctorch\nFloatStorage\n" + number(key) + number("cpu") + number(count) + b"tQ"
    view = storage + number(offset) + number(shape) + number(strides) + b"\x89ccollections\nOrderedDict\n)R"
    tensor = b"ctorch._utils\n_rebuild_tensor_v2\n(" + view + b"tR"
    return b"\x80\x02c__torch__\nM\n)\x81}X\x01\x00\x00\x00w" + tensor + b"sb."


def test_the_hand_made_pickle_is_read_where_it_is_sound(whole):
    path = whole(
        {"x/data.pkl": tensor_pickle("7", 4, 1, (3,), (1,))}, add=[("x/data/7", struct.pack("<4f", 1, 2, 3, 4))]
    )
    assert weights.read(path)["w"].tolist() == [2, 3, 4]
    path = whole(
        {"x/data.pkl": tensor_pickle("7", 4, 0, (2,), (2,))}, add=[("x/constants/7", struct.pack("<4f", 1, 2, 3, 4))]
    )
    assert weights.read(path)["w"].tolist() == [1, 3]


@pytest.mark.parametrize(
    ("key", "count", "offset", "shape", "strides", "says"),
    [
        ("7", 4, 2, (3,), (1,), "reaches beyond"),
        ("7", 4, 0, (10**12,), (0,), "reaches beyond"),
        ("7", 4, 0, (2,), (3, 1), "no valid shape"),
        ("7", 4, -1, (2,), (1,), "no valid shape"),
        ("7", 4, 0, (-2,), (1,), "no valid shape"),
        ("7", 4, 0, (2.0,), (1,), "no valid shape"),
        ("7", 8, 0, (2,), (1,), "bytes; 32 plain ones"),
        ("7", 10**15, 0, (2,), (1,), "plain ones were expected"),
        ("8", 4, 0, (2,), (1,), "x/data/8 is missing"),
        ("../../x", 4, 0, (2,), (1,), "names a storage"),
    ],
)  # fmt: skip
def test_tensors_that_do_not_lie_in_their_bytes_are_refused(whole, key, count, offset, shape, strides, says):
    data = struct.pack("<4f", 1, 2, 3, 4)
    refused(whole({"x/data.pkl": tensor_pickle(key, count, offset, shape, strides)}, add=[("x/data/7", data)]), says)


def test_bombs_and_members_that_leave_the_archive_are_refused(whole):
    refused(whole(add=[("../../etc/evil", b"x")]), "a member is named")
    refused(whole(add=[("/etc/evil", b"x")]), "a member is named")
    refused(whole(add=[("y/data.pkl", b"x")]), "2 data.pkl")
    zeros = bytes(50 << 20)  # 50 MB that are 50 kB in the file
    refused(whole({"x/data/0": zeros}, compress=["x/data/0"]), "plain ones were expected")
    refused(whole({"x/data.pkl": b"\x80\x02" + bytes(80 << 20)}, compress=["x/data.pkl"]), "data.pkl is of")
    refused(whole({"x/byteorder": b"big"}), "little-endian")
    with pytest.warns(UserWarning, match="Duplicate"):
        path = whole(add=[("x/data/0", b"x")])
    refused(path, "two members")


def test_damaged_archives_are_refused(whole, tmp_path):
    sound = whole().read_bytes()
    cut, flipped = tmp_path / "cut.pt", tmp_path / "flipped.pt"
    for length in (len(sound) // 2, len(sound) - 10, 30):
        cut.write_bytes(sound[:length])
        refused(cut, "cut short")
    with zipfile.ZipFile(io.BytesIO(sound)) as file:
        begin = file.getinfo("x/data/0").header_offset + 60
    flipped.write_bytes(sound[:begin] + bytes([sound[begin] ^ 255]) + sound[begin + 1 :])
    refused(flipped, "damaged|cannot be read|not an archive")


def test_no_change_of_bytes_makes_more_than_a_refusal(whole, tmp_path):
    """Four hundred archives with a few bytes changed, half of them in the pickle: tensors or ReactvlError, nothing else."""
    sound = whole().read_bytes()
    pickle_at = sound.index(b"x/data.pkl") + 30
    random = np.random.default_rng(0)
    path, refusals = tmp_path / "fuzzed.pt", 0
    for number in range(400):
        data = bytearray(sound)
        span = (pickle_at, pickle_at + 600) if number % 2 else (0, len(sound))
        for place in random.integers(*span, size=1 + number % 4):
            data[place] = random.integers(256)
        path.write_bytes(data)
        try:
            assert all(isinstance(tensor, torch.Tensor) for tensor in archive.read(path).values())
        except ReactvlError:
            refusals += 1
    assert refusals > 200
