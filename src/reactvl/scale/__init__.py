"""Where per-shard work runs: this process, or worker processes of this machine."""

from reactvl.scale.local import run

__all__ = ["run"]
