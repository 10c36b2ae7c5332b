"""One stage in a process of its own, so that its peak memory is its own: the request comes as JSON on standard input.

Used by the other benchmarks through `measuring.child`; `{"stage": "index", "arguments": {...}}` answers with what the
manifest says (counts, facts, timing).
"""

import importlib
import json
import resource
import time
from pathlib import Path

import measuring


def work(request: dict) -> dict:
    importlib.import_module("reactvl.search.exact")
    stage = getattr(importlib.import_module(f"reactvl.{request['stage']}"), request["stage"])
    began = time.perf_counter()
    folder = Path(stage(**request["arguments"]).folder)
    manifest = json.loads((folder / "manifest.json").read_text())
    timing = json.loads((folder / "timing.json").read_text())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "seconds": time.perf_counter() - began,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "counts": manifest["counts"],
        "facts": manifest["facts"],
        "timing": timing,
    }


if __name__ == "__main__":
    measuring.serve(work)
