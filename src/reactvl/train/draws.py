"""Random numbers as a function of (seed, epoch, sample, what they are for): Philox4x32-10, the same in any batch or process.

Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011). The same lines serve Python integers, one sample at a
time in a worker, and uint64 arrays, a batch at a time beside the device.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

MASK = 0xFFFFFFFF
MULTIPLIERS, WEYL = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85)
ROUNDS = 10

Words = tuple[Any, Any, Any, Any]  # four 32-bit words, each an int or a uint64 array


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Four random 32-bit words of a counter of four and a key of two."""
    a, b, c, d = counter
    low, high = key
    for _ in range(ROUNDS):
        first, second = a * MULTIPLIERS[0], c * MULTIPLIERS[1]
        a, b, c, d = (second >> 32) ^ b ^ low, second & MASK, (first >> 32) ^ d ^ high, first & MASK
        low, high = (low + WEYL[0]) & MASK, (high + WEYL[1]) & MASK
    return a, b, c, d


def uniforms(seed: int, block: Any, epoch: Any, sample: Any) -> tuple[Any, Any]:
    """Two numbers of [0, 1), float64 of 53 random bits, for block number `block` of (epoch, sample)."""
    seed &= 0xFFFFFFFFFFFFFFFF
    words = philox((block, epoch & MASK, sample & MASK, sample >> 32), (seed & MASK, seed >> 32))
    return tuple(((one >> 5) * 67108864.0 + (other >> 6)) / 9007199254740992.0 for one, other in (words[:2], words[2:]))


class Draws:
    """The numbers of a batch: `draws[block]` is two float64 arrays (n,)."""

    def __init__(self, seed: int, epochs: Sequence[int] | np.ndarray, samples: np.ndarray):
        self.seed = seed
        self.epochs, self.samples = np.asarray(epochs).astype(np.uint64), np.asarray(samples).astype(np.uint64)

    def __getitem__(self, block: int) -> tuple[np.ndarray, np.ndarray]:
        return uniforms(self.seed, np.full(len(self.samples), block, np.uint64), self.epochs, self.samples)
