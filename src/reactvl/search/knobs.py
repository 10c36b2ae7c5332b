"""The one setting that says how wide an index searches: nprobe of inverted lists, efSearch of a graph."""

WIDEST_EF = 8192


def knob(index) -> tuple[str, int]:
    """Name and widest value of an index's search setting: "nprobe", "efSearch", or "exhaustive" (nothing to set)."""
    import faiss

    inner = unwrapped(index)
    if isinstance(inner, faiss.IndexHNSW):
        return "efSearch", max(1, min(inner.ntotal, WIDEST_EF))
    if hasattr(inner, "nprobe"):  # inverted lists, on a GPU as well
        return "nprobe", inner.nlist
    return "exhaustive", 0


def value_of(index) -> int:
    """The setting's value as it stands in the index (0 where there is none)."""
    name, _ = knob(index)
    inner = unwrapped(index)
    return inner.hnsw.efSearch if name == "efSearch" else inner.nprobe if name == "nprobe" else 0


def apply(index, value: int) -> None:
    """Set the index's search setting; it is saved with the index."""
    name, widest = knob(index)
    if name == "efSearch":
        unwrapped(index).hnsw.efSearch = min(value, widest)
    elif name == "nprobe":
        lists = unwrapped(index)
        lists.nprobe = min(value, widest)
        if (graph := _graph_of_lists(lists)) is not None:
            graph.hnsw.efSearch = max(graph.hnsw.efSearch, 2 * lists.nprobe)


def parameters(index, width: int | None, k: int):
    """faiss SearchParameters of one search at a width (None: as set in the index), leaving the index as it is, so that
    several threads may search at once."""
    import faiss

    name, widest = knob(index)
    if width is None or name == "exhaustive":
        return None
    width = max(1, min(width, widest))
    if name == "efSearch":
        inner = faiss.SearchParametersHNSW(efSearch=max(width, k))  # a graph gives no more than efSearch rows
    else:
        inner = faiss.SearchParametersIVF(nprobe=width)
        if (
            _graph_of_lists(unwrapped(index)) is not None
        ):  # a graph of centroids must be searched wider than it is asked for
            coarse = faiss.SearchParametersHNSW(efSearch=max(16, 2 * width))
            inner = faiss.SearchParametersIVF(nprobe=width, quantizer_params=coarse)
    return _wrapped(index, inner)


def _wrapped(index, inner):
    """Search parameters of the index within, wrapped as the index is."""
    import faiss

    whole = faiss.downcast_index(index) if isinstance(index, faiss.Index) else index
    if isinstance(whole, faiss.IndexPreTransform):
        return faiss.SearchParametersPreTransform(index_params=_wrapped(whole.index, inner))
    if isinstance(whole, faiss.IndexRefine):
        base = _wrapped(whole.base_index, inner)
        return faiss.IndexRefineSearchParameters(k_factor=whole.k_factor, base_index_params=base)
    return _wrapped(whole.index, inner) if isinstance(whole, faiss.IndexIDMap) else inner


def _graph_of_lists(lists):
    """The graph through which lists are found (HNSW over their centroids), or None."""
    import faiss

    quantizer = faiss.downcast_index(lists.quantizer) if getattr(lists, "quantizer", None) is not None else None
    return quantizer if isinstance(quantizer, faiss.IndexHNSW) else None


def unwrapped(index):
    """The index behind transforms, id maps and refinement."""
    import faiss

    inner = faiss.downcast_index(index) if isinstance(index, faiss.Index) else index
    while isinstance(inner, faiss.IndexPreTransform | faiss.IndexIDMap | faiss.IndexRefine):
        inner = faiss.downcast_index(inner.base_index if isinstance(inner, faiss.IndexRefine) else inner.index)
    return inner


def refine_factors(index) -> tuple[float, ...]:
    """Refine factors worth trying, least first: none over 1 where the codes hold float16 rows whole."""
    from reactvl.search.kinds import holds_halves

    inner = unwrapped(index)
    storage = unwrapped(inner.storage) if hasattr(inner, "storage") else inner
    code = getattr(storage, "code_size", 4 * index.d)
    if code >= 4 * index.d or (holds_halves(storage) and not getattr(storage, "by_residual", False)):
        return (1.0,)
    if code >= index.d:
        return (1.0, 1.25, 1.5, 2.0)
    return (1.0, 1.5, 2.0, 3.0, 4.0) if code >= index.d // 2 else (1.0, 1.5, 2.0, 3.0, 4.0, 8.0, 16.0)
