"""The evaluation commands of docs/coming-from-react.md, run as they stand there at small size.

Only sizes are put in place: towers are narrow, ImageNet is a few pictures with one prompt a class, the textures' data set has three
pictures a class. The yaml files have the keys of ELEVATER's own; the checkpoint comes from a hub on this machine.
"""

import json
import re
import shlex
import zipfile
from pathlib import Path

import pytest
import torch
import yaml
from hub_server import serving, use
from openai_archive import OPENAI
from PIL import Image
from tests_support import drawing

import reactvl as rv
from reactvl.cli import main
from reactvl.clip_imports import open_clip, timm
from reactvl.models import published
from reactvl.models.gates import insert_gates, is_alpha
from reactvl.tasks.benchmarks import benchmark

GUIDE = Path(__file__).parents[2] / "docs" / "coming-from-react.md"
GATED = "react_ViT-B-32:react_clip_ret_laion400m"
NARROW = OPENAI | {"vision_cfg": OPENAI["vision_cfg"] | {"layers": 7}}
CODES = timm.data.ImageNetInfo("imagenet-1k").label_names()
SHOWN = (0, 7, 500, 999)  # ImageNet's classes that have pictures
LAYOUT = "dtd_20211007"
ZERO_SHOT, BOTH, PROBE, MERGE = range(4)


