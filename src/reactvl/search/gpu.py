"""Indexes on GPUs, where faiss-gpu is installed: found by asking FAISS, never assumed."""

from typing import Any

from reactvl.manifest import ReactvlError

MOST = 2048  # FAISS's limit on GPUs, of k and of nprobe


def gpus() -> int:
    """How many GPUs this FAISS can use: 0 in faiss-cpu."""
    import faiss

    return faiss.get_num_gpus() if hasattr(faiss, "StandardGpuResources") else 0


def on_gpu(index: Any) -> Any:
    """A copy of an index on the first GPU, its vectors in float16 there.

    Raises ReactvlError where FAISS has no GPU, and for kinds that FAISS searches on CPUs only (graphs, 4-bit codes).
    """
    import faiss

    if not gpus():
        raise ReactvlError("this FAISS sees no GPU; install faiss-gpu beside a CUDA driver, or search on the CPU")
    options = faiss.GpuClonerOptions()
    options.useFloat16 = True
    try:
        copy = faiss.index_cpu_to_gpu(_resources(), 0, index, options)
    except RuntimeError as fault:
        reason = str(fault).strip().splitlines()[0].split(": ")[-1]
        raise ReactvlError(
            f"FAISS puts no index of this kind on a GPU ({reason}); take --kind ivf-sq8 or ivf-flat"
        ) from None
    return copy


def _resources() -> Any:
    """One for the process: each holds a scratch space of gigabytes."""
    import faiss

    if not hasattr(_resources, "held"):
        _resources.held = faiss.StandardGpuResources()
    return _resources.held


def fits_gpu(taken: int, width: int | None) -> bool:
    """Does one search stay in FAISS's limits on GPUs?"""
    return taken <= MOST and (width or 1) <= MOST
