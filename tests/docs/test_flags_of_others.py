"""The guides' tables name every flag of the tools that people come from, and no option of ours that is not there.

What others have is kept in flags_of_others.toml with its version and source, and held against the packages themselves where they are
installed. What we have is what the stages' signatures say.
"""

import ast
import importlib.metadata
import inspect
import re
import shlex
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

import reactvl
from reactvl.cli import VERBS, stage_of
from reactvl.customize.flags import ALWAYS, INSTEAD, LOCKS, UNLOCKS, translated
from reactvl.manifest import ReactvlError
from reactvl.options import options_of, spelled

HOME = Path(__file__).parent
ROOT = HOME.parents[1]
TOOLS = {tool["name"]: tool for tool in tomllib.loads((HOME / "flags_of_others.toml").read_text())["tool"]}
GUIDES = sorted(path for path in [*(ROOT / "docs").rglob("*.md"), ROOT / "README.md"])
SAID_ELSEWHERE = {  # flags that a command takes and that are no option of its signature
    "customize": {*ALWAYS, *LOCKS, *UNLOCKS, "skip-scheduler", "delete-previous-checkpoint"},
}
EVERYWHERE = {"help"}


class Row(NamedTuple):
    """A row of a guide's table: their words, ours, and what is said of it."""

    theirs: list[str]
    ours: str
    remark: str


def sections(guide: Path) -> dict[str, str]:
    """The guide's second-level sections by the codes of their headings; a heading may name several commands."""
    found: dict[str, str] = {}
    for part in re.split(r"^## ", guide.read_text(), flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        for name in re.findall(r"`([^`]+)`", heading):
            assert name not in found, f"{guide.name}: two sections for {name}"
            found[name] = body
    return found


def rows(section: str) -> list[Row]:
    """The rows of the section's tables whose first column holds flags; configuration keys (`MODEL.NAME`) are none."""
    found = []
    for line in section.splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))]
            theirs = [bare(code) for code in re.findall(r"`([^`]+)`", cells[0])]
            theirs = [name for name in theirs if not re.fullmatch(r"[A-Z0-9_.*]+", name)]
            if not theirs:
                continue
            found.append(Row(theirs, cells[1], cells[2] if len(cells) > 2 else ""))
    return found


def bare(code: str) -> str:
    """`--save-predictions True`, `save_predictions`: their name alone."""
    return re.split(r"[ =]", code.removeprefix("--"))[0]


def plain(name: str) -> str:
    return name.replace("_", "-")


def flags_in(text: str) -> list[str]:
    """Our flags that a piece of text names."""
    return [plain(flag) for flag in re.findall(r"(?<![\w-])--([A-Za-z][\w-]*)", text)]


def known(verb: str) -> set[str]:
    """All flags that `reactvl VERB` takes."""
    own = {plain(name) for option in options_of(stage_of(verb)) for name in (option.name, *option.opt.also)}
    negative = {f"no-{plain(o.name)}" for o in options_of(stage_of(verb)) if o.type in (bool, bool | None)}
    with_tag = {"pretrained"} if "model" in own else set()
    return own | negative | with_tag | SAID_ELSEWHERE.get(verb, set()) | EVERYWHERE


def verbs_in(text: str) -> list[str]:
    return [verb for verb in re.findall(r"\breactvl ([a-z]+)", text) if verb in VERBS]


COMMANDS = [
    pytest.param(tool, command, id=f"{tool['name']}: {command}")
    for tool in TOOLS.values()
    for command in tool["commands"]
]


@pytest.mark.parametrize(("tool", "command"), COMMANDS)
def test_every_flag_of_theirs_is_in_the_table(tool, command):
    there = sections(ROOT / "docs" / tool["guide"])
    assert command in there, f"{tool['guide']} has no section `{command}`"
    named = [flag for row in rows(there[command]) for flag in row.theirs]
    expected = tool["commands"][command]
    assert sorted(set(named)) == sorted(expected), "left out or made up"
    assert len(named) == len(set(named)), "named twice"


