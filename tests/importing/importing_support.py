"""Vectors that are known by their key alone, so that a row can be checked wherever it ends up."""

import hashlib
from pathlib import Path

import numpy as np

DIM = 32  # the small model's


def vector(number: int, half: int) -> np.ndarray:
    """float16 (32,): the vector of pair `number`, its image's (0) or its text's (1), of norm 1; as clip_retrieval_index/make.py
    made them."""
    made = np.random.default_rng([number, half]).normal(size=DIM)
    return (made / np.linalg.norm(made)).astype(np.float16)


def vectors(numbers, half: int) -> np.ndarray:
    return np.stack([vector(number, half) for number in numbers]) if len(numbers) else np.empty((0, DIM), np.float16)


def files(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "timing.json"
    }


def taken(embeddings, half: str) -> np.ndarray:
    """All vectors of a half, over the parts."""
    return np.concatenate([part.images() if half == "image" else part.texts() for part in embeddings.parts])


def column(embeddings, name: str) -> list:
    return [value for part in embeddings.parts for value in part.metadata([name])[name].to_pylist()]
