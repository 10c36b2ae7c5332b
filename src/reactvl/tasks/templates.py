"""Prompt templates: a sentence with `{}` where the class name goes."""

from collections.abc import Sequence
from pathlib import Path

from reactvl.manifest import ReactvlError
from reactvl.models.templates import NAMED, SIMPLE, prompt
from reactvl.models.templates import checked as valid
from reactvl.tasks.lists import listed

__all__ = ["SIMPLE", "checked", "prompt", "read_templates"]

BENCHMARKS = ", and the benchmarks' names"


def read_templates(templates: str | Path | Sequence[str]) -> list[str]:
    """Templates with `{}` for the class name.

    `templates` is "openai" (the 80 of CLIP's ImageNet evaluation), "simple" (7 of them), a benchmark's name ("dtd") or file
    for that benchmark's own, a text file with one a line, one template itself, or a list of templates. `{c}`,
    CLIP-benchmark's spelling, is read as `{}`. Raises ReactvlError, with file and line, for an empty list, a missing file,
    or a template in which the class name does not appear exactly once.
    """
    if not isinstance(templates, str | Path):
        given, source = [(f"templates[{number}]", one) for number, one in enumerate(templates)], "templates"
        if len(given) == 1 and (alone := named(given[0][1])) is not None:
            return alone
    elif (set_of_them := named(templates)) is not None:
        return set_of_them
    elif isinstance(templates, str) and ("{}" in templates or "{c}" in templates):
        given, source = [("templates", templates)], "templates"  # one template, its commas included
    else:
        given, source = listed(templates, "templates")
    if not given:
        raise ReactvlError(f"{source}: holds no template")
    return [checked(template, place) for place, template in given]


def named(given: str | Path) -> list[str] | None:
    """The templates of a named set, a benchmark or a benchmark's file; None for anything else."""
    from reactvl.tasks.benchmarks import benchmark, known

    name = str(given)
    if name in NAMED:
        return NAMED[name]()
    if "{" in name:
        return None
    if (own := known(name)) and not Path(name).is_file():
        return list(benchmark(own).templates)
    return list(benchmark(name).templates) if name.lower().endswith(".toml") else None


def checked(template: str, place: str) -> str:
    """A template as `read_templates` takes it."""
    return valid(template, place, BENCHMARKS)
