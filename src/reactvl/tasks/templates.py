"""Prompt templates: a sentence with `{}` where the class name goes."""

from collections.abc import Sequence
from pathlib import Path

from reactvl.manifest import ReactvlError
from reactvl.tasks.classes import listed

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

    `templates` is "openai" (the 80 of CLIP's ImageNet evaluation), "simple" (7 of them), a file with one a line, one
    template itself, or a list of templates. `{c}`, CLIP-benchmark's spelling, is read as `{}`. Raises ReactvlError for
    an empty list, a missing file, or a template in which the class name does not appear exactly once.
    """
    if not isinstance(templates, str | Path):
        given, source = list(templates), "templates"
        if len(given) == 1 and given[0] in NAMED:
            return NAMED[given[0]]()
    elif str(templates) in NAMED:
        return NAMED[str(templates)]()
    elif isinstance(templates, str) and ("{}" in templates or "{c}" in templates):
        given, source = [templates], "templates"  # one template, its commas included
    else:
        given, source = listed(templates, "templates")
    if not given:
        raise ReactvlError(f"{source}: holds no template")
    return [checked(template, source) for template in given]


def prompt(template: str, name: str) -> str:
    """The template with the class name in its place; braces inside the name are only text."""
    return template.replace("{}", name)


def checked(template: str, source: str) -> str:
    template = str(template).strip().replace("{c}", "{}")
    if template.count("{}") != 1:
        raise ReactvlError(
            f"{source}: template '{template}' must hold {{}} exactly once, where the class name goes; "
            f"named sets are {' and '.join(sorted(NAMED))}"
        )
    return template


def openai() -> list[str]:
    """CLIP's 80 ImageNet templates, from open_clip, as text.

    open_clip keeps them as functions; calling each with the text `{}` gives the template back.
    """
    from reactvl.clip_imports import open_clip

    return [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]


NAMED = {"openai": openai, "simple": lambda: list(SIMPLE)}
