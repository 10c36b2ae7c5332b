"""ELEVATER's yaml files become this tool's settings: the published models by their tags, and nothing is passed over in silence."""

import copy
import re

import pytest
import yaml
from hub_server import serving, use
from hypothesis import given, settings
from hypothesis import strategies as st

from reactvl.clip_imports import open_clip
from reactvl.evaluate import spec_model
from reactvl.evaluate.inputs import Settings, read
from reactvl.manifest import ReactvlError
from reactvl.models import names, published

TEXT = {"TOKENIZER": "clip", "STYLE": "clip", "CONTEXT_LENGTH": 77, "HEADS": 8, "LAYERS": 12, "USE_RCP_BLOCK": False}
TOWERS = {  # of each published gated model: embedding, patch, width, layers, text width, text heads
    "react_ViT-B-32": (512, 32, 768, 12, 512, 8),
    "react_ViT-B-16": (512, 16, 768, 12, 512, 8),
    "react_ViT-L-14": (768, 14, 1024, 24, 768, 12),
    "react_ViT-bigG-14": (1280, 14, 1664, 48, 1280, 20),
}


def model_yaml(model: str, file: str, gated: bool = True) -> dict:
    """A model yaml with the keys that ELEVATER's copies for REACT have."""
    dim, patch, width, layers, text_width, text_heads = TOWERS[model]
    big = model == "react_ViT-bigG-14"
    vision = {"MODEL": "vit", "PATCH_SIZE": patch, "WIDTH": width, "LAYERS": layers, "USE_RCP_BLOCK": gated}
    return {
        "OUTPUT_DIR": "OUTPUT/CLIP/",
        "INPUT": {"MEAN": [0.48145466, 0.4578275, 0.40821073], "STD": [0.26862954, 0.26130258, 0.27577711]},
        "MODEL": {
            "NAME": "clip_react",
            "NUM_PARAMS_IN_M": 151.2,
            "SPEC": {
                "EMBED_DIM": dim,
                **({"USE_QUICK_GELU": False} if big else {}),
                "VISION": vision | ({"HEADS": 16, "MLP_RATIO": 4.9231} if big else {}),
                "TEXT": TEXT | {"WIDTH": text_width, "HEADS": text_heads, "LAYERS": 32 if big else 12},
                "RCP_BLOCK": {"MODE": "gated_attn", "GUMBEL_SAMPLE": False, "USE_LAST_K": 12 if big else 6},
            },
        },
        "TEST": {"BATCH_SIZE_PER_GPU": 128, "MODEL_FILE": file},
        "TRAIN": {"END_EPOCH": 10, "OPTIMIZER": "sgd", "LR_SCHEDULER": {"METHOD": "WarmupCosine"}},
    }


B32 = model_yaml("react_ViT-B-32", "hf:react-vl/react-in1k:clip-vit-base-32-gated-image.pt")
DS = {"DATASET": {"DATASET": "dtd", "ROOT": "data", "NUM_CLASSES": 47}, "TEST": {"METRIC": "accuracy"}}


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def write(values: dict, name: str = "model.yaml"):
        path = tmp_path / name
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.mark.parametrize("release", published.RELEASES, ids=lambda release: release.file)
def test_every_published_checkpoint_becomes_its_name_and_tag(written, release):
    """Its yaml describes the tower; locked-text models are the same without gated blocks."""
    gated = release.model.startswith("react_")
    values = model_yaml(
        release.model if gated else f"react_{release.model}", f"hf:{published.REPOSITORY}:{release.file}", gated=gated
    )
    values["MODEL"]["SPEC"]["USE_QUICK_GELU"] = release.quick_gelu
    if release.half_mean:
        values["INPUT"] = {"MEAN": [0.5, 0.5, 0.5], "STD": [0.5] * 3}
    found = read(None, written(values)).model
    assert found == f"{release.model}:{release.tag}"
    parsed = names.parse(found, open_clip.list_models())
    assert published.find(parsed.name, parsed.last_k, parsed.tag) is release


