"""Sentences for class names: a template's one `{}` is where the name goes. The named sets, and what a template must be."""

from collections.abc import Callable

from reactvl.manifest import ReactvlError

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


def prompt(template: str, name: str) -> str:
    """The template with the class name in its place; braces inside the name are only text."""
    return template.replace("{}", name)


def checked(template: str, place: str, more: str = "") -> str:
    """The template, white space runs as one space and CLIP-benchmark's `{c}` as `{}`; ReactvlError, which names `place` and
    where templates are to be had (the named sets and `more`), where the name does not appear exactly once."""
    template = " ".join(str(template).split()).replace("{c}", "{}")
    if template.count("{}") != 1:
        raise ReactvlError(
            f"{place}: template '{template}' must hold {{}} exactly once, where the class name goes; "
            f"named sets are {' and '.join(sorted(NAMED))}{more}"
        )
    return template


def openai() -> list[str]:
    """CLIP's 80 ImageNet templates, from open_clip, as text.

    open_clip keeps them as functions; calling each with the text `{}` gives the template back.
    """
    from reactvl.clip_imports import open_clip

    return [template("{}") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]


NAMED: dict[str, Callable[[], list[str]]] = {"openai": openai, "simple": lambda: list(SIMPLE)}