@pytest.mark.parametrize(("tool", "command"), COMMANDS)
def test_what_a_table_offers_instead_is_there(tool, command):
    section = sections(ROOT / "docs" / tool["guide"])[command]
    for row in rows(section):
        assert row.ours, f"{row.theirs}: says nothing"
        if row.ours == "—":
            assert row.remark, f"{row.theirs}: not needed, but why?"
        verbs = verbs_in(row.ours) or verbs_in(section)
        flags = flags_in(row.ours) + (row.theirs if row.ours.startswith("the same") else [])
        assert not flags or verbs, f"{row.theirs}: of which command is {row.ours}?"
        for flag in flags:
            assert any(plain(flag) in known(verb) for verb in verbs), f"{row.theirs}: {verbs} has no --{flag}"


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.stem)
def test_commands_named_in_sentences_have_flags_that_exist(guide):
    """Those in a sentence's code, and those behind torchrun and srun; `test_guides.py` parses the others."""
    wrong = []
    for words in commands(guide):
        assert words[0] in VERBS, f"{guide.name}: there is no command {words[0]!r}"
        there = known(words[0])
        given = [plain(word.removeprefix("--").split("=")[0]) for word in words if re.match(r"--[A-Za-z]", word)]
        wrong += [f"{words[0]} --{flag}" for flag in given if flag not in there]
    assert not wrong


