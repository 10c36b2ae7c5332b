"""Which pairs a step sees: a function of (seed, step) alone, so that a checkpoint stores the step and nothing else."""

import numpy as np


class Order:
    """Epochs of exact permutations laid end to end and cut into batches; no pair is dropped at an epoch's end."""

    def __init__(self, pairs: int, batch: int, seed: int):
        self.pairs, self.batch, self.seed = pairs, batch, seed
        self._epoch, self._permutation = -1, np.empty(0, np.int64)

    def step(self, step: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows (batch,) int64 and the epoch (batch,) int64 that each belongs to."""
        places = np.arange(step * self.batch, (step + 1) * self.batch)
        epochs = places // self.pairs
        rows = np.concatenate(
            [self.permutation(epoch)[places[epochs == epoch] % self.pairs] for epoch in np.unique(epochs)]
        )
        return rows, epochs

    def permutation(self, epoch: int) -> np.ndarray:
        """The order (pairs,) int64 of one epoch."""
        if epoch != self._epoch:
            generator = np.random.Generator(np.random.Philox(key=[self.seed, epoch]))
            self._epoch, self._permutation = epoch, generator.permutation(self.pairs)
        return self._permutation