def commands() -> list[list[str]]:
    """Arguments of the guide's evaluation commands, in its order."""
    blocks = re.findall(r"```sh evaluate\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    found = [shlex.split(line) for line in "".join(blocks).splitlines()]
    assert all(words[:2] == ["reactvl", "evaluate"] for words in found)
    return [words[2:] for words in found]


def typed(number: int, *more: str) -> int:
    """Type a command of the guide; `more`, a size, goes in front of --out. OpenAI's weights are a file here."""
    words = ["ViT-B-32-quickgelu:../plain.pt" if word == "ViT-B-32:openai" else word for word in commands()[number]]
    at = words.index("--out") if "--out" in words else len(words)
    return main(["evaluate", *words[:at], *more, *words[at:]])


def yaml_files(home: Path) -> None:
    vision, text = NARROW["vision_cfg"], NARROW["text_cfg"]
    model = {
        "OUTPUT_DIR": "../../OUTPUT/VITB32_CLIP/",
        "INPUT": {"MEAN": [0.48145466, 0.4578275, 0.40821073], "STD": [0.26862954, 0.26130258, 0.27577711]},
        "MODEL": {
            "NAME": "clip_react",
            "NUM_PARAMS_IN_M": 151.2,
            "SPEC": {
                "EMBED_DIM": NARROW["embed_dim"],
                "VISION": {
                    "MODEL": "vit",
                    "PATCH_SIZE": vision["patch_size"],
                    "WIDTH": vision["width"],
                    "LAYERS": vision["layers"],
                    "USE_RCP_BLOCK": True,
                },
                "TEXT": {"TOKENIZER": "clip", "STYLE": "clip", "WIDTH": text["width"], "LAYERS": text["layers"]},
                "RCP_BLOCK": {"MODE": "gated_attn", "USE_LAST_K": 6},
            },
        },
        "TEST": {"BATCH_SIZE_PER_GPU": 128, "MODEL_FILE": "hf:react-vl/react-in1k:clip-vit-base-32-gated-image.pt"},
        "TRAIN": {
            "BATCH_SIZE_PER_GPU": 64,
            "END_EPOCH": 10,
            "OPTIMIZER": "sgd",
            "IMAGE_SIZE": [vision["image_size"]] * 2,
        },
    }
    sets = {
        "imagenet-1k": {
            "DATASET": {"DATASET": "imagenet-1k", "ROOT": "../DATASET/imagenet-1k/"},
            "TEST": {"METRIC": "accuracy"},
        },
        "dtd": {"DATASET": {"DATASET": "dtd", "ROOT": "../DATASET", "NUM_CLASSES": 47}, "TEST": {"METRIC": "accuracy"}},
    }
    for path, values in {
        "model/react_vitb32_CLIP": model,
        **{f"datasets/{name}": one for name, one in sets.items()},
    }.items():
        file = home / "resources" / f"{path}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(yaml.safe_dump(values))


def data_sets(root: Path) -> None:
    """ImageNet's validation images by class folder, and the textures in ELEVATER's layout: an index and a zip a split."""
    for number, code in enumerate(CODES):
        (root / "imagenet-1k/val" / code).mkdir(parents=True)
        for count in range(3 if number in SHOWN else 0):
            (root / "imagenet-1k/val" / code / f"{count}.JPEG").write_bytes(drawing(number + 7 * count))
    home = root / "classification" / LAYOUT
    home.mkdir(parents=True)
    for split, each in (("train", 6), ("test", 1)):
        with zipfile.ZipFile(home / f"{split}.zip", "w") as archive:
            names = [f"{label}/{count}.jpg" for label in range(47) for count in range(each)]
            for seed, name in enumerate(names):
                archive.writestr(name, drawing(47 * seed + int(name.split("/")[0])))
        lines = [f"{split}.zip@{name} {name.split('/')[0]}" for name in names]
        (home / f"{split}.txt").write_text("\n".join(lines) + "\n")
    (home / "labels.txt").write_text("\n".join(benchmark("dtd").class_names) + "\n")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder in which the guide's commands are typed, ELEVATER's own, with the published checkpoint on the hub."""
    top = tmp_path_factory.mktemp("elevater")
    home = top / "vision_benchmark"
    patch = pytest.MonkeyPatch()
    configs = {"ViT-B-32": NARROW, "ViT-B-32-quickgelu": NARROW | {"quick_gelu": True}}
    patch.setattr(open_clip.factory, "_MODEL_CONFIGS", {**open_clip.factory._MODEL_CONFIGS, **configs})
    yaml_files(home)
    data_sets(top / "DATASET")
    patch.chdir(home)
    Path("one.txt").write_text("a photo of a {}.\n")
    torch.manual_seed(0)
    release = published.find("ViT-B-32", 6, "react_clip_ret_laion400m")
    net = open_clip.CLIP(**NARROW, quick_gelu=True)
    torch.save({name: tensor.half() for name, tensor in net.state_dict().items()}, top / "plain.pt")
    insert_gates(net.visual, 6)
    for name, tensor in net.state_dict().items():
        if is_alpha(name):
            tensor.fill_(0.5)  # the gates are open: another model than its base
    torch.save({name: tensor.half() for name, tensor in net.state_dict().items()}, top / release.file)
    with serving() as hub:
        hub.put(published.REPOSITORY, top / release.file)
        use(hub, top / "cache", patch)
        yield home
    patch.undo()


def results(folder: str) -> dict:
    return json.loads((Path(folder) / "results.json").read_text())


def test_the_guide_has_the_seeds_line_and_its_equals():
    line = " ".join(commands()[ZERO_SHOT])
    assert line.startswith("--ds resources/datasets/imagenet-1k.yaml --model resources/model/react_vitb32_CLIP.yaml")
    assert "--save-predictions False" in line and line.endswith("MODEL.CLIP_FP32 False")
    assert ["--submission" in words for words in commands()] == [False, False, False, True]


def test_zero_shot_on_imagenet_is_what_the_head_says_of_each_picture(home, capsys):
    assert typed(ZERO_SHOT, "--templates", "one.txt") == 0
    said = capsys.readouterr().out
    unused = re.search(r"keys without meaning here: (.*)", said)[1].split(", ")
    assert unused == ["MODEL.NUM_PARAMS_IN_M", "TRAIN.BATCH_SIZE_PER_GPU", "TRAIN.END_EPOCH", "TRAIN.OPTIMIZER"]
    found = results("run/imagenet")
    [task] = found["tasks"]
    assert (task["name"], task["images"], len(task["classes"])) == ("imagenet-1k", 3 * len(SHOWN), 1000)
    assert found["models"][0]["name"] == GATED
    assert not Path("run/imagenet/elevater").exists()
    files = [Path("../DATASET/imagenet-1k/val") / CODES[label] / f"{n}.JPEG" for label in SHOWN for n in range(3)]
    predicted = by_open_clip(files, [f"a photo of a {name}." for name in benchmark("imagenet-1k").class_names])
    told = rv.open("run/imagenet").predictions("imagenet-1k").to_pylist()
    assert [row["predicted"] for row in told] == predicted
    assert [row["label"] for row in told] == [label for label in SHOWN for _ in range(3)]
    assert "Evaluation of" in Path("run/imagenet/report.html").read_text()


@torch.no_grad()
def by_open_clip(files: list[Path], prompts: list[str]) -> list[int]:
    """What open_clip's own transform, tokenizer and towers say of pictures."""
    net = rv.load(GATED).net.float().eval()
    transform = open_clip.image_transform(NARROW["vision_cfg"]["image_size"], is_train=False)
    images = net.encode_image(torch.stack([transform(Image.open(path)) for path in files]), normalize=True)
    texts = torch.cat([net.encode_text(part, normalize=True) for part in open_clip.tokenize(prompts).split(100)])
    return (images @ texts.T).argmax(dim=1).tolist()


def test_two_models_by_their_names_and_no_tower_runs_for_what_is_known(home, monkeypatch):
    """The gated model's features are shared with the evaluation before by --features."""
    shared = ["--templates", "one.txt", "--features", "run/imagenet/features"]
    assert typed(BOTH, *shared) == 0
    found = results("run/imagenet-both")
    assert [model["label"] for model in found["models"]][1] == GATED
    gain = found["tasks"][0]["scores"][GATED]["gain"]
    assert gain["low"] <= gain["difference"] <= gain["high"]
    before = results("run/imagenet")["tasks"][0]["scores"][GATED]["value"]
    assert found["tasks"][0]["scores"][GATED]["value"] == before
    assert "Published figures" in Path("run/imagenet-both/report.html").read_text()  # of the published model


def test_probes_write_the_prediction_files_that_are_merged(home, capsys):
    assert typed(PROBE) == 0
    found = results("run/dtd")
    [task] = found["tasks"]
    assert (task["name"], task["images"]) == ("dtd", 47)
    probe = next(column for column in found["columns"] if column["method"] == "linear-probe")
    assert (probe["shots"], probe["seeds"]) == ("5", [0, 1, 2]) and len(task["scores"][probe["label"]]["seeds"]) == 3
    folder = Path("run/dtd/elevater/react_ViT-B-32_react_clip_ret_laion400m")
    zero = json.loads((folder / "zero-shot/dtd.json").read_text())
    few = json.loads((folder / "linear-probe_5/dtd.json").read_text())
    assert (zero["n_shot"], zero["rnd_seeds"], zero["num_trainable_params"]) == (0, [0], 0)
    assert (few["n_shot"], few["rnd_seeds"], few["dataset_name"]) == (5, [0, 1, 2], "dtd")
    for said, column in ((zero, GATED), (few, probe["label"])):
        cube = torch.tensor(said["predictions"])
        assert cube.shape == (len(said["rnd_seeds"]), 47, 47) and (cube.sum(-1) - 1).abs().max() < 1e-4
        right = (cube.argmax(-1) == torch.arange(47)).double().mean()
        assert right == pytest.approx(task["scores"][column]["value"], abs=1.01 / 47)  # ties at six decimals
    capsys.readouterr()
    assert typed(MERGE) == 0
    with zipfile.ZipFile(folder / "linear-probe_5/all_predictions.zip") as archive:
        [entry] = json.loads(archive.read("all_predictions.json"))["data"]
    assert entry["predictions"] == few["predictions"] and entry["rnd_seeds"] == [0, 1, 2]
    assert "of ELEVATER's 20" in capsys.readouterr().out
