"""Centroids for inverted lists: spherical k-means through the fastest float32 product of the machine.

FAISS's own k-means goes through BLAS for 25 rounds. Here oneDNN multiplies (1.5x on AVX512) and five rounds over 24 rows a
list suffice: from 4 to 16 rounds over 16 to 64 rows a list, recall@200 of text queries at equal width stayed within 0.003
(200,000 x 512 rows, 1,024 lists). Centroids have length 1, since the rows have: the nearest by inner product is then the
nearest by any measure.
"""

from collections.abc import Callable

import numpy as np

ROUNDS = 5
BLOCK = 4096  # rows multiplied at a time
TWO_LEVELS = 16_384  # over so many centroids are found in two levels


def centroids_of(
    sample: np.ndarray,
    count: int,
    *,
    seed: int,
    device: str = "cpu",
    rounds: int = ROUNDS,
    advance: Callable[[int], None] | None = None,
) -> np.ndarray:
    """float32 (count, D) unit centroids of the rows of `sample`, float16 or float32 (n, D), n >= count, finite.

    Over `TWO_LEVELS` centroids the rows are parted into the square root of `count` groups first, and each group gets its
    share of the centroids: the work of a round falls by that root. A centroid that loses all rows takes the place of a
    random one. The same sample and seed give the same centroids on one kind of machine. advance: called with rows x rounds
    just done (n * rounds in all).
    """
    if count <= TWO_LEVELS:
        return _one_level(sample, count, np.random.default_rng([seed, 3]), device, rounds, advance)
    generator = np.random.default_rng([seed, 4])
    groups = int(count**0.5)
    coarse = _one_level(sample, groups, generator, device, rounds, None)
    members = nearest_to(coarse, device)
    group = np.concatenate([members(sample[at : at + BLOCK]) for at in range(0, len(sample), BLOCK)])
    sizes = np.bincount(group, minlength=groups)
    made = []
    for number, share in enumerate(shares(sizes, count)):
        if share:
            rows = sample[group == number]
            made.append(_one_level(rows, int(share), generator, device, rounds, advance))
    return np.concatenate(made)


def shares(sizes: np.ndarray, count: int) -> np.ndarray:
    """int64: `count` parted in proportion to `sizes` (largest remainders), at most `sizes` each; sum(sizes) >= count."""
    exact = sizes * (count / sizes.sum())
    given = np.minimum(np.floor(exact), sizes).astype(np.int64)
    order = np.argsort(given - exact, kind="stable")
    while (left := count - int(given.sum())) > 0:
        open_to = order[given[order] < sizes[order]]
        given[open_to[:left]] += 1
    return given


def nearest_to(centroids: np.ndarray, device: str = "cpu") -> Callable[[np.ndarray], np.ndarray]:
    """A function that gives, for rows (b, D) of any float type, the int64 (b,) centroid of largest inner product."""
    import torch

    from reactvl.search.products import Float32Product

    if device != "cpu":
        held = torch.from_numpy(centroids).to(device)
        return lambda rows: (torch.from_numpy(np.array(rows)).to(device).float() @ held.T).argmax(dim=1).cpu().numpy()
    product = Float32Product().onednn or (lambda left, right: left @ right.T)
    return lambda rows: torch.from_numpy(product(as_float32(rows), centroids)).argmax(dim=1).numpy()


def as_float32(rows: np.ndarray) -> np.ndarray:
    """float32 memory of its own, through torch's conversion (several times NumPy's)."""
    import torch

    return torch.from_numpy(np.array(rows)).float().numpy()


def _one_level(sample, count: int, generator, device: str, rounds: int, advance) -> np.ndarray:
    import torch

    centroids = _unit(as_float32(sample[np.sort(generator.choice(len(sample), count, replace=False))]))
    for _ in range(rounds):
        assigned = nearest_to(centroids, device)
        sums = torch.zeros(centroids.shape)
        held = np.zeros(count, dtype=np.int64)
        for first in range(0, len(sample), BLOCK):
            rows = as_float32(sample[first : first + BLOCK])
            nearest = assigned(rows)
            # on the CPU, in the order of the rows: a GPU's sums differ from run to run
            sums.index_add_(0, torch.from_numpy(nearest), torch.from_numpy(rows))
            held += np.bincount(nearest, minlength=count)
            if advance:
                advance(len(rows))
        centroids = sums.numpy()
        lost = np.flatnonzero((held == 0) | ~(np.einsum("nd,nd->n", centroids, centroids) > 0))
        centroids[lost] = as_float32(sample[generator.integers(0, len(sample), len(lost))])
        centroids = _unit(centroids)
    return centroids


def _unit(rows: np.ndarray) -> np.ndarray:
    norms = np.sqrt(np.einsum("nd,nd->n", rows, rows))[:, None]
    return np.ascontiguousarray(rows / np.where(norms > 0, norms, 1), dtype=np.float32)
