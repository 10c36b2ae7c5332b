"""Fast matrix products whose distance from the exact result is bounded, for picking candidates.

Each product gives, with its scores, what exact search needs to rely on them: a bound on |fast - exact| that holds for
any order of summation (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1: n rounded additions and
multiplications err by at most gamma_n * sum |q_i k_i| <= gamma_n * |q| |k|), and the rounding of the output.
"""

from dataclasses import dataclass

import numpy as np

UNIT_FP32 = 2.0**-24
UNIT_BF16 = 2.0**-8
TINY = 1e-30  # products that underflow: queries have norm 1..2, so D of them stay far below this
SLACK = 1.0001  # norms themselves are computed in float32


@dataclass
class KeyBlock:
    """Keys made ready for a product: `values` in its type, ids int64 (b,), largest norm and largest rounding error.

    The values are valid until the product makes the next block: they share its memory.
    """

    values: object
    ids: np.ndarray
    norm: float
    rounding: float


class Float32Product:
    """float32 scores: oneDNN where this torch has it (1.8x torch's default on AVX512), else NumPy's BLAS."""

    name = "fp32"
    output_unit = 0.0

    def __init__(self, *, blas: bool = False):
        self.onednn = None if blas else _onednn_linear()
        self.buffer = np.empty((0, 0), dtype=np.float32)

    def keys(self, block: np.ndarray, ids: np.ndarray) -> KeyBlock:
        values, norms, ids = self._float32_rows(block, ids)
        return KeyBlock(values, ids, norm=float(norms.max(initial=0.0)) * SLACK, rounding=0.0)

    def queries(self, queries: np.ndarray) -> tuple[object, np.ndarray, np.ndarray]:
        """The queries in the product's type, their norms (Q,) and the norms of what rounding took from them (Q,)."""
        return queries, _norms(queries), np.zeros(len(queries))

    def above(self, queries: np.ndarray, keys: KeyBlock, cutoff: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flat places in (Q, b) of scores at or over their query's cutoff float32 (Q,), and those scores (float32)."""
        scores = self.onednn(queries, keys.values) if self.onednn else queries @ keys.values.T  # (Q, b)
        places = np.flatnonzero(scores >= cutoff[:, None])
        return places, scores.ravel()[places]

    def error(
        self, dim: int, query_norm: np.ndarray, query_rounding: np.ndarray, norm: float, rounding: float
    ) -> np.ndarray:
        """float64 (Q,): how far a score before the rounding of the output may lie from the exact product."""
        return _gamma(dim) * query_norm * norm + TINY

    def rounded(self, cutoff: np.ndarray) -> np.ndarray:
        """Cutoffs as scores are rounded: a score over the cutoff is not under it after rounding (rounding is
        monotone)."""
        return np.nextafter(cutoff.astype(np.float32), np.float32(-np.inf))

    def _float32_rows(self, block: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The block's finite rows as float32 (b, D), their norms and ids."""
        import torch

        if self.buffer.shape[0] < len(block) or self.buffer.shape[1] != block.shape[1]:
            self.buffer = np.empty(block.shape, dtype=np.float32)
        values = self.buffer[: len(block)]
        # torch's conversion is several times NumPy's; it wants memory of its own, which a memory map is not
        torch.from_numpy(values).copy_(torch.from_numpy(np.array(block)))
        norms = _norms(values)
        fit = np.isfinite(norms)
        return (values, norms, ids) if fit.all() else (np.ascontiguousarray(values[fit]), norms[fit], ids[fit])


class BFloat16Product(Float32Product):
    """bfloat16 in and out, float32 sums: 2x float32 through oneDNN where the CPU has AVX512-BF16; wider margins."""

    name = "bf16"
    output_unit = UNIT_BF16

    def __init__(self):
        super().__init__(blas=True)

    def keys(self, block: np.ndarray, ids: np.ndarray) -> KeyBlock:
        import torch

        values, norms, ids = self._float32_rows(block, ids)
        whole = torch.from_numpy(values)
        short = whole.bfloat16()
        lost = _norms((whole - short.float()).numpy())
        return KeyBlock(short, ids, float(norms.max(initial=0.0)) * SLACK, float(lost.max(initial=0.0)) * SLACK)

    def queries(self, queries: np.ndarray) -> tuple[object, np.ndarray, np.ndarray]:
        import torch

        whole = torch.from_numpy(queries)
        short = whole.bfloat16()
        return short, _norms(queries), _norms((whole - short.float()).numpy())

    def above(self, queries: object, keys: KeyBlock, cutoff: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        scores = queries @ keys.values.T  # (Q, b) bfloat16
        edge = torch.from_numpy(cutoff).bfloat16()[:, None]
        bits = scores.view(torch.int16).numpy()
        # floats over a positive edge are ordered as their bits are, which compare in an eighth of the time
        positive = bool((cutoff > 0).all())
        places = np.flatnonzero(bits >= edge.view(torch.int16).numpy() if positive else (scores >= edge).numpy())
        return places, (bits.ravel()[places].astype(np.uint32) << np.uint32(16)).view(np.float32)

    def error(
        self, dim: int, query_norm: np.ndarray, query_rounding: np.ndarray, norm: float, rounding: float
    ) -> np.ndarray:
        # q.k - q'.k' = (q - q').k + q'.(k - k'), each bounded by Cauchy and Schwarz
        short_norm = query_norm + query_rounding
        inputs = query_rounding * norm + short_norm * rounding
        return inputs + _gamma(dim) * short_norm * (norm + rounding) + TINY

    def rounded(self, cutoff: np.ndarray) -> np.ndarray:
        import torch

        return torch.from_numpy(super().rounded(cutoff)).bfloat16().float().numpy()


def choose(product: str, rows: int, k: int, queries: int) -> Float32Product:
    """The product named "bf16", "fp32" or "blas"; for "auto" the one that is fastest here.

    A few queries cost less than making the keys ready: BLAS. bf16 is worth it where the CPU has it, and where pool and
    queries are many enough for the cheaper product to outweigh the rounding of the keys and the three or so times as
    many candidates that its margin lets through.
    """
    if product == "auto":
        pays = queries >= 64 and rows >= 400 * k
        product = "blas" if queries <= 8 else "bf16" if pays and bf16_in_hardware() else "fp32"
    kinds = {"bf16": BFloat16Product, "fp32": Float32Product, "blas": lambda: Float32Product(blas=True)}
    if product not in kinds:
        raise ValueError(f"product {product!r}: choose one of auto, {', '.join(kinds)}")
    return kinds[product]()


def bf16_in_hardware() -> bool:
    """Does this CPU multiply bfloat16 natively (AVX512-BF16)?"""
    import torch

    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)())


def _gamma(dim: int) -> float:
    # twice the bound of one rounding a step: AVX512-BF16 rounds product and sum apart
    unit = 2 * (dim + 8) * UNIT_FP32
    return unit / (1 - unit)


def _norms(rows: np.ndarray) -> np.ndarray:
    """float64 (n,) Euclidean norms."""
    return np.sqrt(np.einsum("nd,nd->n", rows, rows).astype(np.float64))


def _onednn_linear():
    """oneDNN's float32 product of (Q, D) and (b, D), or None: torch's public one goes through MKL or, when told to be
    fast, may round its inputs to bfloat16."""
    import torch

    if not (torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")):
        return None

    def linear(queries: np.ndarray, keys: np.ndarray) -> np.ndarray:
        product = torch.ops.mkldnn._linear_pointwise(
            torch.from_numpy(queries), torch.from_numpy(keys), None, "none", [], ""
        )
        return product.numpy()

    return linear
