"""Text vectors on disk, by what they depend on: the text tower, its arithmetic, and the texts.

    CACHE/text-3f2a.../head-91bc....npz         a whole head
    CACHE/text-3f2a.../texts-07de....npz        vectors of up to 2,048 texts

The folder is that of a text tower (SHA-256 of its weights and configuration), so that models customized with a locked
text tower share it. A file is whole or absent; the zip's own checksums tell a damaged one, which is made anew.
"""

import contextlib
import hashlib
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from reactvl import __version__
from reactvl.clip_imports import open_clip
from reactvl.manifest import replacing, sha256_json
from reactvl.models.encoder import Encoder

BLOCK = 2048  # texts a file


class TextCache:
    """What one encoder's text tower says, from `folder` where it is there; `folder` None keeps nothing.

    `advance` is told the number of texts whenever some are done, kept ones included.
    """

    def __init__(self, encoder: Encoder, folder: Path | None, advance: Callable[[int], None] | None = None):
        self.encoder, self.advance, self.done = encoder, advance, 0
        self.folder = None if folder is None else Path(folder) / f"text-{encoder.text_sha256[:32]}"
        self.written: list[Path] = []  # blocks of texts

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """L2-normalised vectors float32 (N, dim), as `Encoder.texts` gives them for each block of 2,048 texts."""
        dim = self.encoder.model.id.dim
        vectors = np.empty((len(texts), dim), np.float32)
        for start in range(0, len(texts), BLOCK):
            block = list(texts[start : start + BLOCK])
            vectors[start : start + len(block)] = self._block(block)
            self._tell(len(block))
        return vectors

    def head(self, key: Any, prompts: int, make: Callable[[], np.ndarray]) -> np.ndarray:
        """The head of `key` (JSON values that say all but the tower) over so many prompts, made where it is absent. The
        blocks of texts that were kept on the way, for the case that the work is stopped, are then dropped."""
        told, path = self.done, None if self.folder is None else self._path("head", key)
        found = None if path is None else read(path)
        if found is None:
            found = make()
            if path is not None:
                write(path, found)
            while self.written:
                self.written.pop().unlink(missing_ok=True)
        self._tell(prompts - (self.done - told))
        return found

    def _tell(self, count: int) -> None:
        self.done += count
        if count and self.advance:
            self.advance(count)

    def _block(self, texts: list[str]) -> np.ndarray:
        if self.folder is None:
            return self.encoder.texts(texts)
        path = self._path("texts", texts)
        found = read(path)
        if found is None or found.shape != (len(texts), self.encoder.model.id.dim):
            found = self.encoder.texts(texts)
            write(path, found)
        self.written.append(path)
        return found

    def _path(self, kind: str, key: Any) -> Path:
        """The tokens of a few words are part of the name: they tell another tokenizer, whose files no configuration
        names."""
        encoder = self.encoder
        words = encoder.model.tokenize(["a photo of a red panda.", "ÉCLAIR & crêpe, 3x"])
        tokens = hashlib.sha256(words.numpy().tobytes()).hexdigest()
        facts = [__version__, open_clip.__version__, tokens, encoder.precision, encoder.device.type, kind, key]
        return self.folder / f"{kind}-{sha256_json(facts)[:32]}.npz"


def read(path: Path) -> np.ndarray | None:
    """The vectors of a file; None where it is absent or damaged."""
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        with np.load(path, allow_pickle=False) as stored:
            vectors = stored["vectors"]
        if vectors.dtype == np.float32 and vectors.ndim == 2 and np.isfinite(vectors).all():
            return vectors
    return None


def write(path: Path, vectors: np.ndarray) -> None:
    with replacing(path) as part, open(part, "wb") as file:
        np.savez(file, vectors=vectors)