def test_both_files_and_the_pairs_behind_them(written, capsys):
    ds = written(DS, "ds.yaml")
    words = "MODEL.CLIP_FP32 True DATASET.ROOT other TEST.BATCH_SIZE_PER_GPU 7 DATASET.NUM_SAMPLES_PER_CLASS -1"
    words += " DATASET.RANDOM_SEED_SAMPLING 2 KNOWLEDGE.GPT3.USE_GPT3 False"
    found = read(ds, written(B32), words.split())
    unused = ["MODEL.NUM_PARAMS_IN_M", "TRAIN.END_EPOCH", "TRAIN.LR_SCHEDULER.METHOD", "TRAIN.OPTIMIZER"]
    assert dict(vars(found), data=str(found.data), out=str(found.out)) == vars(
        Settings(
            model="react_ViT-B-32:react_clip_ret_laion400m",
            task="dtd",
            data="other",
            metric="accuracy",
            batch_size=7,
            precision="fp32",
            shots="all",
            seeds=[2],
            out="OUTPUT/CLIP/dtd",
            unused=unused,
        )
    )
    assert f"keys without meaning here: {', '.join(unused)}\n" in capsys.readouterr().out


def test_the_seeds_own_command(written, tmp_path):
    """ImageNet by class folders below DATASET.ROOT; MODEL.CLIP_FP32 False asks for nothing."""
    (tmp_path / "DATASET/imagenet-1k/val/n01440764").mkdir(parents=True)
    ds = written(
        {"DATASET": {"DATASET": "imagenet-1k", "ROOT": "DATASET/imagenet-1k/"}, "TEST": {"METRIC": "accuracy"}}, "d"
    )
    found = read(ds, written(B32), ["MODEL.CLIP_FP32", "False"])
    assert (found.task, str(found.imagenet_val), found.data) == ("imagenet-1k", "DATASET/imagenet-1k/val", None)
    assert found.precision is None


def test_where_a_data_set_lies(written, tmp_path):
    (tmp_path / "elevater/classification/dtd_20211007").mkdir(parents=True)
    (tmp_path / "elevater/val").mkdir()
    (tmp_path / "mine/held-out/cat").mkdir(parents=True)

    def task(**keys) -> tuple:
        found = read(written({"DATASET": keys}), None)
        return found.task, found.data and found.data.name, found.split

    assert task(DATASET="dtd", ROOT="elevater") == ("dtd", "elevater", None)
    assert task(DATASET="DTD", ROOT="nowhere") == ("dtd", "nowhere", None)
    assert task(DATASET="pets of mine", ROOT="mine/", TEST_SET="held-out") == ("mine", tmp_path.name, "held-out")
    assert task(DATASET="dtd") == ("dtd", None, None) and task(ROOT="elevater") == (None, "elevater", None)


def test_files_of_ones_own_and_names_of_openai(written, tmp_path):
    (tmp_path / "gates.pt").write_bytes(b"")
    own = copy.deepcopy(B32)
    own["TEST"]["MODEL_FILE"] = "gates.pt"
    assert read(None, written(own)).model == "react_ViT-B-32-quickgelu:gates.pt"
    own["MODEL"]["SPEC"] |= {
        "USE_QUICK_GELU": False,
        "VISION": own["MODEL"]["SPEC"]["VISION"] | {"USE_RCP_BLOCK": False},
    }
    assert read(None, written(own)).model == "ViT-B-32-gelu:gates.pt"
    for name, wanted in {
        "ViT-B/32": "ViT-B-32:openai",
        "ViT-L/14@336px": "ViT-L-14-336:openai",
        "RN50x4": "RN50x4:openai",
    }.items():
        assert read(None, written({"MODEL": {"NAME": name}, "TEST": {"MODEL_FILE": "."}})).model == wanted
        names.parse(wanted, open_clip.list_models())
    assert (
        read(None, written({"MODEL": {"NAME": "RN50"}, "TEST": {"MODEL_FILE": "gates.pt"}})).model
        == "RN50-quickgelu:gates.pt"
    )


def test_another_repository_of_the_hub_is_fetched(written, tmp_path, monkeypatch):
    (tmp_path / "mine.pt").write_bytes(b"weights")
    own = copy.deepcopy(B32)
    own["TEST"]["MODEL_FILE"] = "hf:someone/react:mine.pt"
    with serving() as hub:
        hub.put("someone/react", tmp_path / "mine.pt")
        use(hub, tmp_path / "cache", monkeypatch)
        name, _, path = read(None, written(own)).model.partition(":")
    assert name == "react_ViT-B-32-quickgelu"
    with open(path, "rb") as file:
        assert file.read() == b"weights"


