"""The training commands of docs/coming-from-react.md, run as they stand there at small size.

Only sizes are put in place of the guide's (samples of an epoch, epochs, batch, warm-up, workers), and ViT-B/32 is narrow
and seven blocks deep. Weights lie in files of the published layouts; the hub is one on this machine.
"""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import torch
from hub_server import serving, use
from openai_archive import OPENAI, openai_net, write_archive
from tests_support import COLOURS, drawing, write_pool

import reactvl as rv
from reactvl.cli import main
from reactvl.clip_imports import open_clip
from reactvl.models import published
from reactvl.models.gates import gated_layers

GUIDE = Path(__file__).parents[2] / "docs" / "coming-from-react.md"
SIZES = {
    "--train-num-samples": "48",
    "--epochs": "2",
    "--batch-size": "8",
    "--warmup": "2",
    "--workers": "1",
}
NARROW = OPENAI | {"vision_cfg": OPENAI["vision_cfg"] | {"layers": 7}}
BASE = "ViT-B-32-quickgelu:./checkpoints/ViT-B-32.pt"


def commands() -> list[list[str]]:
    """Arguments of the guide's training commands, in its order, at small size."""
    blocks = re.findall(r"```sh train\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    found = []
    for line in "".join(blocks).splitlines():
        name, verb, *arguments = shlex.split(line)
        assert (name, verb) == ("reactvl", "customize")
        for at, word in enumerate(arguments[:-1]):
            if word in SIZES:
                arguments[at + 1] = SIZES[word]
        found.append(arguments)
    return found


GATED, VIEW, LOCKED, JUDGED = range(4)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    """The folder in which the guide's commands are typed: data/, imagenet/val, checkpoints/, run/retrieved."""
    home = tmp_path_factory.mktemp("training")
    patch = pytest.MonkeyPatch()
    patch.chdir(home)
    configs = {"ViT-B-32": NARROW, "ViT-B-32-quickgelu": NARROW | {"quick_gelu": True}}
    patch.setattr(open_clip.factory, "_MODEL_CONFIGS", {**open_clip.factory._MODEL_CONFIGS, **configs})
    write_pool(home / "data", shards=3, pairs=24, cut=(5,))
    for number in range(12):
        folder = home / "imagenet/val" / COLOURS[number % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{number}.jpg").write_bytes(drawing(1000 + number))
    (home / "checkpoints").mkdir()
    write_archive(home / "checkpoints/ViT-B-32.pt", openai_net(config=NARROW))
    embeddings = rv.embed("data", BASE, out="run/embeddings")
    rv.retrieve(embeddings, classes=list(COLOURS), templates=["a {} thing"], per_class=12, out="run/retrieved")
    yield home
    patch.undo()


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def changed(model: rv.Model) -> set[str]:
    """The tensors that are not the base's."""
    base = rv.load(BASE).net.state_dict()
    return {
        name
        for name, tensor in model.net.state_dict().items()
        if name not in base or not torch.equal(base[name], tensor)
    }


def test_the_guide_has_the_two_recipes_the_short_form_and_the_evaluation():
    assert [("--lock-image-unlock-gated" in one, "--lock-text" in one, "--tune" in one) for one in commands()] == [
        (True, True, False),
        (False, False, True),
        (False, True, False),
        (False, False, False),
    ]


def test_the_gated_recipe_trains_the_gates_alone(home, capsys):
    assert main(["customize", *commands()[GATED]]) == 0
    said = capsys.readouterr().out
    run = home / "logs/gated-image"
    model = rv.load(str(run))
    assert gated_layers(model.net.visual) == [1, 2, 3, 4, 5, 6]
    allowed = re.compile(r"visual\.transformer\.resblocks\.\d\.gated_attn_block\..*|logit_scale")
    assert all(allowed.fullmatch(name) for name in changed(model))
    assert any(name.endswith("alpha_attn") and "gated" in name for name in changed(model))
    assert "trained parameters" in said
    steps = lines(run / "metrics.jsonl")
    assert len(steps) == 12 and steps[-1]["epoch"] == pytest.approx(11 * 8 / 48, abs=0.01)  # 48 samples are an epoch
    assert steps[0]["lr"] == pytest.approx(5e-4 / 2) and max(step["lr"] for step in steps) == pytest.approx(5e-4)
    assert [judged["step"] for judged in lines(run / "validation.jsonl")] == [6, 12]  # after every epoch
    assert list((run / "tensorboard").glob("events.*"))
    assert (run / "checkpoints/last.safetensors").exists()
    [unread] = json.loads((run / "skipped.json").read_text())
    assert unread.startswith("00000.tar/")


def test_the_same_line_again_finds_the_run_done(home, capsys):
    before = (home / "logs/gated-image/manifest.json").read_bytes()
    assert main(["customize", *commands()[GATED]]) == 0
    assert "up to date" in capsys.readouterr().out
    assert main(["customize", *(("latest" if "ViT-B-32.pt" in word else word) for word in commands()[GATED])]) != 0
    assert (home / "logs/gated-image/manifest.json").read_bytes() == before


def test_the_short_form_trains_on_the_retrieved_view(home):
    assert main(["customize", *commands()[VIEW]]) == 0
    model = rv.load("./run/gated-image")
    assert gated_layers(model.net.visual) == [1, 2, 3, 4, 5, 6]
    manifest = json.loads((home / "run/gated-image/manifest.json").read_text())
    assert manifest["counts"]["pairs"] == len(rv.open("run/retrieved")) and manifest["options"]["wd"] == 0.1
    assert manifest["facts"]["lr"] == 5e-4


def test_the_locked_text_recipe_trains_the_image_tower_alone(home):
    assert main(["customize", *commands()[LOCKED]]) == 0
    run = home / "logs/locked-text"
    names = changed(rv.load(str(run)))
    assert names and all(name.startswith("visual.") or name == "logit_scale" for name in names)
    assert "visual.proj" in names and len(lines(run / "metrics.jsonl")) == 12
    manifest = json.loads((run / "manifest.json").read_text())
    assert manifest["facts"]["lr"] == 5e-5 and manifest["options"]["tune"] == "locked-text"


def test_a_published_checkpoint_is_evaluated_and_the_command_ends(home, capsys, monkeypatch):
    release = published.find("ViT-B-32", 6, "react_clip_ret_laion400m")
    trained = rv.load("./logs/gated-image")
    torch.save({name: tensor.half() for name, tensor in trained.net.state_dict().items()}, home / release.file)
    with serving() as hub:
        hub.put(published.REPOSITORY, home / release.file)
        use(hub, home / "cache", monkeypatch)
        assert main(["customize", *commands()[JUDGED]]) == 0
    said = capsys.readouterr().out
    judged = lines(home / "logs/gated-image/validation.jsonl")[-1]
    assert f"zeroshot_top1 {judged['zeroshot_top1']:.4f}" in said
    shutil.rmtree(home / "cache")


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--csv-separator", ","], "reactvl pack"),
        (["--dist-url", "env://"], "torchrun"),
        (["--dataset-type", "csv"], "reactvl pack"),
        (["--train-data-upsampling-factors", "1::2"], "factors for 1 sources"),
    ],
)
def test_flags_without_an_equal_end_before_any_work(home, capsys, more, says):
    words = [word for at, word in enumerate(commands()[LOCKED])]
    words[words.index("--name") + 1] = "refused"
    if more[0] in words:
        words[words.index(more[0]) + 1] = more[1]
        more = []
    assert main(["customize", *words, *more]) == 2
    assert says in capsys.readouterr().err and not (home / "logs/refused/model").exists()
