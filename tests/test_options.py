"""A stage's signature, command line and recipe table are one."""

import inspect
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest

from reactvl.cli import VERBS, stage_of
from reactvl.options import COMMON, Opt, command_line, options_of, table
from reactvl.recipe import STAGES, TABLES


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_of_every_verb_has_its_help_line(verb):
    options = options_of(stage_of(verb))
    assert [option.name for option in options] == list(inspect.signature(stage_of(verb)).parameters)
    assert all(option.opt.help and "\n" not in option.opt.help for option in options)


@pytest.mark.parametrize("verb", VERBS)
def test_the_command_line_has_the_signatures_options_and_defaults(verb, capsys):
    stage = stage_of(verb)
    with pytest.raises(SystemExit) as ended:
        command_line(stage, verb, ["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 0
    for option in options_of(stage):
        wanted = option.name.upper() if option.opt.positional else f"--{option.name.replace('_', '-')}"
        assert wanted in shown
        assert option.opt.help.split()[0] in shown
    needed = []
    for option in options_of(stage):
        if option.required:
            needed += ["x"] if option.opt.positional else [f"--{option.name.replace('_', '-')}", "x"]
    given = command_line(stage, verb, needed)
    defaults = {option.name: option.default for option in options_of(stage) if not option.required}
    for name, default in defaults.items():
        assert given[name] == (list(default) if isinstance(default, tuple) else default), name


@pytest.mark.parametrize("name", STAGES)
def test_the_recipes_table_has_the_signatures_options_and_forbids_others(name):
    stage = STAGES[name]
    wanted = {o.name for o in options_of(stage) if o.opt.table and not o.opt.positional and o.name not in COMMON}
    assert set(TABLES[name].__struct_fields__) == wanted
    with pytest.raises(msgspec.ValidationError, match="unknown field `nonsense`"):
        msgspec.convert({"nonsense": 1}, TABLES[name])


def sample(
    things: Annotated[list[str], Opt("things", positional=True)],
    *,
    out: Annotated[Path, Opt("where")],
    model: Annotated[str | object, Opt("model")] = "m",
    tasks: Annotated[list[str] | None, Opt("tasks")] = None,
    flag: Annotated[bool, Opt("a flag")] = False,
    kind: Annotated[Literal["a", "b"], Opt("a kind")] = "a",
    rate: Annotated[float | None, Opt("a rate")] = None,
) -> None:
    """A stage."""


def parsed(*args: str) -> dict:
    return command_line(sample, "sample", ["t", "--out", "o", *args])


@pytest.mark.parametrize(
    ("args", "name", "value"),
    [
        (["--tasks", "dtd,food-101"], "tasks", ["dtd", "food-101"]),
        (["--tasks", "dtd", "food-101"], "tasks", ["dtd", "food-101"]),
        (["--tasks", "scale=(0.5,1.0)", "x=1"], "tasks", ["scale=(0.5,1.0)", "x=1"]),
        (["--flag"], "flag", True),
        (["--flag", "true"], "flag", True),
        (["--flag=1"], "flag", True),
        (["--flag", "False"], "flag", False),
        (["--no-flag"], "flag", False),
        (["--kind", "b"], "kind", "b"),
        (["--rate", "1e-3"], "rate", 1e-3),
        (["--model", "ViT-B-32", "--pretrained", "openai"], "model", "ViT-B-32:openai"),
        (["--pretrained=openai", "--model=ViT-B-32"], "model", "ViT-B-32:openai"),
    ],
)
def test_options_are_taken_as_their_users_spell_them(args, name, value):
    assert parsed(*args)[name] == value


@pytest.mark.parametrize("args", [["--nonsense", "1"], ["--kind", "c"], ["--rate", "fast"]])
def test_wrong_usage_ends_with_code_2(args, capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(*args)
    assert ended.value.code == 2


def test_a_parameter_without_its_help_line_is_a_fault_of_the_program():
    def bare(x: int) -> None: ...

    with pytest.raises(TypeError, match=r"parameter x has no Opt"):
        options_of(bare)
    assert table(sample, "Sample").__struct_fields__ == ("tasks", "flag", "kind", "rate")
