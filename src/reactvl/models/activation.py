"""Which activation weights were made with: QuickGELU or GELU. The shapes are the same, so that the wrong one loads and only
answers wrongly; here it is known, told by the user, or refused.

Known are published checkpoints and open_clip's tags, folders and hub models (their config says it), and OpenAI's own files
(they carry buffers that no other model has). A plain state dict says nothing: it is taken, as open_clip takes it, to be what the
architecture's config says. A gated one is REACT's, whose bases were of both kinds under one name: the user says which, by the
name, `react_ViT-B-32-quickgelu` or `react_ViT-B-32-gelu`, or by `--force-quick-gelu` (`load(..., quick_gelu=True | False)`).
"""

from typing import TYPE_CHECKING

from reactvl.manifest import ReactvlError

if TYPE_CHECKING:
    from reactvl.models.weights import WeightsFile

WORDS = {True: "QuickGELU", False: "GELU"}


def agreed(text: str, by_name: bool | None, by_flag: bool | None) -> bool | None:
    """What the user says: by the name, by the flag, or not; ReactvlError when the two differ."""
    if by_name is not None and by_flag is not None and by_name != by_flag:
        raise ReactvlError(f"{text}: the name says {WORDS[by_name]}, the flag {WORDS[by_flag]}; leave one of them out")
    return by_flag if by_name is None else by_name


def check_known(text: str, known: bool, said: bool | None, source: str) -> None:
    """ReactvlError when the user says otherwise than what is known."""
    if said is not None and said != known:
        raise ReactvlError(
            f"{text}: {source} was made with {WORDS[known]}; leave out {'--force-quick-gelu, ' if said else ''}"
            f"quick_gelu={said} and `-{'quickgelu' if said else 'gelu'}` in the name"
        )


def check_file(text: str, file: "WeightsFile", name: str, *, quick_gelu: bool, settled: bool) -> None:
    """ReactvlError for a file's weights in a model of this activation (`settled`: not only assumed) where they are known to be
    made with another, or nothing says with which."""
    plain = name.partition(":")[0]
    if file.openai and not quick_gelu:
        raise ReactvlError(
            f"{text}: holds OpenAI's weights, made with QuickGELU, and the model ({plain}) has GELU: pass --force-quick-gelu "
            f"(quick_gelu=True) or choose the -quickgelu name"
        )
    if file.gated and not file.openai and not settled:
        raise ReactvlError(
            f"{text}: nothing in a gated file says whether its base has QuickGELU (OpenAI's) or GELU (OpenCLIP's): spell "
            f"the name {plain}-quickgelu or {plain}-gelu, or pass --force-quick-gelu (quick_gelu=True or False)"
        )
