"""The guides say what works: every command in them parses, every block marked `run` runs, every other says that it does not."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from guide_blocks import GUIDES, PAGES, ROOT, Block, blocks, commands, lines

from reactvl.cli import VERBS, main, stage_of
from reactvl.options import command_line, options_of

LANGUAGES = ("sh", "python")
RUN_ELSEWHERE = {  # words of fences by guide, and the test that runs them
    "coming-from-react.md": {
        "run": "tests/end_to_end/test_coming_from_react.py",
        "train": "tests/end_to_end/test_training_as_in_react.py",
        "evaluate": "tests/end_to_end/test_evaluation_as_in_react.py",
    },
}
SIZES = {"--steps": "2", "--views": "1"}  # in place of the guides' own
RECIPE_SIZES = {r"^steps = \d+": "steps = 2", r"^views = \d+": "views = 1"}


def shown(page) -> str:
    return str(page.relative_to(ROOT))


ALL = [block for page in PAGES for block in blocks(page)]
MARKED = [block for block in ALL if block.words and block.words[0] in LANGUAGES and block.page in GUIDES]
TYPED = [(block, words) for block in ALL for words in commands(block)]
RUN_HERE = [page for page in GUIDES if page.name not in RUN_ELSEWHERE and any("run" in b.words for b in blocks(page))]


@pytest.mark.parametrize("block", MARKED, ids=str)
def test_a_block_is_run_or_says_that_it_is_not(block: Block):
    """A fence with a language is `run`, or the paragraph before or after it says "not run here". A block without a
    language (and an indented one) shows syntax."""
    if len(block.words) == 1:
        assert "not run here" in f"{block.before}\n{block.after}".lower(), (
            f"{block}: mark it ```{block.words[0]} run, or say beside it why it is not run here"
        )
    else:
        known = RUN_ELSEWHERE.get(block.page.name, {"run": None})
        assert block.words[1:] in [(word,) for word in known], f"{block}: ```{' '.join(block.words)} is no known mark"


def test_blocks_that_another_test_runs_are_read_by_it():
    for guide, words in RUN_ELSEWHERE.items():
        for word, test in words.items():
            text = (ROOT / test).read_text()
            assert guide in text and f"```sh {word}" in text


@pytest.mark.parametrize(
    ("block", "words"), TYPED, ids=lambda value: str(value) if isinstance(value, Block) else value[1]
)
def test_a_command_parses(block: Block, words: list[str], capsys):
    """Its verb exists and it parses by its stage's signature; of one with `...` the flags exist."""
    verb, *args = words[1:]
    assert verb in VERBS, f"{block}: there is no `reactvl {verb}`"
    stage = stage_of(verb)
    if "..." in args:
        known = {name.replace("_", "-") for option in options_of(stage) for name in (option.name, *option.opt.also)}
        for flag in (word for word in args if word.startswith("--")):
            assert flag.removeprefix("--").removeprefix("no-").partition("=")[0] in known, f"{block}: {flag}"
        return
    try:
        command_line(stage, verb, args)
    except SystemExit:
        pytest.fail(f"{block}: {shlex.join(words)}\n{capsys.readouterr().err}")


@pytest.mark.parametrize("page", RUN_HERE, ids=shown)
def test_the_run_blocks_of_a_guide_run_in_order(page, clone, monkeypatch, capfd):
    """In a clone after `make demo`, with few pairs and steps. A `text printed` block is
    what the one before it prints, but for figures."""
    monkeypatch.chdir(clone)
    for recipe in clone.glob("examples/*.toml"):
        recipe.write_text(smaller(recipe.read_text()))
    names: dict = {}
    printed = ""
    for block in blocks(page):
        if block.words[1:] == ("run",):
            typed(block, names)
            printed = "".join(capfd.readouterr())
        elif block.words[1:] == ("printed",):
            assert words_of(block.text) <= words_of(printed), f"{block}: printed was\n{printed}"


def smaller(recipe: str) -> str:
    for pattern, size in RECIPE_SIZES.items():
        recipe = re.sub(pattern, size, recipe, flags=re.MULTILINE)
    return recipe


def typed(block: Block, names: dict) -> None:
    """Run one block as it stands: our commands in this process, others by a shell."""
    if block.words[0] == "python":
        exec(compile(block.text, str(block), "exec"), names)
        return
    if not all(line.startswith("reactvl ") and " | " not in line for line in lines(block)):
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])  # as after `activate`
        subprocess.run(["sh", "-e", "-c", block.text], check=True, env=os.environ | {"PATH": path})
        return
    for words in commands(block):
        args = words[1:]
        for flag, size in SIZES.items():
            if flag in args:
                args[args.index(flag) + 1] = size
        assert main(args) == 0, f"{block}: {shlex.join(words)}"


def words_of(text: str) -> set[str]:
    return set(re.findall(r"[A-Za-z][A-Za-z/_-]+", text))


def test_the_blocks_of_a_page_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\nBefore.\n\n```sh run\nreactvl embed pool\n```\n\nNot run here.\n\n    reactvl a \\\n        --b\n\nEnd.\n"
    )
    fenced, indented = blocks(page)
    assert (fenced.words, fenced.line, fenced.before, fenced.after) == (("sh", "run"), 5, "Before.", "Not run here.")
    assert commands(fenced) == [["reactvl", "embed", "pool"]]
    assert indented.words == () and commands(indented) == [["reactvl", "a", "--b"]]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("torchrun --nproc_per_node 8 -m reactvl customize run  # eight", [["reactvl", "customize", "run"]]),
        (
            "find photos -print0 | reactvl predict m - --out - | jq .class",
            [["reactvl", "predict", "m", "-", "--out", "-"]],
        ),
        ("  $ reactvl models", [["reactvl", "models"]]),
        ("# reactvl models", []),
        ("pip install 'reactvl[hf]'", []),
    ],
)
def test_a_command_is_found_behind_what_starts_it(line, words, tmp_path):
    assert commands(Block(tmp_path, ("sh",), line, 1, "", "")) == words