def commands(guide: Path) -> list[list[str]]:
    """The words behind `reactvl` of these commands."""
    text = re.sub(r"\\\n\s*", " ", guide.read_text())
    launched = [line for line in text.splitlines() if re.match(r"\s*(torchrun|srun) ", line)]
    prose = re.sub(r"^```.*?^```|^    .*?$", "", text, flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`]+)`", re.sub(r"\s+", " ", prose))
    found = []
    for line in [*launched, *spans]:
        command = re.match(r"\s*(?:torchrun .*?-m |srun (?:.*?-m )?)?reactvl ([a-z].*)", line)
        if command:
            said = re.split(r"\s#|;| && | \| |\s>", command[1])[0]
            found.append(shlex.split(said, posix=False))
    return [words for words in found if re.fullmatch(r"[a-z]+", words[0])]


def test_a_flag_that_is_not_there_is_seen(tmp_path):
    guide = tmp_path / "guide.md"
    guide.write_text(
        "Try `reactvl embed POOL\n--batches 3`.\n\n    torchrun -m reactvl customize run/retrieved \\\n        --lokc-text\n"
    )
    assert commands(guide) == [["customize", "run/retrieved", "--lokc-text"], ["embed", "POOL", "--batches", "3"]]
    for words in (["embed", "--batches"], ["customize", "--lokc-text"]):
        assert plain(bare(words[1])) not in known(words[0])
    assert {"batch-size", "fast-images", "no-fast-images", "pretrained", "help"} <= known("embed")


NEEDED = {  # what must stand beside a flag that says something only with it, and its own value
    "lock-image-unlocked-groups": ["--lock-image", "--lock-image-unlocked-groups", "3"],
    "lock-text-unlocked-layers": ["--lock-text", "--lock-text-unlocked-layers", "2"],
}


@pytest.mark.parametrize(
    "row", rows(sections(ROOT / "docs/coming-from-open_clip.md")["open_clip_train.main"]), ids=lambda row: row.theirs[0]
)
def test_open_clip_s_flags_do_what_the_table_says(row):
    from reactvl.customize import customize

    for flag in row.theirs:
        given = NEEDED.get(flag, [f"--{flag}"])
        if row.ours == "an error":
            with pytest.raises(ReactvlError, match=f"--{flag}: "):
                translated(given)
        elif row.ours == "accepted":
            assert translated(given) == []
        elif row.ours.startswith("the same"):
            assert translated([f"--{flag}", "1"])[0] == f"--{flag}" and flag in known("customize")
        else:
            [said] = re.findall(r"`(--[^`]+)`", row.ours)
            words = spelled(customize, given)
            assert said.split(" ")[0] in words and f"--{flag}" not in words


def test_the_python_of_both_sides_is_there():
    from reactvl.clip_imports import open_clip
    from reactvl.models.model import Model

    table = (ROOT / "docs/coming-from-open_clip.md").read_text().partition("\n## Python")[2]
    pairs = [line.strip("|").split(" | ", 1) for line in table.splitlines() if line.startswith("| ")][1:]
    theirs = {name for left, _ in pairs for name in re.findall(r"open_clip\.(\w+)", left)}
    ours = {name for _, right in pairs for name in re.findall(r"`(?:model = )?(model|rv)\.(\w+)", right)}
    assert len(theirs) > 8 and [name for name in theirs if not hasattr(open_clip, name)] == []
    homes = {"model": {*dir(Model), "net", "config"}, "rv": set(dir(reactvl))}
    assert len(ours) > 6 and [name for home, name in ours if name not in homes[home]] == []


def test_every_answer_to_a_flag_of_open_clip_s_is_to_one_that_it_has():
    theirs = {*TOOLS["open_clip_train"]["commands"]["open_clip_train.main"], "lock-image-unlock-gated"}
    assert {*ALWAYS, *INSTEAD, *LOCKS, *UNLOCKS} <= theirs


def test_the_list_of_open_clip_s_flags_is_the_package_s():
    from open_clip_train.params import parse_args

    tool = TOOLS["open_clip_train"]
    version = importlib.metadata.version("open_clip_torch")
    if version != tool["version"]:
        pytest.skip(f"open_clip_torch {version} is installed, the list is of {tool['version']}")
    assert argparse_flags(inspect.getsource(parse_args)) == tool["commands"]["open_clip_train.main"]


def argparse_flags(source: str) -> list[str]:
    """The options of every `add_argument` in some code."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    added = [
        call.args[0] for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr == "add_argument"
    ]
    return [first.value.removeprefix("--") for first in added]


PLACES = {  # where clip-retrieval's commands are: file, function, class
    "clip-retrieval inference": ("clip_inference/main.py", "main", None),
    "clip-retrieval inference.worker": ("clip_inference/worker.py", "worker", None),
    "clip-retrieval inference.slurm_worker": ("clip_inference/slurm_worker.py", "slurm_worker", None),
    "clip-retrieval index": ("clip_index.py", "clip_index", None),
    "clip-retrieval back": ("clip_back.py", "clip_back", None),
    "clip-retrieval front": ("clip_front.py", "clip_front", None),
    "clip-retrieval end2end": ("clip_end2end.py", "clip_end2end", None),
    "clip-retrieval filter": ("clip_filter.py", "clip_filter", None),
    "clip-retrieval index_combiner": ("clip_back_prepro/index_combiner.py", "index_combiner", None),
    "clip-retrieval parquet_to_arrow": ("clip_back_prepro/parquet_to_arrow.py", "parquet_to_arrow", None),
    "ClipClient": ("clip_client.py", "__init__", "ClipClient"),
    "ClipClient.query": ("clip_client.py", "query", "ClipClient"),
}


def test_the_list_of_clip_retrieval_s_flags_is_the_package_s():
    [*homes] = ROOT.glob("out/benchmarks/environments/clip-retrieval/lib/python3*/site-packages/clip_retrieval")
    tool = TOOLS["clip-retrieval"]
    if not homes or not [*homes[0].parent.glob(f"clip_retrieval-{tool['version']}.dist-info")]:
        pytest.skip(f"clip-retrieval {tool['version']} is not installed: benchmarks/environments/make.py does it")
    home = homes[0]
    for command, (file, function, owner) in PLACES.items():
        body = ast.parse((home / file).read_text()).body
        if owner:
            body = next(node for node in body if isinstance(node, ast.ClassDef) and node.name == owner).body
        [found] = [node for node in body if isinstance(node, ast.FunctionDef) and node.name == function]
        assert [arg.arg for arg in found.args.args if arg.arg != "self"] == tool["commands"][command], command
    commands = re.findall(r'^ +"([\w.]+)": \w+,$', (home / "cli.py").read_text(), re.MULTILINE)
    assert {f"clip-retrieval {command}" for command in commands} == {name for name in PLACES if " " in name}
    service = (home / "clip_back.py").read_text().partition("class KnnService")[2].partition("def post(self)")[2]
    fields = re.findall(r'json_data(?:\.get\(|\[)"(\w+)"', service.partition("return self.query")[0])
    assert list(dict.fromkeys(fields)) == tool["commands"]["POST /knn-service"]
