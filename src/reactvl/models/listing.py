"""`reactvl models`: REACT's published checkpoints with sizes and accuracy, the gated architectures, open_clip's names and tags.

No model is built: counts and accuracies are data (`published.py`), which a test holds against the networks.
"""

import sys
from typing import Annotated

from rich.console import Console
from rich.table import Table

from reactvl.models import published
from reactvl.models.names import GATED
from reactvl.options import Opt

WIDTH = 150  # of tables that go to a file or a pipe


def models(
    name: Annotated[str, Opt("only names that contain this, case and `-` or `_` being one", positional=True)] = "",
) -> None:
    """List model names: REACT's published checkpoints with size and ImageNet-1K zero-shot accuracy, gated architectures,
    open_clip's."""
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else WIDTH, highlight=False, soft_wrap=False)
    for table in (releases(name), gated(name)):
        if table.row_count:
            console.print(table)
    table = open_clips(name)  # last: open_clip takes seconds to import
    if table.row_count:
        console.print(table)


def matches(wanted: str, name: str) -> bool:
    return wanted.lower().replace("_", "-") in name.lower().replace("_", "-")


def titled(title: str) -> Table:
    return Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, padding=(0, 2, 0, 0))


def releases(wanted: str) -> Table:
    """The thirteen checkpoints; the base's accuracy stands beside each."""
    table = titled(
        f"REACT's checkpoints ({published.REPOSITORY}; fetched on first use, or by `reactvl download NAME:TAG`)"
    )
    table.add_column("name:tag", no_wrap=True)
    for title in ("parameters", "file", "top-1", "base", "gain"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("activation, mean", no_wrap=True)
    for release in published.RELEASES:
        if matches(wanted, f"{release.model}:{release.tag}"):
            table.add_row(
                f"{release.model}:{release.tag}",
                f"{release.parameters:,}",
                f"about {size(release.bytes)}",
                f"{release.top1:.1f}",
                f"{release.base_top1:.1f}",
                f"+{release.top1 - release.base_top1:.1f}",
                ("QuickGELU" if release.quick_gelu else "GELU") + (", 0.5" if release.half_mean else ", CLIP's"),
            )
    return table


def gated(wanted: str) -> Table:
    """The architectures with gates, for weights of one's own."""
    table = titled("Gated architectures (NAME:FILE)")
    for title in ("name", "made of", "gates"):
        table.add_column(title, no_wrap=True)
    for name, (plain, last_k) in GATED.items():
        if matches(wanted, name):
            table.add_row(name, plain, f"in the last {last_k} blocks")
    return table


def open_clips(wanted: str) -> Table:
    """open_clip's architectures that have weights, with their tags."""
    from reactvl.clip_imports import open_clip

    table = titled(f"open_clip {open_clip.__version__}'s models and tags (NAME:TAG)")
    table.add_column("name", no_wrap=True)
    table.add_column("tags")
    for architecture in open_clip.list_models():
        if "multimodal_cfg" in open_clip.get_model_config(architecture):
            continue  # CoCa's, which have no plain text tower: refused everywhere
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        if tags and (matches(wanted, architecture) or any(matches(wanted, f"{architecture}:{tag}") for tag in tags)):
            table.add_row(architecture, ", ".join(tags))
    return table


def size(count: int) -> str:
    """`388 MB`, `5.9 GB`."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
