"""The text side of a run: what is frozen of the text tower runs once, before training, and is kept on disk."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reactvl.manifest import replacing
from reactvl.models.encoder import Encoder, text_features
from reactvl.models.model import Model
from reactvl.progress import progress
from reactvl.train.distributed import World
from reactvl.train.pairs import TrainingPairs
from reactvl.train.vectors import Vectors

CHUNK = 1 << 16  # captions of one file; what is encoded together never depends on the number of processes


@dataclasses.dataclass(frozen=True)
class TextSide:
    """`take(rows)` gives the text side's input of pairs; `upper` makes features (B, dim) of it, None where they are vectors
    already, of a locked text tower."""

    take: Callable[[np.ndarray], Tensor]
    upper: Callable[[Tensor], Tensor] | None

    @property
    def locked(self) -> bool:
        return self.upper is None


def text_side(model: Model, pairs: TrainingPairs, encoder: Encoder, world: World, work: Path) -> TextSide:
    """A locked tower gives known vectors; a frozen Hugging Face transformer under a trained projection gives its pooled
    features; any other tower gets tokens, cut to the longest of the batch where that is exact."""
    trained = [name for name, parameter in model.net.named_parameters() if parameter.requires_grad]
    beside = [name for name in trained if not name.startswith("visual.") and name not in ("logit_scale", "logit_bias")]
    if not beside:
        known = pairs.vectors if pairs.vectors is not None else encoded(encoder.texts, pairs.captions, world, work)
        return TextSide(lambda rows: torch.from_numpy(known.read(rows)), None)
    if all(name.startswith("text.proj.") for name in beside):
        pooled = encoded(encoder.pooled_texts, pairs.captions, world, work)
        return TextSide(lambda rows: torch.from_numpy(pooled.read(rows)), model.net.text.proj)

    def tokens(rows: np.ndarray) -> Tensor:
        made = model.tokenize([pairs.captions[row] for row in rows])
        used = (made != encoder.pad_id).any(dim=0).nonzero().max() + 1 if encoder.trims and len(made) else made.shape[1]
        return made[:, : int(used)]

    return TextSide(tokens, lambda made: text_features(model.net, made))


def encoded(
    encode: Callable[[Sequence[str]], np.ndarray], captions: Sequence[str], world: World, work: Path
) -> Vectors:
    """Vectors (N, width) float32 of all captions, in files of CHUNK rows that all processes map; each encodes its share.

    A run that was stopped goes on with the files that are missing.
    """
    starts = range(0, len(captions), CHUNK)
    files = [work / "texts" / f"{number:06d}.npy" for number in range(len(starts))]
    world.together(lambda: (work / "texts").mkdir(parents=True, exist_ok=True))
    mine = list(zip(starts, files, strict=True))[world.rank :: world.size]
    with progress("encoding captions", sum(min(CHUNK, len(captions) - start) for start, _ in mine), "captions") as bar:
        for start, file in mine:
            stop = min(start + CHUNK, len(captions))
            if not (done := file.exists()):
                made = np.asarray(encode(list(captions[start:stop])), np.float32)
                with replacing(file) as part, open(part, "wb") as whole:
                    np.save(whole, made)
            bar.advance(stop - start, resumed=done)
    world.barrier()
    return Vectors.joined([np.load(file, mmap_mode="r", allow_pickle=False) for file in files])
