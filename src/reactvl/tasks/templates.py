"""Prompt templates: a sentence with `{}` where the class name goes."""

from collections.abc import Sequence
from pathlib import Path

from reactvl.manifest import ReactvlError
from reactvl.tasks.lists import listed, squeezed

# open_clip's SIMPLE_IMAGENET_TEMPLATES, the seven that the CLIP authors found to carry most of the eighty's gain.
SIMPLE = (
    "itap of a {}.",
    "a bad photo of the {}.",
    "a origami {}.",
    "a photo of the large {}.",
    "a {} in a video game.",
    "art of the {}.",
    "a photo of the small {}.",
)


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


def prompt(template: str, name: str) -> str:
    """The template with the class name in its place; braces inside the name are only text."""
    return template.replace("{}", name)


def checked(template: str, place: str) -> str:
    template = squeezed(str(template)).replace("{c}", "{}")
    if template.count("{}") != 1:
        raise ReactvlError(
            f"{place}: template '{template}' must hold {{}} exactly once, where the class name goes; "
            f"named sets are {' and '.join(sorted(NAMED))}, and the benchmarks' names"
        )
    return template


def openai() -> list[str]:
    """CLIP's 80 ImageNet templates, from open_clip, as text.

    open_clip keeps them as functions; calling each with the text `{}` gives the template back.
    """
    from reactvl.clip_imports import open_clip

    return [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]


NAMED = {"openai": openai, "simple": lambda: list(SIMPLE)}
