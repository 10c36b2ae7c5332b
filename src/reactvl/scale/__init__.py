"""Where tasks are worked off: in this process, or in worker processes of this machine."""

from reactvl.scale.local import run, stream
from reactvl.scale.placing import places

__all__ = ["places", "run", "stream"]
