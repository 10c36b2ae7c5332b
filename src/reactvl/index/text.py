"""The queries that an index is tuned and measured on."""

import numpy as np

from reactvl.handles.index import text_side, vectors
from reactvl.index.request import Plan, Request
from reactvl.manifest import Stage, replacing
from reactvl.search.asking import Queries, halves, sampled


def queries_of(stage: Stage, plan: Plan, request: Request) -> Queries:
    """Prompts of the task where it was named, else captions' vectors, else (without any) those of pictures."""
    if plan.prompts is None:
        side = text_side(plan.embeddings)
        source = {"text": "captions", "image": "images"}[side]
        asked = vectors(plan.embeddings, side)
        return sampled(asked, request.queries, request.seed, source=source, keys=side == request.keys)
    chosen, half = halves(plan.group, request.queries, request.seed)
    return Queries(_encoded(stage, plan, request, chosen), half, plan.group[chosen], None, "prompts")


def _encoded(stage: Stage, plan: Plan, request: Request, chosen: np.ndarray) -> np.ndarray:
    """float32 (n, dim) of the prompts chosen; kept in the work folder."""
    path = stage.work / "queries.npy"
    if path.exists():
        return np.load(path, allow_pickle=False)
    from reactvl.models import load
    from reactvl.models.encoder import Encoder

    model = request.model if request.model is not None else plan.embeddings.model.name
    model = load(model) if isinstance(model, str) else model
    plan.embeddings.require_model(model.id)
    found = Encoder(model, device=request.device).texts([plan.prompts[number] for number in chosen.tolist()])
    with replacing(path) as part, open(part, "wb") as file:
        np.save(file, found)
    return found
