"""Fast matrix products whose distance from the exact result is bounded, for picking candidates.

Each product gives, with its scores, what exact search needs to rely on them: a bound on |fast - exact| that holds for
any order of summation (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1: n rounded additions and
multiplications err by at most gamma_n * sum |q_i k_i| <= gamma_n * |q| |k|), and the rounding of the output.

Scores leave a product as 16 bits that rise with them: the upper half of a float32, with the order of its bits mended.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

UNIT_FP32 = 2.0**-24
UNIT_BF16 = 2.0**-8
TINY = 1e-30  # products that underflow: queries have norm 1..2, so D of them stay far below this
SLACK = 1.0001  # norms themselves are computed in float32
STRETCH = 2048  # rows of keys that one core makes ready at a time


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
    tile = 1 << 20  # scores made at once: with their mask they fit a core's cache
    output_unit = 2.0**-7  # of what is left of a float32 after its upper 16 bits

    def __init__(self, *, blas: bool = False):
        self.onednn = None if blas else _onednn_linear()
        self.name = "blas" if blas else self.name
        self.buffer = np.empty((0, 0), dtype=np.float32)
        self.scratch = threading.local()

    def another(self) -> "Float32Product":
        """One of the same kind with memory of its own."""
        return Float32Product(blas=self.onednn is None)

    def keys(self, block: np.ndarray, ids: np.ndarray, spread: Callable = map) -> KeyBlock:
        """The block's finite rows made ready. spread: runs a function over stretches of rows, side by side or not."""
        count = len(block)
        values = self._room(block.shape)
        norms, lost = np.empty(count), np.zeros(count)

        def ready(begin: int) -> None:
            for first in range(begin, min(begin + STRETCH, count), self._rows_at_once(block.shape[1])):
                rows = slice(first, min(first + self._rows_at_once(block.shape[1]), begin + STRETCH, count))
                self._convert(block[rows], values[rows], norms[rows], lost[rows])

        for _ in spread(ready, range(0, count, STRETCH)):
            pass
        fit = np.isfinite(norms)
        if not fit.all():
            values, norms, lost, ids = self._only(values, fit), norms[fit], lost[fit], ids[fit]
        return KeyBlock(values, ids, float(norms.max(initial=0.0)) * SLACK, float(lost.max(initial=0.0)) * SLACK)

    def queries(self, queries: np.ndarray) -> tuple[object, np.ndarray, np.ndarray]:
        """The queries in the product's type, their norms (Q,) and the norms of what rounding took from them (Q,)."""
        return queries, _norms(queries), np.zeros(len(queries))

    def above(self, queries: np.ndarray, keys: np.ndarray, cutoff: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flat places in (Q, b) of scores at or over their query's cutoff float32 (Q,), and those scores' uint64 bits.

        keys: a stretch of a block's values.
        """
        scores = self.onednn(queries, keys) if self.onednn else queries @ keys.T  # (Q, b)
        mask = self._memory("mask", scores.size, bool).reshape(scores.shape)
        places = np.flatnonzero(np.greater_equal(scores, cutoff[:, None], out=mask))
        return places, rising(scores.ravel()[places].view(np.uint32) >> np.uint32(16))

    def error(
        self, dim: int, query_norm: np.ndarray, query_rounding: np.ndarray, norm: float, rounding: float
    ) -> np.ndarray:
        """float64 (Q,): how far a score before the rounding of the output may lie from the exact product."""
        return _gamma(dim) * query_norm * norm + TINY

    def rounded(self, cutoff: np.ndarray) -> np.ndarray:
        """Cutoffs as scores are rounded: a score over the cutoff is not under it after rounding (rounding is
        monotone)."""
        return np.nextafter(cutoff.astype(np.float32), np.float32(-np.inf))

    def edge(self, cutoff: np.ndarray) -> np.ndarray:
        """uint64 (Q,): the least 16 bits that a score at or over the cutoff can have."""
        return rising(cutoff.view(np.uint32) >> np.uint32(16))

    def _memory(self, name: str, size: int, dtype) -> np.ndarray:
        """`size` values of memory of this thread, the same again at the next call."""
        kept = getattr(self.scratch, name, None)
        if kept is None or len(kept) < size:
            kept = np.empty(size, dtype=dtype)
            setattr(self.scratch, name, kept)
        return kept[:size]

    def _rows_at_once(self, dim: int) -> int:
        """How many rows are converted while they stay in the core's cache."""
        return max(16, (1 << 17) // max(dim, 1))

    def _room(self, shape: tuple[int, int]) -> object:
        """Memory for the values of a block, the same for every block."""
        if self.buffer.shape[0] < shape[0] or self.buffer.shape[1] != shape[1]:
            self.buffer = np.empty(shape, dtype=np.float32)
        return self.buffer[: shape[0]]

    def _convert(self, rows: np.ndarray, values: np.ndarray, norms: np.ndarray, lost: np.ndarray) -> None:
        """Fill in the values of a few rows, their norms and what the conversion took from them."""
        import torch

        # torch's conversion is several times NumPy's; it wants memory of its own, which a memory map is not
        torch.from_numpy(values).copy_(torch.from_numpy(np.array(rows)))
        norms[:] = _norms(values)

    def _only(self, values: np.ndarray, fit: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(values[fit])


class BFloat16Product(Float32Product):
    """bfloat16 in and out, float32 sums: 2x float32 through oneDNN where the CPU has AVX512-BF16; wider margins."""

    name = "bf16"
    output_unit = UNIT_BF16

    def __init__(self):
        super().__init__(blas=True)
        self.name, self.short = "bf16", None

    def another(self) -> "BFloat16Product":
        return BFloat16Product()

    def queries(self, queries: np.ndarray) -> tuple[object, np.ndarray, np.ndarray]:
        import torch

        whole = torch.from_numpy(queries)
        short = whole.bfloat16()
        return short, _norms(queries), _norms((whole - short.float()).numpy())

    def above(self, queries: object, keys: object, cutoff: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        shape = len(queries), len(keys)
        bits = self._memory("scores", shape[0] * shape[1], np.int16)
        scores = torch.from_numpy(bits).view(torch.bfloat16).view(shape)
        torch.mm(queries, keys.T, out=scores)
        edge = torch.from_numpy(cutoff).bfloat16()[:, None]
        if (cutoff > 0).all():
            # floats over a positive edge are ordered as their bits are, which compare in an eighth of the time
            mask = self._memory("mask", bits.size, bool).reshape(shape)
            np.greater_equal(bits.reshape(shape), edge.view(torch.int16).numpy(), out=mask)
        else:
            mask = (scores >= edge).numpy()
        places = np.flatnonzero(mask)
        return places, rising(bits[places].view(np.uint16))

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

    def _room(self, shape: tuple[int, int]) -> object:
        import torch

        if self.short is None or len(self.short) < shape[0] or self.short.shape[1] != shape[1]:
            self.short = torch.empty(shape, dtype=torch.bfloat16)
        return self.short[: shape[0]]

    def _convert(self, rows: np.ndarray, values: object, norms: np.ndarray, lost: np.ndarray) -> None:
        import torch

        whole = torch.from_numpy(np.array(rows)).float()
        norms[:] = _norms(whole.numpy())
        values.copy_(whole)
        lost[:] = _norms(whole.sub_(values).numpy())

    def _only(self, values: object, fit: np.ndarray) -> object:
        import torch

        return values[torch.from_numpy(np.flatnonzero(fit))]


class DeviceProduct(BFloat16Product):
    """The bfloat16 product and the comparison on a GPU (torch's device `device`); only what lies above comes back."""

    name = "device"
    tile = 1 << 24  # a GPU wants larger ones: each costs a launch and a way back

    def __init__(self, device: str):
        import torch

        super().__init__()
        self.name, self.device = "device", torch.device(device)
        if self.device.type == "cuda":
            # sums of a split product must stay float32, as the bound takes them to be
            torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False

    def another(self) -> "DeviceProduct":
        return DeviceProduct(str(self.device))

    def keys(self, block: np.ndarray, ids: np.ndarray, spread: Callable = map) -> KeyBlock:
        made = super().keys(block, ids, spread)
        made.values = made.values.to(self.device)
        return made

    def queries(self, queries: np.ndarray) -> tuple[object, np.ndarray, np.ndarray]:
        short, norms, rounding = super().queries(queries)
        return short.to(self.device), norms, rounding

    def above(self, queries: object, keys: object, cutoff: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        import torch

        scores = queries @ keys.T
        edge = torch.from_numpy(cutoff).to(self.device).bfloat16()[:, None]
        places = torch.nonzero((scores >= edge).flatten()).flatten()
        bits = scores.flatten()[places].view(torch.int16).cpu().numpy()
        return places.cpu().numpy(), rising(bits.view(np.uint16))


def choose(product: str, rows: int, k: int, queries: int, device: str = "cpu") -> Float32Product:
    """The product named "bf16", "fp32" or "blas"; for "auto" the one that is fastest here.

    A few queries cost less than making the keys ready: float32. bf16 is worth it where the CPU has it, and where pool
    and queries are many enough for the cheaper product to outweigh the rounding of the keys and the more candidates
    that its margin lets through. On a GPU it is always bf16.
    """
    if device != "cpu":
        return DeviceProduct(device)
    if product == "auto":
        pays = queries >= 192 and rows >= 100 * k
        product = "bf16" if pays and bf16_in_hardware() else "fp32"
    kinds = {"bf16": BFloat16Product, "fp32": Float32Product, "blas": lambda: Float32Product(blas=True)}
    if product not in kinds:
        raise ValueError(f"product {product!r}: choose one of auto, {', '.join(kinds)}")
    return kinds[product]()


def on_gpu(product: Float32Product) -> bool:
    return isinstance(product, DeviceProduct)


def rising(bits: np.ndarray) -> np.ndarray:
    """uint64 of the upper 16 bits of floats, in the order of the floats."""
    bits = bits.astype(np.uint64)
    return np.where(bits >> np.uint64(15) != 0, bits ^ np.uint64(0xFFFF), bits | np.uint64(0x8000))


def score_of(bits: np.ndarray) -> np.ndarray:
    """float32 of what `rising` gave."""
    bits = bits.astype(np.uint32)
    upper = np.where(bits >> np.uint32(15) != 0, bits & np.uint32(0x7FFF), bits ^ np.uint32(0xFFFF))
    return (upper << np.uint32(16)).view(np.float32)


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
