"""The text side of a run: what is frozen of the text tower runs once, before training."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from reactvl.models.encoder import Encoder, text_features
from reactvl.models.model import Model
from reactvl.train.distributed import World
from reactvl.train.pairs import TrainingPairs


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
        vectors = pairs.vectors if pairs.vectors is not None else shared(encoder.texts, pairs.captions, world, work)
        return TextSide(lambda rows: torch.from_numpy(np.asarray(vectors[rows], np.float32)), None)
    if all(name.startswith("text.proj.") for name in beside):
        pooled = shared(encoder.pooled_texts, pairs.captions, world, work)
        return TextSide(lambda rows: torch.from_numpy(np.asarray(pooled[rows])), model.net.text.proj)

    def tokens(rows: np.ndarray) -> Tensor:
        made = model.tokenize([pairs.captions[row] for row in rows])
        used = (made != encoder.pad_id).any(dim=0).nonzero().max() + 1 if encoder.trims and len(made) else made.shape[1]
        return made[:, : int(used)]

    return TextSide(tokens, lambda made: text_features(model.net, made))


def shared(
    encode: Callable[[Sequence[str]], np.ndarray], captions: Sequence[str], world: World, work: Path
) -> np.ndarray:
    """Vectors (N, width) float32 of all captions. Several processes encode a part each, into one file that all map."""
    if world.size == 1:
        return encode(captions)
    part, path = world.part(len(captions)), work / "texts.npy"
    mine = encode([captions[row] for row in range(part.start, part.stop)])

    def make() -> None:
        np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(len(captions), mine.shape[1])).flush()

    world.together(make)
    table = np.load(path, mmap_mode="r+")
    table[part] = mine
    table.flush()
    world.barrier()
    return np.load(path, mmap_mode="r")
