"""Text vectors of training pairs, left where they lie: rows of matrices on disk, read when a step wants them.

Ten million pairs of 512 dimensions are 10 GB in float16; here they take the 12 bytes a pair that say where each row is.
"""

from collections.abc import Sequence

import numpy as np


class Vectors:
    """N vectors of one width, in the order of the pairs: vector i is row `row[i]` of `matrices[matrix[i]]`.

    matrices: float16 or float32 (n, dim), memory maps or arrays. matrix: int32 (N,). row: int64 (N,).
    """

    def __init__(self, matrices: Sequence[np.ndarray], matrix: np.ndarray, row: np.ndarray):
        self.matrices = list(matrices)
        self.matrix, self.row = np.asarray(matrix, np.int32), np.asarray(row, np.int64)

    @classmethod
    def joined(cls, matrices: Sequence[np.ndarray]) -> "Vectors":
        """All rows of all matrices, one matrix after another."""
        lengths = [len(matrix) for matrix in matrices]
        row = np.concatenate([np.arange(length) for length in lengths]) if lengths else np.empty(0)
        return cls(matrices, np.repeat(np.arange(len(lengths)), lengths), row)

    def __len__(self) -> int:
        return len(self.row)

    @property
    def width(self) -> int:
        return self.matrices[0].shape[1]

    def __getitem__(self, rows: np.ndarray) -> "Vectors":
        """The vectors of these places, still unread."""
        return Vectors(self.matrices, self.matrix[rows], self.row[rows])

    def read(self, rows: np.ndarray | None = None) -> np.ndarray:
        """The vectors of these places (all if not given) as float32 (n, dim)."""
        matrix, row = (self.matrix, self.row) if rows is None else (self.matrix[rows], self.row[rows])
        found = np.empty((len(row), self.width), np.float32)
        for number in np.unique(matrix):
            at = np.flatnonzero(matrix == number)
            at = at[np.argsort(row[at], kind="stable")]  # forwards through the file
            found[at] = self.matrices[number][row[at]]
        return found