def test_base_files_come_first_and_may_not_turn_in_circles(written, tmp_path):
    written({"TEST": {"BATCH_SIZE_PER_GPU": 5, "METRIC": "roc_auc"}}, "base.yaml")
    top = written({"BASE": ["base.yaml", ""], "TEST": {"METRIC": "accuracy"}}, "top.yaml")
    found = read(top, None)
    assert (found.batch_size, found.metric) == (5, "accuracy")
    written({"BASE": ["top.yaml"]}, "base.yaml")
    with pytest.raises(ReactvlError, match="BASE leads back"):
        read(top, None)


WRONG = {
    "MODEL.SPEC.RCP_BLOCK.USE_LAST_K": (3, "last 6 layers"),
    "MODEL.SPEC.RCP_BLOCK.MODE": ("prompt_tuning", "gated_attn is"),
    "MODEL.SPEC.RCP_BLOCK.WIDTH": (64, "as wide as the tower"),
    "MODEL.SPEC.VISION.WIDTH": (769, "WIDTH 769"),
    "MODEL.SPEC.VISION.USE_RCP_BLOCK": ("False", "is of react_ViT-B-32"),
    "MODEL.SPEC.USE_QUICK_GELU": ("False", "USE_QUICK_GELU True"),
    "TRAIN.IMAGE_SIZE": ("[288,288]", "288 pixels"),
    "INPUT.MEAN": ("[0.5,0.5,0.5]", "as a folder"),
    "INPUT.STD": ("broken", "as a folder"),
    "TEST.MODEL_FILE": ("hf:nothing", "hf:REPOSITORY:FILE"),
    "MODEL.NAME": ("cls_hrnet", "reactvl models"),
    "TEST.METRIC": ("roc_auc", "dtd is scored by accuracy"),
    "DATASET.NUM_CLASSES": (46, "has 47 classes"),
    "DATASET.NUM_SAMPLES_PER_CLASS": ("five", "whole number"),
    "TEST.BATCH_SIZE_PER_GPU": (0, "from 1 on"),
    "MODEL.CLIP_FP32": ("maybe", "True or False"),
    "KNOWLEDGE.GPT3.USE_GPT3": ("True", "--templates"),
    "TEST.CENTER_CROP": ("False", "centre"),
    "TRAIN.INIT_HEAD_WITH_TEXT_ENCODER": ("False", "starts from the text tower"),
}


@pytest.mark.parametrize("key", WRONG)
def test_what_cannot_be_honoured_ends_with_the_key(written, key):
    text, says = WRONG[key]
    with pytest.raises(ReactvlError, match=re.escape(says)) as fault:
        read(written(DS, "ds.yaml"), written(B32), [key, str(text)])
    assert (
        key in str(fault.value) or "MODEL.NAME clip_react" in str(fault.value) or "TEST.MODEL_FILE" in str(fault.value)
    )


@pytest.mark.parametrize(
    ("file", "says"),
    [("https://x/y.pt", "fetch it"), ("none.pt", "no such file"), ("", "lacks its weights")],
)
def test_weights_that_are_not_there(written, file, says):
    with pytest.raises(ReactvlError, match=says):
        read(None, written(B32), ["TEST.MODEL_FILE", file])


@pytest.mark.parametrize(
    ("words", "says"), [(["A.B"], "no value"), (["run/model", "x"], "no key"), (["model.name", "x"], "no key")]
)
def test_pairs_that_are_none(written, words, says):
    with pytest.raises(ReactvlError, match=says):
        read(None, None, words)


@settings(deadline=None, max_examples=80)
@given(st.binary(max_size=60) | st.text(alphabet="&*a: [{}]-\n!'\"1", max_size=40).map(str.encode))
def test_any_bytes_are_settings_or_an_error_in_one_line(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("y") / "any.yaml"
    path.write_bytes(data)
    try:
        assert isinstance(read(path, None), Settings)
    except ReactvlError as fault:
        assert "any.yaml" in str(fault) and "\n" not in str(fault)


def test_no_python_is_made_of_a_yaml(written, tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("MODEL: !!python/object/apply:os.mkdir [made]\n")
    with pytest.raises(ReactvlError, match="cannot be read as yaml"):
        read(path, None)
    assert not (tmp_path / "made").exists()


def test_every_key_that_is_used_is_one_of_elevaters_spelling():
    assert all(key == key.upper() for key in spec_model.USED)
