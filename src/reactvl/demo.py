"""`reactvl demo`: the whole pipeline on the data embedded in the repository, from the shards to the table.

A base model that saw one style of drawings meets a larger pool that shows more of the classes; it is told their names alone,
and evaluated on drawings of styles that no picture of the pool has. Nothing is shipped but the base and the pool.
"""

import hashlib
import lzma
import time
import tomllib
from pathlib import Path
from typing import Annotated

from reactvl.manifest import ReactvlError, replacing
from reactvl.options import Opt
from reactvl.progress import say
from reactvl.recipe import run

DATA = Path(__file__).parents[2] / "demo"


def demo(
    *,
    out: Annotated[Path, Opt("folder of the run")] = Path("out/demo"),
    data: Annotated[Path, Opt("the repository's demo folder")] = DATA,
) -> Path:
    """Run the demo's recipe and print base, locked-text and gated-image side by side.

    Raises ReactvlError where the embedded data are not there (they come with the repository, not with the package).
    """
    began = time.monotonic()
    if not (data / "recipe.toml").is_file():
        raise ReactvlError(
            f"{data}: holds no demo; clone the repository and run `make demo`, or give its demo folder as --data"
        )
    unpack(data)
    run(data / "recipe.toml", out=out)
    say(f"demo: look into the pool, and mark what is wrong in it, by: reactvl serve {out}")
    say(f"demo: {time.monotonic() - began:.0f} s from the shards to the table above; open {out / 'report.html'}")
    return out


def unpack(data: Path) -> None:
    """Write the pool's shards from their compact form, each checked against its hash; those that are there stay."""
    listed = tomllib.loads((data / "pool.toml").read_text())["shard"]
    for shard in listed:
        path = data / "pool" / shard["name"]
        if path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == shard["sha256"]:
            continue
        packed = path.with_name(path.name + ".xz")
        try:
            tar = lzma.decompress(packed.read_bytes())
        except (OSError, lzma.LZMAError) as fault:
            raise ReactvlError(f"{packed}: cannot be unpacked ({fault}); check it out again") from None
        if hashlib.sha256(tar).hexdigest() != shard["sha256"]:
            raise ReactvlError(f"{packed}: is not the shard that {data / 'pool.toml'} lists; check it out again")
        with replacing(path) as part:
            part.write_bytes(tar)
    say(f"demo: {len(listed)} shards of {sum(shard['pairs'] for shard in listed):,} pairs in {data / 'pool'}")
