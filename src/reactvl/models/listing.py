"""`reactvl models`: the names and tags that a model can have, REACT's published checkpoints with their accuracy."""

from typing import Annotated

from reactvl.options import Opt
from reactvl.progress import say


def models(
    name: Annotated[str, Opt("only names that contain this", positional=True)] = "",
) -> None:
    """List model names: REACT's published checkpoints (ImageNet-1K zero-shot top-1, their base's in brackets), then open_clip's."""
    from reactvl.clip_imports import open_clip
    from reactvl.models import published
    from reactvl.models.names import GATED

    say("REACT's published checkpoints (top-1 on ImageNet-1K, base in brackets)")
    for release in published.RELEASES:
        if name in f"{release.model}:{release.tag}":
            say(f"  {f'{release.model}:{release.tag}':<62} {release.top1:.1f} ({release.base_top1:.1f})")
    say("architectures with gates, for weights of your own (NAME:FILE)")
    for gated, (plain, last_k) in GATED.items():
        if name in gated:
            say(f"  {gated:<26} {plain} with gates in the last {last_k} blocks")
    say("open_clip's models and tags")
    for architecture in open_clip.list_models():
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        if name in architecture and tags:
            say(f"  {architecture:<40} {', '.join(tags)}")
