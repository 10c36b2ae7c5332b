"""A stage's signature as data: the one source of truth of its Python arguments, its command line and its recipe table.

A stage is a function whose parameters are annotated `Annotated[type, Opt("one help line")]`. From it come
the command line (`command_line`, parsed by tyro) and the recipe's table (`table`, checked by msgspec, unknown keys forbidden).
In a union, types that cannot be typed on a command line (handles, arrays) drop out: `str | Embeddings` is a `str` there.
"""

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec


@dataclasses.dataclass(frozen=True)
class Opt:
    """What people read of an option. `positional`: an input, given without a flag. `table`: also a recipe key. `also`:
    older names that the command line takes."""

    help: str
    positional: bool = False
    table: bool = True
    also: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Option:
    """One parameter of a stage: `type` is what text can give."""

    name: str
    type: Any
    default: Any
    opt: Opt

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty


COMMON = {"model", "out", "overwrite"}  # said once for a whole recipe, or by its folders
UNIONS, LISTS = (Union, types.UnionType), (list, tuple, Sequence)
PLAIN = (str, int, float, bool, Path, type(None))


def options_of(stage: Callable) -> list[Option]:
    """The options of a stage in the order of its signature; TypeError for a parameter without its help line."""
    hints = typing.get_type_hints(stage, include_extras=True)
    found = []
    for name, parameter in inspect.signature(stage).parameters.items():
        hint = hints[name]
        opt = next((extra for extra in get_args(hint)[1:] if isinstance(extra, Opt)), None)
        if get_origin(hint) is not Annotated or opt is None:
            raise TypeError(f"{stage.__qualname__}: parameter {name} has no Opt(...)")
        found.append(Option(name, plain(get_args(hint)[0]), parameter.default, opt))
    return found


def plain(hint: Any) -> Any:
    """The part of a type that text can give."""
    if hint in PLAIN or get_origin(hint) is Literal:
        return hint
    if get_origin(hint) in LISTS:
        return list[plain(get_args(hint)[0])]
    if get_origin(hint) in UNIONS:
        return Union[tuple(plain(part) for part in get_args(hint) if typeable(part))]  # noqa: UP007 - built from a tuple
    raise TypeError(f"{hint}: not a type that text can give")


def typeable(hint: Any) -> bool:
    if get_origin(hint) in LISTS:
        return typeable(get_args(hint)[0])
    if get_origin(hint) in UNIONS:
        return any(typeable(part) for part in get_args(hint))
    return hint in PLAIN or get_origin(hint) is Literal


def typed(hint: Any) -> Any:
    """What a command line takes: where a text or a list of texts may stand, it is the text (a file, or a comma list)."""
    if get_origin(hint) in UNIONS and str in get_args(hint):
        return Union[tuple(part for part in get_args(hint) if get_origin(part) is not list)]  # noqa: UP007
    return hint


def table(stage: Callable, name: str) -> type[msgspec.Struct]:
    """The recipe's table of a stage: its options with their defaults, unknown keys forbidden."""
    fields = []
    for option in options_of(stage):
        if option.opt.table and not option.opt.positional and option.name not in COMMON:
            text = as_text(option.type)
            fields.append((option.name, text | msgspec.UnsetType, msgspec.UNSET))
    return msgspec.defstruct(name, fields, kw_only=True, forbid_unknown_fields=True, omit_defaults=True)


def as_text(hint: Any) -> Any:
    """The type with TOML's words: a path is a string there."""
    if hint is Path:
        return str
    if get_origin(hint) is list:
        return list[as_text(get_args(hint)[0])]
    if get_origin(hint) in UNIONS:
        return Union[tuple(as_text(part) for part in get_args(hint))]  # noqa: UP007 - built from a tuple
    return hint


def command_line(stage: Callable, verb: str, args: list[str]) -> dict[str, Any]:
    """Parse a command's arguments by its stage's signature; returns the keyword arguments that were given or defaulted.

    Usage errors and `--help` end the process as tyro does (code 2 and 0).
    """
    import tyro

    fields = []
    for option in options_of(stage):
        hint = typed(option.type)
        listed = is_list(hint)
        if option.opt.positional:
            hint = tyro.conf.Positional[hint]
        metavar = option.name.upper() if option.opt.positional else None
        aliases = [f"--{name}" for name in option.opt.also] or None
        hint = Annotated[hint, tyro.conf.arg(help=option.opt.help, metavar=metavar, prefix_name=False, aliases=aliases)]
        if option.required:
            fields.append((option.name, hint))
        else:
            default = list(option.default) if listed and option.default is not None else option.default
            fields.append((option.name, hint, dataclasses.field(default_factory=lambda value=default: value)))
    fields.sort(key=lambda field: len(field))  # dataclasses want the required ones first
    parser = dataclasses.make_dataclass(verb.replace("-", "_"), fields, kw_only=True)
    summary = (inspect.getdoc(stage) or "").split("\n\n")[0]
    given = tyro.cli(parser, prog=f"reactvl {verb}", description=summary, args=spelled(stage, args))
    return {option.name: split(option, getattr(given, option.name)) for option in options_of(stage)}


def split(option: Option, value: Any) -> Any:
    """`--tasks dtd,food-101` and `--tasks dtd food-101` are the same list."""
    if is_list(typed(option.type)) and value is not None and not option.opt.positional:
        parts = [
            part
            for item in value
            for part in (item.split(",") if isinstance(item, str) and "=" not in item else [item])
        ]
        return [part.strip() if isinstance(part, str) else part for part in parts]
    return value


def is_list(hint: Any) -> bool:
    return get_origin(hint) is list or any(get_origin(part) is list for part in get_args(hint))


def spelled_by(translate: Callable[[Sequence[str]], list[str]]) -> Callable[[Callable], Callable]:
    """Marks a stage whose users bring another tool's flags: `translate` says them in the stage's own words."""

    def marked(stage: Callable) -> Callable:
        stage.translate = translate
        return stage

    return marked


def spelled(stage: Callable, args: list[str]) -> list[str]:
    """The arguments as their users spell them, in tyro's words: `--flag true|false|1|0` is `--flag` or `--no-flag`,
    and `--model NAME --pretrained TAG` is `--model NAME:TAG`."""
    flags = {
        name.replace("_", "-")
        for option in options_of(stage)
        if option.type in (bool, bool | None)
        for name in (option.name, *option.opt.also)
    }
    args = getattr(stage, "translate", list)(args)
    words, at = [], 0
    while at < len(args):
        word, _, value = args[at].partition("=")
        name = word.removeprefix("--").replace("_", "-") if word.startswith("--") else ""
        if name in flags:
            if not value and at + 1 < len(args) and args[at + 1].lower() in TRUTH:
                at += 1
                value = args[at]
            truth = TRUTH.get(value.lower()) if value else True
            words.append(args[at] if truth is None else f"--{'' if truth else 'no-'}{name}")
        else:
            words.append(args[at])
        at += 1
    return with_tag(words)


TRUTH = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


def with_tag(words: list[str]) -> list[str]:
    """open_clip's `--model NAME --pretrained TAG` in one word."""
    words = [
        part
        for word in words
        for part in (word.split("=", 1) if word.startswith(("--pretrained=", "--model=")) else [word])
    ]
    if "--pretrained" not in words:
        return words
    at = words.index("--pretrained")
    tag, rest = words[at + 1 : at + 2], words[:at] + words[at + 2 :]
    if "--model" in rest and tag:
        model = rest.index("--model") + 1
        rest[model] = f"{rest[model]}:{tag[0]}"
    return rest
